//! Whether a NATS server is fit for a bridge, and what a 202 means on it. It looks only: nothing is stored, changed or pulled.

mod permissions;
mod server;
mod streams;

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Manager;
use crate::channel::ApiError;
use crate::resource::Desired;
use server::{Sync, SyncSource};
pub use streams::{Meaning, Storage};

/// How long servers have to answer a question that goes to all of them.
const ALL_SERVERS: Duration = Duration::from_millis(500);
/// The part of a limit, in percent, above which it is worth a warning.
const NEARLY_FULL: u64 = 80;

/// What was found, in the order of looking.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = DoctorReport)]
pub struct Report {
    pub checks: Vec<Check>,
    /// What a 202 means: one for each kind of stream that is there or declared.
    pub meanings: Vec<Meaning>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DoctorCheck)]
pub struct Check {
    pub status: Status,
    /// What was looked at, by a name that stays: `reachable`, `jetstream`, `version`, `cluster`, `clock`, `round_trip`,
    /// `max_payload`, `account`, `sync_interval`, `permissions`, `stream`, `storage`, `persist_mode`, `acknowledgement`,
    /// `leader`, `replicas`, `limits`, `discard`, `duplicate_window`, `max_deliver`, `ack_policy`, `ordering`.
    pub check: &'static str,
    /// The stream, consumer or subscription that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DoctorStatus)]
pub enum Status {
    Ok,
    /// It works, and something may be lost or stand still one day.
    Warn,
    /// It does not work, or a 202 does not mean what it should.
    Fail,
}

/// What servers say on their monitoring port (`/varz`), or why that could not be read.
pub type Monitored = Result<Value, String>;

impl Check {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self { status: Status::Ok, check, about: None, finding: finding.into(), advice: None }
    }

    fn warn(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Warn, advice: Some(advice.into()), ..Self::ok(check, finding) }
    }

    fn fail(check: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: Status::Fail, advice: Some(advice.into()), ..Self::ok(check, finding) }
    }

    fn about(self, what: impl Into<String>) -> Self {
        Self { about: Some(what.into()), ..self }
    }
}

impl Report {
    /// There is no connection, so nothing else can be looked at.
    pub fn unreachable(reason: impl Into<String>) -> Self {
        let advice = "check --nats-url, the credentials, and that the server runs";
        Self { checks: vec![Check::fail("reachable", reason, advice)], meanings: Vec::new() }
    }

    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail)
    }
}

impl Manager {
    /// Looks at the server, the account, and the streams of the bridge: those whose names begin with `KN_`, and those of
    /// declared channels. What cannot be seen is part of the report, so there is no error.
    pub async fn doctor(&self, desired: &Desired, monitored: Option<Monitored>) -> Report {
        let facts = self.connection.server();
        let mut report = Report { checks: server::identity(&facts), meanings: Vec::new() };
        let user = permissions::User::of(&self.connection).await;
        report.checks[0].finding.push_str(&user.shown());
        let begun = jiff::Timestamp::now();
        let account = self.api.account().await;
        let round_trip = jiff::Timestamp::now().duration_since(begun);
        report.checks.extend(match account {
            Ok(account) => server::account(&account, round_trip),
            // The bridge itself does without.
            Err(error @ ApiError::Denied(_)) => {
                vec![Check::warn("account", error.to_string(), "permit it to see limits")]
            }
            Err(error) => {
                report.checks.push(server::no_jetstream(&facts, &error));
                return report;
            }
        });
        report.checks.extend(user.clock());
        let sync = self.sync(monitored).await;
        let found = streams::find(&self.api, desired, &mut report.checks).await;
        for stream in &found {
            report.checks.extend(stream.checks(&facts));
        }
        report.checks.extend(streams::too_old(desired, |major, minor| self.api.knows(major, minor)));
        report.checks.push(sync.check());
        report.checks.extend(permissions::checks(&self.connection, &user, &found).await);
        report.meanings = streams::meanings(&found, &sync);
        report
    }

    /// How often servers write to disk. Not part of the JetStream API: the monitoring port tells, and the system account does.
    async fn sync(&self, monitored: Option<Monitored>) -> Sync {
        match monitored {
            Some(Ok(varz)) => return Sync::read(&[varz["jetstream"]["config"].clone()], SyncSource::Monitoring),
            Some(Err(reason)) => return Sync::Hidden(format!("the monitoring port could not be read: {reason}")),
            None => {}
        }
        let question = json!({ "config": true }).to_string().into_bytes();
        let answers = self.connection.ask_all("$SYS.REQ.SERVER.PING.JSZ", question, ALL_SERVERS).await;
        let configs: Vec<Value> = answers
            .unwrap_or_default()
            .iter()
            .filter_map(|answer| serde_json::from_slice::<Value>(answer).ok())
            .map(|answer| answer["data"]["config"].clone())
            .collect();
        Sync::read(&configs, SyncSource::SystemAccount)
    }
}

/// A limit that is nearly used up, in words; `None` when there is none, or room enough.
fn nearly_full(used: u64, limit: &Value) -> Option<String> {
    let limit = limit.as_u64().filter(|limit| *limit > 0)?;
    let percent = u64::try_from(u128::from(used) * 100 / u128::from(limit)).unwrap_or(u64::MAX);
    (percent > NEARLY_FULL).then(|| format!("{used} of {limit} ({percent} %)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_nearly_full_above_four_fifths() {
        let check = |used, limit: Value, expected: Option<&str>| {
            assert_eq!(nearly_full(used, &limit).as_deref(), expected, "{used} {limit}");
        };
        check(80, json!(100), None);
        check(81, json!(100), Some("81 of 100 (81 %)"));
        check(81, json!(-1), None);
        check(81, json!(0), None);
        check(u64::MAX, json!(1), Some(&format!("{0} of 1 ({0} %)", u64::MAX)));
    }
}

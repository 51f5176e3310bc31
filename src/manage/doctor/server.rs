//! What a server and an account say of themselves.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;

use super::{Check, nearly_full};
use crate::channel::{ApiError, ServerFacts};

/// The oldest server that has what the bridge needs.
const OLDEST: (u64, u64) = (2, 10);
/// nats-server itself advises against larger messages.
const LARGE_PAYLOAD: usize = 8 * 1024 * 1024;
/// A round trip above this makes every 202 slow.
const SLOW: SignedDuration = SignedDuration::from_millis(100);
/// What nats-server does when `sync_interval` is not set.
pub(super) const DEFAULT_SYNC: Duration = Duration::from_secs(120);
/// Up to this a power cut costs little.
const SHORT_SYNC: Duration = Duration::from_secs(1);

/// Who answers, and whether that is a server to build on.
pub(super) fn identity(facts: &ServerFacts) -> Vec<Check> {
    let cluster = match &facts.cluster {
        Some(cluster) => Check::ok("cluster", format!("part of cluster {cluster}")),
        None => {
            let finding = "a single server: what it holds is on one machine";
            Check::warn(
                "cluster",
                finding,
                "run three servers as a cluster and set replicas: 3 for what may not be lost",
            )
        }
    };
    let mebibytes = facts.max_payload as f64 / (1024.0 * 1024.0);
    let payload = format!("max_payload {mebibytes:.1} MiB; an event above it gets 413");
    let payload = if facts.max_payload > LARGE_PAYLOAD {
        Check::warn("max_payload", payload, "keep it at 8 MiB or below, larger messages slow everybody down")
    } else {
        Check::ok("max_payload", payload)
    };
    vec![
        Check::ok("reachable", format!("connected to server {}", facts.name)),
        version(&facts.version),
        cluster,
        payload,
    ]
}

fn version(version: &str) -> Check {
    let upgrade = "upgrade to the newest patch of 2.14 or later";
    match parse(version) {
        None => Check::warn("version", format!("'{version}' is no version that we can read"), upgrade),
        Some((major, minor, _)) if (major, minor) < OLDEST => {
            Check::fail("version", format!("{version} is older than 2.10 and lacks what the bridge needs"), upgrade)
        }
        Some((2, 12, 1)) => {
            let finding = "2.12.1 lost acknowledged messages in Jepsen's tests with power failures and damaged files";
            Check::warn("version", finding, upgrade)
        }
        Some(parsed) if loses_given_up(parsed) => {
            let finding =
                format!("{version} loses messages of work queues that reach max_deliver (nats-server issue 7817)");
            Check::warn("version", finding, upgrade)
        }
        Some(_) => Check::ok("version", version),
    }
}

/// nats-server issue 7817: replicated work queue streams lose messages that have reached `max_deliver`.
pub(super) fn loses_given_up(version: (u64, u64, u64)) -> bool {
    matches!(version, (2, 12, 3 | 4))
}

/// `MAJOR.MINOR.PATCH`, whatever follows.
pub(super) fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let numbers = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

pub(super) fn no_jetstream(facts: &ServerFacts, error: &ApiError) -> Check {
    match error {
        _ if !facts.jetstream => {
            Check::fail("jetstream", "the server runs without JetStream", "start it with jetstream { store_dir: ... }")
        }
        ApiError::Refused { .. } | ApiError::NotFound(_) => {
            Check::fail("jetstream", error.to_string(), "enable JetStream for this account")
        }
        ApiError::NoAnswer(_) | ApiError::Disconnected | ApiError::Denied(_) => {
            let advice = "enable JetStream for this account, and permit to subscribe to _INBOX.>";
            Check::fail("jetstream", error.to_string(), advice)
        }
    }
}

fn round_trip(time: SignedDuration) -> Check {
    let finding = format!("{:.1} ms to JetStream and back", time.as_secs_f64() * 1000.0);
    if time > SLOW {
        Check::warn("round_trip", finding, "run the bridge near the server: every 202 waits for one")
    } else {
        Check::ok("round_trip", finding)
    }
}

/// JetStream answers: how fast, and what the account uses of what it may use.
pub(super) fn account(info: &Value, took: SignedDuration) -> Vec<Check> {
    let mut found = vec![Check::ok("jetstream", "enabled for this account"), round_trip(took)];
    found.extend(limits(info));
    found
}

fn limits(info: &Value) -> Vec<Check> {
    let tiers = info["tiers"].as_object();
    let tiers: Vec<(String, &Value)> = match tiers {
        Some(tiers) if !tiers.is_empty() => tiers.iter().map(|(name, tier)| (format!("{name} "), tier)).collect(),
        _ => vec![(String::new(), info)],
    };
    let limits = [
        ("memory", "max_memory", "bytes of memory"),
        ("storage", "max_storage", "bytes of storage"),
        ("streams", "max_streams", "streams"),
        ("consumers", "max_consumers", "consumers"),
    ];
    let mut found = Vec::new();
    for (name, tier) in tiers {
        for (used, limit, words) in limits {
            if let Some(full) = nearly_full(tier[used].as_u64().unwrap_or(0), &tier["limits"][limit]) {
                let finding = format!("{name}{words}: {full}");
                found.push(Check::warn("account", finding, format!("raise {limit} of the account, or free some")));
            }
        }
    }
    if found.is_empty() {
        let used = |field: &str| info[field].as_u64().unwrap_or(0);
        let finding = format!("{} streams, {} bytes of storage; no limit is near", used("streams"), used("storage"));
        found.push(Check::ok("account", finding));
    }
    found
}

/// How long an acknowledged message may be in the memory of a server's kernel only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sync {
    /// Each message is on disk before it is acknowledged.
    Always(SyncSource),
    Within(Duration, SyncSource),
    /// It could not be seen; the text says why.
    Hidden(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncSource {
    Monitoring,
    SystemAccount,
}

impl Sync {
    /// The longest of what the servers say.
    pub(super) fn read(configs: &[Value], source: SyncSource) -> Self {
        let known: Vec<(bool, Duration)> = configs
            .iter()
            .filter(|config| config.is_object())
            .map(|config| {
                let interval = config["sync_interval"].as_u64().map_or(DEFAULT_SYNC, Duration::from_nanos);
                (config["sync_always"].as_bool().unwrap_or(false), interval)
            })
            .collect();
        let longest = known.iter().filter(|(always, _)| !always).map(|(_, interval)| *interval).max();
        match longest {
            _ if known.is_empty() => Self::Hidden(match source {
                SyncSource::Monitoring => "the monitoring port tells of no JetStream".to_owned(),
                SyncSource::SystemAccount => "only the monitoring port and the system account show it".to_owned(),
            }),
            None => Self::Always(source),
            Some(interval) => Self::Within(interval, source),
        }
    }

    pub(super) fn check(&self) -> Check {
        let advice = "set jetstream { sync_interval: always } where no event may be lost in a power cut";
        let short = |interval: &Duration| format!("{:#}", SignedDuration::try_from(*interval).unwrap_or_default());
        match self {
            Self::Always(_) => Check::ok("sync_interval", "always: on disk before it is acknowledged"),
            Self::Within(interval, _) if *interval <= SHORT_SYNC => {
                Check::ok("sync_interval", format!("{}: what is younger may be lost in a power cut", short(interval)))
            }
            Self::Within(interval, _) => {
                let finding =
                    format!("{}: acknowledged events that are younger may be lost in a power cut", short(interval));
                Check::warn("sync_interval", finding, advice)
            }
            Self::Hidden(why) => {
                let finding = format!(
                    "cannot be seen from here, {why}; the default is {}: acknowledged events that are younger may be lost in a power cut",
                    short(&DEFAULT_SYNC)
                );
                Check::warn("sync_interval", finding, format!("name the monitoring port by --monitor; {advice}"))
            }
        }
    }

    /// As the end of the sentence that says what a 202 means.
    pub(super) fn sentence(&self) -> String {
        let short = |interval: &Duration| format!("{:#}", SignedDuration::try_from(*interval).unwrap_or_default());
        match self {
            Self::Always(_) => "synced to disk before it is answered".to_owned(),
            Self::Within(interval, _) => format!("synced to disk within {}", short(interval)),
            Self::Hidden(_) => {
                format!("synced to disk within {} unless sync_interval is set otherwise", short(&DEFAULT_SYNC))
            }
        }
    }

    /// Seconds until what is acknowledged is on disk; `None` where it cannot be seen.
    pub(super) fn seconds(&self) -> Option<f64> {
        match self {
            Self::Always(_) => Some(0.0),
            Self::Within(interval, _) => Some(interval.as_secs_f64()),
            Self::Hidden(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Status;
    use super::*;

    #[test]
    fn versions_with_known_faults_are_told_of() {
        let check = |text, status, words: &str| {
            let check = version(text);
            assert_eq!(check.status, status, "{text}");
            assert!(check.finding.contains(words), "{text}: {}", check.finding);
        };
        check("2.15.1", Status::Ok, "2.15.1");
        check("2.10.0", Status::Ok, "2.10.0");
        check("v2.12.5-RC.1", Status::Ok, "2.12.5");
        check("2.9.25", Status::Fail, "older than 2.10");
        check("2.12.1", Status::Warn, "Jepsen");
        check("2.12.2", Status::Ok, "2.12.2");
        check("2.12.3", Status::Warn, "7817");
        check("2.12.4", Status::Warn, "7817");
        check("", Status::Warn, "no version");
    }

    #[test]
    fn the_longest_interval_of_all_servers_counts() {
        let server =
            |always: bool, seconds: u64| json!({ "sync_always": always, "sync_interval": seconds * 1_000_000_000 });
        let read = |configs: &[Value]| Sync::read(configs, SyncSource::SystemAccount);
        assert_eq!(read(&[server(true, 120), server(true, 120)]).seconds(), Some(0.0));
        assert_eq!(read(&[server(true, 120), server(false, 10)]).seconds(), Some(10.0));
        assert_eq!(read(&[server(false, 5), server(false, 10), json!({})]).seconds(), Some(120.0));
        assert_eq!(read(&[]).seconds(), None);
        assert_eq!(read(&[Value::Null]).check().status, Status::Warn);
        assert_eq!(read(&[server(false, 1)]).check().status, Status::Ok);
        assert_eq!(read(&[server(false, 2)]).check().status, Status::Warn);
        assert_eq!(read(&[server(false, 120)]).sentence(), "synced to disk within 2m");
    }

    #[test]
    fn an_account_without_room_is_warned_of_limit_by_limit() {
        let allowed = json!({ "max_memory": -1, "max_storage": 100, "max_streams": 10, "max_consumers": -1 });
        let info = json!({ "memory": 5, "storage": 90, "streams": 10, "consumers": 1000, "limits": allowed });
        let found: Vec<String> = limits(&info).into_iter().map(|check| check.finding).collect();
        assert_eq!(found, ["bytes of storage: 90 of 100 (90 %)", "streams: 10 of 10 (100 %)"]);
        let tiers = json!({ "tiers": { "R3": { "storage": 99, "limits": { "max_storage": 100 } } } });
        assert_eq!(limits(&tiers)[0].finding, "R3 bytes of storage: 99 of 100 (99 %)");
        assert_eq!(limits(&json!({}))[0].status, Status::Ok);
    }
}

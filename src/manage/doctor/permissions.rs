//! Whether we may publish what the bridge has to. A server tells everybody what they may do; where we may not even ask that,
//! calls of the API that no server can carry out tell, because they are either denied or refused.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Check;
use super::streams::Stream;
use crate::channel::{CallError, Connection, broker, consumer, dead_letter, name};
use crate::resource::{ChannelKind, Key, Ordering};

/// Answers to any user of any account (nats-server 2.10).
const WHO_AM_I: &str = "$SYS.REQ.USER.INFO";
const LIMIT: Duration = Duration::from_secs(2);
/// Questions that are under way at once.
const PARALLEL: usize = 16;
/// No JSON, so that nothing of it can be carried out; it also is no number, which a pull would be served for.
const IMPOSSIBLE: &[u8] = b"{";
/// Clocks further apart than this make ages and start times wrong.
const CLOCK: SignedDuration = SignedDuration::from_secs(1);
/// Subjects that are told of one by one; a user who may do nothing would fill screens.
const MAX_TOLD: usize = 50;

/// Who we are to the server.
pub(super) struct User {
    /// `None` when the server does not say.
    info: Option<Value>,
    /// The server's clock less ours, and how far off that may be.
    ahead: Option<(SignedDuration, SignedDuration)>,
}

/// A subject that the bridge publishes to.
struct Need {
    subject: String,
    what_for: &'static str,
    /// Nothing works without it; else it is for the moment when something must be made, changed or cleaned up.
    is_vital: bool,
}

impl User {
    pub(super) async fn of(connection: &Connection) -> Self {
        let begun = Timestamp::now();
        let answer = connection.ask(WHO_AM_I, Vec::new(), LIMIT).await;
        let took = Timestamp::now().duration_since(begun);
        let Some(answer) = answer.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer).ok()) else {
            return Self { info: None, ahead: None };
        };
        let there: Option<Timestamp> = answer["server"]["time"].as_str().and_then(|time| time.parse().ok());
        let ahead = there.map(|there| (there.duration_since(begun + took / 2), took / 2));
        let info = Some(answer["data"].clone()).filter(Value::is_object);
        Self { info, ahead }
    }

    /// Behind `connected to server X`.
    pub(super) fn shown(&self) -> String {
        let named = |field: &str| self.info.as_ref()?[field].as_str().filter(|name| !name.is_empty());
        let user = named("user").map(|user| format!(" as {user}")).unwrap_or_default();
        let account = named("account_name").or_else(|| named("account"));
        format!("{user}{}", account.map(|account| format!(", account {account}")).unwrap_or_default())
    }

    pub(super) fn clock(&self) -> Option<Check> {
        let (ahead, uncertain) = self.ahead?;
        let milliseconds = ahead.as_secs_f64() * 1000.0;
        let finding = format!("the server's is {milliseconds:+.0} ms from ours");
        Some(if ahead.abs() > CLOCK + uncertain {
            Check::warn("clock", finding, "set both by NTP: ages, start times and pauses depend on it")
        } else {
            Check::ok("clock", finding)
        })
    }

    fn may_publish(info: &Value, subject: &str) -> bool {
        is_permitted(&info["permissions"]["publish"], subject)
    }
}

/// One line for all when all is permitted; else one for each subject that is not.
pub(super) async fn checks(connection: &Connection, user: &User, streams: &[Stream<'_>]) -> Vec<Check> {
    let needs: Vec<Need> = streams.iter().flat_map(needs).collect();
    let (mut missing, mut unknown) = (Vec::new(), 0);
    match &user.info {
        Some(info) => missing.extend(needs.iter().filter(|need| !User::may_publish(info, &need.subject))),
        None => {
            let (calls, others): (Vec<&Need>, Vec<&Need>) =
                needs.iter().partition(|need| need.subject.starts_with("$JS.API."));
            unknown = others.len();
            let asked = calls.into_iter().map(|need| async move {
                let answer = connection.ask(&need.subject, IMPOSSIBLE.to_vec(), LIMIT).await;
                matches!(answer, Err(CallError::Denied(_))).then_some(need)
            });
            // Collected first: a stream over such a closure cannot be sent to another thread.
            let asked: Vec<_> = asked.collect();
            missing = stream::iter(asked).buffered(PARALLEL).filter_map(std::future::ready).collect().await;
        }
    }
    let mut found: Vec<Check> = missing.iter().take(MAX_TOLD).map(|need| need.missing()).collect();
    if missing.len() > MAX_TOLD {
        let finding = format!("may not publish to {} further subjects", missing.len() - MAX_TOLD);
        found.push(Check::fail("permissions", finding, "permit them"));
    }
    if unknown > 0 {
        let finding = format!("cannot be seen for {unknown} subjects that events and acknowledgements go to");
        found.push(Check::warn("permissions", finding, format!("permit to publish to {WHO_AM_I}, and they are")));
    }
    if let Some(info) = &user.info
        && !is_permitted(&info["permissions"]["subscribe"], "_INBOX.x.y")
    {
        let finding = "may not subscribe to _INBOX.>, where answers and pulled events come";
        found.push(Check::fail("permissions", finding, "permit it"));
    }
    if found.is_empty() {
        found.push(Check::ok("permissions", format!("may publish to all {} subjects that are needed", needs.len())));
    }
    found
}

impl Need {
    fn missing(&self) -> Check {
        let finding = format!("may not publish to {}", self.subject);
        if self.is_vital {
            Check::fail("permissions", finding, format!("permit it, {}", self.what_for))
        } else {
            Check::warn("permissions", finding, format!("permit it, {}", self.what_for))
        }
    }
}

fn needs(stream: &Stream<'_>) -> Vec<Need> {
    let (name, is_there) = (&stream.name, stream.info.is_some());
    let mut needs = Vec::new();
    let mut need = |subject: String, what_for, is_vital| needs.push(Need { subject, what_for, is_vital });
    need(format!("$JS.API.STREAM.INFO.{name}"), "to see the stream", true);
    need(format!("$JS.API.STREAM.CREATE.{name}"), "to make the stream", !is_there);
    need(format!("$JS.API.STREAM.UPDATE.{name}"), "to change the stream when its manifest changes", false);
    if name == dead_letter::STREAM {
        return needs;
    }
    for subject in published(stream) {
        need(subject, "to store events", true);
    }
    need(format!("$JS.API.STREAM.MSG.GET.{name}"), "to look at messages that are no events", false);
    for (consumer, key, is_pinned) in consumers(stream) {
        let at = format!("{name}.{consumer}");
        let exists = stream.consumers.iter().any(|info| info["name"] == consumer.as_str());
        need(format!("$JS.API.CONSUMER.INFO.{at}"), "to see the consumer", true);
        need(format!("$JS.API.CONSUMER.DURABLE.CREATE.{at}"), "to make and change the consumer", !exists);
        need(format!("$JS.API.CONSUMER.MSG.NEXT.{at}"), "to pull events", true);
        need(format!("$JS.ACK.{at}.1.1.1.1.1"), "to acknowledge events", true);
        need(name::dead_letter_subject(&key), "to keep dead letters", true);
        need(format!("$JS.API.CONSUMER.PAUSE.{at}"), "to pause the consumer", false);
        if is_pinned {
            need(format!("$JS.API.CONSUMER.UNPIN.{at}"), "to hand an ordered subscription over", false);
        }
    }
    needs
}

/// Where the events of a stream come in: what is declared, else what the stream takes.
fn published(stream: &Stream<'_>) -> Vec<String> {
    match (stream.channel, &stream.info) {
        (Some(channel), _) => {
            let subject = name::subject(&channel.key);
            let typed = (channel.kind == ChannelKind::Broker).then(|| broker::subject(&subject, "x"));
            std::iter::once(subject).chain(typed).collect()
        }
        (None, Some(info)) => {
            let subjects = info["config"]["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str);
            subjects.map(|pattern| pattern.replace(['*', '>'], "x")).collect()
        }
        (None, None) => Vec::new(),
    }
}

/// The consumers that are declared, and those that bridges have made.
fn consumers(stream: &Stream<'_>) -> Vec<(String, Key, bool)> {
    let declared = stream.subscriptions.iter().map(|subscription| {
        let is_pinned = matches!(subscription.controls.ordering, Ordering::Key(_));
        (name::consumer(&subscription.key), subscription.key.clone(), is_pinned)
    });
    let mut found: Vec<(String, Key, bool)> = declared.collect();
    for key in stream.consumers.iter().filter_map(consumer::owner_of) {
        if !found.iter().any(|(_, known, _)| *known == key) {
            found.push((name::consumer(&key), key, false));
        }
    }
    found
}

/// nats-server's rule: something that is allowed takes it, or nothing is said, and nothing that is denied takes it.
fn is_permitted(rules: &Value, subject: &str) -> bool {
    let takes = |list: &Value| {
        let patterns = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        patterns
            .map(|pattern| pattern.split(' ').next().unwrap_or_default())
            .any(|pattern| name::covers(pattern, subject))
    };
    let all = rules["allow"].as_array().is_none_or(Vec::is_empty);
    (all || takes(&rules["allow"])) && !takes(&rules["deny"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn permissions_are_read_as_the_server_reads_them() {
        let check =
            |rules: Value, subject, expected| assert_eq!(is_permitted(&rules, subject), expected, "{rules} {subject}");
        check(Value::Null, "a.b", true);
        check(json!({ "allow": ["a.>"] }), "a.b", true);
        check(json!({ "allow": ["a.>"] }), "b", false);
        check(json!({ "deny": ["a.*"] }), "a.b", false);
        check(json!({ "deny": ["a.*"] }), "b", true);
        check(json!({ "allow": [">"], "deny": ["a.b"] }), "a.b", false);
        check(json!({ "allow": ["a.b queue"] }), "a.b", true);
    }
}

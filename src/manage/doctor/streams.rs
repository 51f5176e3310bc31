//! The streams of the bridge: what each of them makes of an acknowledgement, and what may be lost in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::server::{Sync, loses_given_up, parse};
use super::{Check, nearly_full};
use crate::channel::attempts;
use crate::channel::{Api, ApiError, ServerFacts, Step, dead_letter, stream as channel_stream};
use crate::resource::{Channel, Desired, Ordering, Subscription};

/// Names of streams of channels that do not name their own begin so.
const PREFIX: &str = "KN_";
/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;

/// A stream that is there or that the bridge would make.
pub(super) struct Stream<'a> {
    pub(super) name: String,
    /// `None` when it is not there, `null` when it may not be looked at.
    pub(super) info: Option<Value>,
    pub(super) consumers: Vec<Value>,
    pub(super) channel: Option<&'a Channel>,
    pub(super) subscriptions: Vec<&'a Subscription>,
    /// What it is, or would be made as.
    config: Value,
}

/// What a 202 means in streams of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MeaningOf202)]
pub struct Meaning {
    /// Servers that have stored an event when its sender gets 202.
    pub stored_on: u64,
    /// Servers that keep the stream.
    pub servers: u64,
    pub storage: Storage,
    /// Seconds until a stored event is on disk; absent in memory, and where it cannot be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_within_seconds: Option<f64>,
    /// The server acknowledges before it writes (`persist_mode: async`).
    pub acknowledged_unwritten: bool,
    pub streams: Vec<String>,
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StreamStorage)]
pub enum Storage {
    File,
    Memory,
}

/// All streams of the bridge, and of declared channels. What cannot be looked at is told in `checks`.
pub(super) async fn find<'a>(api: &Api, desired: &'a Desired, checks: &mut Vec<Check>) -> Vec<Stream<'a>> {
    let channels: BTreeMap<String, &Channel> =
        desired.channels.values().rev().map(|channel| (channel_stream::stream_name(channel), channel)).collect();
    let mut names: BTreeSet<String> = channels.keys().cloned().collect();
    names.insert(dead_letter::STREAM.to_owned());
    match api.stream_names(None).await {
        Ok(all) => names.extend(all.into_iter().filter(|name| name.starts_with(PREFIX) && name != attempts::STREAM)),
        Err(error) => {
            let advice = "permit it, or give the manifests by -f, so that all streams are looked at";
            checks.push(Check::warn("stream", format!("the streams cannot be listed: {error}"), advice));
        }
    }
    let looked_at = stream::iter(names).map(|name| {
        let channel = channels.get(&name).copied();
        async move { (look(api, &name).await, name, channel) }
    });
    let looked_at: Vec<_> = looked_at.buffered(PARALLEL).collect().await;
    let mut found = Vec::new();
    for (looked, name, channel) in looked_at {
        let mut hidden = |what, error: ApiError| {
            checks.push(Check::warn("stream", format!("{what}: {error}"), "permit it").about(&name));
        };
        let (info, consumers) = match looked {
            Ok((info, consumers)) => (
                Some(info),
                consumers.unwrap_or_else(|error| {
                    hidden("its consumers cannot be listed", error);
                    Vec::new()
                }),
            ),
            Err(ApiError::NotFound(_)) => (None, Vec::new()),
            Err(error) => {
                hidden("it cannot be looked at", error);
                (Some(Value::Null), Vec::new())
            }
        };
        let made = |step| if let Step::Create(config) = step { Some(config) } else { None };
        let planned = match channel {
            Some(channel) => channel_stream::plan(channel, None).ok().and_then(made),
            None => made(dead_letter::plan(None, dead_letter::Retention::default())),
        };
        let config = info.as_ref().map(|info| info["config"].clone()).or(planned).unwrap_or_default();
        let reads = |subscription: &&Subscription| channel.is_some_and(|channel| channel.key == subscription.channel);
        let subscriptions = desired.subscriptions.values().filter(reads).collect();
        found.push(Stream { name, info, consumers, channel, subscriptions, config });
    }
    found
}

async fn look(api: &Api, name: &str) -> Result<(Value, Result<Vec<Value>, ApiError>), ApiError> {
    let info = api.stream_info(name).await?;
    let info = info.ok_or_else(|| ApiError::NotFound(format!("stream {name} is not there")))?;
    Ok((info, api.all_consumers(name).await))
}

impl Stream<'_> {
    /// One line when all is well, else one for each thing that is not.
    pub(super) fn checks(&self, facts: &ServerFacts) -> Vec<Check> {
        let Some(info) = &self.info else {
            return vec![Check::ok("stream", "not there yet; the bridge makes it").about(&self.name)];
        };
        if info.is_null() {
            return Vec::new();
        }
        let mut found = self.durability(facts);
        found.extend(replicas(info));
        found.extend(self.limits(info));
        found.extend(self.consumers.iter().flat_map(|consumer| self.consumer(facts, consumer)));
        if found.is_empty() {
            let messages = info["state"]["messages"].as_u64().unwrap_or(0);
            let storage = if self.storage() == Storage::File { "file" } else { "memory" };
            let replicas =
                if self.replicas() == 1 { "1 replica".to_owned() } else { format!("{} replicas", self.replicas()) };
            let finding = format!("{storage}, {replicas}, messages: {messages}");
            found.push(Check::ok("stream", finding));
        }
        found.into_iter().map(|check| if check.about.is_some() { check } else { check.about(&self.name) }).collect()
    }

    fn replicas(&self) -> u64 {
        self.config["num_replicas"].as_u64().unwrap_or(1).max(1)
    }

    fn storage(&self) -> Storage {
        if self.config["storage"] == json!("memory") { Storage::Memory } else { Storage::File }
    }

    fn is_async(&self) -> bool {
        self.config["persist_mode"] == json!("async")
    }

    fn durability(&self, facts: &ServerFacts) -> Vec<Check> {
        let mut found = Vec::new();
        if self.config["no_ack"] == json!(true) {
            let finding = "acknowledges nothing (no_ack), so no event would ever be known to be stored";
            found.push(Check::fail("acknowledgement", finding, "set no_ack to false"));
        }
        if self.is_async() {
            let finding = "persist_mode is async: an event is acknowledged before it is written, and lost if the server is killed";
            found.push(Check::fail("persist_mode", finding, "make the stream anew without it"));
        }
        if self.storage() == Storage::Memory {
            let finding = "in memory: gone when the servers that hold it restart";
            found.push(Check::warn("storage", finding, "make the stream anew with storage: File"));
        }
        if self.replicas() == 1 && facts.cluster.is_some() {
            let finding = "one replica: it stands still while its server is away, and is lost with its disk";
            let advice = if self.name == dead_letter::STREAM {
                "give it 3 by the NATS CLI: the bridge leaves it as it is"
            } else {
                "set replicas: 3"
            };
            found.push(Check::warn("replicas", finding, advice));
        }
        found
    }

    fn limits(&self, info: &Value) -> Vec<Check> {
        let mut found = Vec::new();
        let (state, config) = (&info["state"], &self.config);
        for (used, limit) in [("messages", "max_msgs"), ("bytes", "max_bytes")] {
            if let Some(full) = nearly_full(state[used].as_u64().unwrap_or(0), &config[limit]) {
                let finding = format!("{limit}: {full}");
                found.push(Check::warn(
                    "limits",
                    finding,
                    format!("raise {limit}, or look why subscriptions are behind"),
                ));
            }
        }
        let bounds = ["max_msgs", "max_bytes", "max_msgs_per_subject"];
        let set: Vec<&str> =
            bounds.into_iter().filter(|field| config[*field].as_i64().is_some_and(|max| max > 0)).collect();
        if config["discard"] == json!("old") && !set.is_empty() {
            let finding = format!(
                "{} with discard old: when it is full, the oldest events go, delivered or not",
                set.join(" and ")
            );
            let advice = "set discard: New, so that senders get 503 instead";
            found.push(Check::warn("discard", finding, advice));
        }
        if config["duplicate_window"].as_u64().unwrap_or(0) == 0 && self.name != dead_letter::STREAM {
            let finding = "no duplicate window: an event that its sender repeats is stored twice";
            found.push(Check::warn("duplicate_window", finding, "set duplicateWindow: 2m"));
        }
        found
    }

    fn consumer(&self, facts: &ServerFacts, info: &Value) -> Vec<Check> {
        let config = &info["config"];
        let name = info["name"].as_str().unwrap_or_default();
        let about = format!("{} of {}", name, self.name);
        let mut found = Vec::new();
        if let Some(limit) = config["max_deliver"].as_i64().filter(|limit| *limit > 0) {
            let loses =
                self.config["retention"] == json!("workqueue") && parse(&facts.version).is_some_and(loses_given_up);
            let finding =
                format!("max_deliver is {limit}: what fails so often is not delivered any more, and nobody is told");
            let check = if loses {
                let finding = format!("{finding}; this server then loses it (nats-server issue 7817)");
                Check::fail("max_deliver", finding, "upgrade nats-server, and set max_deliver to -1")
            } else {
                Check::warn("max_deliver", finding, "set max_deliver to -1")
            };
            found.push(check.about(&about));
        }
        if config["ack_policy"] == json!("none") {
            let finding = "ack_policy is none: what it is given counts as done, whatever becomes of it";
            found.push(
                Check::warn("ack_policy", finding, "make the consumer anew with ack_policy explicit").about(&about),
            );
        }
        found
    }
}

/// Whether all copies of a stream are there. A server of its own tells of no replicas.
fn replicas(info: &Value) -> Vec<Check> {
    let cluster = &info["cluster"];
    let mut found = Vec::new();
    if cluster.is_object() && cluster["leader"].as_str().is_none_or(str::is_empty) {
        let finding = "no leader: nothing can be stored or delivered";
        found.push(Check::fail("leader", finding, "bring back the servers that hold it; a majority is needed"));
    }
    for replica in cluster["replicas"].as_array().into_iter().flatten() {
        let name = replica["name"].as_str().unwrap_or_default();
        if replica["offline"] == json!(true) {
            found.push(Check::warn("replicas", format!("replica on {name} is offline"), "bring the server back"));
        } else if replica["current"] != json!(true) {
            // Of a server that was killed it is not known at first that it is away.
            let seen = Duration::from_nanos(replica["active"].as_u64().unwrap_or(0)).as_secs();
            let lag = replica["lag"].as_u64().unwrap_or(0);
            let finding = format!("replica on {name} is not current: {lag} behind, last seen {seen} s ago");
            let advice = "see that its server runs; wait for it before another one goes down";
            found.push(Check::warn("replicas", finding, advice));
        }
    }
    found
}

/// What subscriptions ask for and the server does not have.
pub(super) fn too_old(desired: &Desired, knows: impl Fn(i64, i64) -> bool) -> Vec<Check> {
    if knows(2, 11) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for subscription in desired.subscriptions.values() {
        let about = format!("subscription {}", subscription.key);
        if matches!(subscription.controls.ordering, Ordering::Key(_)) {
            let finding = "ordering by key needs nats-server 2.11 or newer (pinned consumers)";
            found.push(Check::fail("ordering", finding, "upgrade nats-server").about(about));
        }
    }
    found
}

/// What a 202 means, kind by kind.
pub(super) fn meanings(found: &[Stream<'_>], sync: &Sync) -> Vec<Meaning> {
    let mut kinds: BTreeMap<(u64, Storage, bool), Vec<String>> = BTreeMap::new();
    let is_told = |stream: &&Stream<'_>| stream.name != dead_letter::STREAM && stream.config.is_object();
    for stream in found.iter().filter(is_told) {
        let kind = (stream.replicas(), stream.storage(), stream.is_async());
        kinds.entry(kind).or_default().push(stream.name.clone());
    }
    if kinds.is_empty() {
        // What a channel's stream is made as when the manifest does not say.
        kinds.insert((1, Storage::File, false), Vec::new());
    }
    kinds.into_iter().map(|(kind, streams)| meaning(kind, streams, sync)).collect()
}

fn meaning((servers, storage, is_async): (u64, Storage, bool), streams: Vec<String>, sync: &Sync) -> Meaning {
    // JetStream acknowledges when a majority has it.
    let stored_on = servers / 2 + 1;
    let on = if stored_on == servers { format!("{servers}") } else { format!("at least {stored_on}") };
    let place = match storage {
        Storage::File if is_async => "file, not yet written when it is answered".to_owned(),
        Storage::File => format!("file, {}", sync.sentence()),
        Storage::Memory => "memory, gone when they restart".to_owned(),
    };
    let noun = if servers == 1 { "server" } else { "servers" };
    let names = if streams.is_empty() { "a channel with defaults".to_owned() } else { streams.join(", ") };
    Meaning {
        stored_on,
        servers,
        storage,
        synced_within_seconds: sync.seconds().filter(|_| storage == Storage::File && !is_async),
        acknowledged_unwritten: is_async,
        sentence: format!("A 202 here means: stored on {on} of {servers} {noun}, {place} ({names})"),
        streams,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::server::SyncSource;
    use super::*;

    fn facts(version: &str, cluster: Option<&str>) -> ServerFacts {
        ServerFacts {
            name: "s".into(),
            version: version.into(),
            cluster: cluster.map(str::to_owned),
            max_payload: 1,
            jetstream: true,
        }
    }

    fn stream(config: Value, consumers: Vec<Value>) -> Stream<'static> {
        let mut whole = json!({ "storage": "file", "num_replicas": 1, "discard": "old", "duplicate_window": 1 });
        if let (Some(whole), Some(config)) = (whole.as_object_mut(), config.as_object()) {
            whole.extend(config.clone());
        }
        let info = json!({ "config": whole, "state": { "messages": 90, "bytes": 10 }, "cluster": { "leader": "s" } });
        let (channel, subscriptions) = (None, Vec::new());
        Stream { name: "KN_A".into(), info: Some(info), consumers, channel, subscriptions, config: whole }
    }

    fn found(checks: &[Check]) -> Vec<(Status, &'static str)> {
        checks.iter().map(|check| (check.status, check.check)).collect()
    }

    #[test]
    fn each_thing_that_may_lose_events_is_told() {
        let check = |config: Value, expected: &[(Status, &'static str)]| {
            assert_eq!(found(&stream(config.clone(), Vec::new()).checks(&facts("2.15.1", None))), expected, "{config}");
        };
        check(json!({}), &[(Status::Ok, "stream")]);
        check(json!({ "storage": "memory" }), &[(Status::Warn, "storage")]);
        check(json!({ "persist_mode": "async" }), &[(Status::Fail, "persist_mode")]);
        check(json!({ "no_ack": true }), &[(Status::Fail, "acknowledgement")]);
        check(json!({ "max_msgs": 100, "discard": "new" }), &[(Status::Warn, "limits")]);
        check(json!({ "max_bytes": 100 }), &[(Status::Warn, "discard")]);
        check(json!({ "duplicate_window": 0 }), &[(Status::Warn, "duplicate_window")]);
        let clustered = stream(json!({}), Vec::new()).checks(&facts("2.15.1", Some("c")));
        assert_eq!(found(&clustered), [(Status::Warn, "replicas")]);
    }

    #[test]
    fn consumers_that_give_up_are_told_and_fail_where_the_server_then_loses_the_event() {
        let consumer = || vec![json!({ "name": "C", "config": { "max_deliver": 3, "ack_policy": "explicit" } })];
        let check = |version, retention| {
            found(&stream(json!({ "retention": retention }), consumer()).checks(&facts(version, None)))
        };
        assert_eq!(check("2.15.1", "workqueue"), [(Status::Warn, "max_deliver")]);
        assert_eq!(check("2.12.4", "limits"), [(Status::Warn, "max_deliver")]);
        assert_eq!(check("2.12.4", "workqueue"), [(Status::Fail, "max_deliver")]);
        let none = vec![json!({ "name": "C", "config": { "max_deliver": -1, "ack_policy": "none" } })];
        let checks = stream(json!({}), none).checks(&facts("2.15.1", None));
        assert_eq!(found(&checks), [(Status::Warn, "ack_policy")]);
        assert_eq!(checks[0].about.as_deref(), Some("C of KN_A"));
    }

    #[test]
    fn replicas_that_are_away_or_behind_are_told() {
        let info = |cluster: Value| json!({ "cluster": cluster });
        assert_eq!(found(&replicas(&info(json!({ "name": "c" })))), [(Status::Fail, "leader")]);
        let members = json!([{ "name": "b", "current": true }, { "name": "c", "current": false, "lag": 7, "active": 3_000_000_000_u64 }, { "name": "d", "offline": true }]);
        let checks = replicas(&info(json!({ "leader": "a", "replicas": members })));
        let findings: Vec<&str> = checks.iter().map(|check| check.finding.as_str()).collect();
        assert_eq!(findings, ["replica on c is not current: 7 behind, last seen 3 s ago", "replica on d is offline"]);
    }

    #[test]
    fn the_meaning_of_a_202_is_one_sentence_a_kind() {
        let sync = Sync::Within(Duration::from_secs(120), SyncSource::Monitoring);
        let sentence = |kind| meaning(kind, vec!["KN_A".into()], &sync).sentence;
        assert_eq!(
            sentence((1, Storage::File, false)),
            "A 202 here means: stored on 1 of 1 server, file, synced to disk within 2m (KN_A)"
        );
        assert_eq!(
            sentence((3, Storage::Memory, false)),
            "A 202 here means: stored on at least 2 of 3 servers, memory, gone when they restart (KN_A)"
        );
        let unwritten = meaning((1, Storage::File, true), Vec::new(), &sync);
        assert!(unwritten.sentence.contains("not yet written") && unwritten.synced_within_seconds.is_none());
    }
}

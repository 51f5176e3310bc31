//! What JetStream knows of the streams and consumers that are there: read only, and the same whether a bridge runs or not.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, ApiError};
use super::consumer::{PAUSED, is_pinned, owner};
use super::name::covers;
use super::stream::stream_name;
use super::{broker, label, name};
use crate::resource::{ChannelKind, Desired, Key, SubscriptionKind};

/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;
/// Subjects of one consumer that are looked at for its oldest event; of more, everything in the stream is.
const MAX_SUBJECTS: usize = 8;
/// A pause until this year or later has no end that anybody waits for.
const OPEN_ENDED_YEAR: i16 = 2900;
/// Until when an operator pauses a consumer without saying how long. Another than our own pause by annotation.
pub(super) const UNTIL_RESUMED: &str = "2998-01-01T00:00:00Z";

/// A stream as JetStream describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamFacts {
    pub name: String,
    pub subjects: Vec<String>,
    /// The channel that it says it was made for.
    pub channel: Option<Key>,
    pub kind: ChannelKind,
    pub messages: u64,
    pub bytes: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub first_time: Option<Timestamp>,
    pub last_time: Option<Timestamp>,
    pub consumers: u64,
    pub storage: String,
    pub retention: String,
    pub discard: String,
    pub replicas: u64,
    /// Limits; `None` where there is none.
    pub max_age: Option<Duration>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    pub max_message_bytes: Option<u64>,
}

/// A consumer as JetStream describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerFacts {
    pub stream: String,
    pub name: String,
    /// Whose it is, when it is ours.
    pub subscription: Option<Key>,
    pub kind: SubscriptionKind,
    pub channel: Option<Key>,
    pub subscriber: Option<String>,
    pub reply: Option<String>,
    pub dead_letter_sink: Option<String>,
    /// As it was declared.
    pub filter: Option<Value>,
    pub ordering: Option<String>,
    /// What it selects; everything when empty.
    pub subjects: Vec<String>,
    /// Messages that were not delivered yet.
    pub undelivered: u64,
    /// Messages that were delivered and are not settled.
    pub unsettled: u64,
    /// Pulls that wait for messages.
    pub pulls: u64,
    pub max_unsettled: Option<u64>,
    /// All up to this sequence of the stream are settled.
    pub settled_to: u64,
    pub delivered_to: u64,
    pub last_active: Option<Timestamp>,
    pub pinned: bool,
    pub pause: Option<Pause>,
}

/// That a consumer is held back at the server, for all bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Its subscription's annotation asks for it.
    ByAnnotation,
    /// Somebody has asked for it, with an end or without.
    ByOperator(Option<Timestamp>),
}

/// All streams of the account, but for that of dead letters.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn streams(api: &Api) -> Result<Vec<StreamFacts>, ApiError> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = api.streams(offset).await?;
        found.extend(page.iter().filter_map(stream_facts).filter(|stream| stream.name != super::dead_letter::STREAM));
        offset += page.len();
        if page.is_empty() || offset >= total {
            return Ok(found);
        }
    }
}

/// All consumers of these streams.
///
/// # Errors
/// When JetStream does not answer or says no; a stream that has gone meanwhile has none.
pub async fn consumers(api: &Api, streams: &[StreamFacts]) -> Result<Vec<ConsumerFacts>, ApiError> {
    // Owned, so that the whole can be sent between threads.
    let used = streams.iter().filter(|stream| stream.consumers > 0);
    let calls: Vec<_> = used.map(|stream| (api.clone(), stream.name.clone())).collect();
    let pages = stream::iter(calls).map(|(api, stream)| async move { consumers_of(&api, &stream).await });
    pages.buffered(PARALLEL).try_concat().await
}

/// All consumers of one stream; none when it is not there.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn consumers_of(api: &Api, stream: &str) -> Result<Vec<ConsumerFacts>, ApiError> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = match api.consumers(stream, offset).await {
            Err(ApiError::NotFound(_)) => return Ok(found),
            page => page?,
        };
        found.extend(page.iter().map(|info| consumer_facts(stream, info)));
        offset += page.len();
        if page.is_empty() || offset >= total {
            return Ok(found);
        }
    }
}

/// One consumer as it is now; `None` when it is gone.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn consumer(api: &Api, stream: &str, consumer: &str) -> Result<Option<ConsumerFacts>, ApiError> {
    Ok(api.consumer_info(stream, consumer).await?.map(|info| consumer_facts(stream, &info)))
}

/// The consumers that are ours and whose subscriptions are not declared, or are declared for another stream.
pub fn orphans<'a>(
    consumers: &'a [ConsumerFacts],
    desired: &Desired,
) -> impl Iterator<Item = (&'a Key, &'a ConsumerFacts)> {
    let streams = desired.subscriptions.values().filter_map(|subscription| {
        let channel = desired.channels.get(&subscription.channel)?;
        Some((subscription.key.clone(), stream_name(channel)))
    });
    // A subscription whose channel nobody declares waits for it, wherever its events are.
    let waiting: BTreeSet<Key> = desired.undeclared_channels().map(|subscription| subscription.key.clone()).collect();
    let declared: BTreeSet<(Key, String)> = streams.collect();
    consumers.iter().filter_map(move |consumer| {
        let key = consumer.subscription.as_ref()?;
        let is_declared = waiting.contains(key) || declared.contains(&(key.clone(), consumer.stream.clone()));
        (!is_declared).then_some((key, consumer))
    })
}

impl StreamFacts {
    /// The channels whose events it holds: by what it says of itself, by what its consumers say, and by its name and subjects.
    pub fn channels(&self, consumers: &[ConsumerFacts]) -> Vec<(Key, ChannelKind)> {
        let told = consumers.iter().filter(|consumer| consumer.stream == self.name && consumer.subscription.is_some());
        let told = told.filter_map(|consumer| {
            let kind = match consumer.kind {
                SubscriptionKind::Subscription => ChannelKind::Channel,
                SubscriptionKind::Trigger => ChannelKind::Broker,
            };
            Some((consumer.channel.clone()?, kind))
        });
        let named = self.subjects.iter().filter_map(|subject| self.named_after(subject));
        let mut found: Vec<(Key, ChannelKind)> = Vec::new();
        for (key, kind) in self.channel.clone().map(|key| (key, self.kind)).into_iter().chain(told).chain(named) {
            // A channel that moved elsewhere leaves consumers behind.
            let subject = name::subject(&key);
            let holds = self.subjects.iter().any(|pattern| covers(pattern, &subject));
            if holds && !found.iter().any(|(other, _)| *other == key) {
                found.push((key, kind));
            }
        }
        found
    }

    /// The channel that has this subject, when the stream's name is that of the channel's stream.
    fn named_after(&self, subject: &str) -> Option<(Key, ChannelKind)> {
        let (name, namespace) = subject.rsplit_once('.')?;
        let key = Key::new(namespace, name).filter(|key| name::stream(key) == self.name)?;
        let is_broker = self.subjects.contains(&broker::all_subjects(subject));
        Some((key, if is_broker { ChannelKind::Broker } else { ChannelKind::Channel }))
    }
}

impl ConsumerFacts {
    /// A consumer that ought to be there.
    pub fn missing(stream: &str, name: &str) -> Self {
        Self { name: name.to_owned(), ..consumer_facts(stream, &Value::Null) }
    }

    /// Messages that are not settled, delivered or not.
    pub fn lag(&self) -> u64 {
        self.undelivered.saturating_add(self.unsettled)
    }

    /// When the oldest message was stored that is not settled; `None` when all are.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn oldest(&self, api: &Api) -> Result<Option<Timestamp>, ApiError> {
        if self.lag() == 0 {
            return Ok(None);
        }
        let everything = [">".to_owned()];
        let subjects = match self.subjects.len() {
            1..=MAX_SUBJECTS => self.subjects.as_slice(),
            _ => &everything,
        };
        let mut oldest = None;
        for subject in subjects {
            let message = api.next_message(&self.stream, subject, self.settled_to + 1).await?;
            oldest = oldest.into_iter().chain(message.map(|message| message.stored_at)).min();
        }
        Ok(oldest)
    }
}

fn stream_facts(info: &Value) -> Option<StreamFacts> {
    let (config, state) = (&info["config"], &info["state"]);
    let metadata = &config["metadata"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // -1 is no limit, and so is zero.
    let limit = |field: &str| config[field].as_u64().filter(|limit| *limit > 0);
    let messages = number(&state["messages"]);
    let time = |field: &str| timestamp(&state[field]).filter(|_| messages > 0);
    Some(StreamFacts {
        name: config["name"].as_str()?.to_owned(),
        subjects: strings(&config["subjects"]),
        channel: metadata[label::CHANNEL].as_str().and_then(|key| key.parse().ok()),
        kind: if metadata[label::KIND] == label::BROKER { ChannelKind::Broker } else { ChannelKind::Channel },
        messages,
        bytes: number(&state["bytes"]),
        first_sequence: number(&state["first_seq"]),
        last_sequence: number(&state["last_seq"]),
        first_time: time("first_ts"),
        last_time: time("last_ts"),
        consumers: number(&state["consumer_count"]),
        storage: text(&config["storage"]),
        retention: text(&config["retention"]),
        discard: text(&config["discard"]),
        replicas: number(&config["num_replicas"]),
        max_age: limit("max_age").map(Duration::from_nanos),
        max_messages: limit("max_msgs"),
        max_bytes: limit("max_bytes"),
        max_message_bytes: limit("max_msg_size"),
    })
}

fn consumer_facts(stream: &str, info: &Value) -> ConsumerFacts {
    let config = &info["config"];
    let metadata = &config["metadata"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let told = |key: &str| metadata[key].as_str().map(str::to_owned);
    let mut subjects = strings(&config["filter_subjects"]);
    subjects.extend(config["filter_subject"].as_str().filter(|subject| !subject.is_empty()).map(str::to_owned));
    let is_trigger = metadata[label::KIND] == label::TRIGGER;
    ConsumerFacts {
        stream: stream.to_owned(),
        name: info["name"].as_str().unwrap_or_default().to_owned(),
        subscription: owner(config),
        kind: if is_trigger { SubscriptionKind::Trigger } else { SubscriptionKind::Subscription },
        channel: told(label::CHANNEL).and_then(|key| key.parse().ok()),
        subscriber: told(label::SUBSCRIBER),
        reply: told(label::REPLY),
        dead_letter_sink: told(label::DEAD_LETTER_SINK),
        filter: told(label::FILTER).and_then(|filter| serde_json::from_str(&filter).ok()),
        ordering: told(label::ORDERING),
        subjects,
        undelivered: number(&info["num_pending"]),
        unsettled: number(&info["num_ack_pending"]),
        pulls: number(&info["num_waiting"]),
        max_unsettled: config["max_ack_pending"].as_u64().filter(|limit| *limit > 0),
        settled_to: number(&info["ack_floor"]["stream_seq"]),
        delivered_to: number(&info["delivered"]["stream_seq"]),
        last_active: [&info["delivered"], &info["ack_floor"]]
            .into_iter()
            .filter_map(|place| timestamp(&place["last_active"]))
            .max(),
        pinned: is_pinned(info),
        pause: pause(info),
    }
}

/// How a consumer is paused, if it is.
pub(super) fn pause(info: &Value) -> Option<Pause> {
    if info["paused"].as_bool() != Some(true) {
        return None;
    }
    let until = info["config"]["pause_until"].as_str();
    if until == Some(PAUSED) {
        return Some(Pause::ByAnnotation);
    }
    let until = until.and_then(|until| until.parse::<Timestamp>().ok());
    let has_end = |until: &Timestamp| until.to_zoned(jiff::tz::TimeZone::UTC).year() < OPEN_ENDED_YEAR;
    Some(Pause::ByOperator(until.filter(has_end)))
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByAnnotation => f.write_str("by its annotation"),
            Self::ByOperator(Some(until)) => write!(f, "by an operator until {}", whole_seconds(*until)),
            Self::ByOperator(None) => f.write_str("by an operator until it is resumed"),
        }
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn stream(name: &str, subjects: &[&str], metadata: Value) -> StreamFacts {
        stream_facts(&json!({ "config": { "name": name, "subjects": subjects, "metadata": metadata }, "state": {} }))
            .unwrap()
    }

    fn consumer(stream: &str, metadata: Value) -> ConsumerFacts {
        let config = json!({ "durable_name": "KN_SUB_DEFAULT__S", "metadata": metadata });
        consumer_facts(stream, &json!({ "name": "KN_SUB_DEFAULT__S", "config": config }))
    }

    fn found(stream: &StreamFacts, consumers: &[ConsumerFacts]) -> Vec<String> {
        stream.channels(consumers).iter().map(|(key, kind)| format!("{kind} {key}")).collect()
    }

    #[test]
    fn a_stream_is_known_by_itself_by_its_consumers_or_by_its_name() {
        let none = json!({});
        let own = json!({ "knats.dev/channel": "default/foo", "knats.dev/kind": "Broker" });
        assert_eq!(found(&stream("X", &["foo.default", "foo.default._type.*"], own), &[]), ["broker default/foo"]);
        let ours = consumer("X", json!({ "knats.dev/subscription": "default/s", "knats.dev/channel": "default/foo" }));
        assert_eq!(found(&stream("X", &["foo.*"], none.clone()), std::slice::from_ref(&ours)), ["channel default/foo"]);
        assert!(found(&stream("Y", &["foo.*"], none.clone()), &[ours]).is_empty());
        let theirs =
            consumer("X", json!({ "knats.dev/subscription": "default/t", "knats.dev/channel": "default/foo" }));
        assert!(found(&stream("X", &["foo.default"], none.clone()), &[theirs]).is_empty(), "its name is not that of t");
        let adopted = stream("KN_DEFAULT__FOO", &["default.foo._knative", "foo.default"], none.clone());
        assert_eq!(found(&adopted, &[]), ["channel default/foo"]);
        let broker = stream("KN_DEFAULT__B", &["b.default", "b.default._type.*"], none.clone());
        assert_eq!(found(&broker, &[]), ["broker default/b"]);
        assert!(found(&stream("ORDERS", &["orders.>"], none), &[]).is_empty());
    }

    #[test]
    fn a_channel_that_moved_elsewhere_is_not_where_it_was() {
        let left =
            consumer("OLD", json!({ "knats.dev/subscription": "default/s", "knats.dev/channel": "default/foo" }));
        assert!(found(&stream("OLD", &["other"], json!({})), &[left]).is_empty());
    }

    #[test]
    fn a_pause_says_whose_it_is_and_how_long() {
        let paused =
            |until: &str| pause(&json!({ "paused": true, "config": { "pause_until": until } })).unwrap().to_string();
        assert_eq!(paused(PAUSED), "by its annotation");
        assert_eq!(paused(UNTIL_RESUMED), "by an operator until it is resumed");
        assert_eq!(paused("2099-01-01T00:00:00.5Z"), "by an operator until 2099-01-01T00:00:00Z");
        assert_eq!(pause(&json!({ "config": { "pause_until": PAUSED } })), None);
    }
}

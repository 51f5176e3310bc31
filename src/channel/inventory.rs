//! What JetStream knows of the streams and consumers that are there: read only, and the same whether a bridge runs or not.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, ApiError};
use super::consumer::owner;
use super::stream::covers;
use super::{broker, label, name};
use crate::resource::{ChannelKind, Key, SubscriptionKind};

/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;

/// A stream as JetStream describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamFacts {
    pub name: String,
    pub subjects: Vec<String>,
    /// The channel that it says it was made for.
    pub channel: Option<Key>,
    pub kind: ChannelKind,
    pub messages: u64,
    pub consumers: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub first_time: Option<Timestamp>,
    pub last_time: Option<Timestamp>,
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
    /// As it was declared.
    pub filter: Option<Value>,
}

/// All streams of the account.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn streams(api: &Api) -> Result<Vec<StreamFacts>, ApiError> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = api.streams(offset).await?;
        found.extend(page.iter().filter_map(stream_facts));
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
    let names = streams.iter().filter(|stream| stream.consumers > 0).map(|stream| stream.name.as_str());
    let pages = stream::iter(names).map(|stream| all_of(api, stream)).buffered(PARALLEL);
    pages.try_concat().await
}

async fn all_of(api: &Api, stream: &str) -> Result<Vec<ConsumerFacts>, ApiError> {
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

fn stream_facts(info: &Value) -> Option<StreamFacts> {
    let (config, state) = (&info["config"], &info["state"]);
    let metadata = &config["metadata"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let messages = number(&state["messages"]);
    let time = |field: &str| state[field].as_str().filter(|_| messages > 0)?.parse().ok();
    Some(StreamFacts {
        name: config["name"].as_str()?.to_owned(),
        subjects: config["subjects"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        channel: metadata[label::CHANNEL].as_str().and_then(|key| key.parse().ok()),
        kind: if metadata[label::KIND] == label::BROKER { ChannelKind::Broker } else { ChannelKind::Channel },
        messages,
        consumers: number(&state["consumer_count"]),
        first_sequence: number(&state["first_seq"]),
        last_sequence: number(&state["last_seq"]),
        first_time: time("first_ts"),
        last_time: time("last_ts"),
    })
}

fn consumer_facts(stream: &str, info: &Value) -> ConsumerFacts {
    let config = &info["config"];
    let metadata = &config["metadata"];
    let told = |key: &str| metadata[key].as_str();
    let is_trigger = metadata[label::KIND] == label::TRIGGER;
    ConsumerFacts {
        stream: stream.to_owned(),
        name: info["name"].as_str().unwrap_or_default().to_owned(),
        subscription: owner(config),
        kind: if is_trigger { SubscriptionKind::Trigger } else { SubscriptionKind::Subscription },
        channel: told(label::CHANNEL).and_then(|key| key.parse().ok()),
        filter: told(label::FILTER).and_then(|filter| serde_json::from_str(filter).ok()),
    }
}

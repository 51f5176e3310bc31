//! The channels that are there, as their streams tell.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Error, Manager, while_doing};
use crate::channel::inventory::{self, ConsumerFacts, StreamFacts};
use crate::channel::name;
use crate::resource::{ChannelKind, Key};

/// One channel. What is null has no limit, or there is no event.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Channel {
    pub namespace: String,
    pub name: String,
    /// `channel` or `broker`.
    pub kind: String,
    pub stream: String,
    /// Where NATS clients publish events.
    pub subject: String,
    /// Events that the stream keeps.
    pub events: u64,
    /// What they take up, headers included.
    pub bytes: u64,
    pub first_event: Option<Timestamp>,
    pub last_event: Option<Timestamp>,
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// Subscriptions of ours that read it.
    pub subscriptions: u64,
    pub replicas: u64,
    /// `file` or `memory`.
    pub storage: String,
    /// `limits`, `interest` or `workqueue`.
    pub retention: String,
    /// What a full stream does: `old` deletes, `new` refuses.
    pub discard: String,
    pub max_age_seconds: Option<u64>,
    pub max_events: Option<u64>,
    pub max_bytes: Option<u64>,
    pub max_event_bytes: Option<u64>,
}

impl Manager {
    /// All channels, sorted by namespace and name.
    ///
    /// # Errors
    /// When JetStream does not answer or does not permit the question.
    pub async fn channels(&self) -> Result<Vec<Channel>, Error> {
        let (streams, consumers) = self.inventory().await?;
        let mut channels: Vec<Channel> = streams
            .iter()
            .flat_map(|stream| {
                let found = stream.channels(&consumers);
                found.into_iter().map(|(key, kind)| channel(&key, kind, stream, &consumers)).collect::<Vec<_>>()
            })
            .collect();
        channels.sort_by(|a, b| (&a.namespace, &a.name, &a.stream).cmp(&(&b.namespace, &b.name, &b.stream)));
        Ok(channels)
    }

    /// All streams and their consumers.
    pub(super) async fn inventory(&self) -> Result<(Vec<StreamFacts>, Vec<ConsumerFacts>), Error> {
        let streams = inventory::streams(&self.api).await.map_err(while_doing("cannot list streams"))?;
        let consumers =
            inventory::consumers(&self.api, &streams).await.map_err(while_doing("cannot list consumers"))?;
        Ok((streams, consumers))
    }
}

fn channel(key: &Key, kind: ChannelKind, stream: &StreamFacts, consumers: &[ConsumerFacts]) -> Channel {
    let reads = |consumer: &&ConsumerFacts| consumer.stream == stream.name && consumer.subscription.is_some();
    Channel {
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        kind: kind.to_string(),
        stream: stream.name.clone(),
        subject: name::subject(key),
        events: stream.messages,
        bytes: stream.bytes,
        first_event: stream.first_time,
        last_event: stream.last_time,
        first_sequence: stream.first_sequence,
        last_sequence: stream.last_sequence,
        subscriptions: u64::try_from(consumers.iter().filter(reads).count()).unwrap_or(u64::MAX),
        replicas: stream.replicas,
        storage: stream.storage.clone(),
        retention: stream.retention.clone(),
        discard: stream.discard.clone(),
        max_age_seconds: stream.max_age.map(|age| age.as_secs()),
        max_events: stream.max_messages,
        max_bytes: stream.max_bytes,
        max_event_bytes: stream.max_message_bytes,
    }
}

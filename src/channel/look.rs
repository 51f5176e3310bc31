//! A look into streams by the API alone: no consumer is made, so nothing is left behind, whatever becomes of who looks; and a
//! message whose headers break NATS clients is one like any other.

use std::ops::RangeInclusive;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Api, ApiError, StoredMessage, found};
use super::unreadable::{self, readable};
use super::{inventory, name};
use crate::event::{self, Event};
use crate::resource::Key;

/// Questions that are under way at once.
const PARALLEL: usize = 16;

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The sequences of its first and its last message; the first is one more than the last when it is empty.
    pub first: u64,
    pub last: u64,
    /// When it was made. A stream that was deleted and made anew counts from 1 again.
    pub created: String,
    /// The channel that it belongs to, as far as that can be told.
    pub channel: Option<Key>,
}

impl Api {
    /// What a stream holds, `None` when there is no such stream.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn stream_state(&self, stream: &str) -> Result<Option<StreamState>, ApiError> {
        let info = found(self.call(&format!("STREAM.INFO.{stream}"), &json!({})).await)?;
        Ok(info.map(|info| {
            let last = info["state"]["last_seq"].as_u64().unwrap_or(0);
            StreamState {
                // 0 in a stream that never held any.
                first: info["state"]["first_seq"].as_u64().unwrap_or(0).max(1),
                last,
                created: info["created"].as_str().unwrap_or_default().to_owned(),
                channel: channel_of(&info["config"]),
            }
        }))
    }

    /// The messages with these sequences, as far as they are there.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn messages(&self, stream: &str, from: u64, to: u64) -> Result<Vec<StoredMessage>, ApiError> {
        let mut messages = Vec::new();
        let mut next = from;
        while next <= to {
            let end = to.min(next + PARALLEL as u64 - 1);
            // All of them before anything else: a question that nobody polls can hold the client's place for the next command.
            let answers = try_join_all((next..=end).map(|sequence| self.message(stream, sequence))).await?;
            for answer in answers.into_iter().flatten() {
                messages.push(StoredMessage::read(&answer)?);
            }
            next = end + 1;
        }
        Ok(messages)
    }

    /// The sequence of the first message within these that was stored at that time or after it; one more than the last when
    /// there is none. Messages lie in the order of their times, so it is found by halving.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn first_since(
        &self,
        stream: &str,
        within: RangeInclusive<u64>,
        time: Timestamp,
    ) -> Result<u64, ApiError> {
        let (mut low, mut high) = (*within.start(), *within.end() + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.next_message(stream, ">", middle).await? {
                Some(message) if message.sequence < high && message.stored_at < time => low = message.sequence + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The stream of a channel, whatever it is called; `None` when there is none.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn stream_of(&self, channel: &Key) -> Result<Option<String>, ApiError> {
        let answer = self.call("STREAM.NAMES", &json!({ "subject": name::subject(channel) })).await?;
        Ok(answer["streams"][0].as_str().map(str::to_owned))
    }

    /// The streams that have the consumer of a subscription.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn streams_subscribed_by(&self, subscription: &Key) -> Result<Vec<String>, ApiError> {
        let streams = inventory::streams(self).await?;
        let consumers = inventory::consumers(self, &streams).await?;
        let ours = consumers.into_iter().filter(|consumer| consumer.subscription.as_ref() == Some(subscription));
        Ok(ours.map(|consumer| consumer.stream).collect())
    }

    /// The streams of channels: those that have the name of their channel's, and others with subscriptions of ours.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn channel_streams(&self) -> Result<Vec<String>, ApiError> {
        let streams = inventory::streams(self).await?;
        let consumers = inventory::consumers(self, &streams).await?;
        let ours = streams.into_iter().filter(|stream| !stream.channels(&consumers).is_empty());
        Ok(ours.map(|stream| stream.name).collect())
    }
}

impl StoredMessage {
    /// The event that it is.
    ///
    /// # Errors
    /// Says why it is none.
    pub fn event(&self, stream: &str) -> Result<Event, String> {
        if !readable(&self.headers) {
            return Err(unreadable::REASON.to_owned());
        }
        let origin = event::nats::Origin {
            stream,
            sequence: self.sequence,
            subject: &self.subject,
            stored_at_nanos: self.stored_at.as_nanosecond(),
        };
        let decoded = event::nats::decode(self.header_pairs(), self.payload.clone(), origin);
        decoded.map(|(event, _)| event).map_err(|error| error.to_string())
    }
}

/// The channel that a stream belongs to by its configuration: the one whose subject it takes, and whose name it has where there
/// are several.
pub fn channel_of(config: &Value) -> Option<Key> {
    let subjects = config["subjects"].as_array()?.iter().filter_map(Value::as_str);
    let mut channels = subjects.filter_map(|subject| {
        let (name, namespace) = subject.rsplit_once('.')?;
        Key::new(namespace, name)
    });
    let named = channels.clone().find(|channel| config["name"].as_str() == Some(&name::stream(channel)));
    named.or_else(|| channels.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_of_a_stream_is_the_one_whose_name_it_has() {
        let check = |config: Value, channel: Option<&str>| {
            assert_eq!(channel_of(&config).map(|key| key.to_string()).as_deref(), channel, "{config}");
        };
        check(json!({ "name": "KN_DEFAULT__FOO", "subjects": ["a.b", "foo.default"] }), Some("default/foo"));
        check(
            json!({ "name": "KN_DEFAULT__SHOP", "subjects": ["shop.default", "shop.default._type.*"] }),
            Some("default/shop"),
        );
        check(json!({ "name": "ORDERS", "subjects": ["orders.>", "orders.shop"] }), Some("shop/orders"));
        check(json!({ "name": "KN_DEADLETTERS", "subjects": ["knats.deadletter.>"] }), None);
        check(json!({ "name": "MIRROR" }), None);
    }
}

//! Reading what `KN_DEADLETTERS` keeps, whatever state its messages are in, and letting go of a letter that has found its place.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::api::{Api, ApiError, StoredMessage};
use super::broker;
use super::dead_letter::{ERROR_ATTRIBUTES, ORIGIN_CHANNEL, ORIGIN_SEQUENCE, ORIGIN_STREAM, REASON, STREAM};
use super::name;
use super::pull::Stored;
use super::ticket::{Place, Ticket};
use crate::event::{self, Event, PassThrough};
use crate::resource::Key;

const PREFIX: &str = "knats.deadletter.";
/// Look-ups under way at once while letters lie close together. Each may bring a message of the server's `max_payload`.
const MAX_AHEAD: u64 = 32;
const HEADER: &str = "ce-specversion";

/// Which message of the stream is meant: a stream that was made anew counts its sequences from 1 once more, but not the same
/// moment of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LetterId {
    pub sequence: u64,
    pub kept_at: Timestamp,
}

/// A message of the stream of dead letters.
#[derive(Debug, Clone)]
pub struct Letter {
    pub place: LetterId,
    pub namespace: String,
    pub subscription: String,
    /// The channel or broker it came from, as far as that was kept.
    pub channel: Option<Key>,
    /// Stream and sequence where it was first, as far as that was kept.
    pub origin: Option<(String, u64)>,
    /// The message's payload: the event's data, or whatever a message that is no event holds.
    pub data: Bytes,
    pub content: Content,
}

/// What a letter holds.
#[derive(Debug, Clone)]
pub enum Content {
    Event(Box<KeptEvent>),
    /// No event, and why not; it cannot be delivered, whatever a sink might say.
    Poison(String),
}

/// An event whose delivery was given up.
#[derive(Debug, Clone)]
pub struct KeptEvent {
    /// Without the attributes that tell of the failure.
    pub event: Event,
    pub pass_through: PassThrough,
    pub failure: Failure,
}

/// What went wrong last, as far as there was room to keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// The status of the answer; 500 when there was none.
    pub code: Option<u16>,
    /// Who answered so.
    pub dest: Option<String>,
    /// The beginning of the answer's body.
    pub body: Option<Vec<u8>>,
}

/// How the stream keeps its letters, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeadLetterKeeping)]
pub struct Keeping {
    pub letters: u64,
    pub bytes: u64,
    pub last_sequence: u64,
    /// Seconds; absent when letters are kept for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
    /// Absent when there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    pub replicas: u64,
}

/// One letter after the other, in the order of the stream. Holds a bounded number at a time, and stops at what was the last one
/// when it began.
pub struct Letters {
    api: Api,
    subject: String,
    next: u64,
    last: u64,
    /// How many sequences are looked up at once: many where letters lie close together, few where they are far between.
    width: u64,
    ahead: VecDeque<Letter>,
}

/// The state and the limits of the stream; `None` when there is no such stream, and so not one dead letter.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn keeping(api: &Api) -> Result<Option<Keeping>, ApiError> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Ok(api.stream_info(STREAM).await?.map(|info| Keeping {
        letters: number(&info["state"]["messages"]),
        bytes: number(&info["state"]["bytes"]),
        last_sequence: number(&info["state"]["last_seq"]),
        max_age_seconds: info["config"]["max_age"]
            .as_u64()
            .filter(|nanos| *nanos > 0)
            .map(|nanos| Duration::from_nanos(nanos).as_secs()),
        max_bytes: info["config"]["max_bytes"].as_i64().and_then(|bytes| u64::try_from(bytes).ok()).filter(|b| *b > 0),
        replicas: number(&info["config"]["num_replicas"]),
    }))
}

/// All letters, or those of one subscription; of these what lies after one sequence and up to another.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn letters(
    api: &Api,
    subscription: Option<&Key>,
    after: Option<u64>,
    until: Option<u64>,
) -> Result<Letters, ApiError> {
    let last = keeping(api).await?.map_or(0, |keeping| keeping.last_sequence).min(until.unwrap_or(u64::MAX));
    let next = after.unwrap_or(0).saturating_add(1);
    let subject = subscription.map_or_else(|| format!("{PREFIX}>"), name::dead_letter_subject);
    Ok(Letters { api: api.clone(), subject, next, last, width: 1, ahead: VecDeque::new() })
}

/// The letter at exactly that sequence.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn letter(api: &Api, sequence: u64) -> Result<Option<Letter>, ApiError> {
    Ok(api.stored_message(STREAM, sequence).await?.map(Letter::read))
}

/// Takes a letter out of the stream, unless it is gone or another one is in its place.
///
/// # Errors
/// When JetStream does not answer or says no; the letter may be gone all the same.
pub async fn remove(api: &Api, place: LetterId) -> Result<(), ApiError> {
    match letter(api, place.sequence).await? {
        Some(letter) if letter.place == place => api.delete_message(STREAM, place.sequence).await,
        Some(_) | None => Ok(()),
    }
}

impl Letters {
    /// The next letter; `None` after the last. Can be dropped and called again at any time.
    ///
    /// # Errors
    /// When JetStream does not answer or says no; calling it again goes on.
    pub async fn next(&mut self) -> Result<Option<Letter>, ApiError> {
        while self.ahead.is_empty() && self.next <= self.last {
            self.look().await?;
        }
        Ok(self.ahead.pop_front())
    }

    /// Asks for the first letters from as many sequences on. What lies between the first and the last of the answers is among
    /// them: nothing is passed over, wherever the letters lie.
    async fn look(&mut self) -> Result<(), ApiError> {
        let until = self.last.min(self.next.saturating_add(self.width - 1));
        let questions = (self.next..=until).map(|from| self.api.next_message(STREAM, &self.subject, from));
        let answers = try_join_all(questions).await?;
        let is_end = answers.iter().any(Option::is_none);
        let found: BTreeMap<u64, StoredMessage> =
            answers.into_iter().flatten().map(|message| (message.sequence, message)).collect();
        let distinct = u64::try_from(found.len()).unwrap_or(u64::MAX);
        self.width = if distinct == self.width { (distinct * 2).min(MAX_AHEAD) } else { distinct.max(1) };
        self.next = match found.keys().next_back() {
            Some(last) if !is_end => last + 1,
            _ => u64::MAX,
        };
        self.ahead.extend(found.into_values().filter(|message| message.sequence <= self.last).map(Letter::read));
        Ok(())
    }
}

impl Letter {
    pub(super) fn read(message: StoredMessage) -> Self {
        let find = |wanted: &str| {
            let mut headers = message.header_pairs();
            headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        let (namespace, subscription) = owner(&message.subject);
        let origin = find(ORIGIN_STREAM)
            .and_then(|stream| Some((stream, find(ORIGIN_SEQUENCE)?.parse().ok()?)))
            .filter(|(stream, _): &(String, u64)| !stream.is_empty());
        let content = match (find(REASON), find(HEADER)) {
            (Some(reason), _) => Content::Poison(reason),
            (None, None) => Content::Poison("it is kept without a word of what it is".to_owned()),
            (None, Some(_)) => {
                KeptEvent::read(&message).map_or_else(Content::Poison, |kept| Content::Event(Box::new(kept)))
            }
        };
        Self {
            place: LetterId { sequence: message.sequence, kept_at: message.stored_at },
            namespace,
            subscription,
            channel: find(ORIGIN_CHANNEL).and_then(|channel| channel.parse().ok()),
            origin,
            data: message.payload,
            content,
        }
    }

    /// Whether it belongs to that subscription.
    pub fn is_of(&self, subscription: &Key) -> bool {
        self.namespace == subscription.namespace() && self.subscription == subscription.name()
    }

    pub fn event(&self) -> Option<&KeptEvent> {
        match &self.content {
            Content::Event(kept) => Some(kept),
            Content::Poison(_) => None,
        }
    }
}

impl KeptEvent {
    fn read(message: &StoredMessage) -> Result<Self, String> {
        let origin = event::nats::Origin {
            stream: STREAM,
            sequence: message.sequence,
            subject: &message.subject,
            stored_at_nanos: message.stored_at.as_nanosecond(),
        };
        let (mut event, pass_through) =
            event::nats::decode(message.header_pairs(), message.payload.clone(), origin).map_err(|e| e.to_string())?;
        let failure = Failure {
            code: event.attribute("knativeerrorcode").and_then(|code| code.parse().ok()),
            dest: event.attribute("knativeerrordest").map(str::to_owned),
            body: event.attribute("knativeerrordata").and_then(|data| STANDARD.decode(data).ok()),
        };
        for attribute in ERROR_ATTRIBUTES {
            event.remove_extension(attribute);
        }
        Ok(Self { event, pass_through, failure })
    }

    /// The event as a delivery of it has it, with nobody to acknowledge it to. `attempt` counts from 1.
    pub fn into_stored(self, place: LetterId, attempt: u64, of_broker: bool) -> Stored {
        let Self { mut event, pass_through, .. } = self;
        let ttl = if of_broker { broker::take_ttl(&mut event) } else { None };
        let ticket = Ticket::of_kept(Place {
            delivered: attempt,
            stream_sequence: place.sequence,
            consumer_sequence: 0,
            stored_at_nanos: place.kept_at.as_nanosecond(),
        });
        Stored { event, pass_through, ttl, ticket }
    }
}

/// Namespace and name of the subscription in `knats.deadletter.NAMESPACE.NAME`: namespaces have no dots, names may have.
fn owner(subject: &str) -> (String, String) {
    let rest = subject.strip_prefix(PREFIX).unwrap_or(subject);
    let (namespace, name) = rest.split_once('.').unwrap_or((rest, ""));
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn letter(headers: &[(&str, &str)], payload: &str) -> Letter {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Letter::read(StoredMessage {
            sequence: 7,
            subject: "knats.deadletter.default.a.b".to_owned(),
            stored_at: Timestamp::UNIX_EPOCH,
            headers: format!("NATS/1.0\r\n{lines}\r\n").into_bytes(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        })
    }

    #[test]
    fn the_name_of_a_subscription_may_have_dots() {
        assert_eq!(owner("knats.deadletter.default.sub"), ("default".into(), "sub".into()));
        assert_eq!(owner("knats.deadletter.default.a.b.c"), ("default".into(), "a.b.c".into()));
        assert_eq!(owner("knats.deadletter.odd"), ("odd".into(), String::new()));
    }

    #[test]
    fn an_event_comes_without_its_failure_which_is_told_beside_it() {
        let read = letter(
            &[
                ("ce-specversion", "1.0"),
                ("ce-id", "1"),
                ("ce-source", "/s"),
                ("ce-type", "t"),
                ("ce-knativeerrorcode", "503"),
                ("ce-knativeerrordest", "http://sink"),
                ("ce-knativeerrordata", "ZG93bg=="),
                ("Knats-Channel", "default/foo"),
                ("Knats-Stream", "KN_DEFAULT__FOO"),
                ("Knats-Sequence", "3"),
            ],
            "x",
        );
        let kept = read.event().unwrap();
        let failure = Failure { code: Some(503), dest: Some("http://sink".into()), body: Some(b"down".to_vec()) };
        assert_eq!(kept.failure, failure);
        assert!(ERROR_ATTRIBUTES.iter().all(|name| kept.event.attribute(name).is_none()));
        assert!(read.is_of(&Key::new("default", "a.b").unwrap()));
        assert_eq!(read.channel, Key::new("default", "foo"));
        assert_eq!(read.origin, Some(("KN_DEFAULT__FOO".into(), 3)));
    }

    #[test]
    fn what_is_no_event_is_told_as_such() {
        for (headers, reason) in [
            (&[("Knats-Reason", "no source"), ("Knats-Stream", "S"), ("Knats-Sequence", "1")][..], "no source"),
            (&[], "without a word"),
            (&[("ce-specversion", "1.0")], "id"),
        ] {
            let Content::Poison(told) = letter(headers, "x").content else { panic!("{headers:?}") };
            assert!(told.contains(reason), "{told}");
        }
    }
}

//! The stream `KN_ATTEMPTS`: what was tried with which event and what came of it, for those who ask later. A log, not a ledger:
//! whatever cannot be written at once is left out, and no delivery ever waits for it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::api::{Api, ApiError};
use super::connect::Connection;
use super::stream::nanos;
use crate::resource::Key;
use crate::telemetry::Counter;

/// The stream that keeps the log of attempts.
pub const STREAM: &str = "KN_ATTEMPTS";
const SUBJECTS: &str = "knats.attempt.>";
/// Records beyond this push out the oldest. With a record of one or two kilobytes that is 200 MB at most.
const MAX_MESSAGES: u64 = 100_000;
/// Records of one event of one subscription: its retries, and a few redrives.
const MAX_PER_SUBJECT: u64 = 64;
/// Hexadecimal digits of the hash of an event's id in the subject.
const HASH_DIGITS: usize = 16;
/// Records on their way to the stream. What comes while so many wait is left out.
const QUEUE: usize = 1024;
/// The longest attribute, in characters, that a record shows whole.
const MAX_TEXT: usize = 1024;

/// Which attempts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    Off,
    /// Those of events that failed at least once, and those of replies, dead letters and redrives.
    #[default]
    Failures,
    All,
}

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub max_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::default(), max_age: Self::DEFAULT_MAX_AGE }
    }
}

impl Settings {
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
}

/// One request to a sink and what followed from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When the request began.
    pub time: Timestamp,
    pub namespace: String,
    pub subscription: String,
    /// Where the event is stored.
    pub stream: String,
    pub sequence: u64,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Counts from 1: deliveries to the subscriber, or tries of a reply or of a dead letter.
    pub attempt: u64,
    pub purpose: Purpose,
    /// The URL, without user and password.
    pub sink: String,
    /// How long the request took, in milliseconds.
    pub duration_ms: f64,
    /// The status of the answer; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<u16>,
    /// The beginning of a refusal's body, or why there was no answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    pub next: Next,
    /// When the retry is due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_at: Option<Timestamp>,
    /// Whether this was the redrive of a kept dead letter.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub redrive: bool,
}

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    Subscriber,
    Reply,
    DeadLetter,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// The event is acknowledged.
    Settled,
    /// The answer is sent on.
    Reply,
    /// It is tried again later.
    Retry,
    /// The event goes to the dead letter sink.
    DeadLetterSink,
    /// The event is kept in `KN_DEADLETTERS`.
    Kept,
}

/// Writes to the log. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {
    level: Level,
    queue: mpsc::Sender<Attempt>,
    dropped: Arc<Counter>,
}

/// Brings the stream into place, with the age limit that was asked for.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn ensure(api: &Api, max_age: Duration) -> Result<(), ApiError> {
    let max_age = json!(nanos(max_age));
    if let Some(mut config) = api.stream_config(STREAM).await? {
        if config["max_age"] != max_age {
            config["max_age"] = max_age;
            api.update_stream(STREAM, &config).await?;
        }
        return Ok(());
    }
    let config = json!({
        "name": STREAM,
        "subjects": [SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": 1,
        "max_age": max_age,
        "max_msgs": MAX_MESSAGES,
        "max_msgs_per_subject": MAX_PER_SUBJECT,
        "allow_direct": true,
    });
    match api.create_stream(STREAM, &config).await {
        // Another bridge was faster.
        Err(ApiError::Refused { .. }) if api.stream_config(STREAM).await?.is_some() => Ok(()),
        created => created.map(|_| ()),
    }
}

/// Where the attempts of one event at one subscription are: `knats.attempt.NAMESPACE.SUBSCRIPTION.HASH`.
pub fn subject(subscription: &Key, event_id: &str) -> String {
    format!("knats.attempt.{}.{}.{}", subscription.namespace(), subscription.name(), hash(event_id))
}

/// The token that stands for an event's id, which may hold anything.
pub fn hash(event_id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, event_id.as_bytes());
    hash.as_ref()[..HASH_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl AttemptLog {
    /// The log and the work of writing it, which ends when nobody holds the log any more. Counts what it leaves out.
    pub fn new(connection: Connection, level: Level, dropped: Arc<Counter>) -> (Self, impl Future<Output = ()>) {
        let (queue, attempts) = mpsc::channel(QUEUE);
        (Self { level, queue, dropped }, write(connection, attempts))
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Writes one record unless too many are on their way.
    pub fn record(&self, attempt: Attempt) {
        // Full: the log is behind, and deliveries do not wait for it.
        if self.queue.try_send(attempt).is_err() {
            self.dropped.add(1);
        }
    }
}

async fn write(connection: Connection, mut attempts: mpsc::Receiver<Attempt>) {
    while let Some(mut attempt) = attempts.recv().await {
        let Some(key) = Key::new(&attempt.namespace, &attempt.subscription) else { continue };
        let subject = subject(&key, &attempt.id);
        for text in [&mut attempt.id, &mut attempt.source, &mut attempt.kind, &mut attempt.sink] {
            shorten(text);
        }
        if let Ok(record) = serde_json::to_vec(&attempt) {
            connection.tell(&subject, record).await;
        }
    }
}

fn shorten(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_id_of_any_form_is_one_token_of_a_subject() {
        let key = Key::new("default", "a.b").unwrap();
        for id in ["1", "a.b *> \u{1f600}", &"x".repeat(5000)] {
            let subject = subject(&key, id);
            let token = subject.strip_prefix("knats.attempt.default.a.b.").unwrap();
            assert!(token.len() == HASH_DIGITS && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{subject}");
        }
        assert_ne!(hash("1"), hash("2"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut text = "é".repeat(MAX_TEXT + 1);
        shorten(&mut text);
        assert_eq!(text.chars().count(), MAX_TEXT + 1);
        let mut short = "é".repeat(MAX_TEXT);
        shorten(&mut short);
        assert_eq!(short.chars().count(), MAX_TEXT);
    }
}

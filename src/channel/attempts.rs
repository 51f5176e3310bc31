//! The stream `KN_ATTEMPTS`: what was tried with which event and what came of it, for those who ask later. A log, not a ledger:
//! whatever cannot be written at once is left out, and no delivery ever waits for it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::api::{Api, ApiError};
use super::connect::Connection;
use super::name::covers;
use super::stream::{EnsureError, nanos};
use crate::resource::Key;
use crate::telemetry::Counter;

/// The stream that keeps the log of attempts.
pub const STREAM: &str = "KN_ATTEMPTS";
const SUBJECTS: &str = "knats.attempt.>";
/// Records beyond this push out the oldest. With a record of one or two kilobytes that is 200 MB at most.
const MAX_MESSAGES: u64 = 100_000;
/// Records of one event of one subscription: its retries, and a few redrives.
const MAX_PER_SUBJECT: u64 = 64;
/// Records of one event that are read: those of sixteen subscriptions at least.
const MAX_READ: usize = 1024;
/// Hexadecimal digits of the hash of an event's id in the subject.
const HASH_DIGITS: usize = 16;
/// Records on their way to the stream. What comes while so many wait is left out.
const QUEUE: usize = 1024;
/// How long the stream counts as being in place after it was looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttemptPurpose)]
pub enum Purpose {
    Subscriber,
    Reply,
    DeadLetter,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttemptNext)]
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

impl Attempt {
    /// With its texts cut to what a record may hold.
    pub(super) fn shortened(mut self) -> Self {
        for text in [&mut self.id, &mut self.source, &mut self.kind, &mut self.sink] {
            shorten(text);
        }
        self
    }
}

/// Writes to the log. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {
    level: Level,
    queue: mpsc::Sender<Attempt>,
    dropped: Arc<Counter>,
}

/// How far back the log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// There is no log.
    Absent,
    /// Older records have been removed, by their age or because there were too many.
    From(Timestamp),
}

/// Brings the stream into place. One that is there gets the age limit when `limit` says so.
///
/// # Errors
/// When JetStream does not answer or says no, or a stream of that name keeps something else; that one is left alone.
async fn ensure(api: &Api, max_age: Duration, limit: bool) -> Result<(), EnsureError> {
    let max_age = json!(nanos(max_age));
    if let Some(info) = api.stream_info(STREAM).await? {
        let mut config = info["config"].clone();
        if !is_ours(&config) {
            return Err(EnsureError::CannotChange {
                asset: format!("stream {STREAM}"),
                differences: format!("subjects are wanted to be [\"{SUBJECTS}\"] and are {}", config["subjects"]),
                cause: "it keeps something else; delivery goes on, attempts are not logged".to_owned(),
            });
        }
        if limit && config["max_age"] != max_age {
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
        Err(ApiError::Refused { .. }) if api.stream_info(STREAM).await?.is_some() => Ok(()),
        created => Ok(created.map(|_| ())?),
    }
}

fn is_ours(config: &Value) -> bool {
    let subjects = config["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str);
    subjects.into_iter().any(|pattern| covers(pattern, SUBJECTS))
}

/// What is known of the attempts of the events with this id, oldest first; of those with another source, too, unless one is
/// named.
///
/// # Errors
/// When JetStream does not answer or says no; that there is no log is none.
pub async fn of_id(api: &Api, id: &str, source: Option<&str>) -> Result<Vec<Attempt>, ApiError> {
    let (subject, id, source) = (format!("knats.attempt.{}.>", hash(id)), shown(id), source.map(shown));
    let (mut found, mut from) = (Vec::new(), 1);
    while found.len() < MAX_READ
        && let Some(message) = api.next_message(STREAM, &subject, from).await?
    {
        from = message.sequence + 1;
        // What somebody else has put there is none of ours.
        let record: Option<Attempt> = serde_json::from_slice(&message.payload).ok();
        found.extend(
            record.filter(|record| record.id == id && source.as_ref().is_none_or(|source| record.source == *source)),
        );
    }
    found.sort_by_key(|record| record.time);
    Ok(found)
}

/// How far back the log reaches.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn reach(api: &Api, now: Timestamp) -> Result<Reach, ApiError> {
    let Some(info) = api.stream_info(STREAM).await?.filter(|info| is_ours(&info["config"])) else {
        return Ok(Reach::Absent);
    };
    let time = |value: &Value| value.as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let made = time(&info["created"]).unwrap_or(Timestamp::UNIX_EPOCH);
    let max_age = info["config"]["max_age"].as_u64().filter(|age| *age > 0).map(Duration::from_nanos);
    let by_age = max_age.and_then(|age| now.checked_sub(age).ok()).unwrap_or(made);
    let limit = info["config"]["max_msgs"].as_u64().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let is_full = info["state"]["messages"].as_u64().unwrap_or(0) >= limit;
    let by_count = time(&info["state"]["first_ts"]).filter(|_| is_full).unwrap_or(made);
    Ok(Reach::From(made.max(by_age).max(by_count)))
}

/// Where the attempts of one event at one subscription are: `knats.attempt.HASH.NAMESPACE.SUBSCRIPTION`. The hash comes first,
/// so that those at all subscriptions are one pattern; a name may have several tokens.
pub fn subject(subscription: &Key, event_id: &str) -> String {
    format!("knats.attempt.{}.{}.{}", hash(event_id), subscription.namespace(), subscription.name())
}

/// The token that stands for an event's id, which may hold anything.
pub fn hash(event_id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, event_id.as_bytes());
    hash.as_ref()[..HASH_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl AttemptLog {
    /// The log and the work of writing it, which ends when nobody holds the log any more. Counts what it leaves out.
    pub fn new(connection: Connection, settings: Settings, dropped: Arc<Counter>) -> (Self, impl Future<Output = ()>) {
        let (queue, attempts) = mpsc::channel(QUEUE);
        let (level, max_age) = (settings.level, settings.max_age);
        let writer =
            Writer { level, api: Api::new(connection.clone()), connection, max_age, limited: false, place: None };
        (Self { level: settings.level, queue, dropped }, writer.run(attempts))
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

/// Keeps the stream in place and writes what is recorded. That the stream is there before the first record says from when on
/// nothing failed.
struct Writer {
    level: Level,
    api: Api,
    connection: Connection,
    max_age: Duration,
    /// Whether the stream has had our age limit.
    limited: bool,
    place: Option<Place>,
}

/// What became of the stream when it was looked at last.
struct Place {
    looked: Instant,
    losses: u64,
    result: Result<(), String>,
}

impl Writer {
    async fn run(mut self, mut attempts: mpsc::Receiver<Attempt>) {
        let mut link = self.connection.link();
        loop {
            tokio::select! {
                attempt = attempts.recv() => match attempt {
                    Some(attempt) => self.write(attempt).await,
                    None => return,
                },
                Ok(()) = link.changed() => {
                    self.is_in_place().await;
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {
                    self.is_in_place().await;
                }
            }
        }
    }

    async fn write(&mut self, attempt: Attempt) {
        let Some(key) = Key::new(&attempt.namespace, &attempt.subscription) else { return };
        if !self.is_in_place().await {
            return;
        }
        let subject = subject(&key, &attempt.id);
        if let Ok(record) = serde_json::to_vec(&attempt.shortened()) {
            self.connection.tell(&subject, record).await;
        }
    }

    /// Looks now and then whether the stream is there, and at once after the connection was lost: it may be another server.
    async fn is_in_place(&mut self) -> bool {
        if self.level == Level::Off || !self.connection.is_connected() {
            return false;
        }
        let losses = self.connection.link().borrow().losses;
        if let Some(place) = &self.place
            && place.losses == losses
            && place.looked.elapsed() < LOOK_AGAIN
        {
            return place.result.is_ok();
        }
        // Once in our life: another bridge, or an operator, may want another limit since.
        let result = ensure(&self.api, self.max_age, !self.limited).await.map_err(|error| error.to_string());
        self.limited |= result.is_ok();
        if let Err(reason) = &result
            && self.place.as_ref().is_none_or(|place| place.result.as_ref() != Err(reason))
        {
            tracing::warn!(stream = STREAM, reason, "there is no log of attempts");
        }
        let is_in_place = result.is_ok();
        self.place = Some(Place { looked: Instant::now(), losses, result });
        is_in_place
    }
}

/// A text as a record shows it.
pub fn shown(text: &str) -> String {
    let mut text = text.to_owned();
    shorten(&mut text);
    text
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
            let token = subject.strip_prefix("knats.attempt.").unwrap().strip_suffix(".default.a.b").unwrap();
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

//! The stream `KN_DEADLETTERS`: events that nobody else would take, and messages that are no events. Nothing is dropped.

use std::borrow::Cow;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::name;
use super::publish::{MESSAGE_ID, Prepared, PublishError, Publisher};
use super::pull::RawMessage;
use super::stream::{covers, nanos};
use crate::event::{self, Event, PassThrough};
use crate::resource::Key;

/// The stream that keeps dead letters.
pub const STREAM: &str = "KN_DEADLETTERS";
pub(super) const SUBJECTS: &str = "knats.deadletter.>";
/// A dead letter that is stored again after a crash, within this time, is stored once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(60 * 60);

/// Headers of a message that was set aside as it is: why, and where it stood.
const REASON: &str = "Knats-Reason";
const ORIGIN_STREAM: &str = "Knats-Stream";
const ORIGIN_SEQUENCE: &str = "Knats-Sequence";
const ORIGIN_SUBJECT: &str = "Knats-Subject";
/// Base64, because they may be what made the message unreadable.
const ORIGIN_HEADERS: &str = "Knats-Headers";

/// What tells of a failure and may go where it leaves no room for the event, the longest first.
const ERROR_ATTRIBUTES: [&str; 3] = ["knativeerrordata", "knativeerrordest", "knativeerrorcode"];

/// The longest reason, in characters.
const REASON_CHARS: usize = 500;

/// Puts things into the stream of dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    publisher: Publisher,
}

/// Where an event was when its delivery was given up; makes its kept copy one of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    pub stream: &'a str,
    pub sequence: u64,
}

/// Makes the stream unless it is there; one that is there gets our subjects if it lacks them, and is otherwise left as it is.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn ensure(api: &Api) -> Result<(), ApiError> {
    if let Some(mut config) = api.stream_config(STREAM).await? {
        let subjects = config["subjects"].as_array().cloned().unwrap_or_default();
        if !subjects.iter().filter_map(Value::as_str).any(|pattern| covers(pattern, SUBJECTS)) {
            config["subjects"] = subjects.into_iter().chain([json!(SUBJECTS)]).collect();
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
        "max_age": 0,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
    });
    match api.create_stream(STREAM, &config).await {
        // Another bridge was faster.
        Err(ApiError::Refused { .. }) if api.stream_config(STREAM).await?.is_some() => Ok(()),
        created => created.map(|_| ()),
    }
}

impl DeadLetters {
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher }
    }

    /// Keeps an event, with the attributes that tell of its failure as far as they fit, and in the worst case its data alone;
    /// returns when JetStream has it.
    ///
    /// # Errors
    /// The event is not known to be kept then, and its original must not be acknowledged.
    pub async fn keep(
        &self,
        subscription: &Key,
        provenance: Provenance<'_>,
        event: &Event,
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        let mut letter = Cow::Borrowed(event);
        for dispensable in ERROR_ATTRIBUTES.into_iter().map(Some).chain([None]) {
            let mut message = Prepared::default();
            message.payload =
                event::nats::encode(&letter, pass_through, |name, value| message.header(name, value.into_owned()));
            message
                .header(MESSAGE_ID, message_id(provenance, &subscription.to_string(), event.message_id().as_bytes()));
            match (self.publisher.check_size(&message, None), dispensable) {
                (Ok(()), _) => {
                    return self.publisher.store(STREAM, &name::dead_letter_subject(subscription), message).await;
                }
                (Err(_), Some(attribute)) => letter.to_mut().remove_extension(attribute),
                (Err(_), None) => {}
            }
        }
        // It came in a shorter form than ours: structured, or as no event at all.
        let raw = RawMessage {
            stream: provenance.stream.to_owned(),
            sequence: provenance.sequence,
            subject: String::new(),
            headers: Vec::new(),
            payload: event.data().cloned().unwrap_or_default(),
        };
        let reason = "its delivery failed, and it is too large to be kept with its attributes";
        self.put_aside(subscription, &raw, reason, &subscription.to_string()).await
    }

    /// Sets a message aside that is no event, once for all subscriptions that meet it; returns when JetStream has it.
    ///
    /// # Errors
    /// The message is not known to be kept then, and must not be acknowledged.
    pub async fn set_aside(&self, subscription: &Key, raw: &RawMessage, reason: &str) -> Result<(), PublishError> {
        self.put_aside(subscription, raw, reason, "").await
    }

    /// Once for the same message and `owner`.
    async fn put_aside(
        &self,
        subscription: &Key,
        raw: &RawMessage,
        reason: &str,
        owner: &str,
    ) -> Result<(), PublishError> {
        let subject = name::dead_letter_subject(subscription);
        for detail in [Detail::Full, Detail::Brief] {
            let message = aside(raw, reason, owner, detail);
            if self.publisher.check_size(&message, None).is_ok() {
                return self.publisher.store(STREAM, &subject, message).await;
            }
        }
        self.publisher.store(STREAM, &subject, aside(raw, reason, owner, Detail::None)).await
    }
}

/// How much we say beside the bytes of a message; less where they leave no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Full,
    Brief,
    None,
}

fn aside(raw: &RawMessage, reason: &str, owner: &str, detail: Detail) -> Prepared {
    let mut message = Prepared::default();
    message.payload = raw.payload.clone();
    if detail == Detail::None {
        return message;
    }
    message.header(REASON, one_line(reason));
    message.header(ORIGIN_STREAM, raw.stream.clone());
    message.header(ORIGIN_SEQUENCE, raw.sequence.to_string());
    let provenance = Provenance { stream: &raw.stream, sequence: raw.sequence };
    message.header(MESSAGE_ID, message_id(provenance, owner, &raw.payload));
    if detail == Detail::Full {
        message.header(ORIGIN_SUBJECT, one_line(&raw.subject));
        if !raw.headers.is_empty() {
            message.header(ORIGIN_HEADERS, STANDARD.encode(&raw.headers));
        }
    }
    message
}

/// The same for the same message and owner, so that a crash between keeping and acknowledging keeps one copy. What it holds
/// counts too: a stream that was deleted and made again counts its messages from 1 once more.
fn message_id(provenance: Provenance<'_>, owner: &str, content: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(format!("{}\0{}\0{owner}\0", provenance.stream, provenance.sequence).as_bytes());
    hash.update(content);
    URL_SAFE_NO_PAD.encode(&hash.finish().as_ref()[..16])
}

fn one_line(text: &str) -> String {
    text.chars().take(REASON_CHARS).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

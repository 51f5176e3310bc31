//! The stream `KN_DEADLETTERS`: events that nobody else would take, and messages that are no events. Nothing is dropped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::name;
use super::name::covers;
use super::plan::{Step, listed};
use super::pub_ack;
use super::publish::{MESSAGE_ID, Prepared, PublishError, Publisher};
use super::pull::RawMessage;
use super::stream::nanos;
use crate::event::{self, Event, PassThrough};
use crate::resource::Key;

/// The stream that keeps dead letters.
pub const STREAM: &str = "KN_DEADLETTERS";
pub(super) const SUBJECTS: &str = "knats.deadletter.>";
/// A dead letter that is stored again after a crash, within this time, is stored once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(60 * 60);

/// Where a kept event or message stood.
pub const ORIGIN_CHANNEL: &str = "Knats-Channel";
pub const ORIGIN_STREAM: &str = "Knats-Stream";
pub const ORIGIN_SEQUENCE: &str = "Knats-Sequence";
/// Headers of a message that was set aside as it is: why, and what it was.
pub(super) const REASON: &str = "Knats-Reason";
const ORIGIN_SUBJECT: &str = "Knats-Subject";
/// Base64, because they may be what made the message unreadable.
const ORIGIN_HEADERS: &str = "Knats-Headers";

/// What tells of a failure and may go where it leaves no room for the event, the longest first.
pub const ERROR_ATTRIBUTES: [&str; 3] = ["knativeerrordata", "knativeerrordest", "knativeerrorcode"];

/// How often a letter may be taken away and kept again within the duplicate window.
const MAX_ANEW: usize = 16;

/// The longest reason, in characters.
const REASON_CHARS: usize = 500;

/// Puts things into the stream of dead letters.
#[derive(Clone)]
pub struct DeadLetters {
    publisher: Publisher,
    api: Api,
}

/// Where an event was when its delivery was given up.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    pub channel: &'a Key,
    /// Stream and sequence of the delivery; they make the kept copy one of a kind. Of a redriven event that is its kept copy.
    pub delivered: (&'a str, u64),
    /// Stream and sequence in the channel, as far as they are known.
    pub origin: Option<(&'a str, u64)>,
}

/// What an operator asks of the stream; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// How long a dead letter is kept; zero is for ever.
    pub max_age: Option<Duration>,
    /// All dead letters together, in bytes; zero is no limit.
    pub max_bytes: Option<u64>,
    /// Servers of a cluster that hold a copy each.
    pub replicas: Option<u8>,
}

impl Retention {
    fn apply(self, config: &mut Value) {
        if let Some(age) = self.max_age {
            config["max_age"] = json!(nanos(age));
            // The server wants the window to be no longer than the age.
            let window = if age.is_zero() { DUPLICATE_WINDOW } else { age.min(DUPLICATE_WINDOW) };
            config["duplicate_window"] = json!(nanos(window));
        }
        if let Some(bytes) = self.max_bytes {
            config["max_bytes"] = if bytes == 0 { json!(-1) } else { json!(bytes) };
            // A full stream says no and the event stays where it is, to be given up later; nothing is pushed out unseen.
            config["discard"] = json!(if bytes == 0 { "old" } else { "new" });
        }
        if let Some(replicas) = self.replicas {
            config["num_replicas"] = json!(replicas);
        }
    }
}

/// What has to be done to the stream; one that is there gets our subjects if it lacks them and what `retention` asks for, and is
/// otherwise left as it is.
pub fn plan(info: Option<&Value>, retention: Retention) -> Step {
    let Some(info) = info else { return Step::Create(new_config(retention)) };
    let mut config = info["config"].clone();
    let subjects = config["subjects"].as_array().cloned().unwrap_or_default();
    if !subjects.iter().filter_map(Value::as_str).any(|pattern| covers(pattern, SUBJECTS)) {
        config["subjects"] = subjects.into_iter().chain([json!(SUBJECTS)]).collect();
    }
    retention.apply(&mut config);
    Step::between(&info["config"], config, |_| None)
}

/// Brings the stream into place, as planned.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn ensure(api: &Api, retention: Retention) -> Result<(), ApiError> {
    match plan(api.stream_info(STREAM).await?.as_ref(), retention) {
        Step::Keep | Step::Cannot(_) => Ok(()),
        Step::Update { config, changes } => {
            api.update_stream(STREAM, &config).await?;
            tracing::info!(stream = STREAM, changes = listed(&changes), "stream changed");
            Ok(())
        }
        Step::Create(config) => match api.create_stream(STREAM, &config).await {
            // Another bridge was faster.
            Err(ApiError::Refused { .. }) if api.stream_info(STREAM).await?.is_some() => Ok(()),
            created => created.map(|_| ()),
        },
    }
}

fn new_config(retention: Retention) -> Value {
    let mut config = json!({
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
    retention.apply(&mut config);
    config
}

/// Kept dead letters by the subject that names their subscription.
///
/// # Errors
/// When JetStream does not answer or says no; a stream that is not there has none.
pub async fn depths(api: &Api) -> Result<BTreeMap<String, u64>, ApiError> {
    let mut found = BTreeMap::new();
    loop {
        let (page, total) = match api.subject_counts(STREAM, SUBJECTS, found.len()).await {
            Err(ApiError::NotFound(_)) => return Ok(found),
            page => page?,
        };
        let before = found.len();
        found.extend(page);
        if found.len() == before || found.len() >= total {
            return Ok(found);
        }
    }
}

impl DeadLetters {
    pub fn new(publisher: Publisher, api: Api) -> Self {
        Self { publisher, api }
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
        let (stream, sequence) = provenance.delivered;
        let message_id = message_id(stream, sequence, &subscription.to_string(), event.message_id().as_bytes());
        let mut tells_origin = true;
        for dispensable in [ORIGIN_CHANNEL].into_iter().chain(ERROR_ATTRIBUTES).map(Some).chain([None]) {
            let told = tells_origin.then_some(provenance);
            let compose = |message_id: &str| kept(&letter, pass_through, told, message_id);
            match (self.publisher.check_size(&compose(&message_id), None), dispensable) {
                (Ok(()), _) => return self.store_once(subscription, message_id, compose).await,
                (Err(_), Some(ORIGIN_CHANNEL)) => tells_origin = false,
                (Err(_), Some(attribute)) => letter.to_mut().remove_extension(attribute),
                (Err(_), None) => {}
            }
        }
        if stream == STREAM {
            // The copy that it was redriven from has more of it than its data.
            return Err(PublishError::TooLarge("it does not fit into a message as it was kept before".to_owned()));
        }
        // It came in a shorter form than ours: structured, or as no event at all.
        let raw = RawMessage {
            stream: stream.to_owned(),
            sequence,
            subject: String::new(),
            headers: Vec::new(),
            payload: event.data().cloned().unwrap_or_default(),
        };
        let reason = "its delivery failed, and it is too large to be kept with its attributes";
        self.put_aside(subscription, provenance.channel, &raw, reason, &subscription.to_string()).await
    }

    /// Sets a message aside that is no event, once for all subscriptions that meet it; returns when JetStream has it.
    ///
    /// # Errors
    /// The message is not known to be kept then, and must not be acknowledged.
    pub async fn set_aside(
        &self,
        subscription: &Key,
        channel: &Key,
        raw: &RawMessage,
        reason: &str,
    ) -> Result<(), PublishError> {
        self.put_aside(subscription, channel, raw, reason, "").await
    }

    /// Once for the same message and `owner`.
    async fn put_aside(
        &self,
        subscription: &Key,
        channel: &Key,
        raw: &RawMessage,
        reason: &str,
        owner: &str,
    ) -> Result<(), PublishError> {
        let message_id = message_id(&raw.stream, raw.sequence, owner, &raw.payload);
        for detail in [Detail::Full, Detail::Brief] {
            let compose = |message_id: &str| aside(channel, raw, reason, message_id, detail);
            if self.publisher.check_size(&compose(&message_id), None).is_ok() {
                return self.store_once(subscription, message_id, compose).await;
            }
        }
        let bare = aside(channel, raw, reason, "", Detail::None);
        // The server takes less than when it was stored. It would close the connection, for everybody, every time we try.
        self.publisher.check_size(&bare, None)?;
        self.publisher.store(STREAM, &name::dead_letter_subject(subscription), bare).await.map(drop)
    }

    /// Stores the message that `compose` makes for a dedupe id, unless one with that id is there already. One that was there and
    /// has been taken away since, redriven or discarded, is no reason to have none: JetStream drops the message all the same as
    /// long as its duplicate window lasts, so it is stored under another id, the same one for every repetition.
    async fn store_once(
        &self,
        subscription: &Key,
        mut message_id: String,
        compose: impl Fn(&str) -> Prepared,
    ) -> Result<(), PublishError> {
        let subject = name::dead_letter_subject(subscription);
        for _ in 0..MAX_ANEW {
            let ack = self.publisher.store(STREAM, &subject, compose(&message_id)).await?;
            let Some(earlier) = pub_ack::duplicate_of(&ack) else { return Ok(()) };
            match self.api.stored_message(STREAM, earlier).await {
                // Whoever may not look has to believe JetStream.
                Ok(Some(_)) | Err(ApiError::Denied(_)) => return Ok(()),
                Ok(None) => message_id = format!("{message_id}.{earlier}"),
                Err(error) => {
                    let text = format!("whether the copy at {earlier} is still there cannot be seen: {error}");
                    return Err(PublishError::Refused(text));
                }
            }
        }
        Err(PublishError::Refused(format!("it was kept and taken away {MAX_ANEW} times within the duplicate window")))
    }
}

/// A dead letter as it is kept.
fn kept(letter: &Event, pass_through: &PassThrough, provenance: Option<Provenance<'_>>, message_id: &str) -> Prepared {
    let mut message = Prepared::default();
    message.payload = event::nats::encode(letter, pass_through, &mut message.headers);
    message.header(MESSAGE_ID, message_id);
    if let Some(provenance) = provenance {
        message.header(ORIGIN_CHANNEL, provenance.channel.to_string());
        if let Some((stream, sequence)) = provenance.origin {
            message.header(ORIGIN_STREAM, stream);
            message.header(ORIGIN_SEQUENCE, sequence.to_string());
        }
    }
    message
}

/// How much we say beside the bytes of a message; less where they leave no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Full,
    Brief,
    None,
}

fn aside(channel: &Key, raw: &RawMessage, reason: &str, message_id: &str, detail: Detail) -> Prepared {
    let mut message = Prepared { payload: raw.payload.clone(), ..Prepared::default() };
    if detail == Detail::None {
        return message;
    }
    message.header(REASON, one_line(reason));
    message.header(ORIGIN_STREAM, raw.stream.clone());
    message.header(ORIGIN_SEQUENCE, raw.sequence.to_string());
    message.header(MESSAGE_ID, message_id);
    if detail == Detail::Full {
        message.header(ORIGIN_CHANNEL, channel.to_string());
        message.header(ORIGIN_SUBJECT, one_line(&raw.subject));
        if !raw.headers.is_empty() {
            message.header(ORIGIN_HEADERS, STANDARD.encode(&raw.headers));
        }
    }
    message
}

/// The same for the same message and owner, so that a crash between keeping and acknowledging keeps one copy. What it holds
/// counts too: a stream that was deleted and made again counts its messages from 1 once more.
fn message_id(stream: &str, sequence: u64, owner: &str, content: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(format!("{stream}\0{sequence}\0{owner}\0").as_bytes());
    hash.update(content);
    URL_SAFE_NO_PAD.encode(&hash.finish().as_ref()[..16])
}

fn one_line(text: &str) -> String {
    text.chars().take(REASON_CHARS).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

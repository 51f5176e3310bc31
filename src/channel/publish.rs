//! Publishing with acknowledgement: an event counts as stored when JetStream's PubAck for it is here, and never before.
//!
//! The acknowledgements come back over one inbox of ours instead of the client's request multiplexer, because that one keeps
//! a token for every request that is never answered and waits out the whole timeout after the connection is lost.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::broker;
use super::connect::Connection;
use crate::event::{self, Event, PassThrough};
use crate::resource::{ChannelKind, Key};
use crate::telemetry::ChannelMeter;

/// JetStream's header for its duplicate window (ADR-22).
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// `NATS/1.0\r\n` and the empty line that ends the headers.
const HEADER_FRAME: usize = 12;
/// Colon, space and line end of one header as the client writes it.
const HEADER_LINE: usize = 4;

/// Where events of one channel go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The stream that has to acknowledge them.
    pub stream: String,
    pub subject: String,
    /// Whether the events are subject to a broker's rules.
    pub kind: ChannelKind,
    /// The largest message the stream takes (`maxMsgSize`), headers included, in bytes; `None` when only the server's
    /// `max_payload` bounds it.
    pub max_msg_size: Option<usize>,
    /// Counts what the channel takes in.
    pub meter: Arc<ChannelMeter>,
}

/// The declared channels; `None` for one whose stream is not in place yet.
pub type Targets = BTreeMap<Key, Option<Target>>;

/// Why an event is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("NATS is not connected")]
    Disconnected,
    #[error("no acknowledgement from JetStream within {0:?}; the event may be stored all the same")]
    NoAck(Duration),
    #[error("no stream takes subject '{0}' right now")]
    NoStream(String),
    #[error("NATS does not permit us to publish to '{0}'")]
    Denied(String),
    #[error("the stream takes no more: {0}")]
    Full(String),
    #[error("the event is too large: {0}")]
    TooLarge(String),
    #[error("JetStream refused the event: {0}")]
    Refused(String),
    #[error("it has come round too often: {} is used up", broker::TTL)]
    TtlUsedUp,
}

/// Publishes on one NATS connection. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    connection: Connection,
    acks: Arc<Acks>,
    ack_timeout: Duration,
    missing: Arc<Notify>,
}

impl Publisher {
    /// Starts to listen for acknowledgements; ends with `stop`.
    ///
    /// # Errors
    /// When the client is closed for good.
    pub async fn start(
        connection: Connection,
        ack_timeout: Duration,
        stop: CancellationToken,
    ) -> Result<Self, PublishError> {
        let inbox = connection.client.new_inbox();
        let subscriber = connection
            .client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| PublishError::Refused(error.to_string()))?;
        let acks = Arc::new(Acks { inbox, next: AtomicU64::new(0), waiting: Mutex::default() });
        let publisher = Self { connection, acks, ack_timeout, missing: Arc::default() };
        tokio::spawn(publisher.clone().collect_acks(subscriber, stop));
        Ok(publisher)
    }

    /// False while there is no connection: nothing can be stored then, and nothing should be tried.
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// The server's limit for one message, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        self.connection.client.max_payload()
    }

    /// Stores one event; returns when JetStream has it.
    ///
    /// # Errors
    /// The event may be stored all the same when the error is [`PublishError::NoAck`].
    pub async fn publish(
        &self,
        target: &Target,
        event: &Event,
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        let (subject, message) = self.prepare(target, event, pass_through, event.message_id())?;
        self.store(&target.stream, &subject, message).await
    }

    /// Stores an event that a delivery leads to: a reply, a dead letter, or the event itself on its way into another channel.
    /// It is stored once for that delivery, however often it is repeated; but it may well have the id and the source of an
    /// event that the stream knows, as replies often have those of the event that they answer.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn forward(
        &self,
        target: &Target,
        event: &Event,
        pass_through: &PassThrough,
        delivery: &str,
    ) -> Result<(), PublishError> {
        let message_id = format!("{}.{delivery}", event.message_id());
        let (subject, message) = self.prepare(target, event, pass_through, message_id)?;
        self.store(&target.stream, &subject, message).await
    }

    /// Stores all events of a request; returns when JetStream has every one. Sizes are checked first, so that an event that is
    /// too large leaves nothing of its batch behind.
    ///
    /// # Errors
    /// The first thing that went wrong; some of the events may be stored then.
    pub async fn publish_all(
        &self,
        target: &Target,
        events: &[Event],
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        let messages: Result<Vec<_>, _> =
            events.iter().map(|event| self.prepare(target, event, pass_through, event.message_id())).collect();
        try_join_all(
            messages?
                .into_iter()
                .map(|(subject, message)| async move { self.store(&target.stream, &subject, message).await }),
        )
        .await?;
        Ok(())
    }

    /// Returns when an event found no stream for its subject: somebody deleted it, or it has no leader.
    pub async fn stream_missing(&self) {
        self.missing.notified().await;
    }

    /// The message of an event, by the rules of its target, and the subject for it.
    fn prepare(
        &self,
        target: &Target,
        event: &Event,
        pass_through: &PassThrough,
        message_id: String,
    ) -> Result<(String, Prepared), PublishError> {
        let (subject, event) = match target.kind {
            ChannelKind::Channel => (target.subject.clone(), Cow::Borrowed(event)),
            ChannelKind::Broker => (broker::subject(&target.subject, event.kind()), Cow::Owned(broker::admit(event)?)),
        };
        let mut message = Prepared::default();
        message.payload =
            event::nats::encode(&event, pass_through, |name, value| message.header(name, value.into_owned()));
        message.header(MESSAGE_ID, message_id);
        self.check_size(&message, target.max_msg_size)?;
        Ok((subject, message))
    }

    pub(super) fn check_size(&self, message: &Prepared, max_msg_size: Option<usize>) -> Result<(), PublishError> {
        let size = message.size();
        let limit = self.max_payload().min(max_msg_size.unwrap_or(usize::MAX));
        if size <= limit {
            return Ok(());
        }
        let text = format!("it needs {size} bytes in JetStream with its headers, and one message may have {limit}");
        Err(PublishError::TooLarge(text))
    }

    /// Publishes and waits until `stream` acknowledges.
    pub(super) async fn store(&self, stream: &str, subject: &str, message: Prepared) -> Result<(), PublishError> {
        if !self.is_connected() {
            return Err(PublishError::Disconnected);
        }
        let waiting = self.acks.expect();
        let denials = self.connection.denials(subject);
        let exchange = async {
            let reply = format!("{}.{}", self.acks.inbox, waiting.token);
            let client = &self.connection.client;
            client
                .publish_with_reply_and_headers(subject.to_owned(), reply, message.headers, message.payload)
                .await
                .map_err(|error| match error.kind() {
                    async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                        PublishError::TooLarge(error.to_string())
                    }
                    _ => PublishError::Refused(error.to_string()),
                })?;
            tokio::select! {
                answer = waiting.answer() => answer.unwrap_or(Err(PublishError::Disconnected)),
                () = self.connection.denied(subject, denials) => Err(PublishError::Denied(subject.to_owned())),
            }
        };
        match tokio::time::timeout(self.ack_timeout, exchange).await {
            Ok(Ok(storer)) if storer == stream => Ok(()),
            // None, or that of somebody else, who will not hand the event on to our subscriptions.
            Ok(Ok(_) | Err(PublishError::NoStream(_))) => {
                self.missing.notify_one();
                Err(PublishError::NoStream(subject.to_owned()))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(PublishError::NoAck(self.ack_timeout)),
        }
    }

    async fn collect_acks(self, mut subscriber: async_nats::Subscriber, stop: CancellationToken) {
        let mut link = self.connection.link();
        let mut losses = link.borrow_and_update().losses;
        loop {
            tokio::select! {
                message = subscriber.next() => match message {
                    Some(message) => self.acks.arrived(&message),
                    None => return,
                },
                Ok(()) = link.changed() => {
                    let now = link.borrow_and_update().losses;
                    if now != losses {
                        losses = now;
                        // Their answers are lost with the connection.
                        self.acks.give_up(self.ack_timeout);
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }
}

/// A message ready to go.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    headers: HeaderMap,
    header_bytes: usize,
    pub(super) payload: Bytes,
}

impl Prepared {
    /// Adds a header unless the client could not carry it; ours are percent-coded ASCII and always pass.
    pub(super) fn header(&mut self, name: &str, value: String) {
        // The infallible-looking `insert` of the client panics where `parse` gives an error.
        if let (Ok(parsed), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            self.header_bytes += name.len() + value.as_str().len() + HEADER_LINE;
            self.headers.append(parsed, value);
        }
    }

    /// What counts against `max_payload` and `maxMsgSize`: headers and payload, in bytes.
    fn size(&self) -> usize {
        HEADER_FRAME + self.header_bytes + self.payload.len()
    }
}

/// The name of the stream that has stored the message.
type Answer = Result<String, PublishError>;

/// The publishes whose acknowledgement is not here yet.
struct Acks {
    inbox: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Acks {
    fn expect(self: &Arc<Self>) -> Waiting {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(token, sender);
        Waiting { token, receiver, acks: Arc::clone(self) }
    }

    fn arrived(&self, message: &Message) {
        let Some(answer) = read_ack(message) else { return };
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        let sender = token.and_then(|token| self.lock().remove(&token));
        if let Some(sender) = sender {
            // The caller may have left meanwhile.
            let _ = sender.send(answer);
        }
    }

    fn give_up(&self, ack_timeout: Duration) {
        let waiting = std::mem::take(&mut *self.lock());
        for sender in waiting.into_values() {
            let _ = sender.send(Err(PublishError::NoAck(ack_timeout)));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place among the waiting; given up when dropped, so an answer that never comes leaves nothing behind.
struct Waiting {
    token: u64,
    receiver: oneshot::Receiver<Answer>,
    acks: Arc<Acks>,
}

impl Waiting {
    async fn answer(mut self) -> Option<Answer> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.acks.lock().remove(&self.token);
    }
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<Refusal>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// `None` when it is no answer of JetStream: anybody who is subscribed to the subject may answer too.
fn read_ack(message: &Message) -> Option<Answer> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(Err(PublishError::NoStream(String::new())));
    }
    match serde_json::from_slice::<PubAck>(&message.payload) {
        Ok(PubAck { error: Some(refusal), .. }) => Some(Err(classify(refusal))),
        Ok(PubAck { stream, seq, .. }) if !stream.is_empty() && seq > 0 => Some(Ok(stream)),
        _ => {
            tracing::debug!(inbox = %message.subject, "somebody else than JetStream has answered an event");
            None
        }
    }
}

/// Error codes of nats-server (`errors.json` in its sources).
fn classify(refusal: Refusal) -> PublishError {
    let text = format!("{} ({})", refusal.description, refusal.err_code);
    match refusal.err_code {
        // Insufficient resources, memory, storage, stream limits.
        10_023 | 10_028 | 10_047 | 10_077 => PublishError::Full(text),
        // The stream got a smaller `maxMsgSize` than we knew of.
        10_054 => PublishError::TooLarge(text),
        _ => PublishError::Refused(text),
    }
}

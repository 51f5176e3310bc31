//! Publishing with acknowledgement: an event counts as stored when JetStream's PubAck for it is here, and never before.
//!
//! An event is encoded straight into the bytes of its message, and those go into the wire's buffer with the ones of all others
//! that are sent at the moment. A message never leaves after its sender was told that it failed, but for what lies in that
//! buffer when its time is up.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::awaited::{Awaited, End, Waiting};
use super::broker;
use super::pub_ack::{self, Ack};
use super::unanswered::Unanswered;
use super::wire::{self, Message, Subscription, Wire};
use crate::event::{self, Event, Headers, PassThrough, write_attribute};
use crate::fault_point::{Point, at};
use crate::resource::{AllowedSubjects, ChannelKind, Key};
use crate::telemetry::ChannelMeter;

/// JetStream's header for its duplicate window (ADR-22).
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The first line of a header block, and the empty one at its end.
const HEADER_BEGIN: &[u8] = b"NATS/1.0\r\n";
const HEADER_END: usize = 2;
/// What the headers of a usual event take, in bytes.
const USUAL_HEADERS: usize = 512;

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
    /// Whose tokens open the channel, where tokens are checked; `None` for every valid one.
    pub allowed_subjects: Option<AllowedSubjects>,
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

/// Publishes on a wire. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    wire: Wire,
    acks: Arc<Awaited>,
    inbox: Arc<str>,
    _subscription: Arc<Subscription>,
    ack_timeout: Duration,
    missing: Arc<Notify>,
    unanswered: Arc<Unanswered>,
}

/// A message that has been sent.
struct Sent<'a> {
    waiting: Waiting<'a>,
    subject: &'a str,
    /// How many denials there were before it.
    denials: u64,
}

impl Publisher {
    /// Starts to listen for acknowledgements, and counts their time until `stop`.
    pub fn start(wire: Wire, ack_timeout: Duration, stop: CancellationToken) -> Self {
        let inbox = wire.new_inbox();
        let acks = Arc::new(Awaited::default());
        let subscription = wire.subscribe(format!("{inbox}.*"), Arc::clone(&acks) as _);
        tokio::spawn(Arc::clone(&acks).count_time(ack_timeout, stop));
        Self {
            wire,
            acks,
            inbox: inbox.into(),
            _subscription: Arc::new(subscription),
            ack_timeout,
            missing: Arc::default(),
            unanswered: Arc::default(),
        }
    }

    /// False while there is no connection: nothing can be stored then, and nothing should be tried.
    pub fn is_connected(&self) -> bool {
        self.wire.is_connected()
    }

    /// The server's limit for one message, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        self.wire.max_payload()
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
        self.store(&target.stream, &subject, message).await.map(drop)
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
        self.store(&target.stream, &subject, message).await.map(drop)
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
        if let [event] = events {
            return self.publish(target, event, pass_through).await;
        }
        let prepared: Result<Vec<_>, _> =
            events.iter().map(|event| self.prepare(target, event, pass_through, event.message_id())).collect();
        let prepared = prepared?;
        let mut sent = Vec::with_capacity(prepared.len());
        for (subject, message) in &prepared {
            sent.push(at(Point::BatchSent, self.send(subject, message)).await?);
        }
        for publish in sent {
            at(Point::BatchAcknowledged, self.acknowledged(&target.stream, publish)).await?;
        }
        Ok(())
    }

    /// Whether a stream acknowledges nothing at the moment, as far as anybody has tried.
    pub fn is_unanswered(&self, stream: &str) -> bool {
        self.unanswered.contains(stream)
    }

    /// Returns when an event found no stream for its subject, because somebody deleted it or it has no leader, or when nobody
    /// acknowledged it in time, and when that is over.
    pub async fn stream_missing(&self) {
        self.missing.notified().await;
    }

    /// The message of an event, by the rules of its target, and the subject for it.
    fn prepare<'a>(
        &self,
        target: &'a Target,
        event: &Event,
        pass_through: &PassThrough,
        message_id: String,
    ) -> Result<(Cow<'a, str>, Prepared), PublishError> {
        let (subject, event) = match target.kind {
            ChannelKind::Channel => (Cow::Borrowed(target.subject.as_str()), Cow::Borrowed(event)),
            ChannelKind::Broker => {
                (Cow::Owned(broker::subject(&target.subject, event.kind())), Cow::Owned(broker::admit(event)?))
            }
        };
        let mut message = Prepared::default();
        message.payload = event::nats::encode(&event, pass_through, &mut message.headers);
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

    /// Publishes and waits until `stream` acknowledges; gives what it says.
    pub(super) async fn store(&self, stream: &str, subject: &str, message: Prepared) -> Result<Message, PublishError> {
        let sent = at(Point::EventSent, self.send(subject, &message)).await?;
        at(Point::EventAcknowledged, self.acknowledged(stream, sent)).await
    }

    async fn send<'a>(&'a self, subject: &'a str, message: &Prepared) -> Result<Sent<'a>, PublishError> {
        if !wire::is_subject(subject) {
            return Err(PublishError::Refused(format!("'{subject}' is no subject")));
        }
        let denials = self.wire.denials();
        let Some(waiting) = self.acks.expect() else {
            return Err(PublishError::Refused("too many events wait for their acknowledgement".to_owned()));
        };
        let reply = [&self.inbox, ".", itoa::Buffer::new().format(waiting.token)].concat();
        let write = |buffer: &mut Vec<u8>| {
            wire::write_message(buffer, subject, &reply, &message.headers.0, &message.payload);
        };
        let is_sent = match self.wire.try_send(write) {
            Some(is_sent) => is_sent,
            // The server is slower than we are; that is bounded like its answer.
            None => match tokio::time::timeout(self.ack_timeout, self.wire.send(write)).await {
                Ok(is_sent) => is_sent,
                Err(_) => return Err(PublishError::NoAck(self.ack_timeout)),
            },
        };
        if is_sent { Ok(Sent { waiting, subject, denials }) } else { Err(PublishError::Disconnected) }
    }

    /// Waits until `stream` acknowledges.
    async fn acknowledged(&self, stream: &str, sent: Sent<'_>) -> Result<Message, PublishError> {
        let Sent { mut waiting, subject, denials } = sent;
        let end = poll_fn(|cx| match waiting.poll(cx) {
            Poll::Pending if self.wire.denied_since(subject, denials) => Poll::Ready(None),
            poll => poll.map(Some),
        });
        let answer = match end.await {
            Some(End::Answered(message)) => message,
            Some(End::Lost) => return Err(PublishError::NoAck(self.ack_timeout)),
            Some(End::Overdue) => {
                // Somebody should look whether there is anybody at all.
                self.unanswered.add(stream);
                self.missing.notify_one();
                return Err(PublishError::NoAck(self.ack_timeout));
            }
            None => return Err(PublishError::Denied(subject.to_owned())),
        };
        match pub_ack::read(&answer, stream) {
            Ack::Stored => {
                if self.unanswered.remove(stream) {
                    self.missing.notify_one();
                }
                Ok(answer)
            }
            // None, or that of somebody else, who will not hand the event on to our subscriptions.
            Ack::Elsewhere => {
                self.missing.notify_one();
                Err(PublishError::NoStream(subject.to_owned()))
            }
            Ack::Refused(error) => Err(error),
        }
    }
}

/// A message ready to go.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) headers: HeaderBlock,
    pub(super) payload: Bytes,
}

/// The header block of a message but for its end; empty without headers.
#[derive(Debug, Default)]
pub(super) struct HeaderBlock(Vec<u8>);

impl Prepared {
    /// Adds a header unless it cannot be one.
    pub(super) fn header(&mut self, name: &str, value: impl AsRef<str>) {
        self.headers.add(name, value.as_ref());
    }

    /// What counts against `max_payload` and `maxMsgSize`: headers and payload, in bytes.
    fn size(&self) -> usize {
        let headers = self.headers.0.len();
        let end = if headers == 0 { 0 } else { HEADER_END };
        headers + end + self.payload.len()
    }
}

impl HeaderBlock {
    fn begun(&mut self) -> &mut Vec<u8> {
        if self.0.is_empty() {
            self.0.reserve(USUAL_HEADERS);
            self.0.extend_from_slice(HEADER_BEGIN);
        }
        &mut self.0
    }
}

impl Headers for HeaderBlock {
    fn attribute(&mut self, name: &str, value: &str) {
        write_attribute(self.begun(), name, value);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.add(name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        // Without an early end, so that the compiler can look at many bytes at once.
        let is_name = name.bytes().fold(true, |so_far, byte| so_far & byte.is_ascii_graphic() & (byte != b':'));
        if is_name && value.bytes().fold(true, |so_far, byte| so_far & (byte != b'\r') & (byte != b'\n')) {
            let block = self.begun();
            for part in [name, ": ", value, "\r\n"] {
                block.extend_from_slice(part.as_bytes());
            }
        }
    }
}

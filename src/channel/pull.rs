//! Pulling from a consumer: asks for exactly as many messages as there is room for, and knows within seconds when the
//! consumer has gone silent.
//!
//! This speaks the pull protocol itself (ADR-37). The library's streams ask again at half of their batch whether there is room
//! or not, so messages wait in them while their ack wait runs; its one-shot batches lose messages after a heartbeat.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, Sleep};

use super::api::Api;
use super::broker;
use super::consumer::{Consumer, GROUP};
use super::inbox::Inbox;
use super::renewal::Renewal;
use super::stream::nanos;
use super::ticket::{Place, Ticket, Way};
use super::wire::{self, Message, Subscription, Wire, headers};
use crate::event::{self, Event, PassThrough};
use crate::telemetry::Tally;

/// The header that says who a pinned consumer's client is.
const PIN_ID: &str = "Nats-Pin-Id";
/// How long the end of a pull may take.
const STOP: Duration = Duration::from_secs(1);
/// What the server answers while a consumer or a whole JetStream has no leader; the same code as the HTTP one.
const NO_RESPONDERS: u16 = 503;
/// Why a consumer is gone of which nobody has said so.
const REPLACED: &str = "there is none of its name, or another one";
/// Why a message is poison whose headers are none.
pub(super) const UNREADABLE: &str = "its headers cannot be read, expected UTF-8 'name: value' lines";

/// A pull loop's view of one consumer.
pub struct Puller {
    /// How many denials there were when we asked last.
    denials: u64,
    way: Arc<Way>,
    /// Where pulls are asked for.
    next_subject: String,
    subject: String,
    inbox: Arc<Inbox>,
    subscription: Subscription,
    /// Tells answers to the current pull from stragglers of the one before.
    round: u64,
    /// Messages that the current pull may still bring; 0 when none is under way.
    outstanding: usize,
    /// What the server calls us while a pinned consumer gives its messages to us.
    pin: Option<String>,
    renewal: Renewal,
    last_heard: Instant,
    /// The silence after which the pull under way counts as lost.
    patience: Duration,
    /// Ends no later than the silence that is too long; set anew when it has ended.
    silence: Pin<Box<Sleep>>,
    /// Messages that are no deliveries.
    strays: Tally,
}

/// What came out of a pull.
#[derive(Debug)]
pub enum Pulled {
    /// A message that is an event.
    Event(Box<Stored>),
    /// A message that claims to be an event and is none.
    Poison(Box<Poison>),
    /// The pull ran its whole time and there was still room.
    Idle,
    /// A pinned consumer has chosen us, and this is the first message since.
    TookOver(Box<Pulled>),
    /// The pull ended in good order.
    Ended,
}

impl Pulled {
    /// The place of the delivery, when it is one.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Event(stored) => Some(stored.ticket.place()),
            Self::Poison(poison) => Some(poison.ticket.place()),
            Self::TookOver(first) => first.place(),
            Self::Idle | Self::Ended => None,
        }
    }
}

/// An event as the stream holds it, with the duty to settle it.
#[derive(Debug)]
pub struct Stored {
    pub event: Event,
    pub pass_through: PassThrough,
    /// How often it may still come round, when it comes from a broker. Filters and subscribers are not shown it.
    pub ttl: Option<String>,
    pub ticket: Ticket,
}

/// A message that cannot be delivered, whatever a sink might say.
#[derive(Debug)]
pub struct Poison {
    pub message: RawMessage,
    pub reason: String,
    pub ticket: Ticket,
}

/// A stored message as its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    pub stream: String,
    pub sequence: u64,
    pub subject: String,
    /// The header block as NATS sent it, empty when there is none.
    pub headers: Vec<u8>,
    pub payload: bytes::Bytes,
}

/// Why pulling has to start over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("the consumer is gone: {0}")]
    Gone(String),
    /// It is gone, or has no leader at the moment.
    #[error("nobody answers for the consumer")]
    NoLeader,
    #[error("no message and no heartbeat for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the pull was refused: {0}")]
    Refused(String),
}

impl Puller {
    pub fn start(wire: &Wire, api: &Arc<Api>, consumer: Consumer) -> Self {
        let subject = wire.new_inbox();
        let inbox = Arc::new(Inbox::default());
        let now = Instant::now();
        let renewal = Renewal::new(consumer.pinned);
        Self {
            denials: 0,
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", consumer.stream, consumer.name),
            // Before anything can come.
            way: Arc::new(Way::new(wire, api, consumer)),
            subscription: wire.subscribe(format!("{subject}.*"), Arc::clone(&inbox) as _),
            subject,
            inbox,
            round: 0,
            outstanding: 0,
            pin: None,
            renewal,
            last_heard: now,
            patience: renewal.silence(),
            silence: Box::pin(tokio::time::sleep_until(now + renewal.silence())),
            strays: Tally::default(),
        }
    }

    /// Asks for `room` messages, unless a pull is under way. One at a time: while it is being served, more room gathers, so the
    /// busier a subscription is, the more messages one pull brings. Without a connection nobody is asked, and nothing comes.
    pub async fn ask(&mut self, room: usize) {
        if self.outstanding > 0 || room == 0 {
            return;
        }
        self.round += 1;
        let (expires, heartbeat) = (nanos(self.renewal.expires()), nanos(self.renewal.heartbeat()));
        let mut request = json!({ "batch": room, "expires": expires, "idle_heartbeat": heartbeat });
        if self.way.consumer.pinned {
            request["group"] = json!(GROUP);
            request["id"] = json!(self.pin.clone().unwrap_or_default());
        }
        let (request, reply) = (request.to_string(), format!("{}.{}", self.subject, self.round));
        self.outstanding = room;
        self.inbox.expect(room);
        self.last_heard = Instant::now();
        self.patience = self.renewal.silence();
        let too_long = self.last_heard + self.patience;
        if self.silence.deadline() > too_long {
            self.silence.as_mut().reset(too_long);
        }
        let wire = &self.way.wire;
        self.denials = wire.denials();
        wire.send(|buffer| wire::write_message(buffer, &self.next_subject, &reply, b"", request.as_bytes())).await;
    }

    /// The next thing that the pull brings. Can be dropped and called again at any time.
    ///
    /// # Errors
    /// When the consumer is gone or silent.
    pub async fn next(&mut self) -> Result<Pulled, PullError> {
        loop {
            let message = poll_fn(|cx| self.poll_message(cx)).await?;
            self.last_heard = Instant::now();
            if let Some(pulled) = self.take(&message)? {
                return Ok(pulled);
            }
        }
    }

    /// The next thing that has come already; `None` when there is none.
    ///
    /// # Errors
    /// As [`Puller::next`].
    pub fn ready(&mut self) -> Result<Option<Pulled>, PullError> {
        while let Some(message) = self.inbox.take() {
            if let Some(pulled) = self.take(&message)? {
                return Ok(Some(pulled));
            }
        }
        Ok(None)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, PullError>> {
        if let Poll::Ready(message) = self.inbox.poll_take(cx) {
            return Poll::Ready(Ok(message));
        }
        if self.way.consumer.is_gone() {
            return Poll::Ready(Err(PullError::Gone(REPLACED.to_owned())));
        }
        if self.outstanding == 0 {
            return Poll::Pending;
        }
        if self.way.wire.denied_since(&self.next_subject, self.denials) {
            let text = format!("NATS does not permit us to publish to '{}'", self.next_subject);
            return Poll::Ready(Err(PullError::Refused(text)));
        }
        while self.silence.as_mut().poll(cx).is_ready() {
            self.last_heard = self.inbox.heartbeat().map_or(self.last_heard, |heard| heard.max(self.last_heard));
            let too_long = self.last_heard + self.patience;
            if Instant::now() >= too_long {
                return Poll::Ready(Err(PullError::Silent(self.patience)));
            }
            self.silence.as_mut().reset(too_long);
        }
        Poll::Pending
    }

    fn take(&mut self, message: &Message) -> Result<Option<Pulled>, PullError> {
        let Some(ticket) = message.reply().and_then(|reply| Ticket::new(&self.way, reply)) else {
            return match headers::status(message.headers()) {
                Some((status, description)) => self.status(status, description, message.subject()),
                None => {
                    if let Some(count) = self.strays.add() {
                        tracing::warn!(count, "messages without acknowledgement subject in a pull inbox");
                    }
                    Ok(None)
                }
            };
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        self.renewal.brought_something();
        let pulled = read(&self.way.consumer, message, ticket);
        if self.way.consumer.pinned {
            let pin = headers::find(message.headers(), PIN_ID);
            if pin.is_some() && pin != self.pin {
                self.pin = pin;
                return Ok(Some(Pulled::TookOver(Box::new(pulled))));
            }
        }
        Ok(Some(pulled))
    }

    /// Messages that the pull under way may still bring.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether a pinned consumer gives its messages to us, as far as we know.
    pub fn is_chosen(&self) -> bool {
        self.pin.is_some()
    }

    /// Whether a pull is under way.
    pub fn is_asking(&self) -> bool {
        self.outstanding > 0
    }

    /// Stops asking, and gives what has come all the same.
    pub async fn stop(self) -> Vec<Pulled> {
        let Self { subscription, inbox, way, .. } = self;
        // Nothing comes while the connection is down.
        subscription.drain(STOP).await;
        let messages = std::iter::from_fn(|| inbox.take());
        messages
            .filter_map(|message| Some((Ticket::new(&way, message.reply()?)?, message)))
            .map(|(ticket, message)| read(&way.consumer, &message, ticket))
            .collect()
    }

    fn status(&mut self, status: u16, description: String, subject: &[u8]) -> Result<Option<Pulled>, PullError> {
        let round = subject.rsplit(|byte| *byte == b'.').next();
        if round != Some(self.round.to_string().as_bytes()) {
            return Ok(None);
        }
        self.outstanding = 0;
        match status {
            404 | 408 => {
                self.inbox.shrink();
                self.renewal.ran_out();
                Ok(Some(Pulled::Idle))
            }
            NO_RESPONDERS => Err(PullError::NoLeader),
            // Another bridge is the pinned one now.
            423 => {
                self.pin = None;
                Ok(Some(Pulled::Ended))
            }
            409 if description.contains("Consumer Deleted") || description.contains("Stream Deleted") => {
                Err(self.gone(description))
            }
            // A new leader or a server that goes: whoever leads next takes the next pull.
            409 if description.contains("Leadership")
                || description.contains("Shutdown")
                || description.contains("Batch") =>
            {
                Ok(Some(Pulled::Ended))
            }
            code => Err(PullError::Refused(format!("{code} {description}"))),
        }
    }

    fn gone(&self, reason: String) -> PullError {
        self.way.consumer.deleted();
        PullError::Gone(reason)
    }
}

/// The event of a delivery, or what stands in its way.
fn read(consumer: &Consumer, message: &Message, ticket: Ticket) -> Pulled {
    let text = headers::text(message.headers());
    let Some(pairs) = text.as_deref().and_then(headers::pairs) else {
        return poison(consumer, message, ticket, UNREADABLE.to_owned());
    };
    let place = ticket.place();
    let origin = event::nats::Origin {
        stream: &consumer.stream,
        sequence: place.stream_sequence,
        subject: &String::from_utf8_lossy(message.subject()),
        stored_at_nanos: place.stored_at_nanos,
    };
    match event::nats::decode(pairs.iter().copied(), message.to_payload(), origin) {
        Ok((mut event, pass_through)) => {
            let ttl = if consumer.of_broker { broker::take_ttl(&mut event) } else { None };
            Pulled::Event(Box::new(Stored { event, pass_through, ttl, ticket }))
        }
        Err(error) => poison(consumer, message, ticket, error.to_string()),
    }
}

fn poison(consumer: &Consumer, message: &Message, ticket: Ticket, reason: String) -> Pulled {
    let message = RawMessage {
        stream: consumer.stream.clone(),
        sequence: ticket.place().stream_sequence,
        subject: String::from_utf8_lossy(message.subject()).into_owned(),
        headers: message.headers().to_vec(),
        payload: message.to_payload(),
    };
    Pulled::Poison(Box::new(Poison { message, reason, ticket }))
}

//! Pulling from a consumer: asks for exactly as many messages as there is room for, and knows within seconds when the
//! consumer has gone silent.
//!
//! This speaks the pull protocol itself (ADR-37). The client's streams ask again at half of their batch whether there is room
//! or not, so messages wait in them while their ack wait runs; its one-shot batches lose messages after a heartbeat.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::broker;
use super::connect::Connection;
use super::consumer::{Consumer, GROUP};
use super::stream::nanos;
use super::ticket::{Place, Ticket};
use crate::event::{self, Event, PassThrough};
use crate::telemetry::Tally;

/// How long one pull waits at the server before it has to be renewed. When it was for nothing, the consumer is looked at, so
/// this is also how long a consumer that was paused goes unnoticed; 5,000 idle subscriptions make 330 pulls a second.
const EXPIRES: Duration = Duration::from_secs(15);
/// The same for a pinned consumer, which takes a bridge that does not pull for gone.
const EXPIRES_PINNED: Duration = Duration::from_secs(3);
/// The header that says who a pinned consumer's client is.
const PIN_ID: &str = "Nats-Pin-Id";
/// How often the server says that a waiting pull is still known to it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Without a word for so long, the pull is lost.
const SILENCE: Duration = Duration::from_secs(11);
/// How long the end of a pull may take.
const STOP: Duration = Duration::from_secs(1);
/// What the server answers while a consumer or a whole JetStream has no leader; the same code as the HTTP one.
const NO_RESPONDERS: u16 = 503;

/// A pull loop's view of one consumer.
pub struct Puller {
    client: Client,
    connection: Connection,
    /// How often the server had denied us to pull when we asked last.
    denials: u64,
    consumer: Consumer,
    /// Where pulls are asked for.
    next_subject: String,
    inbox: String,
    subscriber: Subscriber,
    /// Tells answers to the current pull from stragglers of the one before.
    round: u64,
    /// Messages that the current pull may still bring; 0 when none is under way.
    outstanding: usize,
    /// What the server calls us while a pinned consumer gives its messages to us.
    pin: Option<String>,
    last_heard: Instant,
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
    /// The pull is alive, or ended in good order.
    Alive,
}

impl Pulled {
    /// The place of the delivery, when it is one.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Event(stored) => Some(stored.ticket.place()),
            Self::Poison(poison) => Some(poison.ticket.place()),
            Self::TookOver(first) => first.place(),
            Self::Idle | Self::Alive => None,
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
    /// The header block as NATS sends it, empty when there is none.
    pub headers: Vec<u8>,
    pub payload: bytes::Bytes,
}

/// Why pulling has to start over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("the consumer is gone: {0}")]
    Gone(String),
    #[error("no message and no heartbeat for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the pull was refused: {0}")]
    Refused(String),
    #[error("the NATS client is closed")]
    Closed,
}

impl Puller {
    /// # Errors
    /// When the client is closed for good.
    pub async fn start(connection: &Connection, consumer: Consumer) -> Result<Self, PullError> {
        let client = connection.client.clone();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await.map_err(|_| PullError::Closed)?;
        Ok(Self {
            client,
            connection: connection.clone(),
            denials: 0,
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", consumer.stream, consumer.name),
            consumer,
            inbox,
            subscriber,
            round: 0,
            outstanding: 0,
            pin: None,
            last_heard: Instant::now(),
            strays: Tally::default(),
        })
    }

    /// Asks for `room` messages, unless a pull is under way. One at a time: while it is being served, more room gathers, so the
    /// busier a subscription is, the more messages one pull brings.
    ///
    /// # Errors
    /// When the client is closed for good.
    pub async fn ask(&mut self, room: usize) -> Result<(), PullError> {
        if self.outstanding > 0 || room == 0 {
            return Ok(());
        }
        self.round += 1;
        let expires = if self.consumer.pinned { EXPIRES_PINNED } else { EXPIRES };
        let heartbeat = HEARTBEAT.min(expires / 2);
        let mut request = json!({ "batch": room, "expires": nanos(expires), "idle_heartbeat": nanos(heartbeat) });
        if self.consumer.pinned {
            request["group"] = json!(GROUP);
            request["id"] = json!(self.pin.clone().unwrap_or_default());
        }
        let reply = format!("{}.{}", self.inbox, self.round);
        self.outstanding = room;
        self.last_heard = Instant::now();
        self.denials = self.connection.denials(&self.next_subject);
        self.client
            .publish_with_reply(self.next_subject.clone(), reply, request.to_string().into())
            .await
            .map_err(|_| PullError::Closed)
    }

    /// The next thing that the pull brings. Can be dropped and called again at any time.
    ///
    /// # Errors
    /// When the consumer is gone or silent.
    pub async fn next(&mut self) -> Result<Pulled, PullError> {
        loop {
            let silence = tokio::time::sleep_until(self.last_heard + SILENCE);
            let message = tokio::select! {
                message = self.subscriber.next() => message.ok_or(PullError::Closed)?,
                () = self.connection.denied(&self.next_subject, self.denials) => {
                    return Err(PullError::Refused(format!("NATS does not permit us to publish to '{}'", self.next_subject)));
                }
                () = silence, if self.outstanding > 0 => return Err(PullError::Silent),
            };
            self.last_heard = Instant::now();
            match message.status {
                None => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    let pinned_anew = self.pinned_anew(&message);
                    if let Some(pulled) = self.read(message) {
                        return Ok(if pinned_anew { Pulled::TookOver(Box::new(pulled)) } else { pulled });
                    }
                }
                Some(status) => {
                    if let Some(ended) = self.status(status, &message)? {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    /// Messages that the pull under way may still bring.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether a pull is under way.
    pub fn is_asking(&self) -> bool {
        self.outstanding > 0
    }

    /// Stops asking, and gives what has come all the same.
    pub async fn stop(mut self) -> Vec<Pulled> {
        let mut messages = Vec::new();
        let draining = async {
            // The subscription ends when all is here that the server had sent before it saw the UNSUB.
            if self.subscriber.drain().await.is_ok() {
                while let Some(message) = self.subscriber.next().await {
                    messages.push(message);
                }
            }
        };
        // Nothing comes while the connection is down.
        let _ = tokio::time::timeout(STOP, draining).await;
        messages
            .into_iter()
            .filter(|message| message.status.is_none())
            .filter_map(|message| self.read(message))
            .collect()
    }

    /// Whether this message is the first since a pinned consumer has chosen us.
    fn pinned_anew(&mut self, message: &Message) -> bool {
        let pin = pairs(message.headers.as_ref()).find(|(name, _)| *name == PIN_ID).map(|(_, pin)| pin.to_owned());
        let anew = self.consumer.pinned && pin.is_some() && pin != self.pin;
        if anew {
            self.pin = pin;
        }
        anew
    }

    fn status(&mut self, status: StatusCode, message: &Message) -> Result<Option<Pulled>, PullError> {
        let description = message.description.clone().unwrap_or_default();
        if status == StatusCode::IDLE_HEARTBEAT {
            return Ok(Some(Pulled::Alive));
        }
        if message.subject.rsplit('.').next().and_then(|round| round.parse().ok()) != Some(self.round) {
            return Ok(None);
        }
        self.outstanding = 0;
        match status.as_u16() {
            404 | 408 => Ok(Some(Pulled::Idle)),
            NO_RESPONDERS => Err(self.gone("nobody answers for it".into())),
            // Another bridge is the pinned one now.
            423 => {
                self.pin = None;
                Ok(Some(Pulled::Alive))
            }
            409 if description.contains("Consumer Deleted") || description.contains("Stream Deleted") => {
                Err(self.gone(description))
            }
            // A new leader or a server that goes: whoever leads next takes the next pull.
            409 if description.contains("Leadership")
                || description.contains("Shutdown")
                || description.contains("Batch") =>
            {
                Ok(Some(Pulled::Alive))
            }
            code => Err(PullError::Refused(format!("{code} {description}"))),
        }
    }

    fn gone(&self, reason: String) -> PullError {
        self.consumer.gone.store(true, Ordering::Relaxed);
        PullError::Gone(reason)
    }

    fn read(&self, message: Message) -> Option<Pulled> {
        let Some(ticket) =
            message.reply.clone().and_then(|reply| Ticket::new(self.client.clone(), reply, &self.consumer))
        else {
            if let Some(count) = self.strays.add() {
                tracing::warn!(subject = %message.subject, count, "messages without acknowledgement subject in a pull inbox");
            }
            return None;
        };
        let place = ticket.place();
        let origin = event::nats::Origin {
            stream: &self.consumer.stream,
            sequence: place.stream_sequence,
            subject: &message.subject,
            stored_at_nanos: place.stored_at_nanos,
        };
        match event::nats::decode(pairs(message.headers.as_ref()), message.payload.clone(), origin) {
            Ok((mut event, pass_through)) => {
                let mut ttl = None;
                if self.consumer.of_broker {
                    ttl = event.attribute(broker::TTL).map(str::to_owned);
                    event.remove_extension(broker::TTL);
                }
                Some(Pulled::Event(Box::new(Stored { event, pass_through, ttl, ticket })))
            }
            Err(error) => {
                let raw = RawMessage {
                    stream: self.consumer.stream.clone(),
                    sequence: place.stream_sequence,
                    subject: message.subject.to_string(),
                    headers: header_block(message.headers.as_ref()),
                    payload: message.payload,
                };
                Some(Pulled::Poison(Box::new(Poison { message: raw, reason: error.to_string(), ticket })))
            }
        }
    }
}

fn pairs(headers: Option<&HeaderMap>) -> impl Iterator<Item = (&str, &str)> + Clone {
    headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())))
}

fn header_block(headers: Option<&HeaderMap>) -> Vec<u8> {
    let mut block = String::new();
    for (name, value) in pairs(headers) {
        block.push_str(&format!("{name}: {value}\r\n"));
    }
    if block.is_empty() { Vec::new() } else { format!("NATS/1.0\r\n{block}\r\n").into_bytes() }
}

//! What a pulled message is settled with. Whoever holds a ticket owes JetStream one answer; a ticket that is lost with its
//! process is paid by redelivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::consumer::Consumer;
use super::wire::{self, Wire};

/// How the subject begins that settles a delivery.
const ACK_SUBJECT: &str = "$JS.ACK.";

/// The right and the duty to settle one delivery.
#[derive(Debug, Clone)]
pub struct Ticket {
    place: Place,
    /// `None` for a kept dead letter: no consumer waits for an answer, and whoever redrives it settles it by what became of it.
    delivery: Option<Delivery>,
}

/// How the consumer is answered.
#[derive(Debug, Clone)]
struct Delivery {
    way: Arc<Way>,
    reply: Arc<str>,
}

/// The way by which all deliveries of a pull are settled.
#[derive(Debug)]
pub(super) struct Way {
    wire: Wire,
    /// As [`Consumer::gone`].
    gone: Arc<AtomicBool>,
}

impl Way {
    pub(super) fn new(wire: Wire, consumer: &Consumer) -> Self {
        Self { wire, gone: Arc::clone(&consumer.gone) }
    }
}

/// What JetStream says about a delivery in the subject that acknowledges it (ADR-15 and its successor with domain and account).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// How often the message was delivered to this consumer, this time included; 1 is the first.
    pub delivered: u64,
    pub stream_sequence: u64,
    pub consumer_sequence: u64,
    /// When the stream stored it, in nanoseconds since the Unix epoch.
    pub stored_at_nanos: i128,
}

impl Ticket {
    /// `None` when the reply subject is no acknowledgement subject.
    pub(super) fn new(way: &Arc<Way>, reply: &[u8]) -> Option<Self> {
        let reply = std::str::from_utf8(reply).ok()?;
        let place = Place::parse(reply)?;
        Some(Self { place, delivery: Some(Delivery { way: Arc::clone(way), reply: reply.into() }) })
    }

    /// For a kept dead letter that is redriven.
    pub(super) fn of_kept(place: Place) -> Self {
        Self { place, delivery: None }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The outcome is durable: never deliver again. Without a connection this waits for one, for otherwise the event would be
    /// delivered once more.
    pub async fn acknowledge(&self) {
        self.send_once_connected(b"+ACK").await;
    }

    /// Deliver again, not before `wait` is over. The wait is kept by JetStream and outlives us. Without a connection this waits
    /// for one, as above.
    pub async fn retry_after(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.send_once_connected(format!("-NAK {{\"delay\":{nanos}}}").as_bytes()).await;
    }

    /// Deliver again now, to whoever asks. Without a connection JetStream does so after the ack wait.
    pub async fn give_back(&self) {
        self.send(b"-NAK").await;
    }

    /// Still at work: start the ack wait anew. Without a connection it goes on to run.
    pub async fn in_progress(&self) {
        self.send(b"+WPI").await;
    }

    async fn send_once_connected(&self, answer: &[u8]) {
        while !self.send(answer).await {
            let Some(delivery) = &self.delivery else { return };
            delivery.way.wire.connected().await;
        }
    }

    /// True when it is sent, or must not be.
    async fn send(&self, answer: &[u8]) -> bool {
        let Some(Delivery { way, reply }) = &self.delivery else { return true };
        way.gone.load(Ordering::Relaxed) || send(&way.wire, reply, answer).await
    }
}

async fn send(wire: &Wire, subject: &str, answer: &[u8]) -> bool {
    wire.send(|buffer| wire::write_message(buffer, subject, "", b"", answer)).await
}

impl Place {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SSEQ.DSEQ.TIME.PENDING`, or with `DOMAIN.ACCOUNT` before `STREAM` and more at the end.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let tokens = reply.strip_prefix(ACK_SUBJECT)?.split('.');
        let skip = match tokens.clone().count() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let mut tokens = tokens.skip(skip);
        let mut number = || tokens.next()?.parse::<u64>().ok();
        Some(Self {
            delivered: number()?,
            stream_sequence: number()?,
            consumer_sequence: number()?,
            stored_at_nanos: i128::from(number()?),
        })
    }
}

/// Asks for a delivery that never reached us again, now and not after the ack wait.
pub(super) async fn ask_again(wire: &Wire, consumer: &Consumer, sequence: u64, consumer_sequence: u64) {
    send(wire, &ack_subject(&consumer.stream, &consumer.name, sequence, consumer_sequence), b"-NAK").await;
}

/// The subject that settles a delivery which never reached us. The server looks at the two sequences alone.
fn ack_subject(stream: &str, consumer: &str, stream_sequence: u64, consumer_sequence: u64) -> String {
    format!("{ACK_SUBJECT}{stream}.{consumer}.1.{stream_sequence}.{consumer_sequence}.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_ack_subject_are_read() {
        let place = Place { delivered: 2, stream_sequence: 7, consumer_sequence: 9, stored_at_nanos: 1_700_000_000 };
        assert_eq!(Place::parse("$JS.ACK.KN_A__B.KN_SUB_X.2.7.9.1700000000.4"), Some(place));
        assert_eq!(Place::parse("$JS.ACK.hub.ACCHASH.KN_A__B.KN_SUB_X.2.7.9.1700000000.4"), Some(place));
        assert_eq!(Place::parse("$JS.ACK.hub.ACCHASH.KN_A__B.KN_SUB_X.2.7.9.1700000000.4.rnd"), Some(place));
        assert_eq!(Place::parse(&ack_subject("S", "C", 7, 9)).map(|place| place.stream_sequence), Some(7));
        for broken in ["", "_INBOX.x.1", "$JS.ACK.S.C.x.7.9.1.4", "$JS.ACK.S.C.1.2"] {
            assert_eq!(Place::parse(broken), None, "{broken}");
        }
    }
}

//! What a pulled message is settled with. Whoever holds a ticket owes JetStream one answer; a ticket that is lost with its
//! process is paid by redelivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::consumer::Consumer;
use super::wire::frame::number;
use super::wire::{self, Wire};

/// How the subject begins that settles a delivery.
const ACK_SUBJECT: &str = "$JS.ACK.";

/// How long an outcome waits for a connection; what is not told by then is delivered once more. Long enough for any outage after
/// which a sink could still be asked for patience, and not for ever: a stream that was made anew meanwhile counts from 1 again.
const PATIENCE: Duration = Duration::from_secs(600);

/// The right and the duty to settle one delivery.
#[derive(Debug, Clone)]
pub struct Ticket {
    place: Place,
    /// `None` for a kept dead letter: no consumer waits for an answer, and whoever redrives it settles it by what became of it.
    delivery: Option<Arc<Delivery>>,
}

/// How the consumer is answered. All tickets of one delivery share it.
#[derive(Debug)]
struct Delivery {
    way: Arc<Way>,
    reply: Box<str>,
    /// Whether it has been answered for good. A sign of work behind that would start the ack wait anew, in place of the wait for
    /// a retry, and giving it back would end that wait.
    answered: AtomicBool,
}

/// The way by which all deliveries of a pull are settled.
#[derive(Debug)]
pub(super) struct Way {
    wire: Wire,
    /// As [`Consumer::gone`].
    gone: Arc<AtomicBool>,
    patience: Duration,
}

impl Way {
    pub(super) fn new(wire: Wire, consumer: &Consumer) -> Self {
        Self { wire, gone: Arc::clone(&consumer.gone), patience: PATIENCE }
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
        let delivery = Delivery { way: Arc::clone(way), reply: reply.into(), answered: AtomicBool::new(false) };
        Some(Self { place, delivery: Some(Arc::new(delivery)) })
    }

    /// For a kept dead letter that is redriven.
    pub(super) fn of_kept(place: Place) -> Self {
        Self { place, delivery: None }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The outcome is durable: never deliver again. Without a connection this waits for one, though no longer than ten minutes, for
    /// otherwise the event would be delivered once more.
    pub async fn acknowledge(&self) {
        self.send_once_connected(b"+ACK").await;
    }

    /// Nobody wants it: never deliver again. Without a connection it comes again, and nobody wants it then either.
    pub async fn decline(&self) {
        self.send(b"+ACK", true).await;
    }

    /// Deliver again, not before `wait` is over. The wait is kept by JetStream and outlives us. Without a connection this waits
    /// for one, as above.
    pub async fn retry_after(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.send_once_connected(format!("-NAK {{\"delay\":{nanos}}}").as_bytes()).await;
    }

    /// Deliver again now, to whoever asks; nothing, when it has been answered. Without a connection JetStream does so after the
    /// ack wait.
    pub async fn give_back(&self) {
        self.send(b"-NAK", false).await;
    }

    /// Still at work: start the ack wait anew; nothing, when it has been answered. Without a connection it goes on to run.
    pub async fn in_progress(&self) {
        self.send(b"+WPI", false).await;
    }

    async fn send_once_connected(&self, answer: &[u8]) {
        let Some(delivery) = &self.delivery else { return };
        // Nearly always; a timer for each event would cost more than its acknowledgement.
        if self.send(answer, true).await {
            return;
        }
        let telling = async {
            while !self.send(answer, true).await {
                delivery.way.wire.connected().await;
            }
        };
        let _ = tokio::time::timeout(delivery.way.patience, telling).await;
    }

    /// True when it is sent, or must not be.
    async fn send(&self, answer: &[u8], for_good: bool) -> bool {
        let Some(delivery) = &self.delivery else { return true };
        let Delivery { way, reply, answered } = &**delivery;
        // One writes at a time, so what is seen here is what has been written.
        let write = |buffer: &mut Vec<u8>| {
            if for_good || !answered.load(Ordering::Relaxed) {
                answered.fetch_or(for_good, Ordering::Relaxed);
                wire::write_message(buffer, reply, "", b"", answer);
            }
        };
        way.gone.load(Ordering::Relaxed) || way.wire.send(write).await
    }
}

impl Place {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SSEQ.DSEQ.TIME.PENDING`, or with `DOMAIN.ACCOUNT` before `STREAM` and more at the end.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix(ACK_SUBJECT)?;
        let skip = match memchr::memchr_iter(b'.', rest.as_bytes()).count() + 1 {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let first = memchr::memchr_iter(b'.', rest.as_bytes()).nth(skip - 1)? + 1;
        let mut tokens = rest.as_bytes()[first..].split(|byte| *byte == b'.');
        let mut number = || number(tokens.next()?);
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
    let subject = ack_subject(&consumer.stream, &consumer.name, sequence, consumer_sequence);
    wire.send(|buffer| wire::write_message(buffer, &subject, "", b"", b"-NAK")).await;
}

/// The subject that settles a delivery which never reached us. The server looks at the two sequences alone.
fn ack_subject(stream: &str, consumer: &str, stream_sequence: u64, consumer_sequence: u64) -> String {
    format!("{ACK_SUBJECT}{stream}.{consumer}.1.{stream_sequence}.{consumer_sequence}.0.0")
}

#[cfg(test)]
mod tests {
    use super::super::connect::Settings;
    use super::*;

    #[tokio::test]
    async fn an_outcome_waits_for_a_connection_but_not_for_ever() {
        // Nobody listens there.
        let settings = Settings { urls: vec!["nats://127.0.0.1:1".to_owned()], ..Settings::default() };
        let wire = Wire::open(&settings, "test").await.unwrap();
        let way = Arc::new(Way { wire, gone: Arc::default(), patience: Duration::from_millis(50) });
        let ticket = Ticket::new(&way, b"$JS.ACK.S.C.1.2.3.4.0").unwrap();
        tokio::time::timeout(Duration::from_secs(10), ticket.acknowledge()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), ticket.retry_after(Duration::ZERO)).await.unwrap();
    }

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

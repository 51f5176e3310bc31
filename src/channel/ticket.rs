//! What a pulled message is settled with. Whoever holds a ticket owes JetStream one answer; a ticket that is lost with its
//! process is paid by redelivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, Subject};
use serde_json::json;

use super::connect::Connection;
use super::consumer::Consumer;

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
    client: Client,
    reply: Subject,
    gone: Arc<AtomicBool>,
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
    pub(super) fn new(client: Client, reply: Subject, consumer: &Consumer) -> Option<Self> {
        let place = Place::parse(&reply)?;
        Some(Self { place, delivery: Some(Delivery { client, reply, gone: Arc::clone(&consumer.gone) }) })
    }

    /// For a kept dead letter that is redriven.
    pub(super) fn of_kept(place: Place) -> Self {
        Self { place, delivery: None }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The outcome is durable: never deliver again.
    pub async fn acknowledge(&self) {
        self.send(b"+ACK".to_vec()).await;
    }

    /// Deliver again, not before `wait` is over. The wait is kept by JetStream and outlives us.
    pub async fn retry_after(&self, wait: Duration) {
        let delay = json!({ "delay": u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX) });
        self.send(format!("-NAK {delay}").into_bytes()).await;
    }

    /// Deliver again now, to whoever asks.
    pub async fn give_back(&self) {
        self.send(b"-NAK".to_vec()).await;
    }

    /// Still at work: start the ack wait anew.
    pub async fn in_progress(&self) {
        self.send(b"+WPI".to_vec()).await;
    }

    async fn send(&self, answer: Vec<u8>) {
        let Some(Delivery { client, reply, gone }) = &self.delivery else { return };
        if gone.load(Ordering::Relaxed) {
            return;
        }
        // Fails only when the client is closed for good; then JetStream delivers again after the ack wait.
        if let Err(error) = client.publish(reply.clone(), answer.into()).await {
            tracing::debug!(%error, "cannot settle a delivery; it comes again after the ack wait");
        }
    }
}

impl Place {
    /// `$JS.ACK.STREAM.CONSUMER.DELIVERED.SSEQ.DSEQ.TIME.PENDING`, or with `DOMAIN.ACCOUNT` before `STREAM` and more at the end.
    fn parse(reply: &str) -> Option<Self> {
        let count = reply.split('.').count();
        let skip = match count {
            9 => 4,
            11.. => 6,
            _ => return None,
        };
        let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.').skip(skip - 2);
        let mut number = || tokens.next()?.parse::<u64>().ok();
        Some(Self {
            delivered: number()?,
            stream_sequence: number()?,
            consumer_sequence: number()?,
            stored_at_nanos: i128::from(number()?),
        })
    }
}

/// Answers a delivery that never arrived. `-NAK` asks for it again now and not after the ack wait.
pub(super) async fn settle(
    connection: &Connection,
    consumer: &Consumer,
    sequence: u64,
    consumer_sequence: u64,
    answer: &'static str,
) {
    let subject = ack_subject(&consumer.stream, &consumer.name, sequence, consumer_sequence);
    // Fails only when the client is closed for good.
    let _ = connection.client.publish(subject, answer.into()).await;
}

/// The subject that settles a delivery which never reached us. The server looks at the two sequences alone.
pub(super) fn ack_subject(stream: &str, consumer: &str, stream_sequence: u64, consumer_sequence: u64) -> String {
    format!("$JS.ACK.{stream}.{consumer}.1.{stream_sequence}.{consumer_sequence}.0.0")
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

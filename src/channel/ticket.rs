//! What a pulled message is settled with. Whoever holds a ticket owes JetStream one answer; a ticket that is lost with its
//! process is paid by redelivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::api::Api;
use super::consumer::Consumer;
use super::wire::frame::number;
use super::wire::{self, Wire};

/// How the subject begins that settles a delivery.
const ACK_SUBJECT: &str = "$JS.ACK.";

/// How long an outcome waits for a connection over which it may be told; what is not told by then is delivered once more. Long
/// enough for any outage after which a sink could still be asked for patience, and not for ever.
const PATIENCE: Duration = Duration::from_secs(600);

/// The right and the duty to settle one delivery. Over a later connection than that of the delivery it is settled only when the
/// consumer is known to be the same.
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
pub(super) struct Way {
    pub(super) wire: Wire,
    api: Arc<Api>,
    pub(super) consumer: Consumer,
    /// The connection over which they have come; some may have come over a later one.
    connection: u64,
    patience: Duration,
}

impl Way {
    /// For what comes from now on.
    pub(super) fn new(wire: &Wire, api: &Arc<Api>, consumer: Consumer) -> Self {
        let connection = wire.connection();
        Self { wire: wire.clone(), api: Arc::clone(api), consumer, connection, patience: PATIENCE }
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Way").field("consumer", &self.consumer).finish_non_exhaustive()
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

    /// Still at work: start the ack wait anew; nothing, when it has been answered. Without a connection it goes on to run; false
    /// then.
    pub async fn in_progress(&self) -> bool {
        self.send(b"+WPI", false).await
    }

    async fn send_once_connected(&self, answer: &[u8]) {
        let Some(delivery) = &self.delivery else { return };
        // Nearly always; a timer for each event would cost more than its acknowledgement.
        if self.send(answer, true).await {
            return;
        }
        let way = &delivery.way;
        let telling = async {
            while !self.send(answer, true).await {
                way.consumer.make_sure(&way.api, &way.wire).await;
            }
        };
        let _ = tokio::time::timeout(way.patience, telling).await;
    }

    /// True when it is sent, or must not be. False when there is no connection, or one over which nobody knows whether the consumer
    /// is still the same.
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
        match way.consumer.settles_over(way.connection) {
            Some(connection) => way.wire.send_over(connection, write).await,
            None => true,
        }
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
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use futures_util::future::BoxFuture;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::super::api::{ApiError, SimulatedApi};
    use super::super::connect::{Connection, Settings};
    use super::*;
    use crate::resource::Key;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Says this and that of a consumer; nobody may ask more often.
    struct Answers(Mutex<VecDeque<Result<Value, ApiError>>>);

    impl SimulatedApi for Answers {
        fn call(&self, subject: String, _: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
            let answer = self.0.lock().unwrap().pop_front();
            Box::pin(std::future::ready(answer.unwrap_or_else(|| panic!("{subject} is asked once too often"))))
        }
    }

    struct World {
        wire: Wire,
        api: Arc<Api>,
        dialled: mpsc::Receiver<DuplexStream>,
    }

    impl World {
        async fn answering(answers: impl IntoIterator<Item = Result<Value, ApiError>>) -> Self {
            let (dials, dialled) = mpsc::channel(4);
            let wire = Wire::simulated(Arc::new(move || {
                let (client, server) = duplex(64 * 1024);
                dials.try_send(server).unwrap();
                Ok(client)
            }));
            let control = Connection::open(&nowhere(), "test").await.unwrap();
            let answers = Answers(Mutex::new(answers.into_iter().collect()));
            Self { wire, api: Arc::new(Api::simulated(control, Arc::new(answers))), dialled }
        }

        /// The server's end of the next connection, which stands.
        async fn connect(&mut self, losses: u64) -> BufReader<DuplexStream> {
            let mut server = timeout(LIMIT, self.dialled.recv()).await.unwrap().unwrap();
            server.write_all(b"INFO {}\r\nPONG\r\n").await.unwrap();
            let mut link = self.wire.link();
            timeout(LIMIT, link.wait_for(|link| link.connected && link.losses == losses)).await.unwrap().unwrap();
            BufReader::new(server)
        }

        /// Two deliveries over the connection that stands.
        fn tickets(&self, consumer: &Consumer) -> [Ticket; 2] {
            let way = Arc::new(Way::new(&self.wire, &self.api, consumer.clone()));
            [1, 2].map(|sequence| Ticket::new(&way, ack_subject("S", "C", sequence, sequence).as_bytes()).unwrap())
        }

        /// All answers that have been told, of both tickets.
        async fn told(&self, server: &mut BufReader<DuplexStream>) -> Vec<String> {
            self.wire.send(|buffer| wire::write_message(buffer, "end", "", b"", b"")).await;
            let (mut told, mut line) = (Vec::new(), String::new());
            while !line.starts_with("PUB end ") {
                if let Some(rest) = line.strip_prefix("PUB $JS.ACK.S.C.1.") {
                    let sequence = rest.split('.').next().unwrap().to_owned();
                    line.clear();
                    timeout(LIMIT, server.read_line(&mut line)).await.unwrap().unwrap();
                    told.push(format!("{sequence} {}", line.trim_end()));
                }
                line.clear();
                timeout(LIMIT, server.read_line(&mut line)).await.unwrap().unwrap();
            }
            told
        }
    }

    /// Nobody listens there.
    fn nowhere() -> Settings {
        Settings { urls: vec!["nats://127.0.0.1:1".to_owned()], ..Settings::default() }
    }

    fn consumer() -> Consumer {
        Consumer::simulated(Key::new("default", "foo").unwrap(), "S", "C", Duration::from_secs(30), false)
    }

    #[tokio::test]
    async fn what_came_before_a_loss_is_told_when_the_consumer_is_known_to_be_the_same_and_not_before() {
        let no_leader = Err(ApiError::NoAnswer("no leader".to_owned()));
        let mut world = World::answering([no_leader, Ok(json!({}))]).await;
        let first = world.connect(0).await;
        let [one, two] = world.tickets(&consumer());
        drop(first);
        let mut second = world.connect(1).await;
        two.in_progress().await;
        two.give_back().await;
        two.decline().await;
        assert!(world.told(&mut second).await.is_empty());
        timeout(LIMIT, one.acknowledge()).await.unwrap();
        two.in_progress().await;
        two.retry_after(Duration::ZERO).await;
        assert_eq!(world.told(&mut second).await, ["1 +ACK", "2 +WPI", "2 -NAK {\"delay\":0}"]);
    }

    #[tokio::test]
    async fn what_came_before_a_loss_is_not_told_when_the_consumer_is_another_one_or_gone() {
        for answer in [Ok(json!({ "created": "later" })), Err(ApiError::NotFound("none".to_owned()))] {
            let mut world = World::answering([answer]).await;
            let first = world.connect(0).await;
            let consumer = consumer();
            let [one, two] = world.tickets(&consumer);
            drop(first);
            let mut second = world.connect(1).await;
            timeout(LIMIT, one.acknowledge()).await.unwrap();
            assert!(consumer.is_gone());
            two.in_progress().await;
            two.retry_after(Duration::ZERO).await;
            two.give_back().await;
            assert!(world.told(&mut second).await.is_empty());
        }
    }

    #[tokio::test]
    async fn what_comes_over_a_new_connection_is_told_over_it_and_nobody_asks() {
        let mut world = World::answering([]).await;
        let consumer = consumer();
        for losses in 0..3 {
            let mut server = world.connect(losses).await;
            let [one, two] = world.tickets(&consumer);
            one.acknowledge().await;
            two.give_back().await;
            assert_eq!(world.told(&mut server).await, ["1 +ACK", "2 -NAK"]);
        }
    }

    #[tokio::test]
    async fn an_outcome_waits_for_a_connection_but_not_for_ever() {
        let wire = Wire::open(&nowhere(), "test").await.unwrap();
        let api = Arc::new(Api::new(Connection::open(&nowhere(), "test").await.unwrap()));
        let way = Arc::new(Way { patience: Duration::from_millis(50), ..Way::new(&wire, &api, consumer()) });
        let ticket = Ticket::new(&way, b"$JS.ACK.S.C.1.2.3.4.0").unwrap();
        timeout(LIMIT, ticket.acknowledge()).await.unwrap();
        timeout(LIMIT, ticket.retry_after(Duration::ZERO)).await.unwrap();
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

//! The wire against a server of the test's own, which says exactly what it is told to.

use std::sync::mpsc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const INFO: &str = "INFO {\"max_payload\":1000}\r\n";

/// A server's end of one connection.
struct Peer {
    stream: BufReader<TcpStream>,
}

impl Peer {
    /// Takes somebody in who says who he is.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut peer = Self { stream: BufReader::new(stream) };
        peer.say(INFO).await;
        assert!(peer.line().await.starts_with("CONNECT {"));
        assert_eq!(peer.line().await, "PING\r\n");
        peer.say("PONG\r\n").await;
        peer
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(text.as_ref()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.unwrap().unwrap();
        line
    }

    /// Lines until this one.
    async fn until(&mut self, wanted: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            assert_ne!(line, "", "{wanted} never came after {lines:?}");
            if line == wanted {
                return lines;
            }
            lines.push(line);
        }
    }
}

/// Passes on what it hears, as text.
struct Ear(Mutex<mpsc::Sender<String>>);

impl Ear {
    fn new() -> (Arc<Self>, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }

    fn hears(&self, text: String) {
        self.0.lock().unwrap().send(text).unwrap();
    }
}

impl Subscriber for Ear {
    fn receive(&self, message: Message) {
        self.hears(message.payload().escape_ascii().to_string());
    }

    fn lost(&self) {
        self.hears("lost".to_owned());
    }

    fn denied(&self) {
        self.hears("denied".to_owned());
    }
}

async fn heard(ear: &mpsc::Receiver<String>) -> String {
    let begun = std::time::Instant::now();
    loop {
        if let Ok(text) = ear.try_recv() {
            return text;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing heard");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn open(urls: &[&str]) -> Wire {
    let urls = urls.iter().map(|url| (*url).to_owned()).collect();
    Wire::open(&Settings { urls, ..Settings::default() }, "test").await.unwrap()
}

async fn is_up(wire: &Wire, losses: u64) {
    let up = Link { connected: true, losses, ..Link::default() };
    timeout(PATIENCE, wire.link().wait_for(|link| *link == up)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_subscribed_is_subscribed_on_every_connection() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let (ear, hears) = Ear::new();
    let before = wire.subscribe("before".to_owned(), ear.clone());
    let mut peer = Peer::accept(&listener).await;
    assert_eq!(peer.line().await, "SUB before 1\r\n");
    is_up(&wire, 0).await;
    let _later = wire.subscribe("later".to_owned(), ear);
    assert_eq!(peer.line().await, "SUB later 2\r\n");
    drop(before);
    assert_eq!(peer.line().await, "UNSUB 1\r\n");
    drop(peer);
    let mut peer = Peer::accept(&listener).await;
    assert_eq!(heard(&hears).await, "lost");
    assert_eq!(peer.line().await, "SUB later 2\r\n");
    is_up(&wire, 1).await;
    peer.say("MSG later 2 2\r\nhi\r\n").await;
    assert_eq!(heard(&hears).await, "hi");
}

#[tokio::test]
async fn nothing_is_sent_later_that_could_not_be_sent_now() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let send = |text: &'static str| wire.send(move |buffer| buffer.extend_from_slice(text.as_bytes()));
    assert!(!send("early\r\n").await && !wire.is_connected() && !wire.flush(PATIENCE).await);
    drop(Peer::accept(&listener).await);
    timeout(PATIENCE, wire.link().wait_for(|link| link.losses == 1)).await.unwrap().unwrap();
    let mut peer = Peer::accept(&listener).await;
    is_up(&wire, 1).await;
    assert!(send("now\r\n").await);
    assert_eq!(peer.line().await, "now\r\n");
    assert_eq!(wire.max_payload(), 1000);
}

#[tokio::test]
async fn a_flush_is_over_when_the_server_answers_and_lost_with_the_connection() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let mut peer = Peer::accept(&listener).await;
    is_up(&wire, 0).await;
    assert!(wire.send(|buffer| buffer.extend_from_slice(b"x\r\n")).await);
    let (flushed, ()) = tokio::join!(wire.flush(PATIENCE), async {
        assert_eq!(peer.until("PING\r\n").await, ["x\r\n"]);
        peer.say("PONG\r\n").await;
    });
    assert!(flushed);
    let (flushed, ()) = tokio::join!(wire.flush(PATIENCE), async {
        peer.until("PING\r\n").await;
        drop(peer);
    });
    assert!(!flushed);
    assert!(!wire.flush(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn a_drain_ends_when_all_is_here_that_was_under_way() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let mut peer = Peer::accept(&listener).await;
    is_up(&wire, 0).await;
    let (ear, hears) = Ear::new();
    let subscription = wire.subscribe("a".to_owned(), ear);
    tokio::join!(subscription.drain(PATIENCE), async {
        assert_eq!(peer.until("PING\r\n").await, ["SUB a 1\r\n", "UNSUB 1\r\n"]);
        peer.say("MSG a 1 4\r\nlast\r\nPONG\r\n").await;
    });
    peer.say("MSG a 1 8\r\ntoo late\r\nPING\r\n").await;
    peer.until("PONG\r\n").await;
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["last"]);
}

#[tokio::test]
async fn a_denial_is_told_and_remembered_by_its_subject() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let mut peer = Peer::accept(&listener).await;
    let (ear, hears) = Ear::new();
    let _subscription = wire.subscribe("a".to_owned(), ear);
    let before = wire.denials();
    peer.say("-ERR 'Permissions Violation for Publish to \"some.subject\"'\r\nMSG a 1 2\r\ngo\r\n").await;
    assert_eq!((heard(&hears).await, heard(&hears).await), ("denied".to_owned(), "go".to_owned()));
    assert!(wire.denied_since("some.subject", before) && !wire.denied_since("other", before));
}

#[tokio::test]
async fn nonsense_and_lines_without_end_cost_the_connection_and_no_more() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    for (losses, nonsense) in (0..).zip([b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'M'; 100_000]]) {
        let mut peer = Peer::accept(&listener).await;
        is_up(&wire, losses).await;
        peer.say(nonsense).await;
    }
    let _peer = Peer::accept(&listener).await;
    is_up(&wire, 2).await;
}

#[tokio::test]
async fn messages_cut_at_any_byte_arrive_and_the_cut_one_is_lost_with_its_connection() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let (ear, hears) = Ear::new();
    let _subscription = wire.subscribe("a".to_owned(), ear);
    let message = b"HMSG a 1 r 17 19\r\nNATS/1.0\r\n\xff:x\r\n\r\nhi\r\n";
    assert_eq!(message.len(), 39);
    for cut in 1..message.len() {
        let mut peer = Peer::accept(&listener).await;
        peer.say(message).await;
        assert_eq!(heard(&hears).await, "hi");
        peer.say(&message[..cut]).await;
        drop(peer);
        assert_eq!(heard(&hears).await, "lost", "cut at {cut}");
    }
}

#[tokio::test]
async fn when_a_server_ends_it_goes_to_another_of_the_cluster() {
    let (first, url) = listen().await;
    let (second, _) = listen().await;
    let wire = open(&[&url]).await;
    let mut peer = Peer::accept(&first).await;
    is_up(&wire, 0).await;
    let other = second.local_addr().unwrap();
    peer.say(format!("INFO {{\"ldm\":true,\"max_payload\":77,\"connect_urls\":[\"{other}\"]}}\r\nPING\r\n")).await;
    peer.until("PONG\r\n").await;
    assert!(wire.is_connected() && wire.max_payload() == 77);
    drop((peer, first));
    let _peer = Peer::accept(&second).await;
    is_up(&wire, 1).await;
}

#[tokio::test]
async fn a_message_longer_than_many_reads_arrives_whole() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let (ear, hears) = Ear::new();
    let _subscription = wire.subscribe("a".to_owned(), ear);
    let mut peer = Peer::accept(&listener).await;
    let body = "x".repeat(3_000_000);
    peer.say(format!("MSG a 1 {}\r\n{body}\r\nMSG a 1 1\r\ny\r\n", body.len())).await;
    assert!(heard(&hears).await == body);
    assert_eq!(heard(&hears).await, "y");
}

#[tokio::test]
async fn it_ends_with_its_last_clone() {
    let (listener, url) = listen().await;
    let wire = open(&[&url]).await;
    let mut peer = Peer::accept(&listener).await;
    is_up(&wire, 0).await;
    drop(wire);
    assert_eq!(peer.line().await, "");
}

#[test]
fn messages_are_written_as_the_protocol_has_them() {
    let check = |reply: &str, headers: &str, payload: &str, expected: &str| {
        let mut buffer = Vec::new();
        write_message(&mut buffer, "a.b", reply, headers.as_bytes(), payload.as_bytes());
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    };
    check("", "", "", "PUB a.b 0\r\n\r\n");
    check("r.1", "", "hi", "PUB a.b r.1 2\r\nhi\r\n");
    check("", "NATS/1.0\r\nc: d\r\n", "hi", "HPUB a.b 18 20\r\nNATS/1.0\r\nc: d\r\n\r\nhi\r\n");
    assert!(is_subject("a.b") && !is_subject("") && !is_subject("a b") && !is_subject("a\r\nb"));
}

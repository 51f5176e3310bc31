//! Owns the checks of the accept loop: bounds, silence, and the end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// No test waits so long unless it fails.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    /// A request to `/wait` has begun.
    begun: Arc<Notify>,
    /// Lets a request to `/wait` end.
    go_on: Arc<Notify>,
    /// Dropped with the handler of `/wait`.
    handler: Arc<()>,
    end: JoinHandle<Drained>,
}

impl Server {
    async fn start(limits: Limits, drain_timeout: Duration) -> Self {
        let (begun, go_on, handler) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(()));
        let wait = {
            let (begun, go_on, handler) = (Arc::clone(&begun), Arc::clone(&go_on), Arc::downgrade(&handler));
            move || async move {
                let _held = handler.upgrade();
                begun.notify_one();
                go_on.notified().await;
                "waited"
            }
        };
        let router = Router::new()
            .route("/wait", get(wait))
            .route("/", get(|| async { "hello" }))
            .route("/", post(|body: bytes::Bytes| async move { body }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let end =
            tokio::spawn(serve_within(limits, Door::default(), listener, router, shutdown.clone(), drain_timeout));
        Self { address, shutdown, begun, go_on, handler, end }
    }

    async fn patient(drain_timeout: Duration) -> Self {
        Self::start(Limits { max_connections: 10, max_silence: LONG * 2 }, drain_timeout).await
    }

    async fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    async fn drained(self) -> Drained {
        timeout(LONG, self.end).await.expect("the server ends").unwrap()
    }
}

/// All that comes until the server closes.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    timeout(LONG, stream.read_to_string(&mut text)).await.expect("the server closes the connection").unwrap();
    text
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = timeout(LONG, stream.read_u8()).await.expect("an answer").unwrap();
        text.push(char::from(byte));
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn who_never_ends_a_head_is_closed() {
    let server = Server::start(Limits { max_connections: 10, max_silence: SHORT }, LONG).await;
    // Nothing at all, half a head, half an HTTP/2 preface, a preface and nothing more, half a head after a whole request.
    for start in ["", "GET / HT", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = server.send(start).await;
        let mut rest = Vec::new();
        timeout(LONG, stream.read_to_end(&mut rest)).await.expect(start).unwrap();
    }
    let mut stream = server.send(&format!("{GET}GET / HT")).await;
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
}

#[tokio::test]
async fn a_request_that_takes_longer_than_silence_may_last_is_not_cut() {
    let server = Server::start(Limits { max_connections: 10, max_silence: SHORT }, LONG).await;
    let mut waiting = server.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begun.notified().await;
    // Another connection lives its whole silent life meanwhile, and one more.
    for _ in 0..2 {
        let mut silent = server.send("").await;
        assert_eq!(read_to_end(&mut silent).await, "");
    }
    server.go_on.notify_one();
    read_until(&mut waiting, "waited").await;
}

#[tokio::test]
async fn shutdown_closes_an_idle_connection_at_once() {
    let server = Server::patient(LONG * 2).await;
    let mut stream = server.send(GET).await;
    read_until(&mut stream, "hello").await;
    server.shutdown.cancel();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(server.drained().await, Drained { cut: 0 });
}

#[tokio::test]
async fn shutdown_lets_a_request_at_work_finish_and_then_closes() {
    let server = Server::patient(LONG).await;
    let mut stream = server.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begun.notified().await;
    server.shutdown.cancel();
    server.go_on.notify_one();
    assert!(read_to_end(&mut stream).await.ends_with("waited"));
    assert_eq!(server.drained().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_stalled_body_is_cut_when_the_time_to_drain_is_over() {
    let server = Server::patient(SHORT).await;
    let request = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    let mut stream = server.send(request).await;
    // Then the handler reads.
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    server.shutdown.cancel();
    assert_eq!(server.drained().await, Drained { cut: 1 });
}

#[tokio::test]
async fn no_handler_outlives_the_server() {
    let server = Server::patient(SHORT).await;
    let _stream = server.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begun.notified().await;
    let handler = Arc::downgrade(&server.handler);
    server.shutdown.cancel();
    // The test's own hold on it goes with `server`.
    assert_eq!(server.drained().await, Drained { cut: 1 });
    assert!(handler.upgrade().is_none());
}

#[tokio::test]
async fn a_connection_over_the_cap_waits_for_a_slot() {
    let server = Server::start(Limits { max_connections: 1, max_silence: LONG * 2 }, LONG).await;
    let mut first = server.send(GET).await;
    read_until(&mut first, "hello").await;
    let mut second = server.send(GET).await;
    let mut byte = [0];
    assert!(timeout(SHORT, second.read(&mut byte)).await.is_err(), "the only slot is taken");
    drop(first);
    read_until(&mut second, "hello").await;
}

#[tokio::test]
async fn a_head_over_the_bounds_is_refused() {
    let server = Server::patient(LONG).await;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "a".repeat(MAX_HEAD_BYTES as usize));
    for headers in [many, long] {
        let mut stream = server.send(&format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await;
        read_until(&mut stream, "HTTP/1.1 431 ").await;
    }
}

#[tokio::test]
async fn an_answer_of_known_length_says_so() {
    let server = Server::patient(LONG).await;
    let mut stream = server.send(GET).await;
    read_until(&mut stream, "content-length: 5\r\n").await;
}

#[tokio::test]
async fn who_never_ends_a_handshake_is_closed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = Files { certificate: dir.path().join("crt"), key: dir.path().join("key"), client_ca: None };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let meter = Arc::new(crate::telemetry::ConnectionMeter::default());
    let door = Door { tls: Some(Tls::read(files).unwrap()), peers: None, meter: Arc::clone(&meter) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let limits = Limits { max_connections: 10, max_silence: SHORT };
    let end = tokio::spawn(serve_within(limits, door, listener, Router::new(), shutdown.clone(), LONG));
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(start).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "");
    }
    assert_eq!(meter.handshakes.count(), 2);
    // One that is at it does not hold up the end.
    let _waiting = TcpStream::connect(address).await.unwrap();
    shutdown.cancel();
    assert_eq!(timeout(LONG, end).await.expect("the server ends").unwrap(), Drained { cut: 0 });
}

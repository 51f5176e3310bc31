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

/// The same routes as a handler that takes whole requests.
#[derive(Clone)]
struct Short(Router);

impl Handler for Short {
    type Body = axum::body::Body;

    const TAKES_WHOLE: bool = true;

    async fn answer<B>(self, request: Request<B>) -> Response<Self::Body>
    where
        B: Body<Data = Bytes, Error: Into<Fault> + Display> + Unpin + Send + 'static,
    {
        self.0.answer(request).await
    }
}

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
        Self::start_with(limits, drain_timeout, |router| router).await
    }

    /// Answers what comes whole without hyper.
    async fn short(limits: Limits, drain_timeout: Duration) -> Self {
        Self::start_with(limits, drain_timeout, Short).await
    }

    async fn start_with<H: Handler>(limits: Limits, drain_timeout: Duration, handler: fn(Router) -> H) -> Self {
        let served = handler;
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
            .route("/wait", get(wait.clone()).post(wait))
            .route("/", get(|| async { "hello" }))
            .route("/", post(|body: bytes::Bytes| async move { body }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let end = tokio::spawn(serve_within(
            limits,
            Door::default(),
            listener,
            served(router),
            shutdown.clone(),
            drain_timeout,
        ));
        Self { address, shutdown, begun, go_on, handler, end }
    }

    async fn patient(drain_timeout: Duration) -> Self {
        Self::start(PATIENT, drain_timeout).await
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
const PATIENT: Limits = Limits { max_connections: 10, max_silence: Duration::from_secs(40) };

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
    for server in [Server::patient(SHORT).await, Server::short(PATIENT, SHORT).await] {
        let _stream = server.send(POST_WAIT).await;
        server.begun.notified().await;
        let handler = Arc::downgrade(&server.handler);
        server.shutdown.cancel();
        // The test's own hold on it goes with `server`.
        assert_eq!(server.drained().await, Drained { cut: 1 });
        assert!(handler.upgrade().is_none());
    }
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

/// What a server answers to these bytes, sent in pieces that arrive one after the other, before it closes; without the date.
async fn answers(server: &Server, pieces: &[String]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // A server that has closed reads no further.
        if stream.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
        // For the pieces to arrive apart. When they do not, less is tested.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = stream.shutdown().await;
    let mut read = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut read)).await.expect("the server closes the connection");
    let text = String::from_utf8_lossy(&read).into_owned();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn a_request_is_answered_the_same_whoever_reads_it() {
    let (hyper, whole) = (Server::patient(LONG).await, Server::short(PATIENT, LONG).await);
    let last = "POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast";
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}");
    let of = |headers: &str, body: &str| post(&format!("{headers}content-length: {}\r\n", body.len()), body);
    let many: String = (0..60).map(|n| format!("x-{n}: 1\r\n")).collect();
    let too_many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    for request in [
        of("", "hello"),
        of("Connection: Keep-Alive\r\nX-\u{e9}: a\r\n", "hello"),
        of("x: \u{e9}\u{1f600}\r\ny:\r\n", "hello"),
        of("", ""),
        of("", &"b".repeat(10_000)),
        of("", &"b".repeat(100_000)),
        of(&format!("x: {}\r\n", "y".repeat(10_000)), "hello"),
        of(&many, "hello"),
        of(&too_many, "hello"),
        post("", ""),
        // Several at once, of which one goes another way.
        [of("", "1"), of("", "2"), of("transfer-encoding: identity\r\n", "3"), of("", "4")].concat(),
        [of("", "1"), GET.to_owned(), of("", "2")].concat(),
        // What must not be read in two ways.
        post("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
        post("content-length: 5\r\ncontent-length: 6\r\n", "hello!"),
        post("content-length: 5, 5\r\n", "hello"),
        post("content-length: +5\r\n", "hello"),
        post("content-length: 0x5\r\n", "hello"),
        post("content-length:\r\n", "hello"),
        post("content-length: 99999999999999999999\r\n", "hello"),
        post("content-length: 18446744073709551615\r\n", "hello"),
        post("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        post("content-length : 5\r\n", "hello"),
        post(" content-length: 5\r\n", "hello"),
        post("content-length: 5\r\n x\r\n", "hello"),
        post("expect: 100-continue\r\ncontent-length: 5\r\n", "hello"),
        post("upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 5\r\n", "hello"),
        post("connection: close\r\ncontent-length: 5\r\n", "hello"),
        post("x: a\u{0}b\r\ncontent-length: 5\r\n", "hello"),
        post("x y: a\r\ncontent-length: 5\r\n", "hello"),
        of("", "hello").replace("HTTP/1.1", "HTTP/1.0"),
        of("", "hello").replace("HTTP/1.1", "HTTP/1.2"),
        of("", "hello").replace("\r\n", "\n"),
        of("", "hello").replace("POST /", "post /"),
        of("", "hello").replace("POST / ", "POST http://x/ "),
        of("", "hello").replace("POST / ", "POST /nowhere?a=b "),
        of("", "hello").replace("POST / ", "POST /\u{e9} "),
        of("", "hello").replace("POST / ", "POST  / "),
        of("", "hello").replace("POST / ", "POST * "),
        format!("\r\n{}", of("", "hello")),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let request = request + last;
        let half = (0..=request.len() / 2).rev().find(|place| request.is_char_boundary(*place)).unwrap();
        let (first, second) = request.split_at(half);
        for pieces in [vec![request.clone()], vec![first.to_owned(), second.to_owned()]] {
            let (expected, found) = tokio::join!(answers(&hyper, &pieces), answers(&whole, &pieces));
            assert_eq!(found, expected, "{:?} in {} pieces", &request[..half.min(200)], pieces.len());
        }
    }
}

const POST_WAIT: &str = "POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";

#[tokio::test]
async fn a_connection_of_whole_requests_ends_as_any_other() {
    let server = Server::short(Limits { max_silence: SHORT, ..PATIENT }, LONG).await;
    let mut waiting = server.send(POST_WAIT).await;
    server.begun.notified().await;
    // Another connection lives its whole silent life meanwhile, and one more after a request.
    assert_eq!(read_to_end(&mut server.send("").await).await, "");
    let mut served = server.send("POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi").await;
    assert!(read_to_end(&mut served).await.ends_with("\r\n\r\nhi"));
    server.go_on.notify_one();
    read_until(&mut waiting, "waited").await;
}

#[tokio::test]
async fn shutdown_lets_a_whole_request_finish_and_says_that_it_was_the_last() {
    let server = Server::short(PATIENT, LONG).await;
    let mut idle = server.send("POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi").await;
    read_until(&mut idle, "\r\n\r\nhi").await;
    let mut waiting = server.send(POST_WAIT).await;
    server.begun.notified().await;
    server.shutdown.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    server.go_on.notify_one();
    let answer = read_to_end(&mut waiting).await;
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("waited"), "{answer}");
    assert_eq!(server.drained().await, Drained { cut: 0 });
}

#[tokio::test]
async fn who_takes_no_answers_is_closed() {
    let server = Server::short(Limits { max_silence: SHORT, ..PATIENT }, LONG).await;
    let body = "b".repeat(50_000);
    let request = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let sending = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(LONG, sending).await.expect("the server closes the connection");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_a_request_ends_where_it_says(
        head in "POST /[ -~]{0,5} HTTP/1.1\r\n",
        headers in "((content-length|Connection|ce-ID|x|[a-z:\u{0}-\u{ff}]{0,3}): ?[0-9a-z,\u{0}-\u{ff}]{0,3}\r\n){0,4}",
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
    ) {
        let bytes = Bytes::from([head.as_bytes(), headers.as_bytes(), b"\r\n", &rest].concat());
        if let Some((request, length)) = whole::request::<Short>(&bytes) {
            let told = request.headers().get("content-length").map_or(0, |told| told.to_str().unwrap().parse().unwrap());
            let body = request.body().size_hint().exact();
            proptest::prop_assert_eq!((body, length), (Some(told), head.len() + headers.len() + 2 + body.unwrap() as usize));
        }
    }
}

//! Owns the checks of the pool: which connection a request takes, and what becomes of it.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(20);
const PATIENT: Limits = Limits { idle: LONG, suspect_idle: LONG, sweep_interval: LONG };
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What a server does with a request.
enum Way {
    Answer(&'static str),
    AnswerAndClose(&'static str),
    Close,
}

/// A server that does what it is told with each request, by the number of its connection, and counts.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// Connections that have ended.
    ended: Arc<AtomicUsize>,
}

impl Server {
    async fn start(way: impl Fn(usize, usize) -> Way + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, connections: Arc::default(), requests: Arc::default(), ended: Arc::default() };
        let (connections, requests, ended) =
            (Arc::clone(&server.connections), Arc::clone(&server.requests), Arc::clone(&server.ended));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (way, requests, ended) = (way.clone(), Arc::clone(&requests), Arc::clone(&ended));
                tokio::spawn(async move {
                    serve(stream, |request| way(connection, request), &requests).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    fn pool(&self, limits: Limits) -> Pool {
        Pool::within(limits, self.address.to_string().parse().unwrap(), Lookup(Arc::default()))
    }

    /// Connections and requests so far.
    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

/// `way` is given the number of the request on this connection.
async fn serve(mut stream: TcpStream, way: impl Fn(usize) -> Way, requests: &AtomicUsize) {
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        while !text.ends_with(b"\r\n\r\nbody") {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        match way(number) {
            Way::Answer(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            Way::AnswerAndClose(answer) => return stream.write_all(answer.as_bytes()).await.unwrap(),
            Way::Close => return,
        }
    }
}

fn message() -> Message {
    Preamble::post(&Uri::from_static("/"), &[("host", "x")]).head().with_body(Bytes::from_static(b"body"))
}

/// The body of the answer.
async fn exchange(pool: &Pool) -> Result<Vec<u8>, Fault> {
    let mut answer = pool.post(&message()).await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(Fault::Broken)? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap();
}

fn idle(pool: &Pool) -> usize {
    pool.shared.lock().connections.len()
}

#[tokio::test]
async fn requests_one_after_the_other_share_a_connection_whatever_their_answers() {
    let answers = [
        OK,
        "HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\ntrailer: x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 5\r\n\r\nhello",
    ];
    let server = Server::start(move |_, request| Way::Answer(answers[(request - 1) % answers.len()])).await;
    let pool = server.pool(PATIENT);
    for _ in 0..2 {
        assert_eq!(exchange(&pool).await.unwrap(), b"");
        for _ in 1..answers.len() {
            assert_eq!(exchange(&pool).await.unwrap(), b"hello");
        }
    }
    assert_eq!(server.seen(), (1, 8));
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each_and_leave_them_to_the_next() {
    let server = Server::start(|_, _| Way::Answer(OK)).await;
    let pool = server.pool(PATIENT);
    for _ in 0..3 {
        let all = futures_util::future::join_all((0..5).map(|_| exchange(&pool))).await;
        assert!(all.iter().all(Result::is_ok));
    }
    assert_eq!(server.seen(), (5, 15));
    assert_eq!(idle(&pool), 5);
}

#[tokio::test]
async fn a_connection_that_its_server_ends_is_not_used_again() {
    for answer in ["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"] {
        let server = Server::start(|_, _| Way::AnswerAndClose(answer)).await;
        let pool = server.pool(PATIENT);
        for number in 1..=3 {
            assert_eq!(exchange(&pool).await.unwrap(), b"");
            assert_eq!(server.seen(), (number, number));
            assert_eq!(idle(&pool), 0);
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_is_not_used_again() {
    let server = Server::start(|_, _| Way::AnswerAndClose(OK)).await;
    let pool = server.pool(PATIENT);
    for number in 1..=3 {
        exchange(&pool).await.unwrap();
        assert_eq!(server.seen(), (number, number));
        until(|| !pool.shared.lock().connections.iter_mut().any(|connection| connection.is_usable())).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_under_its_request_after_a_long_silence_costs_no_attempt() {
    let server = Server::start(|connection, request| match (connection, request) {
        (1, 2) => Way::Close,
        _ => Way::Answer(OK),
    })
    .await;
    let pool = server.pool(Limits { suspect_idle: Duration::ZERO, ..PATIENT });
    exchange(&pool).await.unwrap();
    exchange(&pool).await.unwrap();
    assert_eq!(server.seen(), (2, 3));
}

#[tokio::test]
async fn who_never_answers_is_not_asked_again() {
    let server = Server::start(|_, request| if request == 1 { Way::Answer(OK) } else { Way::Close }).await;
    // On a connection that was at work just now, the server has seen the request and did not want to answer.
    let pool = server.pool(PATIENT);
    exchange(&pool).await.unwrap();
    assert!(matches!(exchange(&pool).await, Err(Fault::Broken(_))));
    assert_eq!(server.seen(), (1, 2));

    let server = Server::start(|_, _| Way::Close).await;
    let pool = server.pool(Limits { suspect_idle: Duration::ZERO, ..PATIENT });
    assert!(matches!(exchange(&pool).await, Err(Fault::Broken(_))));
    assert_eq!(server.seen(), (1, 1));
}

#[tokio::test]
async fn an_answer_that_is_dropped_unread_closes_its_connection() {
    let server = Server::start(|_, _| Way::Answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")).await;
    let pool = server.pool(PATIENT);
    let answer = pool.post(&message()).await.unwrap();
    drop(answer);
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(idle(&pool), 0);
}

#[tokio::test]
async fn idle_connections_are_closed_after_a_while_and_with_the_pool() {
    let server = Server::start(|_, _| Way::Answer(OK)).await;
    let short = Duration::from_millis(20);
    let pool = server.pool(Limits { idle: short, suspect_idle: LONG, sweep_interval: short });
    exchange(&pool).await.unwrap();
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
    until(|| pool.shared.lock().sweeper.is_none()).await;
    // It sweeps again when there is something to sweep.
    exchange(&pool).await.unwrap();
    until(|| server.ended.load(Ordering::SeqCst) == 2).await;

    let pool = server.pool(PATIENT);
    exchange(&pool).await.unwrap();
    drop(pool);
    until(|| server.ended.load(Ordering::SeqCst) == 3).await;
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority: Authority = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    let nowhere: Authority = "nowhere.invalid".parse().unwrap();
    for authority in [authority, nowhere] {
        match exchange(&Pool::new(authority, Lookup(Arc::default()))).await {
            Err(Fault::Unreachable(NoAnswer(reason))) => assert!(reason.starts_with("cannot connect: "), "{reason}"),
            other => unreachable!("{other:?}"),
        }
    }
}

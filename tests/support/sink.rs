//! An HTTP sink that records what comes and answers by a script, well or badly.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::{Message, read_message};
use super::{eventually, until};

/// One request that a sink got.
#[derive(Debug, Clone)]
pub struct Request {
    message: Message,
    pub at: Instant,
    /// Which attempt it is for this path and event, from 1.
    pub attempt: usize,
}

impl Request {
    pub fn id(&self) -> &str {
        self.header("ce-id").unwrap_or_default()
    }
}

impl Deref for Request {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A server on a port of its own; its paths are as many sinks as a test needs.
pub struct Sink {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// How often an event has come, by path and id.
    attempts: HashMap<(String, String), usize>,
}

impl Sink {
    /// Answers every request with 200 and nothing.
    pub async fn start() -> Self {
        Self::answering(|_| Answer::status(200)).await
    }

    pub async fn answering(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// On a port that was known before there was a sink. Answers every request with 200 and nothing.
    pub async fn at(port: u16) -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", port)).await.unwrap(), |_| Answer::status(200))
    }

    fn on(listener: TcpListener, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let server = tokio::spawn(serve(listener, seen.clone(), Arc::new(script)));
        Self { address, seen, server }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests to a path so far, in the order in which they came.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.seen.lock().unwrap().requests.iter().filter(|request| request.target() == path).cloned().collect()
    }

    /// How often each event has come to a path, by its id.
    pub fn counts(&self, path: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.seen.lock().unwrap().requests.iter().filter(|request| request.target() == path) {
            *counts.entry(request.id().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Waits for at least so many requests to a path.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Request> {
        // Counted before they are copied: there may be thousands.
        let come = || self.seen.lock().unwrap().requests.iter().filter(|request| request.target() == path).count();
        until(&format!("{count} requests to {path} at a sink"), || async { come() >= count }).await;
        self.requests(path)
    }

    /// Waits for one request to a path and gives it.
    pub async fn wait_for_one(&self, path: &str) -> Request {
        self.wait_for(path, 1).await.remove(0)
    }

    /// Waits until an event with this id has come to a path.
    pub async fn wait_for_id(&self, path: &str, id: &str) -> Request {
        let find = || async { self.requests(path).into_iter().find(|request| request.id() == id) };
        eventually(&format!("event '{id}' at {path}"), find).await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Seen>>, script: Script) {
    // Connections end with the runtime of the test.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_connection(stream, seen.clone(), script.clone()));
    }
}

async fn serve_connection(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, script: Script) {
    loop {
        let (read, _) = stream.split();
        let Ok(Some(message)) = read_message(&mut BufReader::new(read)).await else { return };
        let answer = {
            let mut seen = seen.lock().unwrap();
            let event = (message.target().to_owned(), message.header("ce-id").unwrap_or_default().to_owned());
            let attempt = seen.attempts.entry(event).or_default();
            *attempt += 1;
            let request = Request { at: Instant::now(), attempt: *attempt, message };
            let answer = script(&request);
            seen.requests.push(request);
            answer
        };
        if !answer.send(&mut stream).await {
            return;
        }
    }
}

/// Holds answers back until the test opens it.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What a sink answers.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    delay: Duration,
    gate: Option<Gate>,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Whole,
    /// Never answers, keeps the connection.
    Hang,
    Reset,
    Endless,
    BrokenChunks,
    /// Says more than it sends.
    Short,
    /// The body is the whole answer, head and all.
    Raw,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO, gate: None, shape: Shape::Whole }
    }

    fn shaped(shape: Shape) -> Self {
        Self { shape, ..Self::status(200) }
    }

    pub fn hang() -> Self {
        Self::shaped(Shape::Hang)
    }

    pub fn reset() -> Self {
        Self::shaped(Shape::Reset)
    }

    pub fn endless_body() -> Self {
        Self::shaped(Shape::Endless)
    }

    pub fn broken_chunks() -> Self {
        Self::shaped(Shape::BrokenChunks)
    }

    pub fn short_body() -> Self {
        Self::shaped(Shape::Short)
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::shaped(Shape::Raw).body(bytes)
    }

    /// 200 with a binary-mode event.
    pub fn event(id: &str) -> Self {
        Self::status(200)
            .header("ce-specversion", "1.0")
            .header("ce-id", id)
            .header("ce-source", "/reply")
            .header("ce-type", "reply")
    }

    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Answers so much later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// False when the connection is to be closed.
    async fn send(self, stream: &mut TcpStream) -> bool {
        tokio::time::sleep(self.delay).await;
        if let Some(gate) = &self.gate {
            gate.passed().await;
        }
        let sent = match self.shape {
            Shape::Hang => std::future::pending().await,
            Shape::Reset => stream.set_zero_linger(),
            Shape::Raw => stream.write_all(&self.body).await,
            Shape::Whole => {
                let mut bytes = self.head(&format!("content-length: {}", self.body.len()));
                bytes.extend_from_slice(&self.body);
                stream.write_all(&bytes).await
            }
            Shape::Short => {
                let mut bytes = self.head("content-length: 1000");
                bytes.extend_from_slice(b"only this");
                stream.write_all(&bytes).await
            }
            Shape::BrokenChunks => {
                let mut bytes = self.head("transfer-encoding: chunked");
                bytes.extend_from_slice(b"5\r\nhello\r\nZZZ\r\nnot a chunk");
                stream.write_all(&bytes).await
            }
            Shape::Endless => endless(stream, &self.head("transfer-encoding: chunked")).await,
        };
        sent.is_ok() && self.shape == Shape::Whole
    }

    fn head(&self, framing: &str) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} Status\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(framing.as_bytes());
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    }
}

/// Sends until the other side has had enough.
async fn endless(stream: &mut TcpStream, head: &[u8]) -> std::io::Result<()> {
    stream.write_all(head).await?;
    let mut chunk = b"4000\r\n".to_vec();
    chunk.extend_from_slice(&[b'x'; 0x4000]);
    chunk.extend_from_slice(b"\r\n");
    loop {
        stream.write_all(&chunk).await?;
        tokio::task::yield_now().await;
    }
}

//! Owns the sinks: they answer 202 to whatever comes, and note when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::load::Clock;

const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

/// What a sink has seen.
pub struct Sink {
    pub address: SocketAddr,
    arrived: AtomicU64,
    /// Requests that wait for their answer, now and at most since somebody asked.
    open: AtomicU64,
    most_open: AtomicU64,
    news: Notify,
    clock: Mutex<Option<Arc<Clock>>>,
    latencies: Mutex<Vec<Duration>>,
    delay: Duration,
    gate: watch::Receiver<bool>,
}

/// Keeps sinks from answering until it is opened. Until then each gets what may be under way to it and no more, so all can be
/// made to begin at once, however long it takes a bridge to start so many subscriptions.
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

impl Sink {
    /// One that takes so long for an answer.
    pub async fn start(delay: Duration) -> Arc<Self> {
        let gate = Gate::closed();
        gate.open();
        Self::start_behind(&gate, delay).await
    }

    pub async fn start_behind(gate: &Gate, delay: Duration) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            arrived: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
            news: Notify::new(),
            clock: Mutex::default(),
            latencies: Mutex::default(),
            delay,
            gate: gate.0.subscribe(),
        });
        let serving = Arc::clone(&sink);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).connection(stream));
            }
        });
        sink
    }

    /// So many that take no time, once the gate is open.
    pub async fn start_many(number: usize, gate: &Gate) -> Vec<Arc<Self>> {
        let mut sinks = Vec::with_capacity(number);
        for _ in 0..number {
            sinks.push(Self::start_behind(gate, Duration::ZERO).await);
        }
        sinks
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// The most requests that waited for their answer at once, since somebody asked last.
    pub fn most_open(&self) -> u64 {
        self.most_open.swap(0, Ordering::Relaxed)
    }

    /// Notes how long each event takes from now on.
    pub fn measure(&self, clock: &Arc<Clock>) {
        *self.clock.lock().unwrap() = Some(Arc::clone(clock));
    }

    pub fn latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.latencies.lock().unwrap())
    }

    /// Waits until so many events have come in all.
    pub async fn wait_for(&self, events: u64, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let news = self.news.notified();
            if self.arrived() >= events {
                return;
            }
            let arrived = self.arrived();
            let waited = tokio::time::timeout_at(deadline.into(), news).await;
            assert!(waited.is_ok(), "{arrived} of {events} events arrived within {limit:?}");
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut gate = Some(self.gate.clone());
        loop {
            let Some((head, length)) = head(&buffer) else {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                continue;
            };
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_open.fetch_max(open, Ordering::Relaxed);
            self.note(&buffer[..head], &buffer[head..head + length]);
            buffer.drain(..head + length);
            if let Some(mut gate) = gate.take() {
                // One that is gone with the work lets nobody through, and nobody is there to be answered.
                if gate.wait_for(|open| *open).await.is_err() {
                    return;
                }
            }
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }

    fn note(&self, head: &[u8], body: &[u8]) {
        let clock = self.clock.lock().unwrap().clone();
        if let (Some(clock), Some(id)) = (clock, header(head, b"ce-id:")) {
            let event = std::str::from_utf8(id).ok().and_then(|id| id.trim().parse().ok());
            if let Some(event) = event {
                self.latencies.lock().unwrap().push(clock.since(event));
            }
        }
        let batch = header(head, b"content-type:").is_some_and(|value| value.windows(5).any(|part| part == b"batch"));
        let events = if batch { body.windows(14).filter(|part| *part == b"\"specversion\":").count() } else { 1 };
        self.arrived.fetch_add(events as u64, Ordering::Relaxed);
        self.news.notify_waiters();
    }
}

/// Waits until each of them has so many.
pub async fn all_have(sinks: &[Arc<Sink>], events: usize, limit: Duration) {
    for sink in sinks {
        sink.wait_for(events as u64, limit).await;
    }
}

/// How many events have come to all of them together.
pub fn arrived(sinks: &[Arc<Sink>]) -> usize {
    sinks.iter().map(|sink| usize::try_from(sink.arrived()).unwrap()).sum()
}

/// The length of a head that is complete, and of the body that follows.
fn head(buffer: &[u8]) -> Option<(usize, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let length = header(&buffer[..end], b"content-length:").unwrap_or_default();
    Some((end, std::str::from_utf8(length).unwrap_or_default().trim().parse().unwrap_or(0)))
}

/// The value of a header whose name, colon included, is given in lower case.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let lines = head.split(|byte| *byte == b'\n');
    lines
        .filter(|line| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name))
        .map(|line| &line[name.len()..])
        .next()
}

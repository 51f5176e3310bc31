//! Owns the source of events: plain HTTP/1.1 over kept connections, as cheap as it can be, so that it takes little of the
//! machine from what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::program::IN_FLIGHT;

/// Bytes of data of each event.
pub const DATA: usize = 256;
/// How slow it may become before it counts as a fault: a start, and a thousand events a second.
const START: Duration = Duration::from_secs(60);
const EACH: Duration = Duration::from_millis(1);

/// How long so many events, or deliveries of them, may take.
pub fn limit(events: usize) -> Duration {
    START + EACH * u32::try_from(events).unwrap()
}

/// When each event of a run was to be sent, in nanoseconds since the run began.
pub struct Clock {
    began: Instant,
    sent: Vec<AtomicU64>,
}

impl Clock {
    pub fn new(events: usize) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), sent: (0..events).map(|_| AtomicU64::new(0)).collect() })
    }

    fn note(&self, event: usize, at: Instant) {
        let nanos = at.saturating_duration_since(self.began).as_nanos();
        self.sent[event].store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago an event was to be sent.
    pub fn since(&self, event: usize) -> Duration {
        let sent = self.sent.get(event).map_or(0, |nanos| nanos.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(Duration::from_nanos(sent))
    }
}

/// What to send, and how fast.
#[derive(Clone)]
pub struct Load {
    pub to: SocketAddr,
    pub path: &'static str,
    pub events: usize,
    /// The number of the first event; a stream drops an event that it has already.
    pub first: usize,
    pub in_flight: usize,
    /// Events a second; as fast as answers come when `None`. A late event counts from when it was due.
    pub rate: Option<u32>,
    /// Events in one request.
    pub batch: usize,
}

impl Load {
    /// As fast as answers come to the usual number of requests under way.
    pub fn saturating(to: SocketAddr, events: usize) -> Self {
        Self { to, path: "/", events, first: 0, in_flight: IN_FLIGHT, rate: None, batch: 1 }
    }

    /// Sends all, and waits for all answers; stops when it is dropped. Panics on an answer that is no 2xx: a bench with
    /// failures measures nothing.
    pub async fn run(&self, clock: &Arc<Clock>) -> Duration {
        let next = Arc::new(AtomicU64::new(0));
        let mut streams = Vec::with_capacity(self.in_flight);
        // One after the other and before the first event: many at once may have to wait for a second to be let in.
        for _ in 0..self.in_flight {
            let stream = TcpStream::connect(self.to).await.unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push(stream);
        }
        let began = Instant::now();
        let mut connections = JoinSet::new();
        for stream in streams {
            let (load, clock, next) = (self.clone(), Arc::clone(clock), Arc::clone(&next));
            connections.spawn(async move { load.connection(stream, began, &clock, &next).await });
        }
        let limit = limit(self.events);
        let done = tokio::time::timeout(limit, connections.join_all()).await;
        assert!(done.is_ok(), "{} events were not taken in within {limit:?}", self.events);
        began.elapsed()
    }

    async fn connection(&self, mut stream: TcpStream, began: Instant, clock: &Clock, next: &AtomicU64) {
        let mut request = Vec::with_capacity(4096);
        let mut answer = vec![0; 4096];
        loop {
            let at = usize::try_from(next.fetch_add(self.batch as u64, Ordering::Relaxed)).unwrap();
            if at >= self.events {
                return;
            }
            let last = (at + self.batch).min(self.events);
            let mut due = Instant::now();
            if let Some(rate) = self.rate {
                due = began + Duration::from_secs_f64(at as f64 / f64::from(rate));
                tokio::time::sleep_until(due.into()).await;
            }
            (at..last).for_each(|event| clock.note(event, due));
            request.clear();
            if self.batch == 1 {
                self.one(at, &mut request)
            } else {
                self.many(at..last, &mut request)
            }
            stream.write_all(&request).await.unwrap();
            let mut filled = 0;
            while !answer[..filled].windows(4).any(|window| window == b"\r\n\r\n") {
                let read = stream.read(&mut answer[filled..]).await.unwrap();
                assert!(read > 0, "the connection was closed instead of an answer");
                filled += read;
            }
            assert!(answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer[..filled]));
        }
    }

    fn one(&self, event: usize, request: &mut Vec<u8>) {
        let id = self.first + event;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {DATA}\r\n\
             ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: /bench\r\nce-type: dev.knats.bench\r\nce-subject: s\r\n\
             ce-time: 2026-11-21T01:02:03.123Z\r\nce-partitionkey: k0\r\nce-other: x\r\n\r\n",
            self.path
        );
        request.extend_from_slice(head.as_bytes());
        data(request);
    }

    fn many(&self, events: std::ops::Range<usize>, request: &mut Vec<u8>) {
        let mut body = vec![b'['];
        for event in events {
            if body.len() > 1 {
                body.push(b',');
            }
            let id = self.first + event;
            let attributes = format!(
                "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/bench\",\"type\":\"dev.knats.bench\",\"subject\":\"s\",\
                 \"time\":\"2026-11-21T01:02:03.123Z\",\"partitionkey\":\"k0\",\"other\":\"x\",\"datacontenttype\":\"application/json\",\"data\":"
            );
            body.extend_from_slice(attributes.as_bytes());
            data(&mut body);
            body.push(b'}');
        }
        body.push(b']');
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/cloudevents-batch+json\r\ncontent-length: {}\r\n\r\n",
            self.path,
            body.len()
        );
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(&body);
    }
}

/// A JSON object of [`DATA`] bytes.
fn data(into: &mut Vec<u8>) {
    into.extend_from_slice(b"{\"text\":\"");
    into.resize(into.len() + DATA - 11, b'x');
    into.extend_from_slice(b"\"}");
}

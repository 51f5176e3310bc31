//! Plain HTTP/1.1 to one authority, on a few lines of our own: a request is one buffer that is written at once, its answer is read
//! by whoever waits for it, and nothing else is woken. Idle connections wait in a pool.

mod framing;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod message;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::io::{poll_read_buf, poll_write_buf};
use tokio_util::task::AbortOnDropHandle;
use tower::Service as _;

use super::client::{CONNECT_TIMEOUT, IDLE_PER_HOST, IDLE_TIMEOUT, NoAnswer, TCP_KEEPALIVE, causes};
use super::guard::{Lookup, Refused};
use framing::{Body, Head, Malformed, Piece};
pub(super) use message::{Message, Preamble};

/// What one read may bring.
const READ: usize = 8 * 1024;
/// How often idle connections are looked through for those that are too old or were closed by their server.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// A connection that was idle for longer may be closed by its server just when a request goes out on it: servers close idle
/// connections after some seconds. Such a request is sent once more, on a fresh connection.
const SUSPECT_IDLE: Duration = Duration::from_secs(1);

/// The bounds that tests make small.
#[derive(Debug, Clone, Copy)]
struct Limits {
    idle: Duration,
    suspect_idle: Duration,
    sweep_interval: Duration,
}

const LIMITS: Limits = Limits { idle: IDLE_TIMEOUT, suspect_idle: SUSPECT_IDLE, sweep_interval: SWEEP_INTERVAL };

/// The connections to one authority. A clone is the same pool.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    origin: Uri,
    connector: HttpConnector<Lookup>,
    limits: Limits,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// In the order in which they became idle. The last is taken first, so that those not needed grow old.
    #[allow(clippy::vec_box, reason = "every request takes one out and puts it back, and it is large to move")]
    connections: Vec<Box<Connection>>,
    /// Runs as long as there is something to sweep.
    sweeper: Option<AbortOnDropHandle<()>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection.
    Unreachable(NoAnswer),
    /// The connection broke, or what came on it was not HTTP; or the guard refused where it would have gone.
    Broken(NoAnswer),
}

impl Pool {
    /// A pool for `authority` (host and port, no user).
    pub(super) fn new(authority: Authority, lookup: Lookup) -> Self {
        Self::within(LIMITS, authority, lookup)
    }

    fn within(limits: Limits, authority: Authority, lookup: Lookup) -> Self {
        let mut connector = HttpConnector::new_with_resolver(lookup);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(TCP_KEEPALIVE));
        // Shared by all addresses of the name, so that a dead one does not use up the time of the others.
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut origin = http::uri::Parts::default();
        origin.scheme = Some(Scheme::HTTP);
        origin.authority = Some(authority);
        origin.path_and_query = Some(PathAndQuery::from_static("/"));
        // Three parts that are there always make a URI.
        let origin = Uri::from_parts(origin).unwrap_or_default();
        Self { shared: Arc::new(Shared { origin, connector, limits, idle: Mutex::default() }) }
    }

    /// What the pool is held by when nobody sends there any more: nothing.
    pub(super) fn downgrade(&self) -> WeakPool {
        WeakPool(Arc::downgrade(&self.shared))
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn post(&self, message: &Message) -> Result<Answer, Fault> {
        let mut wants_fresh = false;
        loop {
            let idle = if wants_fresh { None } else { self.shared.take() };
            let is_fresh = idle.is_none();
            let (mut connection, idle_for) = match idle {
                Some(idle) => idle,
                None => (Box::pin(self.connect()).await?, Duration::ZERO),
            };
            let refusal = match connection.send(message).await {
                Ok(head) => return Ok(Answer::new(head, self.clone(), connection)),
                Err(refusal) => refusal,
            };
            let is_suspect = idle_for >= self.shared.limits.suspect_idle;
            match refusal.went {
                // The connection ended before the request was on it.
                Went::Nothing if !is_fresh => {}
                Went::Unanswered if !is_fresh && is_suspect && refusal.was_closed() => wants_fresh = true,
                _ => return Err(Fault::Broken(NoAnswer(refusal.fault.to_string()))),
            }
        }
    }

    async fn connect(&self) -> Result<Box<Connection>, Fault> {
        let mut connector = self.shared.connector.clone();
        let connecting = connector.call(self.shared.origin.clone());
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| unconnected(&error))?,
            Err(_) => {
                let reason = format!("cannot connect: nobody answered within {CONNECT_TIMEOUT:?}");
                return Err(Fault::Unreachable(NoAnswer(reason)));
            }
        };
        Ok(Box::new(Connection {
            stream: stream.into_inner(),
            inbound: BytesMut::new(),
            seen: 0,
            idle_since: Instant::now(),
        }))
    }

    fn give_back(&self, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        connection.idle_since = Instant::now();
        let mut idle = self.shared.lock();
        if idle.connections.len() < IDLE_PER_HOST {
            idle.connections.push(connection);
        }
        if idle.sweeper.is_none() {
            let sweeping = sweep(self.downgrade(), self.shared.limits);
            idle.sweeper = Some(AbortOnDropHandle::new(tokio::spawn(sweeping)));
        }
    }
}

/// A pool as it is remembered by those who do not need it.
#[derive(Debug)]
pub(super) struct WeakPool(Weak<Shared>);

impl WeakPool {
    pub(super) fn upgrade(&self) -> Option<Pool> {
        self.0.upgrade().map(|shared| Pool { shared })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle connection that was used last, and for how long it was idle.
    fn take(&self) -> Option<(Box<Connection>, Duration)> {
        let mut idle = self.lock();
        while let Some(mut connection) = idle.connections.pop() {
            let idle_for = connection.idle_since.elapsed();
            if idle_for < self.limits.idle && connection.is_usable() {
                return Some((connection, idle_for));
            }
        }
        None
    }
}

/// Closes what was idle for too long, or was closed by its server, until nothing is left.
async fn sweep(pool: WeakPool, limits: Limits) {
    loop {
        tokio::time::sleep(limits.sweep_interval).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.shared.lock();
        idle.connections
            .retain_mut(|connection| connection.idle_since.elapsed() < limits.idle && connection.is_usable());
        if idle.connections.is_empty() {
            idle.connections.shrink_to_fit();
            // This very task, which has nothing left to do.
            idle.sweeper = None;
            return;
        }
    }
}

/// One connection. Whoever has a request on it reads and writes; between requests nobody does.
struct Connection {
    stream: TcpStream,
    inbound: BytesMut,
    /// How much of that was looked at in vain for the end of a head.
    seen: usize,
    idle_since: Instant,
}

/// Why a request was not answered.
struct Refusal {
    fault: Broken,
    went: Went,
}

/// How far an exchange came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    /// Nothing of the request was sent.
    Nothing,
    /// Nothing of the answer came.
    Unanswered,
    Further,
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("connection closed before message completed")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Refusal {
    fn was_closed(&self) -> bool {
        match &self.fault {
            Broken::Closed => true,
            Broken::Io(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Broken::Malformed(_) => false,
        }
    }
}

impl Connection {
    async fn send(&mut self, message: &Message) -> Result<Head, Refusal> {
        let mut unsent = message.bytes();
        let whole = unsent.remaining();
        let exchanged = std::future::poll_fn(|cx| self.poll_exchange(&mut unsent, cx)).await;
        exchanged.map(|head| Head { keeps: head.keeps && !unsent.has_remaining(), ..head }).map_err(|fault| {
            let went = match (unsent.remaining() == whole, self.inbound.is_empty()) {
                (true, _) => Went::Nothing,
                (false, true) => Went::Unanswered,
                (false, false) => Went::Further,
            };
            Refusal { fault, went }
        })
    }

    /// Writes what can be, and reads at the same time: a server may answer before it has read all, and read no further.
    fn poll_exchange(&mut self, unsent: &mut impl Buf, cx: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        let mut unwritable = None;
        while unsent.has_remaining() && unwritable.is_none() {
            match poll_write(&mut self.stream, cx, unsent) {
                Poll::Ready(Ok(0)) => unwritable = Some(Broken::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => unwritable = Some(error.into()),
                Poll::Pending => break,
            }
        }
        loop {
            if let Some(head) = framing::head(&mut self.inbound, &mut self.seen)? {
                return Poll::Ready(Ok(head));
            }
            match (self.poll_read(cx), unwritable.take()) {
                (Poll::Ready(Ok(())), still) => unwritable = still,
                (_, Some(fault)) | (Poll::Ready(Err(fault)), None) => return Poll::Ready(Err(fault)),
                (Poll::Pending, None) => return Poll::Pending,
            }
        }
    }

    /// Reads some more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.inbound.capacity() == self.inbound.len() {
            self.inbound.reserve(READ);
        }
        match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.inbound)) {
            Ok(0) => Poll::Ready(Err(Broken::Closed)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Whether a request can go out on it: its server has neither closed it nor said anything that nobody asked for.
    fn is_usable(&mut self) -> bool {
        let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.inbound.is_empty() && self.stream.try_read(&mut [0]).is_err_and(nothing)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("idle_since", &self.idle_since).finish_non_exhaustive()
    }
}

/// Writes what is in one piece as one, which costs the kernel less than a list of pieces.
fn poll_write(stream: &mut TcpStream, cx: &mut Context<'_>, bytes: &mut impl Buf) -> Poll<io::Result<usize>> {
    if bytes.chunk().len() < bytes.remaining() {
        return poll_write_buf(Pin::new(stream), cx, bytes);
    }
    let written = ready!(Pin::new(stream).poll_write(cx, bytes.chunk()))?;
    bytes.advance(written);
    Poll::Ready(Ok(written))
}

/// The head of an answer, and its body as it comes. Once read to the end, its connection serves the next request; dropped
/// before, it is closed.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
    keeps: bool,
    /// `None` once the body is read.
    held: Option<(Pool, Box<Connection>)>,
}

impl Answer {
    fn new(head: Head, pool: Pool, connection: Box<Connection>) -> Self {
        let Head { status, headers, body, keeps } = head;
        Self { status, headers, body, keeps, held: Some((pool, connection)) }
    }

    /// Whether there is no body. Then its connection serves the next request from now on.
    pub(super) fn is_empty(&mut self) -> bool {
        let is_empty = self.body == Body::Length(0);
        if is_empty {
            self.end();
        }
        is_empty
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        let chunk = self.next().await;
        if chunk.is_err() {
            self.held = None;
        }
        chunk.map_err(|fault| NoAnswer(fault.to_string()))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        while let Some((_, connection)) = &mut self.held {
            match self.body.next(&mut connection.inbound)? {
                Piece::Data(data) => return Ok(Some(data)),
                Piece::End => self.end(),
                Piece::Missing => match std::future::poll_fn(|cx| connection.poll_read(cx)).await {
                    Err(Broken::Closed) if self.body == Body::UntilClose => self.end(),
                    read => read?,
                },
            }
        }
        Ok(None)
    }

    fn end(&mut self) {
        if let Some((pool, connection)) = self.held.take()
            && self.keeps
        {
            pool.give_back(connection);
        }
    }
}

/// The innermost cause says what happened; what is around it says only that the request failed.
fn unconnected(error: &(dyn std::error::Error + 'static)) -> Fault {
    match (Refused::in_causes_of(error), causes(error).last()) {
        (Some(refused), _) => Fault::Broken(NoAnswer(refused.to_string())),
        (None, cause) => Fault::Unreachable(NoAnswer(format!("cannot connect: {}", cause.unwrap_or(error)))),
    }
}

#[cfg(test)]
mod tests;

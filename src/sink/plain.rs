//! Plain HTTP/1.1 to one authority, directly on hyper. A connection has no task of its own: whoever has a request on it drives
//! it, which saves two wake-ups a request; nobody else needs it meanwhile. Idle connections wait in a pool.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tower::Service as _;

use super::client::{CONNECT_TIMEOUT, IDLE_PER_HOST, IDLE_TIMEOUT, NoAnswer, TCP_KEEPALIVE};

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
    connector: HttpConnector,
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
    /// The connection broke, or what came on it was not HTTP.
    Broken(NoAnswer),
}

impl Pool {
    /// A pool for `authority` (host and port, no user).
    pub(super) fn new(authority: Authority) -> Self {
        Self::within(LIMITS, authority)
    }

    fn within(limits: Limits, authority: Authority) -> Self {
        let mut connector = HttpConnector::new();
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
    pub(super) async fn post(&self, target: &Uri, headers: HeaderMap, body: Bytes) -> Result<Answer, Fault> {
        let mut request = request(target, headers, body);
        let mut wants_fresh = false;
        loop {
            let idle = if wants_fresh { None } else { self.shared.take() };
            let is_fresh = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Box::pin(self.connect()).await.map_err(Fault::Unreachable)?,
            };
            let is_suspect = !is_fresh && connection.idle_for() >= self.shared.limits.suspect_idle;
            let spare = is_suspect.then(|| Box::new(request.clone()));
            let refusal = match connection.send(request).await {
                Ok(response) => return Ok(self.answer(response, connection)),
                Err(refusal) => refusal,
            };
            request = match (refusal.unsent, spare) {
                // The connection ended before the request was on it.
                (Some(unsent), _) if !is_fresh => *unsent,
                (None, Some(spare)) if was_closed(&refusal.fault) => {
                    wants_fresh = true;
                    *spare
                }
                _ => return Err(Fault::Broken(innermost(&refusal.fault))),
            };
        }
    }

    async fn connect(&self) -> Result<Box<Connection>, NoAnswer> {
        let mut connector = self.shared.connector.clone();
        let connecting = connector.call(self.shared.origin.clone());
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| NoAnswer(format!("cannot connect: {}", innermost(&error))))?,
            Err(_) => return Err(NoAnswer(format!("cannot connect: nobody answered within {CONNECT_TIMEOUT:?}"))),
        };
        let (sender, driver) = http1::handshake(stream).await.map_err(|error| innermost(&error))?;
        Ok(Box::new(Connection { sender, driver: Some(driver), idle_since: None }))
    }

    fn answer(&self, response: Response<Incoming>, connection: Box<Connection>) -> Answer {
        let (head, body) = response.into_parts();
        Answer { status: head.status, headers: head.headers, body, held: Some((self.clone(), connection)) }
    }

    fn give_back(&self, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        connection.idle_since = Some(Instant::now());
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

    /// The idle connection that was used last.
    fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.lock();
        while let Some(mut connection) = idle.connections.pop() {
            if connection.idle_for() < self.limits.idle && connection.is_usable() {
                return Some(connection);
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
        idle.connections.retain_mut(|connection| connection.idle_for() < limits.idle && connection.is_usable());
        if idle.connections.is_empty() {
            idle.connections.shrink_to_fit();
            // This very task, which has nothing left to do.
            idle.sweeper = None;
            return;
        }
    }
}

fn request(target: &Uri, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.clone();
    *request.headers_mut() = headers;
    request
}

/// One connection, and the future that reads and writes on it.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
    idle_since: Option<Instant>,
}

type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// Why a request was not answered.
struct Refusal {
    fault: hyper::Error,
    /// The request, when nothing of it was sent.
    unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl Connection {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Refusal> {
        // Unconstrained: a future that yields for fairness relies on its waker.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        let driver = &mut self.driver;
        let answered = poll_fn(|cx| {
            drive(driver, cx);
            // Only the driver makes it ready, so nobody has to be woken for it.
            answer.as_mut().poll(&mut quiet())
        });
        answered
            .await
            .map_err(|mut error| Refusal { unsent: error.take_message().map(Box::new), fault: error.into_error() })
    }

    /// Whether a request can go out on it. What its server has done meanwhile is seen here.
    fn is_usable(&mut self) -> bool {
        let cx = &mut quiet();
        drive(&mut self.driver, cx);
        self.driver.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    fn idle_for(&self) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("idle_since", &self.idle_since).finish_non_exhaustive()
    }
}

/// Reads and writes what can be. A driver that ends tells the request on it by being dropped.
fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && Pin::new(running).poll(cx).is_ready()
    {
        *driver = None;
    }
}

fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The head of an answer, and its body as it comes. Once read to the end, its connection serves the next request; dropped
/// before, it is closed.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// `None` once the body is read.
    held: Option<(Pool, Box<Connection>)>,
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        loop {
            let Some((_, connection)) = &mut self.held else { return Ok(None) };
            let body = &mut self.body;
            let frame = if body.is_end_stream() { None } else { poll_fn(|cx| connection.poll_body(body, cx)).await };
            match frame {
                Some(Ok(frame)) => {
                    // Trailers say nothing about an event.
                    if let Ok(chunk) = frame.into_data() {
                        return Ok(Some(chunk));
                    }
                }
                Some(Err(error)) => {
                    self.held = None;
                    return Err(innermost(&error));
                }
                None => {
                    if let Some((pool, connection)) = self.held.take() {
                        pool.give_back(connection);
                    }
                    return Ok(None);
                }
            }
        }
    }
}

type Frame = Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>;

impl Connection {
    fn poll_body(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Frame> {
        // Asked first, so that the driver knows that somebody wants to read.
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut quiet()) {
            return Poll::Ready(frame);
        }
        drive(&mut self.driver, cx);
        Pin::new(body).poll_frame(&mut quiet())
    }
}

/// The connection was closed before anything of an answer came.
fn was_closed(fault: &hyper::Error) -> bool {
    let by_reset =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    fault.is_incomplete_message() || fault.source().and_then(|cause| cause.downcast_ref()).is_some_and(by_reset)
}

/// The innermost cause says what happened; what is around it says only that the request failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> NoAnswer {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    NoAnswer(cause.to_string())
}

#[cfg(test)]
mod tests;

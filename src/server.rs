//! The accept loop that all HTTP servers of the bridge share: bounds on connections, heads and silence, and a graceful end
//! with a deadline. `axum::serve` has none of these. It knows no routes.

mod connection;
mod door;
mod peers;
pub mod problem;
mod tls;
mod whole;

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderName, Request, Response};
use hyper::body::Body;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::telemetry::Tally;
use connection::{Ends, connection};

pub use door::Door;
pub use peers::Peers;
pub use tls::{Files, Tls};

/// Connections open at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 10_000;
/// How long a connection may take over the head of a request, and how long it may be silent between two, before it is closed;
/// looked at so often, so it may last twice as long.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Bytes that the head of a request may have: an event of 64 KiB on the wire must pass (CloudEvents 1.0.2, "Size Limits"),
/// and in binary mode all of it may lie in headers. HTTP/1 heads are also held to hyper's 100 headers.
const MAX_HEAD_BYTES: u32 = 128 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;
/// How often a silent HTTP/2 peer with a request at work is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The pause after an accept that failed for want of descriptors or memory: trying again at once would only burn the processor.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Why a body breaks off.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What is served. An axum router is a handler; what is asked for with every event can do without one.
pub trait Handler: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Fault>> + Send + 'static;

    /// Whether requests that have come whole may be answered without hyper, which costs less. Only where answers are short.
    const TAKES_WHOLE: bool = false;

    /// The name of a header that most requests have, when it can be had without memory for it.
    fn usual_header(_: &str) -> Option<HeaderName> {
        None
    }

    /// Answers one request.
    fn answer<B>(self, request: Request<B>) -> impl Future<Output = Response<Self::Body>> + Send
    where
        B: Body<Data = Bytes, Error: Into<Fault> + Display> + Unpin + Send + 'static;
}

impl Handler for Router {
    type Body = axum::body::Body;

    async fn answer<B>(self, request: Request<B>) -> Response<Self::Body>
    where
        B: Body<Data = Bytes, Error: Into<Fault> + Display> + Unpin + Send + 'static,
    {
        match self.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still at work when the time to drain was over, and were closed under their requests.
    pub cut: usize,
}

/// Serves HTTP/1.1 and HTTP/2 (with prior knowledge) until `shutdown`. Then it accepts no more, closes idle connections at once,
/// lets requests at work finish for at most `drain_timeout`, and drops the rest. No task of it is left when it returns.
pub async fn serve(
    listener: TcpListener,
    handler: impl Handler,
    shutdown: CancellationToken,
    drain_timeout: Duration,
) -> Drained {
    serve_behind(Door::default(), listener, handler, shutdown, drain_timeout).await
}

/// The same behind a door that not every connection passes.
pub async fn serve_behind(
    door: Door,
    listener: TcpListener,
    handler: impl Handler,
    shutdown: CancellationToken,
    drain_timeout: Duration,
) -> Drained {
    let limits = Limits { max_connections: MAX_CONNECTIONS, max_silence: MAX_SILENCE };
    serve_within(limits, door, listener, handler, shutdown, drain_timeout).await
}

/// The bounds that tests make small.
#[derive(Debug, Clone, Copy)]
struct Limits {
    max_connections: usize,
    max_silence: Duration,
}

async fn serve_within(
    limits: Limits,
    door: Door,
    listener: TcpListener,
    handler: impl Handler,
    shutdown: CancellationToken,
    drain_timeout: Duration,
) -> Drained {
    let tasks = Tasks { tracker: TaskTracker::new(), cut: CancellationToken::new() };
    let (http, door) = (Arc::new(http(&tasks)), Arc::new(door));
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let faults = Tally::default();

    while let Some(Some((stream, peer, slot))) = shutdown.run_until_cancelled(accept(&listener, &slots, &faults)).await
    {
        let Some(place) = door.admit(peer) else { continue };
        let (http, door, handler) = (Arc::clone(&http), Arc::clone(&door), handler.clone());
        let ends = Ends { cut: tasks.cut.clone(), shutdown: shutdown.clone(), max_silence: limits.max_silence };
        tasks.tracker.spawn(async move {
            if let Some(stream) = door.open(stream, peer, &ends).await {
                connection(stream, &http, handler, &ends).await;
            }
            drop((slot, place));
        });
    }

    drop(listener);
    tasks.tracker.close();
    // An error is the deadline, and the slots tell how many connections it hits.
    let _ = tokio::time::timeout(drain_timeout, tasks.tracker.wait()).await;
    let cut = limits.max_connections - slots.available_permits();
    tasks.cut.cancel();
    tasks.tracker.wait().await;
    Drained { cut }
}

/// All tasks of one server: connections, and what hyper spawns for the streams of HTTP/2.
#[derive(Debug, Clone)]
struct Tasks {
    tracker: TaskTracker,
    /// Ends every task where it stands.
    cut: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            cut.run_until_cancelled(task).await;
        });
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

fn http(tasks: &Tasks) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks.clone());
    // hyper's own header timeout covers neither what comes before the first byte nor HTTP/2, and is a new timer for each request.
    builder.http1().header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL);
    builder
}

/// The next connection, once there is a slot for it. `None` only when the slots were closed, which nobody does.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    faults: &Tally,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and must not wait for an ACK; a socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                return Some((stream, peer.ip().to_canonical(), slot));
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if let Some(count) = faults.add() {
                    tracing::warn!(%error, count, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Whether an accept failed because the peer had left already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;

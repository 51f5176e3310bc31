//! One connection from its first byte to its end: requests are answered, silence and the end of the server are noticed.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio_util::sync::CancellationToken;

use super::door::Stream;
use super::{Handler, Tasks};

/// What ends a connection besides the peer.
pub(super) struct Ends {
    /// At once.
    pub(super) cut: CancellationToken,
    /// When the requests at work are answered.
    pub(super) shutdown: CancellationToken,
    pub(super) max_silence: Duration,
}

enum End {
    Cut,
    Shutdown,
    /// Time to see whether the connection is silent.
    Look,
}

impl Ends {
    async fn next(&self, is_ending: bool) -> End {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => End::Cut,
            () = self.shutdown.cancelled(), if !is_ending => End::Shutdown,
            () = tokio::time::sleep(self.max_silence) => End::Look,
        }
    }
}

/// Serves one connection to its end, which is also near when the peer is silent or the server shuts down.
pub(super) async fn connection(stream: Stream, http: &auto::Builder<Tasks>, handler: impl Handler, ends: &Ends) {
    let activity = Arc::new(Activity::default());
    let service = hyper::service::service_fn(|request| answer(handler.clone(), request, Running::new(&activity)));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let (mut seen, mut was_silent, mut is_ending) = (0, false, false);
    // One at a time. In a set it is polled when it has something to say, and not whenever a request moves on.
    let mut next = FuturesUnordered::new();
    loop {
        if next.is_empty() {
            next.push(ends.next(is_ending));
        }
        tokio::select! {
            // First, so that a request that had arrived before the shutdown is begun and not refused.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended early");
                }
                return;
            }
            Some(end) = next.next() => match end {
                End::Cut => return,
                End::Shutdown => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                End::Look => match activity.is_silent_since(&mut seen) {
                    true if was_silent => return, // asked to end, and did not
                    true => {
                        was_silent = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    false => was_silent = false,
                },
            },
        }
    }
}

async fn answer<H: Handler>(
    handler: H,
    request: Request<Incoming>,
    running: Running,
) -> Result<Response<impl Body<Data = Bytes, Error = <H::Body as Body>::Error> + Send>, Infallible> {
    let response = handler.answer(request).await;
    // A request runs until its answer has been read from us to the end.
    Ok(response.map(|body| {
        body.map_err(move |error| {
            let _ = &running;
            error
        })
    }))
}

/// The requests of one connection, counted.
#[derive(Debug, Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// Whether nothing runs, and nothing was begun since this was asked last.
    fn is_silent_since(&self, seen: &mut u64) -> bool {
        let (ended, begun) = (self.ended.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
        std::mem::replace(seen, begun) == begun && ended == begun
    }
}

/// One request at work.
#[derive(Debug)]
struct Running(Arc<Activity>);

impl Running {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

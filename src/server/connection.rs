//! One connection from its first byte to its end: requests are answered, silence and the end of the server are noticed.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::door::Stream;
use super::{Handler, Tasks, whole};

/// What ends a connection besides the peer.
pub(super) struct Ends {
    /// At once.
    pub(super) cut: CancellationToken,
    /// When the requests at work are answered.
    pub(super) shutdown: CancellationToken,
    pub(super) max_silence: Duration,
}

pub(super) enum End {
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

/// The ends of one connection, and what is to be known to tell them.
pub(super) struct Ending<'a> {
    ends: &'a Ends,
    /// One at a time. In a set it is polled when it has something to say, and not whenever a request moves on.
    next: FuturesUnordered<BoxFuture<'a, End>>,
    activity: Arc<Activity>,
    seen: u64,
    is_ending: bool,
}

impl<'a> Ending<'a> {
    fn new(ends: &'a Ends) -> Self {
        Self { ends, next: FuturesUnordered::new(), activity: Arc::default(), seen: 0, is_ending: false }
    }

    /// The next of them. Can be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> End {
        loop {
            if self.next.is_empty() {
                self.next.push(self.ends.next(self.is_ending).boxed());
            }
            if let Some(end) = self.next.next().await {
                self.is_ending |= matches!(end, End::Shutdown);
                return end;
            }
        }
    }

    /// Whether the server shuts down.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// A request runs as long as what this gives.
    pub(super) fn begin(&self) -> Running {
        Running::new(&self.activity)
    }

    /// Whether nothing runs, and nothing was begun since this was asked last.
    pub(super) fn is_silent(&mut self) -> bool {
        self.activity.is_silent_since(&mut self.seen)
    }
}

/// Serves one connection to its end, which is also near when the peer is silent or the server shuts down.
pub(super) async fn connection<H: Handler>(mut stream: Stream, http: &auto::Builder<Tasks>, handler: H, ends: &Ends) {
    let mut ending = Ending::new(ends);
    let read = if H::TAKES_WHOLE {
        match whole::serve(&mut stream, &handler, &mut ending).await {
            Some(read) => read,
            None => return,
        }
    } else {
        Bytes::new()
    };
    // Boxed: it is large, and many connections do without.
    Box::pin(by_hyper(Resumed { read, stream }, http, handler, ending)).await;
}

async fn by_hyper(stream: Resumed, http: &auto::Builder<Tasks>, handler: impl Handler, mut ending: Ending<'_>) {
    let activity = Arc::clone(&ending.activity);
    let service = hyper::service::service_fn(|request| answer(handler.clone(), request, Running::new(&activity)));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut was_silent = false;
    loop {
        tokio::select! {
            // First, so that a request that had arrived before the shutdown is begun and not refused.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended early");
                }
                return;
            }
            end = ending.next() => match end {
                End::Cut => return,
                End::Shutdown => connection.as_mut().graceful_shutdown(),
                End::Look => match ending.is_silent() {
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

/// A connection of which something has been read.
struct Resumed {
    read: Bytes,
    stream: Stream,
}

impl AsyncRead for Resumed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Resumed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// No `async fn`: that would have room for the request twice.
fn answer<H: Handler>(
    handler: H,
    request: Request<Incoming>,
    running: Running,
) -> impl Future<Output = Result<Response<impl Body<Data = Bytes, Error = <H::Body as Body>::Error> + Send>, Infallible>>
{
    handler.answer(request).map(|response| {
        // A request runs until its answer has been read from us to the end.
        Ok(response.map(|body| {
            body.map_err(move |error| {
                let _ = &running;
                error
            })
        }))
    })
}

/// The requests of one connection, counted.
#[derive(Debug, Default)]
pub(super) struct Activity {
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
pub(super) struct Running(Arc<Activity>);

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

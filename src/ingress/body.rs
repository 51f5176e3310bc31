//! Reading the body of a request within bounds on size, time and the memory of all bodies together; and throwing away what
//! nobody will read, so that the client gets to see the answer.

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::Error;

/// For the whole body: a client that sends a byte a second holds a place among the requests for no longer.
const MAX_READ_TIME: Duration = Duration::from_secs(30);
/// Bytes of an unread body that are read and thrown away before an early answer: the most that any NATS server takes as one
/// message, so who sends an event that only this one refuses learns why.
const MAX_DISCARD_BYTES: usize = 64 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);
/// A client that sends nothing for so long is waiting for the answer.
const MAX_DISCARD_PAUSE: Duration = Duration::from_millis(500);

/// Memory for the bodies of all requests at work, taken as bytes arrive and not as they are announced.
pub(super) const MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// A body as it comes in.
pub(super) struct Inbound<B> {
    body: B,
    /// The client holds the body back until somebody reads (`Expect: 100-continue`).
    is_held_back: bool,
}

/// A whole body. Its memory counts as long as this lives.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    pub(super) bytes: Bytes,
    _memory: SemaphorePermit<'a>,
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Inbound<B> {
    pub(super) fn new(headers: &HeaderMap, body: B) -> Self {
        let is_held_back =
            headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { body, is_held_back }
    }

    /// # Errors
    /// As soon as the body is known to be over `limit` bytes, has come too slowly or broken, or finds no memory.
    pub(super) async fn read<'a>(&mut self, limit: usize, memory: &'a Semaphore) -> Result<Whole<'a>, Error> {
        self.read_within(limit, MAX_READ_TIME, memory).await
    }

    async fn read_within<'a>(
        &mut self,
        limit: usize,
        time: Duration,
        memory: &'a Semaphore,
    ) -> Result<Whole<'a>, Error> {
        // What Content-Length announces.
        if usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
            return Err(Error::BodyTooLarge { limit });
        }
        self.is_held_back = false;
        let mut collected = pin!(self.collect(limit, memory));
        // Most bodies come with their heads, and need no timer.
        if let Some(whole) = poll_immediate(collected.as_mut()).await {
            return whole;
        }
        timeout(time, collected).await.map_err(|_| Error::BodyTooSlow(time))?
    }

    async fn collect<'a>(&mut self, limit: usize, memory: &'a Semaphore) -> Result<Whole<'a>, Error> {
        let mut held = memory.try_acquire_many(0).map_err(|_| Error::NoMemory)?;
        let mut bytes = Bytes::new();
        let mut buffer = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Error::BodyBroken(error.to_string()))?;
            // Trailers say nothing about an event.
            let Ok(chunk) = frame.into_data() else { continue };
            if chunk.len() > limit - bytes.len() - buffer.len() {
                return Err(Error::BodyTooLarge { limit });
            }
            let size = u32::try_from(chunk.len()).map_err(|_| Error::BodyTooLarge { limit })?;
            held.merge(memory.try_acquire_many(size).map_err(|_| Error::NoMemory)?);
            // Most bodies are one chunk, and stay where they are. More are put together at once: a list of them would cost
            // many times their bytes when the client makes them small.
            if bytes.is_empty() && buffer.is_empty() {
                bytes = chunk;
            } else {
                buffer.extend_from_slice(&std::mem::take(&mut bytes));
                buffer.extend_from_slice(&chunk);
            }
        }
        if !buffer.is_empty() {
            bytes = buffer.freeze();
        }
        Ok(Whole { bytes, _memory: held })
    }

    /// Throws away what is left, within bounds. Closing a connection with unread bytes resets it, and a reset can take the
    /// answer with it before the client has read it.
    pub(super) async fn discard(mut self) {
        if self.is_held_back || self.body.is_end_stream() {
            return;
        }
        let discard = async {
            let mut size = 0;
            while size < MAX_DISCARD_BYTES && !self.body.is_end_stream() {
                match timeout(MAX_DISCARD_PAUSE, self.body.frame()).await {
                    Ok(Some(Ok(frame))) => size += frame.data_ref().map_or(0, Bytes::len),
                    _ => return,
                }
            }
        };
        // When the time is over, what was done will have to do.
        let _ = timeout(MAX_DISCARD_TIME, discard).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::Body;
    use futures_util::{StreamExt as _, stream};
    use hyper::body::{Frame, SizeHint};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(20);

    fn chunks(chunks: &[&'static str]) -> Body {
        Body::from_stream(stream::iter(chunks.to_vec()).map(Ok::<_, Infallible>))
    }

    fn inbound(body: Body) -> Inbound<Body> {
        Inbound::new(&HeaderMap::new(), body)
    }

    async fn read(body: Body, limit: usize, memory: usize) -> Result<Bytes, Error> {
        inbound(body).read_within(limit, LONG, &Semaphore::new(memory)).await.map(|whole| whole.bytes)
    }

    #[tokio::test]
    async fn a_body_is_read_byte_for_byte_whatever_its_chunks() {
        for parts in [&[][..], &[""], &["abc"], &["a", "", "bc"], &["", "a", "b", "c"]] {
            assert_eq!(read(chunks(parts), 3, 3).await.unwrap(), parts.concat());
        }
    }

    #[tokio::test]
    async fn one_chunk_is_not_copied() {
        let bytes = Bytes::from_static(b"abc");
        assert_eq!(read(Body::from(bytes.clone()), 3, 3).await.unwrap().as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn the_limit_is_the_last_size_that_passes() {
        for body in [Body::from("abcd"), chunks(&["abcd"]), chunks(&["ab", "cd"]), chunks(&["abc", "", "d"])] {
            assert!(matches!(read(body, 3, 100).await, Err(Error::BodyTooLarge { limit: 3 })));
        }
        assert_eq!(read(Body::from("abc"), 3, 100).await.unwrap(), "abc");
        assert_eq!(read(Body::empty(), 0, 0).await.unwrap(), "");
    }

    /// Says how long it is, and never comes.
    struct Announced(u64);

    impl hyper::body::Body for Announced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0)
        }
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused_before_reading() {
        assert!(matches!(read(Body::new(Announced(4)), 3, 3).await, Err(Error::BodyTooLarge { limit: 3 })));
        assert!(matches!(read(Body::new(Announced(u64::MAX)), 3, 3).await, Err(Error::BodyTooLarge { limit: 3 })));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let result = inbound(Body::new(Announced(3))).read_within(3, SHORT, &Semaphore::new(3)).await.map(|_| ());
        assert!(matches!(result, Err(Error::BodyTooSlow(SHORT))));
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error() {
        let parts = [Ok("a"), Err(io::Error::other("cut"))];
        assert!(matches!(read(Body::from_stream(stream::iter(parts)), 3, 3).await, Err(Error::BodyBroken(_))));
    }

    #[tokio::test]
    async fn bodies_share_their_memory_and_give_it_back() {
        let memory = Semaphore::new(5);
        let first = inbound(Body::from("abc")).read_within(5, LONG, &memory).await.unwrap();
        let second = inbound(chunks(&["ab", "c"])).read_within(5, LONG, &memory).await;
        assert!(matches!(second, Err(Error::NoMemory)));
        drop((first, second));
        assert_eq!(memory.available_permits(), 5);
    }

    #[tokio::test]
    async fn discarding_ends_although_the_body_does_not() {
        let endless = Body::from_stream(stream::repeat(Ok::<_, Infallible>(vec![0; 1024 * 1024])));
        timeout(LONG, inbound(endless).discard()).await.unwrap();
        timeout(LONG, inbound(Body::new(Announced(3))).discard()).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_the_client_holds_back_is_not_asked_for() {
        let headers = [(EXPECT, "100-Continue".parse().unwrap())].into_iter().collect();
        let body = stream::poll_fn(|_| -> Poll<Option<Result<&str, Infallible>>> { unreachable!("was read") });
        Inbound::new(&headers, Body::from_stream(body)).discard().await;
    }
}

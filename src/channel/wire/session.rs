//! One connection at work: a single task that reads bursts, hands out what came, and writes what has gathered.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::io::poll_read_buf;

use super::Shared;
use super::connect::{Connected, Stream};
use super::frame::{self, Frame, Malformed, Next};
use super::identity::Info;
use super::outbox::Taken;
use crate::channel::connect::{MAX_UNANSWERED_PINGS, PING_INTERVAL};

/// What one read may bring.
const READ: usize = 64 * 1024;
/// With less room than this, the next read gets a new buffer.
const MIN_READ: usize = 16 * 1024;

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the server closed the connection")]
    Closed,
    #[error("the server has not answered {MAX_UNANSWERED_PINGS} PINGs")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A connection and what it is in the middle of.
pub(super) struct Session {
    shared: Arc<Shared>,
    stream: Stream,
    inbound: BytesMut,
    /// Bytes on their way, and how many of them have left.
    outbound: Vec<u8>,
    written: usize,
    /// Whether the others had their turn to add to what is written next.
    gathered: bool,
    pings: Interval,
    unanswered: usize,
    pongs: u64,
    connection: u64,
    /// Further servers of the cluster, when the server has told of them.
    pub(super) connect_urls: Vec<String>,
}

enum Turn {
    Gather,
    End(Fault),
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, connected: Connected, connection: u64) -> Self {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared,
            stream: connected.stream,
            inbound: connected.inbound,
            outbound: Vec::new(),
            written: 0,
            gathered: false,
            pings,
            unanswered: 0,
            pongs: 0,
            connection,
            connect_urls: Vec::new(),
        }
    }

    /// Works until the connection is of no more use.
    pub(super) async fn run(&mut self) -> Fault {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                // Whoever is ready to run adds to the same write.
                Turn::Gather => tokio::task::yield_now().await,
                Turn::End(fault) => return fault,
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        while self.pings.poll_tick(cx).is_ready() {
            if self.unanswered >= MAX_UNANSWERED_PINGS {
                return Poll::Ready(Turn::End(Fault::Silent));
            }
            self.unanswered += 1;
            self.shared.subscribe_again();
            self.shared.outbox.ping();
        }
        if let Err(fault) = self.read(cx) {
            return Poll::Ready(Turn::End(fault));
        }
        self.poll_write(cx)
    }

    /// Reads all that is there and hands it out.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            // A message larger than the buffer gets all its room at once.
            let missing = self.hand_out()?.saturating_sub(self.inbound.len());
            if self.inbound.capacity() - self.inbound.len() < missing.max(MIN_READ) {
                self.inbound.reserve(missing.max(READ));
            }
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.inbound) {
                Poll::Ready(Ok(0)) => return Err(Fault::Closed),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Hands out the frames that are here, and says how long the buffer must be at least to bring another one.
    fn hand_out(&mut self) -> Result<usize, Fault> {
        let shared = Arc::clone(&self.shared);
        let mut subscribers = shared.subscribers();
        loop {
            match frame::next(&mut self.inbound)? {
                Next::Incomplete(length) => return Ok(length),
                Next::Frame(Frame::Message(message)) => {
                    if let Some(subscriber) = subscribers.get(message.sid) {
                        subscriber.receive(message);
                    }
                }
                Next::Frame(Frame::Ping) => shared.outbox.add_line("PONG\r\n"),
                Next::Frame(Frame::Pong) => {
                    self.unanswered = 0;
                    self.pongs += 1;
                    shared.pong(&subscribers, self.connection, self.pongs);
                }
                Next::Frame(Frame::Info(json)) => self.informed(&json),
                Next::Frame(Frame::Error(text)) => shared.refused(&mut subscribers, &text),
                Next::Frame(Frame::Ok) => {}
            }
        }
    }

    fn informed(&mut self, json: &[u8]) {
        let Ok(info) = serde_json::from_slice::<Info>(json) else {
            tracing::debug!("an INFO that cannot be read");
            return;
        };
        self.shared.informed(&info);
        if info.ldm {
            tracing::info!("the NATS server is about to end; the next connection goes to another one if there is one");
        }
        self.connect_urls = info.connect_urls;
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            if self.written == self.outbound.len() {
                match self.shared.outbox.take(cx, self.gathered, &mut self.outbound) {
                    Taken::Nothing => break,
                    Taken::Gathering => {
                        self.gathered = true;
                        return Poll::Ready(Turn::Gather);
                    }
                    Taken::All => (self.written, self.gathered) = (0, false),
                }
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbound[self.written..])) {
                Ok(0) => return Poll::Ready(Turn::End(Fault::Closed)),
                Ok(count) => self.written += count,
                Err(error) => return Poll::Ready(Turn::End(error.into())),
            }
        }
        match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Turn::End(error.into())),
        }
    }
}

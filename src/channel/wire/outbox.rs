//! What waits to be written: one buffer for everybody, which the connection writes out in one go.
//!
//! Whoever has something to say adds its bytes and goes on; nobody waits for the socket. Only when the buffer is full they wait,
//! and then all of them are told when it is empty again and none has a place in a queue: a future that nobody polls keeps
//! nothing from the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::Notify;

/// Bytes that may wait before the next message has to wait outside. The last one that comes in may be as large as it is, so
/// no more than this and one message.
const FULL: usize = 1024 * 1024;
/// What an empty buffer keeps of its memory.
const KEPT: usize = 128 * 1024;

/// The buffer, open while there is a connection.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// There is room again, or no connection any more.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Which connection it is that it is open for, from 1.
    connection: Option<u64>,
    connections: u64,
    buffer: Vec<u8>,
    /// The connection's task, when it sleeps because nothing waits.
    sleeper: Option<Waker>,
    /// PINGs that this connection was sent.
    pings: u64,
}

/// Why something cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAdded {
    Disconnected,
    Full,
}

/// What there is to write.
pub(super) enum Taken {
    /// Nothing; the task is woken when there is.
    Nothing,
    /// Something, and more may come in a moment.
    Gathering,
    All,
}

/// A PING that is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ping {
    pub(super) connection: u64,
    pub(super) number: u64,
}

impl Outbox {
    /// Adds what `write` appends, if there is a connection and room; with `over`, only if it is that one.
    pub(super) fn try_add(&self, over: Option<u64>, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotAdded> {
        let mut state = self.lock();
        if state.connection.is_none() || over.is_some_and(|over| state.connection != Some(over)) {
            return Err(NotAdded::Disconnected);
        }
        if state.buffer.len() >= FULL {
            return Err(NotAdded::Full);
        }
        write(&mut state.buffer);
        wake(state);
        Ok(())
    }

    /// Adds what `write` appends once there is room. False when there is no connection, or another one than `over`.
    pub(super) async fn add(&self, over: Option<u64>, write: impl Fn(&mut Vec<u8>)) -> bool {
        loop {
            match self.try_add(over, &write) {
                Ok(()) => return true,
                Err(NotAdded::Disconnected) => return false,
                Err(NotAdded::Full) => {}
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // It counts from here on, so nothing is missed between the look and the wait.
            changed.as_mut().enable();
            if self.is_full() {
                changed.await;
            }
        }
    }

    /// Adds a line of the protocol, room or not: they are short, and there are as many as subscriptions at most.
    pub(super) fn add_line(&self, line: &str) {
        let mut state = self.lock();
        if state.connection.is_some() {
            state.buffer.extend_from_slice(line.as_bytes());
            wake(state);
        }
    }

    /// Asks the server for a sign of life. `None` when there is no connection.
    pub(super) fn ping(&self) -> Option<Ping> {
        let mut state = self.lock();
        let connection = state.connection?;
        state.pings += 1;
        let ping = Ping { connection, number: state.pings };
        state.buffer.extend_from_slice(b"PING\r\n");
        wake(state);
        Some(ping)
    }

    /// The number of the connection that stands, or of the last one; 0 before the first.
    pub(super) fn connection(&self) -> u64 {
        self.lock().connections
    }

    /// From now on there is a connection, and this is said first. Gives its number.
    pub(super) fn open(&self, first: &str) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.connection = Some(state.connections);
        state.pings = 0;
        state.buffer.clear();
        state.buffer.extend_from_slice(first.as_bytes());
        state.connections
    }

    /// The connection is gone. What has not left is thrown away: its senders are told so, and it must not go out later.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.connection = None;
        state.sleeper = None;
        state.buffer = Vec::new();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Moves all that waits into `into`, which is empty; but first time, when not yet `gathered`, says only that there is something.
    pub(super) fn take(&self, context: &Context<'_>, gathered: bool, into: &mut Vec<u8>) -> Taken {
        let mut state = self.lock();
        if state.buffer.is_empty() {
            state.sleeper = Some(context.waker().clone());
            return Taken::Nothing;
        }
        if !gathered {
            return Taken::Gathering;
        }
        into.clear();
        into.shrink_to(KEPT);
        let was_full = state.buffer.len() >= FULL;
        std::mem::swap(&mut state.buffer, into);
        drop(state);
        if was_full {
            self.changed.notify_waiters();
        }
        Taken::All
    }

    fn is_full(&self) -> bool {
        let state = self.lock();
        state.connection.is_some() && state.buffer.len() >= FULL
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the connection's task if it sleeps.
fn wake(mut state: MutexGuard<'_, State>) {
    if let Some(sleeper) = state.sleeper.take() {
        drop(state);
        sleeper.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    fn take(outbox: &Outbox) -> Vec<u8> {
        let mut taken = Vec::new();
        outbox.take(&Context::from_waker(Waker::noop()), true, &mut taken);
        taken
    }

    #[tokio::test]
    async fn nothing_is_kept_without_a_connection() {
        let outbox = Outbox::default();
        assert_eq!(outbox.try_add(None, |_| {}), Err(NotAdded::Disconnected));
        assert!(!outbox.add(None, |_| {}).await && outbox.ping().is_none());
        outbox.add_line("SUB a 1\r\n");
        assert_eq!(outbox.open("first"), 1);
        outbox.add(None, |buffer| buffer.extend_from_slice(b" second")).await;
        assert_eq!(take(&outbox), b"first second");
        outbox.add_line("late");
        outbox.close();
        assert_eq!(outbox.open(""), 2);
        assert_eq!(take(&outbox), b"");
    }

    #[tokio::test]
    async fn what_is_meant_for_one_connection_goes_over_no_other() {
        let outbox = Outbox::default();
        let fill = |buffer: &mut Vec<u8>| buffer.resize(buffer.len() + FULL, 0);
        assert_eq!((outbox.connection(), outbox.open(""), outbox.connection()), (0, 1, 1));
        assert!(outbox.add(Some(1), fill).await);
        let mut waits = Box::pin(outbox.add(Some(1), fill));
        assert!(waits.as_mut().now_or_never().is_none());
        outbox.close();
        assert_eq!((outbox.connection(), outbox.open("")), (1, 2));
        assert!(!waits.await && !outbox.add(Some(1), fill).await);
        assert_eq!(take(&outbox), b"");
        assert!(outbox.add(Some(2), fill).await);
    }

    #[tokio::test]
    async fn whoever_finds_it_full_waits_and_keeps_nobody_from_going_on() {
        let outbox = Outbox::default();
        outbox.open("");
        let fill = |buffer: &mut Vec<u8>| buffer.resize(buffer.len() + FULL, 0);
        assert!(outbox.add(None, fill).await);
        // This one is not polled again until the end.
        let mut first = Box::pin(outbox.add(None, fill));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(outbox.add(None, fill).now_or_never().is_none());
        let second = async {
            assert!(outbox.add(None, fill).await);
        };
        let taking = async {
            assert_eq!(take(&outbox).len(), FULL);
        };
        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(second, taking) }).await.unwrap();
        outbox.close();
        assert!(!first.await);
    }
}

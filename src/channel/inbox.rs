//! What a pull has brought and nobody has looked at yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::wire::{Message, Subscriber, headers};

/// Words of the server beside the messages that were asked for: ends of pulls.
const WORDS: usize = 64;
/// Places that an idle queue keeps.
const KEPT: usize = 4;

/// A queue that never holds more than was asked for.
#[derive(Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    /// How many may be in it.
    limit: usize,
    /// When the server last gave a sign of life.
    heartbeat: Option<Instant>,
    waker: Option<Waker>,
}

impl Inbox {
    /// So many messages have been asked for now.
    pub(super) fn expect(&self, count: usize) {
        let mut queue = self.lock();
        queue.limit = queue.messages.len() + count + WORDS;
    }

    pub(super) fn take(&self) -> Option<Message> {
        self.lock().messages.pop_front()
    }

    /// Takes one when there is one; otherwise `context` is woken when one comes, or when something was denied.
    pub(super) fn poll_take(&self, context: &Context<'_>) -> Poll<Message> {
        let mut queue = self.lock();
        if let Some(message) = queue.messages.pop_front() {
            return Poll::Ready(message);
        }
        if !queue.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            queue.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// When the server last gave a sign of life beside the messages.
    pub(super) fn heartbeat(&self) -> Option<Instant> {
        self.lock().heartbeat
    }

    /// Lets go of memory that the busy need and the idle do not.
    pub(super) fn shrink(&self) {
        self.lock().messages.shrink_to(KEPT);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Inbox {
    fn receive(&self, message: Message) {
        let mut queue = self.lock();
        // Nearly all that an idle subscription is sent, and nothing to wake anybody for.
        if message.reply().is_none() && headers::is_heartbeat(message.headers()) {
            queue.heartbeat = Some(Instant::now());
            return;
        }
        if queue.messages.len() >= queue.limit {
            tracing::error!("a pull brought more than was asked for; the message comes again after the ack wait");
            return;
        }
        queue.messages.push_back(message);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whoever pulls follows the link itself.
    fn lost(&self) {}

    fn denied(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use bytes::BytesMut;

    use super::super::wire::frame::{Frame, Next, next};
    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn message(frame: &str) -> Message {
        let Ok(Next::Frame(Frame::Message(message))) = next(&mut BytesMut::from(frame)) else { panic!("no message") };
        message
    }

    #[test]
    fn it_holds_what_was_asked_for_and_no_more() {
        let inbox = Inbox::default();
        inbox.expect(3);
        for _ in 0..3 * WORDS {
            inbox.receive(message("MSG a 1 0\r\n\r\n"));
        }
        assert_eq!(std::iter::from_fn(|| inbox.take()).count(), 3 + WORDS);
    }

    #[test]
    fn a_heartbeat_is_noted_and_wakes_nobody() {
        let (inbox, woken) = (Inbox::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        inbox.expect(1);
        assert!(inbox.poll_take(&Context::from_waker(&waker)).is_pending() && inbox.heartbeat().is_none());
        inbox.receive(message("HMSG a 1 31 31\r\nNATS/1.0 100 Idle Heartbeat\r\n\r\n\r\n"));
        assert!(inbox.heartbeat().is_some() && !woken.0.load(Ordering::Relaxed) && inbox.take().is_none());
        // Anybody can store a message that looks like one; it is delivered, and so it can be answered.
        inbox.receive(message("HMSG a 1 $JS.ACK.S.C.1.2.3.4.0 16 16\r\nNATS/1.0 100\r\n\r\n\r\n"));
        assert!(woken.0.load(Ordering::Relaxed) && inbox.take().is_some());
    }
}

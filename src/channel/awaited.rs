//! The publishes whose acknowledgement is not here yet: each has a place in a table, and the answer's subject names it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::pub_ack;
use super::wire::{Message, Subscriber};

/// The bits of a token that are the place; the others tell apart those who had it one after the other.
const PLACE_BITS: u32 = 20;
/// Publishes that may wait at once.
const MAX_WAITING: usize = 1 << PLACE_BITS;
/// How finely time is counted: an answer is given up between the timeout and an eighth of it later.
const TICKS: u32 = 8;

/// The table, which receives the answers.
#[derive(Default)]
pub(super) struct Awaited {
    table: Mutex<Table>,
    /// Somebody waits although nobody counts the time.
    busy: Notify,
}

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Time, as far as somebody waits.
    tick: u32,
    is_counted: bool,
}

#[derive(Default)]
struct Place {
    /// Counts those who had this place.
    holder: u64,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Waiting {
        since: u32,
        waker: Option<Waker>,
    },
    Over(End),
}

/// What came of the wait.
#[derive(Debug)]
pub(super) enum End {
    Answered(Message),
    /// The connection fell, so no answer will come.
    Lost,
    /// Time is up.
    Overdue,
}

impl Awaited {
    /// A place for one publish; `None` when there are too many.
    pub(super) fn expect(&self) -> Option<Waiting<'_>> {
        let mut table = self.lock();
        let index = match table.free.pop() {
            Some(index) => index,
            None if table.places.len() < MAX_WAITING => {
                table.places.push(Place::default());
                u32::try_from(table.places.len() - 1).ok()?
            }
            None => return None,
        };
        let since = table.tick;
        let place = table.places.get_mut(index as usize)?;
        place.holder += 1;
        place.state = State::Waiting { since, waker: None };
        let token = (place.holder << PLACE_BITS) | u64::from(index);
        let was_counted = std::mem::replace(&mut table.is_counted, true);
        drop(table);
        if !was_counted {
            self.busy.notify_one();
        }
        Some(Waiting { token, acks: self })
    }

    /// Counts the time while somebody waits, until `stop`.
    pub(super) async fn count_time(self: Arc<Self>, timeout: Duration, stop: CancellationToken) {
        let counting = async {
            loop {
                self.busy.notified().await;
                loop {
                    tokio::time::sleep(timeout / TICKS).await;
                    if !self.tick() {
                        break;
                    }
                }
            }
        };
        stop.run_until_cancelled(counting).await;
    }

    /// Gives up whoever waits for too long. False when nobody waits any more.
    fn tick(&self) -> bool {
        let mut table = self.lock();
        table.tick = table.tick.wrapping_add(1);
        let now = table.tick;
        let mut waiting = false;
        for place in &mut table.places {
            if let State::Waiting { since, .. } = &place.state {
                if now.wrapping_sub(*since) > TICKS {
                    place.end(End::Overdue);
                } else {
                    waiting = true;
                }
            }
        }
        table.is_counted = waiting;
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Awaited {
    fn receive(&self, message: Message) {
        let Some(token) = token(message.subject()).filter(|_| pub_ack::is_one(&message)) else {
            let subject = String::from_utf8_lossy(message.subject());
            tracing::debug!(%subject, "somebody else than JetStream has answered an event");
            return;
        };
        let mut table = self.lock();
        // Whoever waited may have left meanwhile.
        if let Some(place) = table.place(token) {
            place.end(End::Answered(message));
        }
    }

    fn lost(&self) {
        self.lock().places.iter_mut().for_each(|place| place.end(End::Lost));
    }

    fn denied(&self) {
        for place in &mut self.lock().places {
            if let State::Waiting { waker, .. } = &mut place.state
                && let Some(waker) = waker.take()
            {
                // It looks for itself whether this concerns it.
                waker.wake();
            }
        }
    }
}

impl Table {
    fn place(&mut self, token: u64) -> Option<&mut Place> {
        let index = usize::try_from(token & (MAX_WAITING as u64 - 1)).ok()?;
        self.places.get_mut(index).filter(|place| place.holder == token >> PLACE_BITS)
    }
}

impl Place {
    fn end(&mut self, end: End) {
        if let State::Waiting { waker, .. } = &mut self.state {
            let waker = waker.take();
            self.state = State::Over(end);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The last token of an answer's subject.
fn token(subject: &[u8]) -> Option<u64> {
    let last = subject.rsplit(|byte| *byte == b'.').next()?;
    std::str::from_utf8(last).ok()?.parse().ok()
}

/// One place in the table; given up when dropped, so an answer that never comes leaves nothing behind.
pub(super) struct Waiting<'a> {
    pub(super) token: u64,
    acks: &'a Awaited,
}

impl Waiting<'_> {
    /// What came of it, when it is over. Otherwise `context` is woken when that is so, or when something was denied.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<End> {
        let mut table = self.acks.lock();
        let Some(place) = table.place(self.token) else { return Poll::Ready(End::Lost) };
        match &mut place.state {
            State::Waiting { waker, .. } => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            state => match std::mem::take(state) {
                State::Over(end) => Poll::Ready(end),
                State::Free | State::Waiting { .. } => Poll::Ready(End::Lost),
            },
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut table = self.acks.lock();
        if let Some(place) = table.place(self.token) {
            place.state = State::Free;
            // Below `MAX_WAITING`, so it is all of the index.
            let index = (self.token & (MAX_WAITING as u64 - 1)) as u32;
            table.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::wire::frame::{Frame, Next, next};
    use super::*;

    fn answer(awaited: &Awaited, token: u64, payload: &str) {
        let frame = format!("MSG _INBOX.x.{token} 1 {}\r\n{payload}\r\n", payload.len());
        let Ok(Next::Frame(Frame::Message(message))) = next(&mut BytesMut::from(frame.as_str())) else {
            panic!("{frame}")
        };
        awaited.receive(message);
    }

    fn look(waiting: &mut Waiting<'_>) -> &'static str {
        match waiting.poll(&Context::from_waker(Waker::noop())) {
            Poll::Pending => "waits",
            Poll::Ready(End::Answered(_)) => "answered",
            Poll::Ready(End::Lost) => "lost",
            Poll::Ready(End::Overdue) => "overdue",
        }
    }

    const ACK: &str = r#"{"stream":"S","seq":1}"#;

    #[test]
    fn each_answer_finds_the_one_who_waits_for_it() {
        let awaited = Awaited::default();
        let (mut one, mut two) = (awaited.expect().unwrap(), awaited.expect().unwrap());
        answer(&awaited, two.token, ACK);
        assert_eq!((look(&mut one), look(&mut two)), ("waits", "answered"));
        answer(&awaited, one.token, "what somebody else says");
        assert_eq!(look(&mut one), "waits");
        answer(&awaited, u64::MAX, ACK);
        awaited.denied();
        assert_eq!(look(&mut one), "waits");
        awaited.lost();
        assert_eq!(look(&mut one), "lost");
    }

    #[test]
    fn a_late_answer_is_not_that_of_the_next_one_in_the_same_place() {
        let awaited = Awaited::default();
        let token = awaited.expect().unwrap().token;
        let mut next = awaited.expect().unwrap();
        assert_eq!(awaited.lock().places.len(), 1);
        answer(&awaited, token, ACK);
        assert_eq!(look(&mut next), "waits");
    }

    #[test]
    fn whoever_waits_for_the_whole_time_is_told_so_and_nobody_else() {
        let awaited = Awaited::default();
        let mut early = awaited.expect().unwrap();
        assert!(awaited.tick());
        let mut late = awaited.expect().unwrap();
        for _ in 0..TICKS {
            assert!(awaited.tick());
        }
        assert_eq!((look(&mut early), look(&mut late)), ("overdue", "waits"));
        drop(late);
        assert!(!awaited.tick(), "nobody waits any more");
    }
}

//! How many requests are under way at once: for one subscription, and for all of them together. An event that waits (for the
//! retry of a reply or of a dead letter) gives its slot to others.
//!
//! A few requests are every subscription's own; what it has beyond them it takes from a budget that all share. So many busy
//! subscriptions do not open a connection for each event that they could have under way, which costs the kernel several times
//! the delivery, and those that are slow leave the others their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::window::Window;

/// Requests under way at once, for each subscription.
pub(super) const MAX_IN_FLIGHT: usize = 256;
/// Of these, the ones that nobody can take from it.
const OWN: usize = 16;
/// Requests under way at once beyond those, for all subscriptions of a process.
const SHARED: usize = 2048;
/// As long as no more than these are under way in a process, nobody is in anybody's way. Also what lets the requests to a sink
/// become more that has not answered any yet.
const UNCROWDED: usize = 256;
/// So many more at a time: others may be about to do the same.
const STEP: usize = 64;
/// Events under way or waiting in memory, for each subscription. When there are more, nothing new is pulled.
pub(super) const MAX_HELD: usize = 1024;

/// What all subscriptions share. A clone is the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Semaphore>,
    /// Requests that are under way or wait for their slot.
    under_way: Arc<AtomicUsize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { shared: Arc::new(Semaphore::new(SHARED)), under_way: Arc::default() }
    }
}

/// The slots of one subscription. A clone is the same slots.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    budget: Budget,
    window: Window,
    /// As in [`Budget`], of this subscription.
    under_way: AtomicUsize,
    /// Somebody else than the worker has let go of a slot.
    freed: Notify,
}

impl Slots {
    /// At most `limit` at once.
    pub(super) fn new(limit: usize, budget: &Budget) -> Self {
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(limit)),
            own: Arc::new(Semaphore::new(OWN)),
            budget: budget.clone(),
            window: Window::new(limit),
            under_way: AtomicUsize::new(0),
            freed: Notify::new(),
        }))
    }

    /// How many more requests are to be made now.
    pub(super) fn free(&self) -> usize {
        let Inner { all, budget, window, under_way, .. } = &*self.0;
        let under_way = under_way.load(Ordering::Relaxed);
        let room = if under_way < window.size() {
            window.room(under_way)
        } else {
            UNCROWDED.saturating_sub(budget.under_way.load(Ordering::Relaxed)).min(STEP)
        };
        all.available_permits().min(room)
    }

    /// Asks for a slot, from now on.
    pub(super) fn claim(&self) -> Claim {
        Claim { counted: Counted::new(self), since: Instant::now() }
    }

    /// For whoever makes requests beside the worker: tells the worker when they are made.
    pub(super) fn tell_when_freed(&self) -> Freed {
        Freed(self.clone())
    }

    /// Returns when somebody else has let go of a slot. The worker hears from its own requests that there is room again, and of
    /// theirs in no other way.
    pub(super) async fn freed_elsewhere(&self) {
        self.0.freed.notified().await;
    }

    /// Of the two semaphores neither is ever closed.
    async fn permits(&self) -> Permits {
        let Inner { all, own, budget, .. } = &*self.0;
        let of_all = Arc::clone(all).acquire_owned().await.ok();
        let (own, shared) = (|| Arc::clone(own), || Arc::clone(&budget.shared));
        let in_process = match own().try_acquire_owned().or_else(|_| shared().try_acquire_owned()) {
            Ok(permit) => Some(permit),
            Err(_) => tokio::select! {
                biased;
                permit = own().acquire_owned() => permit.ok(),
                permit = shared().acquire_owned() => permit.ok(),
            },
        };
        Permits { _of_all: of_all, _in_process: in_process }
    }
}

struct Permits {
    _of_all: Option<OwnedSemaphorePermit>,
    _in_process: Option<OwnedSemaphorePermit>,
}

/// Tells the worker of its end.
pub(super) struct Freed(Slots);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.0.freed.notify_one();
    }
}

/// What waits for a slot.
pub(super) struct Claim {
    counted: Counted,
    since: Instant,
}

impl Claim {
    pub(super) async fn slot(self) -> Slot {
        let permits = self.counted.slots.permits().await;
        Slot { slots: self.counted.slots.clone(), held: Some((permits, self.counted)), waited: self.since.elapsed() }
    }
}

/// A permit to have a request under way.
pub(super) struct Slot {
    slots: Slots,
    held: Option<(Permits, Counted)>,
    /// How long it was waited for.
    waited: Duration,
}

impl Slot {
    /// The answer to the first request came after so long.
    pub(super) fn answered(&self, took: Duration) {
        self.slots.0.window.learn(self.waited, took);
    }

    /// Lets others have it.
    pub(super) fn give_back(self) -> Slots {
        self.slots
    }

    /// Waits without holding the slot.
    pub(super) async fn sleep(&mut self, wait: Duration) {
        self.held = None;
        tokio::time::sleep(wait).await;
        let counted = Counted::new(&self.slots);
        self.held = Some((self.slots.permits().await, counted));
    }
}

/// A request that counts as under way, until it is dropped.
struct Counted {
    slots: Slots,
}

impl Counted {
    fn new(slots: &Slots) -> Self {
        let Inner { budget, under_way, .. } = &*slots.0;
        under_way.fetch_add(1, Ordering::Relaxed);
        budget.under_way.fetch_add(1, Ordering::Relaxed);
        Self { slots: slots.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Inner { budget, under_way, .. } = &*self.slots.0;
        under_way.fetch_sub(1, Ordering::Relaxed);
        budget.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn slot(slots: &Slots) -> Option<Slot> {
        slots.claim().slot().now_or_never()
    }

    #[test]
    fn a_subscription_has_no_more_than_its_limit() {
        let slots = Slots::new(2, &Budget::default());
        let taken = [slot(&slots), slot(&slots)];
        assert!(taken.iter().all(Option::is_some) && slot(&slots).is_none() && slots.free() == 0);
        drop(taken);
        assert!(slot(&slots).is_some());
    }

    #[test]
    fn busy_subscriptions_share_the_budget_and_leave_each_its_own() {
        let budget = Budget::default();
        let busy: Vec<Slots> = (0..SHARED / MAX_IN_FLIGHT + 2).map(|_| Slots::new(MAX_IN_FLIGHT, &budget)).collect();
        let taken: Vec<Slot> = busy.iter().flat_map(|slots| std::iter::from_fn(|| slot(slots))).collect();
        assert_eq!(taken.len(), SHARED + busy.len() * OWN);

        let another = Slots::new(MAX_IN_FLIGHT, &budget);
        let own: Vec<Slot> = std::iter::from_fn(|| slot(&another)).collect();
        assert_eq!(own.len(), OWN);
        drop(taken);
        assert!(slot(&another).is_some());
    }

    #[test]
    fn a_sink_that_does_not_answer_gets_more_requests_while_nobody_else_is_in_their_way() {
        let budget = Budget::default();
        let (slots, other) = (Slots::new(MAX_IN_FLIGHT, &budget), Slots::new(MAX_IN_FLIGHT, &budget));
        let first = slots.free();
        assert!(first < UNCROWDED, "not all at once");
        let mut claims: Vec<Claim> = (0..first).map(|_| slots.claim()).collect();
        assert_eq!(slots.free(), STEP);
        claims.extend((first..UNCROWDED).map(|_| slots.claim()));
        assert_eq!((slots.free(), other.free()), (0, first), "the other has not had its own yet");
        drop(claims);
        assert_eq!(slots.free(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sleeps_is_not_under_way() {
        let slots = Slots::new(1, &Budget::default());
        let mut sleeper = slot(&slots).unwrap();
        assert_eq!(slots.free(), 0);
        let mut sleep = Box::pin(sleeper.sleep(Duration::from_secs(1)));
        assert!(sleep.as_mut().now_or_never().is_none());
        assert_eq!(slots.free(), 1);
        sleep.await;
        assert_eq!(slots.free(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_with_the_first_that_is_free() {
        let budget = Budget { shared: Arc::new(Semaphore::new(1)), ..Budget::default() };
        let slots = Slots::new(MAX_IN_FLIGHT, &budget);
        let mut taken: Vec<Slot> = std::iter::from_fn(|| slot(&slots)).collect();
        assert_eq!(taken.len(), OWN + 1);
        for place in [OWN, 0] {
            let mut waiting = Box::pin(slots.claim().slot());
            assert!(waiting.as_mut().now_or_never().is_none());
            let given_back = taken.remove(place);
            drop(given_back);
            taken.push(waiting.await);
        }
    }
}

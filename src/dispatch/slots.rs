//! How many requests are under way at once: for one subscription, and for all of them together. An event that waits (for the
//! retry of a reply or of a dead letter) gives its slot to others, but stays counted.
//!
//! A few requests are every subscription's own; what it has beyond them it takes from a budget that all share. So many busy
//! subscriptions do not open a connection for each event that they could have under way, which costs the kernel several times
//! the delivery, and those that are slow leave the others their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::window::Window;

/// Requests under way at once, for each subscription.
pub(super) const MAX_IN_FLIGHT: usize = 256;
/// Of these, the ones that nobody can take from it.
const OWN: usize = 16;
/// Requests under way at once beyond those, for all subscriptions of a process.
const SHARED: usize = 2048;
/// Events under way or waiting in memory, for each subscription. When there are more, nothing new is pulled.
pub(super) const MAX_HELD: usize = 1024;

/// What all subscriptions share. A clone is the same budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SHARED)))
    }
}

/// The slots of one subscription. A clone is the same slots.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    budget: Budget,
    window: Arc<Window>,
    /// Events that wait without a slot.
    asleep: Arc<AtomicUsize>,
}

impl Slots {
    /// At most `limit` at once.
    pub(super) fn new(limit: usize, budget: &Budget) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limit)),
            own: Arc::new(Semaphore::new(OWN)),
            budget: budget.clone(),
            window: Arc::new(Window::new(limit)),
            asleep: Arc::default(),
        }
    }

    /// How many more are to be put to work now, beside so many that are at work.
    pub(super) fn free(&self, at_work: usize) -> usize {
        let awake = at_work.saturating_sub(self.asleep.load(Ordering::Relaxed));
        self.all.available_permits().min(self.window.room(awake))
    }

    /// Asks for a slot, from now on.
    pub(super) fn claim(&self) -> Claim {
        Claim { slots: self.clone(), since: Instant::now() }
    }

    /// Of the two semaphores neither is ever closed.
    async fn permits(&self) -> Permits {
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok();
        let (own, shared) = (|| Arc::clone(&self.own), || Arc::clone(&self.budget.0));
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

/// What waits for a slot.
pub(super) struct Claim {
    slots: Slots,
    since: Instant,
}

impl Claim {
    pub(super) async fn slot(self) -> Slot {
        let permits = Some(self.slots.permits().await);
        Slot { slots: self.slots, permits, waited: self.since.elapsed() }
    }
}

/// A permit to have a request under way.
pub(super) struct Slot {
    slots: Slots,
    permits: Option<Permits>,
    /// How long it was waited for.
    waited: Duration,
}

impl Slot {
    /// The answer to the first request came after so long.
    pub(super) fn answered(&self, took: Duration) {
        self.slots.window.learn(self.waited, took);
    }

    /// Lets others have it.
    pub(super) fn give_back(self) -> Slots {
        self.slots
    }

    /// Waits without holding the slot.
    pub(super) async fn sleep(&mut self, wait: Duration) {
        self.permits = None;
        let asleep = Asleep::new(&self.slots.asleep);
        tokio::time::sleep(wait).await;
        drop(asleep);
        self.permits = Some(self.slots.permits().await);
    }
}

/// Counts one that sleeps, until it is dropped.
struct Asleep(Arc<AtomicUsize>);

impl Asleep {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
        assert!(taken.iter().all(Option::is_some) && slot(&slots).is_none() && slots.free(2) == 0);
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

    #[tokio::test]
    async fn whoever_waits_goes_on_with_the_first_that_is_free() {
        let budget = Budget(Arc::new(Semaphore::new(1)));
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

//! How many requests are under way at once: for one subscription, and for all of them together. An event that waits (for the
//! retry of a reply or of a dead letter) gives its slot to others.
//!
//! A few requests are every subscription's own; what it has beyond them it takes from a budget that all share. So many busy
//! subscriptions do not open a connection for each event that they could have under way, which costs the kernel several times
//! the delivery, and those that are slow leave the others their own.
//!
//! Where they are more than the bridge keeps up with, each gets its share: the channels that are busy have the same, and so have
//! the subscriptions of one. However many subscriptions a channel has, another channel's events do not wait behind all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::window::{Window, is_late};

/// Requests under way at once, for each subscription.
pub(super) const MAX_IN_FLIGHT: usize = 256;
/// Of these, the ones that nobody can take from it.
const OWN: usize = 16;
/// Requests under way at once beyond those, for all subscriptions of a process.
const SHARED: usize = 2048;
/// As long as no more than these are under way in a process, nobody is in anybody's way. Also what lets the requests to a sink
/// become more that has not answered any yet.
const UNCROWDED: usize = 256;
/// The same for a bridge that does not keep up, where several are busy. Where they are more, these are shared.
const CROWDED: usize = 128;
/// So many more at a time: others may be about to do the same.
const STEP: usize = 64;
/// Events under way or waiting in memory, for each subscription. When there are more, nothing new is pulled.
pub(super) const MAX_HELD: usize = 1024;

/// What all subscriptions share. A clone is the same budget.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Semaphore>,
    process: Arc<Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// Requests that are under way or wait for their slot.
    under_way: AtomicUsize,
    /// Channels with any of these.
    busy: AtomicUsize,
    /// Whether the last request that was answered had begun late.
    is_late: AtomicBool,
    /// By their streams.
    channels: Mutex<BTreeMap<String, Weak<Channel>>>,
}

#[derive(Debug, Default)]
struct Channel {
    /// Subscriptions with requests under way.
    busy: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { shared: Arc::new(Semaphore::new(SHARED)), process: Arc::default() }
    }
}

#[cfg(test)]
impl Budget {
    /// That of a process in which others have all that can be had, but for what is each one's own.
    pub(super) fn crowded() -> Self {
        let process = Process { under_way: AtomicUsize::new(UNCROWDED), ..Process::default() };
        Self { process: Arc::new(process), ..Self::default() }
    }
}

impl Process {
    /// What the subscriptions of a channel have in common.
    fn channel(&self, stream: &str) -> Arc<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(stream).and_then(Weak::upgrade) {
            return channel;
        }
        channels.retain(|_, channel| channel.strong_count() > 0);
        let channel = Arc::default();
        channels.insert(stream.to_owned(), Arc::downgrade(&channel));
        channel
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
    channel: Arc<Channel>,
    window: Window,
    /// As in [`Process`], of this subscription.
    under_way: AtomicUsize,
    /// Somebody has let go of a slot who does not tell the worker at once.
    freed: Notify,
}

impl Slots {
    /// Those of a subscription of the channel with this stream, at most `limit` at once.
    pub(super) fn new(limit: usize, stream: &str, budget: &Budget) -> Self {
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(limit)),
            own: Arc::new(Semaphore::new(OWN)),
            channel: budget.process.channel(stream),
            budget: budget.clone(),
            window: Window::new(limit),
            under_way: AtomicUsize::new(0),
            freed: Notify::new(),
        }))
    }

    /// How many more events are to be pulled, beside so many that wait for their turn.
    pub(super) fn room(&self, waiting: usize) -> usize {
        let Inner { all, window, under_way, .. } = &*self.0;
        let under_way = under_way.load(Ordering::Relaxed);
        let room = match window.room(under_way + waiting) {
            0 if waiting == 0 && under_way >= window.size() => self.uncrowded().min(STEP),
            room => room,
        };
        all.available_permits().saturating_sub(waiting).min(room)
    }

    /// Whether the turn has come for one more request.
    pub(super) fn has_turn(&self) -> bool {
        let Inner { window, under_way, .. } = &*self.0;
        under_way.load(Ordering::Relaxed) < window.size() || self.uncrowded() > 0
    }

    /// Requests that may be added before any is in another's way.
    fn uncrowded(&self) -> usize {
        let process = &self.0.budget.process;
        let most = if process.is_late.load(Ordering::Relaxed) { self.crowded() } else { UNCROWDED };
        most.saturating_sub(process.under_way.load(Ordering::Relaxed))
    }

    /// The requests that a subscription of a busy channel may have under way in a crowd, at least.
    fn share(&self) -> usize {
        let (channels, subscriptions) = self.busy();
        self.crowded() / channels / subscriptions
    }

    /// The requests that all may have under way together in a bridge that does not keep up. Who is alone is in nobody's way.
    fn crowded(&self) -> usize {
        if self.busy() == (1, 1) { UNCROWDED } else { CROWDED }
    }

    /// Busy channels, and busy subscriptions of this one; who asks counts.
    fn busy(&self) -> (usize, usize) {
        let Inner { budget, channel, .. } = &*self.0;
        let busy = |count: &AtomicUsize| count.load(Ordering::Relaxed).max(1);
        (busy(&budget.process.busy), busy(&channel.busy))
    }

    /// Asks for a slot, from now on.
    pub(super) fn claim(&self) -> Claim {
        Claim { counted: Counted::new(self), since: Instant::now() }
    }

    /// For whoever makes requests beside the worker: tells the worker when they are made.
    pub(super) fn tell_when_freed(&self) -> Freed {
        Freed(self.clone())
    }

    /// Returns when somebody else has let go of a slot, or one of the worker's own waits without it. The worker hears of that in no
    /// other way.
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
        let Inner { window, budget, .. } = &*self.slots.0;
        window.learn(self.waited, took, || self.slots.share());
        budget.process.is_late.store(is_late(self.waited), Ordering::Relaxed);
    }

    /// Lets others have it.
    pub(super) fn give_back(self) -> Slots {
        self.slots
    }

    /// Waits without holding the slot.
    pub(super) async fn sleep(&mut self, wait: Duration) {
        self.held = None;
        self.slots.0.freed.notify_one();
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
        let Inner { budget, channel, under_way, .. } = &*slots.0;
        // Who is the first makes busy what it belongs to.
        let is_first_in = |count: &AtomicUsize| count.fetch_add(1, Ordering::Relaxed) == 0;
        budget.process.under_way.fetch_add(1, Ordering::Relaxed);
        if is_first_in(under_way) && is_first_in(&channel.busy) {
            budget.process.busy.fetch_add(1, Ordering::Relaxed);
        }
        Self { slots: slots.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Inner { budget, channel, under_way, .. } = &*self.slots.0;
        let was_last_in = |count: &AtomicUsize| count.fetch_sub(1, Ordering::Relaxed) == 1;
        budget.process.under_way.fetch_sub(1, Ordering::Relaxed);
        if was_last_in(under_way) && was_last_in(&channel.busy) {
            budget.process.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn slots(limit: usize, budget: &Budget) -> Slots {
        Slots::new(limit, "a", budget)
    }

    fn slot(slots: &Slots) -> Option<Slot> {
        slots.claim().slot().now_or_never()
    }

    #[test]
    fn a_subscription_has_no_more_than_its_limit() {
        let slots = slots(2, &Budget::default());
        let taken = [slot(&slots), slot(&slots)];
        assert!(taken.iter().all(Option::is_some) && slot(&slots).is_none() && slots.room(0) == 0);
        drop(taken);
        assert!(slot(&slots).is_some());
    }

    #[test]
    fn busy_subscriptions_share_the_budget_and_leave_each_its_own() {
        let budget = Budget::default();
        let busy: Vec<Slots> = (0..SHARED / MAX_IN_FLIGHT + 2).map(|_| slots(MAX_IN_FLIGHT, &budget)).collect();
        let taken: Vec<Slot> = busy.iter().flat_map(|slots| std::iter::from_fn(|| slot(slots))).collect();
        assert_eq!(taken.len(), SHARED + busy.len() * OWN);

        let another = slots(MAX_IN_FLIGHT, &budget);
        let own: Vec<Slot> = std::iter::from_fn(|| slot(&another)).collect();
        assert_eq!(own.len(), OWN);
        drop(taken);
        assert!(slot(&another).is_some());
    }

    #[test]
    fn a_sink_that_does_not_answer_gets_more_requests_while_nobody_else_is_in_their_way() {
        let budget = Budget::default();
        let (slots, other) = (slots(MAX_IN_FLIGHT, &budget), slots(MAX_IN_FLIGHT, &budget));
        let first = slots.room(0);
        assert!(first < UNCROWDED, "not all at once");
        let mut claims: Vec<Claim> = (0..first).map(|_| slots.claim()).collect();
        assert_eq!((slots.room(0), slots.room(1), slots.has_turn()), (STEP, 0, true));
        claims.extend((first..CROWDED).map(|_| slots.claim()));
        budget.process.is_late.store(true, Ordering::Relaxed);
        assert!(slots.has_turn(), "it is alone");
        let another = other.claim();
        assert!(!slots.has_turn() && other.has_turn());
        drop(another);
        budget.process.is_late.store(false, Ordering::Relaxed);
        claims.extend((CROWDED..UNCROWDED).map(|_| slots.claim()));
        assert_eq!((slots.room(0), slots.has_turn()), (0, false));
        assert_eq!((other.room(0), other.has_turn()), (first, true), "the other has not had its own yet");
        drop(claims);
        assert_eq!((slots.room(0), slots.has_turn()), (first, true));
    }

    #[test]
    fn busy_channels_have_the_same_share_and_so_have_the_subscriptions_of_one() {
        let budget = Budget::default();
        let of = |channel: &str| Slots::new(MAX_IN_FLIGHT, channel, &budget);
        let many: Vec<Slots> = (0..4).map(|_| of("many")).collect();
        let one = of("one");
        assert_eq!(one.share(), UNCROWDED);
        let mut taken: Vec<Slot> = many.iter().chain(&many).filter_map(slot).collect();
        assert_eq!((many[0].share(), one.share()), (CROWDED / 4, UNCROWDED), "the other is not busy yet");
        taken.extend(slot(&one));
        assert_eq!((many[0].share(), one.share()), (CROWDED / 8, CROWDED / 2));
        drop(taken);
        assert_eq!((many[0].share(), one.share()), (UNCROWDED, UNCROWDED));
        drop((many, one));
        of("other");
        assert!(budget.process.channels.lock().unwrap().len() <= 1, "channels that are gone are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sleeps_is_not_under_way() {
        let slots = slots(1, &Budget::default());
        let mut sleeper = slot(&slots).unwrap();
        assert_eq!(slots.room(0), 0);
        let mut sleep = Box::pin(sleeper.sleep(Duration::from_secs(1)));
        assert!(sleep.as_mut().now_or_never().is_none());
        assert_eq!(slots.room(0), 1);
        sleep.await;
        assert_eq!(slots.room(0), 0);
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_with_the_first_that_is_free() {
        let budget = Budget { shared: Arc::new(Semaphore::new(1)), ..Budget::default() };
        let slots = slots(MAX_IN_FLIGHT, &budget);
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

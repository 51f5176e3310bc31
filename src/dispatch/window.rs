//! How many events of a subscription are under way at once: as many as keep its sink busy, and no more than the bridge itself
//! keeps up with.
//!
//! A sink that takes its time needs many requests under way. One that answers at once needs few: further ones wait in the bridge
//! for the processor, and whatever else is to be done waits behind them. So each request tells how long it waited in the bridge
//! before it began, and how long its answer took. Where the bridge is late and the answers are not, the window gets smaller, by
//! half in the time that a window of events takes; otherwise it grows as fast.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A bridge that begins its requests so late has more to do than it keeps up with.
const LATE: Duration = Duration::from_millis(4);
/// A sink that takes so many times as long is what its events wait for.
const SLOW: u32 = 8;
/// It gets no smaller: each pull from JetStream should be worth its while.
const FEWEST: usize = 8;
/// It begins with this, for many subscriptions may begin at once.
const FIRST: usize = 64;
/// One request moves the window by one part of so many.
const PARTS: usize = 2;

/// The window of one subscription.
#[derive(Debug)]
pub(super) struct Window {
    /// In parts of an event.
    size: AtomicUsize,
    most: usize,
    /// What the last request found.
    is_crowded: AtomicBool,
}

impl Window {
    /// Never larger than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { size: AtomicUsize::new(FIRST.min(most) * PARTS), most, is_crowded: AtomicBool::new(false) }
    }

    /// How many more requests may be made beside so many. In a crowd that is none until half of the window is free: a pull for each
    /// event would cost the server more than the event.
    pub(super) fn room(&self, at_work: usize) -> usize {
        let size = self.size();
        let worth_a_pull = if self.is_crowded.load(Ordering::Relaxed) { size / 2 } else { 0 };
        Some(size.saturating_sub(at_work)).filter(|room| *room >= worth_a_pull).unwrap_or(0)
    }

    /// Events that may be under way.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed) / PARTS
    }

    /// A request has begun after `waited`, and its answer came after `took`.
    pub(super) fn learn(&self, waited: Duration, took: Duration) {
        let is_crowded = waited > LATE && took < waited.saturating_mul(SLOW);
        let size = self.size.load(Ordering::Relaxed);
        let least = FEWEST.min(self.most) * PARTS;
        let next = if is_crowded { size.saturating_sub(1) } else { size + 1 }.clamp(least, self.most * PARTS);
        // A word that is lost between two threads is one of many.
        self.size.store(next, Ordering::Relaxed);
        self.is_crowded.store(is_crowded, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 256;

    /// The window after many requests that waited and took so many milliseconds.
    fn after(window: &Window, waited: u64, took: u64) -> usize {
        for _ in 0..MOST * PARTS {
            window.learn(Duration::from_millis(waited), Duration::from_millis(took));
        }
        window.size()
    }

    #[test]
    fn it_gets_smaller_only_where_the_bridge_is_late_and_the_sink_is_not() {
        let window = Window::new(MOST);
        assert_eq!(window.size(), FIRST);
        assert_eq!(after(&window, 1, 1), MOST, "a bridge in time");
        assert_eq!(after(&window, 20, 21), FEWEST, "a crowd");
        assert_eq!(after(&window, 20, 200), MOST, "a slow sink");
        assert_eq!(after(&window, 600, 200), FEWEST, "a slow sink whose events wait for each other");
        assert_eq!(after(&window, 0, 0), MOST);
    }

    #[test]
    fn in_a_crowd_half_of_it_is_filled_at_once() {
        let window = Window::new(MOST);
        after(&window, 0, 0);
        assert_eq!((window.room(0), window.room(MOST - 1), window.room(MOST + 1)), (MOST, 1, 0));
        after(&window, 20, 0);
        assert_eq!((window.room(0), window.room(FEWEST / 2), window.room(FEWEST / 2 + 1)), (FEWEST, FEWEST / 2, 0));
        window.learn(Duration::ZERO, Duration::ZERO);
        assert_eq!(window.room(FEWEST - 1), 1);
    }

    #[test]
    fn a_small_limit_is_kept() {
        for most in [1, 2, FEWEST, FEWEST + 1] {
            let window = Window::new(most);
            assert_eq!(after(&window, 0, 0), most);
            assert_eq!(after(&window, 20, 0), most.min(FEWEST));
            assert!((0..most).any(|at_work| window.room(at_work) > 0));
        }
    }
}

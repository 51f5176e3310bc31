//! How many events of a subscription are under way at once: as many as keep its sink busy, and no more than the bridge itself
//! keeps up with.
//!
//! A sink that takes its time needs many requests under way. One that answers at once needs few: further ones wait in the bridge
//! for the processor, and whatever else is to be done waits behind them. So each request tells how long it waited in the bridge
//! before it began, and how long its answer took. Where the bridge is late and the answers are not, the window gets smaller, a
//! quarter in the time that a window of events takes; otherwise it grows as fast.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A bridge that begins its requests so late has more to do than it keeps up with.
const LATE: Duration = Duration::from_millis(5);
/// A sink that takes so many times as long is what its events wait for.
const SLOW: u32 = 8;
/// It gets no smaller: each pull from JetStream should be worth its while.
const FEWEST: usize = 8;
/// It begins with this.
const FIRST: usize = 64;
/// One event moves the window by one part of so many.
const PARTS: usize = 4;

/// The window of one subscription.
#[derive(Debug)]
pub(super) struct Window {
    /// In parts of an event.
    size: AtomicUsize,
    most: usize,
}

impl Window {
    /// Never larger than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { size: AtomicUsize::new(FIRST.min(most) * PARTS), most }
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
        if next != size {
            // A word that is lost between two threads is one of many.
            self.size.store(next, Ordering::Relaxed);
        }
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
    fn a_small_limit_is_kept() {
        for most in [1, 2, FEWEST, FEWEST + 1] {
            let window = Window::new(most);
            assert_eq!(after(&window, 0, 0), most);
            assert_eq!(after(&window, 20, 0), most.min(FEWEST));
        }
    }
}

//! How many requests of a subscription are under way at once: as many as keep its sink busy, and no more than the bridge itself
//! keeps up with.
//!
//! A sink that takes its time needs many requests under way. One that answers at once needs few: further ones wait in the bridge
//! for the processor, and whatever else is to be done waits behind them. So each request tells how long it waited in the bridge
//! before it began, and how long its answer took. Where the bridge is late and the answers are not, the window gets smaller, by
//! half in the time that a window of events takes, down to the subscription's share; otherwise it grows as fast.
//!
//! What is pulled does not get as few: in a small window, further events wait for their turn, so that each pull is worth its while.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A bridge that begins its requests so late has more to do than it keeps up with.
const LATE: Duration = Duration::from_millis(2);
/// A sink that takes so many times as long is what its events wait for.
const SLOW: u32 = 8;
/// It begins with this, for many subscriptions may begin at once, and each request that is under way has a connection.
const FIRST: usize = 4;
/// So many events are held however small it is.
const HELD: usize = 64;
/// One request moves the window by one part of so many.
const PARTS: usize = 2;

/// The window of one subscription.
#[derive(Debug)]
pub(super) struct Window {
    /// In parts of a request.
    size: AtomicUsize,
    most: usize,
}

impl Window {
    /// Never larger than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { size: AtomicUsize::new(FIRST.min(most) * PARTS), most }
    }

    /// How many more are to be pulled beside so many that are under way or wait for their turn. In a crowd that is none until half
    /// of them are gone: a pull for each event would cost the server more than the event.
    pub(super) fn room(&self, held: usize) -> usize {
        let size = self.size();
        let most = size.max(HELD).min(self.most);
        let worth_a_pull = if size < most { most / 2 } else { 0 };
        Some(most.saturating_sub(held)).filter(|room| *room >= worth_a_pull).unwrap_or(0)
    }

    /// Requests that may be under way.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed) / PARTS
    }

    /// A request has begun after `waited`, and its answer came after `took`. In a crowd the window gets no smaller than `share`.
    pub(super) fn learn(&self, waited: Duration, took: Duration, share: impl FnOnce() -> usize) {
        let is_crowded = is_late(waited) && took < waited.saturating_mul(SLOW);
        let size = self.size.load(Ordering::Relaxed);
        let next = if is_crowded {
            size.saturating_sub(1).max(share().clamp(1, self.most) * PARTS)
        } else {
            (size + 1).min(self.most * PARTS)
        };
        // A word that is lost between two threads is one of many.
        self.size.store(next, Ordering::Relaxed);
    }
}

/// Whether a request that began after `waited` says that the bridge does not keep up.
pub(super) fn is_late(waited: Duration) -> bool {
    waited > LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 256;
    const SHARE: usize = 2;

    /// The window after many requests that waited and took so many milliseconds.
    fn after(window: &Window, waited: u64, took: u64) -> usize {
        for _ in 0..MOST * PARTS {
            window.learn(Duration::from_millis(waited), Duration::from_millis(took), || SHARE);
        }
        window.size()
    }

    #[test]
    fn it_gets_smaller_only_where_the_bridge_is_late_and_the_sink_is_not() {
        let window = Window::new(MOST);
        assert_eq!(window.size(), FIRST);
        assert_eq!(after(&window, 1, 1), MOST, "a bridge in time");
        assert_eq!(after(&window, 20, 21), SHARE, "a crowd");
        assert_eq!(after(&window, 20, 200), MOST, "a slow sink");
        assert_eq!(after(&window, 600, 200), SHARE, "a slow sink whose events wait for each other");
        assert_eq!(after(&window, 0, 0), MOST);
    }

    #[test]
    fn in_a_crowd_more_is_held_than_is_under_way_and_half_of_it_is_filled_at_once() {
        let window = Window::new(MOST);
        after(&window, 0, 0);
        assert_eq!((window.room(0), window.room(MOST - 1), window.room(MOST + 1)), (MOST, 1, 0));
        after(&window, 20, 0);
        assert_eq!((window.room(0), window.room(HELD / 2), window.room(HELD / 2 + 1)), (HELD, HELD / 2, 0));
    }

    #[test]
    fn a_small_limit_is_kept() {
        for most in [1, SHARE, SHARE + 1, HELD] {
            let window = Window::new(most);
            assert_eq!((after(&window, 0, 0), window.room(0), window.room(most)), (most, most, 0));
            assert_eq!((after(&window, 20, 0), window.room(0)), (most.min(SHARE), most));
        }
    }
}

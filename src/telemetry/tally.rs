//! Counts what goes wrong, and says which occurrences are worth a line in the log: a sink that refuses 200,000 events is one
//! fault, not 200,000.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::instrument::Counter;

/// After a line about a fault, the next one about the same is told no sooner than this, with the count of all until then.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of fault at one place.
#[derive(Debug, Default)]
pub struct Tally {
    count: Counter,
    /// When it may be told again, in milliseconds since [`START`]; 0 when it never was.
    due: AtomicU64,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Tally {
    /// Counts one more; gives the count so far when it is to be told: at first, and then once in ten seconds at most.
    pub fn add(&self) -> Option<u64> {
        self.add_at(START.elapsed())
    }

    pub fn count(&self) -> u64 {
        self.count.get()
    }

    fn add_at(&self, now: Duration) -> Option<u64> {
        self.count.add(1);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let due = self.due.load(Ordering::Relaxed);
        if millis(now) < due {
            return None;
        }
        // Of several at once, one tells.
        let next = millis(now.saturating_add(PAUSE));
        let told = self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        told.is_ok().then(|| self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_at_first_and_then_every_ten_seconds() {
        let tally = Tally::default();
        let told: Vec<u64> = (0..2500).filter_map(|n| tally.add_at(Duration::from_millis(n * 10))).collect();
        assert_eq!(told, [1, 1001, 2001]);
        assert_eq!(tally.count(), 2500);
        assert_eq!(tally.add_at(Duration::from_secs(1000)), Some(2501), "what comes back is told at once");
    }
}

//! Counts what goes wrong, and says which occurrences are worth a line in the log: a sink that refuses 200,000 events is one
//! fault, not 200,000.

use std::sync::atomic::{AtomicU64, Ordering};

/// One kind of fault of one subscription.
#[derive(Debug, Default)]
pub(super) struct Tally {
    count: AtomicU64,
}

/// The faults of one subscription that are summarised.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// Events on which the filter could not be evaluated.
    pub(super) filter_errors: Tally,
    /// Events kept in the stream of dead letters.
    pub(super) kept: Tally,
    /// Dead letters that their sink would not take.
    pub(super) dead_letter_sink: Tally,
    /// Dead letters that could not even be kept.
    pub(super) not_kept: Tally,
}

impl Tally {
    /// Counts one more; gives the count when it is to be told: the 1st, the 10th, the 100th, and so on.
    pub(super) fn add(&self) -> Option<u64> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut step = 1;
        while step < count && step <= u64::MAX / 10 {
            step *= 10;
        }
        (step == count).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_told() {
        let tally = Tally::default();
        let told: Vec<u64> = (0..2000).filter_map(|_| tally.add()).collect();
        assert_eq!(told, [1, 10, 100, 1000]);
    }
}

//! Events with one key go one after the other: who waits for whom. Different keys do not know of each other.

use std::collections::{HashMap, VecDeque};

/// What is to be done with an event that has just come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<T> {
    /// Nobody is before it.
    Start(T),
    /// It waits in its lane.
    Queued,
}

/// The lanes of one subscription. Bounded by what the subscription holds.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: HashMap<String, Lane<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    /// The event at work, or on its way back from JetStream for another attempt.
    head: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { lanes: HashMap::new() }
    }

    /// An event has come, for the first time or back for another attempt.
    pub(super) fn enter(&mut self, key: &str, sequence: u64, event: T) -> Entry<T> {
        let Some(lane) = self.lanes.get_mut(key) else {
            self.lanes.insert(key.to_owned(), Lane { head: sequence, waiting: VecDeque::new() });
            return Entry::Start(event);
        };
        if lane.head == sequence {
            return Entry::Start(event);
        }
        // One that was delivered before goes before what came later.
        let place = lane.waiting.partition_point(|(other, _)| *other < sequence);
        lane.waiting.insert(place, (sequence, event));
        Entry::Queued
    }

    /// Forgets all who wait, and the lanes whose head is not to be kept.
    pub(super) fn keep(&mut self, keeps: impl Fn(u64) -> bool) {
        self.lanes.retain(|_, lane| keeps(lane.head));
        for lane in self.lanes.values_mut() {
            lane.waiting.clear();
        }
    }

    /// The head of a lane is settled; gives the next one.
    pub(super) fn leave(&mut self, key: &str) -> Option<T> {
        let lane = self.lanes.get_mut(key)?;
        if let Some((sequence, event)) = lane.waiting.pop_front() {
            lane.head = sequence;
            return Some(event);
        }
        self.lanes.remove(key);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_goes_one_after_the_other_and_others_do_not_wait() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.enter("a", 1, 1), Entry::Start(1));
        assert_eq!(lanes.enter("a", 3, 3), Entry::Queued);
        assert_eq!(lanes.enter("b", 2, 2), Entry::Start(2));
        assert_eq!(lanes.enter("a", 4, 4), Entry::Queued);
        assert_eq!((lanes.leave("a"), lanes.leave("a"), lanes.leave("a")), (Some(3), Some(4), None));
        assert_eq!(lanes.leave("b"), None);
        assert_eq!(lanes.enter("a", 5, 5), Entry::Start(5));
    }

    #[test]
    fn a_head_that_comes_back_goes_on_before_those_behind_it() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.enter("a", 1, "first"), Entry::Start("first"));
        assert_eq!(lanes.enter("a", 2, "second"), Entry::Queued);
        assert_eq!(lanes.enter("a", 1, "first again"), Entry::Start("first again"));
        assert_eq!(lanes.leave("a"), Some("second"));
    }

    #[test]
    fn what_another_bridge_may_have_had_is_forgotten() {
        let mut lanes = Lanes::new();
        for (key, sequence) in [("a", 1), ("a", 3), ("b", 2), ("b", 4)] {
            lanes.enter(key, sequence, sequence);
        }
        lanes.keep(|head| head == 1);
        assert_eq!(lanes.enter("b", 4, 4), Entry::Start(4), "its head is elsewhere now");
        assert_eq!(lanes.enter("a", 3, 3), Entry::Queued, "its head is still at work");
        assert_eq!((lanes.leave("a"), lanes.leave("a")), (Some(3), None));
    }

    #[test]
    fn what_was_stored_earlier_goes_earlier() {
        let mut lanes = Lanes::new();
        lanes.enter("a", 5, 5);
        for sequence in [9, 6, 8, 7] {
            assert_eq!(lanes.enter("a", sequence, sequence), Entry::Queued);
        }
        let order: Vec<u64> = std::iter::from_fn(|| lanes.leave("a")).collect();
        assert_eq!(order, [6, 7, 8, 9]);
    }
}

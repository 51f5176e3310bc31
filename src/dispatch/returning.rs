//! The events that JetStream delivers again, and when: so that they can be asked for while nothing else is wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// JetStream hands out what is due before what is new, but is a little late with it. Asking too early would bring a new event.
const GRACE: Duration = Duration::from_millis(100);
/// So many are remembered; the others come when the way is open again.
const MOST: usize = 20_000;

/// Due times by stream sequence.
#[derive(Debug, Default)]
pub(super) struct Returning {
    due: BTreeMap<u64, Instant>,
}

impl Returning {
    pub(super) fn add(&mut self, sequence: u64, due: Instant) {
        if self.due.len() < MOST {
            self.due.insert(sequence, due + GRACE);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// It has come.
    pub(super) fn returned(&mut self, sequence: u64) {
        self.due.remove(&sequence);
    }

    /// How many can be asked for.
    pub(super) fn due(&self, now: Instant) -> usize {
        self.due.values().filter(|due| **due <= now).count()
    }

    /// What was due has been asked for; another bridge may have got it.
    pub(super) fn asked(&mut self, now: Instant) {
        self.due.retain(|_, due| *due > now);
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_asked_for_once() {
        let now = Instant::now();
        let mut returning = Returning::default();
        returning.add(1, now);
        returning.add(2, now + Duration::from_secs(9));
        returning.add(3, now);
        assert_eq!(returning.due(now), 0, "not before JetStream has it at hand");
        assert_eq!(returning.due(now + GRACE), 2);
        returning.returned(3);
        returning.asked(now + GRACE);
        assert_eq!(returning.due(now + GRACE), 0);
        assert_eq!(returning.next(), Some(now + Duration::from_secs(9) + GRACE));
        returning.returned(2);
        assert_eq!(returning.next(), None);
    }
}

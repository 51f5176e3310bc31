//! What the server does not let us do. It says so once for every message, by its subject, and answers that message with nothing
//! else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Subjects that are remembered; when there are more, we start anew.
const MAX_SUBJECTS: usize = 1000;

/// The denials of one connection and those before it, counted.
#[derive(Default)]
pub(super) struct Denials {
    count: AtomicU64,
    /// The number of the last denial for each subject.
    last: Mutex<HashMap<String, u64>>,
}

impl Denials {
    /// How many there were so far, of whatever subject.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether this subject was denied again after the first `count` denials.
    pub(super) fn denied_since(&self, subject: &str, count: u64) -> bool {
        self.count() != count && self.lock().get(subject).is_some_and(|number| *number > count)
    }

    /// Counts one. True when it is the first for its subject.
    pub(super) fn add(&self, subject: &str) -> bool {
        let mut last = self.lock();
        if last.len() >= MAX_SUBJECTS {
            last.clear();
        }
        let number = self.count() + 1;
        let is_new = last.insert(subject.to_owned(), number).is_none();
        self.count.store(number, Ordering::Release);
        is_new
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_its_own() {
        let denials = Denials::default();
        let before = denials.count();
        assert!(denials.add("a") && denials.add("b") && !denials.add("a"));
        assert!(denials.denied_since("a", before) && !denials.denied_since("c", before));
        assert!(denials.denied_since("a", 2) && !denials.denied_since("b", 2));
        assert!(!denials.denied_since("a", denials.count()));
    }
}

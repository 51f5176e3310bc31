//! How often an event has come, for a viewer that is told to fail.

use std::collections::{HashMap, VecDeque};

use crate::event::Event;

/// Events that are remembered; the oldest is forgotten first, and would fail anew.
const MAX_REMEMBERED: usize = 10_000;

/// Counts the tries of each event, by what identifies it: source and id.
#[derive(Debug, Default)]
pub(super) struct Tries {
    counts: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Tries {
    /// Counts one more try and says which it is, from 1.
    pub(super) fn count(&mut self, event: &Event) -> u32 {
        let key = event.message_id();
        if let Some(count) = self.counts.get_mut(&key) {
            *count = count.saturating_add(1);
            return *count;
        }
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.counts.insert(key, 1);
        1
    }
}

//! What a desk does where events are in order by key: how it takes them over from another bridge, and what it does about those that
//! should have come and have not. Until all that is unsettled is here, nothing starts.

use std::collections::BTreeMap;

use super::Desk;
use crate::channel::{Stored, Unsettled};
use crate::dispatch::returning::Returning;
use crate::dispatch::slots::MAX_HELD;

/// How often what is missing of a take-over is asked for again, before the others go without it: once for each pull that
/// brought nothing.
const TAKE_OVER_ROUNDS: u32 = 20;

#[derive(Default)]
pub(super) struct TakeOver {
    /// Messages up to this sequence are waited for.
    last: u64,
    missing: u64,
    rounds: u32,
    come: BTreeMap<u64, Box<Stored>>,
}

impl Desk {
    /// Lets go of all that waits here and is not at work, because another bridge may have had it meanwhile. What is unsettled
    /// comes again.
    pub(in crate::dispatch) fn forget_waiting(&mut self) {
        let waits = self.held.iter().filter(|(_, held)| !held.started).map(|(sequence, _)| *sequence);
        self.unspent = waits.map(|sequence| (sequence, self.unspent.get(&sequence).unwrap_or(&0) + 1)).collect();
        self.held.retain(|_, held| held.started);
        self.context.book.holds(self.held.len());
        self.again.retain(|sequence, _| self.held.contains_key(sequence));
        if let Some(lanes) = &mut self.lanes {
            lanes.keep(|head| self.held.contains_key(&head));
        }
        self.ready.clear();
        self.parked.clear();
        self.awaited.clear();
        self.take_over = None;
        *self.returning() = Returning::default();
    }

    pub(in crate::dispatch) fn is_taking_over(&self) -> bool {
        self.take_over.is_some()
    }

    /// Starts nothing until all that is unsettled is here, and then in the order of the stream. Called again, it counts anew
    /// what is missing.
    pub(in crate::dispatch) fn take_over(&mut self, unsettled: Unsettled) {
        let TakeOver { come, rounds, .. } = self.take_over.take().unwrap_or_default();
        let held = self.held.keys().filter(|sequence| **sequence <= unsettled.last).count();
        // More than fits comes later; JetStream hands it out in order.
        let room = u64::try_from(MAX_HELD.saturating_sub(self.held.len())).unwrap_or(u64::MAX);
        let missing = unsettled.count.saturating_sub(u64::try_from(held).unwrap_or(u64::MAX)).min(room);
        if missing > 1 {
            tracing::info!(subscription = %self.context.plan.subscription, events = missing, "taking over from another bridge");
        }
        self.take_over = Some(TakeOver { last: unsettled.last, missing, rounds: rounds + 1, come });
        if missing == 0 || rounds >= TAKE_OVER_ROUNDS {
            self.all_have_come();
        }
    }

    /// No more of what is unsettled will come.
    fn all_have_come(&mut self) {
        for stored in self.take_over.take().unwrap_or_default().come.into_values() {
            self.enter(stored);
        }
    }

    /// Whether a lane waits for a head that must have been here when we asked last.
    pub(in crate::dispatch) fn misses_heads(&self) -> bool {
        self.awaited.values().any(|(due, _)| *due <= self.asked_at)
    }

    /// What must have come and has not is settled or deleted: an acknowledgement that was late may have reached JetStream when
    /// the event was delivered again already. Whoever waits behind it goes on.
    pub(in crate::dispatch) fn go_on_without_heads(&mut self) {
        let asked_at = self.asked_at;
        let (gone, awaited): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.awaited).into_iter().partition(|(_, (due, _))| *due <= asked_at);
        self.awaited = awaited;
        for (sequence, (_, lane)) in gone {
            self.unspent.remove(&sequence);
            let next = self.lanes.as_mut().and_then(|lanes| lanes.leave(&lane));
            self.start(next.into_iter().collect());
        }
    }

    /// Counts a message of a take-over; keeps it until all have come.
    pub(super) fn arrive(&mut self, sequence: u64, stored: Option<Box<Stored>>) {
        let Some(take_over) = &mut self.take_over else {
            return stored.into_iter().for_each(|stored| self.enter(stored));
        };
        take_over.come.extend(stored.map(|stored| (sequence, stored)));
        if sequence <= take_over.last {
            take_over.missing = take_over.missing.saturating_sub(1);
        }
        if take_over.missing == 0 {
            self.all_have_come();
        }
    }
}

//! Holds further events back while their sink cannot be reached at all: they wait in JetStream, unspent.
//!
//! The events that are under way go on by their own policy and are the probes. When none is left, one further event is let
//! through now and then. An event that is alone never notices.

use std::time::Duration;

use tokio::time::Instant;

use crate::sink::Failure;

/// So many attempts in a row that reached nobody close the way.
const THRESHOLD: u32 = 5;
/// The first and the longest wait before another event is let through as a probe.
const PROBE_MIN: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(30);

/// What an attempt learnt about its sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// It answered, be it with a refusal.
    Reached,
    /// Nobody there: no connection, no address, or only 503.
    Unreachable,
    /// No attempt was made.
    None,
}

impl Contact {
    pub(super) fn of(failure: &Failure) -> Self {
        if failure.unreachable { Self::Unreachable } else { Self::Reached }
    }
}

/// The breaker of one subscription.
#[derive(Debug)]
pub(super) struct Breaker {
    enabled: bool,
    in_a_row: u32,
    probe: Option<Probe>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    due: Instant,
    wait: Duration,
}

impl Breaker {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, in_a_row: 0, probe: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.probe.is_some()
    }

    /// Takes in what an attempt learnt. True when the way has just been closed or opened by it.
    pub(super) fn learn(&mut self, contact: Contact, now: Instant) -> bool {
        match contact {
            Contact::None => false,
            Contact::Reached => {
                self.in_a_row = 0;
                self.probe.take().is_some()
            }
            Contact::Unreachable => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                if !self.enabled || self.in_a_row < THRESHOLD || self.is_open() {
                    return false;
                }
                self.probe = Some(Probe { due: now + PROBE_MIN, wait: PROBE_MIN });
                true
            }
        }
    }

    /// When another event may be let through although the way is closed; `None` while it is not.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.probe.map(|probe| probe.due)
    }

    /// Whether another event may be let through now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_probe().is_some_and(|due| due <= now)
    }

    /// Notes that an event was let through.
    pub(super) fn probed(&mut self, now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.wait = (probe.wait * 2).min(PROBE_MAX);
            probe.due = now + probe.wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: u32, enabled: bool) -> Breaker {
        let mut breaker = Breaker::new(enabled);
        for _ in 0..failures {
            breaker.learn(Contact::Unreachable, Instant::now());
        }
        breaker
    }

    #[test]
    fn it_opens_after_several_failures_in_a_row_and_closes_with_the_first_answer() {
        assert!(!after(THRESHOLD - 1, true).is_open());
        let mut breaker = after(THRESHOLD, true);
        assert!(breaker.is_open());
        assert!(!breaker.learn(Contact::None, Instant::now()));
        assert!(breaker.learn(Contact::Reached, Instant::now()));
        assert!(!breaker.is_open());
        assert!(!breaker.learn(Contact::Unreachable, Instant::now()), "counting starts anew");
    }

    #[test]
    fn an_answer_between_starts_the_count_anew() {
        let mut breaker = after(THRESHOLD - 1, true);
        breaker.learn(Contact::Reached, Instant::now());
        breaker.learn(Contact::Unreachable, Instant::now());
        assert!(!breaker.is_open());
    }

    #[test]
    fn where_it_is_off_it_never_opens() {
        assert!(!after(THRESHOLD * 10, false).is_open());
    }

    #[test]
    fn probes_become_rarer_up_to_a_limit() {
        let start = Instant::now();
        let mut breaker = Breaker::new(true);
        for _ in 0..THRESHOLD {
            breaker.learn(Contact::Unreachable, start);
        }
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push(breaker.next_probe().unwrap().duration_since(start).as_secs());
            breaker.probed(start);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }
}

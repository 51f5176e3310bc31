//! What every event goes through before it is sent, wherever it came from: extensions, overrides, pace, and its place in a
//! request.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::template::{Moment, Template};
use crate::cli::Usage;
use crate::cli::overrides::Overrides;
use crate::event::Event;

/// How far a sender that was held up may run ahead of its pace to catch up.
const MOST_CATCHING_UP: Duration = Duration::from_millis(100);

/// Whether more events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Enough,
}

/// Takes events one by one and hands on requests.
pub(super) struct Producer {
    pub(super) extensions: Vec<(String, Template)>,
    pub(super) overrides: Overrides,
    pub(super) pace: Option<Pace>,
    /// Events in one request.
    pub(super) batch_size: usize,
    /// Events that are wanted at most.
    pub(super) count: Option<u64>,
    pub(super) requests: mpsc::Sender<Vec<Event>>,
    pub(super) pushed: u64,
    pub(super) batch: Vec<Event>,
}

impl Producer {
    /// Takes one event; `place` says where it was found.
    pub(super) async fn push(&mut self, mut event: Event, place: &str) -> anyhow::Result<Flow> {
        let moment = Moment::now(self.pushed + 1);
        for (name, value) in &self.extensions {
            let value = value.fill_in(&moment);
            event.set_extension(name, &value).map_err(|error| Usage(format!("--ext {name}: {error}")))?;
        }
        self.overrides.apply(&mut event).with_context(|| format!("{place}: K_CE_OVERRIDES"))?;
        if let Some(pace) = &mut self.pace {
            pace.wait().await;
        }
        // All events of a batch have one specversion (CloudEvents 1.0.2, JSON format, section 4.1).
        if self.batch.first().is_some_and(|first| first.version() != event.version())
            && self.flush().await == Flow::Enough
        {
            return Ok(Flow::Enough);
        }
        self.pushed += 1;
        self.batch.push(event);
        let flow = if self.batch.len() < self.batch_size { Flow::More } else { self.flush().await };
        Ok(if self.count.is_some_and(|count| self.pushed >= count) { Flow::Enough } else { flow })
    }

    /// Hands on what waits for its batch to fill.
    pub(super) async fn flush(&mut self) -> Flow {
        let events = std::mem::take(&mut self.batch);
        // Nobody takes requests any more once one has failed for good.
        if events.is_empty() || self.requests.send(events).await.is_ok() { Flow::More } else { Flow::Enough }
    }
}

/// So many events a second, evenly.
#[derive(Debug)]
pub(super) struct Pace {
    step: Duration,
    due: Instant,
}

impl Pace {
    pub(super) fn new(events_per_second: f64) -> Self {
        Self { step: Duration::from_secs_f64(1.0 / events_per_second), due: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        self.due = self.due.max(now.checked_sub(MOST_CATCHING_UP).unwrap_or(now));
        tokio::time::sleep_until(self.due).await;
        self.due += self.step;
    }
}

/// Reads a rate in events a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    /// One event in some eleven days, and more than anybody sends.
    const RANGE: std::ops::RangeInclusive<f64> = 1e-6..=1e9;
    match text.parse() {
        Ok(rate) if RANGE.contains(&rate) => Ok(rate),
        _ => Err("expected events a second, more than zero, such as 100 or 0.5".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn events_keep_their_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(100.0);
        for _ in 0..11 {
            pace.wait().await;
        }
        // The first goes at once.
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_sender_that_was_held_up_catches_up_a_little_only() {
        let mut pace = Pace::new(10.0);
        pace.due = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        pace.wait().await;
        pace.wait().await;
        assert!(pace.due > Instant::now());
    }

    #[test]
    fn a_rate_is_a_positive_number() {
        for (text, expected) in [("1", 1.0), ("0.5", 0.5), ("10000", 10_000.0)] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-1", "1/s", "NaN", "inf", "1e-300", "1e300"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}

//! What is told of a request when it has been answered: which channel it meant, how its events lay in it, and what became of
//! them.

use std::sync::Arc;
use std::time::Instant;

use super::error::Error;
use crate::channel::Target;
use crate::event::{Event, http};
use crate::telemetry::{ChannelMeter, Metrics, Mode, Received};

/// Filled while a request is worked on. One whose client hangs up is not told of: it had no answer.
pub(super) struct Account {
    began: Instant,
    meter: Option<Arc<ChannelMeter>>,
    mode: Mode,
    events: u64,
}

impl Account {
    pub(super) fn open() -> Self {
        Self { began: Instant::now(), meter: None, mode: Mode::Unknown, events: 0 }
    }

    pub(super) fn is_for(&mut self, target: &Target) {
        self.meter = Some(Arc::clone(&target.meter));
    }

    pub(super) fn has_mode(&mut self, mode: http::Mode) {
        self.mode = match mode {
            http::Mode::Binary => Mode::Binary,
            http::Mode::Structured => Mode::Structured,
            http::Mode::Batch => Mode::Batch,
        };
    }

    pub(super) fn has(&mut self, events: &[Event]) {
        self.events = u64::try_from(events.len()).unwrap_or(u64::MAX);
    }

    /// Counts what became of the request. Refusals are told in the log too, but not each.
    pub(super) fn close<T>(self, path: &str, metrics: &Metrics, answer: &Result<T, Error>) {
        let took = self.began.elapsed();
        let error = match answer {
            Ok(_) => {
                // One that asks for the options means no channel.
                if let Some(meter) = &self.meter {
                    meter.count(self.mode, Received::Accepted, self.events, took);
                }
                return;
            }
            Err(error) => error,
        };
        let unplaced;
        let meter = match (&self.meter, error) {
            (Some(meter), _) => &**meter,
            (None, Error::NotInPlace(channel)) => {
                unplaced = metrics.channel(channel);
                &*unplaced
            }
            (None, _) => &metrics.elsewhere,
        };
        meter.count(self.mode, error.received(), self.events.max(1), took);
        if let Some(count) = meter.refused.add() {
            let status = error.status().as_u16();
            if status >= 500 {
                tracing::warn!(path, status, %error, count, "requests are refused");
            } else {
                tracing::info!(path, status, %error, count, "requests are refused");
            }
        }
    }
}

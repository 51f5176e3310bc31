//! What is told of a request when it has been answered: which channel it meant, how its events lay in it, and what became of
//! them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::error::Error;
use crate::channel::Target;
use crate::event::http as codec;
use crate::event::{Event, PassThrough};
use crate::resource::ChannelKind;
use crate::telemetry::trace::{Begun, Facts};
use crate::telemetry::{ChannelMeter, Metrics, Mode, Received, Tracer};

/// Filled while a request is worked on. One whose client hangs up is not told of: it had no answer.
pub(super) struct Account {
    began: Instant,
    meter: Option<Arc<ChannelMeter>>,
    mode: Mode,
    events: u64,
    /// Boxed, for mostly there is none.
    trace: Option<Box<Trace>>,
}

/// The span of a request, while it is worked on.
struct Trace {
    tracer: Tracer,
    begun: Option<Begun>,
    pass_through: PassThrough,
    destination: String,
    events: Vec<Event>,
}

impl Account {
    pub(super) fn open(tracer: Option<&Tracer>, headers: &HeaderMap) -> Self {
        let trace = tracer.map(|tracer| {
            let (begun, pass_through) = tracer.begin(&PassThrough::from_http(headers));
            let destination = "ingress".to_owned();
            Box::new(Trace { tracer: tracer.clone(), begun, pass_through, destination, events: Vec::new() })
        });
        Self { began: Instant::now(), meter: None, mode: Mode::Unknown, events: 0, trace }
    }

    /// The headers that go on beside the events.
    pub(super) fn pass_through(&mut self, headers: &HeaderMap) -> PassThrough {
        match &mut self.trace {
            Some(trace) => std::mem::take(&mut trace.pass_through),
            None => PassThrough::from_http(headers),
        }
    }

    pub(super) fn is_for(&mut self, target: &Target) {
        self.meter = Some(Arc::clone(&target.meter));
        if let Some(trace) = &mut self.trace {
            let kind = match target.kind {
                ChannelKind::Channel => "channel",
                ChannelKind::Broker => "broker",
            };
            trace.destination = format!("{kind}:{}", target.subject);
        }
    }

    pub(super) fn has_mode(&mut self, mode: codec::Mode) {
        self.mode = match mode {
            codec::Mode::Binary => Mode::Binary,
            codec::Mode::Structured => Mode::Structured,
            codec::Mode::Batch => Mode::Batch,
        };
    }

    pub(super) fn has(&mut self, events: &[Event]) {
        self.events = u64::try_from(events.len()).unwrap_or(u64::MAX);
        if let Some(trace) = self.trace.as_mut().filter(|trace| trace.begun.is_some()) {
            trace.events = events.to_vec();
        }
    }

    /// Counts what became of the request. Refusals are told in the log too, but not each.
    pub(super) fn close<T>(mut self, path: &str, metrics: &Metrics, answer: &Result<T, Error>) {
        let took = self.began.elapsed();
        if let Some(trace) = self.trace.take() {
            trace.end(answer.as_ref().err(), took);
        }
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

impl Trace {
    fn end(self, error: Option<&Error>, took: Duration) {
        let Some(begun) = self.begun else { return };
        let status = error.map_or(StatusCode::ACCEPTED, Error::status);
        let facts = Facts {
            operation: "receive",
            destination: self.destination,
            events: &self.events.iter().collect::<Vec<_>>(),
            status: Some(status.as_u16()),
            failure: error.map(ToString::to_string),
            took,
            more: Vec::new(),
        };
        self.tracer.received(begun, facts);
    }
}

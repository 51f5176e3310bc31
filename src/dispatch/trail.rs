//! What is told of each attempt, to those who want to know. It only looks on: nothing that a delivery does depends on it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::attempt::Work;
use super::feed::Feed;
use super::{Plan, Shared};
use crate::channel::Place;
use crate::channel::attempts::{self, Attempt, AttemptLog, Level};
use crate::channel::watch::Delivery;
use crate::resource::Key;
use crate::sink::{Failure, Outcome, Purpose, Request, Sink};
use crate::telemetry::trace::{Begun, Fact, Facts};
use crate::telemetry::{SubscriptionMeter, Tracer};

/// One request to a sink: while it is under way, and after.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) sink: &'a Sink,
    pub(super) purpose: Purpose,
    /// From 1: the number of the delivery, or of the try of a reply or a dead letter.
    pub(super) attempt: u64,
    began: Instant,
    pub(super) took: Duration,
    span: Option<Begun>,
}

/// What follows an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The event is acknowledged.
    Settled,
    /// The answer is sent on.
    Reply,
    RetryAfter(Duration),
    DeadLetterSink,
    /// The event is kept in the stream of dead letters.
    Keep,
}

/// Tells of the attempts of one subscription.
pub(super) struct Trail {
    subscription: Key,
    stream: String,
    log: AttemptLog,
    feed: Feed,
    meter: Arc<SubscriptionMeter>,
    /// What its events are sent for at first.
    first: Purpose,
    tracer: Option<Tracer>,
    /// What spans call it.
    destination: String,
}

impl<'a> Exchange<'a> {
    /// Makes a request that is in no trace, and notes when it began and how long it took.
    pub(super) async fn of(
        sink: &'a Sink,
        purpose: Purpose,
        attempt: u64,
        request: impl Future<Output = Outcome>,
    ) -> (Self, Outcome) {
        let began = Instant::now();
        let outcome = request.await;
        (Self { sink, purpose, attempt, began, took: began.elapsed(), span: None }, outcome)
    }
}

impl Exchange<'_> {
    /// The same exchange, as the attempt of one of several events.
    pub(super) fn as_attempt(self, attempt: u64, span: Option<Begun>) -> Self {
        Self { attempt, span, ..self }
    }
}

impl Trail {
    pub(super) fn new(plan: &Plan, shared: &Shared, meter: Arc<SubscriptionMeter>) -> Self {
        let kind = if plan.consumer.of_broker { "trigger" } else { "subscription" };
        Self {
            subscription: plan.subscription.clone(),
            stream: plan.consumer.stream.clone(),
            log: shared.attempts.clone(),
            feed: shared.feed.clone(),
            meter,
            tracer: shared.tracer.clone(),
            destination: format!("{kind}:{}.{}", plan.subscription.name(), plan.subscription.namespace()),
            first: if plan.subscriber.is_some() { Purpose::Subscriber } else { Purpose::Reply },
        }
    }

    /// Delivers once; when there are traces, the request has a span, and its headers name it.
    pub(super) async fn send<'s>(&self, sink: &'s Sink, attempt: u64, request: Request<'_>) -> (Exchange<'s>, Outcome) {
        let Some(tracer) = &self.tracer else {
            return Exchange::of(sink, request.purpose, attempt, sink.deliver(request)).await;
        };
        let (span, pass_through) = tracer.begin(request.pass_through);
        let request = Request { pass_through: &pass_through, ..request };
        let (exchange, outcome) = Exchange::of(sink, request.purpose, attempt, sink.deliver(request)).await;
        (Exchange { span, ..exchange }, outcome)
    }

    /// Begins the span of one event of several that go in one request.
    pub(super) fn begin(&self, work: &Work) -> Option<Begun> {
        self.tracer.as_ref()?.begin(&work.stored.pass_through).0
    }

    /// Tells that an event is acknowledged that was in this place.
    pub(super) fn settled(&self, place: Place) {
        let age = Timestamp::now().as_nanosecond().saturating_sub(place.stored_at_nanos);
        self.meter.age_seconds.observe(Duration::from_nanos(u64::try_from(age).unwrap_or(0)));
    }

    /// Tells of an exchange: the status with which it went well, or its failure, and what follows.
    pub(super) fn tell(&self, work: &Work, exchange: &Exchange<'_>, result: Result<u16, &Failure>, next: Next) {
        self.count(work, exchange, result.map_or_else(Failure::status, Some), !matches!(next, Next::RetryAfter(_)));
        self.trace(work, exchange, result);
        let at_once = exchange.purpose == self.first && work.attempt() == 1 && !work.is_redriven();
        let smooth = result.is_ok() && next == Next::Settled && at_once;
        let wanted = match self.log.level() {
            Level::Off => false,
            Level::Failures => !smooth,
            Level::All => true,
        };
        let watched = self.feed.is_watched();
        if !wanted && !watched {
            return;
        }
        let attempt = self.record(work, exchange, result, next);
        if watched {
            self.feed.tell(Delivery::new(attempt.clone(), &work.stored.event));
        }
        if wanted {
            self.log.record(attempt);
        }
    }

    fn count(&self, work: &Work, exchange: &Exchange<'_>, code: Option<u16>, is_final: bool) {
        let meter = &self.meter;
        let attempts = match exchange.purpose {
            purpose if purpose == self.first && work.is_redriven() => &meter.redrives,
            purpose if purpose == self.first => {
                meter.dispatch_seconds.observe(exchange.took);
                &meter.attempts
            }
            Purpose::Subscriber | Purpose::Reply => &meter.replies,
            Purpose::DeadLetter => &meter.dead_letters,
        };
        attempts.count(code, is_final);
    }

    fn trace(&self, work: &Work, exchange: &Exchange<'_>, result: Result<u16, &Failure>) {
        let (Some(tracer), Some(begun)) = (&self.tracer, exchange.span) else { return };
        let purpose = match exchange.purpose {
            Purpose::Subscriber => "subscriber",
            Purpose::Reply => "reply",
            Purpose::DeadLetter => "dead_letter",
        };
        // The query may be a secret.
        let url = exchange.sink.shown_address();
        let url = url.split('?').next().unwrap_or_default().to_owned();
        let facts = Facts {
            operation: "send",
            destination: self.destination.clone(),
            events: &[&work.stored.event],
            status: result.map_or_else(Failure::status, Some),
            failure: result.err().map(|failure| String::from_utf8_lossy(&failure.body).into_owned()),
            took: exchange.took,
            more: vec![
                ("url.full", Fact::Text(url)),
                ("knats.purpose", Fact::Text(purpose.to_owned())),
                ("knats.attempt", Fact::Number(exchange.attempt)),
            ],
        };
        tracer.sent(begun, facts);
    }

    fn record(&self, work: &Work, exchange: &Exchange<'_>, result: Result<u16, &Failure>, next: Next) -> Attempt {
        let event = &work.stored.event;
        let (stream, sequence) = work.origin(&self.stream).unwrap_or_else(|| work.delivered_from(&self.stream));
        let now = Timestamp::now();
        Attempt {
            time: now.checked_sub(exchange.began.elapsed()).unwrap_or(now),
            namespace: self.subscription.namespace().to_owned(),
            subscription: self.subscription.name().to_owned(),
            stream: stream.to_owned(),
            sequence,
            id: event.id().to_owned(),
            source: event.source().to_owned(),
            kind: event.kind().to_owned(),
            attempt: exchange.attempt,
            purpose: match exchange.purpose {
                Purpose::Subscriber => attempts::Purpose::Subscriber,
                Purpose::Reply => attempts::Purpose::Reply,
                Purpose::DeadLetter => attempts::Purpose::DeadLetter,
            },
            sink: exchange.sink.shown_address(),
            duration_ms: exchange.took.as_secs_f64() * 1000.0,
            code: result.map_or_else(Failure::status, Some),
            error: result.err().map(|failure| String::from_utf8_lossy(&failure.body).into_owned()),
            next: match next {
                Next::Settled => attempts::Next::Settled,
                Next::Reply => attempts::Next::Reply,
                Next::RetryAfter(_) => attempts::Next::Retry,
                Next::DeadLetterSink => attempts::Next::DeadLetterSink,
                Next::Keep => attempts::Next::Kept,
            },
            retry_at: match next {
                Next::RetryAfter(wait) => now.checked_add(wait).ok(),
                _ => None,
            },
            redrive: work.is_redriven(),
        }
    }
}

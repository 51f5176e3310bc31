//! What is told of each attempt, to those who want to know. It only looks on: nothing that a delivery does depends on it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Plan;
use super::attempt::Work;
use super::feed::Feed;
use crate::channel::attempts::{self, Attempt, AttemptLog, Level};
use crate::channel::watch::Delivery;
use crate::resource::Key;
use crate::sink::{Failure, Outcome, Purpose, Sink};

/// One request to a sink: while it is under way, and after.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) sink: &'a Sink,
    pub(super) purpose: Purpose,
    /// From 1: the number of the delivery, or of the try of a reply or a dead letter.
    pub(super) attempt: u64,
    began: Instant,
    took: Duration,
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
    /// What its events are sent for at first.
    first: Purpose,
}

impl<'a> Exchange<'a> {
    /// Makes a request, and notes when it began and how long it took.
    pub(super) async fn of(
        sink: &'a Sink,
        purpose: Purpose,
        attempt: u64,
        request: impl Future<Output = Outcome>,
    ) -> (Self, Outcome) {
        let began = Instant::now();
        let outcome = request.await;
        (Self { sink, purpose, attempt, began, took: began.elapsed() }, outcome)
    }
}

impl Exchange<'_> {
    /// The same exchange, as the attempt of one of several events.
    pub(super) fn as_attempt(self, attempt: u64) -> Self {
        Self { attempt, ..self }
    }
}

impl Trail {
    pub(super) fn new(plan: &Plan, log: AttemptLog, feed: Feed) -> Self {
        Self {
            subscription: plan.subscription.clone(),
            stream: plan.consumer.stream.clone(),
            log,
            feed,
            first: if plan.subscriber.is_some() { Purpose::Subscriber } else { Purpose::Reply },
        }
    }

    /// Tells of an exchange: the status with which it went well, or its failure, and what follows.
    pub(super) fn tell(&self, work: &Work, exchange: &Exchange<'_>, result: Result<u16, &Failure>, next: Next) {
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
            code: result.map_or_else(|failure| failure.answered.then_some(failure.code), Some),
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

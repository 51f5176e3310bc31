//! Many events in one request: gathered until there are enough or the first has waited long enough; an answer counts for all.

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::Context;
use super::attempt::{self, Report, Together, Work};
use super::breaker::Contact;
use super::slots::{Claim, Slots};
use super::trail::{self, Exchange};
use crate::event::Event;
use crate::fault_point::{Point, at};
use crate::resource::Batch;
use crate::sink::{BatchRequest, Failure, Outcome, Purpose};

/// Events of a failed batch that are dealt with at once.
const PARALLEL: usize = 64;

/// The events that wait for their batch to be full.
pub(super) struct Gathering {
    limits: Batch,
    works: Together<Work>,
    due: Option<Instant>,
}

impl Gathering {
    pub(super) fn new(limits: Batch) -> Self {
        Self { limits, works: Together::new(), due: None }
    }

    pub(super) fn size(&self) -> usize {
        usize::try_from(self.limits.size.get()).unwrap_or(usize::MAX)
    }

    pub(super) fn len(&self) -> usize {
        self.works.len()
    }

    /// When what is here goes, full or not.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes one more; gives the batch when it is full, or of another specification version: a batch has one.
    pub(super) fn add(&mut self, work: Work, now: Instant) -> Option<Together<Work>> {
        let version = work.stored.event.version();
        let other = self.works.first().is_some_and(|first| first.stored.event.version() != version);
        let before = other.then(|| self.take());
        self.due.get_or_insert(now + self.limits.wait);
        self.works.push(work);
        if self.works.len() < self.size() { before } else { Some(self.take()) }
    }

    pub(super) fn take(&mut self) -> Together<Work> {
        self.due = None;
        std::mem::take(&mut self.works)
    }
}

/// Delivers a batch and settles each of its events.
pub(super) async fn run(context: Context, works: Together<Work>, claim: Claim) -> Together<Report> {
    let slot = at(Point::BatchSlot, claim.slot()).await;
    let plan = &context.plan;
    let Some(sink) = plan.subscriber.as_ref().or(plan.reply.as_ref()) else {
        return join_all(works.into_iter().map(|work| work.settle(Contact::None))).await.into();
    };
    let events: Vec<&Event> = works.iter().map(|work| &work.stored.event).collect();
    let request = BatchRequest { events: &events, namespace: plan.subscription.namespace(), timeout: plan.timeout() };
    // One request, one answer, and an attempt for each of its events.
    let exchange = Exchange::of(sink, Purpose::Subscriber, 1, sink.deliver_batch(request));
    let (exchange, outcome) = at(Point::BatchAttempted, exchange).await;
    slot.answered(exchange.took);
    let of = |work: &Work| exchange.as_attempt(work.attempt(), context.trail.begin(work));
    match outcome {
        Outcome::Accepted(code, _) => {
            for work in &works {
                context.trail.tell(work, &of(work), Ok(code), trail::Next::Settled);
            }
            join_all(works.into_iter().map(|work| work.settle(Contact::Reached))).await.into()
        }
        Outcome::Failed(failure) => {
            let slots = slot.give_back();
            // Beside each other: the dead letter of one must not keep the retry of another waiting.
            let each = works.into_iter().map(|work| {
                let exchange = of(&work);
                one_failed(&context, work, exchange, &failure, &slots)
            });
            stream::iter(each).buffer_unordered(PARALLEL).collect().await
        }
    }
}

async fn one_failed(context: &Context, work: Work, exchange: Exchange<'_>, failure: &Failure, slots: &Slots) -> Report {
    let mut slot = at(Point::FailedSlot, slots.claim().slot()).await;
    attempt::failed(context, work, exchange, failure.clone(), &mut slot).await
}

//! One event from its pull to its settlement. Whatever path it takes, the acknowledgement is the last step.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smallvec::SmallVec;

use super::breaker::Contact;
use super::policy::{self, Next};
use super::slots::{Claim, Slot};
use super::trail::{self, Exchange};
use super::{Context, Surroundings};
use crate::channel::broker;
use crate::channel::dead_letter::{self, Provenance};
use crate::channel::{Poison, PublishError, Stored};
use crate::event::{Event, PassThrough};
use crate::fault_point::{Point, at};
use crate::sink::{Answer, DeliveryId, Failure, Outcome, Purpose, Request, Sink};

/// How long an event waits to be tried again when its dead letter could not even be kept.
const NOT_KEPT_WAIT: Duration = Duration::from_secs(2);
/// How often a dead letter is tried to be kept before its event goes back to JetStream.
const KEEP_TRIES: u32 = 15;

/// Events that go together, or what became of them: one in most cases, which takes no memory of its own.
pub(super) type Together<T> = SmallVec<[T; 1]>;

/// What became of an event that was at work.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) sequence: u64,
    /// Its key, when events with one key go one after the other.
    pub(super) lane: Option<String>,
    pub(super) contact: Contact,
    pub(super) end: End,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Delivered,
    /// The dead letter sink has it, after this failure of its delivery.
    DeadLetterSink(u16),
    /// It is kept in the stream of dead letters, after this failure of its delivery.
    Kept(u16),
    /// It was no event, and is kept as what it is.
    SetAside,
    /// Another attempt is due after this.
    Retry(Duration),
    /// It could not even be kept, and comes again after this.
    NotKept(Duration),
    /// Nobody knows.
    Lost,
}

impl Report {
    /// Nobody knows what became of it.
    pub(super) fn lost(sequence: u64, lane: Option<String>) -> Self {
        Self { sequence, lane, contact: Contact::None, end: End::Lost }
    }

    /// JetStream delivers it again after this; `None` when it is settled for good.
    pub(super) fn returns_in(&self) -> Option<Duration> {
        match self.end {
            End::Retry(wait) | End::NotKept(wait) => Some(wait),
            End::Delivered | End::DeadLetterSink(_) | End::Kept(_) | End::SetAside | End::Lost => None,
        }
    }
}

/// An event on its way through one delivery.
pub(super) struct Work {
    /// Boxed, for a work is moved from place to place.
    pub(super) stored: Box<Stored>,
    lane: Option<String>,
    /// Deliveries that led to no attempt.
    unspent: u64,
    redriven: Option<Redriven>,
}

/// What is different about a kept dead letter that is delivered again.
#[derive(Debug, Clone)]
struct Redriven {
    /// Stream and sequence in its channel, as far as they are known.
    origin: Option<(String, u64)>,
}

impl Work {
    pub(super) fn new(stored: Box<Stored>, lane: Option<String>, unspent: u64) -> Self {
        Self { stored, lane, unspent, redriven: None }
    }

    /// A kept dead letter, whose ticket names its place in the stream of dead letters.
    pub(super) fn redriven(stored: Box<Stored>, origin: Option<(String, u64)>) -> Self {
        Self { stored, lane: None, unspent: 0, redriven: Some(Redriven { origin }) }
    }

    pub(super) fn is_redriven(&self) -> bool {
        self.redriven.is_some()
    }

    /// Stream and sequence that the delivery comes from; `stream` is that of the subscription.
    pub(super) fn delivered_from<'a>(&self, stream: &'a str) -> (&'a str, u64) {
        (if self.is_redriven() { dead_letter::STREAM } else { stream }, self.sequence())
    }

    /// Stream and sequence where the event was first, as far as they are known.
    pub(super) fn origin<'a>(&'a self, stream: &'a str) -> Option<(&'a str, u64)> {
        match &self.redriven {
            None => Some(self.delivered_from(stream)),
            Some(Redriven { origin }) => origin.as_ref().map(|(stream, sequence)| (stream.as_str(), *sequence)),
        }
    }

    pub(super) fn lost(&self) -> Report {
        Report::lost(self.sequence(), self.lane.clone())
    }

    /// The event with its loop guard, for a sink that is a channel: events must not go round for ever by way of another broker.
    fn guarded(&self, sink: &Sink) -> Option<Event> {
        match sink {
            Sink::Channel(_) if self.stored.ttl.is_some() => {
                let mut event = self.stored.event.clone();
                self.guard(&mut event);
                Some(event)
            }
            Sink::Channel(_) | Sink::Http(_) => None,
        }
    }

    /// Puts what is left of the loop guard on an event that this one leads to.
    fn guard(&self, event: &mut Event) {
        if let Some(ttl) = &self.stored.ttl
            && let Err(error) = event.set_extension(broker::TTL, ttl)
        {
            tracing::warn!(%error, id = event.id(), source = event.source(), "an event goes without its loop guard");
        }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.stored.ticket.place().stream_sequence
    }

    /// The number of the attempt that this delivery is for, from 1.
    pub(super) fn attempt(&self) -> u64 {
        self.stored.ticket.place().delivered.saturating_sub(self.unspent).max(1)
    }

    /// Delivered.
    pub(super) async fn settle(self, contact: Contact) -> Report {
        self.settle_as(End::Delivered, contact).await
    }

    async fn settle_as(self, end: End, contact: Contact) -> Report {
        at(Point::Settled, self.stored.ticket.acknowledge()).await;
        Report { sequence: self.sequence(), lane: self.lane, contact, end }
    }

    async fn retry_after(self, wait: Duration, contact: Contact) -> Report {
        at(Point::GivenBack, self.stored.ticket.retry_after(wait)).await;
        Report { sequence: self.sequence(), lane: self.lane, contact, end: End::Retry(wait) }
    }

    async fn come_again(self, contact: Contact) -> Report {
        at(Point::GivenBack, self.stored.ticket.retry_after(NOT_KEPT_WAIT)).await;
        Report { sequence: self.sequence(), lane: self.lane, contact, end: End::NotKept(NOT_KEPT_WAIT) }
    }
}

/// Delivers a stored event and settles it.
pub(super) async fn run(context: Context, work: Work, claim: Claim) -> Report {
    let mut slot = at(Point::SlotTaken, claim.slot()).await;
    let plan = &context.plan;
    let (sink, purpose) = match (&plan.subscriber, &plan.reply) {
        (Some(subscriber), _) => (subscriber, Purpose::Subscriber),
        // A subscription without subscriber sends its events straight to where replies would go.
        (None, Some(reply)) => (reply, Purpose::Reply),
        (None, None) => return work.settle(Contact::None).await,
    };
    let guarded = work.guarded(sink);
    let event = guarded.as_ref().unwrap_or(&work.stored.event);
    let request = request(&context, &work, purpose, event, &work.stored.pass_through);
    let (exchange, outcome) = at(Point::Attempted, context.trail.send(sink, work.attempt(), request)).await;
    slot.answered(exchange.took);
    match outcome {
        Outcome::Accepted(code, Answer::Reply(reply)) if plan.reply.is_some() => {
            context.trail.tell(&work, &exchange, Ok(code), trail::Next::Reply);
            Box::pin(answer(&context, work, *reply, &mut slot)).await
        }
        Outcome::Accepted(_, Answer::InvalidReply(failure)) => {
            let pass_through = work.stored.pass_through.clone();
            context.trail.tell(&work, &exchange, Err(&failure), after_all(&context));
            Box::pin(give_up(&context, work, sink, &failure, &pass_through, &mut slot)).await
        }
        Outcome::Accepted(_, Answer::OtherBody) if plan.consumer.of_broker => {
            let failure = Failure::answered(502, "the answer's body is no CloudEvent".into(), None);
            Box::pin(failed(&context, work, exchange, failure, &mut slot)).await
        }
        Outcome::Accepted(code, Answer::Nothing | Answer::OtherBody | Answer::Reply(_)) => {
            context.trail.tell(&work, &exchange, Ok(code), trail::Next::Settled);
            work.settle(Contact::Reached).await
        }
        Outcome::Failed(failure) => Box::pin(failed(&context, work, exchange, failure, &mut slot)).await,
    }
}

/// Sets a message aside that is no event.
pub(super) async fn set_aside(context: Context, poison: Poison) -> Report {
    let Surroundings { plan, shared, .. } = &*context;
    let sequence = poison.message.sequence;
    let (subscription, channel) = (&plan.subscription, &plan.consumer.channel);
    let end = match shared.dead_letters.set_aside(subscription, channel, &poison.message, &poison.reason).await {
        Ok(()) => {
            if let Some(count) = context.meter.poison.add() {
                tracing::error!(
                    subscription = %plan.subscription, stream = poison.message.stream, sequence, reason = poison.reason,
                    count, "messages are set aside: no event can be read from them"
                );
            }
            at(Point::PoisonSettled, poison.ticket.acknowledge()).await;
            End::SetAside
        }
        Err(error) => {
            if let Some(count) = context.meter.not_kept.add() {
                tracing::warn!(
                    subscription = %plan.subscription, stream = poison.message.stream, sequence, %error, count,
                    "messages that are no events could not be set aside yet"
                );
            }
            at(Point::PoisonGivenBack, poison.ticket.retry_after(NOT_KEPT_WAIT)).await;
            End::NotKept(NOT_KEPT_WAIT)
        }
    };
    Report { sequence, lane: None, contact: Contact::None, end }
}

/// What follows an attempt that failed: another one, or the end.
pub(super) async fn failed(
    context: &Context,
    work: Work,
    exchange: Exchange<'_>,
    failure: Failure,
    slot: &mut Slot,
) -> Report {
    let plan = &context.plan;
    context.book.failed(&work.stored.event, &failure);
    match policy::after_failure(&failure, work.attempt(), &plan.delivery, fastrand::f64()) {
        Next::RetryAfter(wait) => {
            context.trail.tell(&work, &exchange, Err(&failure), trail::Next::RetryAfter(wait));
            let event = &work.stored.event;
            tracing::debug!(
                subscription = %plan.subscription, id = event.id(), source = event.source(), code = failure.code,
                attempt = work.attempt(), wait_ms = wait.as_millis(), "attempt failed, retry is due"
            );
            let contact = Contact::of(&failure);
            work.retry_after(wait, contact).await
        }
        Next::GiveUp => {
            let pass_through = work.stored.pass_through.clone();
            context.trail.tell(&work, &exchange, Err(&failure), after_all(context));
            give_up(context, work, exchange.sink, &failure, &pass_through, slot).await
        }
    }
}

/// Sends an answer on to where replies go.
async fn answer(context: &Context, work: Work, reply: (Event, PassThrough), slot: &mut Slot) -> Report {
    let plan = &context.plan;
    let Some(sink) = &plan.reply else { return work.settle(Contact::Reached).await };
    let (mut event, pass_through) = reply;
    let pass_through = pass_through.with_trace_of(&work.stored.pass_through);
    if plan.consumer.of_broker || matches!(sink, Sink::Channel(_)) {
        work.guard(&mut event);
    }
    if !plan.consumer.of_broker {
        return match persist(context, &work, sink, Purpose::Reply, &event, &pass_through, slot).await {
            Ok(()) => work.settle(Contact::Reached).await,
            Err(failure) => {
                // The subscriber was reached; whether the reply's sink was, is not what its breaker asks.
                let failure = Failure { unreachable: false, ..failure };
                give_up(context, work, sink, &failure, &pass_through, slot).await
            }
        };
    }
    // In a broker, a reply that cannot be stored is a failed delivery: the subscriber is asked again (Knative's broker
    // specification), and the reply counts down what its event had left.
    let request = request(context, &work, Purpose::Reply, &event, &pass_through);
    let (exchange, outcome) = at(Point::BrokerReplySent, context.trail.send(sink, work.attempt(), request)).await;
    match outcome {
        Outcome::Accepted(code, _) => {
            context.trail.tell(&work, &exchange, Ok(code), trail::Next::Settled);
            work.settle(Contact::Reached).await
        }
        Outcome::Failed(failure) => {
            let failure = Failure { unreachable: false, ..failure };
            failed(context, work, exchange, failure, slot).await
        }
    }
}

/// The original event ends as a dead letter: at its sink, or kept.
async fn give_up(
    context: &Context,
    work: Work,
    failed: &Sink,
    failure: &Failure,
    pass_through: &PassThrough,
    slot: &mut Slot,
) -> Report {
    let plan = &context.plan;
    context.book.failed(&work.stored.event, failure);
    let contact = Contact::of(failure);
    let letter = dead_letter(&work, &failed.address(), failure);
    if let Some(sink) = &plan.dead_letter_sink {
        match persist(context, &work, sink, Purpose::DeadLetter, &letter, pass_through, slot).await {
            Ok(()) => return work.settle_as(End::DeadLetterSink(failure.code), contact).await,
            Err(refusal) => {
                if let Some(count) = context.meter.dead_letter_sink.add() {
                    tracing::warn!(
                        subscription = %plan.subscription, id = letter.id(), source = letter.source(),
                        sink = sink.shown_address(), code = refusal.code, count, "the dead letter sink failed, events are kept"
                    );
                }
            }
        }
    }
    match keep(context, &work, &letter, pass_through, slot).await {
        Ok(()) => {
            let event = &work.stored.event;
            if let Some(count) = context.meter.kept.add() {
                tracing::warn!(
                    subscription = %plan.subscription, id = event.id(), source = event.source(),
                    code = failure.code, count, "given up, events are kept in {}", dead_letter::STREAM
                );
            }
            work.settle_as(End::Kept(failure.code), contact).await
        }
        Err(error) => {
            let event = &work.stored.event;
            if let Some(count) = context.meter.not_kept.add() {
                tracing::warn!(
                    subscription = %plan.subscription, id = event.id(), source = event.source(),
                    %error, count, "dead letters could not be kept yet, their events come again"
                );
            }
            work.come_again(contact).await
        }
    }
}

/// Delivers within the subscription's retries, in memory. A crash on the way brings the whole event again.
async fn persist(
    context: &Context,
    work: &Work,
    sink: &Sink,
    purpose: Purpose,
    event: &Event,
    pass_through: &PassThrough,
    slot: &mut Slot,
) -> Result<(), Failure> {
    let plan = &context.plan;
    let (sent, waits) = match purpose {
        Purpose::DeadLetter => (Point::DeadLetterSent, Point::DeadLetterWaits),
        Purpose::Reply | Purpose::Subscriber => (Point::ReplySent, Point::ReplyWaits),
    };
    let mut attempt = 1;
    loop {
        let request = request(context, work, purpose, event, pass_through);
        let (exchange, outcome) = at(sent, context.trail.send(sink, attempt, request)).await;
        let failure = match outcome {
            Outcome::Accepted(code, _) => {
                context.trail.tell(work, &exchange, Ok(code), trail::Next::Settled);
                return Ok(());
            }
            Outcome::Failed(failure) => failure,
        };
        match policy::after_failure(&failure, attempt, &plan.delivery, fastrand::f64()) {
            Next::RetryAfter(wait) => {
                context.trail.tell(work, &exchange, Err(&failure), trail::Next::RetryAfter(wait));
                at(waits, slot.sleep(wait)).await;
            }
            Next::GiveUp => {
                let next = if purpose == Purpose::DeadLetter { trail::Next::Keep } else { after_all(context) };
                context.trail.tell(work, &exchange, Err(&failure), next);
                return Err(failure);
            }
        }
        attempt += 1;
    }
}

/// Where an event goes that is given up.
fn after_all(context: &Context) -> trail::Next {
    if context.plan.dead_letter_sink.is_some() { trail::Next::DeadLetterSink } else { trail::Next::Keep }
}

/// Keeps a dead letter in JetStream. While that fails, the subscriber is not asked again for an event that it has refused;
/// only after a good while the event goes back to JetStream.
async fn keep(
    context: &Context,
    work: &Work,
    letter: &Event,
    pass_through: &PassThrough,
    slot: &mut Slot,
) -> Result<(), PublishError> {
    let Surroundings { plan, shared, .. } = &**context;
    let provenance = Provenance {
        channel: &plan.consumer.channel,
        delivered: work.delivered_from(&plan.consumer.stream),
        origin: work.origin(&plan.consumer.stream),
    };
    let mut tries = 1;
    loop {
        match shared.dead_letters.keep(&plan.subscription, provenance, letter, pass_through).await {
            Err(_) if tries < KEEP_TRIES => at(Point::KeepWaits, slot.sleep(NOT_KEPT_WAIT)).await,
            kept => return kept,
        }
        tries += 1;
    }
}

/// The original with Knative's error attributes, the newest failure in place of older ones. It keeps its loop guard: a dead
/// letter sink may be a broker.
fn dead_letter(work: &Work, destination: &str, failure: &Failure) -> Event {
    let mut letter = work.stored.event.clone();
    letter.remove_extension("knativeerrordata");
    let attributes = [
        ("knativeerrordest", Some(destination.to_owned())),
        ("knativeerrorcode", Some(failure.code.to_string())),
        ("knativeerrordata", Some(STANDARD.encode(&failure.body))),
        (broker::TTL, work.stored.ttl.clone()),
    ];
    for (name, value) in attributes {
        if let Some(value) = value
            && let Err(error) = letter.set_extension(name, &value)
        {
            tracing::warn!(%error, id = letter.id(), source = letter.source(), "a dead letter goes without {name}");
        }
    }
    letter
}

fn request<'a>(
    context: &'a Context,
    work: &Work,
    purpose: Purpose,
    event: &'a Event,
    pass_through: &'a PassThrough,
) -> Request<'a> {
    let plan = &context.plan;
    let (stream, sequence) = work.delivered_from(&plan.consumer.stream);
    Request {
        event,
        pass_through,
        purpose,
        delivery: DeliveryId { stream, consumer: &plan.consumer.name, sequence },
        namespace: plan.subscription.namespace(),
        format: plan.delivery.format,
        timeout: plan.timeout(),
    }
}

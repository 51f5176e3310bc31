//! One event from its pull to its settlement. Whatever path it takes, the acknowledgement is the last step.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;

use super::Context;
use super::policy::{self, Next};
use super::slots::Slot;
use crate::channel::dead_letter::Provenance;
use crate::channel::{Poison, PublishError, Stored};
use crate::event::{Event, PassThrough};
use crate::sink::{Answer, Failure, Outcome, Purpose, Request, Sink};

/// How long an event waits to be tried again when its dead letter could not even be kept.
const NOT_KEPT_WAIT: Duration = Duration::from_secs(2);

/// Delivers a stored event and settles it.
pub(super) async fn run(context: Context, stored: Stored, slots: Arc<Semaphore>) {
    let mut slot = Slot::take(slots).await;
    let (plan, _) = &*context;
    let (sink, purpose) = match (&plan.subscriber, &plan.reply) {
        (Some(subscriber), _) => (subscriber, Purpose::Subscriber),
        // A subscription without subscriber sends its events straight to where replies would go.
        (None, Some(reply)) => (reply, Purpose::Reply),
        (None, None) => return stored.ticket.acknowledge().await,
    };
    let outcome = sink.deliver(request(&context, purpose, &stored.event, &stored.pass_through)).await;
    match outcome {
        Outcome::Accepted(Answer::Nothing | Answer::OtherBody) => stored.ticket.acknowledge().await,
        Outcome::Accepted(Answer::Reply(reply)) => send_reply(&context, &stored, *reply, &mut slot).await,
        Outcome::Accepted(Answer::InvalidReply(failure)) => {
            give_up(&context, &stored, sink, &failure, &stored.pass_through, &mut slot).await;
        }
        Outcome::Failed(failure) => {
            let attempt = stored.ticket.place().delivered;
            match policy::after_failure(&failure, attempt, &plan.delivery, fastrand::f64()) {
                Next::RetryAfter(wait) => {
                    tracing::debug!(
                        subscription = %plan.subscription, id = stored.event.id(), source = stored.event.source(),
                        code = failure.code, attempt, wait_ms = wait.as_millis(), "attempt failed, retry is due"
                    );
                    stored.ticket.retry_after(wait).await;
                }
                Next::GiveUp => give_up(&context, &stored, sink, &failure, &stored.pass_through, &mut slot).await,
            }
        }
    }
}

/// Sets a message aside that is no event.
pub(super) async fn set_aside(context: Context, poison: Poison) {
    let (plan, shared) = &*context;
    match shared.dead_letters.set_aside(&plan.subscription, &poison.message, &poison.reason).await {
        Ok(()) => {
            tracing::error!(
                subscription = %plan.subscription, stream = poison.message.stream, sequence = poison.message.sequence,
                reason = poison.reason, "message set aside: it claims to be a CloudEvent and is not valid"
            );
            poison.ticket.acknowledge().await;
        }
        Err(error) => {
            tracing::warn!(subscription = %plan.subscription, %error, "a poison message could not be set aside yet");
            poison.ticket.retry_after(NOT_KEPT_WAIT).await;
        }
    }
}

async fn send_reply(context: &Context, stored: &Stored, reply: (Event, PassThrough), slot: &mut Slot) {
    let (plan, _) = &**context;
    let Some(sink) = &plan.reply else { return stored.ticket.acknowledge().await };
    let (event, pass_through) = reply;
    let pass_through = pass_through.with_trace_of(&stored.pass_through);
    match persist(context, sink, Purpose::Reply, &event, &pass_through, slot).await {
        Ok(()) => stored.ticket.acknowledge().await,
        Err(failure) => give_up(context, stored, sink, &failure, &pass_through, slot).await,
    }
}

/// The original event ends as a dead letter: at its sink, or kept.
async fn give_up(
    context: &Context,
    stored: &Stored,
    failed: &Sink,
    failure: &Failure,
    pass_through: &PassThrough,
    slot: &mut Slot,
) {
    let (plan, _) = &**context;
    let letter = dead_letter(&stored.event, &failed.address(), failure);
    if let Some(sink) = &plan.dead_letter_sink {
        match persist(context, sink, Purpose::DeadLetter, &letter, pass_through, slot).await {
            Ok(()) => return stored.ticket.acknowledge().await,
            Err(refusal) => tracing::warn!(
                subscription = %plan.subscription, id = letter.id(), source = letter.source(),
                sink = sink.address(), code = refusal.code, "the dead letter sink failed, the event is kept"
            ),
        }
    }
    match keep(context, stored, letter, pass_through).await {
        Ok(()) => stored.ticket.acknowledge().await,
        Err(error) => {
            tracing::warn!(
                subscription = %plan.subscription, id = stored.event.id(), source = stored.event.source(),
                %error, "a dead letter could not be kept yet, its event comes again"
            );
            stored.ticket.retry_after(NOT_KEPT_WAIT).await;
        }
    }
}

/// Delivers within the subscription's retries, in memory. A crash on the way brings the whole event again.
async fn persist(
    context: &Context,
    sink: &Sink,
    purpose: Purpose,
    event: &Event,
    pass_through: &PassThrough,
    slot: &mut Slot,
) -> Result<(), Failure> {
    let (plan, _) = &**context;
    let mut attempt = 1;
    loop {
        let failure = match sink.deliver(request(context, purpose, event, pass_through)).await {
            Outcome::Accepted(_) => return Ok(()),
            Outcome::Failed(failure) => failure,
        };
        match policy::after_failure(&failure, attempt, &plan.delivery, fastrand::f64()) {
            Next::RetryAfter(wait) => slot.sleep(wait).await,
            Next::GiveUp => return Err(failure),
        }
        attempt += 1;
    }
}

/// Keeps a dead letter in JetStream. The attributes that tell of the failure go where they leave no room for the event.
async fn keep(
    context: &Context,
    stored: &Stored,
    mut letter: Event,
    pass_through: &PassThrough,
) -> Result<(), PublishError> {
    let (plan, shared) = &**context;
    let provenance = Provenance { stream: &plan.consumer.stream, sequence: stored.ticket.place().stream_sequence };
    for dispensable in ["knativeerrordata", "knativeerrordest", "knativeerrorcode"] {
        match shared.dead_letters.keep(&plan.subscription, provenance, &letter, pass_through).await {
            Err(PublishError::TooLarge(_)) => letter.remove_extension(dispensable),
            kept => return kept,
        }
    }
    shared.dead_letters.keep(&plan.subscription, provenance, &stored.event, &stored.pass_through).await
}

/// The original with Knative's error attributes, newest failure first.
fn dead_letter(event: &Event, destination: &str, failure: &Failure) -> Event {
    let mut letter = event.clone();
    letter.remove_extension("knativeerrordata");
    let attributes = [
        ("knativeerrordest", destination.to_owned()),
        ("knativeerrorcode", failure.code.to_string()),
        ("knativeerrordata", STANDARD.encode(&failure.body)),
    ];
    for (name, value) in attributes {
        if let Err(error) = letter.set_extension(name, &value) {
            tracing::warn!(%error, id = event.id(), source = event.source(), "a dead letter goes without {name}");
        }
    }
    letter
}

fn request<'a>(context: &'a Context, purpose: Purpose, event: &'a Event, pass_through: &'a PassThrough) -> Request<'a> {
    let (plan, _) = &**context;
    Request {
        event,
        pass_through,
        purpose,
        namespace: plan.subscription.namespace(),
        format: plan.delivery.format,
        timeout: plan.delivery.timeout.unwrap_or(plan.request_timeout),
    }
}

//! Kept dead letters that an operator wants delivered again, to the one subscription that they are of.
//!
//! A bridge that delivers a subscription is asked over NATS, letter by letter. It reads the letter where it is kept, delivers the
//! event through the same code as any other, and takes the kept letter away last, when what became of the event is durable:
//!
//! ```text
//!   asked ─▶ read ─▶ attempt ──┬─ delivered, its reply too ───┐
//!             ▲                ├─ dead letter sink took it ───┼─▶ old copy deleted ─▶ answered
//!             │                ├─ kept anew, PubAck ──────────┘
//!             └── the wait ────┴─ failed, retries left
//! ```
//!
//! Whatever ends on the way leaves the old copy where it is. Retries are counted and timed in memory.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::{self, End, Report, Work};
use super::desk::Desk;
use super::slots::Slots;
use super::{Context, Surroundings, batch};
use crate::channel::kept::{self, Content, LetterId};
use crate::channel::{ApiError, Call, name};
use crate::fault_point::{Point, at};
use crate::resource::Ordering;

/// Letters of one subscription that one bridge has at work; whoever asks for more is told to come again.
pub const MAX_AT_WORK: usize = 16;
/// How often whoever asked hears that the letter is still at work: retries may take minutes.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// Of several bridges that deliver a subscription, one gets each question.
const GROUP: &str = "knats";
/// How often, and after which wait, the old copy is tried to be deleted once its event is safe.
const DELETE_TRIES: u32 = 5;
const DELETE_WAIT: Duration = Duration::from_millis(500);

/// Asks for one letter to be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub letter: LetterId,
}

/// What becomes of it; [`Answer::Working`] any number of times, then one of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Answer {
    Working,
    /// This bridge has enough at work, or this very letter, or it ends what it is at because the subscription has changed or its own
    /// end has come. Whoever asks again later is answered by who delivers the subscription then.
    Busy,
    Delivered,
    /// The delivery failed with this code and the dead letter sink has the event now.
    DeadLetterSink {
        code: u16,
    },
    /// The delivery failed with this code, and a new kept copy tells of it.
    Kept {
        code: u16,
    },
    /// It is no longer kept there, or another letter is.
    Gone,
    /// It is no event.
    Poison {
        reason: String,
    },
    /// Why it could not be tried, or not to its end. The letter is still kept as it was.
    Untried {
        reason: String,
    },
    /// The event is safe, but its old kept copy could not be deleted.
    NotDeleted {
        reason: String,
    },
}

/// Redrives the letters of one subscription.
pub(super) struct Redriver {
    deliverer: Arc<Deliverer>,
    at_work: JoinSet<()>,
    sequences: Arc<Mutex<HashSet<u64>>>,
}

/// How one letter is delivered.
struct Deliverer {
    context: Context,
    /// Shared with the events that come from the channel.
    slots: Slots,
    /// One at a time where the subscription is ordered.
    turns: Semaphore,
    gathers: bool,
}

impl Redriver {
    pub(super) fn new(context: &Context, desk: &Desk) -> Self {
        let turns = if context.plan.controls.ordering == Ordering::None { MAX_AT_WORK } else { 1 };
        let deliverer = Deliverer {
            context: Arc::clone(context),
            slots: desk.slots(),
            turns: Semaphore::new(turns),
            gathers: desk.gathers(),
        };
        Self { deliverer: Arc::new(deliverer), at_work: JoinSet::new(), sequences: Arc::default() }
    }

    /// Delivers one letter, for whoever cannot ask over NATS.
    #[cfg(test)]
    pub(super) fn deliver(
        &self,
        letter: LetterId,
        stop: CancellationToken,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let deliverer = Arc::clone(&self.deliverer);
        async move { deliverer.deliver(letter, &stop).await }
    }

    /// Answers until `stop`, then lets the deliveries at work finish until `deadline`. What is left then stays kept.
    pub(super) async fn run(mut self, stop: CancellationToken, deadline: CancellationToken) {
        let plan = &self.deliverer.context.plan;
        let subject = name::redrive_subject(&plan.subscription);
        let Ok(mut calls) = self.deliverer.context.shared.control.listen(&subject, Some(GROUP)).await else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = self.at_work.join_next() => {}
                call = calls.next() => match call {
                    Some(call) => Box::pin(self.take(call, &stop)).await,
                    None => break,
                },
            }
        }
        // Whoever asks from now on is to be answered by another bridge.
        drop(calls);
        tokio::select! {
            () = deadline.cancelled() => {}
            () = async { while self.at_work.join_next().await.is_some() {} } => {}
        }
    }

    async fn take(&mut self, call: Call, stop: &CancellationToken) {
        let question = match serde_json::from_slice::<Question>(&call.payload) {
            Ok(question) => question,
            Err(error) => {
                let reason = format!("the question is not understood, versions may differ: {error}");
                let untried = Answer::Untried { reason };
                return answer(&call, &untried).await;
            }
        };
        let Some(claim) = Claim::of(&self.sequences, question.letter.sequence) else {
            return answer(&call, &Answer::Busy).await;
        };
        let (deliverer, stop) = (Arc::clone(&self.deliverer), stop.clone());
        self.at_work.spawn(async move {
            let _claim = claim;
            let mut delivery = Box::pin(deliverer.deliver(question.letter, &stop));
            let mut signs = tokio::time::interval(SIGN_OF_LIFE);
            loop {
                tokio::select! {
                    became = &mut delivery => return at(Point::RedriveAnswered, answer(&call, &became)).await,
                    _ = signs.tick() => answer(&call, &Answer::Working).await,
                }
            }
        });
    }
}

impl Deliverer {
    async fn deliver(&self, letter: LetterId, stop: &CancellationToken) -> Answer {
        let Surroundings { plan, shared, .. } = &*self.context;
        let _turn = tokio::select! {
            biased;
            // The semaphore is never closed.
            turn = self.turns.acquire() => turn.ok(),
            () = stop.cancelled() => return Answer::Busy,
        };
        for attempt in 1.. {
            // Anew each time: somebody may have taken it away meanwhile.
            let found = match at(Point::LetterRead, kept::letter(&shared.api, letter.sequence)).await {
                Ok(found) => found.filter(|found| found.place == letter && found.is_of(&plan.subscription)),
                Err(error) => return Answer::Untried { reason: format!("it cannot be read: {error}") },
            };
            let Some(found) = found else { return Answer::Gone };
            let event = match found.content {
                Content::Event(event) => event,
                Content::Poison(reason) => return Answer::Poison { reason },
            };
            let stored = event.into_stored(letter, attempt, plan.consumer.of_broker);
            let report = self.attempt(Work::redriven(Box::new(stored), found.origin)).await;
            let became = match report.end {
                End::Retry(wait) => {
                    tokio::select! {
                        biased;
                        () = at(Point::RedriveWaits, tokio::time::sleep(wait)) => continue,
                        () = stop.cancelled() => return Answer::Busy,
                    }
                }
                End::Delivered => Answer::Delivered,
                End::DeadLetterSink(code) => Answer::DeadLetterSink { code },
                End::Kept(code) => Answer::Kept { code },
                End::NotKept(_) => {
                    let reason = "it failed again, and its newest failure could not be kept".to_owned();
                    return Answer::Untried { reason };
                }
                End::SetAside | End::Lost => {
                    return Answer::Untried { reason: "nobody knows what became of it".to_owned() };
                }
            };
            return match self.delete(letter).await {
                Ok(()) => became,
                Err(error) => Answer::NotDeleted { reason: error.to_string() },
            };
        }
        Answer::Busy
    }

    /// One delivery, as the subscription asks for it.
    async fn attempt(&self, work: Work) -> Report {
        let (context, _freed, claim) = (Arc::clone(&self.context), self.slots.tell_when_freed(), self.slots.claim());
        let sequence = work.sequence();
        if !self.gathers {
            return attempt::run(context, work, claim).await;
        }
        let reports = batch::run(context, smallvec![work], claim).await;
        reports.into_iter().next().unwrap_or_else(|| Report::lost(sequence, None))
    }

    /// The event is safe elsewhere: its old copy goes.
    async fn delete(&self, letter: LetterId) -> Result<(), ApiError> {
        let mut tries = 1;
        loop {
            match at(Point::LetterDeleted, kept::remove(&self.context.shared.api, letter)).await {
                Err(_) if tries < DELETE_TRIES => tokio::time::sleep(DELETE_WAIT).await,
                removed => return removed,
            }
            tries += 1;
        }
    }
}

/// A letter that is at work here and nowhere else in this process.
struct Claim {
    sequences: Arc<Mutex<HashSet<u64>>>,
    sequence: u64,
}

impl Claim {
    /// `None` when the letter is at work already, or enough others are.
    fn of(sequences: &Arc<Mutex<HashSet<u64>>>, sequence: u64) -> Option<Self> {
        let mut claimed = sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = claimed.len() < MAX_AT_WORK && claimed.insert(sequence);
        is_ours.then(|| Self { sequences: Arc::clone(sequences), sequence })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.sequence);
    }
}

async fn answer(call: &Call, answer: &Answer) {
    // An answer always serializes.
    call.answer(serde_json::to_vec(answer).unwrap_or_default()).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_letter_is_claimed_once_and_claims_are_bounded() {
        let sequences = Arc::default();
        let first = Claim::of(&sequences, 1).unwrap();
        assert!(Claim::of(&sequences, 1).is_none());
        let others: Vec<Claim> = (2..).map_while(|sequence| Claim::of(&sequences, sequence)).collect();
        assert_eq!(others.len(), MAX_AT_WORK - 1);
        drop(first);
        assert!(Claim::of(&sequences, 1).is_some());
    }

    #[test]
    fn answers_have_one_form_on_the_wire() {
        let wire = |answer: &Answer| serde_json::to_string(answer).unwrap();
        assert_eq!(wire(&Answer::Delivered), r#"{"state":"delivered"}"#);
        assert_eq!(wire(&Answer::Kept { code: 503 }), r#"{"state":"kept","code":503}"#);
        let read: Answer = serde_json::from_str(r#"{"state":"dead_letter_sink","code":400}"#).unwrap();
        assert_eq!(read, Answer::DeadLetterSink { code: 400 });
    }
}

//! Sends kept dead letters to their subscription again, through the bridges that deliver it. Safe to stop and to repeat: a
//! letter leaves the stream only when what became of its event is durable.

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::dead_letters::{Found, Query};
use super::{Error, Manager};
use crate::channel::kept::LetterId;
use crate::channel::{CallError, name};
use crate::dispatch::redrive::{Answer, MAX_AT_WORK, Question, SIGN_OF_LIFE};
use crate::resource::Key;

/// Without a word for so long, the bridge is gone or cut off.
const SILENCE: Duration = Duration::from_secs(5 * SIGN_OF_LIFE.as_secs());
/// How long to wait before a busy bridge is asked again, and for how long in all.
const BUSY_WAIT: Duration = Duration::from_millis(250);
const BUSY_PATIENCE: Duration = Duration::from_secs(600);
/// What letters at work have to come to their end after the redrive was stopped.
const LAST_CALL: Duration = Duration::from_secs(5);
/// Reasons that a summary names.
const MAX_REASONS: usize = 5;
/// Starts that are late by more than this are not made up for: a rate has no bursts.
const MAX_LATE: Duration = Duration::from_millis(100);

/// What came of a redrive so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[schema(as = RedriveSummary)]
pub struct Summary {
    pub subscription: String,
    /// Events that were to be redriven when it began.
    pub matched: u64,
    pub delivered: u64,
    /// Failed again and taken by the dead letter sink.
    pub dead_letter_sink: u64,
    /// Failed again and kept again.
    pub kept: u64,
    /// No longer kept when their turn came.
    pub gone: u64,
    /// Not tried to their end; `reasons` tells why. They are still kept, unless it says otherwise.
    pub failed: u64,
    /// Not tried at all.
    pub left: u64,
    /// Messages that are no events; they cannot be redriven and stay kept.
    pub poison: u64,
    /// Whether somebody stopped it.
    pub interrupted: bool,
    pub reasons: Vec<String>,
}

impl Summary {
    /// Before anything was done.
    pub fn of(subscription: &Key) -> Self {
        Self { subscription: subscription.to_string(), ..Self::default() }
    }

    /// Whether every event was delivered, or was gone already.
    pub fn is_all_well(&self) -> bool {
        self.dead_letter_sink + self.kept + self.failed + self.left == 0
    }

    /// Events whose redrive has come to its end.
    pub fn done(&self) -> u64 {
        self.delivered + self.dead_letter_sink + self.kept + self.gone + self.failed
    }

    fn add(&mut self, answer: Answer) {
        let counter = match answer {
            // Neither is an end.
            Answer::Working | Answer::Busy => return,
            Answer::Delivered => &mut self.delivered,
            Answer::DeadLetterSink { .. } => &mut self.dead_letter_sink,
            Answer::Kept { .. } => &mut self.kept,
            Answer::Gone => &mut self.gone,
            Answer::Poison { .. } => &mut self.poison,
            Answer::Untried { reason } => return self.fail(reason),
            Answer::NotDeleted { reason } => {
                return self.fail(format!("an event is safe, but its kept copy could not be deleted: {reason}"));
            }
        };
        *counter += 1;
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

impl Manager {
    /// Redrives what a query finds of one subscription, at most `rate` letters a second, and tells after each. When `stop` is
    /// cancelled nothing more is sent, and what is at work has a moment to end.
    ///
    /// # Errors
    /// With what came of it until then: when nobody delivers that subscription, or JetStream says no.
    pub async fn redrive(
        &self,
        subscription: &Key,
        query: &Query,
        rate: Option<NonZeroU32>,
        stop: &CancellationToken,
        mut tell: impl FnMut(&Summary),
    ) -> (Summary, Result<(), Error>) {
        let query = Query { subscription: Some(subscription.clone()), ..query.clone() };
        let mut summary = Summary::of(subscription);
        let found = match self.start(&query, &mut summary).await {
            Ok(found) => found,
            Err(error) => return (summary, Err(error)),
        };
        let result = self.send_all(subscription, found, Pace::new(rate), stop, &mut summary, &mut tell).await;
        summary.interrupted = stop.is_cancelled();
        let unseen = summary.matched.saturating_sub(summary.done());
        // Counted first, and no longer there when it was looked for again.
        let counter = if result.is_ok() && !summary.interrupted { &mut summary.gone } else { &mut summary.left };
        *counter += unseen;
        (summary, result)
    }

    async fn start(&self, query: &Query, summary: &mut Summary) -> Result<Found, Error> {
        let count = self.count_dead_letters(query).await?;
        (summary.matched, summary.poison) = (count.events, count.poison);
        self.dead_letters(query).await
    }

    async fn send_all(
        &self,
        subscription: &Key,
        found: Found,
        pace: Pace,
        stop: &CancellationToken,
        summary: &mut Summary,
        tell: &mut impl FnMut(&Summary),
    ) -> Result<(), Error> {
        let letters = stream::unfold((found, pace), |(mut found, mut pace)| async move {
            let place = loop {
                match found.next().await.transpose()? {
                    Ok(letter) if letter.event().is_none() => {}
                    found => break found.map(|letter| letter.place),
                }
            };
            pace.wait().await;
            Some((place, (found, pace)))
        });
        let sent = letters
            .take_until(stop.cancelled())
            .map(|place| async move { self.send(subscription, place?, stop).await })
            .buffer_unordered(MAX_AT_WORK);
        let mut sent = std::pin::pin!(sent);
        let last_call = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_CALL).await;
        };
        let mut last_call = std::pin::pin!(last_call);
        loop {
            tokio::select! {
                answer = sent.next() => match answer {
                    Some(answer) => {
                        if let Some(answer) = answer? {
                            summary.add(answer);
                            tell(summary);
                        }
                    }
                    None => return Ok(()),
                },
                () = &mut last_call => return Ok(()),
            }
        }
    }

    /// One letter; `None` when it was stopped before a bridge took it on.
    async fn send(
        &self,
        subscription: &Key,
        letter: LetterId,
        stop: &CancellationToken,
    ) -> Result<Option<Answer>, Error> {
        let subject = name::redrive_subject(subscription);
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            // A question always serializes.
            let question = serde_json::to_vec(&Question { letter }).unwrap_or_default();
            match self.ask(&subject, question).await {
                Ok(Answer::Busy) if Instant::now() < deadline => {
                    tokio::select! {
                        () = tokio::time::sleep(BUSY_WAIT) => {}
                        () = stop.cancelled() => return Ok(None),
                    }
                }
                Ok(Answer::Busy) => {
                    return Ok(Some(Answer::Untried { reason: "the bridge is busy with other redrives".to_owned() }));
                }
                Ok(answer) => return Ok(Some(answer)),
                Err(CallError::NobodyThere(_)) => return Err(nobody(subscription)),
                Err(CallError::NoAnswer { .. }) => {
                    let reason = "the bridge fell silent, so it is not known what became of an event; repeat it";
                    return Ok(Some(Answer::Untried { reason: reason.to_owned() }));
                }
                Err(cause) => return Err(Error::Call { doing: format!("cannot redrive {subscription}"), cause }),
            }
        }
    }

    /// Asks, and waits until it is not at work any more.
    async fn ask(&self, subject: &str, question: Vec<u8>) -> Result<Answer, CallError> {
        let mut answers = self.connection.converse(subject, question).await?;
        loop {
            let answer = answers.next(SILENCE).await?;
            match serde_json::from_slice(&answer) {
                Ok(Answer::Working) => {}
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let reason = format!("the bridge's answer is not understood, versions may differ: {error}");
                    return Ok(Answer::Untried { reason });
                }
            }
        }
    }
}

fn nobody(subscription: &Key) -> Error {
    Error::Refused(format!(
        "no bridge delivers {subscription} right now. Start one with its manifests (`knats serve -f PATH`; a paused subscription \
         is not delivered), then repeat this command. Nothing is lost: what was not delivered is still kept"
    ))
}

/// Spreads starts evenly.
struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        let every = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { every, next: Instant::now() }
    }

    async fn wait(&mut self) {
        if !self.every.is_zero() {
            tokio::time::sleep_until(self.take(Instant::now())).await;
        }
    }

    /// When the next one is due.
    fn take(&mut self, now: Instant) -> Instant {
        let due = self.next.max(now.checked_sub(MAX_LATE).unwrap_or(now));
        self.next = due + self.every;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_spread_evenly_and_lateness_is_not_made_up_for() {
        let mut pace = Pace::new(NonZeroU32::new(10));
        let begun = pace.next;
        let due: Vec<Duration> = (0..4).map(|_| pace.take(begun) - begun).collect();
        assert_eq!(due, [0, 100, 200, 300].map(Duration::from_millis));
        let late = begun + Duration::from_secs(60);
        let due: Vec<Duration> = (0..3).map(|_| pace.take(late) + MAX_LATE - late).collect();
        assert_eq!(due, [0, 100, 200].map(Duration::from_millis));
    }
}

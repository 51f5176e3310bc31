//! Pausing and resuming subscriptions, and moving them back to events that they have had.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Error, Manager, while_doing};
use crate::channel::inventory::{self, ConsumerFacts, Pause};
use crate::channel::steer::Start;
use crate::resource::Key;

/// The pause of an ordered subscription while it is moved ends by itself after this, whatever becomes of us.
const MOVING: Duration = Duration::from_secs(60);
/// How long the events that are under way then have to come to their end, and how often we look.
const SETTLING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// A subscription that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Paused {
    /// `NAMESPACE/NAME`.
    pub subscription: String,
    /// Null when it has no end.
    pub until: Option<Timestamp>,
}

/// A replay that can be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Replay {
    /// `NAMESPACE/NAME`.
    pub subscription: String,
    pub stream: String,
    pub consumer: String,
    /// The sequence of the stream that it begins with.
    pub from_sequence: u64,
    /// All events that are delivered from there on.
    pub events: u64,
    /// How many of them are delivered once more; the others have not been delivered yet.
    pub redelivered: u64,
    /// They come only when it is resumed.
    pub paused: bool,
    #[serde(skip)]
    ordered: bool,
}

impl Manager {
    /// Holds a subscription back, for all bridges. What is in flight comes to its end.
    ///
    /// # Errors
    /// When there is no such subscription, its annotation has paused it already, or NATS is older than 2.11.
    pub async fn pause(&self, key: &Key, length: Option<Duration>) -> Result<Paused, Error> {
        self.knows_pauses()?;
        let until = length.map(|length| Timestamp::now().checked_add(length)).transpose();
        let until = until.map_err(|_| Error::Refused("that is longer than there are dates".to_owned()))?;
        let (consumer, _) = self.consumer_of(key).await?;
        if consumer.pause == Some(Pause::ByAnnotation) {
            return Err(Error::Refused(format!(
                "subscription {key} is paused by its annotation knats.dev/paused already"
            )));
        }
        consumer.pause(&self.api, until).await.map_err(while_doing(format!("cannot pause subscription {key}")))?;
        Ok(Paused { subscription: key.to_string(), until })
    }

    /// Lets a subscription go on. False when it was not paused.
    ///
    /// # Errors
    /// When there is no such subscription, its annotation pauses it, or NATS is older than 2.11.
    pub async fn resume(&self, key: &Key) -> Result<bool, Error> {
        self.knows_pauses()?;
        let (consumer, _) = self.consumer_of(key).await?;
        match consumer.pause {
            None => Ok(false),
            Some(Pause::ByAnnotation) => Err(Error::Refused(format!(
                "subscription {key} is paused by its annotation knats.dev/paused; its manifest decides, set it to \"false\" there"
            ))),
            Some(Pause::ByOperator(_)) => {
                consumer.resume(&self.api).await.map_err(while_doing(format!("cannot resume subscription {key}")))?;
                Ok(true)
            }
        }
    }

    fn knows_pauses(&self) -> Result<(), Error> {
        if self.api.knows(2, 11) {
            Ok(())
        } else {
            Err(Error::TooOld { what: "pausing a subscription", version: "2.11" })
        }
    }

    /// Finds out what a replay from `start` would deliver.
    ///
    /// # Errors
    /// When there is no such subscription, something that is not settled lies before `start` and would be lost, or NATS is older
    /// than 2.14.
    pub async fn plan_replay(&self, key: &Key, start: Start) -> Result<Replay, Error> {
        if !self.api.knows(2, 14) {
            return Err(Error::TooOld { what: "a replay", version: "2.14" });
        }
        let start = match start {
            Start::Time(time) if time > Timestamp::now() => {
                return Err(Error::Refused(format!(
                    "{time} is still to come; a replay begins with what was stored before"
                )));
            }
            // nats-server reckons in nanoseconds that do not reach back much further.
            Start::Time(time) => Start::Time(time.max(Timestamp::UNIX_EPOCH)),
            Start::Sequence(_) => start,
        };
        let (consumer, streams) = self.consumer_of(key).await?;
        if let Some(stream) =
            streams.iter().find(|stream| stream.name == consumer.stream && stream.retention != "limits")
        {
            return Err(Error::Refused(format!(
                "stream {} keeps nothing that was settled (retention {}), so there is nothing to replay",
                stream.name, stream.retention
            )));
        }
        let counting = || while_doing(format!("cannot count the events of subscription {key}"));
        let stretch = consumer.stretch(&self.api, start).await.map_err(counting())?;
        let first_unsettled = consumer.settled_to + 1;
        if consumer.lag() > 0 && stretch.sequence > first_unsettled {
            let all = consumer.stretch(&self.api, Start::Sequence(first_unsettled)).await.map_err(counting())?;
            if all.events > stretch.events {
                return Err(Error::Refused(format!(
                    "not all events before sequence {} are settled, and a replay from there would lose them; replay from \
                     sequence {} or earlier (--from seq:{})",
                    stretch.sequence, all.sequence, all.sequence
                )));
            }
        }
        Ok(Replay {
            subscription: key.to_string(),
            from_sequence: stretch.sequence,
            events: stretch.events,
            redelivered: stretch.events.saturating_sub(consumer.undelivered),
            paused: consumer.pause.is_some(),
            ordered: consumer.ordering.is_some(),
            stream: consumer.stream,
            consumer: consumer.name,
        })
    }

    /// Carries a replay out. An ordered subscription is moved while nothing of it is under way, so that what comes again does not
    /// meet what came before.
    ///
    /// # Errors
    /// When JetStream says no, or an ordered subscription has events that do not come to their end.
    pub async fn replay(&self, replay: &Replay) -> Result<(), Error> {
        let doing = || while_doing(format!("cannot replay subscription {}", replay.subscription));
        let found = inventory::consumer(&self.api, &replay.stream, &replay.consumer).await.map_err(doing())?;
        let consumer = found.ok_or_else(|| Error::NotFound(format!("consumer {} is gone", replay.consumer)))?;
        if !replay.ordered {
            return consumer.move_to(&self.api, replay.from_sequence).await.map_err(doing());
        }
        if consumer.pause.is_some() {
            self.settled(&consumer, replay).await?;
            return consumer.move_to(&self.api, replay.from_sequence).await.map_err(doing());
        }
        let until = Timestamp::now().checked_add(MOVING).ok();
        consumer.pause(&self.api, until).await.map_err(doing())?;
        let moved = match self.settled(&consumer, replay).await {
            Ok(()) => consumer.move_to(&self.api, replay.from_sequence).await.map_err(doing()),
            Err(error) => Err(error),
        };
        consumer.resume(&self.api).await.map_err(doing())?;
        moved
    }

    /// Waits until nothing of a paused consumer is under way.
    async fn settled(&self, consumer: &ConsumerFacts, replay: &Replay) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + SETTLING;
        loop {
            let now = inventory::consumer(&self.api, &consumer.stream, &consumer.name).await;
            let unsettled = match now.map_err(while_doing("cannot see what is under way"))? {
                None | Some(ConsumerFacts { unsettled: 0, .. }) => return Ok(()),
                Some(now) => now.unsettled,
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Refused(format!(
                    "subscription {} is ordered, and {unsettled} of its events are under way or wait for a retry; it is moved \
                     back only when there are none, so that its order holds: try again when they are settled",
                    replay.subscription
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Reads a time (RFC 3339), a duration ago, or a sequence.
///
/// # Errors
/// Says what was expected.
pub fn start(text: &str) -> Result<Start, String> {
    let expected =
        "expected a time such as 2026-11-21T10:00:00Z, how long ago such as 2h, or a sequence from 1 such as seq:123";
    let number = text.strip_prefix("seq:").unwrap_or(text);
    if text.starts_with("seq:") || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) {
        let sequence = number.parse().ok().filter(|sequence| *sequence > 0);
        return sequence.map(Start::Sequence).ok_or_else(|| expected.to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Start::Time(time));
    }
    let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
    let ago = ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    ago.map(Start::Time).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_start_is_a_time_a_while_ago_or_a_sequence() {
        assert_eq!(start("seq:123"), Ok(Start::Sequence(123)));
        assert_eq!(start("123"), Ok(Start::Sequence(123)));
        assert_eq!(start("18446744073709551615"), Ok(Start::Sequence(u64::MAX)));
        assert_eq!(start("2026-11-21T10:00:00Z"), Ok(Start::Time("2026-11-21T10:00:00Z".parse().unwrap())));
        let Ok(Start::Time(time)) = start("2h") else { panic!("no time") };
        assert_eq!(Timestamp::now().duration_since(time).as_secs() / 60, 120);
        for wrong in
            ["", "0", "seq:", "seq:0", "seq:x", "-1", "18446744073709551616", "yesterday", "99999999999h", "2026-11-21"]
        {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}

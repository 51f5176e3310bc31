//! What bridges say of their subscriptions when they are asked over NATS: the little that JetStream does not know.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Error, Manager};
use crate::channel::CallError;
use crate::dispatch::{LastError, State};
use crate::resource::Key;

/// Where bridges listen for the question. Its payload is a [`Question`].
pub const STATUS: &str = "knats.bridge.status";
/// How long answers are waited for. Bridges answer from memory.
const ANSWERS: Duration = Duration::from_millis(300);
/// Subscriptions in one answer; a bridge with more sends several. With the longest texts that is below 1 MiB, which is what
/// NATS takes unless told otherwise.
pub const MAX_PER_ANSWER: usize = 100;

/// What a bridge is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The one subscription (`NAMESPACE/NAME`) that is of interest; all when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
}

/// What a bridge answers, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Tells bridges apart.
    pub bridge: String,
    pub subscriptions: Vec<Work>,
}

/// One subscription, as one bridge sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// `NAMESPACE/NAME`.
    pub subscription: String,
    /// `NAMESPACE/NAME`.
    pub channel: String,
    /// Where its events come to; as it may be shown.
    pub sink: String,
    pub stream: String,
    pub consumer: String,
    pub doing: Doing,
    /// Why, where there is something to say.
    #[serde(default)]
    pub reason: String,
    /// Events that it holds.
    #[serde(default)]
    pub in_flight: u64,
    #[serde(default)]
    pub next_retry: Option<Timestamp>,
    #[serde(default)]
    pub held_until: Option<Timestamp>,
    #[serde(default)]
    pub last_error: Option<LastError>,
}

/// What a bridge is at with one subscription. The better comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    Pulling,
    /// It wants no further events for now.
    Held,
    Paused,
    /// It cannot do what it should.
    Stalled,
    /// Of a newer bridge, and not known here.
    #[serde(other)]
    Unknown,
}

impl Doing {
    /// What a worker is at, and why.
    pub fn of(state: State) -> (Self, String) {
        match state {
            State::Pulling => (Self::Pulling, String::new()),
            State::Held(reason) => (Self::Held, reason),
            State::Paused(reason) => (Self::Paused, reason),
            State::Stalled(reason) | State::Gone(reason) => (Self::Stalled, reason),
        }
    }
}

/// What bridges have said, as far as there are any that may be asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    /// By stream and consumer.
    works: HashMap<String, HashMap<String, Vec<Work>>>,
    /// Why nobody could be asked.
    pub(super) failure: Option<String>,
}

impl Said {
    /// What is said of one consumer.
    pub(super) fn of(&self, stream: &str, consumer: &str) -> &[Work] {
        self.works.get(stream).and_then(|consumers| consumers.get(consumer)).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Said {
    /// All that is said, one consumer after the other.
    pub(super) fn all(&self) -> impl Iterator<Item = &[Work]> {
        self.works.values().flat_map(HashMap::values).map(Vec::as_slice)
    }
}

impl Manager {
    /// Asks all bridges. That none may be asked costs what only they know, nothing else.
    pub(super) async fn ask_bridges(&self, subscription: Option<&Key>) -> Result<Said, Error> {
        let question = Question { subscription: subscription.map(ToString::to_string) };
        let doing = || "cannot ask bridges how they are doing".to_owned();
        let payload = serde_json::to_vec(&question).unwrap_or_default();
        match self.connection.ask_all(STATUS, payload, ANSWERS).await {
            Ok(answers) => {
                let mut said = Said::default();
                let read = answers.iter().filter_map(|answer| serde_json::from_slice::<Answer>(answer).ok());
                for work in read.flat_map(|answer| answer.subscriptions) {
                    let consumers = said.works.entry(work.stream.clone()).or_default();
                    consumers.entry(work.consumer.clone()).or_default().push(work);
                }
                Ok(said)
            }
            Err(cause @ CallError::Denied(_)) => {
                Ok(Said { works: HashMap::new(), failure: Some(format!("{}: {cause}", doing())) })
            }
            Err(cause) => Err(Error::Call { doing: doing(), cause }),
        }
    }
}

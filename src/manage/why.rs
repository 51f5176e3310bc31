//! The story of one event: where it is stored, which subscriptions wanted it and by which clause, and what became of it at each.
//! It is put together from what JetStream keeps: the event, the consumers, the log of attempts, the dead letters.

mod find;
mod story;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Error, Manager};
use crate::channel::attempts::Attempt;
use crate::filter::{Clause, Verdict};
use crate::resource::{Desired, Key};

/// Which event is asked about.
#[derive(Debug, Clone, Default)]
pub struct Question {
    pub id: String,
    pub source: Option<String>,
    pub channel: Option<Key>,
    /// Look through all that was stored within this time, whatever the log of attempts says.
    pub since: Option<Duration>,
    /// The manifests, when they are at hand: what they say of filters counts.
    pub desired: Option<Desired>,
}

/// An event and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = EventStory)]
pub struct Story {
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// `NAMESPACE/NAME`, as far as it is known.
    pub channel: Option<String>,
    pub stream: Option<String>,
    pub sequence: Option<u64>,
    /// Further sequences of the stream at which the same source and id are stored.
    pub also_at: Vec<u64>,
    /// When it was stored; of an event that is gone, when it was heard of first.
    pub received_at: Option<Timestamp>,
    /// Whether its stream still holds it.
    pub stored: bool,
    /// Its attributes but `id`, `source` and `type`; none of an event of which only the log tells.
    pub attributes: BTreeMap<String, String>,
    pub data_bytes: Option<usize>,
    /// How far back the log of attempts reaches; `None` when there is none.
    pub attempt_log_from: Option<Timestamp>,
    pub subscriptions: Vec<Chapter>,
}

/// What became of the event at one subscription.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = EventStoryChapter)]
pub struct Chapter {
    /// `NAMESPACE/NAME`.
    pub subscription: String,
    pub filter: Matching,
    pub state: State,
    /// The state in words, with what is known of its cause.
    pub detail: String,
    /// When its retry is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Those that the log has, oldest first.
    pub attempts: Vec<Attempt>,
    pub dead_letters: Vec<Letter>,
}

/// Whether the event is wanted, and why.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Matching {
    /// `None` when the filter, or the event, is not known here.
    pub verdict: Option<Verdict>,
    pub because: String,
    /// The clauses that decided.
    pub clauses: Vec<Clause>,
}

/// Where the event stands with a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EventState)]
pub enum State {
    /// Its filter, or what its consumer selects, leaves the event out.
    NotWanted,
    /// It was stored before the subscription began.
    BeforeStart,
    NotDelivered,
    /// Delivered, and not acknowledged.
    InDelivery,
    AwaitingRetry,
    /// Delivered; JetStream does not say whether it is acknowledged.
    Open,
    Settled,
    /// There is no consumer that could tell.
    Unknown,
}

/// A kept dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = KeptLetter)]
pub struct Letter {
    /// In `KN_DEADLETTERS`.
    pub sequence: u64,
    pub kept_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What refused the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

impl Manager {
    /// Tells the story of an event. `progress` is told how many messages were looked at, and of how many.
    ///
    /// # Errors
    /// [`Error::NotFound`] says where it was looked for, [`Error::Ambiguous`] names the events that fit.
    pub async fn why(&self, question: &Question, now: Timestamp, progress: impl Fn(u64, u64)) -> Result<Story, Error> {
        let found = find::find(self, question, now, progress).await?;
        story::tell(self, question, found, now).await
    }
}

//! The dead letters that are kept: found, told of in full, and thrown away on request. Works against NATS alone.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Error, Manager, while_doing};
use crate::channel::attempts::Attempt;
use crate::channel::dead_letter::STREAM;
use crate::channel::kept::{self, Content, Keeping, Letter, LetterId, Letters};
use crate::event::json;
use crate::resource::Key;

/// Letters that a text names when an id is not enough.
const MAX_NAMED: usize = 10;
const READING: &str = "cannot read the dead letters";

/// Which letters are meant: those for which all that is given holds.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub subscription: Option<Key>,
    /// Of the channel or broker that the event came from.
    pub channel: Option<Key>,
    pub id: Option<String>,
    pub source: Option<String>,
    pub kind: Option<String>,
    pub code: Option<u16>,
    /// Kept for at least so long.
    pub older_than: Option<Duration>,
    /// Kept for at most so long.
    pub newer_than: Option<Duration>,
    /// The one with this sequence in the stream of dead letters.
    pub sequence: Option<u64>,
    /// Those kept after this sequence of the stream.
    pub after: Option<u64>,
    /// Those kept up to this sequence of the stream, that one included.
    pub until: Option<u64>,
    /// At most so many, the oldest first.
    pub limit: Option<u64>,
    /// Messages that are no events do not count against the limit, so that many of them are in nobody's way.
    pub limits_events: bool,
}

/// What a kept letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeadLetterKind)]
pub enum Kind {
    Event,
    /// A message that claims to be an event and is none; it cannot be redriven.
    Poison,
}

/// A kept dead letter in a few words. What is not known is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeadLetter {
    pub id: Option<String>,
    pub source: Option<String>,
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    pub namespace: String,
    pub subscription: String,
    /// The status of the last answer; 500 when there was none.
    pub code: Option<u16>,
    /// Who answered so.
    pub dest: Option<String>,
    /// When it was kept; not the event's own time.
    pub time: Timestamp,
    pub kind: Kind,
    /// The beginning of the last answer's body, as text.
    pub error: Option<String>,
    /// Why a message is no event.
    pub reason: Option<String>,
    pub channel: Option<String>,
    /// Where the event was first.
    pub stream: Option<String>,
    pub stream_sequence: Option<u64>,
    /// Where it is kept: its sequence in `KN_DEADLETTERS`.
    pub sequence: u64,
    /// The length of its data, in bytes.
    pub data_bytes: usize,
}

/// All that is known of one kept dead letter.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = DeadLetterStory)]
pub struct Story {
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The event in the JSON format, as a redrive sends it; `null` for a message that is none.
    pub event: Option<Value>,
    /// Of a message that is no event: its payload as text, or else as base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// What was tried, as far as the log of attempts still has it, the oldest first.
    pub attempts: Vec<Attempt>,
    pub keeping: Option<Keeping>,
}

/// The letters that a query finds, one after the other, the oldest first.
pub struct Found {
    query: Query,
    source: Source,
    now: Timestamp,
    left: u64,
}

enum Source {
    All(Box<Letters>),
    One(Option<Box<Letter>>),
}

/// What a query finds, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    pub events: u64,
    /// Messages that are no events.
    pub poison: u64,
}

impl Manager {
    /// The letters that a query finds; those that come later are not among them.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn dead_letters(&self, query: &Query) -> Result<Found, Error> {
        let source = match query.sequence {
            None => Source::All(Box::new(
                kept::letters(&self.api, query.subscription.as_ref(), query.after, query.until)
                    .await
                    .map_err(while_doing(READING))?,
            )),
            Some(sequence) => {
                Source::One(kept::letter(&self.api, sequence).await.map_err(while_doing(READING))?.map(Box::new))
            }
        };
        let left = query.limit.unwrap_or(u64::MAX);
        Ok(Found { query: query.clone(), source, now: Timestamp::now(), left })
    }

    /// How many letters a query finds.
    ///
    /// # Errors
    /// When JetStream does not answer or says no, when nothing has an id that is asked for, and when several sources have it.
    pub async fn count_dead_letters(&self, query: &Query) -> Result<Count, Error> {
        let mut found = self.dead_letters(query).await?;
        let mut count = Count::default();
        let mut sources = BTreeSet::new();
        while let Some(letter) = found.next().await? {
            match letter.event() {
                Some(kept) => {
                    count.events += 1;
                    if query.id.is_some() && sources.len() < MAX_NAMED {
                        sources.insert(kept.event.source().to_owned());
                    }
                }
                None => count.poison += 1,
            }
        }
        if count == Count::default() && (query.id.is_some() || query.sequence.is_some()) {
            return Err(not_found(query));
        }
        if sources.len() > 1 {
            let sources: Vec<String> = sources.into_iter().map(|source| format!("--source '{source}'")).collect();
            let id = query.id.as_deref().unwrap_or_default();
            return Err(Error::Ambiguous(format!(
                "several sources have an event '{id}': say {}",
                sources.join(" or ")
            )));
        }
        Ok(count)
    }

    /// All that is known of the one letter that a query finds.
    ///
    /// # Errors
    /// When it finds none, or several.
    pub async fn dead_letter(&self, query: &Query) -> Result<Story, Error> {
        let mut found = self.dead_letters(query).await?;
        let Some(letter) = found.next().await? else { return Err(not_found(query)) };
        let mut others = Vec::new();
        while others.len() < MAX_NAMED
            && let Some(other) = found.next().await?
        {
            others.push(narrowed(&other));
        }
        if !others.is_empty() {
            let all: Vec<String> = std::iter::once(narrowed(&letter)).chain(others).collect();
            return Err(Error::Ambiguous(format!("several dead letters fit, narrow it by:\n  {}", all.join("\n  "))));
        }
        let keeping = self.dead_letter_keeping().await?;
        let attempts = self.attempts_of_letter(&letter).await?;
        let (payload, payload_base64) = match (&letter.content, std::str::from_utf8(&letter.data)) {
            (Content::Event(_), _) => (None, None),
            (Content::Poison(_), Ok(text)) => (Some(text.to_owned()), None),
            (Content::Poison(_), Err(_)) => (None, Some(STANDARD.encode(&letter.data))),
        };
        let event = letter.event().and_then(|kept| serde_json::from_slice(&json::encode(&kept.event)).ok());
        Ok(Story { letter: DeadLetter::from(&letter), event, payload, payload_base64, attempts, keeping })
    }

    /// How dead letters are kept; `None` when there is no stream yet.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn dead_letter_keeping(&self) -> Result<Option<Keeping>, Error> {
        kept::keeping(&self.api).await.map_err(while_doing(format!("cannot look at {STREAM}")))
    }

    /// Throws a letter away for good.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn discard(&self, letter: LetterId) -> Result<(), Error> {
        kept::remove(&self.api, letter).await.map_err(while_doing("cannot delete a dead letter"))
    }

    async fn attempts_of_letter(&self, letter: &Letter) -> Result<Vec<Attempt>, Error> {
        let Some(kept) = letter.event() else { return Ok(Vec::new()) };
        let mut attempts = self.attempts_of(kept.event.id(), Some(kept.event.source())).await?;
        attempts
            .retain(|attempt| (&attempt.namespace, &attempt.subscription) == (&letter.namespace, &letter.subscription));
        Ok(attempts)
    }
}

impl Found {
    /// The next letter; `None` after the last.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn next(&mut self) -> Result<Option<Letter>, Error> {
        while self.left > 0 {
            let letter = match &mut self.source {
                Source::All(letters) => letters.next().await.map_err(while_doing(READING))?,
                Source::One(letter) => letter.take().map(|letter| *letter),
            };
            let Some(letter) = letter else { break };
            if self.query.wants(&letter, self.now) {
                if letter.event().is_some() || !self.query.limits_events {
                    self.left -= 1;
                }
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }
}

impl Query {
    fn wants(&self, letter: &Letter, now: Timestamp) -> bool {
        let event = letter.event();
        let age = Duration::try_from(now.duration_since(letter.place.kept_at)).unwrap_or_default();
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|one| found == Some(one));
        self.subscription.as_ref().is_none_or(|key| letter.is_of(key))
            && self.channel.as_ref().is_none_or(|key| letter.channel.as_ref() == Some(key))
            && is(&self.id, event.map(|kept| kept.event.id()))
            && is(&self.source, event.map(|kept| kept.event.source()))
            && is(&self.kind, event.map(|kept| kept.event.kind()))
            && self.code.is_none_or(|code| event.and_then(|kept| kept.failure.code) == Some(code))
            && self.older_than.is_none_or(|least| age >= least)
            && self.newer_than.is_none_or(|most| age <= most)
    }
}

impl From<&Letter> for DeadLetter {
    fn from(letter: &Letter) -> Self {
        let kept = letter.event();
        let of_event = |attribute: fn(&crate::event::Event) -> &str| kept.map(|kept| attribute(&kept.event).to_owned());
        let failure = kept.map(|kept| &kept.failure);
        let body = failure.and_then(|failure| failure.body.as_deref()).filter(|body| !body.is_empty());
        Self {
            id: of_event(crate::event::Event::id),
            source: of_event(crate::event::Event::source),
            event_type: of_event(crate::event::Event::kind),
            namespace: letter.namespace.clone(),
            subscription: letter.subscription.clone(),
            code: failure.and_then(|failure| failure.code),
            dest: failure.and_then(|failure| failure.dest.clone()),
            time: letter.place.kept_at,
            kind: if kept.is_some() { Kind::Event } else { Kind::Poison },
            error: body.map(|body| String::from_utf8_lossy(body).into_owned()),
            reason: match &letter.content {
                Content::Poison(reason) => Some(reason.clone()),
                Content::Event(_) => None,
            },
            channel: letter.channel.as_ref().map(ToString::to_string),
            stream: letter.origin.as_ref().map(|(stream, _)| stream.clone()),
            stream_sequence: letter.origin.as_ref().map(|(_, sequence)| *sequence),
            sequence: letter.place.sequence,
            data_bytes: letter.data.len(),
        }
    }
}

/// The flags that mean this letter and no other.
fn narrowed(letter: &Letter) -> String {
    let source = letter.event().map(|kept| format!("--source '{}' ", kept.event.source())).unwrap_or_default();
    format!("{source}--subscription {}/{} (--seq {})", letter.namespace, letter.subscription, letter.place.sequence)
}

fn not_found(query: &Query) -> Error {
    let what = match (&query.id, query.sequence) {
        (_, Some(sequence)) => format!("with sequence {sequence} that fits"),
        (Some(id), None) => format!("with id '{id}' that fits"),
        (None, None) => "that fits".to_owned(),
    };
    let whose = query.subscription.as_ref().map(|key| format!(" of {key}")).unwrap_or_default();
    Error::NotFound(format!("there is no dead letter{whose} {what}; `knats get deadletters` lists what is kept"))
}

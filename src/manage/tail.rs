//! What happens now: events as streams take them and deliveries as bridges make them, in one stream of items. It disturbs
//! nobody: events are read by the API, so there is no consumer that could be left behind, and bridges tell only while they are
//! asked to.
//!
//! ```text
//!   streams ──asked every tick──▶ reader ──(waits when full)──▶ items
//!   bridges ──told──▶ listener ──(left out when full)──▶ reader
//! ```
//!
//! Whoever takes the items too slowly is told how many were skipped; nothing here grows.

mod deliveries;
mod events;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Error, Manager, while_doing};
use crate::channel::Connection;
use crate::channel::attempts::Attempt;
use crate::channel::watch::{WATCH, Watch};
use crate::event::{self, Event};
use crate::filter::{Filter, Verdict};
use crate::resource::Key;
use events::{Cursor, Reader};

/// Items that wait to be taken; each event is as large as it is.
const ITEMS: usize = 64;
/// Deliveries that wait until the events before them are read.
const DELIVERIES: usize = 1024;
/// Events of one stream that came before and that one tail looks at.
pub const MAX_HISTORY: u64 = 10_000;
/// How long the last word to the bridges may take to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Channels and subscriptions; everything of ours when there are none.
    /// Each with what it stands for, where that is known: a channel and a subscription may share a name.
    pub names: Vec<(Key, Option<Sort>)>,
    pub begin: Begin,
    pub filter: Option<Filter>,
    /// Only events, or only deliveries.
    pub only: Option<Only>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Channel,
    Subscription,
}

/// One half of what there is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    Events,
    Deliveries,
}

/// Where events begin. Deliveries are seen from now on: nobody keeps those that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    #[default]
    Now,
    /// So many events earlier, in each stream.
    Last(u64),
    At(Timestamp),
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = FeedItem)]
pub enum Item {
    Event(Box<StoredEvent>),
    Delivery(Box<Attempt>),
    Note(Note),
}

/// An event as its stream holds it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredEvent {
    /// When it was stored.
    pub time: Timestamp,
    /// `NAMESPACE/NAME`, or the stream's name where its channel cannot be told.
    pub channel: String,
    pub stream: String,
    pub sequence: u64,
    #[serde(serialize_with = "as_json")]
    #[schema(value_type = Object)]
    pub event: Event,
}

/// What whoever looks on should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FeedNote)]
pub struct Note {
    pub text: String,
}

/// A tail at work. It ends when it is dropped; [`Tail::end`] tells the bridges too, which else tell on for some seconds.
pub struct Tail {
    items: mpsc::Receiver<Item>,
    tasks: JoinSet<()>,
    connection: Connection,
    watch: Watch,
}

impl Manager {
    /// Begins to look on.
    ///
    /// # Errors
    /// When a name is unknown or ambiguous, or JetStream does not answer.
    pub async fn tail(&self, wanted: Wanted) -> Result<Tail, Error> {
        let mut watch = Watch { token: Uuid::new_v4().simple().to_string(), ..Watch::default() };
        let mut streams = Vec::new();
        for (name, sort) in &wanted.names {
            let (stream, sort) = self.resolve(name, *sort).await?;
            match sort {
                Sort::Channel => watch.streams.push(stream.clone()),
                Sort::Subscription => watch.add(name),
            }
            streams.push(stream);
        }
        if wanted.names.is_empty() {
            streams = self.api.channel_streams().await.map_err(while_doing("cannot list the streams"))?;
        }
        streams.sort();
        streams.dedup();
        let (sender, items) = mpsc::channel(ITEMS);
        let (told, deliveries) = mpsc::channel(DELIVERIES);
        let mut reader = Reader {
            api: self.api.clone(),
            items: sender.clone(),
            deliveries,
            cursors: Vec::new(),
            notes: Vec::new(),
            follows_all_since: wanted.names.is_empty().then(Timestamp::now),
            is_away: false,
            filter: wanted.filter,
            only: wanted.only,
        };
        for stream in streams {
            let begun = Cursor::begin(&self.api, &stream, wanted.begin).await;
            let doing = || while_doing(format!("cannot look into stream {stream}"));
            let (cursor, note) = begun.map_err(doing())?.ok_or_else(|| not_found(&stream))?;
            reader.cursors.push(cursor);
            reader.notes.extend(note.filter(|_| wanted.only != Some(Only::Deliveries)));
        }
        let mut tasks = JoinSet::new();
        if wanted.only != Some(Only::Events) {
            let subject = watch.subject().unwrap_or_default();
            let calls = self.connection.listen(&subject, None).await;
            let calls = calls.map_err(|cause| Error::Call { doing: "cannot listen to bridges".to_owned(), cause })?;
            tasks.spawn(deliveries::listen(calls, told));
            tasks.spawn(deliveries::keep_asking(self.connection.clone(), watch.clone(), sender));
        }
        tasks.spawn(reader.run());
        Ok(Tail { items, tasks, connection: self.connection.clone(), watch })
    }

    /// The stream that a name leads to.
    async fn resolve(&self, name: &Key, sort: Option<Sort>) -> Result<(String, Sort), Error> {
        let doing = || while_doing(format!("cannot look for {name}"));
        let channel = match sort {
            Some(Sort::Subscription) => None,
            _ => self.api.stream_of(name).await.map_err(doing())?,
        };
        let mut subscribed = match sort {
            Some(Sort::Channel) => Vec::new(),
            _ => self.api.streams_subscribed_by(name).await.map_err(doing())?,
        };
        match (channel, subscribed.pop()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous(format!(
                "{name} is a channel and a subscription: say --channel or --subscription"
            ))),
            (Some(stream), None) => Ok((stream, Sort::Channel)),
            (None, Some(stream)) => Ok((stream, Sort::Subscription)),
            (None, None) => Err(Error::NotFound(match sort {
                None => format!("JetStream has neither a channel nor a subscription {name}"),
                Some(Sort::Channel) => format!("JetStream has no channel {name}"),
                Some(Sort::Subscription) => format!("JetStream has no subscription {name}"),
            })),
        }
    }
}

impl Tail {
    /// What happened next; `None` when there is nobody left to tell. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }

    /// As many items as are here, at least one, at most `limit`; none when there is nobody left to tell.
    pub async fn next_many(&mut self, limit: usize) -> Vec<Item> {
        let mut items = Vec::new();
        self.items.recv_many(&mut items, limit).await;
        items
    }

    /// Ends, and tells the bridges that nobody watches any more.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        let end = Watch { token: self.watch.token, end: true, ..Watch::default() };
        if let Ok(payload) = serde_json::to_vec(&end) {
            self.connection.tell(WATCH, payload).await;
            self.connection.flush(LAST_WORD).await;
        }
    }
}

/// What is asked of the events that are shown: these very attributes, and an expression of CloudEvents SQL.
///
/// # Errors
/// What is wrong with the expression.
pub fn filter(attributes: &[(&str, Option<&str>)], expression: Option<&str>) -> Result<Option<Filter>, String> {
    let exact = attributes.iter().filter_map(|(name, value)| Some(json!({ "exact": { *name: (*value)? } })));
    let all: Vec<_> = exact.chain(expression.map(|text| json!({ "cesql": text }))).collect();
    if all.is_empty() {
        return Ok(None);
    }
    Filter::compile(&all.into()).map(Some).map_err(|faults| {
        let faults: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
        format!("the filter {}", faults.join("; it "))
    })
}

impl Item {
    fn note(text: impl Into<String>) -> Self {
        Self::Note(Note { text: text.into() })
    }
}

fn passes(filter: Option<&Filter>, event: &Event) -> bool {
    filter.is_none_or(|filter| filter.evaluate(event) == Verdict::Match)
}

fn not_found(stream: &str) -> Error {
    Error::NotFound(format!("there is no stream {stream}"))
}

/// `1 event`, `2 events`.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The event in its JSON form, its data as it is.
fn as_json<S: serde::Serializer>(event: &Event, serializer: S) -> Result<S::Ok, S::Error> {
    let json = String::from_utf8(event::json::encode(event).into()).map_err(serde::ser::Error::custom)?;
    RawValue::from_string(json).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

//! What a bridge would do in JetStream if it were given these manifests: the very plans that it carries out, with the events
//! that they touch. Nothing is changed by looking.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Error, Manager, while_doing};
use crate::channel::{ApiError, Change, Count, Step, dead_letter, name, stream as streams};
use crate::channel::{consumer, inventory};
use crate::resource::{Channel, Desired, Key, Subscription};

/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;

/// What would happen to one stream or consumer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Difference {
    pub change: Action,
    pub asset: Asset,
    pub stream: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// Whom it is for, such as `channel default/foo`; absent for the stream of dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// By their names in JetStream's configuration, with its values: durations in nanoseconds, -1 for no limit.
    pub fields: Vec<Change>,
    /// Settings of a stream that stay although one that were made now would have others (`to`): the manifest does not say.
    pub kept: Vec<Change>,
    /// Why nothing can be done at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it means for events that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DifferenceAction)]
pub enum Action {
    /// Nothing happens; it is taken over as it is.
    None,
    Create,
    Update,
    /// It is not as declared and the bridge cannot make it so: something has to be replaced, or declared otherwise.
    Cannot,
    /// By `--prune`.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DifferenceAsset)]
pub enum Asset {
    Stream,
    Consumer,
}

/// Events that a change touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EventsTouched)]
pub struct Events {
    pub count: u64,
    /// Whether it is just this number; else it is an estimate, for the most part the most that they can be.
    pub exact: bool,
    pub meaning: Meaning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EventsTouchedMeaning)]
pub enum Meaning {
    /// A new consumer starts with these kept events.
    StartsWith,
    /// New limits remove these from the stream.
    Removed,
    /// The stream holds these; to replace it is to move or to lose them.
    Held,
    /// The consumer has these still to deliver, or delivered and not settled.
    Undelivered,
}

impl Events {
    fn new(count: Count, meaning: Meaning) -> Self {
        Self { count: count.count, exact: count.exact, meaning }
    }
}

impl Difference {
    fn of_stream(stream: &str, resource: Option<String>) -> Self {
        Self {
            change: Action::None,
            asset: Asset::Stream,
            stream: stream.to_owned(),
            consumer: None,
            resource,
            fields: Vec::new(),
            kept: Vec::new(),
            reason: None,
            events: None,
            notes: Vec::new(),
        }
    }

    fn of_consumer(stream: &str, consumer: String, resource: String) -> Self {
        let whole = Self::of_stream(stream, Some(resource));
        Self { asset: Asset::Consumer, consumer: Some(consumer), ..whole }
    }

    fn cannot(self, reason: impl Into<String>) -> Self {
        Self { change: Action::Cannot, reason: Some(reason.into()), ..self }
    }

    /// Whether something would happen, or ought to and cannot.
    pub fn is_change(&self) -> bool {
        self.change != Action::None
    }

    fn is_worth_telling(&self) -> bool {
        self.is_change() || !self.kept.is_empty() || !self.notes.is_empty()
    }

    /// Takes what a step says; the count of events is not in it.
    fn take(&mut self, step: &Step) {
        (self.change, self.fields) = match step {
            Step::Keep => (Action::None, Vec::new()),
            Step::Create(config) => (Action::Create, created(config)),
            Step::Update { changes, .. } => (Action::Update, changes.clone()),
            Step::Cannot(changes) => (Action::Cannot, changes.clone()),
        };
    }

    fn count(&mut self, counted: Result<Count, ApiError>, meaning: Meaning) {
        match counted {
            Ok(count) => self.events = Some(Events::new(count, meaning)),
            Err(error) => self.notes.push(format!("the events that it touches could not be counted: {error}")),
        }
    }
}

impl Manager {
    /// Compares the manifests with JetStream: what differs, and what is taken over as it is.
    ///
    /// # Errors
    /// When JetStream does not answer, or does not permit us to look.
    pub async fn diff(&self, desired: &Desired, prune: bool) -> Result<Vec<Difference>, Error> {
        let info = self.api.stream_info(dead_letter::STREAM).await;
        let info = info.map_err(while_doing(format!("cannot look at stream {}", dead_letter::STREAM)))?;
        let mut dead_letters = Difference::of_stream(dead_letter::STREAM, None);
        dead_letters.take(&dead_letter::plan(info.as_ref(), dead_letter::Retention::default()));
        let mut found = vec![dead_letters];

        let owners = streams::owners(desired.channels.values());
        let mut placed = BTreeSet::new();
        // Collected first: a stream over such a closure cannot be sent to another thread.
        let channels: Vec<_> = desired.channels.values().map(|channel| self.channel(channel, &owners)).collect();
        let mut channels = stream::iter(channels).buffered(PARALLEL);
        while let Some(channel) = channels.next().await {
            let (key, difference) = channel?;
            if difference.change != Action::Cannot {
                placed.insert(key);
            }
            found.push(difference);
        }
        let placed = &placed;
        let subscriptions = desired.subscriptions.values();
        let subscriptions: Vec<_> =
            subscriptions.map(|subscription| self.subscription(desired, placed, subscription)).collect();
        let mut subscriptions = stream::iter(subscriptions).buffered(PARALLEL);
        while let Some(difference) = subscriptions.next().await {
            found.push(difference?);
        }
        if prune {
            found.extend(self.pruned(desired).await?);
        }
        found.retain(Difference::is_worth_telling);
        Ok(found)
    }

    async fn channel<'a>(
        &self,
        channel: &'a Channel,
        owners: &BTreeMap<String, Key>,
    ) -> Result<(&'a Key, Difference), Error> {
        let stream = streams::stream_name(channel);
        let mut difference = Difference::of_stream(&stream, Some(format!("{} {}", channel.kind, channel.key)));
        if let Some(owner) = owners.get(&stream).filter(|owner| **owner != channel.key) {
            return Ok((&channel.key, difference.cannot(format!("it is the stream of channel {owner}"))));
        }
        let info = self.api.stream_info(&stream).await;
        let info = info.map_err(while_doing(format!("cannot look at stream {stream}")))?;
        let step = match streams::plan(channel, info.as_ref()) {
            Ok(step) => step,
            Err(error) => return Ok((&channel.key, difference.cannot(error.to_string()))),
        };
        difference.take(&step);
        if let Some(reason) = self.taken_subject(&stream, &difference.fields).await {
            difference = difference.cannot(reason);
        }
        let Some(info) = info else { return Ok((&channel.key, difference)) };
        match step {
            Step::Update { config, .. } if difference.change == Action::Update => {
                let removed = self.api.count_removed(&info, &config).await;
                if !matches!(removed, Ok(Count { count: 0, .. })) {
                    difference.count(removed, Meaning::Removed);
                }
                if difference.fields.iter().any(|change| change.field == "retention" && change.to == json!("interest"))
                {
                    difference.notes.push("events that no consumer waits for are removed".to_owned());
                }
            }
            Step::Cannot(_) => {
                let count = info["state"]["messages"].as_u64().unwrap_or(0);
                difference.count(Ok(Count { count, exact: true }), Meaning::Held);
            }
            _ => {}
        }
        difference.kept = streams::kept_settings(channel, &info);
        Ok((&channel.key, difference))
    }

    /// Why a stream cannot have one of its new subjects. What cannot be asked is found out when the stream is changed.
    async fn taken_subject(&self, stream: &str, fields: &[Change]) -> Option<String> {
        let listed = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let change = fields.iter().find(|change| change.field == "subjects")?;
        let before = listed(&change.from);
        for subject in listed(&change.to).iter().filter(|subject| !before.contains(subject)).filter_map(Value::as_str) {
            let names = self.api.stream_names(Some(subject)).await.unwrap_or_default();
            if let Some(other) = names.iter().find(|name| *name != stream) {
                return Some(format!("subject {subject} is taken by stream {other}"));
            }
        }
        None
    }

    async fn subscription(
        &self,
        desired: &Desired,
        placed: &BTreeSet<&Key>,
        subscription: &Subscription,
    ) -> Result<Difference, Error> {
        let consumer = name::consumer(&subscription.key);
        let resource = format!("{} {}", subscription.kind, subscription.key);
        let Some(channel) = desired.channels.get(&subscription.channel) else {
            let nowhere = Difference::of_consumer("", consumer, resource);
            return Ok(nowhere.cannot(format!("channel {} is not declared", subscription.channel)));
        };
        let stream = streams::stream_name(channel);
        let mut difference = Difference::of_consumer(&stream, consumer.clone(), resource);
        if !placed.contains(&subscription.channel) {
            return Ok(difference.cannot(format!("channel {} cannot be put in place", subscription.channel)));
        }
        if let Some(undeclared) = desired.undeclared_destination(subscription) {
            return Ok(difference.cannot(format!("it sends to channel {undeclared}, which is not declared")));
        }
        let looking = || while_doing(format!("cannot look at consumer {consumer} of stream {stream}"));
        let info = self.api.consumer_info(&stream, &consumer).await.map_err(looking())?;
        let knows = |major, minor| self.api.knows(major, minor);
        let plan = match consumer::plan(channel, subscription, info.as_ref(), knows) {
            Ok(plan) => plan,
            Err(error) => return Ok(difference.cannot(error.to_string())),
        };
        difference.take(&plan.step);
        if let Some(paused) = plan.pause {
            if difference.change == Action::None {
                difference.change = Action::Update;
            }
            let from = if difference.change == Action::Create { Value::Null } else { json!(!paused) };
            difference.fields.push(Change { field: "paused".to_owned(), from, to: json!(paused), obstacle: None });
        }
        match (&plan.step, &info) {
            (Step::Create(config), _) => {
                let kept = self.api.stream_info(&stream).await.map_err(looking())?;
                let counted = match &kept {
                    Some(kept) => self.api.count_from_start(kept, config).await,
                    None => Ok(Count { count: 0, exact: true }),
                };
                difference.count(counted, Meaning::StartsWith);
            }
            (Step::Cannot(_), Some(info)) => {
                let number = |field: &str| info[field].as_u64().unwrap_or(0);
                let count = number("num_pending") + number("num_ack_pending");
                difference.count(Ok(Count { count, exact: true }), Meaning::Undelivered);
            }
            _ => {}
        }
        if info.as_ref().is_some_and(|info| consumer::owner_of(info).is_none()) {
            difference
                .notes
                .push("made by others: taken over, with its settings where the manifest says nothing".into());
        }
        Ok(difference)
    }

    /// The consumers of ours in the streams of declared channels that nobody declares any more.
    async fn pruned(&self, desired: &Desired) -> Result<Vec<Difference>, Error> {
        let mut found = Vec::new();
        for channel in desired.channels.values() {
            let stream = streams::stream_name(channel);
            let consumers = inventory::consumers_of(&self.api, &stream).await;
            let consumers = consumers.map_err(while_doing(format!("cannot list the consumers of stream {stream}")))?;
            for (subscription, consumer) in inventory::orphans(&consumers, desired) {
                let resource = format!("subscription {subscription}");
                let mut difference = Difference::of_consumer(&stream, consumer.name.clone(), resource);
                difference.change = Action::Delete;
                difference.count(Ok(Count { count: consumer.lag(), exact: true }), Meaning::Undelivered);
                found.push(difference);
            }
        }
        Ok(found)
    }
}

/// The fields of a new configuration; its name aside, which is told anyway.
fn created(config: &Value) -> Vec<Change> {
    let fields = config.as_object().into_iter().flatten();
    fields
        .filter(|(field, _)| !["name", "durable_name", "metadata"].contains(&field.as_str()))
        .map(|(field, value)| Change { field: field.clone(), from: Value::Null, to: value.clone(), obstacle: None })
        .collect()
}

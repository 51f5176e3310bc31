//! What the manifests ask for, as one value: all channels and subscriptions with every reference resolved.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::time::Duration;

use super::kinds::{self, ChannelDraft, Resource, SubscriptionDraft};
use super::manifest::{self, Document};
use super::reader::{At, Report};
use super::{Controls, Delivery, Destination, Fault, Key, Resolver, delivery};
use crate::filter::Filter;

/// The set of resources that the bridge works towards. Equal sets ask for nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    pub channels: BTreeMap<Key, Channel>,
    pub subscriptions: BTreeMap<Key, Subscription>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub key: Key,
    pub kind: ChannelKind,
    pub stream: StreamTemplate,
    pub consumer: ConsumerTemplate,
}

/// Which rules a channel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Channel,
    /// Counts down `knativebrokerttl`, and its replies re-enter it.
    Broker,
}

/// What a manifest says about a channel's stream (`spec.stream`); `None` leaves a thing as it is, or at the default for a
/// stream that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamTemplate {
    pub override_name: Option<String>,
    pub additional_subjects: Vec<String>,
    pub retention: Option<Retention>,
    pub max_consumers: Option<i32>,
    pub max_msgs: Option<i64>,
    pub max_msgs_per_subject: Option<i64>,
    pub max_bytes: Option<i64>,
    pub discard: Option<Discard>,
    /// Zero is no limit.
    pub max_age: Option<Duration>,
    pub max_msg_size: Option<i32>,
    pub storage: Option<Storage>,
    pub replicas: Option<usize>,
    pub no_ack: Option<bool>,
    pub duplicate_window: Option<Duration>,
    pub placement: Option<Placement>,
    pub mirror: Option<Source>,
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    Limits,
    Interest,
    Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    Old,
    New,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    File,
    Memory,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub cluster: Option<String>,
    pub tags: Vec<String>,
}

/// Another stream that a stream mirrors or takes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub start_sequence: Option<u64>,
    /// RFC 3339.
    pub start_time: Option<jiff::Timestamp>,
    pub filter_subject: Option<String>,
}

/// What a manifest says about the consumers of a channel (`spec.consumerConfigTemplate`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerTemplate {
    pub deliver_policy: Option<DeliverPolicy>,
    pub ack_wait: Option<Duration>,
    pub max_ack_pending: Option<i64>,
    pub filter_subject: Option<String>,
    pub replay_original: Option<bool>,
    /// JetStream refuses it for pull consumers, which ours are.
    pub rate_limit_bps: Option<u64>,
    /// Percent, 0 to 100.
    pub sample_frequency: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverPolicy {
    All,
    Last,
    New,
    ByStartSequence(u64),
    ByStartTime(jiff::Timestamp),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub key: Key,
    /// The channel it reads. It need not be declared; the subscription waits for it, visibly.
    pub channel: Key,
    /// At least one of `subscriber` and `reply` is there.
    pub subscriber: Option<Destination>,
    pub reply: Option<Destination>,
    pub delivery: Delivery,
    /// The events it wants; all when there is none.
    pub filter: Option<Filter>,
    pub controls: Controls,
}

impl Desired {
    /// What the manifest files of the paths ask for (see [`manifest::load`]).
    ///
    /// # Errors
    /// All faults: of files, of documents that are no YAML, and of the resources in all others.
    pub fn load(paths: &[PathBuf], resolver: &Resolver) -> Result<Self, Vec<Fault>> {
        let (documents, mut faults) = manifest::read(paths);
        match Self::build(&documents, resolver) {
            Ok(desired) if faults.is_empty() => Ok(desired),
            built => {
                faults.extend(built.err().into_iter().flatten());
                faults.sort_by(|a, b| (&a.file, a.document).cmp(&(&b.file, b.document)));
                Err(faults)
            }
        }
    }

    /// Reads the documents as Knative resources and resolves them against each other. What is allowed but does nothing,
    /// or is of a kind that is not ours, is logged.
    ///
    /// # Errors
    /// All faults of all documents, not only the first.
    pub fn build(documents: &[Document], resolver: &Resolver) -> Result<Self, Vec<Fault>> {
        let mut draft = Draft::default();
        for document in documents {
            let report = Report::new(&document.file, document.index);
            for (resource, metadata) in kinds::read(&report.root(&document.value), resolver) {
                draft.add(resource, &metadata);
            }
            draft.faults.append(&mut report.finish());
        }
        draft.finish()
    }

    /// The subscriptions whose channel is not declared, with that channel. They wait for it.
    pub fn undeclared_channels(&self) -> impl Iterator<Item = (&Key, &Key)> {
        self.subscriptions
            .values()
            .filter(|subscription| !self.channels.contains_key(&subscription.channel))
            .map(|subscription| (&subscription.key, &subscription.channel))
    }
}

/// The resources while documents still come.
#[derive(Default)]
struct Draft {
    channels: BTreeMap<Key, (ChannelDraft, String)>,
    subscriptions: BTreeMap<Key, (SubscriptionDraft, String)>,
    faults: Vec<Fault>,
}

impl Draft {
    fn add(&mut self, resource: Resource, metadata: &At<'_>) {
        match resource {
            Resource::Channel(draft) => {
                insert_once(&mut self.channels, draft.channel.key.clone(), *draft, "channel", metadata)
            }
            Resource::Subscription(draft) => {
                insert_once(&mut self.subscriptions, draft.key.clone(), *draft, "subscription", metadata);
            }
        }
    }

    fn finish(self) -> Result<Desired, Vec<Fault>> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let nothing_set = delivery::Spec::default();
        let resolved = |draft: SubscriptionDraft| {
            let of_channel = self.channels.get(&draft.channel).map_or(&nothing_set, |(channel, _)| &channel.delivery);
            Subscription {
                delivery: Delivery::resolve(&draft.delivery, of_channel),
                key: draft.key,
                channel: draft.channel,
                subscriber: draft.subscriber,
                reply: draft.reply,
                filter: None,
                controls: Controls::default(),
            }
        };
        let subscriptions = self.subscriptions.into_iter().map(|(key, (draft, _))| (key, resolved(draft))).collect();
        let channels = self.channels.into_iter().map(|(key, (draft, _))| (key, draft.channel)).collect();
        Ok(Desired { channels, subscriptions })
    }
}

/// Keeps the first of two resources with one name; the second is a fault that names both places.
fn insert_once<T>(known: &mut BTreeMap<Key, (T, String)>, key: Key, draft: T, noun: &str, metadata: &At<'_>) {
    match known.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert((draft, metadata.place()));
        }
        Entry::Occupied(entry) => {
            let (key, (_, first)) = (entry.key(), entry.get());
            metadata
                .fault(format!("the {noun} {key} is declared already in {first}, expected one {noun} of that name"));
        }
    }
}

#[cfg(test)]
mod tests;

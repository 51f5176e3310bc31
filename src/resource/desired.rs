//! What the manifests ask for, as one value: all channels and subscriptions with every reference resolved.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::destination::Addresses;
use super::draft::Draft;
use super::kinds;
use super::manifest::{self, Document};
use super::reader::Report;
use super::{AllowedSubjects, Controls, Delivery, Destination, Fault, Key, Resolver};
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
    /// Whose tokens open it, where tokens are checked; `None` for every valid one.
    pub allowed_subjects: Option<AllowedSubjects>,
}

impl Channel {
    /// Whether those who read from it would notice a difference between the two.
    pub fn reads_like(&self, other: &Self) -> bool {
        let Self { key, kind, stream, consumer, allowed_subjects: _ } = self;
        (key, kind, stream, consumer) == (&other.key, &other.kind, &other.stream, &other.consumer)
    }
}

/// Which rules a channel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Channel,
    /// Counts down `knativebrokerttl`, and its replies re-enter it.
    Broker,
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "channel",
            Self::Broker => "broker",
        })
    }
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
    pub kind: SubscriptionKind,
    /// The channel or broker it reads. It need not be declared; the subscription waits for it, visibly.
    pub channel: Key,
    /// At least one of `subscriber` and `reply` is there.
    pub subscriber: Option<Destination>,
    pub reply: Option<Destination>,
    pub delivery: Delivery,
    /// The events it wants; all when there is none.
    pub filter: Option<Filter>,
    pub controls: Controls,
}

/// Which manifest asks for a subscription. Both kinds share one set of names, since their dead letters share their subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionKind {
    /// Reads a channel.
    Subscription,
    /// Reads a broker; answers go back into it.
    Trigger,
}

impl fmt::Display for SubscriptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subscription => "subscription",
            Self::Trigger => "trigger",
        })
    }
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
        let reports: Vec<Report<'_>> =
            documents.iter().map(|document| Report::new(&document.file, document.index)).collect();
        let roots = reports.iter().zip(documents).map(|(report, document)| report.root(&document.value));
        let found: Vec<kinds::Found<'_>> = roots.flat_map(|root| kinds::find(&root)).collect();
        // References may come before the broker that they name.
        let brokers = found.iter().filter_map(kinds::Found::broker_key).collect();
        let addresses = Addresses { resolver, brokers: &brokers };
        let mut draft = Draft::default();
        for found in &found {
            if let Some(resource) = found.read(&addresses) {
                draft.add(resource, &found.at);
            }
        }
        draft.check_references();
        let desired = draft.finish();
        let faults: Vec<Fault> = reports.into_iter().flat_map(Report::finish).collect();
        if faults.is_empty() { Ok(desired) } else { Err(faults) }
    }

    /// The subscriptions whose channel or broker is not declared. They wait for it.
    pub fn undeclared_channels(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values().filter(|subscription| !self.channels.contains_key(&subscription.channel))
    }

    /// A channel that the subscription would send to and that nobody declares. The subscription waits for it.
    pub fn undeclared_destination<'a>(&self, subscription: &'a Subscription) -> Option<&'a Key> {
        let dead_letter_sink = &subscription.delivery.dead_letter_sink;
        [&subscription.subscriber, &subscription.reply, dead_letter_sink].into_iter().flatten().find_map(
            |destination| match destination {
                Destination::Channel(key) if !self.channels.contains_key(key) => Some(key),
                _ => None,
            },
        )
    }
}

#[cfg(test)]
mod tests;

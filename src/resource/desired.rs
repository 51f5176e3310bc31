//! What the manifests ask for, as one value: all channels and subscriptions with every reference resolved.

use std::collections::BTreeMap;
use std::time::Duration;

use super::manifest::Document;
use super::{Delivery, Destination, Fault, Key, Resolver};

/// The set of resources that the bridge works towards. Equal sets ask for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub channels: BTreeMap<Key, Channel>,
    pub subscriptions: BTreeMap<Key, Subscription>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    pub key: Key,
    pub stream: StreamTemplate,
    pub consumer: ConsumerTemplate,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub key: Key,
    /// The channel it reads. It need not be declared; the subscription waits for it, visibly.
    pub channel: Key,
    /// At least one of `subscriber` and `reply` is there.
    pub subscriber: Option<Destination>,
    pub reply: Option<Destination>,
    pub delivery: Delivery,
}

impl Desired {
    /// Reads the documents as Knative resources and resolves them against each other.
    ///
    /// # Errors
    /// All faults of all documents, not only the first.
    pub fn build(documents: &[Document], resolver: &Resolver) -> Result<Self, Vec<Fault>> {
        let _ = (documents, resolver);
        todo!()
    }
}

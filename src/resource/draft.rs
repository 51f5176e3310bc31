//! The resources of all documents before they become one value: names that are taken twice, and references to what turned
//! out to be of another kind.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::kinds::{ChannelDraft, Resource, SubscriptionDraft};
use super::reader::At;
use super::{ChannelKind, Delivery, Desired, Key, Subscription, SubscriptionKind, delivery};

/// What was read so far, each with its place.
#[derive(Default)]
pub(super) struct Draft<'a> {
    channels: BTreeMap<Key, (ChannelDraft, At<'a>)>,
    subscriptions: BTreeMap<Key, (SubscriptionDraft, At<'a>)>,
}

impl<'a> Draft<'a> {
    /// Keeps the first of two resources with one name; the second is a fault that names both places.
    pub(super) fn add(&mut self, resource: Resource, at: &At<'a>) {
        match resource {
            Resource::Channel(draft) => match self.channels.entry(draft.channel.key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert((*draft, at.clone()));
                }
                Entry::Occupied(entry) => {
                    let (first, first_at) = entry.get();
                    let nouns = [draft.channel.kind.to_string(), first.channel.kind.to_string()];
                    refuse_twice(at, entry.key(), &nouns, first_at, "they would share one path and one stream");
                }
            },
            Resource::Subscription(draft) => match self.subscriptions.entry(draft.key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert((*draft, at.clone()));
                }
                Entry::Occupied(entry) => {
                    let (first, first_at) = entry.get();
                    let nouns = [draft.kind.to_string(), first.kind.to_string()];
                    refuse_twice(at, entry.key(), &nouns, first_at, "their dead letters would share one subject");
                }
            },
        }
    }

    /// Subscriptions read channels and triggers read brokers. One that nobody declares may still come.
    pub(super) fn check_references(&self) {
        for (subscription, at) in self.subscriptions.values() {
            let Some((channel, channel_at)) = self.channels.get(&subscription.channel) else { continue };
            let (key, place) = (&subscription.channel, channel_at.place());
            match (subscription.kind, channel.channel.kind) {
                (SubscriptionKind::Trigger, ChannelKind::Channel) => at.fault_below(
                    "spec.broker",
                    format!("{key} is a channel in {place}, expected a broker; a Subscription is what reads a channel"),
                ),
                (SubscriptionKind::Subscription, ChannelKind::Broker) => at.fault_below(
                    "spec.channel",
                    format!("{key} is a broker in {place}, expected a channel; a Trigger is what reads a broker"),
                ),
                (SubscriptionKind::Subscription, ChannelKind::Channel)
                | (SubscriptionKind::Trigger, ChannelKind::Broker) => {}
            }
        }
    }

    /// Resolves the delivery options against those of the channels.
    pub(super) fn finish(self) -> Desired {
        let nothing_set = delivery::Spec::default();
        let resolved = |draft: SubscriptionDraft| {
            let of_channel = self.channels.get(&draft.channel).map_or(&nothing_set, |(channel, _)| &channel.delivery);
            Subscription {
                delivery: Delivery::resolve(&draft.delivery, of_channel),
                key: draft.key,
                kind: draft.kind,
                channel: draft.channel,
                subscriber: draft.subscriber,
                reply: draft.reply,
                filter: draft.filter,
                controls: draft.controls,
            }
        };
        let subscriptions = self.subscriptions.into_iter().map(|(key, (draft, _))| (key, resolved(draft))).collect();
        let channels = self.channels.into_iter().map(|(key, (draft, _))| (key, draft.channel)).collect();
        Desired { channels, subscriptions }
    }
}

/// `nouns` are what the second and the first one are, `shared` is what two of different kinds cannot share.
fn refuse_twice(at: &At<'_>, key: &Key, nouns: &[String; 2], first_at: &At<'_>, shared: &str) {
    let ([noun, first], place) = (nouns, first_at.place());
    at.fault(if noun == first {
        format!("the {noun} {key} is declared already in {place}, expected one {noun} of that name")
    } else {
        format!("the {noun} {key} has the name of a {first} in {place}, expected another name: {shared}")
    });
}

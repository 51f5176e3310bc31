//! Subscription: a channel, where its events go, and where the answers go.

use super::{Metadata, Resource, filters};
use crate::filter::Filter;
use crate::resource::delivery::Spec;
use crate::resource::destination::{Addresses, BROKER_KIND, Reference};
use crate::resource::reader::{At, Fields};
use crate::resource::{Controls, Destination, Key, SubscriptionKind};

/// A subscription or trigger whose channel or broker is not looked up yet.
pub(in crate::resource) struct SubscriptionDraft {
    pub(in crate::resource) key: Key,
    pub(in crate::resource) kind: SubscriptionKind,
    pub(in crate::resource) channel: Key,
    pub(in crate::resource) subscriber: Option<Destination>,
    pub(in crate::resource) reply: Option<Destination>,
    pub(in crate::resource) delivery: Spec,
    pub(in crate::resource) filter: Option<Filter>,
    pub(in crate::resource) controls: Controls,
}

pub(super) fn read(fields: &mut Fields<'_>, metadata: &Metadata<'_>, addresses: &Addresses<'_>) -> Option<Resource> {
    let spec = fields.require("spec", "an object with channel and subscriber")?;
    let draft = spec.object(|spec| read_spec(spec, metadata, addresses))??;
    Some(Resource::Subscription(Box::new(draft)))
}

fn read_spec(spec: &mut Fields<'_>, metadata: &Metadata<'_>, addresses: &Addresses<'_>) -> Option<SubscriptionDraft> {
    let (key, context) = (&metadata.key, metadata.context(addresses));
    let channel = spec.require("channel", "a reference to a channel").and_then(|at| read_channel(&at, key.namespace()));
    let (subscriber, reply) = (spec.take("subscriber"), spec.take("reply"));
    if subscriber.is_none() && reply.is_none() {
        spec.at().fault("names nowhere to deliver to, expected subscriber or reply or both");
    }
    let [subscriber, reply] =
        [subscriber, reply].map(|destination| destination.and_then(|at| Destination::read(&at, &context)));
    let delivery = Spec::read(spec, &context);
    let controls = Controls::read(&metadata.annotations, &delivery);
    let filter = filters::of_annotation(&metadata.annotations);
    let kind = SubscriptionKind::Subscription;
    Some(SubscriptionDraft { key: key.clone(), kind, channel: channel?, subscriber, reply, delivery, filter, controls })
}

/// Any kind of channel is taken for the one of ours with that name, so that manifests need no change when the kind does.
fn read_channel(at: &At<'_>, namespace: &str) -> Option<Key> {
    let reference = at.object(|fields| Reference::read(fields, namespace))??;
    if !reference.kind.ends_with("Channel") {
        let kind = crate::resource::reader::shown(&reference.kind);
        let hint = if kind == BROKER_KIND { "; a Trigger is what reads a broker" } else { "" };
        at.fault(format!("found a reference to a {kind}, expected one to a channel, such as kind Channel{hint}"));
        return None;
    }
    Some(reference.key)
}

//! Subscription: a channel, where its events go, and where the answers go.

use super::Resource;
use crate::resource::delivery::Spec;
use crate::resource::destination::Reference;
use crate::resource::reader::{At, Fields};
use crate::resource::{Destination, Key, Resolver};

/// A subscription whose channel is not looked up yet.
pub(in crate::resource) struct SubscriptionDraft {
    pub(in crate::resource) key: Key,
    pub(in crate::resource) channel: Key,
    pub(in crate::resource) subscriber: Option<Destination>,
    pub(in crate::resource) reply: Option<Destination>,
    pub(in crate::resource) delivery: Spec,
}

pub(super) fn read(fields: &mut Fields<'_>, key: Key, resolver: &Resolver) -> Option<Resource> {
    let spec = fields.require("spec", "an object with channel and subscriber")?;
    spec.object(|spec| read_spec(spec, key, resolver))?.map(|draft| Resource::Subscription(Box::new(draft)))
}

fn read_spec(spec: &mut Fields<'_>, key: Key, resolver: &Resolver) -> Option<SubscriptionDraft> {
    let context = super::context(&key, resolver);
    let channel = spec.require("channel", "a reference to a channel").and_then(|at| read_channel(&at, key.namespace()));
    let (subscriber, reply) = (spec.take("subscriber"), spec.take("reply"));
    if subscriber.is_none() && reply.is_none() {
        spec.at().fault("names nowhere to deliver to, expected subscriber or reply or both");
    }
    let [subscriber, reply] =
        [subscriber, reply].map(|destination| destination.and_then(|at| Destination::read(&at, &context)));
    let delivery = Spec::read(spec, &context);
    Some(SubscriptionDraft { channel: channel?, subscriber, reply, delivery, key })
}

/// Any kind of channel is taken for the one of ours with that name, so that manifests need no change when the kind does.
fn read_channel(at: &At<'_>, namespace: &str) -> Option<Key> {
    let reference = at.object(|fields| Reference::read(fields, namespace))??;
    if !reference.kind.ends_with("Channel") {
        let kind = crate::resource::reader::shown(&reference.kind);
        at.fault(format!("found a reference to a {kind}, expected one to a channel, such as kind Channel"));
        return None;
    }
    Some(reference.key)
}

//! Trigger: a broker, which of its events are wanted, and where they go. Answers go back into the broker.

use super::{Metadata, Resource, SubscriptionDraft, filters};
use crate::resource::delivery::Spec;
use crate::resource::destination::Addresses;
use crate::resource::reader::Fields;
use crate::resource::{Controls, Destination, Key, SubscriptionKind};

pub(super) fn read(fields: &mut Fields<'_>, metadata: &Metadata<'_>, addresses: &Addresses<'_>) -> Option<Resource> {
    let spec = fields.require("spec", "an object with broker and subscriber")?;
    let draft = spec.object(|spec| read_spec(spec, metadata, addresses))??;
    Some(Resource::Subscription(Box::new(draft)))
}

fn read_spec(spec: &mut Fields<'_>, metadata: &Metadata<'_>, addresses: &Addresses<'_>) -> Option<SubscriptionDraft> {
    let context = metadata.context(addresses);
    let broker = spec.require("broker", "the name of a broker in the same namespace");
    let broker = broker.and_then(|at| at.parsed(crate::resource::name));
    let subscriber = spec.require("subscriber", "a destination with ref or uri");
    let subscriber = subscriber.and_then(|at| Destination::read(&at, &context));
    let delivery = Spec::read(spec, &context);
    let filter = filters::of_trigger(spec, &metadata.annotations);
    let controls = Controls::read(&metadata.annotations, &delivery);
    let broker = Key { namespace: context.namespace.to_owned(), name: broker? };
    Some(SubscriptionDraft {
        key: metadata.key.clone(),
        kind: SubscriptionKind::Trigger,
        reply: Some(Destination::Channel(broker.clone())),
        channel: broker,
        subscriber,
        delivery,
        filter,
        controls,
    })
}

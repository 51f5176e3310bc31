//! The kinds of channels, brokers among them.

use super::{CHANNEL_KINDS, Metadata, Resource, consumer, stream};
use crate::resource::delivery::Spec;
use crate::resource::destination::{Addresses, Context};
use crate::resource::reader::Fields;
use crate::resource::{Channel, ChannelKind, ConsumerTemplate, StreamTemplate};

/// A channel with the delivery options that its subscriptions fall back to.
pub(in crate::resource) struct ChannelDraft {
    pub(in crate::resource) channel: Channel,
    pub(in crate::resource) delivery: Spec,
}

pub(super) fn read_jetstream_channel(
    fields: &mut Fields<'_>,
    metadata: &Metadata<'_>,
    addresses: &Addresses<'_>,
) -> Option<Resource> {
    let context = metadata.context(addresses);
    let spec = fields.take("spec").and_then(|at| at.object(|spec| Template::read(spec, &context))).unwrap_or_default();
    Some(spec.into_resource(metadata))
}

/// `channelTemplate.spec` is read as that of a `NatsJetStreamChannel`, whatever kind it is meant for.
pub(super) fn read_channel(
    fields: &mut Fields<'_>,
    metadata: &Metadata<'_>,
    addresses: &Addresses<'_>,
) -> Option<Resource> {
    let context = metadata.context(addresses);
    let spec = fields.take("spec").and_then(|at| {
        at.object(|spec| {
            let template = spec.take("channelTemplate").and_then(|at| at.object(|at| read_template(at, &context)));
            let mut template = template.unwrap_or_default();
            let delivery = read_delivery(spec, &context);
            if delivery != Spec::default() {
                template.delivery = delivery;
            }
            template
        })
    });
    Some(spec.unwrap_or_default().into_resource(metadata))
}

pub(super) fn read_natss_channel(
    fields: &mut Fields<'_>,
    metadata: &Metadata<'_>,
    addresses: &Addresses<'_>,
) -> Option<Resource> {
    let context = metadata.context(addresses);
    let delivery = fields.take("spec").and_then(|at| at.object(|spec| read_delivery(spec, &context)));
    Some(Template { delivery: delivery.unwrap_or_default(), ..Template::default() }.into_resource(metadata))
}

/// `spec.config` says how other classes of brokers keep their events; it may be of any shape.
pub(super) fn read_broker(
    fields: &mut Fields<'_>,
    metadata: &Metadata<'_>,
    addresses: &Addresses<'_>,
) -> Option<Resource> {
    let context = metadata.context(addresses);
    let delivery = fields.take("spec").and_then(|at| {
        at.object(|spec| {
            if let Some(config) = spec.take("config") {
                config.has_no_effect();
            }
            Spec::read(spec, &context)
        })
    });
    let channel = Channel {
        key: metadata.key.clone(),
        kind: ChannelKind::Broker,
        stream: StreamTemplate::default(),
        consumer: ConsumerTemplate::default(),
        allowed_subjects: metadata.allowed_subjects(),
    };
    Some(Resource::Channel(Box::new(ChannelDraft { channel, delivery: delivery.unwrap_or_default() })))
}

/// The spec of a `NatsJetStreamChannel`.
#[derive(Default)]
struct Template {
    stream: StreamTemplate,
    consumer: ConsumerTemplate,
    delivery: Spec,
}

impl Template {
    fn read(spec: &mut Fields<'_>, context: &Context<'_>) -> Self {
        if let Some(template) = spec.take("deploymentSpecTemplate") {
            template.any_object();
            template.has_no_effect();
        }
        Self {
            stream: spec.take("stream").and_then(|at| at.object(stream::read)).unwrap_or_default(),
            consumer: spec.take("consumerConfigTemplate").and_then(|at| at.object(consumer::read)).unwrap_or_default(),
            delivery: read_delivery(spec, context),
        }
    }

    fn into_resource(self, metadata: &Metadata<'_>) -> Resource {
        let channel = Channel {
            key: metadata.key.clone(),
            kind: ChannelKind::Channel,
            stream: self.stream,
            consumer: self.consumer,
            allowed_subjects: metadata.allowed_subjects(),
        };
        Resource::Channel(Box::new(ChannelDraft { channel, delivery: self.delivery }))
    }
}

fn read_template(template: &mut Fields<'_>, context: &Context<'_>) -> Template {
    template.require("apiVersion", "the API version of a channel").and_then(|at| at.string());
    if let Some(at) = template.require("kind", "the kind of a channel")
        && let Some(kind) = at.string()
        && !CHANNEL_KINDS.contains(&kind)
    {
        if kind.ends_with("Channel") {
            at.warn("a JetStream channel is made in its place");
        } else {
            at.fault(format!(
                "a {} is no channel, expected NatsJetStreamChannel",
                crate::resource::reader::shown(kind)
            ));
        }
    }
    template.take("spec").and_then(|at| at.object(|spec| Template::read(spec, context))).unwrap_or_default()
}

/// What all channels have: `delivery`, and `subscribers`, which a cluster's controller writes and nobody reads here.
fn read_delivery(spec: &mut Fields<'_>, context: &Context<'_>) -> Spec {
    spec.take("subscribers").map(|at| at.items());
    Spec::read(spec, context)
}

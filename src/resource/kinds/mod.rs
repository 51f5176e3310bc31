//! Knative's kinds: which document is what, and the fields that all have in common. The fields of each kind are read in
//! the modules below, strictly.

mod channel;
mod consumer;
mod stream;
mod subscription;
mod values;

use serde_json::Value;

pub(super) use channel::ChannelDraft;
pub(super) use subscription::SubscriptionDraft;

use super::destination::{Context, group_of};
use super::reader::{At, Fields, closest};
use super::{Key, Resolver};

/// The kinds that are channels of ours, all of the group `messaging.knative.dev`.
pub(super) const CHANNEL_KINDS: [&str; 3] = ["NatsJetStreamChannel", "Channel", "NatssChannel"];

const DEFAULT_NAMESPACE: &str = "default";

/// Annotations with this prefix are ours, so an unknown one is a mistake.
const ANNOTATION_PREFIX: &str = "knats.dev/";

/// A resource of ours, its references between resources still to be looked up.
pub(super) enum Resource {
    Channel(Box<ChannelDraft>),
    Subscription(Box<SubscriptionDraft>),
}

/// A kind of ours with the API versions it is read in.
struct Kind {
    name: &'static str,
    api_versions: &'static [&'static str],
    read: fn(&mut Fields<'_>, Key, &Resolver) -> Option<Resource>,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "NatsJetStreamChannel",
        api_versions: &["messaging.knative.dev/v1alpha1"],
        read: channel::read_jetstream_channel,
    },
    Kind { name: "Channel", api_versions: &["messaging.knative.dev/v1"], read: channel::read_channel },
    Kind {
        name: "NatssChannel",
        api_versions: &["messaging.knative.dev/v1alpha1", "messaging.knative.dev/v1beta1"],
        read: channel::read_natss_channel,
    },
    Kind {
        name: "Subscription",
        api_versions: &["messaging.knative.dev/v1", "messaging.knative.dev/v1beta1"],
        read: subscription::read,
    },
];

/// Reads a document: none, one or (for a list) many resources, each with its place. Faults go to the report.
pub(super) fn read<'a>(document: &At<'a>, resolver: &Resolver) -> Vec<(Resource, At<'a>)> {
    let mut resources = Vec::new();
    read_into(document, None, resolver, &mut resources);
    resources
}

/// `inherited` is what an item of a typed list is where it does not say so itself.
fn read_into<'a>(
    document: &At<'a>,
    inherited: Option<(&str, &str)>,
    resolver: &Resolver,
    resources: &mut Vec<(Resource, At<'a>)>,
) {
    let Some((api_version, kind)) = type_of(document, inherited) else { return };
    if let Some(item_kind) = kind.strip_suffix("List")
        && (item_kind.is_empty() || KINDS.iter().any(|known| known.name == item_kind))
    {
        let item_type = (!item_kind.is_empty()).then_some((api_version, item_kind));
        document.object(|fields| {
            ignore_all(fields, &["apiVersion", "kind", "metadata"]);
            for item in fields.require("items", "a list of resources").iter().flat_map(At::items) {
                read_into(&item, item_type, resolver, resources);
            }
        });
        return;
    }
    let Some(known) = known_kind(document, api_version, kind) else { return };
    let resource = document.object(|fields| {
        ignore_all(fields, &["apiVersion", "kind"]);
        if let Some(status) = fields.take("status") {
            status.any_object();
        }
        let key = fields.require("metadata", "an object with name").and_then(|at| read_metadata(&at));
        // The rest is read under any name, so that its faults are told too.
        let stand_in = || Key { namespace: DEFAULT_NAMESPACE.to_owned(), name: "unnamed".to_owned() };
        let is_named = key.is_some();
        (known.read)(fields, key.unwrap_or_else(stand_in), resolver).filter(|_| is_named)
    });
    resources.extend(resource.flatten().map(|resource| (resource, document.clone())));
}

/// `apiVersion` and `kind` of a document.
fn type_of<'d>(document: &At<'d>, inherited: Option<(&'d str, &'d str)>) -> Option<(&'d str, &'d str)> {
    let Value::Object(map) = document.value() else {
        document.fault("is not a Kubernetes resource, expected an object with apiVersion and kind");
        return None;
    };
    let text = |name: &str, inherited: Option<&'d str>| match map.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.as_str()),
        None | Some(Value::Null) if inherited.is_some() => inherited,
        Some(Value::String(_) | Value::Null) | None => {
            document.fault(format!("{name} is missing, expected a resource with apiVersion and kind"));
            None
        }
        Some(_) => {
            document.fault(format!("{name} is not a string, expected a resource with apiVersion and kind"));
            None
        }
    };
    let (api_version, kind) = (text("apiVersion", inherited.map(|(a, _)| a)), text("kind", inherited.map(|(_, k)| k)));
    Some((api_version?, kind?))
}

/// `None` for what is skipped or at fault.
fn known_kind(document: &At<'_>, api_version: &str, kind: &str) -> Option<&'static Kind> {
    let known = KINDS.iter().find(|known| known.name == kind);
    match known {
        Some(known) if known.api_versions.contains(&api_version) => return Some(known),
        Some(known) if !belongs_to_others(api_version) => {
            let expected = known.api_versions.join(" or ");
            document.fault(format!(
                "the apiVersion of a {kind} is {expected}, found {}",
                super::reader::shown(api_version)
            ));
        }
        _ => {
            let report = document.report();
            let (file, number) = (report.file, report.document);
            tracing::info!("skipped: kind {kind} apiVersion {api_version} in {file} document {number}");
        }
    }
    None
}

/// Whether a group is plainly somebody else's, who may have a `Channel` or `Subscription` too, and not ours misspelt.
fn belongs_to_others(api_version: &str) -> bool {
    let group = group_of(api_version);
    !group.is_empty() && !group.ends_with("knative.dev") && closest(group, &["messaging.knative.dev"]).is_none()
}

fn ignore_all(fields: &mut Fields<'_>, names: &[&'static str]) {
    for name in names {
        fields.ignore(name);
    }
}

/// Kubernetes' ObjectMeta. The key is `None` when a fault was found in it.
fn read_metadata(metadata: &At<'_>) -> Option<Key> {
    metadata.object(|fields| {
        for name in ["generateName", "selfLink", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"] {
            fields.take(name).and_then(|at| at.string());
        }
        for name in ["generation", "deletionGracePeriodSeconds"] {
            fields.take(name).and_then(|at| at.integer::<i64>(0..=i64::MAX.into()));
        }
        for name in ["ownerReferences", "finalizers", "managedFields"] {
            fields.take(name).map(|at| at.items());
        }
        fields.take("labels").map(|at| at.string_map());
        for (name, annotation) in fields.take("annotations").iter().flat_map(At::string_map) {
            if name.starts_with(ANNOTATION_PREFIX) {
                annotation.fault(format!("unknown annotation, expected none that begins with {ANNOTATION_PREFIX}"));
            }
        }
        let namespace = match fields.take("namespace") {
            Some(at) => at.parsed(super::namespace),
            None => Some(DEFAULT_NAMESPACE.to_owned()),
        };
        let name = fields.require("name", "the resource's name").and_then(|at| at.parsed(super::name));
        Some(Key { namespace: namespace?, name: name? })
    })?
}

/// What the destinations of a resource are resolved with.
fn context<'a>(key: &'a Key, resolver: &'a Resolver) -> Context<'a> {
    Context { namespace: key.namespace(), resolver }
}

//! Knative's kinds: which document is what, and the fields that all have in common. The fields of each kind are read in
//! the modules below, strictly.

mod channel;
mod consumer;
mod filters;
mod stream;
mod subscription;
mod trigger;
mod values;

use serde_json::Value;

pub(super) use channel::ChannelDraft;
pub(super) use subscription::SubscriptionDraft;

use super::controls::Annotation;
use super::destination::{Addresses, BROKER_KIND, Context, group_of};
use super::reader::{At, Fields, closest};
use super::{AllowedSubjects, Key};

/// The kinds that are channels of ours, all of the group `messaging.knative.dev`.
pub(super) const CHANNEL_KINDS: [&str; 3] = ["NatsJetStreamChannel", "Channel", "NatssChannel"];

const GROUPS: [&str; 2] = ["messaging.knative.dev", "eventing.knative.dev"];

const DEFAULT_NAMESPACE: &str = "default";

/// Annotations with this prefix are ours, so an unknown one is a mistake.
const ANNOTATION_PREFIX: &str = "knats.dev/";

/// In a cluster a Trigger waits for the object that it names.
const DEPENDENCY_ANNOTATION: &str = "knative.dev/dependency";

/// A resource of ours, its references between resources still to be looked up.
pub(super) enum Resource {
    Channel(Box<ChannelDraft>),
    Subscription(Box<SubscriptionDraft>),
}

/// A kind of ours with the API versions it is read in.
struct Kind {
    name: &'static str,
    api_versions: &'static [&'static str],
    /// Whether it takes the annotations that control a subscription.
    is_controlled: bool,
    read: fn(&mut Fields<'_>, &Metadata<'_>, &Addresses<'_>) -> Option<Resource>,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "NatsJetStreamChannel",
        api_versions: &["messaging.knative.dev/v1alpha1"],
        is_controlled: false,
        read: channel::read_jetstream_channel,
    },
    Kind {
        name: "Channel",
        api_versions: &["messaging.knative.dev/v1"],
        is_controlled: false,
        read: channel::read_channel,
    },
    Kind {
        name: "NatssChannel",
        api_versions: &["messaging.knative.dev/v1alpha1", "messaging.knative.dev/v1beta1"],
        is_controlled: false,
        read: channel::read_natss_channel,
    },
    Kind {
        name: "Subscription",
        api_versions: &["messaging.knative.dev/v1", "messaging.knative.dev/v1beta1"],
        is_controlled: true,
        read: subscription::read,
    },
    Kind {
        name: BROKER_KIND,
        api_versions: &["eventing.knative.dev/v1"],
        is_controlled: false,
        read: channel::read_broker,
    },
    Kind { name: "Trigger", api_versions: &["eventing.knative.dev/v1"], is_controlled: true, read: trigger::read },
];

/// A resource of a kind of ours, its fields not yet read.
pub(super) struct Found<'a> {
    pub(super) at: At<'a>,
    kind: &'static Kind,
}

/// Looks for resources in a document: none, one or (in a list) many. Faults go to the report.
pub(super) fn find<'a>(document: &At<'a>) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    find_into(document, None, &mut found);
    found
}

/// `inherited` is what an item of a typed list is where it does not say so itself.
fn find_into<'a>(document: &At<'a>, inherited: Option<(&str, &str)>, found: &mut Vec<Found<'a>>) {
    let Some((api_version, kind)) = type_of(document, inherited) else { return };
    if let Some(item_kind) = kind.strip_suffix("List")
        && (item_kind.is_empty() || KINDS.iter().any(|known| known.name == item_kind))
    {
        let item_type = (!item_kind.is_empty()).then_some((api_version, item_kind));
        document.object(|fields| {
            ignore_all(fields, &["apiVersion", "kind", "metadata"]);
            for item in fields.require("items", "a list of resources").iter().flat_map(At::items) {
                find_into(&item, item_type, found);
            }
        });
        return;
    }
    found.extend(known_kind(document, api_version, kind).map(|kind| Found { at: document.clone(), kind }));
}

impl Found<'_> {
    /// The key of a broker, known before anything is read. What is wrong with it is told when it is read.
    pub(super) fn broker_key(&self) -> Option<Key> {
        let metadata = self.at.value().get("metadata").filter(|_| self.kind.name == BROKER_KIND)?;
        let namespace = metadata.get("namespace").filter(|namespace| !namespace.is_null());
        Key::new(namespace.map_or(Some(DEFAULT_NAMESPACE), Value::as_str)?, metadata.get("name")?.as_str()?)
    }

    /// `None` when it has no name. Faults go to the report.
    pub(super) fn read(&self, addresses: &Addresses<'_>) -> Option<Resource> {
        self.at.object(|fields| {
            ignore_all(fields, &["apiVersion", "kind"]);
            if let Some(status) = fields.take("status") {
                status.any_object();
            }
            let metadata = fields.require("metadata", "an object with name");
            let (key, annotations) = metadata.and_then(|at| at.object(read_metadata)).unwrap_or_default();
            if !self.kind.is_controlled {
                annotations.iter().for_each(check_annotation_of_channel);
            }
            let is_named = key.is_some();
            // The rest is read under any name, so that its faults are told too.
            let stand_in = || Key { namespace: DEFAULT_NAMESPACE.to_owned(), name: "unnamed".to_owned() };
            let metadata = Metadata { key: key.unwrap_or_else(stand_in), annotations };
            (self.kind.read)(fields, &metadata, addresses).filter(|_| is_named)
        })?
    }
}

/// What a resource's metadata says that counts here.
pub(super) struct Metadata<'a> {
    key: Key,
    annotations: Vec<Annotation<'a>>,
}

impl<'a> Metadata<'a> {
    /// What the destinations of the resource are resolved with.
    fn context(&self, addresses: &Addresses<'a>) -> Context<'_> {
        Context { namespace: self.key.namespace(), addresses: *addresses }
    }

    /// Of a channel or broker.
    fn allowed_subjects(&self) -> Option<AllowedSubjects> {
        let named = self.annotations.iter().find(|annotation| annotation.name == AllowedSubjects::ANNOTATION)?;
        named.at.parsed(AllowedSubjects::parse)
    }
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

/// Whether a group is plainly somebody else's, who may have a `Subscription` or `Trigger` too, and not ours misspelt.
fn belongs_to_others(api_version: &str) -> bool {
    let group = group_of(api_version);
    !group.is_empty() && !group.ends_with("knative.dev") && closest(group, &GROUPS).is_none()
}

fn ignore_all(fields: &mut Fields<'_>, names: &[&'static str]) {
    for name in names {
        fields.ignore(name);
    }
}

/// Kubernetes' ObjectMeta: the key, unless a fault was found in it, and the annotations that are ours.
fn read_metadata<'a>(fields: &mut Fields<'a>) -> (Option<Key>, Vec<Annotation<'a>>) {
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
    let mut annotations = Vec::new();
    for (name, at) in fields.take("annotations").iter().flat_map(At::string_map) {
        if let Some(name) = name.strip_prefix(ANNOTATION_PREFIX) {
            annotations.push(Annotation { name, at });
        } else if name == DEPENDENCY_ANNOTATION {
            at.has_no_effect();
        }
    }
    let namespace = match fields.take("namespace") {
        Some(at) => at.parsed(super::namespace),
        None => Some(DEFAULT_NAMESPACE.to_owned()),
    };
    let name = fields.require("name", "the resource's name").and_then(|at| at.parsed(super::name));
    let key = namespace.zip(name).map(|(namespace, name)| Key { namespace, name });
    (key, annotations)
}

/// Channels and brokers have one.
fn check_annotation_of_channel(annotation: &Annotation<'_>) {
    let known = AllowedSubjects::ANNOTATION;
    if annotation.name != known {
        annotation.at.fault(format!(
            "unknown annotation, expected {ANNOTATION_PREFIX}{known} or none that begins with {ANNOTATION_PREFIX}: others belong \
             on Subscriptions and Triggers"
        ));
    }
}

//! What streams and consumers of ours say of themselves in their metadata, so that NATS alone can tell what they are. Keys that
//! others have set are never touched.

use serde_json::{Map, Value, json};

use crate::resource::{Channel, ChannelKind, Destination, Ordering, Subscription, SubscriptionKind};

/// How all that we say begins.
const PREFIX: &str = "knats.dev/";
/// Whose consumer this is. eventing-natss names its own `KN_SUB_...` too.
pub(super) const SUBSCRIPTION: &str = "knats.dev/subscription";
pub(super) const CHANNEL: &str = "knats.dev/channel";
pub(super) const KIND: &str = "knats.dev/kind";
pub(super) const SUBSCRIBER: &str = "knats.dev/subscriber";
pub(super) const REPLY: &str = "knats.dev/reply";
pub(super) const DEAD_LETTER_SINK: &str = "knats.dev/dead-letter-sink";
/// The filter as it was declared, compact JSON: a list for Knative's `filters`, an object for its older attributes.
pub(super) const FILTER: &str = "knats.dev/filter";
/// `strict`, or `key:` and the attribute; not there without an order.
pub(super) const ORDERING: &str = "knats.dev/ordering";

pub(super) const BROKER: &str = "Broker";
pub(super) const TRIGGER: &str = "Trigger";

/// The longest value. The server takes 128 KiB for all of an asset's metadata together; what is longer is left out.
const MAX_VALUE: usize = 8 * 1024;

/// The metadata of a stream that we make.
pub(super) fn of_channel(channel: &Channel) -> Value {
    let kind = match channel.kind {
        ChannelKind::Channel => "Channel",
        ChannelKind::Broker => BROKER,
    };
    json!({ CHANNEL: channel.key.to_string(), KIND: kind })
}

/// Writes what a consumer says of its subscription. True when that has changed it.
pub(super) fn describe(metadata: &mut Value, subscription: &Subscription) -> bool {
    let before = metadata.clone();
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    if let Some(map) = metadata.as_object_mut() {
        for (key, value) in of_subscription(subscription) {
            match value.filter(|value| value.len() <= MAX_VALUE) {
                Some(value) => map.insert(key.to_owned(), json!(value)),
                None => map.remove(key),
            };
        }
    }
    *metadata != before
}

/// Whether `metadata` says something of ours that `wanted` does not.
pub(super) fn says_more(metadata: &Value, wanted: &Value) -> bool {
    let keys = metadata.as_object().into_iter().flat_map(Map::keys);
    keys.filter(|key| key.starts_with(PREFIX)).any(|key| wanted.get(key).is_none())
}

fn of_subscription(subscription: &Subscription) -> [(&'static str, Option<String>); 8] {
    let kind = match subscription.kind {
        SubscriptionKind::Subscription => "Subscription",
        SubscriptionKind::Trigger => TRIGGER,
    };
    let ordering = match &subscription.controls.ordering {
        Ordering::None => None,
        Ordering::Key(attribute) => Some(format!("key:{attribute}")),
        Ordering::Strict => Some("strict".to_owned()),
    };
    let address = |destination: &Option<Destination>| destination.as_ref().map(Destination::shown);
    [
        (SUBSCRIPTION, Some(subscription.key.to_string())),
        (CHANNEL, Some(subscription.channel.to_string())),
        (KIND, Some(kind.to_owned())),
        (SUBSCRIBER, address(&subscription.subscriber)),
        (REPLY, address(&subscription.reply)),
        (DEAD_LETTER_SINK, address(&subscription.delivery.dead_letter_sink)),
        (FILTER, subscription.filter.as_ref().map(|filter| noted(filter.declared()))),
        (ORDERING, ordering),
    ]
}

/// A filter that is too long is told to be there: who finds none takes every event for wanted.
fn noted(filter: &Value) -> String {
    Some(filter.to_string())
        .filter(|text| text.len() <= MAX_VALUE)
        .unwrap_or_else(|| json!("too long to be noted").to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::resource::manifest::Document;
    use crate::resource::{Desired, Resolver};

    fn subscription(filter: &str) -> Subscription {
        let trigger = json!({
            "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": { "name": "t" },
            "spec": {
                "broker": "b", "filter": { "attributes": { "type": filter } },
                "subscriber": { "uri": "https://ann:secret@sink.example/x" },
            },
        });
        let document = Document { file: "f.yaml".into(), index: 1, value: trigger };
        Desired::build(&[document], &Resolver::default()).unwrap().subscriptions.into_values().next().unwrap()
    }

    #[test]
    fn what_others_have_said_stays_and_the_same_again_is_no_change() {
        let mut metadata = json!({ "theirs": "x", DEAD_LETTER_SINK: "http://gone" });
        assert!(describe(&mut metadata, &subscription("t")));
        let expected = json!({
            "theirs": "x", SUBSCRIPTION: "default/t", CHANNEL: "default/b", KIND: "Trigger",
            SUBSCRIBER: "https://***@sink.example/x", FILTER: r#"{"type":"t"}"#,
            REPLY: "http://b-kn-channel.default.svc.cluster.local",
        });
        assert_eq!(metadata, expected);
        assert!(!describe(&mut metadata, &subscription("t")));
    }

    #[test]
    fn a_filter_that_is_too_long_is_told_to_be_there() {
        let mut metadata = Value::Null;
        describe(&mut metadata, &subscription(&"x".repeat(MAX_VALUE)));
        assert_eq!(metadata[FILTER], json!(r#""too long to be noted""#));
        assert!(crate::filter::Filter::from_declared(&json!("too long to be noted")).is_err());
    }
}

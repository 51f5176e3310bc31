//! Manifests as JSON values (JSON is YAML), in namespace `default` unless they say otherwise.

use serde_json::{Value, json};

/// A channel `default/NAME` with defaults.
pub fn channel(name: &str) -> Value {
    channel_with(name, json!({}))
}

pub fn channel_with(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "messaging.knative.dev/v1alpha1",
        "kind": "NatsJetStreamChannel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A channel whose stream has these settings (`spec.stream.config`).
pub fn channel_with_stream(name: &str, config: Value) -> Value {
    channel_with(name, json!({"stream": {"config": config}}))
}

/// A subscription `default/NAME` of channel `default/CHANNEL`; `spec` holds the rest of its spec.
pub fn subscription(name: &str, channel: &str, spec: Value) -> Value {
    let mut whole = json!({
        "apiVersion": "messaging.knative.dev/v1",
        "kind": "Subscription",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"channel": channel_ref(channel)},
    });
    let target = whole["spec"].as_object_mut().unwrap();
    target.extend(spec.as_object().unwrap().clone());
    whole
}

/// A subscription that only has a subscriber, and is never retried.
pub fn subscribe(name: &str, channel: &str, url: &str) -> Value {
    subscription(name, channel, json!({"subscriber": {"uri": url}, "delivery": {"retry": 0}}))
}

/// A broker `default/NAME` with defaults.
pub fn broker(name: &str) -> Value {
    json!({
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Broker",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {},
    })
}

/// A trigger `default/NAME` of broker `default/BROKER`; `spec` holds the rest of its spec.
pub fn trigger(name: &str, broker: &str, spec: Value) -> Value {
    let mut whole = json!({
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"broker": broker},
    });
    whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    whole
}

pub fn channel_ref(name: &str) -> Value {
    json!({"apiVersion": "messaging.knative.dev/v1alpha1", "kind": "NatsJetStreamChannel", "name": name})
}

/// The same resource in another namespace.
pub fn in_namespace(namespace: &str, mut resource: Value) -> Value {
    resource["metadata"]["namespace"] = namespace.into();
    resource
}

/// One file of many documents.
pub fn to_yaml(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("---\n{document:#}\n")).collect()
}

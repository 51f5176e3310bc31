//! Owns the checks of whole manifests: every field, every fault, every reference.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::resource::{BackoffPolicy, Format};

fn documents(values: &[Value]) -> Vec<Document> {
    let document = |(index, value): (usize, &Value)| Document {
        file: "f.yaml".to_owned(),
        index: index + 1,
        value: value.clone(),
    };
    values.iter().enumerate().map(document).collect()
}

fn build(values: &[Value]) -> Result<Desired, Vec<String>> {
    Desired::build(&documents(values), &Resolver::default())
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn channel(spec: Value) -> Value {
    json!({ "apiVersion": "messaging.knative.dev/v1alpha1", "kind": "NatsJetStreamChannel", "metadata": { "name": "foo" }, "spec": spec })
}

fn subscription(spec: Value) -> Value {
    let mut whole = json!({
        "channel": { "apiVersion": "messaging.knative.dev/v1alpha1", "kind": "NatsJetStreamChannel", "name": "foo" },
        "subscriber": { "uri": "http://sink" },
    });
    for (name, value) in spec.as_object().unwrap() {
        whole[name] = value.clone();
    }
    json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "Subscription", "metadata": { "name": "sub" }, "spec": whole })
}

/// The faults without the file, as one text per fault.
fn faults(values: &[Value]) -> Vec<String> {
    let faults = build(values).err().unwrap_or_default();
    faults.iter().map(|fault| fault.strip_prefix("f.yaml: ").unwrap().to_owned()).collect()
}

fn only_channel(spec: Value) -> Channel {
    build(&[channel(spec)]).unwrap().channels.into_values().next().unwrap()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

#[test]
fn every_kind_and_version_of_the_contract_is_read() {
    for (api_version, kind) in [
        ("messaging.knative.dev/v1alpha1", "NatsJetStreamChannel"),
        ("messaging.knative.dev/v1", "Channel"),
        ("messaging.knative.dev/v1alpha1", "NatssChannel"),
        ("messaging.knative.dev/v1beta1", "NatssChannel"),
        ("eventing.knative.dev/v1", "Broker"),
    ] {
        let value = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a", "namespace": "b" } });
        assert_eq!(build(&[value]).unwrap().channels.into_keys().collect::<Vec<_>>(), [key("b/a")], "{kind}");
    }
    for version in ["v1", "v1beta1"] {
        let mut value = subscription(json!({}));
        value["apiVersion"] = format!("messaging.knative.dev/{version}").into();
        let desired = build(&[value]).unwrap();
        assert_eq!(desired.subscriptions[&key("default/sub")].channel, key("default/foo"));
        assert_eq!(desired.undeclared_channels().count(), 1);
    }
}

#[test]
fn a_known_kind_under_a_wrong_api_version_names_the_right_ones() {
    for (api_version, kind, expected) in [
        ("messaging.knative.dev/v1", "NatsJetStreamChannel", "messaging.knative.dev/v1alpha1"),
        ("messaging.knative.dev/v1beta1", "Channel", "messaging.knative.dev/v1"),
        ("v1", "Channel", "messaging.knative.dev/v1"),
        ("eventing.knative.dev/v1", "Channel", "messaging.knative.dev/v1"),
        ("eventing.knative.dev/v1beta1", "Broker", "eventing.knative.dev/v1"),
        ("messaging.knative.dev/v1", "Trigger", "eventing.knative.dev/v1"),
        ("eventin.knative.de/v1", "Trigger", "eventing.knative.dev/v1"),
        ("mesaging.knative.dev/v1", "Subscription", "messaging.knative.dev/v1 or messaging.knative.dev/v1beta1"),
        ("messaging.knative.de/v1", "Subscription", "messaging.knative.dev/v1 or messaging.knative.dev/v1beta1"),
    ] {
        let value = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a" } });
        let expected = format!("document 1: the apiVersion of a {kind} is {expected}, found {api_version}");
        assert_eq!(faults(&[value]), [expected]);
    }
}

#[test]
fn other_kinds_are_skipped() {
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("sources.knative.dev/v1", "SinkBinding"),
        ("sources.knative.dev/v1", "PingSource"),
        ("triggers.tekton.dev/v1beta1", "Trigger"),
        ("rabbitmq.com/v1beta1", "Broker"),
        ("operators.coreos.com/v1alpha1", "Subscription"),
        ("v1", "ConfigMapList"),
    ] {
        let value = json!({ "apiVersion": api_version, "kind": kind, "anything": 1 });
        assert_eq!(build(&[value]), Ok(Desired::default()), "{kind}");
    }
}

#[test]
fn what_is_no_resource_is_a_fault() {
    for (value, part) in [
        (json!([]), "expected an object with apiVersion and kind"),
        (json!("text"), "expected an object with apiVersion and kind"),
        (json!({}), "apiVersion is missing"),
        (json!({ "apiVersion": "v1" }), "kind is missing"),
        (json!({ "apiVersion": "v1", "kind": "" }), "kind is missing"),
        (json!({ "apiVersion": 1, "kind": "x" }), "apiVersion is not a string"),
    ] {
        assert!(faults(std::slice::from_ref(&value))[0].contains(part), "{value}");
    }
}

#[test]
fn lists_are_expanded_and_their_items_checked() {
    let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" },
        "items": [channel(json!({})), subscription(json!({})), { "apiVersion": "v1", "kind": "Pod" }] });
    let desired = build(&[list]).unwrap();
    assert_eq!((desired.channels.len(), desired.subscriptions.len()), (1, 1));

    let typed = json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "ChannelList",
        "items": [{ "metadata": { "name": "a" } }, { "metadata": { "name": "b" }, "spec": { "x": 1 } }] });
    assert_eq!(
        faults(&[typed]),
        ["document 1: items[1].spec.x: unknown field, expected one of channelTemplate, subscribers, delivery"]
    );

    let wrong = json!({ "apiVersion": "v1", "kind": "List", "items": [3], "more": 1 });
    assert_eq!(faults(&[wrong]).len(), 2);
    assert_eq!(
        faults(&[json!({ "apiVersion": "v1", "kind": "List" })]),
        ["document 1: items: is missing, expected a list of resources"]
    );
}

#[test]
fn metadata_is_that_of_kubernetes_and_nothing_else() {
    let whole = json!({ "name": "foo", "namespace": "bar", "labels": { "a": "b" }, "annotations": { "x/y": "z" },
        "generateName": "f", "uid": "1", "resourceVersion": "1", "generation": 1, "creationTimestamp": null,
        "deletionTimestamp": null, "selfLink": "", "ownerReferences": [], "finalizers": ["f"], "managedFields": [] });
    let mut value = channel(json!({}));
    value["metadata"] = whole;
    value["status"] = json!({ "conditions": [] });
    assert!(build(&[value]).unwrap().channels.contains_key(&key("bar/foo")));

    for (metadata, expected) in [
        (json!({}), "metadata.name: is missing, expected the resource's name"),
        (json!({ "name": "foo", "lables": {} }), "metadata.lables: unknown field, did you mean labels?"),
        (
            json!({ "name": "foo", "labels": { "a": 1 } }),
            "metadata.labels[a]: found the number 1, expected a string: put it in quotes",
        ),
        (json!({ "name": "foo", "annotations": [] }), "metadata.annotations: found a list, expected an object"),
        (
            json!({ "name": "foo", "generation": "1" }),
            "metadata.generation: found the string \"1\", expected an integer",
        ),
        (json!({ "name": "foo", "finalizers": {} }), "metadata.finalizers: found an object, expected a list"),
        (
            json!({ "name": "foo", "annotations": { "knats.dev/x": "1" } }),
            "metadata.annotations[knats.dev/x]: unknown annotation",
        ),
        (json!({ "name": "Foo" }), "metadata.name: found the string \"Foo\", expected at most 253"),
        (
            json!({ "name": "foo", "namespace": "a.b" }),
            "metadata.namespace: found the string \"a.b\", expected at most 63",
        ),
        (json!({ "name": 1 }), "metadata.name: found the number 1, expected a string"),
        (json!([]), "metadata: found a list, expected an object"),
        (Value::Null, "metadata: is missing"),
    ] {
        let mut value = channel(json!({}));
        value["metadata"] = metadata;
        let faults = faults(&[value]);
        assert!(
            faults.len() == 1 && faults[0].starts_with(&format!("document 1: {expected}")),
            "{faults:#?} {expected}"
        );
    }
}

#[test]
fn two_resources_of_one_name_name_both_places() {
    let mut natss =
        json!({ "apiVersion": "messaging.knative.dev/v1beta1", "kind": "NatssChannel", "metadata": { "name": "foo" } });
    let documents =
        [channel(json!({})), natss.clone(), subscription(json!({})), subscription(json!({ "reply": null }))];
    assert_eq!(
        faults(&documents),
        [
            "document 2: the channel default/foo is declared already in f.yaml document 1, expected one channel of that name",
            "document 4: the subscription default/sub is declared already in f.yaml document 3, expected one subscription of that name",
        ]
    );
    natss["metadata"]["namespace"] = "other".into();
    assert_eq!(build(&[channel(json!({})), natss]).unwrap().channels.len(), 2);
}

#[test]
fn all_faults_of_all_documents_are_told() {
    let mut unnamed = channel(json!({ "strem": {}, "delivery": { "retry": -1 } }));
    unnamed["metadata"] = json!({});
    let faults = faults(&[unnamed, subscription(json!({ "channel": null, "subscriber": null, "extra": 1 }))]);
    assert_eq!(faults.len(), 6, "{faults:#?}");
}

#[test]
fn a_stream_template_is_read_whole() {
    let spec = json!({ "stream": { "overrideName": "ORDERS", "config": {
        "additionalSubjects": ["orders.>"], "retention": "Interest", "maxConsumers": 5, "maxMsgs": 1, "maxMsgsPerSubject": -1,
        "maxBytes": 1024, "discard": "New", "maxAge": "168h", "maxMsgSize": 100, "storage": "Memory", "replicas": 3,
        "noAck": false, "duplicateWindow": "1m30s", "placement": { "cluster": "c", "tags": ["a"] }, "mirror": null,
        "sources": [{ "name": "S", "optStartSeq": 7, "optStartTime": "2026-01-01T00:00:00Z", "filterSubject": "a.*" }, { "name": "T" }],
    } }, "subscribers": [{ "anything": 1 }], "deploymentSpecTemplate": { "affinity": {} } });
    let expected = StreamTemplate {
        override_name: Some("ORDERS".to_owned()),
        additional_subjects: vec!["orders.>".to_owned()],
        retention: Some(Retention::Interest),
        max_consumers: Some(5),
        max_msgs: Some(1),
        max_msgs_per_subject: Some(-1),
        max_bytes: Some(1024),
        discard: Some(Discard::New),
        max_age: Some(Duration::from_secs(168 * 3600)),
        max_msg_size: Some(100),
        storage: Some(Storage::Memory),
        replicas: Some(3),
        no_ack: Some(false),
        duplicate_window: Some(Duration::from_secs(90)),
        placement: Some(Placement { cluster: Some("c".to_owned()), tags: vec!["a".to_owned()] }),
        mirror: None,
        sources: vec![
            Source {
                name: "S".to_owned(),
                start_sequence: Some(7),
                start_time: None,
                filter_subject: Some("a.*".to_owned()),
            },
            Source { name: "T".to_owned(), start_sequence: None, start_time: None, filter_subject: None },
        ],
    };
    assert_eq!(only_channel(spec.clone()).stream, expected);

    let through_channel = json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "Channel", "metadata": { "name": "foo" },
        "spec": { "channelTemplate": { "apiVersion": "messaging.knative.dev/v1alpha1", "kind": "NatsJetStreamChannel", "spec": spec } } });
    assert_eq!(build(&[through_channel]).unwrap().channels[&key("default/foo")].stream, expected);
}

#[test]
fn zero_limits_of_a_stream_are_not_set_but_a_zero_age_is_no_limit() {
    let config = json!({ "maxConsumers": 0, "maxMsgs": 0, "maxMsgsPerSubject": 0, "maxBytes": 0, "maxMsgSize": 0,
        "duplicateWindow": "0s", "maxAge": "0s" });
    let expected = StreamTemplate { max_age: Some(Duration::ZERO), ..StreamTemplate::default() };
    assert_eq!(only_channel(json!({ "stream": { "config": config } })).stream, expected);
}

#[test]
fn every_wrong_field_of_a_stream_template_is_a_fault() {
    for (field, value, expected) in [
        ("additionalSubjects", json!("a"), "a list"),
        ("additionalSubjects", json!(["a b"]), "a NATS subject"),
        ("additionalSubjects", json!([null]), "a string"),
        ("retention", json!("limits"), "one of Limits, Interest, Work"),
        ("maxConsumers", json!(-2), "an integer from -1 to 2147483647"),
        ("maxConsumers", json!(2_147_483_648_i64), "an integer from -1 to 2147483647"),
        ("maxMsgs", json!("1"), "an integer from -1 to 9223372036854775807"),
        ("maxMsgs", json!(-2), "an integer from -1"),
        ("maxMsgsPerSubject", json!(1.5), "an integer from -1"),
        ("maxBytes", json!(u64::MAX), "an integer from -1"),
        ("discard", json!("Oldest"), "one of Old, New"),
        ("maxAge", json!(7), "a string"),
        ("maxAge", json!("P7D"), "a duration such as 30s"),
        ("maxAge", json!("50ms"), "0s or a duration of at least 100ms"),
        ("maxMsgSize", json!(-2), "an integer from -1 to 2147483647"),
        ("storage", json!("file"), "one of File, Memory"),
        ("replicas", json!(0), "an integer from 1 to 5"),
        ("replicas", json!(6), "an integer from 1 to 5"),
        ("noAck", json!("no"), "true or false"),
        ("noAck", json!(true), "false or no value"),
        ("duplicateWindow", json!("-1s"), "a duration such as 30s"),
        ("duplicateWindow", json!("1ms"), "0s or a duration of at least 100ms"),
        ("placement", json!([]), "an object"),
        ("placement", json!({ "tags": "a" }), "a list"),
        ("placement", json!({ "tag": [] }), "did you mean tags?"),
        ("mirror", json!({ "name": "S" }), "expected sources instead"),
        ("sources", json!({}), "a list"),
        ("sources", json!([{}]), "is missing, expected the name of a stream"),
        ("sources", json!([{ "name": "a.b" }]), "the name of a stream"),
        ("sources", json!([{ "name": "a", "optStartSeq": -1 }]), "an integer from 0"),
        ("sources", json!([{ "name": "a", "optStartTime": "yesterday" }]), "an RFC 3339 time"),
        ("sources", json!([{ "name": "a", "filterSubject": "" }]), "a NATS subject"),
        ("maxMessages", json!(1), "unknown field"),
    ] {
        let faults = faults(&[channel(json!({ "stream": { "config": { field: value } } }))]);
        let start = format!("document 1: spec.stream.config.{field}");
        assert!(
            faults.len() == 1 && faults[0].starts_with(&start) && faults[0].contains(expected),
            "{field} {faults:#?}"
        );
    }
    let longer = channel(json!({ "stream": { "config": { "maxAge": "1m", "duplicateWindow": "2m" } } }));
    assert_eq!(
        faults(&[longer]),
        ["document 1: spec.stream.config.duplicateWindow: is longer than maxAge, expected at most that"]
    );
    let reserved = channel(json!({ "stream": { "overrideName": "KN_DEADLETTERS" } }));
    assert!(faults(&[reserved])[0].contains("another stream"));
    let deep = channel(json!({ "stream": { "config": { "sources": [{ "name": 3 }] } } }));
    assert_eq!(
        faults(&[deep]),
        ["document 1: spec.stream.config.sources[0].name: found the number 3, expected a string"]
    );
}

#[test]
fn a_consumer_template_is_read_whole() {
    let spec = json!({ "consumerConfigTemplate": { "deliverPolicy": "New", "ackWait": "1m", "maxDeliver": 5, "filterSubject": "a.>",
        "replayPolicy": "Original", "rateLimitBPS": 1000, "sampleFrequency": "30%", "maxAckPending": 7, "consumerType": "Pull",
        "fetchBatchSize": 10, "fetchMaxWait": 0 } });
    let expected = ConsumerTemplate {
        deliver_policy: Some(DeliverPolicy::New),
        ack_wait: Some(Duration::from_secs(60)),
        max_ack_pending: Some(7),
        filter_subject: Some("a.>".to_owned()),
        replay_original: Some(true),
        rate_limit_bps: Some(1000),
        sample_frequency: Some(30),
    };
    assert_eq!(only_channel(spec).consumer, expected);
}

#[test]
fn a_deliver_policy_and_its_start_must_match() {
    let time = "2026-01-31T12:00:00+01:00";
    let start = DeliverPolicy::ByStartTime(time.parse().unwrap());
    for (template, expected) in [
        (json!({}), Ok(None)),
        (json!({ "optStartSeq": 0 }), Ok(None)),
        (json!({ "deliverPolicy": "All" }), Ok(Some(DeliverPolicy::All))),
        (json!({ "deliverPolicy": "Last" }), Ok(Some(DeliverPolicy::Last))),
        (json!({ "deliverPolicy": "ByStartSequence", "optStartSeq": 3 }), Ok(Some(DeliverPolicy::ByStartSequence(3)))),
        (json!({ "deliverPolicy": "ByStartTime", "optStartTime": time }), Ok(Some(start))),
        (json!({ "deliverPolicy": "ByStartSequence" }), Err("optStartSeq is missing")),
        (json!({ "deliverPolicy": "ByStartSequence", "optStartSeq": 0 }), Err("optStartSeq is missing")),
        (json!({ "deliverPolicy": "ByStartTime" }), Err("optStartTime is missing")),
        (json!({ "deliverPolicy": "ByStartTime", "optStartTime": "noon" }), Err("an RFC 3339 time")),
        (json!({ "optStartSeq": 3 }), Err("counts only with a deliverPolicy of ByStartSequence")),
        (
            json!({ "deliverPolicy": "All", "optStartSeq": 3 }),
            Err("counts only with a deliverPolicy of ByStartSequence"),
        ),
        (
            json!({ "deliverPolicy": "New", "optStartTime": time }),
            Err("counts only with a deliverPolicy of ByStartTime"),
        ),
        (
            json!({ "deliverPolicy": "all", "optStartSeq": 3 }),
            Err("one of All, Last, New, ByStartSequence, ByStartTime"),
        ),
    ] {
        let value = channel(json!({ "consumerConfigTemplate": template }));
        match expected {
            Ok(policy) => {
                let channels = build(&[value]).unwrap().channels;
                assert_eq!(channels[&key("default/foo")].consumer.deliver_policy, policy, "{template}");
            }
            Err(part) => {
                let faults = faults(&[value]);
                assert!(faults.len() == 1 && faults[0].contains(part), "{template} {faults:#?}");
            }
        }
    }
}

#[test]
fn every_wrong_field_of_a_consumer_template_is_a_fault() {
    for (field, value, expected) in [
        ("ackWait", json!("0s"), "a duration from 1s to 24h"),
        ("ackWait", json!("999ms"), "a duration from 1s to 24h"),
        ("ackWait", json!("24h1s"), "a duration from 1s to 24h"),
        ("ackWait", json!("PT30S"), "a duration such as 30s"),
        ("ackWait", json!(30), "a string"),
        ("maxDeliver", json!("5"), "an integer from -1"),
        ("filterSubject", json!("a..b"), "a NATS subject"),
        ("replayPolicy", json!("instant"), "one of Instant, Original"),
        ("rateLimitBPS", json!(-1), "an integer from 0"),
        ("sampleFrequency", json!("101"), "a percentage from 0 to 100"),
        ("sampleFrequency", json!("+5"), "a percentage from 0 to 100"),
        ("sampleFrequency", json!("%"), "a percentage from 0 to 100"),
        ("sampleFrequency", json!(30), "a string"),
        ("maxAckPending", json!(-2), "an integer from -1"),
        ("consumerType", json!("Both"), "one of Push, Pull"),
        ("fetchBatchSize", json!(0), "an integer from 1"),
        ("fetchMaxWait", json!("1s"), "an integer from 0"),
        ("deliveryPolicy", json!("All"), "did you mean deliverPolicy?"),
    ] {
        let faults = faults(&[channel(json!({ "consumerConfigTemplate": { field: value } }))]);
        let start = format!("document 1: spec.consumerConfigTemplate.{field}");
        assert!(
            faults.len() == 1 && faults[0].starts_with(&start) && faults[0].contains(expected),
            "{field} {faults:#?}"
        );
    }
}

#[test]
fn a_channel_template_needs_its_type_and_is_read_for_any_channel() {
    let with = |template: Value| json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "Channel", "metadata": { "name": "foo" }, "spec": { "channelTemplate": template } });
    assert!(build(&[with(json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "InMemoryChannel" }))]).is_ok());
    for (template, part) in [
        (json!({ "kind": "NatsJetStreamChannel" }), "spec.channelTemplate.apiVersion: is missing"),
        (json!({ "apiVersion": "messaging.knative.dev/v1alpha1" }), "spec.channelTemplate.kind: is missing"),
        (json!({ "apiVersion": "v1", "kind": "Service" }), "a Service is no channel"),
        (
            json!({ "apiVersion": "v1", "kind": "Channel", "spec": { "x": 1 } }),
            "spec.channelTemplate.spec.x: unknown field",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "Channel", "metadata": {} }),
            "spec.channelTemplate.metadata: unknown field",
        ),
    ] {
        let faults = faults(&[with(template)]);
        assert!(faults.len() == 1 && faults[0].contains(part), "{faults:#?}");
    }
    let natss = json!({ "apiVersion": "messaging.knative.dev/v1beta1", "kind": "NatssChannel", "metadata": { "name": "foo" }, "spec": { "stream": {} } });
    assert_eq!(faults(&[natss]), ["document 1: spec.stream: unknown field, expected one of subscribers, delivery"]);
}

#[test]
fn a_subscription_needs_a_channel_and_somewhere_to_deliver_to() {
    for (spec, expected) in [
        (json!({ "subscriber": null }), "spec: names nowhere to deliver to, expected subscriber or reply or both"),
        (json!({ "channel": null }), "spec.channel: is missing, expected a reference to a channel"),
        (
            json!({ "channel": { "apiVersion": "v1", "kind": "Service", "name": "x" } }),
            "spec.channel: found a reference to a Service, expected one to a channel, such as kind Channel",
        ),
        (
            json!({ "channel": { "apiVersion": "v1", "kind": "Channel" } }),
            "spec.channel.name: is missing, expected the name of an object",
        ),
        (
            json!({ "channel": { "kind": "Channel", "name": "x" } }),
            "spec.channel.apiVersion: is missing, expected an API version such as v1",
        ),
        (
            json!({ "channel": { "apiVersion": "v1", "kind": "Channel", "name": "x", "uid": "1" } }),
            "spec.channel.uid: unknown field, expected one of address, group, apiVersion, kind, namespace, name",
        ),
        (json!({ "chanel": {} }), "spec.chanel: unknown field, did you mean channel?"),
        (
            json!({ "delivery": { "deadLeterSink": {} } }),
            "spec.delivery.deadLeterSink: unknown field, did you mean deadLetterSink?",
        ),
    ] {
        assert_eq!(faults(&[subscription(spec)]), [format!("document 1: {expected}")]);
    }
    let mut bare = subscription(json!({}));
    bare["spec"] = Value::Null;
    assert_eq!(faults(&[bare]), ["document 1: spec: is missing, expected an object with channel and subscriber"]);
}

#[test]
fn a_subscription_may_have_a_reply_only_and_any_kind_of_channel() {
    let channel = json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "InMemoryChannel", "name": "foo", "namespace": "other" });
    let desired =
        build(&[subscription(json!({ "subscriber": null, "reply": { "uri": "http://r" }, "channel": channel }))])
            .unwrap();
    let subscription = &desired.subscriptions[&key("default/sub")];
    assert_eq!(subscription.subscriber, None);
    assert_eq!(subscription.reply, Some(Destination::Url("http://r".into())));
    assert_eq!(subscription.channel, key("other/foo"));
}

#[test]
fn delivery_options_are_looked_up_in_the_subscription_then_the_channel_then_the_process() {
    let delivery = |retry: u32, dead_letter_sink: Option<&str>| Delivery {
        retry,
        dead_letter_sink: dead_letter_sink.map(|url| Destination::Url(url.into())),
        ..Delivery::PROCESS_DEFAULT
    };
    let sink = |url: &str| json!({ "uri": url });
    for (own, of_channel, expected) in [
        (json!(null), json!(null), delivery(10, None)),
        (json!({}), json!({}), delivery(10, None)),
        (json!({ "retry": null }), json!({ "retry": null }), delivery(10, None)),
        (json!(null), json!({ "retry": 3 }), delivery(3, None)),
        (json!({}), json!({ "retry": 3 }), delivery(3, None)),
        (json!(null), json!({ "deadLetterSink": sink("http://c") }), delivery(0, Some("http://c"))),
        (
            json!({ "retry": 1 }),
            json!({ "retry": 3, "deadLetterSink": sink("http://c") }),
            delivery(1, Some("http://c")),
        ),
        (json!({ "retry": 0 }), json!({ "retry": 3 }), delivery(0, None)),
        (
            json!({ "deadLetterSink": sink("http://s") }),
            json!({ "retry": 3, "deadLetterSink": sink("http://c") }),
            delivery(0, Some("http://s")),
        ),
        (
            json!({ "format": "json" }),
            json!({ "retry": 3, "deadLetterSink": sink("http://c") }),
            Delivery { format: Format::Json, ..delivery(0, Some("http://c")) },
        ),
        (
            json!({ "backoffDelay": "PT1S" }),
            json!({ "timeout": "PT9S", "format": "json" }),
            Delivery { backoff_delay: Duration::from_secs(1), ..delivery(0, None) },
        ),
        (
            json!(null),
            json!({ "timeout": "PT9S" }),
            Delivery { timeout: Some(Duration::from_secs(9)), ..delivery(0, None) },
        ),
        (
            json!({ "backoffPolicy": "linear" }),
            json!(null),
            Delivery { backoff_policy: BackoffPolicy::Linear, ..delivery(0, None) },
        ),
    ] {
        let documents = [subscription(json!({ "delivery": own })), channel(json!({ "delivery": of_channel }))];
        let desired = build(&documents).unwrap();
        assert_eq!(desired.subscriptions[&key("default/sub")].delivery, expected, "{own} {of_channel}");
    }
}

#[test]
fn the_delivery_of_a_generic_channel_wins_over_that_of_its_template() {
    for (own, expected) in [(json!(null), 5), (json!({}), 5), (json!({ "retry": 2 }), 2)] {
        let channel = json!({ "apiVersion": "messaging.knative.dev/v1", "kind": "Channel", "metadata": { "name": "foo" }, "spec": { "delivery": own,
            "channelTemplate": { "apiVersion": "messaging.knative.dev/v1alpha1", "kind": "NatsJetStreamChannel", "spec": { "delivery": { "retry": 5 } } } } });
        let desired = build(&[channel, subscription(json!({}))]).unwrap();
        assert_eq!(desired.subscriptions[&key("default/sub")].delivery.retry, expected);
    }
}

mod brokers;

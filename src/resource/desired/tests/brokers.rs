//! Brokers, triggers, and what subscriptions and triggers say beside Knative.

use super::*;
use crate::resource::{Batch, Ordering};

fn broker(spec: Value) -> Value {
    json!({ "apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": { "name": "b",
        "annotations": { "eventing.knative.dev/broker.class": "NatsJetStreamBroker" } }, "spec": spec })
}

fn trigger(spec: Value) -> Value {
    let mut whole = json!({ "broker": "b", "subscriber": { "uri": "http://sink" } });
    for (name, value) in spec.as_object().unwrap() {
        whole[name] = value.clone();
    }
    json!({ "apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": { "name": "t" }, "spec": whole })
}

fn annotated(mut value: Value, annotations: Value) -> Value {
    value["metadata"]["annotations"] = annotations;
    value
}

fn broker_ref() -> Value {
    json!({ "ref": { "apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": "b" } })
}

#[test]
fn a_broker_is_a_channel_with_broker_rules_and_any_config() {
    for config in [json!(null), json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "c" }), json!("x"), json!([1])]
    {
        let channel = &build(&[broker(json!({ "config": config }))]).unwrap().channels[&key("default/b")];
        let expected = Channel {
            key: key("default/b"),
            kind: ChannelKind::Broker,
            stream: StreamTemplate::default(),
            consumer: ConsumerTemplate::default(),
            allowed_subjects: None,
        };
        assert_eq!(*channel, expected, "{config}");
    }
    assert_eq!(build(&[channel(json!({}))]).unwrap().channels[&key("default/foo")].kind, ChannelKind::Channel);
    assert_eq!(
        faults(&[broker(json!({ "stream": {} }))]),
        ["document 1: spec.stream: unknown field, expected one of config, delivery"]
    );
}

#[test]
fn a_trigger_reads_its_broker_and_answers_into_it() {
    let mut elsewhere = trigger(json!({}));
    elsewhere["metadata"]["namespace"] = "ns".into();
    let desired = build(&[elsewhere, trigger(json!({})), broker(json!({}))]).unwrap();
    for (name, broker) in [("default/t", "default/b"), ("ns/t", "ns/b")] {
        let trigger = &desired.subscriptions[&key(name)];
        assert_eq!(trigger.kind, SubscriptionKind::Trigger);
        assert_eq!(trigger.channel, key(broker));
        assert_eq!(trigger.reply, Some(Destination::Channel(key(broker))));
        assert_eq!(trigger.subscriber, Some(Destination::Url("http://sink".into())));
        assert_eq!((&trigger.filter, &trigger.controls), (&None, &Controls::default()));
    }
    // A broker that nobody declares may still come.
    let waiting: Vec<&Key> = desired.undeclared_channels().map(|subscription| &subscription.key).collect();
    assert_eq!(waiting, [&key("ns/t")]);
}

#[test]
fn a_trigger_needs_a_broker_and_a_subscriber() {
    for (spec, expected) in [
        (json!({ "broker": null }), "spec.broker: is missing, expected the name of a broker in the same namespace"),
        (json!({ "broker": 1 }), "spec.broker: found the number 1, expected a string"),
        (json!({ "broker": "" }), "spec.broker: found the string \"\", expected at most 253"),
        (json!({ "broker": "ns/b" }), "spec.broker: found the string \"ns/b\", expected at most 253"),
        (json!({ "subscriber": null }), "spec.subscriber: is missing, expected a destination with ref or uri"),
        (json!({ "subscriber": {} }), "spec.subscriber: names no destination, expected ref or uri"),
        (
            json!({ "subscriber": { "uri": "/x" } }),
            "spec.subscriber.uri: found the string \"/x\", expected an absolute",
        ),
        (json!({ "reply": { "uri": "http://r" } }), "spec.reply: unknown field, expected one of broker, subscriber"),
        (json!({ "fitlers": [] }), "spec.fitlers: unknown field, did you mean filters?"),
        (json!({ "delivery": { "retry": -1 } }), "spec.delivery.retry: found the number -1"),
        (json!({ "filter": [] }), "spec.filter: found a list, expected an object"),
        (json!({ "filter": { "type": "x" } }), "spec.filter.type: unknown field, expected one of attributes"),
    ] {
        let faults = faults(&[trigger(spec)]);
        assert!(
            faults.len() == 1 && faults[0].starts_with(&format!("document 1: {expected}")),
            "{faults:#?} {expected}"
        );
    }
    let mut bare = trigger(json!({}));
    bare["spec"] = Value::Null;
    assert_eq!(faults(&[bare]), ["document 1: spec: is missing, expected an object with broker and subscriber"]);
}

#[test]
fn filters_that_select_nothing_in_particular_are_none() {
    for spec in [
        json!({ "filter": null, "filters": null }),
        json!({ "filter": {}, "filters": [] }),
        json!({ "filter": { "attributes": {} } }),
    ] {
        assert_eq!(build(&[trigger(spec)]).unwrap().subscriptions[&key("default/t")].filter, None);
    }
    let empty = annotated(subscription(json!({})), json!({ "knats.dev/filters": "[]" }));
    assert_eq!(build(&[empty]).unwrap().subscriptions[&key("default/sub")].filter, None);
}

#[test]
fn the_delivery_of_a_trigger_replaces_that_of_its_broker_but_the_dead_letter_sink() {
    let dead = |name: &str| json!({ "uri": format!("http://{name}") });
    for (own, of_broker, retry, dead_letter_sink) in [
        (json!(null), json!(null), 10, None),
        (json!(null), json!({ "retry": 3, "deadLetterSink": dead("b") }), 3, Some("http://b")),
        (json!({ "timeout": "PT1S" }), json!({ "retry": 3, "deadLetterSink": dead("b") }), 0, Some("http://b")),
        (
            json!({ "retry": 1, "deadLetterSink": dead("t") }),
            json!({ "deadLetterSink": dead("b") }),
            1,
            Some("http://t"),
        ),
    ] {
        let documents = [trigger(json!({ "delivery": own })), broker(json!({ "delivery": of_broker }))];
        let delivery = &build(&documents).unwrap().subscriptions[&key("default/t")].delivery;
        let expected = dead_letter_sink.map(|url| Destination::Url(url.into()));
        assert_eq!((delivery.retry, &delivery.dead_letter_sink), (retry, &expected), "{own} {of_broker}");
    }
}

#[test]
fn a_reference_to_a_broker_is_the_declared_one_wherever_it_stands_in_the_files() {
    let ours = Destination::Channel(key("default/b"));
    let theirs = Destination::Url("http://broker-ingress.knative-eventing.svc.cluster.local/default/b".into());
    let reader = subscription(json!({ "reply": broker_ref(), "delivery": { "deadLetterSink": broker_ref() } }));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [broker(json!({}))] });
    let typed = json!({ "apiVersion": "eventing.knative.dev/v1", "kind": "BrokerList",
        "items": [{ "metadata": { "name": "b", "namespace": null } }] });
    let mut elsewhere = broker(json!({}));
    elsewhere["metadata"]["namespace"] = "ns".into();
    for (documents, expected) in [
        (vec![reader.clone(), broker(json!({}))], &ours),
        (vec![broker(json!({})), reader.clone()], &ours),
        (vec![reader.clone(), list], &ours),
        (vec![reader.clone(), typed], &ours),
        (vec![reader.clone()], &theirs),
        (vec![reader, elsewhere], &theirs),
    ] {
        let desired = build(&documents).unwrap();
        let subscription = &desired.subscriptions[&key("default/sub")];
        assert_eq!(subscription.reply.as_ref(), Some(expected));
        assert_eq!(subscription.delivery.dead_letter_sink.as_ref(), Some(expected));
    }
}

#[test]
fn a_broker_and_a_channel_share_no_name_nor_do_a_trigger_and_a_subscription() {
    let mut foo = broker(json!({}));
    foo["metadata"]["name"] = "foo".into();
    assert_eq!(
        faults(&[channel(json!({})), foo.clone()]),
        [
            "document 2: the broker default/foo has the name of a channel in f.yaml document 1, expected another name: they \
          would share one path and one stream"
        ]
    );
    assert_eq!(
        faults(&[foo.clone(), channel(json!({}))]),
        [
            "document 2: the channel default/foo has the name of a broker in f.yaml document 1, expected another name: they \
          would share one path and one stream"
        ]
    );
    assert_eq!(
        faults(&[foo.clone(), foo.clone()]),
        [
            "document 2: the broker default/foo is declared already in f.yaml document 1, expected one broker of that name"
        ]
    );
    let mut sub = trigger(json!({}));
    sub["metadata"]["name"] = "sub".into();
    assert_eq!(
        faults(&[subscription(json!({})), sub]),
        [
            "document 2: the trigger default/sub has the name of a subscription in f.yaml document 1, expected another name: \
          their dead letters would share one subject"
        ]
    );
    foo["metadata"]["namespace"] = "ns".into();
    assert_eq!(build(&[channel(json!({})), foo]).unwrap().channels.len(), 2);
}

#[test]
fn a_trigger_reads_no_channel_and_a_subscription_no_broker() {
    let of_channel = trigger(json!({ "broker": "foo" }));
    assert_eq!(
        faults(&[of_channel, channel(json!({}))]),
        [
            "document 1: spec.broker: default/foo is a channel in f.yaml document 2, expected a broker; a Subscription is what \
          reads a channel"
        ]
    );
    let reference = |kind: &str| json!({ "apiVersion": "eventing.knative.dev/v1", "kind": kind, "name": "b" });
    let of_broker = subscription(json!({ "channel": reference("Channel") }));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [of_broker] });
    assert_eq!(
        faults(&[broker(json!({})), list]),
        [
            "document 2: items[0].spec.channel: default/b is a broker in f.yaml document 1, expected a channel; a Trigger is \
          what reads a broker"
        ]
    );
    assert_eq!(
        faults(&[subscription(json!({ "channel": reference("Broker") }))]),
        [
            "document 1: spec.channel: found a reference to a Broker, expected one to a channel, such as kind Channel; a \
          Trigger is what reads a broker"
        ]
    );
}

#[test]
fn annotations_control_subscriptions_and_triggers_alike() {
    let annotations = json!({ "knats.dev/batch": "20/1s", "knats.dev/paused": "true", "other.dev/x": "y",
        "knative.dev/dependency": "{\"kind\":\"PingSource\"}" });
    for (value, name) in [(subscription(json!({})), "default/sub"), (trigger(json!({})), "default/t")] {
        let desired = build(&[annotated(value, annotations.clone())]).unwrap();
        let batch = Batch { size: 20.try_into().unwrap(), wait: Duration::from_secs(1) };
        let expected = Controls { batch: Some(batch), paused: true, ordering: Ordering::None, ..Controls::default() };
        assert_eq!(desired.subscriptions[&key(name)].controls, expected);
    }
}

#[test]
fn a_wrong_annotation_is_a_fault_with_its_path() {
    for (annotations, expected) in [
        (
            json!({ "knats.dev/rate": "0" }),
            "[knats.dev/rate]: found the string \"0\", expected an integer from 1 to 1000000",
        ),
        (json!({ "knats.dev/rate": 5 }), "[knats.dev/rate]: found the number 5, expected a string: put it in quotes"),
        (
            json!({ "knats.dev/paused": true }),
            "[knats.dev/paused]: found the boolean true, expected a string: put it in quotes",
        ),
        (json!({ "knats.dev/rat": "5" }), "[knats.dev/rat]: unknown annotation, did you mean rate?"),
        (
            json!({ "knats.dev/filters": "" }),
            "[knats.dev/filters]: is no list, expected YAML text of a list of filters",
        ),
        (json!({ "knats.dev/filters": "exact: {type: x}" }), "[knats.dev/filters]: is no list"),
        (json!({ "knats.dev/filters": "[\n{a: }}]" }), "[knats.dev/filters]: is not valid YAML:"),
    ] {
        for value in [subscription(json!({})), trigger(json!({}))] {
            let faults = faults(&[annotated(value, annotations.clone())]);
            let start = format!("document 1: metadata.annotations{expected}");
            assert!(faults.len() == 1 && faults[0].starts_with(&start), "{faults:#?} {start}");
        }
    }
    for value in [broker(json!({})), channel(json!({}))] {
        let faults = faults(&[annotated(value, json!({ "knats.dev/rate": "5" }))]);
        let expected =
            "document 1: metadata.annotations[knats.dev/rate]: unknown annotation, expected knats.dev/allowed-subjects";
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:#?}");
    }
    let both =
        annotated(subscription(json!({ "delivery": { "format": "binary" } })), json!({ "knats.dev/batch": "9" }));
    assert!(
        faults(&[both])[0].starts_with("document 1: metadata.annotations[knats.dev/batch]: is always sent as JSON")
    );
}

#[test]
fn filters_count_before_the_older_filter_and_an_annotation_stands_for_them() {
    let list = json!([{ "exact": { "type": "a" } }, { "not": { "prefix": { "source": "/x" } } }]);
    let text = "- exact: {type: a}\n- not:\n    prefix: {source: /x}\n";
    let attributes = json!({ "type": "b", "subject": "" });
    let of_list = Some(Filter::compile(&list).unwrap());
    let of_attributes = Some(Filter::from_attributes(&attributes).unwrap());
    let older = json!({ "attributes": attributes });
    for (spec, annotation, expected) in [
        (json!({ "filters": list }), None, &of_list),
        (json!({ "filter": older }), None, &of_attributes),
        (json!({ "filters": list, "filter": older }), None, &of_list),
        (json!({ "filters": [], "filter": older }), None, &of_attributes),
        (json!({}), Some(text), &of_list),
        (json!({ "filter": older }), Some(text), &of_list),
        (json!({ "filters": [], "filter": older }), Some("[]"), &of_attributes),
    ] {
        let value =
            annotated(trigger(spec.clone()), annotation.map_or(json!({}), |text| json!({ "knats.dev/filters": text })));
        assert_eq!(
            build(&[value]).unwrap().subscriptions[&key("default/t")].filter,
            *expected,
            "{spec} {annotation:?}"
        );
    }
    let of_subscription = annotated(subscription(json!({})), json!({ "knats.dev/filters": text }));
    assert_eq!(build(&[of_subscription]).unwrap().subscriptions[&key("default/sub")].filter, of_list);

    let both = annotated(trigger(json!({ "filters": list })), json!({ "knats.dev/filters": text }));
    assert_eq!(
        faults(&[both]),
        ["document 1: metadata.annotations[knats.dev/filters]: spec.filters is there already, expected one of the two"]
    );
}

#[test]
fn a_fault_in_a_filter_has_its_whole_path() {
    let wrong = json!([{ "all": [{ "exact": { "type": "a" } }, { "cesql": "type = " }] }]);
    let older = json!({ "filter": { "attributes": { "Bad-Name": "x" } } });
    let annotation = json!({ "knats.dev/filters": wrong.to_string() });
    for (value, start) in [
        (trigger(json!({ "filters": wrong })), "spec.filters[0].all[1].cesql: "),
        (trigger(json!({ "filters": {} })), "spec.filters: "),
        (trigger(json!({ "filters": "x" })), "spec.filters: "),
        (trigger(older), "spec.filter.attributes.Bad-Name: "),
        (trigger(json!({ "filter": { "attributes": [] } })), "spec.filter.attributes: "),
        (
            annotated(subscription(json!({})), annotation.clone()),
            "metadata.annotations[knats.dev/filters][0].all[1].cesql: ",
        ),
        (annotated(trigger(json!({})), annotation), "metadata.annotations[knats.dev/filters][0].all[1].cesql: "),
    ] {
        let faults = faults(&[value]);
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("document 1: {start}")), "{start} {faults:#?}");
    }
}

#[test]
fn channels_and_brokers_say_whom_they_take_events_from_and_their_readers_do_not_notice() {
    let list = json!({ "knats.dev/allowed-subjects": "shop, billing:*" });
    for (plain, name) in [(channel(json!({})), "default/foo"), (broker(json!({})), "default/b")] {
        let open = build(std::slice::from_ref(&plain)).unwrap().channels.remove(&key(name)).unwrap();
        let guarded = build(&[annotated(plain, list.clone())]).unwrap().channels.remove(&key(name)).unwrap();
        assert!(guarded.allowed_subjects.as_ref().unwrap().allow("billing:a"));
        assert!(open != guarded && open.reads_like(&guarded));
    }
    let other = build(&[channel(json!({ "stream": { "config": { "maxMsgs": 7 } } }))]).unwrap();
    let open = build(&[channel(json!({}))]).unwrap();
    assert!(!open.channels[&key("default/foo")].reads_like(&other.channels[&key("default/foo")]));
}

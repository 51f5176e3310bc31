//! `knats get`: what operators see of channels and subscriptions, with a bridge that runs and without one.

use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use serde_json::{Value, json};

use crate::support::process::{Ended, run};
use crate::support::resources::{
    broker, channel, channel_with, channel_with_stream, subscribe, subscription, to_yaml, trigger,
};
use crate::support::{Answer, Bridge, Gate, Nats, Sink, event, eventually, free_port, until};

const STREAM: &str = "KN_DEFAULT__FOO";

async fn get(nats: &Nats, args: &[&str]) -> Ended {
    let url = nats.url();
    run(&[&["get"], args, &["--nats-url", &url]].concat()).await
}

async fn json_of(nats: &Nats, args: &[&str]) -> Value {
    let ended = get(nats, &[args, &["-o", "json"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

/// The one subscription `default/sub`, once it is as told.
async fn sub(nats: &Nats, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let look = || async {
        let found = json_of(nats, &["subscriptions", "default/sub"]).await;
        assert_eq!(found.as_array().unwrap().len(), 1, "{found:#}");
        Some(found[0].clone()).filter(|found| is(found))
    };
    eventually(what, look).await
}

/// Words that change from run to run, replaced.
fn steady(table: &str, volatile: &[(&str, &str)]) -> String {
    let mut table = table.to_owned();
    for (found, shown) in volatile {
        table = table.replace(found, shown);
    }
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[tokio::test]
async fn channels_are_told_by_jetstream_alone() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let limits = json!({"maxAge": "1h", "maxMsgs": 1000, "maxBytes": 1_048_576, "discard": "New", "storage": "Memory"});
    let documents = [
        channel_with_stream("foo", limits),
        broker("shop"),
        channel("empty"),
        subscribe("one", "foo", &sink.url("/")),
        subscribe("two", "foo", &sink.url("/")),
        trigger("three", "shop", json!({"subscriber": {"uri": sink.url("/")}})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id)).await;
    }
    drop(bridge);
    let found = json_of(&nats, &["channels"]).await;
    let names: Vec<&str> = found.as_array().unwrap().iter().map(|channel| channel["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["empty", "foo", "shop"]);
    let mut foo = found[1].clone();
    assert!(foo["first_event"].as_str().unwrap() <= foo["last_event"].as_str().unwrap(), "{foo:#}");
    assert!(foo["bytes"].as_u64().unwrap() > 100);
    for volatile in ["bytes", "first_event", "last_event"] {
        foo.as_object_mut().unwrap().remove(volatile);
    }
    let expected = json!({
        "namespace": "default", "name": "foo", "kind": "channel", "stream": STREAM, "subject": "foo.default", "events": 3,
        "first_sequence": 1, "last_sequence": 3, "subscriptions": 2, "replicas": 1, "storage": "memory",
        "retention": "limits", "discard": "new", "max_age_seconds": 3600, "max_events": 1000, "max_bytes": 1_048_576,
        "max_event_bytes": null,
    });
    assert_eq!(foo, expected);
    assert_eq!((&found[2]["kind"], &found[2]["subscriptions"]), (&json!("broker"), &json!(1)));
    assert_eq!((&found[0]["events"], &found[0]["first_event"]), (&json!(0), &Value::Null));

    let ages = [("0s", "AGE"), ("1s", "AGE"), ("2s", "AGE"), ("3s", "AGE")];
    let size = json_of(&nats, &["channels"]).await[1]["bytes"].as_u64().unwrap();
    let size = (format!("{size} B"), "SIZE");
    let volatile = [&ages[..], &[(size.0.as_str(), size.1)]].concat();
    let table = get(&nats, &["channels"]).await.stdout;
    insta::assert_snapshot!(steady(&table, &volatile), @r"
    NAME KIND STREAM EVENTS BYTES OLDEST NEWEST SUBSCRIPTIONS
    default/empty channel KN_DEFAULT__EMPTY 0 0 B - - 0
    default/foo channel KN_DEFAULT__FOO 3 SIZE AGE AGE 2
    default/shop broker KN_DEFAULT__SHOP 0 0 B - - 1
    ");
    let wide = get(&nats, &["ch", "-o", "wide", "--namespace", "default"]).await.stdout;
    let line = wide.lines().find(|line| line.starts_with("default/foo")).unwrap();
    assert!(line.ends_with("memory   1         60m      1000        1.0 MiB    -          refuses"), "{wide}");
    assert_eq!(json_of(&nats, &["channels", "-n", "elsewhere"]).await, json!([]));
}

#[tokio::test]
async fn adopted_streams_are_shown_and_those_of_others_are_not() {
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    for (name, subject) in [("THEIRS", "theirs.>"), ("ORDERS", "orders.in"), (STREAM, "default.foo._knative")] {
        let config = stream::Config { name: name.into(), subjects: vec![subject.into()], ..Default::default() };
        jetstream.create_stream(config).await.unwrap();
    }
    let sink = Sink::start().await;
    let orders = channel_with("orders", json!({"stream": {"overrideName": "ORDERS"}}));
    let documents = [channel("foo"), orders, subscribe("sub", "orders", &sink.url("/"))];
    drop(Bridge::serve(&nats, &documents).await);
    let found = json_of(&nats, &["channels"]).await;
    let streams: Vec<(&Value, &Value)> =
        found.as_array().unwrap().iter().map(|channel| (&channel["name"], &channel["stream"])).collect();
    assert_eq!(streams, [(&json!("foo"), &json!(STREAM)), (&json!("orders"), &json!("ORDERS"))]);
    let config = nats.stream("ORDERS").await.get_info().await.unwrap().config;
    assert!(!config.metadata.keys().any(|key| key.starts_with("knats.dev/")), "{:?}", config.metadata);
}

#[tokio::test]
async fn a_subscription_that_works_is_delivering_or_idle() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let behind = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&behind)).await;
    let url = sink.url("/").replace("http://", "http://ann:secret@");
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &url)]).await;
    let idle = sub(&nats, "idle", |sub| sub["state"] == "idle").await;
    let expected = json!({
        "namespace": "default", "name": "sub", "kind": "subscription", "channel": "default/foo", "stream": STREAM,
        "consumer": "KN_SUB_DEFAULT__SUB", "state": "idle", "reason": "", "lag": 0, "lag_seconds": 0, "undelivered": 0,
        "in_flight": 0, "waiting_for_retry": 0, "next_retry": null, "last_error": null,
        "sink": sink.url("/").replace("http://", "http://***@"), "reply": null, "dead_letter_sink": null, "filter": null,
        "ordering": null, "paused_until": null, "held_until": null, "bridges": 1, "max_unsettled": 20_000,
        "settled_sequence": 0, "delivered_sequence": 0, "last_active": null,
    });
    assert_eq!(idle, expected);
    for id in ["1", "2"] {
        bridge.send("foo", &event(id)).await;
    }
    // In seconds too, and they grow.
    let busy = sub(&nats, "two seconds behind", |sub| sub["lag_seconds"].as_u64() >= Some(2)).await;
    assert_eq!((&busy["state"], &busy["lag"], &busy["in_flight"]), (&json!("delivering"), &json!(2), &json!(2)));
    assert!(!busy.to_string().contains("secret"), "{busy:#}");
    let table = get(&nats, &["subscriptions"]).await.stdout;
    let age = table.lines().nth(1).unwrap().split_whitespace().nth(4).unwrap().to_owned();
    let sink_url = sink.url("/").replace("http://", "http://***@");
    insta::assert_snapshot!(steady(&table, &[(&age, "AGE"), (&sink_url, "SINK")]), @r"
    NAME CHANNEL STATE LAG AGE IN FLIGHT RETRYING LAST ERROR SINK REASON
    default/sub default/foo delivering 2 AGE 2 0 - SINK -
    ");
    gate.open();
    sub(&nats, "idle again", |sub| sub["state"] == "idle" && sub["lag"] == 0 && sub["settled_sequence"] == 2).await;
}

#[tokio::test]
async fn a_failure_is_shown_with_its_event_and_its_next_retry() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(500).body("out of\nink")).await;
    let delivery = json!({"retry": 5, "backoffPolicy": "linear", "backoffDelay": "PT60S"});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let failing = sub(&nats, "one waits for its retry", |sub| sub["waiting_for_retry"] == 1).await;
    let error = &failing["last_error"];
    assert_eq!(
        (&error["code"], &error["message"], &error["event_id"]),
        (&json!(500), &json!("out of\nink"), &json!("1"))
    );
    let time: jiff::Timestamp = error["time"].as_str().unwrap().parse().unwrap();
    let retry: jiff::Timestamp = failing["next_retry"].as_str().unwrap().parse().unwrap();
    let wait = retry.duration_since(time).as_secs();
    assert!((59..=68).contains(&wait), "{wait} s after the failure");
    assert_eq!(
        (&failing["in_flight"], &failing["lag"], &failing["state"]),
        (&json!(0), &json!(1), &json!("delivering"))
    );
    let details = get(&nats, &["sub", "default/sub"]).await.stdout;
    assert!(details.starts_with("default/sub\n  kind"), "{details}");
    assert!(details.contains("waiting for retry       1\n"), "{details}");
    assert!(details.contains("500 out of\u{fffd}ink ("), "{details}");
}

#[tokio::test]
async fn a_sink_that_is_away_shows_as_held_until_the_next_probe() {
    let nats = Nats::start().await;
    let url = format!("http://127.0.0.1:{}/", free_port());
    let delivery = json!({"retry": 100, "backoffPolicy": "linear", "backoffDelay": "PT1S"});
    let spec = json!({"subscriber": {"uri": url}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in 0..10 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let held = sub(&nats, "held", |sub| sub["state"] == "held").await;
    assert!(held["reason"].as_str().unwrap().contains("cannot be reached"), "{held:#}");
    assert!(held["held_until"].is_string() && held["lag"] == 10, "{held:#}");
    assert_eq!(held["last_error"]["code"], 500);
}

#[tokio::test]
async fn a_subscription_that_has_no_consumer_yet_is_shown_with_the_reason() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "nowhere", &sink.url("/"))]).spawn();
    let look = || async {
        let found = json_of(&nats, &["subscriptions"]).await;
        Some(found[0].clone()).filter(|sub| sub["state"] == "stalled" && sub["reason"] != "not looked for yet")
    };
    let stalled = eventually("it is shown", look).await;
    assert_eq!(stalled["reason"], "channel default/nowhere is not declared");
    let told = (&stalled["name"], &stalled["channel"], &stalled["lag"], &stalled["sink"]);
    assert_eq!(told, (&json!("sub"), &json!("default/nowhere"), &json!(0), &json!(sink.url("/"))));
}

/// A server where `all` may do everything and `some`, which is who does not say, may not publish and subscribe to these.
async fn denying(publish: &str, subscribe: &str) -> Nats {
    let denied = format!("publish: {{ deny: [\"{publish}\"] }}, subscribe: {{ deny: [\"{subscribe}\"] }}");
    Nats::start_with(&format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, \
         {{ user: some, password: p, permissions: {{ {denied} }} }} ] }} }}\nno_auth_user: some"
    ))
    .await
}

/// `knats get subscriptions -o json` as the user who may do everything.
async fn as_all(nats: &Nats) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "p\n").unwrap();
    let password = password.to_str().unwrap();
    json_of(nats, &["subscriptions", "--nats-user", "all", "--nats-password-file", password]).await
}

#[tokio::test]
async fn a_bridge_that_cannot_pull_shows_as_stalled_with_the_reason() {
    let nats = denying("$JS.API.CONSUMER.MSG.NEXT.>", "nothing").await;
    let sink = Sink::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).spawn();
    bridge.wait_for_readyz("503", |answer| answer.text().contains("MSG.NEXT")).await;
    let stalled = eventually("stalled", || async {
        Some(as_all(&nats).await[0].clone()).filter(|sub| sub["state"] == "stalled")
    })
    .await;
    assert!(stalled["reason"].as_str().unwrap().contains("MSG.NEXT"), "{stalled:#}");
}

#[tokio::test]
async fn a_bridge_that_may_not_be_asked_delivers_all_the_same() {
    let nats = denying("nothing", "knats.bridge.>").await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.settled(STREAM).await;
    let sub = as_all(&nats).await[0].clone();
    assert_eq!(
        (&sub["state"], &sub["in_flight"], &sub["bridges"]),
        (&json!("idle"), &Value::Null, &json!(0)),
        "{sub:#}"
    );
    let table = get(&nats, &["subscriptions"]).await.stdout;
    assert!(table.contains("idle   0    -    -          -         -"), "{table}");
    let log = bridge.stderr();
    assert_eq!(log.matches("ermissions Violation").count(), 1, "{log}");
}

#[tokio::test]
async fn an_operator_who_may_not_ask_bridges_is_told_so_and_sees_the_rest() {
    let nats = denying("knats.bridge.>", "nothing").await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let ended = get(&nats, &["subscriptions", "-o", "json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("warning: ") && ended.stderr.contains("knats.bridge.status"), "{}", ended.stderr);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&found[0]["name"], &found[0]["in_flight"]), (&json!("sub"), &Value::Null));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let nats = denying("$JS.API.STREAM.LIST", "nothing").await;
    for kind in ["channels", "subscriptions"] {
        let ended = get(&nats, &[kind]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert!(
            ended.stderr.contains("cannot list streams") && ended.stderr.contains("$JS.API.STREAM.LIST"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn without_a_bridge_it_says_that_nobody_pulls() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.settled(STREAM).await;
    bridge.kill9();
    nats.publish("foo.default", &[], "{}").await;
    let alone = sub(&nats, "no bridge", |sub| sub["state"] == "no_bridge").await;
    assert_eq!(alone["reason"], "1 events wait and no bridge pulls");
    assert_eq!((&alone["lag"], &alone["in_flight"], &alone["sink"]), (&json!(1), &Value::Null, &json!(sink.url("/"))));
}

#[tokio::test]
async fn two_bridges_are_taken_together() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let behind = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&behind)).await;
    let mut limited = subscribe("sub", "foo", &sink.url("/"));
    limited["metadata"]["annotations"] = json!({"knats.dev/max-in-flight": "4"});
    let documents = [channel("foo"), limited];
    let (one, _other) = (Bridge::serve(&nats, &documents).await, Bridge::serve(&nats, &documents).await);
    sub(&nats, "two bridges", |sub| sub["bridges"] == 2).await;
    for id in 0..7 {
        one.send("foo", &event(&id.to_string())).await;
    }
    let busy = sub(&nats, "four in flight", |sub| sub["in_flight"] == 4).await;
    let told = (&busy["lag"], &busy["undelivered"], &busy["max_unsettled"], &busy["waiting_for_retry"]);
    assert_eq!(told, (&json!(7), &json!(3), &json!(4), &json!(0)), "{busy:#}");
    gate.open();
    sub(&nats, "idle", |sub| sub["state"] == "idle").await;
}

#[tokio::test]
async fn unknown_names_and_wrong_ones_are_told_apart() {
    let nats = Nats::start().await;
    let ended = get(&nats, &["subscriptions", "default/sub"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("JetStream holds no subscription at all"), "{ended:?}");
    assert_eq!(get(&nats, &["subscriptions", "-o", "json"]).await.stdout, "[]\n");
    let sink = Sink::start().await;
    drop(Bridge::serve(&nats, &[channel("foo"), subscribe("orders", "foo", &sink.url("/"))]).await);
    let ended = get(&nats, &["subscriptions", "default/order"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("did you mean default/orders?"), "{ended:?}");
    for args in [&["subscriptions", "no-slash"][..], &["things"], &["channels", "-o", "xml"], &[]] {
        let ended = get(&nats, args).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    }
    let away = run(&["get", "channels", "--nats-url", "nats://ann:secret@127.0.0.1:1"]).await;
    assert_eq!(away.code, Some(1), "{away:?}");
    assert!(away.stderr.contains("cannot connect to NATS") && !away.stderr.contains("secret"), "{away:?}");
}

#[tokio::test]
async fn a_consumer_of_an_earlier_version_is_described_and_otherwise_left_as_it_is() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let filters = json!({"knats.dev/filters": "[{exact: {type: t}}]"});
    let mut declared = subscribe("sub", "foo", &sink.url("/"));
    declared["metadata"]["annotations"] = filters;
    let config = stream::Config { name: STREAM.into(), subjects: vec!["foo.default".into()], ..Default::default() };
    let stream = nats.jetstream().await.create_stream(config).await.unwrap();
    let earlier = consumer::pull::Config {
        durable_name: Some("KN_SUB_DEFAULT__SUB".into()),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 20_000,
        metadata: [("knats.dev/subscription", "default/sub"), ("mine", "stays")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    };
    let before = stream.create_consumer(earlier).await.unwrap().cached_info().clone();
    let bridge = Bridge::serve(&nats, &[channel("foo"), declared]).await;
    let now = nats.consumers(STREAM).await.remove(0);
    assert_eq!(now.created, before.created, "not made anew");
    let told = |key: &str| now.config.metadata.get(key).map(String::as_str);
    assert_eq!(told("mine"), Some("stays"));
    assert_eq!(told("knats.dev/channel"), Some("default/foo"));
    assert_eq!(told("knats.dev/kind"), Some("Subscription"));
    assert_eq!(told("knats.dev/subscriber"), Some(sink.url("/").as_str()));
    assert_eq!(told("knats.dev/filter"), Some(r#"[{"exact":{"type":"t"}}]"#));
    assert_eq!(told("knats.dev/reply"), None);
    let mut other = subscribe("sub", "foo", &sink.url("/other"));
    other["spec"]["reply"] = json!({"uri": sink.url("/replies")});
    bridge.write_text("resources.yaml", &to_yaml(&[channel("foo"), other]));
    until("the consumer tells of the change", || async {
        let metadata = nats.consumers(STREAM).await.remove(0).config.metadata;
        metadata.get("knats.dev/reply") == Some(&sink.url("/replies")) && !metadata.contains_key("knats.dev/filter")
    })
    .await;
}

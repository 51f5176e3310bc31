//! `knats diff` shows what `knats serve` would do to JetStream, touches nothing, and is right about what JetStream refuses.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};

use crate::support::process::{Ended, run};
use crate::support::resources::{
    broker, channel, channel_with, channel_with_stream, subscribe, subscription, to_yaml, trigger,
};
use crate::support::{Bridge, Nats, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const NOWHERE: &str = "http://127.0.0.1:1/";

/// Runs `knats diff` on these documents.
async fn diff(nats: &Nats, documents: &[Value], flags: &[&str]) -> Ended {
    diff_of(&nats.url(), &to_yaml(documents), flags).await
}

async fn diff_of(url: &str, yaml: &str, flags: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.yaml");
    std::fs::write(&file, yaml).unwrap();
    run(&[&["diff", "-f", file.to_str().unwrap(), "--nats-url", url], flags].concat()).await
}

/// The differences, and that the exit code tells of them.
async fn differences(nats: &Nats, documents: &[Value], flags: &[&str]) -> Vec<Value> {
    let ended = diff(nats, documents, &[flags, &["-o", "json"]].concat()).await;
    let found: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let expected = i32::from(found.iter().any(|difference| difference["change"] != "none"));
    assert_eq!(ended.code, Some(expected), "{ended:?}");
    found
}

/// The one about this stream, or about this consumer.
fn about<'a>(found: &'a [Value], name: &str) -> &'a Value {
    let named = |value: &&Value| value["consumer"] == name || (value["consumer"].is_null() && value["stream"] == name);
    found.iter().find(named).unwrap_or_else(|| panic!("nothing about {name} in {found:#?}"))
}

/// A bridge makes everything as these documents say, and ends.
async fn serve(nats: &Nats, documents: &[Value]) {
    Bridge::serve(nats, documents).await;
}

/// A call of the JetStream API by hand: its error's description, if there is one.
async fn refused(nats: &Nats, subject: &str, request: &Value) -> Option<String> {
    let answer = nats.client().await.request(subject.to_owned(), request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["error"]["description"].as_str().map(str::to_owned)
}

async fn keep(nats: &Nats, subject: &str, count: usize) {
    for number in 0..count {
        nats.publish(subject, &[], format!("{number}")).await;
    }
}

#[tokio::test]
async fn on_a_fresh_server_everything_is_to_be_made_and_nothing_is_made_by_looking() {
    let nats = Nats::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", NOWHERE)];
    let shown = diff(&nats, &documents, &[]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    insta::assert_snapshot!(shown.stdout, @r"
    + stream KN_DEADLETTERS
        allow_direct: true
        discard: old
        duplicate_window: 1h
        max_age: none
        num_replicas: 1
        retention: limits
        storage: file
        subjects: knats.deadletter.>
    + stream KN_DEFAULT__FOO (channel default/foo)
        allow_direct: true
        discard: old
        duplicate_window: 2m
        max_age: 168h
        num_replicas: 1
        retention: limits
        storage: file
        subjects: foo.default
    + consumer KN_SUB_DEFAULT__SUB of stream KN_DEFAULT__FOO (subscription default/sub)
        ack_policy: explicit
        ack_wait: 30s
        deliver_policy: all
        max_ack_pending: 20000
        replay_policy: instant
        starts with 0 kept events
    3 to create
    ");
    let found = differences(&nats, &documents, &[]).await;
    let expected =
        json!({"asset": "consumer", "change": "create", "stream": STREAM, "resource": "subscription default/sub"});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&about(&found, "KN_SUB_DEFAULT__SUB")[field], value, "{field}");
    }
    assert_eq!(nats.stream_names().await, Vec::<String>::new());
}

#[tokio::test]
async fn when_serve_has_done_it_there_is_no_difference() {
    let nats = Nats::start().await;
    let config = json!({
        "maxMsgs": 1000, "maxBytes": 1_000_000, "maxAge": "24h", "duplicateWindow": "1m", "discard": "New", "maxMsgSize": 4096,
        "maxMsgsPerSubject": 500, "retention": "Interest", "storage": "Memory", "maxConsumers": 10, "additionalSubjects": ["more.>"],
    });
    let template = json!({"ackWait": "10s", "maxAckPending": 7, "deliverPolicy": "New", "replayPolicy": "Original", "sampleFrequency": "30%"});
    let annotated = |mut document: Value, name: &str, value: &str| {
        document["metadata"]["annotations"] = json!({name: value});
        document
    };
    let since = json!({"deliverPolicy": "ByStartTime", "optStartTime": "2026-01-31T12:00:00.5+02:00"});
    let documents = [
        channel_with("foo", json!({"stream": {"config": config}, "consumerConfigTemplate": template})),
        channel_with("since", json!({"consumerConfigTemplate": since})),
        channel_with_stream("sourced", json!({"sources": [{"name": STREAM, "optStartSeq": 1}]})),
        broker("shop"),
        subscribe("sub", "foo", NOWHERE),
        subscribe("since", "since", NOWHERE),
        annotated(subscribe("keyed", "foo", NOWHERE), "knats.dev/ordering", "key"),
        annotated(subscribe("paused", "foo", NOWHERE), "knats.dev/paused", "true"),
        annotated(subscribe("later", "foo", NOWHERE), "knats.dev/start", "5"),
        trigger("all", "shop", json!({"subscriber": {"uri": NOWHERE}})),
        trigger("some", "shop", json!({"subscriber": {"uri": NOWHERE}, "filter": {"attributes": {"type": "a.b"}}})),
    ];
    assert_eq!(differences(&nats, &documents, &[]).await.len(), 12);
    serve(&nats, &documents).await;
    assert_eq!(differences(&nats, &documents, &["--prune"]).await, Vec::<Value>::new());
    let shown = diff(&nats, &documents, &[]).await;
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(0), "no difference\n"));
}

#[tokio::test]
async fn a_stream_change_is_said_to_be_impossible_just_when_jetstream_refuses_it() {
    let nats = Nats::start().await;
    let window = Duration::from_secs(120).as_nanos() as u64;
    let rules: [(&str, Value, Value); 19] = [
        ("storage-memory", json!({}), json!({"storage": "Memory"})),
        ("storage-file", json!({"storage": "memory"}), json!({"storage": "File"})),
        ("limits-interest", json!({}), json!({"retention": "Interest"})),
        ("limits-work", json!({}), json!({"retention": "Work"})),
        ("interest-limits", json!({"retention": "interest"}), json!({"retention": "Limits"})),
        ("interest-work", json!({"retention": "interest"}), json!({"retention": "Work"})),
        ("work-limits", json!({"retention": "workqueue"}), json!({"retention": "Limits"})),
        ("work-interest", json!({"retention": "workqueue"}), json!({"retention": "Interest"})),
        ("max-consumers", json!({}), json!({"maxConsumers": 5})),
        ("max-msgs", json!({}), json!({"maxMsgs": 5})),
        ("max-bytes", json!({}), json!({"maxBytes": 50_000})),
        ("per-subject", json!({}), json!({"maxMsgsPerSubject": 5})),
        ("max-msg-size", json!({}), json!({"maxMsgSize": 5000})),
        ("discard", json!({}), json!({"discard": "New"})),
        ("max-age", json!({}), json!({"maxAge": "1h"})),
        ("short-age", json!({"duplicate_window": window}), json!({"maxAge": "1m"})),
        ("window", json!({}), json!({"duplicateWindow": "10s"})),
        ("replicas", json!({}), json!({"replicas": 3})),
        ("sources", json!({}), json!({"sources": [{"name": "KN_DEFAULT__WINDOW"}]})),
    ];
    let mut documents = Vec::new();
    for (name, there, declared) in &rules {
        let stream = format!("KN_DEFAULT__{}", name.to_uppercase().replace('-', "_"));
        let mut config = json!({"name": stream, "subjects": [format!("{name}.default")], "storage": "file"});
        config.as_object_mut().unwrap().extend(there.as_object().unwrap().clone());
        assert_eq!(refused(&nats, &format!("$JS.API.STREAM.CREATE.{stream}"), &config).await, None, "{name}");
        documents.push(channel_with_stream(name, declared.clone()));
    }
    let found = differences(&nats, &documents, &[]).await;
    let mut impossible = 0;
    for (name, ..) in &rules {
        let stream = format!("KN_DEFAULT__{}", name.to_uppercase().replace('-', "_"));
        let difference = about(&found, &stream);
        let mut config = serde_json::to_value(nats.stream(&stream).await.get_info().await.unwrap().config).unwrap();
        for change in difference["fields"].as_array().unwrap() {
            config[change["field"].as_str().unwrap()] = change["to"].clone();
        }
        let refused = refused(&nats, &format!("$JS.API.STREAM.UPDATE.{stream}"), &config).await;
        assert_eq!(difference["change"] == "cannot", refused.is_some(), "{name}: {refused:?} {difference:#}");
        impossible += usize::from(refused.is_some());
    }
    assert_eq!(impossible, 8);
}

#[tokio::test]
async fn a_consumer_change_is_said_to_be_impossible_just_when_jetstream_refuses_it() {
    let nats = Nats::start().await;
    let second = Duration::from_secs(1).as_nanos() as u64;
    let by_sequence = json!({"deliver_policy": "by_start_sequence", "opt_start_seq": 3});
    let by_time = json!({"deliver_policy": "by_start_time", "opt_start_time": "2026-01-31T12:00:00Z"});
    let rules: [(&str, Value, Value); 15] = [
        ("policy", json!({}), json!({"deliverPolicy": "New"})),
        ("to-sequence", json!({}), json!({"deliverPolicy": "ByStartSequence", "optStartSeq": 4})),
        ("sequence", by_sequence, json!({"deliverPolicy": "ByStartSequence", "optStartSeq": 4})),
        ("time", by_time, json!({"deliverPolicy": "ByStartTime", "optStartTime": "2026-02-01T12:00:00Z"})),
        ("replay", json!({}), json!({"replayPolicy": "Original"})),
        ("ack-none", json!({"ack_policy": "none"}), json!({})),
        ("ack-all", json!({"ack_policy": "all"}), json!({})),
        ("push", json!({"deliver_subject": "somewhere"}), json!({})),
        ("max-deliver", json!({"max_deliver": 3}), json!({})),
        ("backoff", json!({"backoff": [second, 2 * second]}), json!({})),
        ("headers-only", json!({"headers_only": true}), json!({})),
        ("ack-wait", json!({}), json!({"ackWait": "7s"})),
        ("pending", json!({}), json!({"maxAckPending": 7})),
        ("filter", json!({}), json!({"filterSubject": "filter.default"})),
        ("sample", json!({}), json!({"sampleFrequency": "50%"})),
    ];
    let mut documents = Vec::new();
    for (name, there, declared) in &rules {
        let upper = name.to_uppercase().replace('-', "_");
        let (stream, consumer) = (format!("KN_DEFAULT__{upper}"), format!("KN_SUB_DEFAULT__{upper}"));
        let config = json!({"name": stream, "subjects": [format!("{name}.default")]});
        assert_eq!(refused(&nats, &format!("$JS.API.STREAM.CREATE.{stream}"), &config).await, None, "{name}");
        let mut config =
            json!({"durable_name": consumer, "ack_policy": "explicit", "deliver_policy": "all", "max_deliver": -1});
        config.as_object_mut().unwrap().extend(there.as_object().unwrap().clone());
        let request = json!({"stream_name": stream, "config": config});
        let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}");
        assert_eq!(refused(&nats, &subject, &request).await, None, "{name}");
        documents.push(channel_with(name, json!({"consumerConfigTemplate": declared})));
        documents.push(subscribe(name, name, NOWHERE));
    }
    let found = differences(&nats, &documents, &[]).await;
    let mut impossible = 0;
    for (name, ..) in &rules {
        let upper = name.to_uppercase().replace('-', "_");
        let (stream, consumer) = (format!("KN_DEFAULT__{upper}"), format!("KN_SUB_DEFAULT__{upper}"));
        let difference = about(&found, &consumer);
        assert_ne!(difference["change"], "none", "{name}");
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
        let answer = nats.client().await.request(subject, "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        let mut config = info["config"].clone();
        for change in difference["fields"].as_array().unwrap() {
            config[change["field"].as_str().unwrap()] = change["to"].clone();
        }
        let request = json!({"stream_name": stream, "config": config});
        let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}");
        let refused = refused(&nats, &subject, &request).await;
        assert_eq!(difference["change"] == "cannot", refused.is_some(), "{name}: {refused:?} {difference:#}");
        impossible += usize::from(refused.is_some());
    }
    assert_eq!(impossible, 8);
}

#[tokio::test]
async fn what_cannot_be_changed_is_told_with_both_values_and_what_it_holds() {
    let nats = Nats::start().await;
    serve(&nats, &[channel("foo")]).await;
    keep(&nats, "foo.default", 3).await;
    let documents =
        [channel_with_stream("foo", json!({"storage": "Memory", "maxMsgs": 9})), subscribe("sub", "foo", NOWHERE)];
    let shown = diff(&nats, &documents, &[]).await;
    assert_eq!(shown.code, Some(1));
    insta::assert_snapshot!(shown.stdout, @"
    ! stream KN_DEFAULT__FOO (channel default/foo)
        max_msgs: unlimited → 9
        storage: file → memory (JetStream cannot change where a stream is stored: needs replace)
        holds 3 events, to be moved or lost when it is replaced
    ! consumer KN_SUB_DEFAULT__SUB of stream KN_DEFAULT__FOO (subscription default/sub)
        channel default/foo cannot be put in place
    2 that cannot be changed
    ");
    let found = differences(&nats, &documents, &[]).await;
    let stream = about(&found, STREAM);
    assert_eq!(stream["events"], json!({"count": 3, "exact": true, "meaning": "held"}));
    let obstacle = "JetStream cannot change where a stream is stored: needs replace";
    let fields = json!([
        {"field": "max_msgs", "from": -1, "to": 9},
        {"field": "storage", "from": "file", "to": "memory", "obstacle": obstacle},
    ]);
    assert_eq!(stream["fields"], fields);
}

#[tokio::test]
async fn a_lower_limit_tells_how_many_events_go_and_so_many_do() {
    let lower = [
        ("msgs", json!({}), json!({"maxMsgs": 3}), 4, true),
        ("per-subject", json!({}), json!({"maxMsgsPerSubject": 2}), 5, true),
        ("bytes", json!({}), json!({"maxBytes": 100}), 5, false),
        ("discard", json!({"discard": "New"}), json!({"discard": "New", "maxMsgs": 3}), 0, true),
        ("enough", json!({}), json!({"maxMsgs": 7}), 0, true),
    ];
    let nats = Nats::start().await;
    let before: Vec<Value> = lower.iter().map(|(name, before, ..)| channel_with_stream(name, before.clone())).collect();
    serve(&nats, &before).await;
    for (name, ..) in &lower {
        keep(&nats, &format!("{name}.default"), 7).await;
    }
    let after: Vec<Value> = lower.iter().map(|(name, _, after, ..)| channel_with_stream(name, after.clone())).collect();
    let found = differences(&nats, &after, &[]).await;
    serve(&nats, &after).await;
    for (name, _, _, removed, exact) in lower {
        let stream = format!("KN_DEFAULT__{}", name.to_uppercase().replace('-', "_"));
        let events = &about(&found, &stream)["events"];
        match removed {
            0 => assert!(events.is_null(), "{name}: {events}"),
            _ => assert_eq!(events, &json!({"count": removed, "exact": exact, "meaning": "removed"}), "{name}"),
        }
        assert_eq!(nats.count(&stream).await, 7 - removed, "{name}");
    }
}

#[tokio::test]
async fn a_shorter_age_tells_how_many_events_are_too_old() {
    let nats = Nats::start().await;
    let with_age = |age: &str| [channel_with_stream("foo", json!({"maxAge": age, "duplicateWindow": "100ms"}))];
    serve(&nats, &with_age("1h")).await;
    keep(&nats, "foo.default", 5).await;
    let events = || async {
        let found = differences(&nats, &with_age("1s"), &[]).await;
        about(&found, STREAM)["events"].clone()
    };
    until("all are too old", || async { events().await["count"] == 5 }).await;
    keep(&nats, "foo.default", 2).await;
    assert_eq!(events().await, json!({"count": 5, "exact": true, "meaning": "removed"}));
    let shown = diff(&nats, &with_age("1s"), &[]).await;
    assert!(shown.stdout.contains("max_age: 1h → 1s\n    removes 5 events\n"), "{}", shown.stdout);
}

#[tokio::test]
async fn a_new_consumer_tells_how_many_kept_events_it_starts_with() {
    let nats = Nats::start().await;
    let starts = [
        ("all", json!({"deliverPolicy": "All"}), 6, true),
        ("new", json!({"deliverPolicy": "New"}), 0, true),
        ("last", json!({"deliverPolicy": "Last"}), 1, true),
        ("sequence", json!({"deliverPolicy": "ByStartSequence", "optStartSeq": 5}), 2, true),
        ("beyond", json!({"deliverPolicy": "ByStartSequence", "optStartSeq": 50}), 0, true),
        ("past", json!({"deliverPolicy": "ByStartTime", "optStartTime": "2020-01-01T00:00:00Z"}), 6, true),
        ("future", json!({"deliverPolicy": "ByStartTime", "optStartTime": "2999-01-01T00:00:00Z"}), 0, true),
        ("filter", json!({"filterSubject": "filter.default"}), 4, true),
        (
            "both",
            json!({"filterSubject": "both.default", "deliverPolicy": "ByStartSequence", "optStartSeq": 2}),
            4,
            false,
        ),
    ];
    let mut documents: Vec<Value> = Vec::new();
    for (name, template, ..) in &starts {
        let stream = json!({"config": {"additionalSubjects": [format!("other.{name}")]}});
        documents.push(channel_with(name, json!({"stream": stream, "consumerConfigTemplate": template})));
    }
    documents.push(broker("shop"));
    serve(&nats, &documents).await;
    for (name, ..) in &starts {
        keep(&nats, &format!("{name}.default"), 4).await;
        keep(&nats, &format!("other.{name}"), 2).await;
    }
    keep(&nats, "shop.default._type.a", 3).await;
    keep(&nats, "shop.default._type.b", 2).await;
    documents.extend(starts.iter().map(|(name, ..)| subscribe(name, name, NOWHERE)));
    documents.push(trigger(
        "typed",
        "shop",
        json!({"subscriber": {"uri": NOWHERE}, "filter": {"attributes": {"type": "a"}}}),
    ));
    documents.push(trigger("untyped", "shop", json!({"subscriber": {"uri": NOWHERE}})));
    let found = differences(&nats, &documents, &[]).await;
    let triggers = [("typed", json!({}), 3, true), ("untyped", json!({}), 5, true)];
    for (name, _, count, exact) in starts.into_iter().chain(triggers) {
        let events = &about(&found, &format!("KN_SUB_DEFAULT__{}", name.to_uppercase()))["events"];
        assert_eq!(events, &json!({"count": count, "exact": exact, "meaning": "starts_with"}), "{name}");
    }
}

#[tokio::test]
async fn prune_tells_which_consumers_go_and_what_they_have_not_delivered() {
    let nats = Nats::start().await;
    let with = [channel("foo"), subscribe("sub", "foo", NOWHERE)];
    serve(&nats, &with).await;
    keep(&nats, "foo.default", 3).await;
    let without = [channel("foo")];
    assert_eq!(differences(&nats, &without, &[]).await, Vec::<Value>::new());
    let shown = diff(&nats, &without, &["--prune"]).await;
    assert_eq!(shown.code, Some(1));
    insta::assert_snapshot!(shown.stdout, @"
    - consumer KN_SUB_DEFAULT__SUB of stream KN_DEFAULT__FOO (subscription default/sub)
        3 events not delivered or not settled
    1 to delete
    ");
    assert_eq!(nats.consumers(STREAM).await.len(), 1, "nothing is deleted by looking");
}

#[tokio::test]
async fn what_others_have_made_is_taken_over_and_that_is_no_difference() {
    let nats = Nats::start().await;
    let theirs = Config { name: STREAM.into(), subjects: vec!["foo.>".into()], max_messages: 99, ..Config::default() };
    nats.jetstream().await.create_stream(theirs).await.unwrap();
    serve(&nats, &[]).await;
    let shown = diff(&nats, &[channel("foo")], &[]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    insta::assert_snapshot!(shown.stdout, @"
      stream KN_DEFAULT__FOO (channel default/foo)
        kept: max_age none (a new one would have 168h)
        kept: max_msgs 99 (a new one would have unlimited)
        kept: subjects foo.> (a new one would have foo.default)
    no difference
    ");
    let consumer = json!({"durable_name": "KN_SUB_DEFAULT__SUB", "ack_policy": "explicit", "max_deliver": 5});
    let request = json!({"stream_name": STREAM, "config": consumer});
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.KN_SUB_DEFAULT__SUB");
    assert_eq!(refused(&nats, &subject, &request).await, None);
    let found = differences(&nats, &[channel("foo"), subscribe("sub", "foo", NOWHERE)], &[]).await;
    let consumer = about(&found, "KN_SUB_DEFAULT__SUB");
    assert_eq!(consumer["fields"], json!([{"field": "max_deliver", "from": 5, "to": -1}]));
    assert!(consumer["notes"][0].as_str().unwrap().contains("made by others"), "{consumer}");
}

#[tokio::test]
async fn what_serve_would_wait_for_is_told_as_impossible() {
    let nats = Nats::start().await;
    let theirs = Config { name: "THEIRS".into(), subjects: vec!["taken.*".into()], ..Config::default() };
    nats.jetstream().await.create_stream(theirs).await.unwrap();
    let deaf = Config {
        name: "KN_DEFAULT__DEAF".into(),
        subjects: vec!["deaf.default".into()],
        no_ack: true,
        ..Config::default()
    };
    nats.jetstream().await.create_stream(deaf).await.unwrap();
    let named = |name: &str| channel_with(name, json!({"stream": {"overrideName": "ONE"}}));
    let to_nowhere =
        subscription("to", "foo", json!({"subscriber": {"ref": crate::support::resources::channel_ref("gone")}}));
    let documents = [
        channel("foo"),
        channel("taken"),
        named("a"),
        named("b"),
        channel("deaf"),
        subscribe("lost", "missing", NOWHERE),
        to_nowhere,
    ];
    let found = differences(&nats, &documents, &[]).await;
    let reason = |resource: &str| {
        let difference = found.iter().find(|difference| difference["resource"] == resource).unwrap();
        assert_eq!(difference["change"], "cannot", "{difference}");
        difference["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("channel default/taken"), "subject taken.default is taken by stream THEIRS");
    assert_eq!(reason("channel default/b"), "it is the stream of channel default/a");
    assert!(reason("channel default/deaf").contains("no_ack"));
    assert_eq!(reason("subscription default/lost"), "channel default/missing is not declared");
    assert!(reason("subscription default/to").contains("default/gone, which is not declared"));
}

#[tokio::test]
async fn what_keeps_it_from_comparing_is_exit_2() {
    let nats = Nats::start().await;
    let faulty = diff_of(&nats.url(), "{kind: x}\n---\n[]\n", &[]).await;
    assert_eq!(faulty.code, Some(2), "{faulty:?}");
    assert_eq!(faulty.stdout.lines().filter(|line| line.contains(": document ")).count(), 2, "{faulty:?}");
    let away = diff_of("nats://127.0.0.1:1", &to_yaml(&[channel("foo")]), &[]).await;
    assert_eq!(away.code, Some(2), "{away:?}");
    assert!(away.stderr.contains("cannot connect to NATS at nats://127.0.0.1:1"), "{away:?}");
    assert_eq!(run(&["diff"]).await.code, Some(2));
}

#[tokio::test]
async fn a_call_that_is_denied_is_named_with_exit_2() {
    let nats = Nats::start_with(
        "accounts { A { jetstream: enabled, users: [ { user: some, password: p, permissions: { publish: { deny: \
         [\"$JS.API.STREAM.INFO.KN_DEFAULT__FOO\"] } } } ] } }\nno_auth_user: some",
    )
    .await;
    let ended = diff(&nats, &[channel("foo")], &[]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("permit") && ended.stderr.contains("$JS.API.STREAM.INFO.KN_DEFAULT__FOO"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn without_jetstream_it_says_so_with_exit_2() {
    let nats = Nats::start_with("accounts { A { users: [ { user: some, password: p } ] } }\nno_auth_user: some").await;
    let ended = diff(&nats, &[channel("foo")], &[]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.to_lowercase().contains("jetstream"), "{ended:?}");
}

#[tokio::test]
async fn a_refused_change_is_told_by_serve_as_diff_tells_it() {
    let nats = Nats::start().await;
    serve(&nats, &[channel("foo")]).await;
    let documents = [channel_with_stream("foo", json!({"storage": "Memory"}))];
    let found = differences(&nats, &documents, &[]).await;
    let obstacle = about(&found, STREAM)["fields"][0]["obstacle"].as_str().unwrap().to_owned();
    let bridge = Bridge::of(&nats, &documents).spawn();
    bridge
        .wait_for_readyz("503 with the obstacle", |answer| answer.status() == 503 && answer.text().contains(&obstacle))
        .await;
    let answer = bridge.post("foo", &event("1")).await;
    assert_eq!(answer.status(), 503);
}

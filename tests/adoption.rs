//! A stream that is there already is adopted: nothing of it is lost, nothing is changed that nobody asked for.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use serde_json::json;

use crate::support::resources::{channel, channel_with_stream, subscribe};
use crate::support::{Bridge, Nats, Sink, event};

const STREAM: &str = "KN_DEFAULT__FOO";
/// The subject that eventing-natss uses.
const THEIR_SUBJECT: &str = "default.foo._knative";

fn their_stream() -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: vec![THEIR_SUBJECT.to_owned()],
        max_messages: 12_345,
        max_age: Duration::from_secs(3600),
        discard: DiscardPolicy::New,
        description: Some("made by somebody else".to_owned()),
        duplicate_window: Duration::from_secs(17),
        ..Config::default()
    }
}

#[tokio::test]
async fn an_existing_stream_keeps_its_messages_and_settings_and_gets_the_subject() {
    let nats = Nats::start().await;
    nats.jetstream().await.create_stream(their_stream()).await.unwrap();
    nats.publish(THEIR_SUBJECT, &[], r#"{"specversion":"1.0","id":"theirs","source":"/s","type":"t"}"#).await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;

    let config = nats.stream(STREAM).await.get_info().await.unwrap().config;
    let mut subjects = config.subjects.clone();
    subjects.sort();
    assert_eq!(subjects, [THEIR_SUBJECT, "foo.default"]);
    let theirs = their_stream();
    assert_eq!(config.max_messages, theirs.max_messages);
    assert_eq!(config.max_age, theirs.max_age);
    assert_eq!(config.discard, theirs.discard);
    assert_eq!(config.description, theirs.description);
    assert_eq!(config.duplicate_window, theirs.duplicate_window);

    sink.wait_for_id("/", "theirs").await;
    bridge.send("foo", &event("ours")).await;
    sink.wait_for_id("/", "ours").await;
    assert_eq!(nats.count(STREAM).await, 2);
}

#[tokio::test]
async fn what_the_manifest_asks_for_is_changed_and_nothing_else() {
    let nats = Nats::start().await;
    nats.jetstream().await.create_stream(their_stream()).await.unwrap();
    let _bridge = Bridge::serve(&nats, &[channel_with_stream("foo", json!({"maxMsgs": 99}))]).await;
    let config = nats.stream(STREAM).await.get_info().await.unwrap().config;
    assert_eq!(config.max_messages, 99);
    assert_eq!((config.max_age, config.discard), (Duration::from_secs(3600), DiscardPolicy::New));
}

#[tokio::test]
async fn a_change_that_jetstream_cannot_make_is_shown_with_both_values_while_other_channels_work() {
    let nats = Nats::start().await;
    nats.jetstream().await.create_stream(their_stream()).await.unwrap();
    let sink = Sink::start().await;
    let documents = [
        channel_with_stream("foo", json!({"storage": "Memory"})),
        channel("bar"),
        subscribe("sub", "bar", &sink.url("/")),
    ];
    let bridge = Bridge::of(&nats, &documents).spawn();
    let answer = bridge
        .wait_for_readyz("503 over the storage", |answer| {
            let text = answer.text().to_lowercase();
            answer.status() == 503 && text.contains("memory") && text.contains("file")
        })
        .await;
    assert!(answer.json().to_string().contains("foo"), "{}", answer.text());
    crate::support::until("the other channel takes events", || async {
        bridge.post("bar", &event("1")).await.status() == 202
    })
    .await;
    sink.wait_for_id("/", "1").await;
    assert_eq!(bridge.readyz().await.unwrap().status(), 503);
    assert_eq!(nats.stream(STREAM).await.get_info().await.unwrap().config.storage, StorageType::File);
}

#[tokio::test]
async fn a_stream_of_another_name_can_be_adopted_by_override() {
    let nats = Nats::start().await;
    let config = Config { name: "THEIRS".to_owned(), ..their_stream() };
    nats.jetstream().await.create_stream(config).await.unwrap();
    let named = crate::support::resources::channel_with("foo", json!({"stream": {"overrideName": "THEIRS"}}));
    let bridge = Bridge::serve(&nats, &[named]).await;
    bridge.send("foo", &event("1")).await;
    assert_eq!(nats.count("THEIRS").await, 1);
}

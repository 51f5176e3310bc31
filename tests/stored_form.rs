//! How channels and events lie in JetStream.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy, StorageType};
use serde_json::json;

use crate::support::nats::header;
use crate::support::resources::{channel, channel_with, channel_with_stream, in_namespace, subscribe};
use crate::support::{Bridge, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn a_channel_is_a_stream_with_its_subject_and_the_default_limits() {
    let nats = Nats::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), in_namespace("my-ns", channel("my-channel"))]).await;
    let config = nats.stream(STREAM).await.get_info().await.unwrap().config;
    assert!(config.subjects.contains(&"foo.default".to_owned()), "{:?}", config.subjects);
    assert_eq!(config.storage, StorageType::File);
    assert_eq!(config.retention, RetentionPolicy::Limits);
    assert_eq!(config.max_age, 7 * DAY);
    assert_eq!(config.duplicate_window, Duration::from_secs(120));
    let other = nats.stream("KN_MY_NS__MY_CHANNEL").await.get_info().await.unwrap().config;
    assert!(other.subjects.contains(&"my-channel.my-ns".to_owned()), "{:?}", other.subjects);
}

#[tokio::test]
async fn a_channel_s_template_shapes_its_stream() {
    let nats = Nats::start().await;
    let config = json!({
        "retention": "Interest", "maxMsgs": 1000, "maxBytes": 1_000_000, "discard": "New", "maxAge": "1h",
        "maxMsgSize": 5000, "storage": "Memory", "duplicateWindow": "30s", "maxConsumers": 7,
        "additionalSubjects": ["extra.subject"],
    });
    let _bridge = Bridge::serve(&nats, &[channel_with_stream("foo", config)]).await;
    let config = nats.stream(STREAM).await.get_info().await.unwrap().config;
    assert_eq!(config.retention, RetentionPolicy::Interest);
    assert_eq!(config.storage, StorageType::Memory);
    assert_eq!(config.discard, DiscardPolicy::New);
    assert_eq!((config.max_messages, config.max_bytes, config.max_message_size), (1000, 1_000_000, 5000));
    assert_eq!((config.max_age, config.duplicate_window), (Duration::from_secs(3600), Duration::from_secs(30)));
    assert_eq!(config.max_consumers, 7);
    let mut subjects = config.subjects;
    subjects.sort();
    assert_eq!(subjects, ["extra.subject", "foo.default"]);
}

#[tokio::test]
async fn a_subscription_is_a_durable_pull_consumer() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let consumers = nats.consumers(STREAM).await;
    assert_eq!(consumers.len(), 1);
    let config = &consumers[0].config;
    assert!(consumers[0].name.starts_with("KN_SUB_"), "{}", consumers[0].name);
    assert_eq!(config.durable_name.as_ref(), Some(&consumers[0].name));
    assert_eq!(config.deliver_subject, None);
    assert_eq!(config.ack_policy, AckPolicy::Explicit);
    assert_eq!(config.ack_wait, Duration::from_secs(30));
    assert_eq!(config.deliver_policy, DeliverPolicy::All);
}

#[tokio::test]
async fn a_consumer_template_shapes_the_consumers() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "12s", "deliverPolicy": "New", "maxAckPending": 77}});
    let documents = [channel_with("foo", template), subscribe("sub", "foo", &sink.url("/"))];
    let _bridge = Bridge::serve(&nats, &documents).await;
    let config = nats.consumers(STREAM).await.remove(0).config;
    assert_eq!((config.ack_wait, config.max_ack_pending), (Duration::from_secs(12), 77));
    assert_eq!(config.deliver_policy, DeliverPolicy::New);
}

#[tokio::test]
async fn an_event_is_stored_in_binary_mode_of_the_nats_binding() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let sent = event("1")
        .attribute("subject", "Euro%20%E2%82%AC%20%F0%9F%98%80")
        .attribute("comexample", "v")
        .data("application/json", r#"{ "a": 1.10 }"#);
    bridge.send("foo", &sent).await;
    let stored = nats.message(STREAM, 1).await;
    assert_eq!(stored.subject.as_str(), "foo.default");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/test"),
        ("ce-type", "test"),
        ("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("ce-comexample", "v"),
        ("ce-datacontenttype", "application/json"),
    ] {
        assert_eq!(header(&stored, name), Some(value), "{name}");
    }
    assert!(header(&stored, "Nats-Msg-Id").is_some());
    assert_eq!(&stored.payload[..], br#"{ "a": 1.10 }"#);
}

#[tokio::test]
async fn the_same_id_of_two_sources_is_two_events_and_of_one_source_one() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for source in ["/a", "/b", "/a", "/b", "/a"] {
        bridge.send("foo", &event("1").attribute("source", source)).await;
    }
    assert_eq!(nats.count(STREAM).await, 2);
    nats.settled(STREAM).await;
    let requests = sink.requests("/");
    let mut sources: Vec<_> = requests.iter().map(|request| request.header("ce-source").unwrap()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["/a", "/b"]);
}

#[tokio::test]
async fn source_and_id_cannot_be_mixed_up() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for (source, id) in [("/a", "b/c"), ("/a/b", "c"), ("/ab", "c"), ("/a", "bc")] {
        bridge.send("foo", &event(id).attribute("source", source)).await;
    }
    assert_eq!(nats.count(STREAM).await, 4);
}

#[tokio::test]
async fn channels_whose_plain_stream_names_collide_stay_apart() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [
        in_namespace("a--b", channel("c")),
        in_namespace("a", channel("b--c")),
        in_namespace("a--b", subscribe("one", "c", &sink.url("/one"))),
        in_namespace("a", subscribe("two", "b--c", &sink.url("/two"))),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    let channels = nats.stream_names().await.into_iter().filter(|name| name.starts_with("KN_A__")).count();
    assert_eq!(channels, 2);
    for (path, id) in [("/a--b/c", "1"), ("/a/b--c", "2")] {
        let answer = crate::support::http::post(&bridge.url(path)).event(&event(id)).send().await;
        assert_eq!(answer.status(), 202, "{path}");
    }
    assert_eq!(sink.wait_for_one("/one").await.id(), "1");
    assert_eq!(sink.wait_for_one("/two").await.id(), "2");
    assert_eq!((sink.requests("/one").len(), sink.requests("/two").len()), (1, 1));
}

#[tokio::test]
async fn a_new_subscription_starts_at_the_oldest_kept_event() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id)).await;
    }
    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/"))]);
    sink.wait_for("/", 3).await;
    nats.settled(STREAM).await;
    let mut ids: Vec<String> = sink.requests("/").iter().map(|request| request.id().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["1", "2", "3"]);
}

#[tokio::test]
async fn with_deliver_policy_new_it_starts_at_the_next_event() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let template = json!({"consumerConfigTemplate": {"deliverPolicy": "New"}});
    let bridge = Bridge::serve(&nats, &[channel_with("foo", template)]).await;
    bridge.send("foo", &event("old")).await;
    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/"))]);
    until("the consumer is there", || async { !nats.consumers(STREAM).await.is_empty() }).await;
    bridge.send("foo", &event("new")).await;
    assert_eq!(sink.wait_for_one("/").await.id(), "new");
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
}

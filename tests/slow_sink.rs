//! A request that takes longer than the ack wait is not delivered twice by the same bridge.

use std::time::Duration;

use serde_json::json;

use crate::support::resources::{channel_with, subscribe};
use crate::support::{Answer, Bridge, Nats, Sink, event};

#[tokio::test]
async fn a_request_longer_than_the_ack_wait_is_not_delivered_twice() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_secs(5))).await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let documents = [channel_with("foo", template), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id)).await;
    }
    sink.wait_for("/", 3).await;
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.requests("/").len(), 3);
    let consumer = nats.consumers("KN_DEFAULT__FOO").await.remove(0);
    assert_eq!((consumer.config.ack_wait, consumer.delivered.consumer_sequence), (Duration::from_secs(2), 3));
}

#[tokio::test]
async fn events_that_wait_for_a_place_are_not_delivered_twice() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_secs(1))).await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let documents = [channel_with("foo", template), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..100 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 100).await;
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.requests("/").len(), 100);
}

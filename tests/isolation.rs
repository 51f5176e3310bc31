//! One event, one sink, one subscription in trouble is nobody else's trouble.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event, free_port};

const STREAM: &str = "KN_DEFAULT__FOO";

#[tokio::test]
async fn while_one_event_waits_for_its_retry_others_flow() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.id() == "bad" { 500 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffDelay": "PT1H"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("bad")).await;
    sink.wait_for_id("/", "bad").await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    for id in 0..20 {
        sink.wait_for_id("/", &id.to_string()).await;
    }
    let bad = sink.requests("/").iter().filter(|request| request.id() == "bad").count();
    assert_eq!(bad, 1, "its retry is an hour away");
}

#[tokio::test]
async fn more_events_than_can_be_worked_on_at_once_may_wait_for_their_retry() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.id().starts_with("bad") { 500 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffDelay": "PT1H"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in 0..200 {
        bridge.send("foo", &event(&format!("bad-{id}"))).await;
    }
    bridge.send("foo", &event("good")).await;
    sink.wait_for_id("/", "good").await;
}

#[tokio::test]
async fn a_dead_sink_and_a_hanging_sink_do_not_touch_another_subscription() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/hanging" => Answer::hang(),
        _ => Answer::status(200),
    })
    .await;
    let dead = json!({
        "subscriber": {"uri": format!("http://127.0.0.1:{}/", free_port())},
        "delivery": {"retry": 100, "backoffPolicy": "linear", "backoffDelay": "PT0.01S"},
    });
    let documents = [
        channel("foo"),
        subscription("dead", "foo", dead),
        subscribe("hanging", "foo", &sink.url("/hanging")),
        subscribe("good", "foo", &sink.url("/good")),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    let start = Instant::now();
    for id in 0..50 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/good", 50).await;
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    assert_eq!(sink.requests("/good").len(), 50);
    assert!(!sink.requests("/hanging").is_empty());
}

#[tokio::test]
async fn every_subscription_gets_every_event() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut documents = vec![channel("foo")];
    for name in 0..5 {
        documents.push(subscribe(&format!("sub-{name}"), "foo", &sink.url(&format!("/{name}"))));
    }
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    nats.settled(STREAM).await;
    for name in 0..5 {
        let requests = sink.requests(&format!("/{name}"));
        let mut ids: Vec<usize> = requests.iter().map(|request| request.id().parse().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..20).collect::<Vec<_>>(), "subscription {name}");
    }
}

#[tokio::test]
async fn a_slow_answer_does_not_hold_up_the_next_event_of_the_same_subscription() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.id() {
        "slow" => Answer::hang(),
        _ => Answer::status(200),
    })
    .await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("slow")).await;
    sink.wait_for_id("/", "slow").await;
    bridge.send("foo", &event("next")).await;
    sink.wait_for_id("/", "next").await;
}

//! Where eventing-natss, whose channels we take over, was found wanting and no other test tells: what changes while events flow,
//! and how many of them go out at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::post;
use crate::support::resources::{channel, channel_with, subscribe, subscription};
use crate::support::{Answer, Bridge, Gate, Load, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
/// Requests of a subscription that are under way at once, unless its owner says otherwise.
const IN_FLIGHT: usize = 256;

fn channel_with_ack_wait(ack_wait: &str) -> Value {
    channel_with("foo", json!({"consumerConfigTemplate": {"ackWait": ack_wait}}))
}

#[tokio::test]
async fn a_subscription_and_its_channel_change_while_events_flow_and_no_subscription_misses_one() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[]).await;
    bridge.write("channel.yaml", &[channel_with_ack_wait("30s")]);
    for name in ["one", "two", "three"] {
        bridge.write(&format!("{name}.yaml"), &[subscribe(name, "foo", &sink.url(&format!("/{name}")))]);
    }
    until("three consumers", || async {
        nats.stream_names().await.contains(&STREAM.to_owned()) && nats.consumers(STREAM).await.len() == 3
    })
    .await;
    bridge.wait_until_ready().await;
    let load = Load::of(&bridge, "change").senders(2).start();
    for round in 0..4 {
        load.more_taken(20).await;
        let path = format!("/two-{round}");
        bridge.write("two.yaml", &[subscribe("two", "foo", &sink.url(&path))]);
        sink.wait_for_one(&path).await;
        let ack_wait = 20 - round;
        bridge.write("channel.yaml", &[channel_with_ack_wait(&format!("{ack_wait}s"))]);
        until("all consumers have the new ack wait", || async {
            let consumers = nats.consumers(STREAM).await;
            consumers.iter().all(|consumer| consumer.config.ack_wait == Duration::from_secs(ack_wait))
        })
        .await;
    }
    let sent = load.end().await;
    nats.settled(STREAM).await;
    assert_eq!(sent.refused, 0);
    for name in ["/one", "/three"] {
        let counts = sink.counts(name);
        assert!(counts.len() == sent.ids.len() && counts.values().all(|count| *count == 1), "{name}: {counts:?}");
    }
    let mut two = sink.counts("/two");
    two.extend((0..4).flat_map(|round| sink.counts(&format!("/two-{round}"))));
    assert!(sent.ids.iter().all(|id| two.contains_key(id)));
    assert_eq!(nats.count("KN_DEADLETTERS").await, 0);
}

#[tokio::test]
async fn a_new_timeout_and_a_new_ack_wait_count_without_a_restart() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.id() {
        "slow" => Answer::status(200).after(Duration::from_secs(3)),
        _ => Answer::hang(),
    })
    .await;
    let with_timeout = |timeout: &str| {
        let delivery = json!({"retry": 1, "backoffDelay": "PT0.05S", "timeout": timeout});
        subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery}))
    };
    let bridge = Bridge::serve(&nats, &[channel("bar")]).await;
    bridge.write("foo.yaml", &[channel_with_ack_wait("60s"), with_timeout("PT60S")]);
    until("the channel is there", || async { bridge.post("foo", &event("before")).await.status() == 202 }).await;
    sink.wait_for_id("/", "before").await;
    bridge.write("foo.yaml", &[channel_with_ack_wait("1s"), with_timeout("PT5S")]);
    until("the new ack wait", || async { nats.consumers(STREAM).await[0].config.ack_wait == Duration::from_secs(1) })
        .await;
    bridge.wait_until_ready().await;
    for id in ["after", "slow"] {
        bridge.send("foo", &event(id)).await;
    }
    // Given up after five seconds, and retried.
    until("the second attempt", || async { sink.counts("/").get("after") == Some(&2) }).await;
    // Longer than the new ack wait, which the signs of work keep.
    assert_eq!(sink.counts("/").get("slow"), Some(&1));
}

#[tokio::test]
async fn a_slow_sink_has_so_many_requests_at_once_and_no_more() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |request| match request.target() {
        "/" => Answer::status(200).behind(&closed),
        _ => Answer::status(200),
    })
    .await;
    let documents = [
        channel("foo"),
        channel("bar"),
        subscribe("sub", "foo", &sink.url("/")),
        subscribe("other", "bar", &sink.url("/other")),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    let batch: Vec<Value> = (0..2 * IN_FLIGHT)
        .map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t"}))
        .collect();
    let call = post(&bridge.url("/default/foo")).header("content-type", "application/cloudevents-batch+json");
    assert_eq!(call.body(json!(batch).to_string()).send().await.status(), 202);
    sink.wait_for("/", IN_FLIGHT).await;
    // Time enough for more of them, if there were any.
    for id in 0..20 {
        bridge.send("bar", &event(&id.to_string())).await;
    }
    sink.wait_for("/other", 20).await;
    assert_eq!(sink.requests("/").len(), IN_FLIGHT);
    gate.open();
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 2 * IN_FLIGHT);
}

#[tokio::test]
async fn an_event_does_not_wait_for_others_to_fill_a_fetch() {
    const FETCH: Duration = Duration::from_millis(200);
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let mut times = Vec::new();
    for id in 0..21 {
        let begun = Instant::now();
        bridge.send("foo", &event(&id.to_string())).await;
        times.push(sink.wait_for_id("/", &id.to_string()).await.at.duration_since(begun));
    }
    times.sort();
    assert!(times[10] < FETCH, "{times:?}");
}

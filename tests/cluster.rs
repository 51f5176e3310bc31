//! A NATS cluster of three, with every stream on all of them: leaders change, servers die and come back, and of the events that
//! were acknowledged none is lost.

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::http::Message;
use crate::support::load::{RECOVERY, Sent};
use crate::support::resources::{channel_with, subscribe, subscription, to_yaml};
use crate::support::{Answer, Bridge, Gate, Load, Sink, event};

const STREAM: &str = "KN_DEFAULT__FOO";
const CONSUMER: &str = "KN_SUB_DEFAULT__SUB";

fn documents(url: &str) -> Vec<Value> {
    let spec = json!({"stream": {"config": {"replicas": 3}}, "consumerConfigTemplate": {"ackWait": "4s"}});
    let delivery = json!({"retry": 5, "backoffDelay": "PT0.05S"});
    vec![
        channel_with("foo", spec),
        subscription("sub", "foo", json!({"subscriber": {"uri": url}, "delivery": delivery})),
    ]
}

/// A cluster, and a bridge that knows all of its servers.
async fn world() -> (Cluster, Sink, Bridge) {
    let sink = Sink::start().await;
    let (cluster, bridge) = world_with(&sink).await;
    (cluster, sink, bridge)
}

async fn world_with(sink: &Sink) -> (Cluster, Bridge) {
    let cluster = Cluster::start().await;
    let setup = Bridge::at(&cluster.urls()).file("resources.yaml", &to_yaml(&documents(&sink.url("/"))));
    let setup = setup.flag("--publish-timeout", "1s").flag("--dead-letter-replicas", "3");
    let bridge = setup.start().await;
    (cluster, bridge)
}

async fn came_through(cluster: &Cluster, bridge: &Bridge, sink: &Sink, sent: &Sent) {
    sent.all_delivered(sink, "/").await;
    cluster.node(0).settled(STREAM).await;
    bridge.wait_until_ready().await;
}

#[tokio::test]
async fn leaders_that_step_down_under_load_cost_no_acknowledged_event() {
    let (cluster, sink, bridge) = world().await;
    let load = Load::of(&bridge, "leaders").senders(4).start();
    for _ in 0..2 {
        load.more_taken(20).await;
        cluster.stream_steps_down(STREAM).await;
        load.recovers(20).await;
        cluster.consumer_steps_down(STREAM, CONSUMER).await;
        load.recovers(20).await;
        cluster.meta_steps_down().await;
        load.recovers(20).await;
    }
    let sent = load.end().await;
    came_through(&cluster, &bridge, &sink, &sent).await;
}

#[tokio::test]
async fn events_that_are_at_work_while_their_consumer_has_no_leader_are_settled_all_the_same() {
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&closed)).await;
    let mut cluster = Cluster::start().await;
    let stream = json!({"stream": {"config": {"replicas": 3}}});
    let documents = [channel_with("foo", stream), subscribe("sub", "foo", &sink.url("/"))];
    let setup = Bridge::at(&cluster.node(0).url()).file("resources.yaml", &to_yaml(&documents));
    let bridge = setup.flag("--dead-letter-replicas", "3").start().await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 20).await;
    // The bridge's server and the consumer's leader are one, and go.
    while cluster.consumer_leader(STREAM, CONSUMER).await != 0 {
        cluster.consumer_steps_down(STREAM, CONSUMER).await;
    }
    cluster.kill9(0);
    cluster.consumer_leader(STREAM, CONSUMER).await;
    bridge.wait_until_ready().await;
    gate.open();
    cluster.node(1).settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 20);
}

#[tokio::test]
async fn the_loss_of_one_server_under_load_costs_no_acknowledged_event() {
    let (mut cluster, sink, bridge) = world().await;
    let load = Load::of(&bridge, "one").senders(4).start();
    for lost in [cluster.stream_leader(STREAM).await, 1, 2] {
        load.more_taken(20).await;
        cluster.kill9(lost);
        cluster.stream_leader(STREAM).await;
        load.recovers(20).await;
        cluster.start_again(lost).await;
        cluster.wait_until_whole().await;
    }
    let sent = load.end().await;
    came_through(&cluster, &bridge, &sink, &sent).await;
}

#[tokio::test]
async fn without_a_majority_events_are_refused_and_with_it_they_are_taken_again() {
    let (mut cluster, sink, bridge) = world().await;
    let load = Load::of(&bridge, "two").senders(4).start();
    load.more_taken(20).await;
    // The one that stays leads the stream, and goes on to answer for it.
    let leader = cluster.stream_leader(STREAM).await;
    let lost: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    for number in &lost {
        cluster.kill9(*number);
    }
    load.more_refused(4).await;
    let names_it = |answer: &Message| answer.status() == 503 && answer.text().contains("default/foo");
    bridge.wait_for_readyz("503, the channel", names_it).await;
    for number in &lost {
        cluster.start_again(*number).await;
    }
    cluster.wait_until_whole().await;
    load.recovers(20).await;
    let ready = tokio::time::timeout(RECOVERY, bridge.wait_until_ready()).await;
    assert!(ready.is_ok(), "not ready within {RECOVERY:?}");
    let sent = load.end().await;
    came_through(&cluster, &bridge, &sink, &sent).await;
}

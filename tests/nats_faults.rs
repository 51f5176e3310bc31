//! What can befall a NATS server, while events come in and go out: every request is answered in time, with 202 or with 503 and
//! `Retry-After`; nothing that was acknowledged is lost; `/readyz` says what is; and soon after the fault is over everything works
//! again without a restart.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::chaos::{ChaosProxy, From};
use crate::support::http::Message;
use crate::support::load::{RECOVERY, Sent};
use crate::support::resources::{channel, channel_with, channel_with_stream, subscribe, subscription, to_yaml};
use crate::support::{Answer, Bridge, Gate, Load, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const CONSUMER: &str = "KN_SUB_DEFAULT__SUB";
/// What the bridge's memory may grow by, whatever happens, in KiB.
const GROWTH: u64 = 64 * 1024;

/// One channel with a short ack wait, one subscription with retries.
fn documents(url: &str) -> Vec<Value> {
    let template = json!({"consumerConfigTemplate": {"ackWait": "3s"}});
    let spec = json!({"subscriber": {"uri": url}, "delivery": {"retry": 5, "backoffDelay": "PT0.05S"}});
    vec![channel_with("foo", template), subscription("sub", "foo", spec)]
}

/// Ready, with a publish timeout of a second.
async fn serve(nats_url: &str, documents: &[Value]) -> Bridge {
    let setup = Bridge::at(nats_url).file("resources.yaml", &to_yaml(documents));
    setup.flag("--publish-timeout", "1s").start().await
}

/// After the last fault: everything that was taken has come, nothing waits, and the bridge is ready.
async fn came_through(nats: &Nats, bridge: &Bridge, sink: &Sink, sent: &Sent) {
    sent.all_delivered(sink, "/").await;
    nats.settled(STREAM).await;
    bridge.wait_until_ready().await;
}

async fn not_ready(bridge: &Bridge) {
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
}

async fn ready_soon(bridge: &Bridge) {
    let ready = tokio::time::timeout(RECOVERY, bridge.wait_until_ready()).await;
    assert!(ready.is_ok(), "not ready within {RECOVERY:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_again_and_again_under_load_costs_no_acknowledged_event() {
    let mut nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "kill").senders(4).start();
    load.more_taken(50).await;
    let before = bridge.resident_kib();
    for _ in 0..3 {
        nats.kill9();
        load.more_refused(20).await;
        not_ready(&bridge).await;
        nats.start_again().await;
        load.recovers(50).await;
        ready_soon(&bridge).await;
    }
    let sent = load.end().await;
    came_through(&nats, &bridge, &sink, &sent).await;
    assert!(bridge.resident_kib() < before + GROWTH);
}

#[tokio::test]
async fn a_server_that_is_silent_for_longer_than_heartbeats_is_told_of_and_costs_no_acknowledged_event() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "stall").senders(4).start();
    load.more_taken(50).await;
    let before = bridge.resident_kib();
    nats.stop().await;
    not_ready(&bridge).await;
    load.more_refused(4).await;
    nats.cont();
    load.recovers(50).await;
    ready_soon(&bridge).await;
    let sent = load.end().await;
    came_through(&nats, &bridge, &sink, &sent).await;
    assert!(bridge.resident_kib() < before + GROWTH);
}

#[tokio::test]
async fn a_slow_way_to_nats_makes_everything_slow_and_nothing_fail() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let sink = Sink::start().await;
    let bridge = serve(&proxy.nats_url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "slow").senders(8).start();
    load.more_taken(20).await;
    proxy.slow(Duration::from_millis(150));
    load.more_taken(40).await;
    assert_eq!(bridge.readyz().await.unwrap().status(), 200);
    proxy.heal();
    let sent = load.end().await;
    assert_eq!(sent.refused, 0, "slowest {:?}, outage {:?}", sent.slowest, sent.outage);
    came_through(&nats, &bridge, &sink, &sent).await;
    assert_eq!(sent.duplicates(&sink, "/"), 0);
}

#[tokio::test]
async fn a_connection_that_is_cut_within_any_frame_costs_no_acknowledged_event() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let sink = Sink::start().await;
    let bridge = serve(&proxy.nats_url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "cut").senders(2).size(300).start();
    for (from, frame) in [
        (From::Client, "HPUB foo.default"),
        (From::Client, "PUB $JS.API.CONSUMER.MSG.NEXT"),
        (From::Client, "PUB $JS.ACK"),
        (From::Server, "HMSG foo.default"),
        (From::Server, r#"{"stream":"KN_DEFAULT__FOO""#),
    ] {
        // Before its line ends, behind that, within headers or payload; in the end all is there but for the last bytes.
        for passes in [1, 12, 40, 120, 400] {
            load.more_taken(2).await;
            proxy.cut_within(from, frame, passes);
            if frame.contains("NEXT") {
                // A new connection begins with it.
                proxy.cut();
                load.more_refused(1).await;
                proxy.heal();
            }
            proxy.is_cut().await;
        }
    }
    load.recovers(20).await;
    let sent = load.end().await;
    came_through(&nats, &bridge, &sink, &sent).await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_under_load_costs_no_event() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "consumer").senders(2).start();
    for _ in 0..3 {
        load.more_taken(30).await;
        nats.stream(STREAM).await.delete_consumer(CONSUMER).await.unwrap();
        load.recovers(30).await;
    }
    let sent = load.end().await;
    assert_eq!(sent.refused, 0);
    came_through(&nats, &bridge, &sink, &sent).await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_under_load_takes_events_again_at_once_and_delivers_them() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
    for round in ["first", "second", "third"] {
        let load = Load::of(&bridge, "before").senders(2).start();
        load.more_taken(30).await;
        nats.jetstream().await.delete_stream(STREAM).await.unwrap();
        load.recovers(30).await;
        load.end().await;
        // What the deleted stream held is gone with it; what comes from here on is not.
        let load = Load::of(&bridge, round).senders(2).start();
        load.more_taken(30).await;
        let sent = load.end().await;
        came_through(&nats, &bridge, &sink, &sent).await;
    }
}

#[tokio::test]
async fn an_ingress_alone_is_not_ready_when_nobody_acknowledges_events() {
    let nats = Nats::start().await;
    let setup = Bridge::of(&nats, &[channel("foo")]).flag("--role", "ingress").flag("--publish-timeout", "1s");
    let bridge = setup.start().await;
    let load = Load::start(&bridge, "alone");
    load.more_taken(5).await;
    nats.stop().await;
    let begun = std::time::Instant::now();
    not_ready(&bridge).await;
    assert!(begun.elapsed() < RECOVERY, "took {:?}", begun.elapsed());
    nats.cont();
    load.recovers(5).await;
    ready_soon(&bridge).await;
    load.end().await;
}

/// A subscription whose sink takes its time, of a stream that holds little and lets go of what is delivered.
#[tokio::test]
async fn a_stream_that_fills_up_under_load_refuses_and_takes_events_again_as_it_empties() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_millis(20))).await;
    let stream = json!({"retention": "Work", "discard": "New", "maxBytes": 20_000});
    let documents = [channel_with_stream("foo", stream), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = serve(&nats.url(), &documents).await;
    let load = Load::of(&bridge, "full").senders(4).size(4000).start();
    load.more_refused(20).await;
    load.more_taken(40).await;
    assert_eq!(bridge.readyz().await.unwrap().status(), 200);
    let sent = load.end().await;
    came_through(&nats, &bridge, &sink, &sent).await;
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_server_or_an_account_without_room_refuses_events_until_there_is_room() {
    let account = "accounts { A { jetstream: { max_file: 300KB, max_memory: 1MB, max_streams: 10 }, \
                   users: [{ user: a, password: p }] } }\nno_auth_user: a";
    for (settings, limit) in [("", "max_file_store: 1GB"), (account, "max_file_store: 1GB")] {
        let mut nats = Nats::start_as(settings);
        if settings.is_empty() {
            nats.kill9();
            nats.reconfigure(limit, "max_file_store: 300KB");
            nats.spawn_again();
        }
        nats.wait_until_up().await;
        let sink = Sink::start().await;
        let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
        let load = Load::of(&bridge, "room").senders(2).size(20_000).start();
        load.more_refused(10).await;
        assert!(nats.count(STREAM).await > 3);
        // Nothing is stored now, so what is purged has been delivered.
        nats.settled(STREAM).await;
        nats.stream(STREAM).await.purge().await.unwrap();
        load.recovers(3).await;
        let sent = load.end().await;
        sent.all_delivered(&sink, "/").await;
        bridge.wait_until_ready().await;
    }
}

#[tokio::test]
async fn a_server_whose_disk_is_full_is_told_of_and_costs_no_acknowledged_event() {
    let mut nats = Nats::start().await;
    nats.kill9();
    nats.limit_files(Some(500));
    nats.start_again().await;
    let sink = Sink::start().await;
    let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
    let load = Load::of(&bridge, "disk").senders(2).size(20_000).start();
    load.more_taken(10).await;
    load.more_refused(4).await;
    // An older server says why it refuses an event; a newer one says nothing any more, and readiness does.
    let names_it = |answer: Message| answer.status() == 503 && answer.text().contains("default/foo");
    let large = event("large").data("text/plain", vec![b'x'; 20_000]);
    until("it is told of", || async {
        bridge.readyz().await.is_ok_and(names_it)
            || bridge.post("foo", &large).await.text().contains("the stream takes no more")
    })
    .await;
    // A server with a full disk has to be started again when there is room.
    nats.kill9();
    nats.limit_files(None);
    nats.start_again().await;
    load.recovers(10).await;
    ready_soon(&bridge).await;
    let sent = load.end().await;
    came_through(&nats, &bridge, &sink, &sent).await;
}

#[tokio::test]
async fn a_smaller_max_payload_refuses_larger_events_with_413_and_costs_no_other_event() {
    let mut nats = Nats::start_with("max_payload: 1MB").await;
    let sink = Sink::answering(|request| Answer::status(if request.id() == "big" { 400 } else { 200 })).await;
    let gate = Gate::new();
    let closed = gate.clone();
    let slow = Sink::answering(move |_| Answer::status(400).behind(&closed)).await;
    let mut documents = documents(&sink.url("/"));
    documents.extend([channel("big"), subscribe("bigs", "big", &slow.url("/"))]);
    let bridge = serve(&nats.url(), &documents).await;
    let big = event("big").data("text/plain", vec![b'x'; 500_000]);
    bridge.send("big", &big).await;
    slow.wait_for_one("/").await;
    let load = Load::of(&bridge, "payload").senders(2).start();
    load.more_taken(10).await;
    nats.reload_with("max_payload: 1MB", "max_payload: 100KB").await;
    load.more_taken(10).await;
    // The server tells nobody of its new limit. It closes the connection of who does not know it, and the next one knows.
    until("413", || async { bridge.post("foo", &big).await.status() == 413 }).await;
    let refused = load.end().await.refused;
    // This one is refused by its sink, and too large to be kept.
    gate.open();
    let load = Load::of(&bridge, "more").senders(2).start();
    load.more_taken(500).await;
    assert!(refused <= 4, "{refused}");
    let sent = load.end().await;
    assert_eq!(sent.refused, 0);
    came_through(&nats, &bridge, &sink, &sent).await;
    // Nobody tells of a larger limit either: the next connection knows it.
    nats.reload_with("max_payload: 100KB", "max_payload: 1MB").await;
    nats.kill9();
    nats.start_again().await;
    nats.dead_letters(1).await;
    assert_eq!(bridge.post("big", &big).await.status(), 202);
}

fn permissions(denied: &str) -> String {
    format!("permissions: {{ {denied} }}")
}

#[tokio::test]
async fn permissions_that_are_revoked_and_given_back_cost_no_acknowledged_event() {
    const ALL: &str = "permissions: { publish: { allow: \">\" } }";
    for denied in [
        "publish: { deny: \"foo.default\" }",
        "publish: { deny: \"$JS.ACK.>\" }",
        "publish: { deny: \"$JS.API.>\" }",
        "subscribe: { deny: \"_INBOX.>\" }",
    ] {
        let settings = format!(
            "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, \
             {{ user: some, password: p, {ALL} }} ] }} }}\nno_auth_user: some"
        );
        let nats = Nats::start_with(&settings).await;
        let sink = Sink::start().await;
        let bridge = serve(&nats.url(), &documents(&sink.url("/"))).await;
        let load = Load::of(&bridge, "perm").senders(2).start();
        load.more_taken(20).await;
        nats.reload_with(ALL, &permissions(denied)).await;
        if denied.contains("foo.default") || denied.contains("_INBOX") {
            load.more_refused(4).await;
        } else {
            load.more_taken(20).await;
        }
        nats.reload_with(&permissions(denied), ALL).await;
        load.recovers(20).await;
        ready_soon(&bridge).await;
        let sent = load.end().await;
        came_through(&nats, &bridge, &sink, &sent).await;
    }
}

#[tokio::test]
async fn a_consumer_that_cannot_be_asked_for_holds_up_no_events_and_what_is_owed_to_it_is_told_later() {
    const ALL: &str = "permissions: { publish: { allow: \">\" } }";
    let settings = format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, \
         {{ user: some, password: p, {ALL} }} ] }} }}\nno_auth_user: some"
    );
    let nats = Nats::start_with(&settings).await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |request| match request.id() {
        "held" => Answer::status(200).behind(&closed),
        _ => Answer::status(200),
    })
    .await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::at(&proxy.nats_url()).file("resources.yaml", &to_yaml(&documents)).start().await;
    bridge.send("foo", &event("held")).await;
    sink.wait_for_id("/", "held").await;
    let denied = permissions("publish: { deny: \"$JS.API.CONSUMER.INFO.>\" }");
    nats.reload_with(ALL, &denied).await;
    proxy.cut();
    not_ready(&bridge).await;
    gate.open();
    proxy.heal();
    until("it is taken", || async { bridge.post("foo", &event("next")).await.status() == 202 }).await;
    sink.wait_for_id("/", "next").await;
    nats.reload_with(&denied, ALL).await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 2);
}

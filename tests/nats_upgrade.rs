//! A NATS server is replaced by one of a newer version, with what it has stored.

use serde_json::json;

use crate::support::load::RECOVERY;
use crate::support::nats::{executable, old_executable};
use crate::support::resources::{channel_with, subscribe, subscription};
use crate::support::{Answer, Bridge, Load, Nats, Sink, event};

#[tokio::test]
async fn a_server_that_is_upgraded_from_2_10_under_load_costs_no_acknowledged_event_and_no_attempt() {
    let mut nats = Nats::start_program(old_executable(), "");
    nats.wait_until_up().await;
    let sink = Sink::answering(|request| match (request.target(), request.attempt) {
        ("/fails", 1) => Answer::status(503),
        _ => Answer::status(200),
    })
    .await;
    let delivery = json!({"retry": 1, "backoffPolicy": "linear", "backoffDelay": "PT4S"});
    let fails = json!({"subscriber": {"uri": sink.url("/fails")}, "delivery": delivery});
    let mut by_key = subscribe("by-key", "foo", &sink.url("/by-key"));
    by_key["metadata"]["annotations"] = json!({"knats.dev/ordering": "key"});
    // What was delivered last before the server went is delivered again after the ack wait.
    let short = json!({"consumerConfigTemplate": {"ackWait": "4s"}});
    let documents = [
        channel_with("foo", short.clone()),
        channel_with("bar", short),
        subscribe("sub", "foo", &sink.url("/")),
        subscription("fails", "bar", fails),
        by_key,
    ];
    let setup = Bridge::of(&nats, &documents).flag("--publish-timeout", "1s");
    let bridge = setup.spawn();
    // All that the old version knows is in place.
    let lacks = |text: &str| text.contains("default/by-key") && text.contains("2.11") && !text.contains("default/sub");
    bridge.wait_for_readyz("503, one is missing", |answer| lacks(&answer.text())).await;
    bridge.send("bar", &event("waits")).await;
    sink.wait_for_id("/fails", "waits").await;
    let load = Load::of(&bridge, "upgrade").senders(4).start();
    load.more_taken(100).await;

    nats.kill9();
    nats.becomes(executable());
    nats.start_again().await;

    load.recovers(100).await;
    let ready = tokio::time::timeout(RECOVERY, bridge.wait_until_ready()).await;
    assert!(ready.is_ok(), "not ready within {RECOVERY:?}");
    let sent = load.end().await;
    for path in ["/", "/by-key"] {
        sent.all_delivered(&sink, path).await;
    }
    sink.wait_for("/fails", 2).await;
    for stream in ["KN_DEFAULT__FOO", "KN_DEFAULT__BAR"] {
        nats.settled(stream).await;
    }
    assert_eq!(sink.requests("/fails").len(), 2);
    assert_eq!(nats.count("KN_DEADLETTERS").await, 0);
}

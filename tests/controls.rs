//! What a subscription's owner controls by `knats.dev/...` annotations.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::resources::{channel, subscription};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event, free_port, until};

const STREAM: &str = "KN_DEFAULT__FOO";

fn controlled(annotations: Value, spec: Value) -> Value {
    let mut subscription = subscription("sub", "foo", spec);
    subscription["metadata"]["annotations"] = annotations;
    subscription
}

/// How many requests were at work at once, at most, when each takes `took`.
fn most_at_once(requests: &[Request], took: Duration) -> usize {
    let starts: Vec<Instant> = requests.iter().map(|request| request.at).collect();
    starts
        .iter()
        .map(|start| starts.iter().filter(|other| **other <= *start && *start < **other + took.mul_f64(0.9)).count())
        .max()
        .unwrap_or(0)
}

#[tokio::test]
async fn max_in_flight_bounds_all_bridges_together() {
    let nats = Nats::start().await;
    let took = Duration::from_millis(100);
    let sink = Sink::answering(move |_| Answer::status(200).after(took)).await;
    let documents = [
        channel("foo"),
        controlled(json!({"knats.dev/max-in-flight": "3"}), json!({"subscriber": {"uri": sink.url("/")}})),
    ];
    let one = Bridge::serve(&nats, &documents).await;
    let _two = Bridge::serve(&nats, &documents).await;
    for id in 0..20 {
        one.send("foo", &event(&id.to_string())).await;
    }
    let requests = sink.wait_for("/", 20).await;
    assert_eq!(most_at_once(&requests, took), 3);
}

#[tokio::test]
async fn rate_bounds_the_events_of_a_second() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents =
        [channel("foo"), controlled(json!({"knats.dev/rate": "20"}), json!({"subscriber": {"uri": sink.url("/")}}))];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..30 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let requests = sink.wait_for("/", 30).await;
    let span = requests[29].at - requests[0].at;
    assert!(span >= Duration::from_millis(1200), "30 events at 20 a second took {span:?}");
}

#[tokio::test]
async fn strict_order_holds_over_retries_and_bridges() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| {
        let fails = request.id().ends_with('3') && request.attempt < 3;
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffPolicy": "linear", "backoffDelay": "PT0.03S"}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/ordering": "strict"}), spec)];
    let one = Bridge::serve(&nats, &documents).await;
    let _two = Bridge::serve(&nats, &documents).await;
    for id in 0..25 {
        one.send("foo", &event(&id.to_string())).await;
    }
    nats.settled(STREAM).await;
    let mut ids: Vec<usize> = sink.requests("/").iter().map(|request| request.id().parse().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids, (0..25).collect::<Vec<_>>());
}

/// For each key, the ids in the order in which they were accepted at last.
fn by_key(sink: &Sink) -> HashMap<String, Vec<usize>> {
    let mut keys: HashMap<String, Vec<usize>> = HashMap::new();
    for request in sink.requests("/") {
        let key = request.header("ce-partitionkey").unwrap_or("none").to_owned();
        let ids = keys.entry(key).or_default();
        let id = request.id().parse().unwrap();
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    keys
}

#[tokio::test]
async fn events_of_one_key_go_one_after_the_other_and_a_retry_blocks_its_key_only() {
    let nats = Nats::start().await;
    let open = Arc::new(AtomicBool::new(false));
    let script = Arc::clone(&open);
    let sink = Sink::answering(move |request| {
        let stuck = request.header("ce-partitionkey") == Some("a") && !script.load(Ordering::Relaxed);
        Answer::status(if stuck { 503 } else { 200 })
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 500, "backoffPolicy": "linear", "backoffDelay": "PT0.05S", "backoffMax": "PT0.05S"}});
    let documents =
        [channel("foo"), controlled(json!({"knats.dev/ordering": "key", "knats.dev/breaker": "off"}), spec)];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..30 {
        let key = ["a", "b", "c"][id % 3];
        bridge.send("foo", &event(&id.to_string()).attribute("partitionkey", key)).await;
    }
    until("the other keys are done", || {
        let keys = by_key(&sink);
        async move { keys.get("b").map(Vec::len) == Some(10) && keys.get("c").map(Vec::len) == Some(10) }
    })
    .await;
    assert_eq!(by_key(&sink)["a"], [0], "nothing overtakes the first of its key");
    open.store(true, Ordering::Relaxed);
    nats.settled(STREAM).await;
    for (key, first) in [("a", 0), ("b", 1), ("c", 2)] {
        assert_eq!(by_key(&sink)[key], (0..10).map(|n| first + n * 3).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test]
async fn another_bridge_takes_over_an_ordered_subscription_when_one_is_killed_and_keeps_the_order() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_millis(30))).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/ordering": "key"}), spec)];
    let mut one = Bridge::serve(&nats, &documents).await;
    let two = Bridge::serve(&nats, &documents).await;
    for id in 0..60 {
        let key = ["a", "b"][id % 2];
        two.send("foo", &event(&id.to_string()).attribute("partitionkey", key)).await;
    }
    sink.wait_for("/", 10).await;
    one.kill9();
    until("all events have been accepted", || async {
        let keys = by_key(&sink);
        let last = |key: &str| keys.get(key).and_then(|ids| ids.last().copied());
        last("a") == Some(58) && last("b") == Some(59)
    })
    .await;
    for (key, first) in [("a", 0), ("b", 1)] {
        let ids = &by_key(&sink)[key];
        let mut seen = Vec::new();
        for id in ids {
            if !seen.contains(id) {
                seen.push(*id);
            }
        }
        assert_eq!(seen, (0..30).map(|n| first + n * 2).collect::<Vec<_>>(), "{key}: {ids:?}");
    }
}

#[tokio::test]
async fn a_batch_is_one_request_and_its_answer_counts_for_all() {
    let nats = Nats::start().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let script = Arc::clone(&tries);
    let sink =
        Sink::answering(move |_| Answer::status(if script.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 }))
            .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffPolicy": "linear", "backoffDelay": "PT0.05S"}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/batch": "10/300ms"}), spec)];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..10 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    nats.settled(STREAM).await;
    let requests = sink.requests("/");
    assert_eq!(requests[0].header("content-type"), Some("application/cloudevents-batch+json"));
    let ids = |request: &Request| -> Vec<String> {
        let body = request.json();
        let mut ids: Vec<String> =
            body.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let all: Vec<String> = (0..10).map(|id| id.to_string()).collect();
    assert_eq!(ids(&requests[0]), all);
    let mut after: Vec<String> = requests[1..].iter().flat_map(ids).collect();
    after.sort();
    assert_eq!(after, all, "the failure retries every one of them once");
}

#[tokio::test]
async fn start_says_where_a_new_subscription_begins() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for id in 1..=3 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let begins = |name: &str, start: &str| {
        let mut subscription = controlled(
            json!({"knats.dev/start": start}),
            json!({"subscriber": {"uri": sink.url(&format!("/{name}"))}}),
        );
        subscription["metadata"]["name"] = name.into();
        subscription
    };
    bridge.write(
        "subs.yaml",
        &[begins("all", "all"), begins("new", "new"), begins("two", "2"), begins("past", "2020-01-01T00:00:00Z")],
    );
    until("all four are there", || async { nats.consumers(STREAM).await.len() == 4 }).await;
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("4")).await;
    nats.settled(STREAM).await;
    let count = |path: &str| sink.requests(path).len();
    assert_eq!((count("/all"), count("/new"), count("/two"), count("/past")), (4, 1, 3, 4));
}

#[tokio::test]
async fn a_paused_subscription_waits_and_goes_on_where_it_was() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    bridge.write("sub.yaml", &[controlled(json!({"knats.dev/paused": "true"}), spec.clone())]);
    until("its consumer is there", || async { nats.consumers(STREAM).await.len() == 1 }).await;
    for id in 1..=3 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    bridge.wait_until_ready().await;
    let consumer = &nats.consumers(STREAM).await[0];
    assert_eq!((consumer.num_pending, consumer.paused), (3, true));
    assert!(bridge.readyz().await.unwrap().text().contains("paused"));
    bridge.write("sub.yaml", &[controlled(json!({"knats.dev/paused": "false"}), spec)]);
    sink.wait_for("/", 3).await;
    assert!(!nats.consumers(STREAM).await[0].paused);
}

#[tokio::test]
async fn a_sink_that_cannot_be_reached_holds_further_events_back_and_the_first_success_lets_them_go() {
    let nats = Nats::start().await;
    let open = Arc::new(AtomicBool::new(false));
    let script = Arc::clone(&open);
    let sink = Sink::answering(move |_| Answer::status(if script.load(Ordering::Relaxed) { 200 } else { 503 })).await;
    let delivery = json!({"retry": 1000, "backoffPolicy": "linear", "backoffDelay": "PT0.1S", "backoffMax": "PT0.1S"});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), controlled(json!({}), spec)]).await;
    for id in 0..8 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    bridge.wait_for_readyz("held", |answer| answer.text().contains("cannot be reached")).await;
    assert_eq!(bridge.readyz().await.unwrap().status(), 200, "the bridge does what it should");
    let before = sink.requests("/").len();
    for id in 8..60 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", before + 20).await;
    let further = sink.requests("/").iter().filter(|request| request.id().parse::<usize>().unwrap() >= 8).count();
    assert_eq!(further, 0, "those under way are the probes, further ones are not spent");
    open.store(true, Ordering::Relaxed);
    nats.settled(STREAM).await;
    let accepted = |id: usize| sink.requests("/").iter().any(|request| request.id() == id.to_string());
    assert!((0..60).all(accepted));
    bridge.wait_for_readyz("no longer held", |answer| !answer.text().contains("cannot be reached")).await;
}

#[tokio::test]
async fn a_sink_that_is_gone_holds_events_that_have_no_retries_back_too() {
    let nats = Nats::start().await;
    let port = free_port();
    let spec = json!({"subscriber": {"uri": format!("http://127.0.0.1:{port}/")}, "delivery": {"retry": 0}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), controlled(json!({}), spec)]).await;
    for id in 0..8 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    bridge.wait_for_readyz("held", |answer| answer.text().contains("cannot be reached")).await;
    for id in 8..60 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let sink = Sink::at(port).await;
    nats.settled(STREAM).await;
    assert!(sink.requests("/").len() >= 50, "only {} of them were held", sink.requests("/").len());
}

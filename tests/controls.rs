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
async fn a_batch_has_events_of_one_specification_version() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), controlled(json!({"knats.dev/batch": "4/300ms"}), spec)]).await;
    for (id, version) in [("1", "1.0"), ("2", "0.3"), ("3", "0.3"), ("4", "1.0")] {
        bridge.send("foo", &event(id).without("specversion").attribute("specversion", version)).await;
    }
    nats.settled(STREAM).await;
    let mut delivered = 0;
    for request in sink.requests("/") {
        let body = request.json();
        let events = body.as_array().unwrap();
        assert!(events.iter().all(|event| event["specversion"] == events[0]["specversion"]), "{body}");
        delivered += events.len();
    }
    assert_eq!(delivered, 4);
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
async fn limits_and_order_change_without_a_restart_and_go_back_to_their_defaults() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let steps = [
        (json!({}), 20_000),
        (json!({"knats.dev/max-in-flight": "3"}), 3),
        (json!({"knats.dev/max-in-flight": "7", "knats.dev/batch": "5/10ms"}), 7),
        (json!({"knats.dev/rate": "50", "knats.dev/breaker": "on"}), 20_000),
        (json!({"knats.dev/ordering": "strict"}), 1),
        (json!({"knats.dev/ordering": "key"}), 1024),
        (json!({}), 20_000),
        (json!({"knats.dev/ordering": "key:subject"}), 1024),
        (json!({"knats.dev/ordering": "strict"}), 1),
        (json!({"knats.dev/filters": "- exact: {type: none.such}"}), 20_000),
        (json!({"knats.dev/max-in-flight": "2"}), 2),
    ];
    for (step, (annotations, limit)) in steps.into_iter().enumerate() {
        let path = format!("/{step}");
        bridge.write("sub.yaml", &[controlled(annotations, json!({"subscriber": {"uri": sink.url(&path)}}))]);
        until(&format!("step {step}: max_ack_pending {limit}"), || async {
            let consumers = nats.consumers(STREAM).await;
            consumers.first().is_some_and(|consumer| consumer.config.max_ack_pending == limit)
        })
        .await;
        bridge.wait_until_ready().await;
        bridge.send("foo", &event(&step.to_string()).attribute("partitionkey", "a")).await;
        nats.settled(STREAM).await;
        let all: usize = (0..=step).map(|step| sink.requests(&format!("/{step}")).len()).sum();
        assert_eq!(
            all,
            step + 1 - usize::from(step >= 9),
            "step {step}: every event once, but for the one filtered out"
        );
    }
}

#[tokio::test]
async fn start_wins_over_the_channels_template_after_a_restart_too() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let template = json!({"consumerConfigTemplate": {"deliverPolicy": "All"}});
    let documents = [
        crate::support::resources::channel_with("foo", template),
        controlled(json!({"knats.dev/start": "new"}), json!({"subscriber": {"uri": sink.url("/")}})),
    ];
    let mut bridge = Bridge::serve(&nats, &documents).await;
    bridge.kill9();
    bridge.start_again().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
}

#[tokio::test]
async fn with_no_retries_a_sink_that_is_away_costs_few_events_and_the_others_wait() {
    for ordering in ["none", "key"] {
        let nats = Nats::start().await;
        let port = free_port();
        let spec = json!({"subscriber": {"uri": format!("http://127.0.0.1:{port}/")}, "delivery": {"retry": 0}});
        let documents = [channel("foo"), controlled(json!({"knats.dev/ordering": ordering}), spec)];
        let bridge = Bridge::of(&nats, &[channel("foo")]).flag("--role", "ingress").start().await;
        let deliverer = Bridge::serve(&nats, &documents).await;
        for id in 0..40 {
            bridge.send("foo", &event(&id.to_string()).attribute("partitionkey", "a")).await;
        }
        deliverer.wait_for_readyz("held", |answer| answer.text().contains("cannot be reached")).await;
        // Three probes, of which each is an attempt made.
        let kept = nats.dead_letters(7).await.len();
        // Those that were under way at once when the sink was found to be away.
        assert!(kept < 20, "{ordering}: {kept} dead letters");
        let sink = Sink::at(port).await;
        nats.settled(STREAM).await;
        let kept = nats.messages("KN_DEADLETTERS").await.len();
        assert_eq!(sink.requests("/").len() + kept, 40, "{ordering}: {kept} dead letters");
        if ordering == "key" {
            let ids = &by_key(&sink)["a"];
            assert!(ids.is_sorted(), "{ids:?}");
        }
    }
}

#[tokio::test]
async fn a_reply_that_nobody_takes_does_not_hold_the_subscriber_back() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::event(&format!("{}x", request.id()))).await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": format!("http://127.0.0.1:{}/", free_port())},
        "delivery": {"retry": 0},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), controlled(json!({}), spec)]).await;
    for id in 0..12 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    nats.dead_letters(12).await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 12);
}

#[tokio::test]
async fn an_ordered_subscription_that_changes_hands_to_and_fro_holds_nothing_for_ever() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_millis(40))).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 0}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/ordering": "key"}), spec)];
    let one = Bridge::serve(&nats, &documents).await;
    let _two = Bridge::serve(&nats, &documents).await;
    for id in 0..60 {
        one.send("foo", &event(&id.to_string()).attribute("partitionkey", ["a", "b"][id % 2])).await;
    }
    let client = nats.client().await;
    let name = nats.consumers(STREAM).await[0].name.clone();
    for progress in [6, 14, 22, 30] {
        sink.wait_for("/", progress).await;
        let subject = format!("$JS.API.CONSUMER.UNPIN.{STREAM}.{name}");
        client.request(subject, r#"{"group":"knats"}"#.into()).await.unwrap();
    }
    nats.settled(STREAM).await;
    for (key, first) in [("a", 0), ("b", 1)] {
        let mut seen = Vec::new();
        for id in &by_key(&sink)[key] {
            if !seen.contains(id) {
                seen.push(*id);
            }
        }
        assert_eq!(seen, (0..30).map(|n| first + n * 2).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test]
async fn a_batch_that_fails_for_good_leaves_a_dead_letter_of_each_event() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.target() == "/" { 400 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "deadLetterSink": {"uri": sink.url("/dls")}}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/batch": "4/1s"}), spec)];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..4 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let mut letters: Vec<String> =
        sink.wait_for("/dls", 4).await.iter().map(|request| request.id().to_owned()).collect();
    letters.sort();
    assert_eq!(letters, ["0", "1", "2", "3"]);
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
}

#[tokio::test]
async fn what_gathers_for_a_batch_goes_out_when_the_bridge_ends() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let documents = [channel("foo"), controlled(json!({"knats.dev/batch": "100/1m"}), spec)];
    let mut bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..3 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    until("all three are under way", || async { nats.consumers(STREAM).await[0].num_ack_pending == 3 }).await;
    bridge.term();
    assert_eq!(bridge.wait().await.code(), Some(0));
    assert_eq!(sink.wait_for_one("/").await.json().as_array().unwrap().len(), 3);
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn a_subscription_that_changes_while_events_are_at_work_delivers_them_once() {
    for (before, after) in [("none", "key"), ("key", "none"), ("key", "strict"), ("strict", "key")] {
        let nats = Nats::start().await;
        let gate = crate::support::Gate::new();
        let shut = gate.clone();
        let sink = Sink::answering(move |_| Answer::status(200).behind(&shut)).await;
        let ordered =
            |how: &str| controlled(json!({"knats.dev/ordering": how}), json!({"subscriber": {"uri": sink.url("/")}}));
        let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
        bridge.write("sub.yaml", &[ordered(before)]);
        for id in 0..3 {
            bridge.send("foo", &event(&id.to_string()).attribute("partitionkey", &id.to_string())).await;
        }
        sink.wait_for("/", if before == "strict" { 1 } else { 3 }).await;
        bridge.write("sub.yaml", &[ordered(after)]);
        let limit = match after {
            "none" => 20_000,
            "key" => 1024,
            _ => 1,
        };
        until("the change is seen", || async { nats.consumers(STREAM).await[0].config.max_ack_pending == limit }).await;
        gate.open();
        bridge.send("foo", &event("3").attribute("partitionkey", "3")).await;
        nats.settled(STREAM).await;
        assert_eq!(sink.requests("/").len(), 4, "{before} to {after}");
    }
}

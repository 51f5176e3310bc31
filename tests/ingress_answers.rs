//! Every row of the ingress's table of answers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Message, call, post};
use crate::support::resources::{channel, channel_with_stream};
use crate::support::{Bridge, Event, Nats, event, until};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const STREAM: &str = "KN_DEFAULT__FOO";

async fn world() -> (Nats, Bridge) {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    (nats, bridge)
}

fn json_event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"})
}

/// The answer is an RFC 9457 problem of that status; gives its `detail`.
#[track_caller]
fn problem(answer: &Message, status: u16, what: &str) -> String {
    assert_eq!(answer.status(), status, "{what}: {}", answer.text());
    let content_type = answer.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/problem+json"), "{what}: {content_type:?}");
    let body = answer.json();
    if let Some(in_body) = body.get("status") {
        assert_eq!(in_body, status, "{what}");
    }
    body["detail"].as_str().unwrap_or_else(|| panic!("{what}: no detail in {body}")).to_owned()
}

#[track_caller]
fn unavailable(answer: &Message, what: &str) {
    problem(answer, 503, what);
    let retry_after = answer.header("retry-after").unwrap_or_else(|| panic!("{what}: no Retry-After"));
    assert!(retry_after.parse::<u32>().is_ok(), "{what}: Retry-After: {retry_after}");
}

#[tokio::test]
async fn a_202_is_empty_and_means_that_jetstream_has_the_event() {
    let (nats, bridge) = world().await;
    for count in 1..=20 {
        let answer = bridge.post("foo", &event(&count.to_string()).data("text/plain", "x")).await;
        assert_eq!((answer.status(), answer.body.len()), (202, 0), "{}", answer.text());
        assert_eq!(nats.count(STREAM).await, count);
    }
}

#[tokio::test]
async fn options_is_answered_with_what_a_webhook_sender_asks_for() {
    let (_nats, bridge) = world().await;
    let answer =
        call("OPTIONS", &bridge.url("/default/foo")).header("WebHook-Request-Origin", "example.com").send().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("allow"), Some("POST, OPTIONS"));
    let origin = answer.header("webhook-allowed-origin");
    assert!(matches!(origin, Some("*" | "example.com")), "{origin:?}");
    assert!(answer.header("webhook-allowed-rate").is_some());
}

#[tokio::test]
async fn a_binary_request_that_is_no_valid_event_is_refused_by_the_name_of_the_attribute() {
    let (nats, bridge) = world().await;
    let good = event("1").data("text/plain", "x");
    // The request, and what the detail must name.
    let cases: Vec<(Event, &str)> = vec![
        (good.clone().without("specversion"), "specversion"),
        (good.clone().without("id"), "id"),
        (good.clone().without("source"), "source"),
        (good.clone().without("type"), "type"),
        (good.clone().attribute("id", ""), "id"),
        (good.clone().attribute("source", ""), "source"),
        (good.clone().attribute("type", ""), "type"),
        (good.clone().attribute("subject", ""), "subject"),
        (good.clone().attribute("specversion", "9000.1"), "specversion"),
        (good.clone().attribute("specversion", "10.0"), "specversion"),
        (good.clone().attribute("time", "yesterday"), "time"),
        (good.clone().attribute("time", "2020-13-41T12:34:56Z"), "time"),
        (good.clone().attribute("dataschema", "relative/path"), "dataschema"),
        (good.clone().attribute("source", "ht tp://[bad"), "source"),
        (good.clone().attribute("bad_name", "x"), "bad_name"),
        (good.clone().attribute("foo-bar", "x"), "foo-bar"),
        (good.clone().attribute("data", "x"), "data"),
        (good.clone().attribute("subject", "%C0%A0"), "subject"),
        (good.clone().attribute("subject", "%FF"), "subject"),
        (good.clone().attribute("subject", "a%00b"), "subject"),
    ];
    for (sent, name) in cases {
        let what = format!("{:?}", sent.headers);
        let detail = problem(&bridge.post("foo", &sent).await, 400, &what);
        assert!(detail.contains(name), "{what}: {detail}");
    }
    let twice = post(&bridge.url("/default/foo")).event(&good).header("ce-id", "2").send().await;
    assert!(problem(&twice, 400, "ce-id twice").contains("id"));
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_structured_request_that_is_no_valid_event_is_refused_by_the_name_of_the_field() {
    let (nats, bridge) = world().await;
    let with = |name: &str, value: Value| {
        let mut event = json_event("1");
        event[name] = value;
        event.to_string()
    };
    let without = |name: &str| {
        let mut event = json_event("1");
        event.as_object_mut().unwrap().remove(name);
        event.to_string()
    };
    let mut both = json_event("1");
    both["data"] = json!("x");
    both["data_base64"] = json!("eA==");
    let cases: Vec<(String, &str)> = vec![
        (without("specversion"), "specversion"),
        (without("id"), "id"),
        (without("source"), "source"),
        (without("type"), "type"),
        (with("id", json!("")), "id"),
        (with("id", json!(null)), "id"),
        (with("id", json!(17)), "id"),
        (with("specversion", json!("2.0")), "specversion"),
        (with("time", json!("now")), "time"),
        (with("dataschema", json!("relative")), "dataschema"),
        (with("Upper", json!("x")), "Upper"),
        (with("a-b", json!("x")), "a-b"),
        (with("ext", json!({"an": "object"})), "ext"),
        (with("ext", json!(4_294_967_296_u64)), "ext"),
        (with("data_base64", json!("not base64!")), "data_base64"),
        (both.to_string(), "data_base64"),
        ("{".to_owned(), ""),
        ("[]".to_owned(), ""),
        ("\"text\"".to_owned(), ""),
        (String::new(), ""),
        (r#"{"specversion":"1.0","id":"1","id":"2","source":"/s","type":"t"}"#.to_owned(), "id"),
    ];
    for (body, name) in cases {
        let answer =
            post(&bridge.url("/default/foo")).header("content-type", STRUCTURED).body(body.clone()).send().await;
        let detail = problem(&answer, 400, &body);
        assert!(detail.contains(name), "{body}: {detail}");
    }
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_request_without_any_sign_of_an_event_is_refused() {
    let (_nats, bridge) = world().await;
    let answer = post(&bridge.url("/default/foo")).header("content-type", "application/json").body("{}").send().await;
    assert!(problem(&answer, 400, "plain JSON").contains("specversion"));
}

#[tokio::test]
async fn of_a_batch_with_one_bad_event_nothing_is_stored() {
    let (nats, bridge) = world().await;
    let mut bad = json_event("3");
    bad["type"] = json!("");
    for batch in [
        json!([json_event("1"), json_event("2"), bad]),
        json!([json_event("1"), 17]),
        json!([json_event("1"), {"specversion": "1.0"}]),
        json!(json_event("1")),
    ] {
        let answer =
            post(&bridge.url("/default/foo")).header("content-type", BATCH).body(batch.to_string()).send().await;
        problem(&answer, 400, &batch.to_string());
    }
    let batch =
        json!([json_event("1"), json_event("2"), {"specversion": "1.0", "id": "3", "source": "/s"}]).to_string();
    let answer = post(&bridge.url("/default/foo")).header("content-type", BATCH).body(batch).send().await;
    assert!(problem(&answer, 400, "no type").contains("type"));
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn an_unknown_channel_or_path_is_404() {
    let (_nats, bridge) = world().await;
    for path in ["/default/bar", "/other/foo", "/", "/default", "/default/foo/more", "/DEFAULT/FOO"] {
        problem(&post(&bridge.url(path)).event(&event("1")).send().await, 404, path);
    }
}

#[tokio::test]
async fn another_method_is_405_and_told_what_is_allowed() {
    let (_nats, bridge) = world().await;
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = call(method, &bridge.url("/default/foo")).event(&event("1")).send().await;
        problem(&answer, 405, method);
        let allow = answer.header("allow").unwrap_or_default();
        assert!(allow.split(", ").any(|allowed| allowed == "POST"), "{method}: {allow:?}");
    }
}

#[tokio::test]
async fn an_unknown_event_format_is_415() {
    let (nats, bridge) = world().await;
    for content_type in
        ["application/cloudevents+avro", "application/cloudevents+json-seq", "application/cloudevents-batch+avro"]
    {
        let call = post(&bridge.url("/default/foo")).header("content-type", content_type);
        problem(&call.body(json_event("1").to_string()).send().await, 415, content_type);
    }
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn more_than_one_nats_message_can_hold_is_413() {
    let nats = Nats::start_with("max_payload: 100000").await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let sized = |id: &str, size| event(id).data("text/plain", vec![b'x'; size]);
    bridge.send("foo", &sized("fits", 99_000)).await;
    problem(&bridge.post("foo", &sized("body", 100_001)).await, 413, "data over the limit");
    // The data alone would fit.
    problem(&bridge.post("foo", &sized("headers", 99_990)).await, 413, "headers over the limit");
    let mut large = json_event("large");
    large["extension"] = json!("e".repeat(50_000));
    large["data"] = json!("d".repeat(60_000));
    let structured = post(&bridge.url("/default/foo")).header("content-type", STRUCTURED).body(large.to_string());
    problem(&structured.send().await, 413, "attributes and data over the limit");
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn the_stream_s_max_msg_size_is_a_limit_too() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel_with_stream("foo", json!({"maxMsgSize": 2000}))]).await;
    bridge.send("foo", &event("fits").data("text/plain", vec![b'x'; 1000])).await;
    problem(&bridge.post("foo", &event("body").data("text/plain", vec![b'x'; 2001])).await, 413, "data");
    problem(&bridge.post("foo", &event("headers").data("text/plain", vec![b'x'; 1990])).await, 413, "headers");
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn the_size_limit_counts_for_each_event_of_a_batch() {
    let nats = Nats::start_with("max_payload: 100000").await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let batch = |size: usize, prefix: &str| {
        let events: Vec<Value> = (0..4)
            .map(|n| {
                let mut event = json_event(&format!("{prefix}{n}"));
                event["data"] = json!("x".repeat(if n == 2 { size } else { 60_000 }));
                event
            })
            .collect();
        post(&bridge.url("/default/foo")).header("content-type", BATCH).body(json!(events).to_string())
    };
    problem(&batch(100_001, "large").send().await, 413, "one event over the limit");
    assert_eq!(nats.count(STREAM).await, 0);
    let answer = batch(60_000, "small").send().await;
    assert_eq!(answer.status(), 202, "{}", answer.text());
    assert_eq!(nats.count(STREAM).await, 4);
}

#[tokio::test]
async fn events_of_64_kib_are_taken() {
    let (nats, bridge) = world().await;
    bridge.send("foo", &event("1").data("text/plain", vec![b'x'; 64 * 1024])).await;
    assert_eq!(nats.message(STREAM, 1).await.payload.len(), 64 * 1024);
}

#[tokio::test]
async fn without_jetstream_an_event_is_refused_with_503_at_once() {
    let (mut nats, bridge) = world().await;
    nats.kill9();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    let start = Instant::now();
    let answer = bridge.post("foo", &event("1")).await;
    unavailable(&answer, "NATS is gone");
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn an_event_refused_while_nats_was_away_is_not_stored_when_it_is_back() {
    let (mut nats, bridge) = world().await;
    nats.kill9();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    for id in 0..10 {
        unavailable(&bridge.post("foo", &event(&id.to_string())).await, "NATS is gone");
    }
    nats.start_again().await;
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("later")).await;
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn without_an_acknowledgement_in_time_it_is_503() {
    let nats = Nats::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo")]).flag("--publish-timeout", "1s").start().await;
    nats.stop().await;
    let start = Instant::now();
    unavailable(&bridge.post("foo", &event("1")).await, "NATS does not answer");
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    nats.cont();
}

#[tokio::test]
async fn a_full_stream_is_503_and_other_channels_still_take_events() {
    let nats = Nats::start().await;
    let full = channel_with_stream("foo", json!({"maxMsgs": 2, "discard": "New"}));
    let bridge = Bridge::serve(&nats, &[full, channel("bar")]).await;
    bridge.send("foo", &event("1")).await;
    bridge.send("foo", &event("2")).await;
    unavailable(&bridge.post("foo", &event("3")).await, "the stream is full");
    bridge.send("bar", &event("3")).await;
    assert_eq!(nats.count(STREAM).await, 2);
}

#[tokio::test]
async fn too_many_requests_in_flight_are_503_at_once_and_not_for_ever() {
    let nats = Nats::start().await;
    let bridge =
        Bridge::of(&nats, &[channel("foo")]).flag("--max-in-flight", "1").flag("--publish-timeout", "5s").start().await;
    // While NATS does not answer, whichever comes first stays in flight.
    nats.stop().await;
    let start = Instant::now();
    let (url, other) = (bridge.url("/default/foo"), bridge.url("/default/foo"));
    let first = tokio::spawn(async move { post(&url).event(&event("1")).send().await });
    let second = tokio::spawn(async move { post(&other).event(&event("2")).send().await });
    let (answer, pending) = tokio::select! {
        answer = first => (answer.unwrap(), "first"),
        answer = second => (answer.unwrap(), "second"),
    };
    unavailable(&answer, "one too many");
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}, while {pending} was in flight", start.elapsed());
    nats.cont();
    let url = bridge.url("/default/foo");
    until("a place is free again", || async { post(&url).event(&event("3")).send().await.status() == 202 }).await;
}

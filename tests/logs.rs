//! The log tells of each fault, and never of each event that meets it.

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::support::resources::{channel, subscribe};
use crate::support::{Answer, Bridge, Nats, Sink, event, http, until};

const FLOOD: usize = 2000;
/// Of a flood that takes a minute, which is longer than any does here: a line in ten seconds, for two or three kinds of faults.
const MOST_LINES: usize = 20;
/// Messages and requests that are under way at once.
const PARALLEL: usize = 32;

async fn world(sink: &Sink) -> (Nats, Bridge) {
    let nats = Nats::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::of(&nats, &documents).flag("--log-format", "json").start().await;
    (nats, bridge)
}

async fn flood(nats: &Nats, headers: impl Fn(usize) -> Vec<(&'static str, String)>) {
    let client = nats.client().await;
    for number in 0..FLOOD {
        let mut map = async_nats::HeaderMap::new();
        headers(number).into_iter().for_each(|(name, value)| map.insert(name, value));
        client.publish_with_headers("foo.default", map, "x".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let kept = FLOOD as u64;
    until("all are kept", || async { nats.count("KN_DEADLETTERS").await == kept }).await;
}

/// Every line is one JSON object; those of a level.
fn lines(bridge: &Bridge, level: &str) -> Vec<Value> {
    let log = bridge.stderr();
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.filter(|line| line["level"] == level).collect()
}

fn binary(id: &str, version: &str) -> Vec<(&'static str, String)> {
    let attributes = [("ce-specversion", version), ("ce-id", id), ("ce-source", "/flood"), ("ce-type", "t")];
    attributes.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

#[tokio::test]
async fn a_flood_of_poison_is_a_few_lines() {
    let sink = Sink::start().await;
    let (nats, bridge) = world(&sink).await;
    flood(&nats, |number| binary(&number.to_string(), "9.9")).await;
    let told = lines(&bridge, "ERROR");
    assert!((1..=MOST_LINES).contains(&told.len()), "{} lines", told.len());
    let first = &told[0];
    assert_eq!((&first["subscription"], &first["stream"]), (&json!("default/sub"), &json!("KN_DEFAULT__FOO")));
    assert!(first["reason"].as_str().unwrap().contains("specversion"), "{first}");
    assert!(first["sequence"].is_u64() && first["count"].is_u64(), "{first}");
    assert_eq!(sink.requests("/").len(), 0);
}

#[tokio::test]
async fn a_flood_of_failing_events_is_a_few_lines() {
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let (nats, bridge) = world(&sink).await;
    flood(&nats, |number| binary(&number.to_string(), "1.0")).await;
    let told = [lines(&bridge, "WARN"), lines(&bridge, "ERROR"), lines(&bridge, "INFO")].concat();
    assert!(told.len() <= MOST_LINES, "{} lines", told.len());
    let first = told.iter().find(|line| line["code"] == 400).unwrap();
    assert_eq!((&first["subscription"], &first["source"]), (&json!("default/sub"), &json!("/flood")));
    assert!(first["id"].is_string(), "{first}");
}

#[tokio::test]
async fn a_flood_of_refused_requests_is_a_few_lines() {
    let sink = Sink::start().await;
    let (_nats, bridge) = world(&sink).await;
    let requests = (0..FLOOD).map(|number| {
        let request = http::post(&bridge.url("/default/foo")).event(&event(&number.to_string()).without("type"));
        async move { request.send().await.status() }
    });
    let statuses: Vec<u16> = stream::iter(requests).buffer_unordered(PARALLEL).collect().await;
    assert!(statuses.iter().all(|status| *status == 400));
    let refused: Vec<Value> = lines(&bridge, "INFO").into_iter().filter(|line| line["status"] == 400).collect();
    assert!((1..=MOST_LINES).contains(&refused.len()), "{} lines", refused.len());
    assert_eq!(refused[0]["path"], "/default/foo");
    assert!(refused[0]["error"].as_str().unwrap().contains("type"), "{}", refused[0]);
}

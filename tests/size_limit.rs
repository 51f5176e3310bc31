//! Events as large as can be: what fits is delivered or kept, whatever has to be said about it, and nothing comes for ever.

use serde_json::json;

use crate::support::http::post;
use crate::support::nats::header;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Event, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const MAX_PAYLOAD: usize = 8192;

fn sized(id: &str, size: usize) -> Event {
    event(id).attribute("subject", "s").data("text/plain", vec![b'x'; size])
}

/// A channel in a small server, its sink failing with a long body for good, its dead letters kept.
async fn world() -> (Nats, Sink, Bridge) {
    let nats = Nats::start_with(&format!("max_payload: {MAX_PAYLOAD}")).await;
    let sink = Sink::answering(|_| Answer::status(400).body("e".repeat(2000))).await;
    let documents =
        [channel("foo"), subscribe("one", "foo", &sink.url("/one")), subscribe("two", "foo", &sink.url("/two"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    (nats, sink, bridge)
}

#[tokio::test]
async fn the_largest_event_that_is_taken_is_kept_when_its_delivery_fails() {
    let (nats, sink, bridge) = world().await;
    // Ids are of one length, so that they do not change the size.
    let (mut taken, mut refused) = (0, MAX_PAYLOAD);
    let mut ids = 0;
    while refused - taken > 1 {
        let size = usize::midpoint(taken, refused);
        let answer = bridge.post("foo", &sized(&format!("{ids:03}"), size)).await;
        match answer.status() {
            202 => taken = size,
            413 => refused = size,
            status => panic!("{size}: {status} {}", answer.text()),
        }
        ids += 1;
    }
    // Each loses a little more of what is said about its failure.
    for less in [0, 1, 30, 60, 90, 120, 500, 1100, 1300] {
        bridge.send("foo", &sized(&format!("{ids:03}"), taken - less)).await;
        ids += 1;
    }
    nats.settled(STREAM).await;
    let stored = nats.count(STREAM).await;
    let kept = nats.messages("KN_DEADLETTERS").await;
    assert_eq!(kept.len() as u64, 2 * stored);
    assert!(kept.iter().all(|one| header(one, "ce-id").is_some()));
    let largest = kept.iter().find(|one| one.payload.len() == taken).unwrap();
    assert_eq!(header(largest, "ce-knativeerrordata"), None);
    let smaller = kept.iter().find(|one| one.payload.len() == taken - 1300).unwrap();
    assert_eq!(header(smaller, "ce-knativeerrorcode"), Some("400"));
    assert_eq!(header(smaller, "ce-knativeerrordata").map(str::len), Some(1024));
    assert_eq!(sink.requests("/one").len() as u64, stored);
}

#[tokio::test]
async fn messages_that_others_wrote_and_that_grow_in_our_form_are_kept_too() {
    let (nats, sink, bridge) = world().await;
    // No headers at all, up to the last byte; and JSON that leaves no room for headers either.
    nats.publish("foo.default", &[], "x".repeat(MAX_PAYLOAD)).await;
    let empty = json!({"specversion": "1.0", "id": "j", "source": "/s", "type": "t", "data": ""}).to_string();
    let full = empty.replace("\"data\":\"\"", &format!("\"data\":\"{}\"", "y".repeat(MAX_PAYLOAD - empty.len())));
    nats.publish("foo.default", &[], full).await;
    nats.dead_letters(4).await;
    nats.settled(STREAM).await;
    let kept = nats.messages("KN_DEADLETTERS").await;
    assert_eq!(kept.len(), 4);
    let largest = kept.iter().filter(|one| one.payload.len() == MAX_PAYLOAD).count();
    assert_eq!(largest, 2, "each subscription keeps the bytes");
    assert_eq!((sink.requests("/one").len(), sink.requests("/two").len()), (2, 2));
    drop(bridge);
}

#[tokio::test]
async fn a_batch_with_an_event_that_is_too_large_stores_nothing() {
    let (nats, _sink, bridge) = world().await;
    let one =
        |id: &str, size| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": "z".repeat(size)});
    let batch = json!([one("a", 10), one("b", MAX_PAYLOAD), one("c", 10)]).to_string();
    let call = post(&bridge.url("/default/foo")).header("content-type", "application/cloudevents-batch+json");
    assert_eq!(call.body(batch).send().await.status(), 413);
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_limit_that_is_lowered_by_a_restart_of_nats_counts_at_once() {
    let mut nats = Nats::start_with("max_payload: 65536").await;
    let sink = Sink::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &sized("1", 20_000)).await;
    nats.kill9();
    nats.reconfigure("max_payload: 65536", "max_payload: 8192");
    nats.start_again().await;
    until("events are taken again", || async { bridge.post("foo", &event("2")).await.status() == 202 }).await;
    let answer = bridge.post("foo", &sized("3", 20_000)).await;
    assert_eq!(answer.status(), 413, "{}", answer.text());
    bridge.send("foo", &sized("4", 5000)).await;
    sink.wait_for_id("/", "4").await;
    bridge.wait_until_ready().await;
}

#[tokio::test]
async fn a_reply_that_its_channel_cannot_hold_makes_the_event_a_dead_letter() {
    let nats = Nats::start_with(&format!("max_payload: {MAX_PAYLOAD}")).await;
    let sink = Sink::answering(|_| Answer::event("r").body("r".repeat(2 * MAX_PAYLOAD))).await;
    let reply = json!({"ref": {"apiVersion": "messaging.knative.dev/v1", "kind": "Channel", "name": "bar"}});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "reply": reply, "delivery": {"retry": 0}});
    let documents = [channel("foo"), channel("bar"), subscription("sub", "foo", spec)];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!((header(&kept[0], "ce-id"), header(&kept[0], "ce-knativeerrorcode")), (Some("1"), Some("413")));
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
}

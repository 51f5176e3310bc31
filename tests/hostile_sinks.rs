//! Sinks that answer as badly as they can: the bridge stays up, its memory bounded, its other subscriptions served.

use serde_json::json;

use crate::support::nats::header;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event};

const STREAM: &str = "KN_DEFAULT__FOO";

/// A subscription with a bad sink and no retries, one with a good sink.
async fn world(bad: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Nats, Sink, Bridge) {
    let nats = Nats::start().await;
    let sink = Sink::answering(move |request| match request.target() {
        "/bad" => bad(request),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/bad")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 0, "timeout": "PT5S"},
    });
    let documents = [channel("foo"), subscription("bad", "foo", spec), subscribe("good", "foo", &sink.url("/good"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    (nats, sink, bridge)
}

#[tokio::test]
async fn an_endless_body_is_cut_off_in_bounded_memory() {
    let (nats, sink, bridge) = world(|_| Answer::endless_body().with_status(500)).await;
    let before = bridge.resident_kib();
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("500"));
    assert_eq!(header(&kept[0], "ce-knativeerrordata").map(str::len), Some(1024));
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    sink.wait_for_id("/good", "1").await;
}

#[tokio::test]
async fn an_endless_success_does_not_hold_the_event_for_ever() {
    let (nats, sink, bridge) = world(|_| Answer::endless_body()).await;
    let before = bridge.resident_kib();
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    assert_eq!((sink.requests("/reply").len(), sink.requests("/good").len()), (0, 1));
}

#[tokio::test]
async fn an_endless_reply_is_not_forwarded() {
    let (nats, sink, bridge) = world(|_| {
        Answer::endless_body()
            .header("ce-specversion", "1.0")
            .header("ce-id", "r")
            .header("ce-source", "/r")
            .header("ce-type", "t")
    })
    .await;
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/reply").len(), 0);
}

#[tokio::test]
async fn broken_bodies_of_replies_are_not_forwarded_and_do_no_harm() {
    let (nats, sink, bridge) = world(|request| {
        let answer = if request.id() == "chunks" { Answer::broken_chunks() } else { Answer::short_body() };
        answer.header("ce-specversion", "1.0").header("ce-id", "r").header("ce-source", "/r").header("ce-type", "t")
    })
    .await;
    for id in ["chunks", "short"] {
        bridge.send("foo", &event(id)).await;
        sink.wait_for_id("/good", id).await;
    }
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/reply").len(), 0);
}

#[tokio::test]
async fn broken_bodies_of_failures_are_failures_with_their_status() {
    let (nats, _sink, bridge) = world(|request| match request.id() {
        "chunks" => Answer::broken_chunks().with_status(422),
        _ => Answer::short_body().with_status(422),
    })
    .await;
    for id in ["chunks", "short"] {
        bridge.send("foo", &event(id)).await;
    }
    let kept = nats.dead_letters(2).await;
    nats.settled(STREAM).await;
    let mut ids: Vec<_> = kept.iter().map(|one| header(one, "ce-id").unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["chunks", "short"]);
}

#[tokio::test]
async fn headers_that_are_no_utf_8_or_far_too_many_do_no_harm() {
    let (nats, sink, bridge) = world(|request| match request.id() {
        "bytes" => Answer::event("r").header("ce-subject", b"\xff\xfe\xfd"),
        "many" => (0..5000).fold(Answer::status(200), |answer, n| answer.header(&format!("x-{n}"), "v")),
        "long" => Answer::status(200).header("x", vec![b'x'; 4 << 20]),
        _ => Answer::raw(vec![b'H'; 4 << 20]),
    })
    .await;
    for id in ["bytes", "many", "long", "junk"] {
        bridge.send("foo", &event(id)).await;
    }
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/good").len(), 4);
    assert_eq!(sink.requests("/reply").len(), 0);
    // Nothing is lost: what was no answer, or a reply that is no valid event, is kept.
    let ids: Vec<String> =
        nats.dead_letters(2).await.iter().map(|kept| header(kept, "ce-id").unwrap().to_owned()).collect();
    assert!(ids.contains(&"junk".to_owned()) && ids.contains(&"bytes".to_owned()), "{ids:?}");
}

#[tokio::test]
async fn a_redirect_to_somewhere_else_is_never_followed() {
    let (nats, sink, bridge) = world(|_| Answer::status(307).header("location", "/elsewhere")).await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("307"));
    assert_eq!((sink.requests("/bad").len(), sink.requests("/elsewhere").len()), (1, 0));
}

//! What a subscriber answers, and where it goes.

use serde_json::json;

use crate::support::resources::{channel, channel_ref, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event};

const STREAM: &str = "KN_DEFAULT__FOO";

struct World {
    nats: Nats,
    sink: Sink,
    bridge: Bridge,
}

/// A subscription of `/` with a reply to `/reply` and a dead letter sink `/dls`, each answering as `script` says.
async fn world(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> World {
    let nats = Nats::start().await;
    let sink = Sink::answering(script).await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 2, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    World { nats, sink, bridge }
}

impl World {
    async fn send_and_settle(&self, id: &str) {
        self.bridge.send("foo", &event(id).data("text/plain", "original")).await;
        self.nats.settled(STREAM).await;
    }

    fn counts(&self) -> (usize, usize, usize) {
        (self.sink.requests("/").len(), self.sink.requests("/reply").len(), self.sink.requests("/dls").len())
    }
}

#[tokio::test]
async fn an_event_in_an_answer_goes_to_the_reply() {
    let world = world(|request| match request.target() {
        "/" => Answer::event("answer")
            .with_status(request.id().parse().unwrap())
            .header("content-type", "text/plain")
            .header("ce-subject", "a%20b")
            .body("answered"),
        _ => Answer::status(200),
    })
    .await;
    for status in ["200", "201", "203", "206"] {
        world.bridge.send("foo", &event(status)).await;
    }
    world.nats.settled(STREAM).await;
    assert_eq!(world.counts(), (4, 4, 0));
    for reply in world.sink.requests("/reply") {
        assert_eq!(
            (reply.id(), reply.header("ce-source"), reply.header("ce-type")),
            ("answer", Some("/reply"), Some("reply"))
        );
        assert_eq!(reply.header("ce-subject"), Some("a%20b"));
        assert_eq!((reply.header("content-type"), reply.text()), (Some("text/plain"), "answered".to_owned()));
        assert_eq!(reply.header("prefer"), None, "only subscribers are asked for a reply");
        assert_eq!(reply.header("kn-namespace"), Some("default"));
    }
}

#[tokio::test]
async fn a_structured_event_is_a_reply_too() {
    let world = world(|request| match request.target() {
        "/" => Answer::status(200)
            .header("content-type", "application/cloudevents+json")
            .body(json!({"specversion": "1.0", "id": "answer", "source": "/r", "type": "t", "data": 7}).to_string()),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    let reply = world.sink.wait_for_one("/reply").await;
    assert_eq!((reply.id(), reply.text()), ("answer", "7".to_owned()));
    assert_eq!(world.counts(), (1, 1, 0));
}

#[tokio::test]
async fn a_202_never_carries_a_reply() {
    let world = world(|request| match request.target() {
        "/" => Answer::event("answer").with_status(202),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.counts(), (1, 0, 0));
}

#[tokio::test]
async fn a_body_that_is_no_event_is_ignored() {
    let world = world(|request| match request.target() {
        "/" => Answer::status(200).header("content-type", "application/json").body(r#"{"ok":true}"#),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.counts(), (1, 0, 0));
}

#[tokio::test]
async fn a_large_reply_is_not_cut() {
    let world = world(|request| match request.target() {
        "/" => Answer::event("answer").header("content-type", "text/plain").body(vec![b'r'; 36_000]),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.sink.wait_for_one("/reply").await.body.len(), 36_000);
}

#[tokio::test]
async fn a_reply_of_version_0_3_stays_so() {
    let world = world(|request| match request.target() {
        "/" => Answer::status(200)
            .header("ce-specversion", "0.3")
            .header("ce-id", "answer")
            .header("ce-source", "/r")
            .header("ce-type", "t"),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.sink.wait_for_one("/reply").await.header("ce-specversion"), Some("0.3"));
}

#[tokio::test]
async fn a_reply_that_cannot_be_delivered_is_retried_without_the_subscriber_and_then_the_original_is_dead() {
    let world = world(|request| match request.target() {
        "/" => Answer::event("answer"),
        "/reply" => Answer::status(503).body("reply is down"),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.counts(), (1, 3, 1));
    let dead = world.sink.wait_for_one("/dls").await;
    assert_eq!((dead.id(), dead.text()), ("1", "original".to_owned()));
    assert_eq!(dead.header("ce-knativeerrordest"), Some(world.sink.url("/reply").as_str()));
    assert_eq!(dead.header("ce-knativeerrorcode"), Some("503"));
    assert_eq!(dead.header("ce-knativeerrordata"), Some("cmVwbHkgaXMgZG93bg=="));
}

#[tokio::test]
async fn a_reply_that_is_refused_for_good_is_not_retried() {
    let world = world(|request| match request.target() {
        "/" => Answer::event("answer"),
        "/reply" => Answer::status(422),
        _ => Answer::status(200),
    })
    .await;
    world.send_and_settle("1").await;
    assert_eq!(world.counts(), (1, 1, 1));
    assert_eq!(world.sink.wait_for_one("/dls").await.header("ce-knativeerrorcode"), Some("422"));
}

#[tokio::test]
async fn a_reply_that_falsely_claims_to_be_an_event_makes_the_original_a_dead_letter_with_502() {
    let world = world(|request| match (request.target(), request.id()) {
        ("/", "no-id") => {
            Answer::status(200).header("ce-specversion", "1.0").header("ce-type", "t").header("ce-source", "/s")
        }
        ("/", "time") => Answer::event("answer").header("ce-time", "yesterday"),
        ("/", "json") => Answer::status(200).header("content-type", "application/cloudevents+json").body("{"),
        _ => Answer::status(200),
    })
    .await;
    let ids = ["no-id", "time", "json"];
    for id in ids {
        world.bridge.send("foo", &event(id).data("text/plain", "original")).await;
    }
    world.nats.settled(STREAM).await;
    assert_eq!(world.counts(), (3, 0, 3));
    for id in ids {
        let dead = world.sink.wait_for_id("/dls", id).await;
        assert_eq!(dead.header("ce-knativeerrorcode"), Some("502"), "{id}");
        assert_eq!(dead.text(), "original");
    }
}

#[tokio::test]
async fn a_reply_to_a_channel_goes_straight_into_its_subject() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::event("answer").header("content-type", "text/plain").body("answered"),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "reply": {"ref": channel_ref("bar")}});
    let documents =
        [channel("foo"), channel("bar"), subscription("sub", "foo", spec), subscribe("bar", "bar", &sink.url("/bar"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    let reply = sink.wait_for_one("/bar").await;
    assert_eq!((reply.id(), reply.text()), ("answer", "answered".to_owned()));
    let stored = nats.message("KN_DEFAULT__BAR", 1).await;
    assert_eq!(stored.subject.as_str(), "bar.default");
}

#[tokio::test]
async fn a_reply_without_a_destination_is_no_failure() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::event("answer")).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    nats.settled(STREAM).await;
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn without_a_subscriber_events_go_straight_to_the_reply() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"reply": {"uri": sink.url("/reply")}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1").data("text/plain", "x")).await;
    let got = sink.wait_for_one("/reply").await;
    assert_eq!((got.id(), got.text(), got.header("prefer")), ("1", "x".to_owned(), None));
}

//! Nothing is dropped: what cannot be delivered goes to the dead letter sink, and else is kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::nats::{header, text};
use crate::support::process::run;
use crate::support::resources::{channel, channel_ref, in_namespace, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event, free_port};

const STREAM: &str = "KN_DEFAULT__FOO";

async fn world(delivery: Value, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Nats, Sink, Bridge) {
    let nats = Nats::start().await;
    let sink = Sink::answering(script).await;
    let mut delivery = delivery;
    if delivery.get("deadLetterSink").is_some() {
        delivery["deadLetterSink"] = json!({"uri": sink.url("/dls")});
    }
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    (nats, sink, bridge)
}

/// A subscriber that fails with this status and body, and a dead letter sink that takes everything.
fn failing(status: u16, body: Vec<u8>) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| match request.target() {
        "/" => Answer::status(status).body(body.clone()),
        _ => Answer::status(200),
    }
}

#[tokio::test]
async fn a_dead_letter_is_the_original_event_with_what_went_wrong() {
    let (nats, sink, bridge) =
        world(json!({"retry": 0, "deadLetterSink": true}), failing(400, b"bad \r\n request".to_vec())).await;
    let sent = event("1").attribute("subject", "s").attribute("ext", "v").data("application/json", r#"{ "a": 1.0 }"#);
    bridge.send("foo", &sent).await;
    let dead = sink.wait_for_one("/dls").await;
    let original = sink.wait_for_one("/").await;
    let mut expected = original.attributes();
    expected.extend([
        ("knativeerrorcode".to_owned(), "400".to_owned()),
        ("knativeerrordata".to_owned(), STANDARD.encode("bad \r\n request")),
        ("knativeerrordest".to_owned(), sink.url("/")),
    ]);
    expected.sort();
    assert_eq!(dead.attributes(), expected);
    assert_eq!((dead.header("content-type"), dead.text()), (Some("application/json"), r#"{ "a": 1.0 }"#.to_owned()));
    assert_eq!((dead.header("kn-namespace"), dead.header("prefer")), (Some("default"), None));
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/").len(), sink.requests("/dls").len()), (1, 1));
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0, "delivered to its sink, not kept");
}

#[tokio::test]
async fn of_a_large_error_body_the_first_768_bytes_are_told() {
    let body: Vec<u8> = (0..4096_u32).map(|n| (n % 251) as u8).collect();
    let (_nats, sink, bridge) = world(json!({"retry": 0, "deadLetterSink": true}), failing(500, body.clone())).await;
    bridge.send("foo", &event("1")).await;
    let dead = sink.wait_for_one("/dls").await;
    let told = dead.header("ce-knativeerrordata").unwrap();
    assert_eq!(told.len(), 1024);
    assert_eq!(STANDARD.decode(told).unwrap(), body[..768]);
}

#[tokio::test]
async fn the_newest_failure_overwrites_older_values() {
    let (_nats, sink, bridge) = world(json!({"retry": 0, "deadLetterSink": true}), failing(418, b"new".to_vec())).await;
    let old = event("1")
        .attribute("knativeerrordest", "http://old.example.com")
        .attribute("knativeerrorcode", "500")
        .attribute("knativeerrordata", "b2xk");
    bridge.send("foo", &old).await;
    let dead = sink.wait_for_one("/dls").await;
    assert_eq!(dead.headers_named("ce-knativeerrordest"), [sink.url("/")]);
    assert_eq!(dead.headers_named("ce-knativeerrorcode"), ["418"]);
    assert_eq!(dead.headers_named("ce-knativeerrordata"), [STANDARD.encode("new")]);
}

#[tokio::test]
async fn the_newest_failure_leaves_no_older_error_data_behind() {
    let (_nats, sink, bridge) = world(json!({"retry": 0, "deadLetterSink": true}), failing(400, Vec::new())).await;
    bridge.send("foo", &event("1").attribute("knativeerrordata", "b2xk")).await;
    let dead = sink.wait_for_one("/dls").await;
    assert_ne!(dead.header("ce-knativeerrordata"), Some("b2xk"));
}

#[tokio::test]
async fn without_a_dead_letter_sink_the_event_is_kept_with_the_same_attributes() {
    let (nats, sink, bridge) =
        world(json!({"retry": 1, "backoffDelay": "PT0.02S"}), failing(503, b"down".to_vec())).await;
    bridge.send("foo", &event("1").attribute("ext", "v").data("text/plain", "payload")).await;
    let kept = nats.dead_letters(1).await;
    nats.settled(STREAM).await;
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 1);
    assert_eq!(kept[0].subject.as_str(), "knats.deadletter.default.sub");
    for (name, value) in [
        ("ce-id", "1"),
        ("ce-source", "/test"),
        ("ce-type", "test"),
        ("ce-ext", "v"),
        ("ce-knativeerrordest", sink.url("/").as_str()),
        ("ce-knativeerrorcode", "503"),
        ("ce-knativeerrordata", "ZG93bg=="),
    ] {
        assert_eq!(header(&kept[0], name), Some(value), "{name}");
    }
    assert_eq!(text(&kept[0].payload), "payload");
    assert_eq!(sink.requests("/").len(), 2);
}

#[tokio::test]
async fn a_dead_letter_sink_that_fails_is_retried_and_then_the_copy_tells_of_the_subscriber() {
    let (nats, sink, bridge) =
        world(json!({"retry": 2, "backoffDelay": "PT0.02S", "deadLetterSink": true}), |request| {
            match request.target() {
                "/" => Answer::status(504).body("subscriber"),
                _ => Answer::status(500).body("dead letter sink"),
            }
        })
        .await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/").len(), sink.requests("/dls").len()), (3, 3));
    assert_eq!(header(&kept[0], "ce-knativeerrordest"), Some(sink.url("/").as_str()));
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("504"));
    assert_eq!(header(&kept[0], "ce-knativeerrordata"), Some(STANDARD.encode("subscriber").as_str()));
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 1);
}

#[tokio::test]
async fn a_failed_reply_whose_dead_letter_sink_fails_is_kept_with_the_reply_s_failure() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::event("answer"),
        "/reply" => Answer::status(410).body("reply"),
        _ => Answer::status(400).body("dead letter sink"),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 1, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-id"), Some("1"), "the original, not the reply");
    assert_eq!(header(&kept[0], "ce-knativeerrordest"), Some(sink.url("/reply").as_str()));
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("410"));
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
}

#[tokio::test]
async fn a_dead_letter_sink_nobody_serves_does_not_lose_the_event() {
    let nats = Nats::start().await;
    let spec = json!({
        "subscriber": {"uri": format!("http://127.0.0.1:{}/", free_port())},
        "delivery": {
            "retry": 0, "backoffDelay": "PT0.02S",
            "deadLetterSink": {"uri": format!("http://127.0.0.1:{}/", free_port())},
        },
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!((header(&kept[0], "ce-id"), header(&kept[0], "ce-knativeerrorcode")), (Some("1"), Some("500")));
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn every_subscription_keeps_its_own_dead_letters() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let documents = [
        channel("foo"),
        subscribe("one", "foo", &sink.url("/one")),
        subscribe("two", "foo", &sink.url("/two")),
        in_namespace("other", channel("foo")),
        in_namespace("other", subscribe("one", "foo", &sink.url("/other"))),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    let answer = crate::support::http::post(&bridge.url("/other/foo")).event(&event("1")).send().await;
    assert_eq!(answer.status(), 202);
    let mut subjects: Vec<String> = nats.dead_letters(3).await.iter().map(|kept| kept.subject.to_string()).collect();
    subjects.sort();
    assert_eq!(
        subjects,
        ["knats.deadletter.default.one", "knats.deadletter.default.two", "knats.deadletter.other.one"]
    );
}

#[tokio::test]
async fn a_channel_can_be_the_dead_letter_sink() {
    let nats = Nats::start().await;
    let sink = Sink::answering(failing(400, b"no".to_vec())).await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {"retry": 0, "deadLetterSink": {"ref": channel_ref("dead")}},
    });
    let documents = [
        channel("foo"),
        channel("dead"),
        subscription("sub", "foo", spec),
        subscribe("dead", "dead", &sink.url("/dead")),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    let dead = sink.wait_for_one("/dead").await;
    assert_eq!((dead.id(), dead.header("ce-knativeerrorcode")), ("1", Some("400")));
    assert_eq!(nats.count("KN_DEFAULT__DEAD").await, 1);
}

#[tokio::test]
async fn a_0_3_event_is_a_dead_letter_of_0_3() {
    let (_nats, sink, bridge) = world(json!({"retry": 0, "deadLetterSink": true}), failing(400, b"no".to_vec())).await;
    bridge.send("foo", &event("1").attribute("specversion", "0.3")).await;
    let dead = sink.wait_for_one("/dls").await;
    assert_eq!((dead.header("ce-specversion"), dead.header("ce-knativeerrorcode")), (Some("0.3"), Some("400")));
}

#[tokio::test]
async fn what_fails_again_is_kept_once_and_anew_when_its_letter_has_been_taken_away() {
    let (nats, sink, bridge) = world(json!({"retry": 0}), failing(400, Vec::new())).await;
    bridge.send("foo", &event("1")).await;
    nats.publish("foo.default", &[("ce-specversion", "1.0")], "no event").await;
    nats.dead_letters_counted(2).await;
    let letters = nats.stream("KN_DEADLETTERS").await;
    for (attempts, taken_away) in [(2, true), (3, true), (4, false)] {
        if taken_away {
            letters.purge().await.unwrap();
        }
        let replay = ["replay", "default/sub", "--from", "seq:1", "--yes", "--nats-url", &nats.url()];
        assert_eq!(run(&replay).await.code, Some(0));
        sink.wait_for("/", attempts).await;
        nats.settled(STREAM).await;
        nats.dead_letters_counted(2).await;
    }
}

//! Answers that are hardly any: each leads to the outcome that its status or its absence means, in time, and the next event
//! is served.

use serde_json::json;

use crate::support::nats::header;
use crate::support::resources::{channel, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";

/// What a sink answers, and how the event ends: delivered, or kept with this code.
struct Case {
    answer: fn() -> Answer,
    code: Option<&'static str>,
    replies: usize,
}

fn raw(text: &str) -> Answer {
    Answer::raw(text.replace('\n', "\r\n"))
}

const EVENT: &str = "ce-specversion: 1.0\nce-id: r\nce-source: /r\nce-type: r\n";

fn cases() -> Vec<(&'static str, Case)> {
    let case = |answer, code, replies| Case { answer, code, replies };
    vec![
        // The status has said all; what is wrong with the body changes nothing.
        ("ok, too short", case(|| raw("HTTP/1.1 200 OK\ncontent-length: 50\n\nab"), None, 0)),
        ("ok, too long", case(|| raw("HTTP/1.1 200 OK\ncontent-length: 1\n\nabcdef"), None, 0)),
        ("ok, bad chunks", case(|| raw("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\nzz\nab\n"), None, 0)),
        ("error, too short", case(|| raw("HTTP/1.1 400 No\ncontent-length: 50\n\nab"), Some("400"), 0)),
        ("error, bad chunks", case(|| raw("HTTP/1.1 503 No\ntransfer-encoding: chunked\n\nzz\nab\n"), Some("503"), 0)),
        // A reply is only one when it is whole.
        ("reply", case(|| raw(&format!("HTTP/1.1 200 OK\n{EVENT}content-length: 2\n\nab")), None, 1)),
        ("reply, to the end", case(|| raw(&format!("HTTP/1.0 200 OK\n{EVENT}\nab")), None, 1)),
        (
            "reply, too short",
            case(|| raw(&format!("HTTP/1.1 200 OK\n{EVENT}content-length: 50\n\nab")), Some("500"), 0),
        ),
        (
            "reply, bad chunks",
            case(|| raw(&format!("HTTP/1.1 200 OK\n{EVENT}transfer-encoding: chunked\n\nzz\nab\n")), Some("500"), 0),
        ),
        ("reply, invalid", case(|| raw("HTTP/1.1 200 OK\nce-specversion: 1.0\ncontent-length: 0\n\n"), Some("502"), 0)),
        // No answer at all, or none that HTTP knows.
        ("two lengths", case(|| raw("HTTP/1.1 200 OK\ncontent-length: 1\ncontent-length: 2\n\nab"), Some("500"), 0)),
        ("no length", case(|| raw("HTTP/1.1 200 OK\ncontent-length: x\n\nab"), Some("500"), 0)),
        ("no status", case(|| raw("HTTP/1.1 abc\n\n"), Some("500"), 0)),
        ("other protocol", case(|| raw("220 smtp ready\n"), Some("500"), 0)),
        ("nothing", case(|| raw(""), Some("500"), 0)),
        ("reset", case(Answer::reset, Some("500"), 0)),
        // One-off statuses.
        ("early hints", case(|| raw("HTTP/1.1 103 Early\nlink: x\n\nHTTP/1.1 200 OK\ncontent-length: 0\n\n"), None, 0)),
        ("continue", case(|| raw("HTTP/1.1 100 Continue\n\nHTTP/1.1 400 No\ncontent-length: 0\n\n"), Some("400"), 0)),
        ("switch", case(|| raw("HTTP/1.1 101 Switch\nupgrade: x\nconnection: upgrade\n\n"), Some("101"), 0)),
        ("redirect", case(|| Answer::status(302).header("location", "/elsewhere"), Some("302"), 0)),
        // Heads without end.
        ("long head", case(|| Answer::status(200).header("x", vec![b'x'; 10 << 20]), Some("500"), 0)),
        ("many hints", case(|| raw(&"HTTP/1.1 103 Early\n\n".repeat(200_000)), Some("500"), 0)),
    ]
}

#[tokio::test]
async fn every_odd_answer_has_the_outcome_that_it_means() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => {
            let case =
                cases().into_iter().find(|(name, _)| request.header("ce-subject") == Some(&name.replace(' ', "%20")));
            (case.unwrap_or_else(|| panic!("{request:?}")).1.answer)()
        }
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 0, "timeout": "PT5S"},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    let before = bridge.resident_kib();
    for (number, (name, _)) in cases().iter().enumerate() {
        bridge.send("foo", &event(&number.to_string()).attribute("subject", &name.replace(' ', "%20"))).await;
    }
    nats.settled(STREAM).await;
    let kept = nats.messages("KN_DEADLETTERS").await;
    let mut replies = 0;
    for (number, (name, case)) in cases().iter().enumerate() {
        let id = number.to_string();
        let letter = kept.iter().find(|letter| header(letter, "ce-id") == Some(&id));
        assert_eq!(letter.and_then(|letter| header(letter, "ce-knativeerrorcode")), case.code, "{name}");
        replies += case.replies;
    }
    assert_eq!(sink.requests("/reply").len(), replies);
    assert_eq!(sink.requests("/elsewhere").len(), 0);
    assert_eq!(sink.requests("/").len(), cases().len());
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

#[tokio::test]
async fn a_thousand_hanging_and_endless_answers_give_their_places_back() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.header("ce-type") {
        Some("endless") => Answer::endless_body(),
        Some("hang") => Answer::hang(),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 0, "timeout": "PT1S"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    let before = bridge.resident_kib();
    for number in 0..600 {
        let kind = if number % 2 == 0 { "endless" } else { "hang" };
        bridge.send("foo", &event(&number.to_string()).attribute("type", kind)).await;
    }
    bridge.send("foo", &event("good")).await;
    sink.wait_for_id("/", "good").await;
    nats.settled(STREAM).await;
    assert_eq!(nats.count("KN_DEADLETTERS").await, 300);
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} KiB more");
}

#[tokio::test]
async fn hundreds_of_replies_that_wait_for_their_retry_do_not_hold_up_the_next_event() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match (request.target(), request.id()) {
        ("/", "good") => Answer::status(200),
        ("/", id) => Answer::event(&format!("re-{id}")),
        _ => Answer::status(500),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 5, "backoffDelay": "PT60S"},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for number in 0..400 {
        bridge.send("foo", &event(&number.to_string())).await;
    }
    sink.wait_for("/reply", 400).await;
    bridge.send("foo", &event("good")).await;
    sink.wait_for_id("/", "good").await;
    assert_eq!((sink.requests("/").len(), sink.requests("/reply").len()), (401, 400));
    until("still ready", || async { bridge.readyz().await.is_ok_and(|answer| answer.status() == 200) }).await;
}

#[tokio::test]
async fn two_thousand_events_that_wait_long_for_their_retry_do_not_hold_up_the_next() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.id() == "good" { 200 } else { 500 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffDelay": "PT60S"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    let client = nats.jetstream().await;
    for number in 0..2000 {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s")] {
            headers.insert(name, value);
        }
        headers.insert("ce-id", number.to_string());
        drop(client.publish_with_headers("foo.default", headers, "x".into()).await.unwrap());
    }
    sink.wait_for("/", 2000).await;
    bridge.send("foo", &event("good")).await;
    let begun = std::time::Instant::now();
    sink.wait_for_id("/", "good").await;
    assert!(begun.elapsed().as_secs() < 3, "took {:?}", begun.elapsed());
    assert_eq!(sink.requests("/").len(), 2001);
    let warnings = bridge.stderr().lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 50, "{warnings} warnings");
}

#[tokio::test]
async fn hundreds_of_dead_letters_of_one_cause_are_not_hundreds_of_warnings() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {"retry": 0, "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for number in 0..300 {
        bridge.send("foo", &event(&number.to_string())).await;
    }
    nats.settled(STREAM).await;
    assert_eq!(nats.count("KN_DEADLETTERS").await, 300);
    let warnings = bridge.stderr().lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 50, "{warnings} warnings");
}

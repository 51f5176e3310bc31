//! Which answers are retried, how often, and what the dead letter says of them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::resources::{channel, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event, free_port};

const RETRIES: usize = 2;
const STREAM: &str = "KN_DEFAULT__FOO";

/// A sink that answers `/` with the status that the event's id names, and one for its dead letters.
async fn world(sink: &Sink) -> (Nats, Bridge) {
    let nats = Nats::start().await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {
            "retry": RETRIES, "backoffPolicy": "linear", "backoffDelay": "PT0.02S",
            "deadLetterSink": {"uri": sink.url("/dls")},
        },
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    (nats, bridge)
}

/// Attempts by event id, and the error codes of its dead letters.
async fn outcome_of(ids: impl Iterator<Item = u16>) -> BTreeMap<u16, (usize, Vec<String>)> {
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::status(request.id().parse().unwrap()).header("location", "/elsewhere"),
        _ => Answer::status(200),
    })
    .await;
    let (nats, bridge) = world(&sink).await;
    let ids: Vec<u16> = ids.collect();
    for id in &ids {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    nats.settled(STREAM).await;
    let attempts = sink.requests("/");
    let dead = sink.requests("/dls");
    assert_eq!(sink.requests("/elsewhere").len(), 0, "redirects are not followed");
    let of = |id: u16| {
        let id = id.to_string();
        let codes = dead.iter().filter(|one| one.id() == id);
        let codes = codes.map(|one| one.header("ce-knativeerrorcode").unwrap_or("none").to_owned()).collect();
        (attempts.iter().filter(|one| one.id() == id).count(), codes)
    };
    ids.into_iter().map(|id| (id, of(id))).collect()
}

#[tokio::test]
async fn success_is_one_attempt_and_no_dead_letter() {
    for (status, outcome) in outcome_of([200, 201, 202, 203, 204, 205, 206, 226, 299].into_iter()).await {
        assert_eq!(outcome, (1, vec![]), "{status}");
    }
}

#[tokio::test]
async fn what_may_pass_is_retried_and_then_dead_lettered_once() {
    for (status, outcome) in outcome_of([404, 408, 409, 429, 500, 501, 502, 503, 504, 505, 599].into_iter()).await {
        assert_eq!(outcome, (1 + RETRIES, vec![status.to_string()]), "{status}");
    }
}

#[tokio::test]
async fn what_will_not_pass_is_dead_lettered_at_once() {
    let statuses = [300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 405, 406, 410, 411, 413, 415, 418, 422, 451];
    for (status, outcome) in outcome_of(statuses.into_iter()).await {
        assert_eq!(outcome, (1, vec![status.to_string()]), "{status}");
    }
}

#[tokio::test]
async fn no_answer_is_retried_and_counts_as_500() {
    let sink = Sink::answering(|request| match (request.target(), request.id()) {
        ("/", "reset") => Answer::reset(),
        ("/", "garbage") => Answer::raw("this is no HTTP\r\n\r\n"),
        ("/", "empty") => Answer::raw(""),
        _ => Answer::status(200),
    })
    .await;
    let (nats, bridge) = world(&sink).await;
    for id in ["reset", "garbage", "empty"] {
        bridge.send("foo", &event(id)).await;
    }
    nats.settled(STREAM).await;
    for id in ["reset", "garbage", "empty"] {
        let attempts = sink.requests("/").iter().filter(|request| request.id() == id).count();
        assert_eq!(attempts, 1 + RETRIES, "{id}");
        let dead = sink.wait_for_id("/dls", id).await;
        assert_eq!(dead.header("ce-knativeerrorcode"), Some("500"), "{id}");
        assert_eq!(dead.header("ce-knativeerrordest"), Some(sink.url("/").as_str()), "{id}");
    }
    assert_eq!(sink.requests("/dls").len(), 3);
}

#[tokio::test]
async fn a_sink_that_nobody_serves_is_no_answer() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let spec = json!({
        "subscriber": {"uri": nobody},
        "delivery": {"retry": 1, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let dead = sink.wait_for_one("/dls").await;
    assert_eq!(dead.header("ce-knativeerrorcode"), Some("500"));
    assert_eq!(dead.header("ce-knativeerrordest"), Some(nobody.as_str()));
}

#[tokio::test]
async fn an_interim_answer_as_the_last_word_is_not_retried() {
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::raw("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        _ => Answer::status(200),
    })
    .await;
    let (nats, bridge) = world(&sink).await;
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/").len(), sink.requests("/dls").len()), (1, 1));
}

#[tokio::test]
async fn a_retry_that_succeeds_ends_it() {
    let sink = Sink::answering(|request| Answer::status(if request.attempt == 1 { 409 } else { 200 })).await;
    let (nats, bridge) = world(&sink).await;
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/").len(), sink.requests("/dls").len()), (2, 0));
}

#[tokio::test]
async fn without_delivery_options_anywhere_it_is_retried_as_by_default() {
    let nats = Nats::start().await;
    // Default: exponential from 0.2 s; four attempts are 1.4 s.
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 4 { 500 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let requests = sink.wait_for("/", 4).await;
    let waits: Vec<u128> = requests.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    assert!(waits[0] >= 200 && waits[1] >= 400 && waits[2] >= 800, "{waits:?}");
}

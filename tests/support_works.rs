//! The servers that all other tests stand on do what those tests think they do.

use std::time::Duration;

use crate::support::chaos::ChaosProxy;
use crate::support::http::{get, post};
use crate::support::nats::header;
use crate::support::{Answer, Gate, Nats, Sink, event, eventually};

#[tokio::test]
async fn a_nats_server_keeps_what_it_stored_over_a_kill() {
    let mut nats = Nats::start().await;
    let config =
        async_nats::jetstream::stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    nats.jetstream().await.create_stream(config).await.unwrap();
    nats.publish("s", &[("a", "b")], "payload").await;
    assert_eq!(nats.count("S").await, 1);
    nats.kill9();
    nats.start_again().await;
    let message = nats.message("S", 1).await;
    assert_eq!((header(&message, "a"), &message.payload[..]), (Some("b"), &b"payload"[..]));
    assert_eq!(nats.stream_names().await, ["S"]);
    assert_eq!(nats.messages("NONE").await.len(), 0);
}

#[tokio::test]
async fn header_bytes_that_clients_refuse_can_be_published() {
    let nats = Nats::start().await;
    let config =
        async_nats::jetstream::stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    nats.jetstream().await.create_stream(config).await.unwrap();
    nats.publish_raw("s", &[(b"ce-subject", b"\xff\xfe")], b"1").await;
    nats.publish_raw("s", &[(b"bad name", b"x")], b"2").await;
    assert_eq!(nats.count("S").await, 2);
}

#[tokio::test]
async fn a_stopped_nats_server_goes_on_where_it_was() {
    let nats = Nats::start().await;
    let streams = nats.jetstream().await;
    nats.stop().await;
    let asked = tokio::time::timeout(Duration::from_millis(100), streams.query_account()).await;
    assert!(asked.is_err(), "a stopped server answered");
    nats.cont();
    assert_eq!(nats.stream_names().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_sink_records_requests_and_counts_attempts_per_path_and_event() {
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 3 { 503 } else { 200 })).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(post(&sink.url("/a")).event(&event("1").data("text/plain", "x")).send().await.status());
    }
    assert_eq!(statuses, [503, 503, 200]);
    assert_eq!(post(&sink.url("/b")).event(&event("1")).send().await.status(), 503);
    let requests = sink.wait_for("/a", 3).await;
    assert_eq!(requests[2].attempt, 3);
    assert_eq!(requests[0].text(), "x");
    assert_eq!(requests[0].header("CE-ID"), Some("1"));
    assert_eq!(sink.requests("/b").len(), 1);
}

#[tokio::test]
async fn a_sink_answers_badly_when_told_to() {
    let sink = Sink::answering(|request| match request.target() {
        "/reset" => Answer::reset(),
        "/short" => Answer::short_body(),
        "/chunks" => Answer::broken_chunks(),
        "/raw" => Answer::raw("HTTP/1.1 299 Raw\r\ncontent-length: 1\r\n\r\nr"),
        _ => Answer::event("r").with_status(201).header("x", b"\xff").body("b").after(Duration::from_millis(1)),
    })
    .await;
    for path in ["/reset", "/short", "/chunks"] {
        assert!(get(&sink.url(path)).try_send().await.is_err(), "{path}");
    }
    assert_eq!(get(&sink.url("/raw")).send().await.status(), 299);
    let answer = get(&sink.url("/")).send().await;
    assert_eq!((answer.status(), answer.header("ce-id"), answer.text()), (201, Some("r"), "b".to_owned()));
}

#[tokio::test]
async fn a_sink_that_hangs_or_waits_at_a_gate_has_seen_the_request() {
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |request| match request.target() {
        "/hang" => Answer::hang(),
        "/endless" => Answer::endless_body(),
        _ => Answer::status(204).behind(&closed),
    })
    .await;
    let hanging = tokio::spawn(get(&sink.url("/hang")).try_send());
    let endless = tokio::spawn(get(&sink.url("/endless")).try_send());
    let waiting = tokio::spawn(get(&sink.url("/gate")).send());
    for path in ["/hang", "/endless", "/gate"] {
        sink.wait_for_one(path).await;
    }
    assert!(!waiting.is_finished());
    gate.open();
    assert_eq!(waiting.await.unwrap().status(), 204);
    assert!(!hanging.is_finished());
    hanging.abort();
    endless.abort();
}

#[tokio::test]
async fn a_proxy_can_be_cut_stalled_and_healed() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let (address, _) = crate::support::http::split_url(&url);
    let proxy = ChaosProxy::to(address.port()).await;
    let url = format!("{}/", proxy.nats_url().replace("nats://", "http://"));
    assert_eq!(get(&url).send().await.status(), 200);
    proxy.cut();
    assert!(get(&url).try_send().await.is_err());
    proxy.stall();
    let stalled = tokio::spawn(get(&url).send());
    proxy.heal();
    assert_eq!(stalled.await.unwrap().status(), 200);
    eventually("three answers", || async { Some(()).filter(|()| sink.requests("/").len() == 2) }).await;
}

//! Owns the checks of the poller against servers of its own.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use clap::Parser as _;
use http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpListener;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// An API and a sink in one; both ways are on record.
#[derive(Default)]
struct World {
    polls: Mutex<Vec<(Uri, HeaderMap)>>,
    events: Mutex<Vec<(HeaderMap, Bytes)>>,
}

impl World {
    fn ids(&self) -> Vec<String> {
        self.events.lock().unwrap().iter().map(|(headers, _)| headers["ce-id"].to_str().unwrap().to_owned()).collect()
    }
}

/// Answers polls with `document` and the n-th event, from 0, with what `verdict` says.
async fn start(document: &'static str, verdict: fn(usize) -> StatusCode) -> (Arc<World>, String) {
    let world = Arc::new(World::default());
    let (asked, told) = (Arc::clone(&world), Arc::clone(&world));
    let router = Router::new()
        .route(
            "/api",
            get(async move |uri: Uri, headers: HeaderMap| {
                asked.polls.lock().unwrap().push((uri, headers));
                document
            }),
        )
        .route("/broken", get(async || StatusCode::BAD_GATEWAY))
        .route(
            "/sink",
            post(async move |headers: HeaderMap, body: Bytes| {
                let mut events = told.events.lock().unwrap();
                events.push((headers, body));
                verdict(events.len() - 1)
            }),
        );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(crate::cli::http::serve(listener, router, CancellationToken::new()));
    (world, base)
}

async fn poll(base: &str, path: &str, more: &[&str]) -> ExitCode {
    let (url, sink) = (format!("{base}{path}"), format!("{base}/sink"));
    let mut line = vec!["poll", "--url", &url, "--to", &sink, "--every", "10ms"];
    line.extend(more);
    let args = Line::try_parse_from(line).unwrap_or_else(|error| error.exit()).args;
    run(args, CancellationToken::new()).await.unwrap()
}

fn accept(_: usize) -> StatusCode {
    StatusCode::ACCEPTED
}

#[tokio::test]
async fn what_the_pointer_picks_is_sent_as_it_stands() {
    let (world, base) = start(r#"{"rates": [ {"value": 1.10} ]}"#, accept).await;
    poll(&base, "/api", &["--pointer", "/rates/0/value", "--count", "3", "--subject", "USD/JPY", "--type", "t"]).await;
    let events = world.events.lock().unwrap();
    assert_eq!(events.len(), 3);
    for (headers, body) in &*events {
        assert_eq!(body, "1.10");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["ce-type"], "t");
        assert_eq!(headers["ce-subject"], "USD/JPY");
        assert!(headers.contains_key("ce-time"));
    }
    drop(events);
    assert_eq!(world.ids().into_iter().collect::<HashSet<_>>().len(), 3);
}

#[tokio::test]
async fn without_a_pointer_the_answer_is_sent_unchanged() {
    let (world, base) = start(" not {json} \n", accept).await;
    poll(&base, "/api", &["--count", "1"]).await;
    let (headers, body) = world.events.lock().unwrap()[0].clone();
    assert_eq!(body, " not {json} \n");
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn an_event_that_is_sent_again_keeps_its_id() {
    let twice = |n| if n < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::ACCEPTED };
    let (world, base) = start("1", twice).await;
    poll(&base, "/api", &["--count", "2"]).await;
    let ids = world.ids();
    assert_eq!(ids.len(), 4);
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
}

#[tokio::test]
async fn an_event_that_the_sink_refuses_is_not_sent_again() {
    let first = |n| if n == 0 { StatusCode::BAD_REQUEST } else { StatusCode::ACCEPTED };
    let (world, base) = start("1", first).await;
    let code = poll(&base, "/api", &["--count", "2"]).await;
    assert_eq!(world.ids().into_iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
}

#[tokio::test]
async fn secrets_come_from_files() {
    let (world, base) = start("1", accept).await;
    let directory = tempfile::tempdir().unwrap();
    let (key, token) = (directory.path().join("key"), directory.path().join("token"));
    std::fs::write(&key, "a&b c\n").unwrap();
    std::fs::write(&token, "Bearer x\r\n").unwrap();
    let query = format!("apikey={}", key.display());
    let header = format!("Authorization={}", token.display());
    poll(&base, "/api?a=1", &["--count", "1", "--query-file", &query, "--header-file", &header]).await;
    let (uri, headers) = world.polls.lock().unwrap()[0].clone();
    assert_eq!(uri.query(), Some("a=1&apikey=a%26b+c"));
    assert_eq!(headers["authorization"], "Bearer x");
}

#[tokio::test]
async fn a_failing_poll_falls_back_and_goes_on() {
    let (world, base) = start("1", accept).await;
    let fallback = format!("{base}/api");
    poll(&base, "/broken", &["--count", "2", "--fallback-url", &fallback]).await;
    assert_eq!(world.ids().len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_poll_is_said_without_the_secret() {
    let (_, base) = start("1", accept).await;
    let api = |path: &str| {
        let url = http_url("--url", &format!("{base}{path}?apikey=sesame")).unwrap();
        Api::new(url, Vec::new(), Vec::new(), Some("/a".parse().unwrap()), Duration::from_secs(5)).unwrap()
    };
    for (path, expected) in [("/broken", "answered 502 Bad Gateway"), ("/api", "nothing at '/a'"), ("/none", "404")] {
        let error = api(path).fetch().await.unwrap_err();
        assert!(error.contains(expected) && !error.contains("sesame"), "{error}");
    }
    let unreachable = http_url("--url", "http://127.0.0.1:1/?apikey=sesame").unwrap();
    let api = Api::new(unreachable, Vec::new(), Vec::new(), None, Duration::from_secs(5)).unwrap();
    let error = api.fetch().await.unwrap_err();
    assert!(error.starts_with("cannot connect") && !error.contains("sesame"), "{error}");
    assert!(!api.shown().contains("sesame"));
}

#[tokio::test]
async fn asked_to_end_it_ends_with_success_although_the_sink_is_away() {
    let (_, base) = start("1", |_| StatusCode::SERVICE_UNAVAILABLE).await;
    let url = format!("{base}/api");
    let line = ["poll", "--url", &url, "--to", "http://127.0.0.1:1/", "--every", "1h"];
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    tokio::time::pause();
    let code = run(Line::try_parse_from(line).unwrap_or_else(|error| error.exit()).args, shutdown).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

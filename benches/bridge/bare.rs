//! Owns the programs that show what HTTP and JetStream cost by themselves: modes of this one, so that each has a process of its
//! own to be measured.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use futures_util::StreamExt as _;

use super::load;
use super::process::{Process, free_port, wait_for};

pub const HTTP: &str = "bare-http";
pub const PUBLISHER: &str = "bare-publisher";

/// HTTP without JetStream, at work on the address.
pub fn start_http() -> (Process, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let process = Process::start(&std::env::current_exe().unwrap(), &[HTTP.to_owned(), address.to_string()]);
    wait_for(address);
    (process, address)
}

/// Takes a request and stores nothing.
pub async fn http(listen: &str) {
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    let router = Router::new().fallback(post(|_: Bytes| async { StatusCode::ACCEPTED }));
    axum::serve(listener, router).await.unwrap();
}

/// JetStream without HTTP: async-nats that publishes what the bridge would, and waits for each acknowledgement.
pub struct Publish {
    pub nats: String,
    pub subject: String,
    /// The number of the first event; a stream drops an event that it has already.
    pub first: usize,
    pub events: usize,
    pub in_flight: usize,
}

impl Publish {
    /// Has it done by a process of its own. Returns the processor time that it used and the time that it took, without those of
    /// its start.
    pub async fn run(&self) -> (Duration, Duration) {
        let [first, events, in_flight] = [self.first, self.events, self.in_flight].map(|number| number.to_string());
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([PUBLISHER, &self.nats, &self.subject, &first, &events, &in_flight])
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(load::limit(self.events), output).await;
        let output = output.expect("the bare publisher does not end").unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let micros: Vec<u64> = text.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
        (Duration::from_micros(micros[0]), Duration::from_micros(micros[1]))
    }

    /// What [`Publish::run`] has said to the process.
    pub fn from_arguments(arguments: &[String]) -> Self {
        let number = |at: usize| arguments[at].parse().unwrap();
        let [nats, subject] = [0, 1].map(|at: usize| arguments[at].clone());
        Self { nats, subject, first: number(2), events: number(3), in_flight: number(4) }
    }

    /// The work itself, and the figures for the one who waits for the end and can look at the process no more.
    pub async fn publish(&self) {
        let context = jetstream::new(async_nats::connect(&self.nats).await.unwrap());
        let payload = Bytes::from(vec![b'x'; load::DATA]);
        let usual = usual_headers();
        let (began, before) = (Instant::now(), Process::own_cpu());
        let publishes = futures_util::stream::iter(self.first..self.first + self.events).map(|event| {
            let (context, subject, payload) = (context.clone(), self.subject.clone(), payload.clone());
            let headers = headers_of(&usual, event);
            async move {
                context.publish_with_headers(subject, headers, payload).await.unwrap().await.unwrap();
            }
        });
        publishes.buffer_unordered(self.in_flight).for_each(|()| std::future::ready(())).await;
        println!("{} {}", (Process::own_cpu() - before).as_micros(), began.elapsed().as_micros());
    }
}

/// The headers that the bridge writes for an event of [`load`], but for those with its id.
fn usual_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-source", "/bench"),
        ("ce-type", "dev.knats.bench"),
        ("ce-subject", "s"),
        ("ce-time", "2026-11-21T01:02:03.123Z"),
        ("ce-datacontenttype", "application/json"),
        ("ce-partitionkey", "k0"),
        ("ce-other", "x"),
    ] {
        headers.insert(name, value);
    }
    headers
}

/// Its id for the duplicate window is as long as the bridge's.
fn headers_of(usual: &HeaderMap, event: usize) -> HeaderMap {
    let mut headers = usual.clone();
    headers.insert("ce-id", event.to_string());
    headers.insert("Nats-Msg-Id", format!("{event:022}"));
    headers
}

//! Owns what the benches of codec and policy do, so that clock and instruction count judge the same work.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use knats::dispatch::policy;
use knats::event::nats::Origin;
use knats::event::{Builder, Event, Headers, PassThrough, SpecVersion, http as over_http, json, nats};
use knats::resource::{BackoffPolicy, Delivery, Format};
use knats::sink::Failure;

/// Events of the batches.
const BATCH: usize = 100;
/// Bytes of data.
const DATA: usize = 256;

/// A name, and something to do as often as one likes.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) work: Box<dyn Fn()>,
}

pub(crate) fn all() -> Vec<Case> {
    let (headers, body) = binary();
    let structured = json::encode(&event(0));
    let events: Vec<Event> = (0..BATCH).map(event).collect();
    let batch = json::encode_batch(&events.iter().collect::<Vec<_>>());
    let stored = stored(&events[0]);
    let mut cases = vec![
        case("http_binary_decode", move || over_http::decode(black_box(&headers), body.clone()).is_ok()),
        case("http_binary_encode", {
            let event = event(0);
            move || over_http::encode_binary(black_box(&event), &mut HeaderMap::with_capacity(24))
        }),
        case("json_decode", move || json::decode(black_box(&structured)).is_ok()),
        case("json_encode", {
            let event = event(0);
            move || json::encode(black_box(&event))
        }),
        case("json_batch_of_100_decode", move || json::decode_batch(black_box(&batch)).is_ok()),
        case("json_batch_of_100_encode", {
            let events = events.clone();
            move || json::encode_batch(black_box(&events.iter().collect::<Vec<_>>()))
        }),
        case("nats_encode", {
            let event = event(0);
            move || {
                let mut headers = Each(|_, name: &str, value: &str| {
                    black_box((name.len(), value.len()));
                });
                nats::encode(black_box(&event), &PassThrough::default(), &mut headers)
            }
        }),
        case("nats_decode", move || {
            let (headers, payload) = black_box(&stored);
            let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let origin = Origin { stream: "KN_DEFAULT__FOO", sequence: 1, subject: "foo.default", stored_at_nanos: 0 };
            nats::decode(pairs, payload.clone(), origin).is_ok()
        }),
        case("message_id", {
            let event = event(0);
            move || black_box(&event).message_id()
        }),
    ];
    cases.extend(policies());
    cases
}

fn case<T>(name: &'static str, work: impl Fn() -> T + 'static) -> Case {
    Case { name, work: Box::new(move || drop(black_box(work()))) }
}

fn policies() -> [Case; 2] {
    let delivery = |backoff_policy| Delivery {
        retry: 10,
        backoff_policy,
        backoff_delay: Duration::from_millis(200),
        backoff_max: Duration::from_secs(600),
        timeout: None,
        retry_after_max: Some(Duration::from_secs(30)),
        format: Format::Binary,
        dead_letter_sink: None,
    };
    let busy = Failure::answered(503, Bytes::new(), Some(Duration::from_secs(3)));
    let (linear, exponential) = (delivery(BackoffPolicy::Linear), delivery(BackoffPolicy::Exponential));
    let other = busy.clone();
    [
        case("policy_linear", move || policy::after_failure(black_box(&other), black_box(3), &linear, 0.5)),
        case("policy_exponential", move || policy::after_failure(black_box(&busy), black_box(3), &exponential, 0.5)),
    ]
}

fn event(number: usize) -> Event {
    let mut builder = Builder::new(SpecVersion::V10);
    for (name, value) in [
        ("id", format!("8f5a2a6e-6c9a-4b59-8f0e-5a4b2f6f{number:04}").as_str()),
        ("source", "https://shop.example.com/orders"),
        ("type", "com.example.order.created"),
        ("time", "2026-01-02T03:04:05.678Z"),
        ("subject", "order-4711"),
        ("datacontenttype", "application/json"),
        ("partitionkey", "customer-17"),
    ] {
        let added = builder.attribute(name, value);
        assert!(added.is_ok(), "{name}");
    }
    builder.data(format!(r#"{{"filler":"{}"}}"#, "x".repeat(DATA - 13)).into());
    builder.build().unwrap_or_else(|error| panic!("{error}"))
}

/// A request as a client sends it, with headers that are none of the event's.
fn binary() -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("host", "127.0.0.1:8080"), ("user-agent", "bench"), ("accept", "*/*"), ("content-length", "256")]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let body = over_http::encode_binary(&event(0), &mut headers);
    (headers, body)
}

/// A message as JetStream gives it back.
fn stored(event: &Event) -> (Vec<(String, String)>, Bytes) {
    let mut headers = vec![("Nats-Msg-Id".to_owned(), event.message_id())];
    let mut each = Each(|prefix, name: &str, value: &str| headers.push((format!("{prefix}{name}"), value.to_owned())));
    let payload = nats::encode(event, &PassThrough::default(), &mut each);
    (headers, payload)
}

/// Is given each header: what its name begins with, the rest of the name, the value.
struct Each<F>(F);

impl<F: FnMut(&'static str, &str, &str)> Headers for Each<F> {
    fn attribute(&mut self, name: &str, value: &str) {
        (self.0)("ce-", name, value);
    }

    fn set(&mut self, name: &str, value: &str) {
        (self.0)("", name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        (self.0)("", name, value);
    }
}

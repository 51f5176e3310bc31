//! Owns the checks of every answer of the ingress, against a store that does as it is told.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::resource::ChannelKind;

const MAX_PAYLOAD: usize = 1000;

/// What was stored: subject, id and data of each event.
type Stored = Arc<Mutex<Vec<(String, String, Bytes)>>>;

/// How the fake store takes events.
enum Way {
    Stores,
    IsDown,
    Fails(PublishError),
    Panics,
    /// Says that it was asked, and stores when it may.
    Waits {
        asked: Arc<Notify>,
        go_on: Arc<Notify>,
    },
}

struct Fake {
    way: Way,
    stored: Stored,
}

impl Store for Fake {
    fn is_connected(&self) -> bool {
        !matches!(self.way, Way::IsDown)
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    async fn publish_all(&self, target: &Target, events: &[Event], _: &PassThrough) -> Result<(), PublishError> {
        match &self.way {
            Way::Stores => {}
            Way::IsDown => unreachable!("was asked although it is down"),
            Way::Fails(error) => return Err(error.clone()),
            Way::Panics => panic!("as the test wants it"),
            Way::Waits { asked, go_on } => {
                asked.notify_one();
                go_on.notified().await;
            }
        }
        let mut stored = self.stored.lock().unwrap();
        for event in events {
            let data = event.data().cloned().unwrap_or_default();
            stored.push((target.subject.clone(), event.id().to_owned(), data));
        }
        Ok(())
    }
}

/// An ingress with the channels `default/foo`, `default/bar` and `default/unready`, and places for two requests.
struct Ingress {
    gate: Arc<Gate<Fake>>,
    stored: Stored,
}

impl Ingress {
    fn new(way: Way, default_channel: Option<&str>) -> Self {
        let target = |subject: &str| {
            let (stream, subject) = ("S".to_owned(), subject.to_owned());
            Some(Target {
                stream,
                subject,
                kind: ChannelKind::Channel,
                max_msg_size: None,
                allowed_subjects: None,
                meter: Arc::default(),
            })
        };
        let routes = [
            (key("default/foo"), target("foo.default")),
            (key("default/bar"), target("bar.default")),
            (key("default/unready"), None),
        ];
        // A watch goes on showing its last value without a sender.
        let (_, routes) = watch::channel(Arc::new(Targets::from(routes)));
        let stored = Stored::default();
        let store = Fake { way, stored: Arc::clone(&stored) };
        let gate = Gate::new(store, routes, default_channel.map(key), None, 2, Arc::default(), None);
        Self { gate: Arc::new(gate), stored }
    }

    fn good() -> Self {
        Self::new(Way::Stores, None)
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = handle(Arc::clone(&self.gate), request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let problem = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or_default().to_owned();
        if head.status.as_u16() >= 400 {
            assert_eq!(head.headers[CONTENT_TYPE], "application/problem+json");
            assert_eq!(problem.unwrap()["status"], head.status.as_u16());
        }
        Answer { status: head.status.as_u16(), headers: head.headers, body, detail }
    }

    /// Sends and does not wait for the answer.
    fn spawn(&self, request: Request<Body>) -> JoinHandle<Response> {
        let gate = Arc::clone(&self.gate);
        tokio::spawn(async move { handle(gate, request).await })
    }

    /// Subjects and ids.
    fn stored(&self) -> Vec<(String, String)> {
        self.stored.lock().unwrap().iter().map(|(subject, id, _)| (subject.clone(), id.clone())).collect()
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    detail: String,
}

fn key(text: &str) -> Key {
    let (namespace, name) = text.split_once('/').unwrap();
    Key::new(namespace, name).unwrap()
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

fn binary(path: &str, body: impl Into<Body>) -> Request<Body> {
    let attributes = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    request(Method::POST, path, &attributes, body)
}

fn json(content_type: &str, body: impl Into<Body>) -> Request<Body> {
    request(Method::POST, "/default/foo", &[("content-type", content_type)], body)
}

fn structured(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{{"n":1}}}}"#)
}

fn ids(stored: &[(String, String)]) -> Vec<&str> {
    stored.iter().map(|(_, id)| id.as_str()).collect()
}

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

#[tokio::test]
async fn an_event_that_is_stored_is_answered_202_with_no_body() {
    let ingress = Ingress::good();
    let answer = ingress.send(binary("/default/foo", "data")).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0), "{}", answer.detail);
    assert_eq!(*ingress.stored.lock().unwrap(), [("foo.default".into(), "1".into(), Bytes::from("data"))]);
}

#[tokio::test]
async fn structured_and_batched_events_are_stored_in_order() {
    let ingress = Ingress::good();
    assert_eq!(ingress.send(json(STRUCTURED, structured("a"))).await.status, 202);
    let batch = format!("[{},{}]", structured("b"), structured("c"));
    assert_eq!(ingress.send(json(BATCH, batch)).await.status, 202);
    assert_eq!(ingress.send(json(BATCH, "[]")).await.status, 202);
    assert_eq!(ids(&ingress.stored()), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_request_goes_to_the_channel_that_path_host_or_default_name() {
    let ingress = Ingress::new(Way::Stores, Some("default/bar"));
    for (path, host, subject) in [
        ("/default/foo", "bar-kn-channel.default.svc", "foo.default"),
        ("/", "foo-kn-jsm-channel.default.svc.cluster.local:80", "foo.default"),
        ("/?x=y", "localhost:8080", "bar.default"),
        ("http://foo-kn-channel.default.svc/", "localhost", "foo.default"),
    ] {
        let mut request = binary(path, "");
        request.headers_mut().insert(HOST, host.parse().unwrap());
        assert_eq!(ingress.send(request).await.status, 202, "{path} {host}");
        assert_eq!(ingress.stored().last().unwrap().0, subject, "{path} {host}");
    }
}

#[tokio::test]
async fn what_names_no_declared_channel_is_answered_404_with_the_reason() {
    let with_default = Ingress::new(Way::Stores, Some("default/foo"));
    for (path, host, part) in [
        ("/default/nope", "x", "'default/nope' is not declared"),
        ("/default/foo/", "x", "'/default/foo/'"),
        ("/", "nope-kn-channel.default.svc", "'default/nope' is not declared"),
        ("/", "f_o-kn-channel.default.svc", "'f_o-kn-channel.default.svc'"),
    ] {
        let mut request = binary(path, "");
        request.headers_mut().insert(HOST, host.parse().unwrap());
        let answer = with_default.send(request).await;
        assert_eq!(answer.status, 404, "{path} {host}");
        assert!(answer.detail.contains(part), "{}", answer.detail);
    }
    let answer = Ingress::good().send(binary("/", "")).await;
    assert_eq!(answer.status, 404);
    assert!(answer.detail.contains("/NAMESPACE/NAME"), "{}", answer.detail);
}

#[tokio::test]
async fn other_methods_are_answered_405_with_those_that_are_allowed() {
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH, Method::TRACE] {
        // Whether the channel is declared does not matter.
        for path in ["/default/foo", "/default/nope", "/"] {
            let ingress = Ingress::good();
            let request = request(method.clone(), path, &[], "");
            let response = handle(Arc::clone(&ingress.gate), request).await;
            assert_eq!(response.status(), 405);
            assert_eq!(response.headers()[ALLOW], "POST, OPTIONS");
        }
    }
    assert_eq!(Ingress::good().send(request(Method::GET, "/nope", &[], "")).await.status, 404);
}

#[tokio::test]
async fn options_grants_web_hooks_even_when_nothing_can_be_stored() {
    let ingress = Ingress::new(Way::IsDown, None);
    for path in ["/default/foo", "/default/nope", "/"] {
        let answer =
            ingress.send(request(Method::OPTIONS, path, &[("webhook-request-origin", "example.org")], "")).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.headers[ALLOW], "POST, OPTIONS");
        assert_eq!(answer.headers["webhook-allowed-origin"], "*");
        assert_eq!(answer.headers["webhook-allowed-rate"], "*");
    }
    assert_eq!(ingress.send(request(Method::OPTIONS, "/nope", &[], "")).await.status, 404);
}

#[tokio::test]
async fn what_is_no_valid_event_is_answered_400_and_none_of_its_batch_is_stored() {
    let ingress = Ingress::good();
    let mut bad_name = binary("/default/foo", "");
    bad_name.headers_mut().insert("ce-bad_name", "x".parse().unwrap());
    let batch = format!("[{},{}]", structured("a"), structured("b").replace("/s", ""));
    for (request, part) in [
        (request(Method::POST, "/default/foo", &[], "plain"), "specversion"),
        (bad_name, "bad_name"),
        (json(STRUCTURED, structured("a").replace("\"id\"", "\"notid\"")), "'id'"),
        (json(STRUCTURED, "{"), ""),
        (json(BATCH, batch), "event 1 of the batch"),
        (json(BATCH, structured("a")), ""),
    ] {
        let answer = ingress.send(request).await;
        assert_eq!(answer.status, 400, "{}", answer.detail);
        assert!(answer.detail.contains(part), "{} has {part}", answer.detail);
    }
    assert_eq!(ingress.stored(), []);
}

#[tokio::test]
async fn an_event_format_other_than_json_is_answered_415() {
    let answer = Ingress::good().send(json("application/cloudevents+avro", "x")).await;
    assert_eq!(answer.status, 415);
    assert!(answer.detail.contains("avro"), "{}", answer.detail);
}

#[tokio::test]
async fn a_body_over_the_limit_of_its_mode_is_answered_413() {
    let ingress = Ingress::good();
    let chunked = |size: usize| {
        let chunks = vec![Ok::<_, std::convert::Infallible>(vec![b'x'; size / 2]); 2];
        Body::from_stream(stream::iter(chunks))
    };
    let spaces = |json: String, size: usize| format!("{json}{}", " ".repeat(size - json.len()));
    let structured_limit = 2 * MAX_PAYLOAD + ENVELOPE_BYTES;
    for (request, status) in [
        (binary("/default/foo", vec![b'x'; MAX_PAYLOAD]), 202),
        (binary("/default/foo", vec![b'x'; MAX_PAYLOAD + 1]), 413),
        (binary("/default/foo", chunked(MAX_PAYLOAD)), 202),
        (binary("/default/foo", chunked(MAX_PAYLOAD + 2)), 413),
        (json(STRUCTURED, spaces(structured("a"), structured_limit)), 202),
        (json(STRUCTURED, spaces(structured("a"), structured_limit + 1)), 413),
        (json(BATCH, spaces("[]".into(), MIN_BATCH_LIMIT)), 202),
        (json(BATCH, spaces("[]".into(), MIN_BATCH_LIMIT + 1)), 413),
    ] {
        let answer = ingress.send(request).await;
        assert_eq!(answer.status, status, "{}", answer.detail);
    }
}

/// A body that fails the test when somebody reads it.
fn untouchable(mut request: Request<Body>) -> Request<Body> {
    let body = stream::poll_fn(|_| -> std::task::Poll<Option<Result<&str, std::convert::Infallible>>> {
        unreachable!("the body was read")
    });
    *request.body_mut() = Body::from_stream(body);
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    request
}

#[tokio::test]
async fn what_cannot_be_stored_now_is_answered_503_before_the_body_is_read() {
    let down = Ingress::new(Way::IsDown, None);
    for (ingress, path, part) in
        [(&down, "/default/foo", "not connected"), (&Ingress::good(), "/default/unready", "default/unready")]
    {
        let answer = ingress.send(untouchable(binary(path, ""))).await;
        assert_eq!((answer.status, &answer.headers[RETRY_AFTER]), (503, &HeaderValue::from_static("1")));
        assert!(answer.detail.contains(part), "{}", answer.detail);
    }
}

#[tokio::test]
async fn an_event_that_jetstream_does_not_take_is_never_answered_202() {
    let publish = |error| Ingress::new(Way::Fails(error), None);
    for (error, status) in [
        (PublishError::Disconnected, 503),
        (PublishError::NoAck(std::time::Duration::from_secs(5)), 503),
        (PublishError::NoStream("foo.default".into()), 503),
        (PublishError::Full("maximum bytes exceeded".into()), 503),
        (PublishError::Refused("stream sealed".into()), 503),
        (PublishError::TooLarge("2 bytes".into()), 413),
    ] {
        let answer = publish(error.clone()).send(binary("/default/foo", "")).await;
        assert_eq!(answer.status, status, "{error}");
        assert!(answer.detail.contains(&error.to_string()), "{}", answer.detail);
        let repeat = if status == 503 { "Repeating the request is safe" } else { "will fail again" };
        assert!(answer.detail.contains(repeat), "{}", answer.detail);
        assert_eq!(answer.headers.contains_key(RETRY_AFTER), status == 503);
    }
}

#[tokio::test]
async fn requests_over_the_limit_are_answered_503_and_the_others_go_on() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let ingress = Ingress::new(Way::Waits { asked: Arc::clone(&asked), go_on: Arc::clone(&go_on) }, None);
    let storing = ingress.spawn(binary("/default/foo", "x"));
    asked.notified().await;
    // The second place is held by a body that does not come.
    let (at_body, begun) = tokio::sync::oneshot::channel();
    let mut at_body = Some(at_body);
    let stalled = stream::poll_fn(move |_| -> std::task::Poll<Option<Result<&str, std::convert::Infallible>>> {
        at_body.take().map(|at_body| at_body.send(()));
        std::task::Poll::Pending
    });
    let reading = ingress.spawn(binary("/default/foo", Body::from_stream(stalled)));
    begun.await.unwrap();

    let answer = ingress.send(untouchable(binary("/default/foo", ""))).await;
    assert_eq!((answer.status, &answer.headers[RETRY_AFTER]), (503, &HeaderValue::from_static("1")));
    assert_eq!(ingress.send(request(Method::OPTIONS, "/default/foo", &[], "")).await.status, 200);
    assert_eq!(ingress.send(request(Method::GET, "/default/foo", &[], "")).await.status, 405);
    assert_eq!(ingress.send(binary("/default/nope", "")).await.status, 404);

    // A client that hangs up gives its place back.
    reading.abort();
    assert!(reading.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    assert_eq!(storing.await.unwrap().status(), 202);
    go_on.notify_one();
    assert_eq!(ingress.send(binary("/default/foo", "")).await.status, 202);
}

#[tokio::test]
async fn a_panic_is_answered_500_and_the_place_is_free_again() {
    let ingress = Ingress::new(Way::Panics, None);
    for _ in 0..3 {
        assert_eq!(ingress.send(binary("/default/foo", "")).await.status, 500);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let ingress = Ingress::good();
    let parts = [Ok(structured("a")), Err(std::io::Error::other("connection reset"))];
    assert_eq!(ingress.send(json(STRUCTURED, Body::from_stream(stream::iter(parts)))).await.status, 400);
    assert_eq!(ingress.stored(), []);
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_body_too_large_sees_the_answer_and_goes_on() {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let gate = Ingress::good().gate;
    let server =
        tokio::spawn(crate::server::serve(listener, gate, shutdown.clone(), std::time::Duration::from_secs(20)));

    let mut client = BufReader::new(tokio::net::TcpStream::connect(address).await.unwrap());
    for (size, status) in [(8 * 1024 * 1024, "HTTP/1.1 413 "), (3, "HTTP/1.1 202 ")] {
        let head = format!(
            "POST /default/foo HTTP/1.1\r\nhost: x\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n\
             content-length: {size}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; size]).await.unwrap();
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        assert!(line.starts_with(status), "{line}");
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            client.read_line(&mut line).await.unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        client.read_exact(&mut vec![0; length]).await.unwrap();
    }
    shutdown.cancel();
    assert_eq!(server.await.unwrap().cut, 0);
}

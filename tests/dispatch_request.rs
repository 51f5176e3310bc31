//! The request to a sink: method, mode, headers, trace, coding, and bytes as they were.

use serde_json::{Value, json};

use crate::support::http::post;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event};

struct World {
    bridge: Bridge,
    sink: Sink,
    _nats: Nats,
}

async fn world() -> World {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/in/box?a=b%20c"))]).await;
    World { bridge, sink, _nats: nats }
}

const PATH: &str = "/in/box?a=b%20c";

fn full_event() -> Value {
    json!({
        "specversion": "1.0",
        "id": "full-event",
        "source": "http://example.com/source",
        "type": "com.example.FullEvent",
        "subject": "topic",
        "time": "2020-03-21T12:34:56.78Z",
        "dataschema": "http://example.com/schema",
        "datacontenttype": "text/json",
        "data": "hello",
        "exbool": true,
        "exint": 42,
        "exstring": "exstring",
        "exbinary": "AAECAw==",
        "exurl": "http://example.com/source",
        "extime": "2020-03-21T12:34:56.78Z",
    })
}

#[tokio::test]
async fn it_is_a_post_to_path_and_query_as_they_are_with_prefer_and_namespace() {
    let world = world().await;
    world.bridge.send("foo", &event("1").data("text/plain", "x")).await;
    let got = world.sink.wait_for_one(PATH).await;
    assert_eq!(got.method(), "POST");
    assert_eq!(got.header("prefer"), Some("reply"));
    assert_eq!(got.header("kn-namespace"), Some("default"));
    assert_eq!(got.header("content-length"), Some("1"));
    let address = world.sink.url("").replace("http://", "");
    assert_eq!(got.headers_named("host"), [address.trim_end_matches('/')]);
    assert!(got.header("user-agent").is_some_and(|agent| agent.starts_with("knats/")));
}

#[tokio::test]
async fn user_and_password_of_the_url_are_basic_authentication() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let url = sink.url("/box").replace("http://", "http://us%40er:pass%3Aword@");
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &url)]).await;
    bridge.send("foo", &event("1")).await;
    let got = sink.wait_for_one("/box").await;
    assert_eq!(got.headers_named("authorization"), ["Basic dXNAZXI6cGFzczp3b3Jk"]);
    assert!(!got.header("host").unwrap().contains('@'));
}

#[tokio::test]
async fn the_minimal_event_arrives_as_it_is() {
    let world = world().await;
    let minimal =
        event("min-event").attribute("source", "http://example.com/source").attribute("type", "com.example.MinEvent");
    world.bridge.send("foo", &minimal).await;
    let got = world.sink.wait_for_one(PATH).await;
    let expected = [
        ("id", "min-event"),
        ("source", "http://example.com/source"),
        ("specversion", "1.0"),
        ("type", "com.example.MinEvent"),
    ];
    let attributes: Vec<_> = got
        .attributes()
        .into_iter()
        .filter(|(name, _)| !matches!(name.as_str(), "traceparent" | "tracestate"))
        .collect();
    assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((got.header("content-type"), got.body.len()), (None, 0));
}

#[tokio::test]
async fn the_full_event_arrives_as_it_is() {
    let world = world().await;
    let call = post(&world.bridge.url("/default/foo")).header("content-type", "application/cloudevents+json");
    assert_eq!(call.body(full_event().to_string()).send().await.status(), 202);
    let got = world.sink.wait_for_one(PATH).await;
    let expected = [
        ("dataschema", "http://example.com/schema"),
        ("exbinary", "AAECAw=="),
        ("exbool", "true"),
        ("exint", "42"),
        ("exstring", "exstring"),
        ("extime", "2020-03-21T12:34:56.78Z"),
        ("exurl", "http://example.com/source"),
        ("id", "full-event"),
        ("source", "http://example.com/source"),
        ("specversion", "1.0"),
        ("subject", "topic"),
        ("time", "2020-03-21T12:34:56.78Z"),
        ("type", "com.example.FullEvent"),
    ];
    let attributes: Vec<_> = got
        .attributes()
        .into_iter()
        .filter(|(name, _)| !matches!(name.as_str(), "traceparent" | "tracestate"))
        .collect();
    assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((got.header("content-type"), got.text()), (Some("text/json"), "\"hello\"".to_owned()));
}

#[tokio::test]
async fn format_json_sends_structured_mode() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"format": "json"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    let call = post(&bridge.url("/default/foo")).header("content-type", "application/cloudevents+json");
    assert_eq!(call.body(full_event().to_string()).send().await.status(), 202);
    let got = sink.wait_for_one("/").await;
    let content_type = got.header("content-type").unwrap();
    assert!(content_type.starts_with("application/cloudevents+json"), "{content_type}");
    let body = got.json();
    for name in ["specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "data"] {
        assert_eq!(body[name], full_event()[name], "{name}");
    }
    assert_eq!(body["exstring"], "exstring");
    assert_eq!((got.header("prefer"), got.header("kn-namespace")), (Some("reply"), Some("default")));

    bridge.send("foo", &event("binary").data("application/octet-stream", vec![0, 159, 146, 150])).await;
    let body = sink.wait_for("/", 2).await[1].json();
    assert_eq!((&body["data_base64"], body.get("data")), (&json!("AJ+Slg=="), None));

    bridge.send("foo", &event("text").data("text/plain", "plain text")).await;
    assert_eq!(sink.wait_for("/", 3).await[2].json()["data"], "plain text");
}

#[tokio::test]
async fn a_0_3_event_stays_0_3_in_structured_mode() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"format": "json"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge
        .send(
            "foo",
            &event("1").attribute("specversion", "0.3").data("application/octet-stream", vec![0, 159, 146, 150]),
        )
        .await;
    let body = sink.wait_for_one("/").await.json();
    assert_eq!(body["specversion"], "0.3");
    assert_eq!((&body["datacontentencoding"], &body["data"]), (&json!("base64"), &json!("AJ+Slg==")));
    assert_eq!(body.get("data_base64"), None);
}

#[tokio::test]
async fn the_pass_through_headers_travel_and_no_others() {
    let world = world().await;
    let call = post(&world.bridge.url("/default/foo")).event(&event("1")).headers(&[
        ("X-Request-Id", "request-1"),
        ("Knative-Something", "kept"),
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-sampled", "1"),
        ("Authorization", "Bearer secret"),
        ("Cookie", "secret"),
        ("X-Custom", "dropped"),
    ]);
    assert_eq!(call.send().await.status(), 202);
    let got = world.sink.wait_for_one(PATH).await;
    assert_eq!(got.headers_named("x-request-id"), ["request-1"]);
    assert_eq!(got.headers_named("knative-something"), ["kept"]);
    assert_eq!(got.headers_named("x-b3-traceid"), ["463ac35c9f6413ad48485a3953bb6124"]);
    assert_eq!(got.headers_named("x-b3-sampled"), ["1"]);
    for name in ["authorization", "cookie", "x-custom"] {
        assert_eq!(got.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn the_trace_goes_on_under_the_same_id() {
    let world = world().await;
    let call = post(&world.bridge.url("/default/foo"))
        .event(&event("1"))
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(call.send().await.status(), 202);
    let got = world.sink.wait_for_one(PATH).await;
    let traceparent = got.header("traceparent").unwrap();
    let fields: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((fields.len(), fields[0], fields[1]), (4, "00", "0af7651916cd43dd8448eb211c80319c"), "{traceparent}");
    assert_eq!(fields[2].len(), 16);
}

#[tokio::test]
async fn a_broken_trace_header_does_no_harm() {
    let world = world().await;
    for (id, broken) in ["garbage", "00-0-0-0", "ff-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01", "00--", "-"]
        .into_iter()
        .enumerate()
    {
        let call = post(&world.bridge.url("/default/foo")).event(&event(&id.to_string())).header("traceparent", broken);
        assert_eq!(call.send().await.status(), 202, "{broken}");
        world.sink.wait_for_id(PATH, &id.to_string()).await;
    }
}

#[tokio::test]
async fn header_values_are_decoded_once_and_encoded_as_the_binding_says() {
    let world = world().await;
    // What is sent, and what arrives.
    let cases = [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("plain", "plain"),
        ("%41%62c", "Abc"),
        ("a b", "a%20b"),
        ("\"a \\\" b\"", "a%20%22%20b"),
        ("%2541", "%2541"),
        ("100%", "100%25"),
        ("%e2%82%ac", "%E2%82%AC"),
        ("~!#$&'()*+,/:;=?@[]{}|<>^`", "~!#$&'()*+,/:;=?@[]{}|<>^`"),
    ];
    for (id, (sent, arrives)) in cases.into_iter().enumerate() {
        world.bridge.send("foo", &event(&id.to_string()).attribute("subject", sent)).await;
        let got = world.sink.wait_for_id(PATH, &id.to_string()).await;
        assert_eq!(got.header("ce-subject"), Some(arrives), "{sent}");
    }
}

#[tokio::test]
async fn a_source_with_an_escape_keeps_it() {
    let world = world().await;
    world.bridge.send("foo", &event("1").attribute("source", "/a%2520b")).await;
    assert_eq!(world.sink.wait_for_one(PATH).await.header("ce-source"), Some("/a%2520b"));
}

#[tokio::test]
async fn the_time_is_passed_on_as_it_was_written() {
    let world = world().await;
    for (id, time) in ["2018-04-05T17:31:00Z", "2018-04-05T17:31:00.123456789+02:00", "2018-04-05T17:31:00.000Z"]
        .into_iter()
        .enumerate()
    {
        world.bridge.send("foo", &event(&id.to_string()).attribute("time", time)).await;
        assert_eq!(world.sink.wait_for_id(PATH, &id.to_string()).await.header("ce-time"), Some(time));
    }
}

#[tokio::test]
async fn every_retry_sends_the_same_request() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 3 { 503 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffDelay": "PT0.02S"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1").attribute("ext", "a%20b").data("text/plain", "body")).await;
    let requests = sink.wait_for("/", 3).await;
    for request in &requests {
        assert_eq!(request.attributes(), requests[0].attributes());
        assert_eq!(request.text(), "body");
        assert_eq!(request.header("content-type"), Some("text/plain"));
    }
}

#[tokio::test]
async fn an_event_whose_data_is_an_event_arrives_as_the_one_that_was_sent() {
    let world = world().await;
    let outer = json!({
        "specversion": "1.0", "id": "outer", "source": "/s", "type": "t", "datacontenttype": "application/cloudevents+json",
        "data": {"specversion": "1.0", "id": "inner", "source": "/s", "type": "t"},
    });
    let request = post(&world.bridge.url("/default/foo")).header("content-type", "application/cloudevents+json");
    assert_eq!(request.body(outer.to_string()).send().await.status(), 202);
    let got = world.sink.wait_for_one(PATH).await;
    assert_eq!(got.header("content-type"), Some("application/cloudevents+json"));
    assert_eq!(got.json(), outer);
    assert_eq!(got.header("ce-id"), None);
}

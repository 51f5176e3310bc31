//! Binary, structured and batched mode, 1.0 and 0.3: whatever way an event comes in, the sink gets the same event.

use serde_json::{Value, json};

use crate::support::http::{Message, post};
use crate::support::resources::{channel, subscribe};
use crate::support::{Bridge, Nats, Request, Sink, event};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

struct World {
    bridge: Bridge,
    sink: Sink,
    nats: Nats,
}

async fn world() -> World {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    World { bridge, sink, nats }
}

impl World {
    async fn post_json(&self, content_type: &str, body: impl Into<Vec<u8>>) -> Message {
        post(&self.bridge.url("/default/foo")).header("content-type", content_type).body(body).send().await
    }

    /// Posts one structured event and gives what the sink got.
    async fn structured(&self, event: Value) -> Request {
        self.structured_text(&event.to_string(), event["id"].as_str().unwrap()).await
    }

    async fn structured_text(&self, event: &str, id: &str) -> Request {
        let answer = self.post_json(STRUCTURED, event).await;
        assert_eq!(answer.status(), 202, "{event}: {}", answer.text());
        self.sink.wait_for_id("/", id).await
    }
}

#[tokio::test]
async fn a_binary_event_reaches_the_sink_with_its_attributes_and_bytes() {
    let world = world().await;
    let bytes: Vec<u8> = (0..=255).collect();
    let sent = event("1")
        .attribute("subject", "s")
        .attribute("time", "2020-03-21T12:34:56.78Z")
        .attribute("dataschema", "http://example.com/schema")
        .attribute("comexampleext", "v")
        .data("application/octet-stream", bytes.clone());
    world.bridge.send("foo", &sent).await;
    let got = world.sink.wait_for_one("/").await;
    let expected = [
        ("comexampleext", "v"),
        ("dataschema", "http://example.com/schema"),
        ("id", "1"),
        ("source", "/test"),
        ("specversion", "1.0"),
        ("subject", "s"),
        ("time", "2020-03-21T12:34:56.78Z"),
        ("type", "test"),
    ];
    assert_eq!(got.attributes(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.body, bytes);
}

#[tokio::test]
async fn a_binary_event_without_data_and_content_type_gets_neither() {
    let world = world().await;
    world.bridge.send("foo", &event("1")).await;
    let got = world.sink.wait_for_one("/").await;
    assert_eq!((got.header("content-type"), got.body.len()), (None, 0));
}

#[tokio::test]
async fn a_structured_event_reaches_the_sink_in_binary_mode() {
    let world = world().await;
    let got = world
        .structured(json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": null,
            "exbool": true, "exint": 42, "exstring": "x",
            "datacontenttype": "text/plain", "data": "raw ☃",
        }))
        .await;
    let expected = [
        ("exbool", "true"),
        ("exint", "42"),
        ("exstring", "x"),
        ("id", "1"),
        ("source", "/s"),
        ("specversion", "1.0"),
        ("type", "t"),
    ];
    assert_eq!(got.attributes(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((got.header("content-type"), got.text()), (Some("text/plain"), "raw ☃".to_owned()));
}

#[tokio::test]
async fn structured_data_becomes_the_bytes_that_the_json_format_means() {
    let world = world().await;
    // What stands in the event beside the required attributes, the content type and the body at the sink.
    let cases: &[(&str, Option<&str>, &[u8])] = &[
        (r#""datacontenttype":"application/json","data":{"a":1}"#, Some("application/json"), br#"{"a":1}"#),
        (r#""data":{"a":1}"#, Some("application/json"), br#"{"a":1}"#),
        (r#""datacontenttype":"text/json","data":"hello""#, Some("text/json"), br#""hello""#),
        (
            r#""datacontenttype":"application/vnd.x+json; charset=utf-8","data":"hello""#,
            Some("application/vnd.x+json; charset=utf-8"),
            br#""hello""#,
        ),
        (r#""datacontenttype":"text/plain","data":"hello""#, Some("text/plain"), b"hello"),
        (
            r#""datacontenttype":"application/octet-stream","data_base64":"AAEC/w==""#,
            Some("application/octet-stream"),
            &[0, 1, 2, 255],
        ),
        (r#""data_base64":"AAEC/w==""#, None, &[0, 1, 2, 255]),
        (r#""datacontenttype":"application/json","data_base64":"IHsgfSA=""#, Some("application/json"), b" { } "),
        (r#""data":106.53"#, Some("application/json"), b"106.53"),
        (r#""data":"106.53""#, Some("application/json"), br#""106.53""#),
        (r#""data":false"#, Some("application/json"), b"false"),
    ];
    for (number, (member, content_type, body)) in cases.iter().enumerate() {
        let id = format!("case-{number}");
        let text = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t",{member}}}"#);
        let got = world.structured_text(&text, &id).await;
        assert_eq!(got.header("content-type"), *content_type, "{member}");
        assert_eq!(got.body, *body, "{member}");
    }
}

#[tokio::test]
async fn json_data_is_never_written_anew() {
    let world = world().await;
    let data = r#"{"z":1.10, "a" :12345678901234567890123,"m":1e2,"dup":1,"dup":2,"s":"\u00e9\/"}"#;
    let text = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}"#);
    assert_eq!(world.structured_text(&text, "1").await.text(), data);
}

#[tokio::test]
async fn every_event_of_a_batch_reaches_the_sink() {
    let world = world().await;
    let batch: Vec<Value> = (0..20)
        .map(|n| json!({"specversion": "1.0", "id": n.to_string(), "source": "/s", "type": "t", "data": n}))
        .collect();
    let answer = world.post_json(BATCH, json!(batch).to_string()).await;
    assert_eq!((answer.status(), answer.body.len()), (202, 0));
    assert_eq!(world.nats.count("KN_DEFAULT__FOO").await, 20);
    let mut ids: Vec<usize> =
        world.sink.wait_for("/", 20).await.iter().map(|request| request.id().parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_empty_batch_is_valid_and_stores_nothing() {
    let world = world().await;
    assert_eq!(world.post_json(BATCH, "[]").await.status(), 202);
    assert_eq!(world.nats.count("KN_DEFAULT__FOO").await, 0);
}

#[tokio::test]
async fn the_content_type_decides_the_mode_in_any_case_and_with_parameters() {
    let world = world().await;
    for (id, content_type) in
        [("a", "Application/CloudEvents+JSON"), ("b", "application/cloudevents+json; charset=UTF-8")]
    {
        let body = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"}).to_string();
        assert_eq!(world.post_json(content_type, body).await.status(), 202, "{content_type}");
        world.sink.wait_for_id("/", id).await;
    }
    let body = json!([{"specversion": "1.0", "id": "c", "source": "/s", "type": "t"}]).to_string();
    assert_eq!(world.post_json("APPLICATION/cloudevents-BATCH+json", body).await.status(), 202);
    world.sink.wait_for_id("/", "c").await;
}

#[tokio::test]
async fn in_structured_mode_the_payload_wins_over_ce_headers() {
    let world = world().await;
    let call = post(&world.bridge.url("/default/foo")).headers(&[
        ("content-type", STRUCTURED),
        ("ce-specversion", "1.0"),
        ("ce-id", "header"),
        ("ce-type", "header"),
        ("ce-source", "/header"),
    ]);
    let body = json!({"specversion": "1.0", "id": "payload", "source": "/s", "type": "t"}).to_string();
    assert_eq!(call.body(body).send().await.status(), 202);
    let got = world.sink.wait_for_one("/").await;
    assert_eq!((got.id(), got.header("ce-type"), got.header("ce-source")), ("payload", Some("t"), Some("/s")));
}

#[tokio::test]
async fn an_event_of_version_0_3_leaves_as_0_3() {
    let world = world().await;
    let binary = event("b")
        .attribute("specversion", "0.3")
        .attribute("schemaurl", "http://example.com/schema")
        .data("text/plain", "data");
    world.bridge.send("foo", &binary).await;
    let got = world.sink.wait_for_id("/", "b").await;
    assert_eq!(got.header("ce-specversion"), Some("0.3"));
    assert_eq!(got.header("ce-schemaurl"), Some("http://example.com/schema"));
    assert_eq!(got.header("ce-dataschema"), None);
    assert_eq!(got.text(), "data");

    let got = world
        .structured(json!({
            "specversion": "0.3", "id": "s", "source": "/s", "type": "t", "schemaurl": "http://example.com/schema",
            "datacontenttype": "application/octet-stream", "datacontentencoding": "base64", "data": "AAEC",
        }))
        .await;
    assert_eq!(got.header("ce-specversion"), Some("0.3"));
    assert_eq!(got.header("ce-schemaurl"), Some("http://example.com/schema"));
    assert_eq!(got.body, [0, 1, 2]);
}

#[tokio::test]
async fn header_names_of_attributes_may_have_any_case() {
    let world = world().await;
    let call = post(&world.bridge.url("/default/foo")).headers(&[
        ("CE-SpecVersion", "1.0"),
        ("Ce-Id", "1"),
        ("cE-Source", "/s"),
        ("CE-TYPE", "t"),
        ("Ce-ComExample", "Value"),
    ]);
    assert_eq!(call.send().await.status(), 202);
    assert_eq!(world.sink.wait_for_one("/").await.header("ce-comexample"), Some("Value"));
}

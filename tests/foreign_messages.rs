//! What others write into a channel's subject: every form that the contract lists is delivered, poison is set aside once, and
//! the next message flows.

use base64::Engine as _;
use serde_json::json;

use crate::support::nats::text;
use crate::support::resources::{channel, subscription};
use crate::support::{Bridge, Nats, Request, Sink, event};

const SUBJECT: &str = "foo.default";
const STREAM: &str = "KN_DEFAULT__FOO";

struct World {
    nats: Nats,
    sink: Sink,
    bridge: Bridge,
}

/// One subscription with a dead letter sink, to which poison must never go.
async fn world() -> World {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {"retry": 1, "backoffDelay": "PT0.05S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    World { nats, sink, bridge }
}

impl World {
    async fn delivered(&self, headers: &[(&str, &str)], payload: impl Into<Vec<u8>>) -> Request {
        let before = self.sink.requests("/").len();
        self.nats.publish(SUBJECT, headers, payload).await;
        self.sink.wait_for("/", before + 1).await.remove(before)
    }
}

#[tokio::test]
async fn what_eventing_natss_writes_is_delivered() {
    let world = world().await;
    let event = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","time":"2020-03-21T12:34:56.78Z","data":{"rate": 1.10},"traceparent":"","tracestate":""}"#;
    let got = world.delivered(&[("Nats-Msg-Id", "1")], event).await;
    assert_eq!((got.id(), got.header("ce-type"), got.header("ce-source")), ("1", Some("t"), Some("/s")));
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert_eq!(got.text(), r#"{"rate": 1.10}"#);
}

#[tokio::test]
async fn what_the_tutorial_writes_has_no_id_and_gets_one_from_its_place() {
    let world = world().await;
    let event = r#"{"specversion": "1.0", "type" : "dev.knative.messaging.natsschannel", "source" : "/apis/messaging.knative.dev/v1alpha1/namespaces/default/natsschannels/foo", "data" : "\"106.53000000\""}"#;
    let got = world.delivered(&[], event).await;
    assert_eq!(got.header("ce-type"), Some("dev.knative.messaging.natsschannel"));
    assert!(!got.id().is_empty());
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert_eq!(got.text(), r#""\"106.53000000\"""#);
    assert_ne!(world.delivered(&[], event).await.id(), got.id(), "another message is another event");
}

#[tokio::test]
async fn structured_mode_by_its_content_type_is_delivered() {
    let world = world().await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "x"}).to_string();
    for (number, (name, value)) in [
        ("Content-Type", "application/cloudevents+json"),
        ("content-type", "Application/CloudEvents+JSON; charset=utf-8"),
    ]
    .into_iter()
    .enumerate()
    {
        let event = event.replace("\"1\"", &format!("\"{number}\""));
        let got = world.delivered(&[(name, value)], event).await;
        assert_eq!((got.id(), got.text()), (number.to_string().as_str(), "\"x\"".to_owned()), "{name}: {value}");
    }
}

#[tokio::test]
async fn binary_mode_is_read_with_header_names_in_any_case() {
    let world = world().await;
    let headers = [
        ("CE-SpecVersion", "1.0"),
        ("Ce-Id", "1"),
        ("ce-source", "/s"),
        ("CE-TYPE", "t"),
        ("Ce-Subject", "a%20b"),
        ("CE-DataContentType", "text/plain"),
    ];
    let got = world.delivered(&headers, "data").await;
    assert_eq!((got.id(), got.header("ce-subject")), ("1", Some("a%20b")));
    assert_eq!((got.header("content-type"), got.text()), (Some("text/plain"), "data".to_owned()));
}

#[tokio::test]
async fn anything_else_is_delivered_as_a_message_event() {
    let world = world().await;
    let payloads: [&[u8]; 5] = [b"test", b"\x00\xff binary", b"[1, 2]", br#"{"rate": 106.53}"#, b""];
    let mut ids = Vec::new();
    for payload in payloads {
        let got = world.delivered(&[], payload).await;
        assert_eq!(got.header("ce-type"), Some("dev.knats.message"), "{payload:?}");
        assert_eq!(got.header("ce-specversion"), Some("1.0"));
        assert!(!got.header("ce-source").unwrap().is_empty());
        assert_eq!(got.body, payload);
        ids.push(got.id().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), payloads.len(), "each has an id of its own");
    assert!(!ids.iter().any(String::is_empty));
}

#[tokio::test]
async fn a_poison_message_is_set_aside_once_and_the_next_one_flows() {
    let world = world().await;
    world.nats.publish(SUBJECT, &[("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s")], "no id").await;
    let next = world.delivered(&[], "next").await;
    assert_eq!(next.text(), "next");
    let kept = world.nats.dead_letters(1).await;
    world.nats.settled(STREAM).await;
    assert_eq!(world.nats.messages("KN_DEADLETTERS").await.len(), 1);
    assert_eq!(text(&kept[0].payload), "no id");
    let reason = format!("{:?}", kept[0].headers);
    assert!(reason.contains("id"), "{reason}");
    assert_eq!(world.sink.requests("/dls").len(), 0, "it is no CloudEvent");
    assert_eq!(world.sink.requests("/").len(), 1);
}

#[tokio::test]
async fn every_kind_of_false_claim_is_poison_and_keeps_its_raw_bytes() {
    let world = world().await;
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("ce-specversion", "9.9"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")], "version"),
        (&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-time", "x")], "time"),
        (&[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-b-d", "x")], "name"),
        (&[("Content-Type", "application/cloudevents+json")], "{ not json"),
        (&[("Content-Type", "application/cloudevents+json")], r#"{"specversion":"1.0","source":"/s","type":"t"}"#),
        (&[], r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#),
        (&[], r#"{"specversion":"1.0","id":"1","type":"t","data":{"rate":1}}"#),
    ];
    for (headers, payload) in cases {
        world.nats.publish(SUBJECT, headers, *payload).await;
    }
    world.delivered(&[], "next").await;
    let kept = world.nats.dead_letters(cases.len()).await;
    world.nats.settled(STREAM).await;
    let kept_payloads: Vec<String> = kept.iter().map(|message| text(&message.payload)).collect();
    for (_, payload) in cases {
        assert_eq!(kept_payloads.iter().filter(|kept| kept == payload).count(), 1, "{payload} in {kept_payloads:?}");
    }
    assert_eq!(kept.len(), cases.len());
    assert_eq!((world.sink.requests("/").len(), world.sink.requests("/dls").len()), (1, 0));
}

#[tokio::test]
async fn a_message_with_a_header_that_is_no_utf_8_is_set_aside_and_the_next_one_flows() {
    let world = world().await;
    let headers: &[(&[u8], &[u8])] = &[
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"poison"),
        (b"ce-source", b"/s"),
        (b"ce-type", b"t"),
        (b"ce-subject", b"\xff\xfe"),
    ];
    set_aside_between_two_good_ones(&world, headers).await;
}

#[tokio::test]
async fn a_message_with_a_space_in_a_header_name_is_set_aside_and_the_next_one_flows() {
    let world = world().await;
    let headers: &[(&[u8], &[u8])] = &[
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"poison"),
        (b"ce-source", b"/s"),
        (b"ce-type", b"t"),
        (b"bad name", b"x"),
    ];
    set_aside_between_two_good_ones(&world, headers).await;
}

/// The bridge's NATS client drops its connection over such a message; nothing else may come to harm by that.
async fn set_aside_between_two_good_ones(world: &World, headers: &[(&[u8], &[u8])]) {
    world.bridge.send("foo", &event("before")).await;
    world.nats.publish_raw(SUBJECT, headers, b"raw bytes").await;
    world.bridge.send("foo", &event("after")).await;
    world.sink.wait_for_id("/", "before").await;
    world.sink.wait_for_id("/", "after").await;
    // It may need `STREAM.MSG.GET` to be seen at all; its bytes may be kept as they are or in base64.
    let kept = world.nats.dead_letters(1).await;
    let coded = base64::engine::general_purpose::STANDARD.encode(b"raw bytes");
    let whole = format!("{} {:?}", text(&kept[0].payload), kept[0].headers);
    assert!(whole.contains("raw bytes") || whole.contains(&coded), "{whole}");
    world.nats.settled(STREAM).await;
    assert_eq!(world.nats.messages("KN_DEADLETTERS").await.len(), 1);
    assert_eq!(world.sink.requests("/dls").len(), 0);
    assert!(!world.sink.requests("/").iter().any(|request| request.id() == "poison"));
}

#[tokio::test]
async fn the_ingress_goes_on_while_a_poison_message_is_dealt_with() {
    let world = world().await;
    world.nats.publish_raw(SUBJECT, &[(b"ce-specversion", b"1.0"), (b"ce-id", b"\xff")], b"x").await;
    for id in 0..30 {
        world.bridge.send("foo", &event(&id.to_string())).await;
    }
    for id in 0..30 {
        world.sink.wait_for_id("/", &id.to_string()).await;
    }
    assert_eq!(world.nats.dead_letters(1).await.len(), 1);
}

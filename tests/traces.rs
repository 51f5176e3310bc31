//! Spans from the sender to the sink, linked by the trace headers; and nothing of it where nobody asks for it.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::support::bridge::Setup;
use crate::support::collector::{Collector, attributes, hex, traceparent};
use crate::support::metrics::scrape;
use crate::support::resources::{broker, channel, channel_ref, subscription, trigger};
use crate::support::{Answer, Bridge, Event, Nats, Sink, event, eventually, free_port, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

fn sent(id: &str, flags: &str) -> Event {
    event(id).header("traceparent", &format!("00-{TRACE}-{SENDER}-{flags}")).header("tracestate", "vendor=1")
}

fn setup(nats: &Nats, documents: &[Value], collector: &Collector) -> Setup {
    collector.for_bridge(Bridge::of(nats, documents), 60_000)
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    attributes(&span.attributes).remove(name)
}

/// The one span that has this purpose and attempt.
fn find(spans: &[Span], purpose: &str, attempt: &str) -> Span {
    let is = |span: &&Span| {
        attribute(span, "knats.purpose").as_deref() == Some(purpose)
            && attribute(span, "knats.attempt").as_deref() == Some(attempt)
    };
    let found: Vec<&Span> = spans.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{purpose} {attempt} in {spans:#?}");
    found[0].clone()
}

fn received(spans: &[Span]) -> Span {
    spans.iter().find(|span| span.kind == SpanKind::Server as i32).unwrap().clone()
}

#[tokio::test]
async fn one_trace_leads_from_the_sender_to_every_sink() {
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let sink = Sink::answering(|request| match (request.target(), request.attempt) {
        ("/", 1) => Answer::status(503).body("not yet"),
        ("/", _) => Answer::event("answer"),
        ("/reply", _) => Answer::status(410),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 1, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls?token=s")}},
    });
    let documents = [channel("foo"), subscription("sub", "foo", spec)];
    let bridge = setup(&nats, &documents, &collector).start().await;
    bridge.send("foo", &sent("1", "01")).await;
    let spans = collector.wait_for_spans(5).await;

    let ingress = received(&spans);
    assert_eq!((hex(&ingress.trace_id).as_str(), hex(&ingress.parent_span_id).as_str()), (TRACE, SENDER));
    assert_eq!(ingress.name, "channel:foo.default receive");
    let told = attributes(&ingress.attributes);
    for (name, value) in [
        ("messaging.system", "knative"),
        ("messaging.operation", "receive"),
        ("messaging.destination", "channel:foo.default"),
        ("messaging.message_id", "1"),
        ("cloudevents.event_id", "1"),
        ("cloudevents.event_source", "/test"),
        ("cloudevents.event_type", "test"),
        ("http.response.status_code", "202"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
    }

    let requests = [sink.requests("/"), sink.requests("/reply"), sink.requests("/dls?token=s")].concat();
    let exchanges =
        [("subscriber", "1", "503"), ("subscriber", "2", "200"), ("reply", "1", "410"), ("dead_letter", "1", "200")];
    assert_eq!(requests.len(), exchanges.len());
    for (request, (purpose, attempt, status)) in requests.iter().zip(exchanges) {
        let span = find(&spans, purpose, attempt);
        assert_eq!((&span.trace_id, &span.parent_span_id), (&ingress.trace_id, &ingress.span_id), "{purpose}");
        assert_eq!((span.kind, span.name.as_str()), (SpanKind::Client as i32, "subscription:sub.default send"));
        assert_eq!(attribute(&span, "http.response.status_code").as_deref(), Some(status));
        assert_eq!(attribute(&span, "url.full"), Some(sink.url(request.target().split('?').next().unwrap())));
        assert_eq!(span.status.as_ref().is_some_and(|known| known.code == 2), status > "299", "{purpose}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert_eq!(request.header("traceparent"), Some(traceparent(&span).as_str()), "{purpose} {attempt}");
        assert_eq!(request.header("tracestate"), Some("vendor=1"), "{purpose} {attempt}");
    }
    assert_eq!(find(&spans, "subscriber", "1").status.unwrap().message, "not yet");
    let resource = collector.requests("/v1/traces")[0].clone();
    assert_eq!(resource.header("content-type"), Some("application/x-protobuf"));
}

#[tokio::test]
async fn a_trace_goes_on_through_the_channels_that_an_event_passes() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let documents = [
        channel("foo"),
        broker("shop"),
        subscription("on", "foo", json!({"subscriber": {"ref": broker_ref("shop")}})),
        trigger("end", "shop", json!({"subscriber": {"uri": sink.url("/")}})),
    ];
    let bridge = setup(&nats, &documents, &collector).start().await;
    bridge.send("foo", &sent("1", "01")).await;
    let end = sink.wait_for_one("/").await;
    let spans = collector.wait_for_spans(3).await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}")).clone();
    let (on, last) = (named("subscription:on.default send"), named("trigger:end.default send"));
    assert_eq!(on.parent_span_id, received(&spans).span_id);
    assert_eq!((&last.parent_span_id, hex(&last.trace_id).as_str()), (&on.span_id, TRACE));
    assert_eq!(end.header("traceparent"), Some(traceparent(&last).as_str()));
}

fn broker_ref(name: &str) -> Value {
    let mut reference = channel_ref(name);
    reference["apiVersion"] = json!("eventing.knative.dev/v1");
    reference["kind"] = json!("Broker");
    reference
}

#[tokio::test]
async fn an_event_without_trace_headers_begins_a_trace_that_is_linked_to_its_own() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let documents = [channel("foo"), subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}))];
    let bridge = setup(&nats, &documents, &collector).start().await;
    let own = format!("00-{TRACE}-{SENDER}-00");
    let broken = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    bridge.send("foo", &event("1").attribute("traceparent", &own).header("traceparent", broken)).await;
    let delivered = sink.wait_for_one("/").await;
    assert_eq!(delivered.header("ce-traceparent"), Some(own.as_str()), "the event's own attributes stay");
    let spans = collector.wait_for_spans(2).await;
    let ingress = received(&spans);
    assert_eq!(ingress.parent_span_id, Vec::<u8>::new());
    assert_ne!(hex(&ingress.trace_id), TRACE);
    let links: Vec<_> = ingress.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(links, [(TRACE.to_owned(), SENDER.to_owned())]);
    let attempt = find(&spans, "subscriber", "1");
    assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&ingress.trace_id, &ingress.span_id));
    assert_eq!(delivered.header("traceparent"), Some(traceparent(&attempt).as_str()));
}

#[tokio::test]
async fn what_its_sender_does_not_record_is_not_recorded_and_passes_through() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let documents = [channel("foo"), subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}))];
    let bridge = setup(&nats, &documents, &collector).start().await;
    bridge.send("foo", &sent("unsampled", "00")).await;
    let delivered = sink.wait_for_id("/", "unsampled").await;
    assert_eq!(delivered.header("traceparent"), Some(format!("00-{TRACE}-{SENDER}-00").as_str()));
    assert_eq!(delivered.header("tracestate"), Some("vendor=1"));
    bridge.send("foo", &sent("sampled", "01")).await;
    let spans = collector.wait_for_spans(2).await;
    let ids: Vec<_> = spans.iter().filter_map(|span| attribute(span, "cloudevents.event_id")).collect();
    assert_eq!(ids, ["sampled", "sampled"]);
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_attempt_in_its_own_trace() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let mut subscription = subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}));
    subscription["metadata"]["annotations"] = json!({"knats.dev/batch": "2/5s"});
    let bridge = setup(&nats, &[channel("foo"), subscription], &collector).start().await;
    bridge.send("foo", &sent("1", "01")).await;
    bridge.send("foo", &event("2")).await;
    let spans = collector.wait_for_spans(4).await;
    assert_eq!(sink.wait_for_one("/").await.header("traceparent"), None, "it would be that of one of them");
    for id in ["1", "2"] {
        let of: Vec<&Span> =
            spans.iter().filter(|span| attribute(span, "cloudevents.event_id").as_deref() == Some(id)).collect();
        let (ingress, attempt) = if of[0].kind == SpanKind::Server as i32 { (of[0], of[1]) } else { (of[1], of[0]) };
        assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&ingress.trace_id, &ingress.span_id), "{id}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_spans_and_one_line() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    let documents = [channel("foo"), subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}))];
    let mut bridge = Bridge::of(&nats, &documents)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{}", free_port()))
        .variable("OTEL_BSP_SCHEDULE_DELAY", "20")
        .variable("OTEL_METRICS_EXPORTER", "none")
        .start()
        .await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 20).await;
    until("all spans are known to be lost", || async {
        scrape(&bridge).await.value("span_drops_total", &[]) == Some(40.0)
    })
    .await;
    let told = || bridge.stderr().lines().filter(|line| line.contains("collector")).count();
    assert_eq!(told(), 1, "{}", bridge.stderr());
    bridge.term();
    assert!(bridge.wait().await.success());
}

#[tokio::test]
async fn what_is_left_is_handed_over_at_the_end() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let documents = [channel("foo"), subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}))];
    let setup = setup(&nats, &documents, &collector).variable("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let mut bridge = setup.start().await;
    bridge.send("foo", &sent("1", "01")).await;
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(collector.spans(), []);
    bridge.term();
    assert!(bridge.wait().await.success());
    let spans = eventually("the spans", || async { Some(collector.spans()).filter(|spans| spans.len() == 2) }).await;
    assert_eq!(find(&spans, "subscriber", "1").parent_span_id, received(&spans).span_id);
}

#[tokio::test]
async fn a_protocol_that_is_not_supported_is_told_at_the_start() {
    let ended = Bridge::at("nats://127.0.0.1:1")
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .ended()
        .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("OTEL_EXPORTER_OTLP_PROTOCOL='grpc': expected http/protobuf"), "{ended:?}");
}

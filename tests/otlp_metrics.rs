//! The metrics of `/metrics`, handed to a collector.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use serde_json::json;

use crate::support::collector::{Collector, attributes};
use crate::support::resources::{channel, subscription};
use crate::support::{Bridge, Nats, Sink, event, eventually};

/// The whole number that a counter or a gauge has for these labels.
fn value(metric: &Metric, labels: &[(&str, &str)]) -> Option<i64> {
    let labels: BTreeMap<&str, String> = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{}", metric.name);
            &sum.data_points
        }
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let point = points.iter().find(|point| attributes(&point.attributes) == labels)?;
    assert!(0 < point.start_time_unix_nano && point.start_time_unix_nano < point.time_unix_nano, "{}", metric.name);
    match point.value? {
        Value::AsInt(value) => Some(value),
        Value::AsDouble(value) => panic!("{value}"),
    }
}

#[tokio::test]
async fn a_collector_gets_what_a_scraper_gets() {
    let (nats, collector, sink) = (Nats::start().await, Collector::start().await, Sink::start().await);
    let documents = [channel("foo"), subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}))];
    let bridge = collector
        .for_bridge(Bridge::of(&nats, &documents), 100)
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
        .variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        .variable("OTEL_SERVICE_NAME", "rates")
        .start()
        .await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id)).await;
    }
    let sub = ("subscription", "default/sub");
    let metrics = eventually("three deliveries", || async {
        let metrics = collector.metrics();
        let delivered = value(metrics.get("dispatch_attempts")?, &[sub, ("code_class", "2xx"), ("final", "true")]);
        Some(metrics).filter(|_| delivered == Some(3))
    })
    .await;
    let accepted = [("channel", "default/foo"), ("mode", "binary"), ("result", "accepted")];
    assert_eq!(value(&metrics["ingress_events"], &accepted), Some(3));
    assert_eq!(value(&metrics["concurrency_limit"], &[sub]), Some(256));
    assert_eq!(value(&metrics["nats_connected"], &[("connection", "events")]), Some(1));
    assert_eq!(metrics["process_resident_memory_bytes"].unit, "By");
    for (name, bounds) in [("dispatch_seconds", 19), ("kn.eventing.dispatch.duration", 14)] {
        let Some(Data::Histogram(histogram)) = &metrics[name].data else { panic!("{name}") };
        let point = &histogram.data_points[0];
        assert_eq!(
            (metrics[name].unit.as_str(), point.count, attributes(&point.attributes)["subscription"].as_str()),
            ("s", 3, sub.1)
        );
        assert_eq!((point.explicit_bounds.len(), point.bucket_counts.len()), (bounds, bounds + 1), "{name}");
        assert!(point.sum.unwrap() > 0.0 && histogram.aggregation_temporality == 2, "{name}");
    }
    let resource = collector.exports()[0].resource_metrics[0].resource.clone().unwrap();
    let told = attributes(&resource.attributes);
    assert_eq!((told["service.name"].as_str(), told["deployment.environment"].as_str()), ("rates", "test"));
    let request = collector.requests("/v1/metrics")[0].clone();
    assert_eq!(request.header("authorization"), Some("Bearer x"));
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
}

#[tokio::test]
async fn the_last_values_are_handed_over_at_the_end() {
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let mut bridge = collector.for_bridge(Bridge::of(&nats, &[channel("foo")]), 3_600_000).start().await;
    bridge.send("foo", &event("1")).await;
    assert_eq!(collector.exports().len(), 0);
    bridge.term();
    assert!(bridge.wait().await.success());
    let accepted = [("channel", "default/foo"), ("mode", "binary"), ("result", "accepted")];
    assert_eq!(value(&collector.metrics()["ingress_events"], &accepted), Some(1));
}

//! A collector that takes OTLP over HTTP and reads what it gets.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::bridge::Setup;
use super::{Request, Sink, eventually};

pub struct Collector {
    sink: Sink,
}

impl Collector {
    pub async fn start() -> Self {
        Self { sink: Sink::start().await }
    }

    pub fn url(&self) -> String {
        self.sink.url("")
    }

    /// Has a bridge hand over to this collector, spans soon and metrics every `interval_ms`.
    pub fn for_bridge(&self, setup: Setup, interval_ms: u32) -> Setup {
        setup
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url())
            .variable("OTEL_BSP_SCHEDULE_DELAY", "50")
            .variable("OTEL_METRIC_EXPORT_INTERVAL", &interval_ms.to_string())
    }

    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.sink.requests(path)
    }

    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests("/v1/traces").into_iter();
        let requests = requests.map(|request| ExportTraceServiceRequest::decode(&request.body[..]).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Waits for so many spans.
    pub async fn wait_for_spans(&self, count: usize) -> Vec<Span> {
        let enough = || async { Some(self.spans()).filter(|spans| spans.len() >= count) };
        eventually(&format!("{count} spans"), enough).await
    }

    /// The metrics of each export, in the order in which they came.
    pub fn exports(&self) -> Vec<ExportMetricsServiceRequest> {
        let requests = self.requests("/v1/metrics").into_iter();
        requests.map(|request| ExportMetricsServiceRequest::decode(&request.body[..]).unwrap()).collect()
    }

    /// The metrics of the newest export, by name.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let newest = self.exports().pop().into_iter().flat_map(|export| export.resource_metrics);
        let metrics = newest.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics);
        metrics.map(|metric| (metric.name.clone(), metric)).collect()
    }
}

/// Attributes as text, by name.
pub fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

/// The `traceparent` of a span that is recorded.
pub fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

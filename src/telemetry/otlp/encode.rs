//! Families and spans as the messages of OTLP.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use crate::telemetry::family::{Family, Kind, Labels, Observed, Value};
use crate::telemetry::process::start_time_seconds;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
/// Under Knative's own name there, which Prometheus' format cannot write.
const KNATIVE_NAMES: [(&str, &str); 1] = [("kn_eventing_dispatch_duration_seconds", "kn.eventing.dispatch.duration")];

/// An attribute that is text.
pub(in crate::telemetry) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

/// An attribute that is a whole number.
pub(in crate::telemetry) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Any::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Nanoseconds since the Unix epoch.
pub(in crate::telemetry) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = ("knats".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

pub(super) fn spans(spans: Vec<Span>, resource: &Resource) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { scope: scope(), spans, ..ScopeSpans::default() }];
    let resource = Some(resource.clone());
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

pub(super) fn metrics(families: &[Family], resource: &Resource) -> ExportMetricsServiceRequest {
    let times = Times { start: (start_time_seconds().unwrap_or(0.0) * 1e9) as u64, now: nanos(SystemTime::now()) };
    let metrics = families.iter().map(|family| metric(family, times)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource.clone());
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

/// Since when is counted, and until when.
#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

fn metric(family: &Family, times: Times) -> Metric {
    let numbers =
        || family.points.iter().filter_map(|point| number_point(&point.labels, &point.value, times)).collect();
    let data = match family.kind {
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: CUMULATIVE, is_monotonic: true })
        }
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => {
            let points = family.points.iter().filter_map(|point| match &point.value {
                Value::Histogram(observed) => Some(histogram_point(&point.labels, observed, times)),
                Value::Whole(_) | Value::Real(_) => None,
            });
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: CUMULATIVE })
        }
    };
    // Collectors that write Prometheus' format put the ending of a counter back.
    let plain = family.name.strip_suffix("_total").unwrap_or(family.name);
    let name = KNATIVE_NAMES.iter().find(|(ours, _)| *ours == family.name).map_or(plain, |(_, name)| name);
    Metric {
        name: name.to_owned(),
        description: family.help.to_owned(),
        unit: unit(plain).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// In UCUM, by the ending of a name.
fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "1",
    }
}

fn number_point(labels: &Labels, value: &Value, times: Times) -> Option<NumberDataPoint> {
    let value = match value {
        Value::Whole(value) => Number::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
        Value::Real(value) => Number::AsDouble(*value),
        Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram_point(labels: &Labels, observed: &Observed, times: Times) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count: observed.count(),
        sum: Some(observed.sum),
        bucket_counts: observed.counts.clone(),
        explicit_bounds: observed.bounds.clone(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| text(key, value)).collect()
}

//! Spans: one for a request that comes in, one for each request that goes out. They are linked by the W3C trace headers that
//! travel beside an event; the event's own attributes are never touched.
//!
//! Without a collector there is no [`Tracer`], and the headers pass through as they came.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Counter;
use super::otlp::encode::{nanos, number, text};
use super::otlp::{self, Settings};
use crate::event::{Event, PassThrough, is_traceparent};

/// The flag that asks everybody to record (Trace Context, section 3.2.2.4).
const SAMPLED: u8 = 1;
/// The extension in which an event carries the trace in which it came to be (CloudEvents distributed tracing extension).
const EXTENSION: &str = "traceparent";
/// Links of one span; a batch may have more events.
const MAX_LINKS: usize = 32;
/// Characters of an attribute's value; what comes from outside may be of any length.
const MAX_CHARS: usize = 1024;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl Place {
    fn parse(traceparent: &str) -> Option<Self> {
        let text = Some(traceparent).filter(|text| is_traceparent(text))?;
        Some(Self {
            trace_id: u128::from_str_radix(text.get(3..35)?, 16).ok()?,
            span_id: u64::from_str_radix(text.get(36..52)?, 16).ok()?,
            flags: u8::from_str_radix(text.get(53..55)?, 16).ok()?,
        })
    }

    fn of_extension(event: &Event) -> Option<Self> {
        Self::parse(event.attribute(EXTENSION)?)
    }

    fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn header(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    fn link(self) -> Link {
        Link {
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            span_id: self.span_id.to_be_bytes().to_vec(),
            flags: u32::from(self.flags),
            ..Link::default()
        }
    }
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampler {
    /// Whether it is as whoever began the trace has decided.
    of_parent: bool,
    /// Traces are recorded whose id ends in less than this, of 2^63.
    below: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new(true, 1.0)
    }
}

impl Sampler {
    /// `ratio` is from 0 to 1.
    pub(super) fn new(of_parent: bool, ratio: f64) -> Self {
        Self { of_parent, below: (ratio * (1_u64 << 63) as f64) as u64 }
    }

    fn takes(self, trace_id: u128, parent: Option<Place>) -> bool {
        match parent {
            Some(parent) if self.of_parent => parent.is_sampled(),
            _ => (trace_id as u64 >> 1) < self.below,
        }
    }
}

/// Begins spans, and hands those that have ended to whoever exports them. Cheap to clone.
#[derive(Clone)]
pub struct Tracer {
    sampler: Sampler,
    queue: mpsc::Sender<Span>,
    dropped: Arc<Counter>,
}

/// A span that has begun and is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    place: Place,
    parent: Option<u64>,
}

/// What is known of a span when it has ended.
pub struct Facts<'a> {
    /// `receive` or `send`.
    pub operation: &'static str,
    /// Where it goes, as in `subscription:NAME.NAMESPACE`.
    pub destination: String,
    pub events: &'a [&'a Event],
    /// Of the exchange.
    pub status: Option<u16>,
    pub failure: Option<String>,
    pub took: Duration,
    pub more: Vec<(&'static str, Fact)>,
}

/// The value of an attribute.
pub enum Fact {
    Text(String),
    Number(u64),
}

impl Tracer {
    /// A tracer and the work of exporting, when a collector for traces is configured. The work ends with `stop`, or when nobody
    /// holds the tracer any more; what it cannot hand over is counted.
    pub fn new(
        settings: &Settings,
        dropped: Arc<Counter>,
        stop: CancellationToken,
    ) -> Option<(Self, impl Future<Output = ()> + Send + 'static)> {
        let traces = settings.traces.as_ref()?;
        let (queue, spans) = mpsc::channel(traces.queue);
        let exporting = otlp::export_spans(settings.clone(), spans, Arc::clone(&dropped), stop);
        Some((Self { sampler: traces.sampler, queue, dropped }, exporting))
    }

    /// Begins a span in the trace that the headers name, or a trace of its own. Gives the headers that go on: with the span as
    /// parent when it is recorded; else as they are, or with a trace that nobody records.
    pub fn begin(&self, carried: &PassThrough) -> (Option<Begun>, PassThrough) {
        let parent = carried.traceparent().and_then(Place::parse);
        let trace_id = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace_id);
        let is_taken = self.sampler.takes(trace_id, parent);
        if let (false, Some(parent)) = (is_taken, parent) {
            let flags = parent.flags & !SAMPLED;
            let same = flags == parent.flags;
            return (
                None,
                if same { carried.clone() } else { carried.with_traceparent(Place { flags, ..parent }.header()) },
            );
        }
        // All other flags of the parent hold for its children as well.
        let flags = parent.map_or(0, |parent| parent.flags & !SAMPLED) | u8::from(is_taken);
        let place = Place { trace_id, span_id: fastrand::u64(1..), flags };
        let begun = is_taken.then_some(Begun { place, parent: parent.map(|parent| parent.span_id) });
        (begun, carried.with_traceparent(place.header()))
    }

    /// Ends the span of a request that came in.
    pub fn received(&self, begun: Begun, facts: Facts<'_>) {
        self.end(begun, SpanKind::Server, facts);
    }

    /// Ends the span of a request that went out.
    pub fn sent(&self, begun: Begun, facts: Facts<'_>) {
        self.end(begun, SpanKind::Client, facts);
    }

    fn end(&self, begun: Begun, kind: SpanKind, facts: Facts<'_>) {
        let span = span(begun, kind, facts, SystemTime::now());
        // Full: the collector is behind, and events do not wait for it.
        if self.queue.try_send(span).is_err() {
            self.dropped.add(1);
        }
    }
}

fn span(Begun { place, parent }: Begun, kind: SpanKind, facts: Facts<'_>, now: SystemTime) -> Span {
    let attributes = attributes(&facts);
    // The root of a trace says where its events came to be.
    let origins = facts.events.iter().filter(|_| parent.is_none()).filter_map(|event| Place::of_extension(event));
    let links = origins.take(MAX_LINKS).map(Place::link).collect();
    let end = nanos(now);
    let status = facts.failure.map(|reason| Status { message: short(&reason), code: StatusCode::Error as i32 });
    Span {
        trace_id: place.trace_id.to_be_bytes().to_vec(),
        span_id: place.span_id.to_be_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        flags: u32::from(place.flags),
        name: format!("{} {}", facts.destination, facts.operation),
        kind: kind as i32,
        start_time_unix_nano: end.saturating_sub(u64::try_from(facts.took.as_nanos()).unwrap_or(u64::MAX)),
        end_time_unix_nano: end,
        attributes,
        links,
        status,
        ..Span::default()
    }
}

/// Knative's names, and those of OpenTelemetry for CloudEvents.
fn attributes(facts: &Facts<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("messaging.system", "knative"),
        text("messaging.operation", facts.operation),
        text("messaging.destination", &facts.destination),
    ];
    match facts.events {
        [] => {}
        [event] => {
            attributes.extend([
                text("messaging.message_id", &short(event.id())),
                text("cloudevents.event_id", &short(event.id())),
                text("cloudevents.event_source", &short(event.source())),
                text("cloudevents.event_type", &short(event.kind())),
                text("cloudevents.event_spec_version", event.version().as_str()),
            ]);
            attributes
                .extend(event.attribute("subject").map(|subject| text("cloudevents.event_subject", &short(subject))));
        }
        events => attributes.push(number("messaging.batch.message_count", events.len() as u64)),
    }
    attributes.extend(facts.status.map(|status| number("http.response.status_code", u64::from(status))));
    attributes.extend(facts.more.iter().map(|(key, fact)| match fact {
        Fact::Text(value) => text(key, &short(value)),
        Fact::Number(value) => number(key, *value),
    }));
    attributes
}

fn short(value: &str) -> String {
    value.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Builder, SpecVersion};

    const SAMPLED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-1bf7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00";

    fn tracer(sampler: Sampler) -> Tracer {
        Tracer { sampler, queue: mpsc::channel(1).0, dropped: Arc::default() }
    }

    fn headers(pairs: &[(&str, &str)]) -> PassThrough {
        PassThrough::from_pairs(pairs.iter().copied())
    }

    fn event(traceparent: &str) -> Event {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", "1"), ("source", "/s"), ("type", "t"), ("traceparent", traceparent)] {
            builder.attribute(name, value).unwrap();
        }
        builder.build().unwrap()
    }

    fn place(headers: &PassThrough) -> Place {
        Place::parse(headers.traceparent().unwrap()).unwrap()
    }

    fn facts<'a>(events: &'a [&'a Event]) -> Facts<'a> {
        Facts {
            operation: "send",
            destination: "subscription:sub.default".to_owned(),
            events,
            status: Some(503),
            failure: Some("no".to_owned()),
            took: Duration::from_secs(2),
            more: vec![("knats.attempt", Fact::Number(3))],
        }
    }

    #[test]
    fn a_child_continues_its_trace_and_carries_the_state_on() {
        let carried = headers(&[("x-request-id", "r"), ("traceparent", SAMPLED_PARENT), ("tracestate", "a=1")]);
        let (begun, on) = tracer(Sampler::default()).begin(&carried);
        let (begun, parent, child) = (begun.unwrap(), place(&carried), place(&on));
        assert_eq!((child.trace_id, child.flags, begun.parent), (parent.trace_id, 1, Some(parent.span_id)));
        assert_ne!(child.span_id, parent.span_id);
        assert_eq!(begun.place, child);
        assert_eq!((on.tracestate(), on.iter().count()), (Some("a=1"), 3));
    }

    #[test]
    fn a_root_is_linked_to_where_its_event_came_to_be() {
        let tracer = tracer(Sampler::default());
        let (root, on) = tracer.begin(&headers(&[]));
        assert_eq!((place(&on), place(&on).flags), (root.unwrap().place, 1));
        let links = |carried: &PassThrough, traceparent: &str| {
            let event = event(traceparent);
            let (begun, _) = tracer.begin(carried);
            span(begun.unwrap(), SpanKind::Server, facts(&[&event]), SystemTime::now()).links
        };
        assert_eq!(links(&headers(&[]), OTHER), [Place::parse(OTHER).unwrap().link()]);
        assert_eq!(links(&headers(&[]), "00-zz"), [], "a broken extension is no link");
        assert_eq!(links(&headers(&[("traceparent", SAMPLED_PARENT)]), OTHER), [], "a child has its parent");
    }

    #[test]
    fn what_nobody_records_passes_through_as_it_is() {
        let carried = headers(&[("traceparent", OTHER), ("tracestate", "a=1")]);
        let (begun, on) = tracer(Sampler::default()).begin(&carried);
        assert_eq!((begun, &on), (None, &carried));
        let never = tracer(Sampler::new(true, 0.0));
        let (begun, on) = never.begin(&headers(&[]));
        assert_eq!((begun, place(&on).flags), (None, 0), "those who come after are told");
        let (begun, _) = never.begin(&headers(&[("traceparent", SAMPLED_PARENT)]));
        assert!(begun.is_some(), "the parent has decided");
        let (begun, on) = tracer(Sampler::new(false, 0.0)).begin(&headers(&[("traceparent", SAMPLED_PARENT)]));
        assert_eq!((begun, place(&on).flags), (None, 0));
    }

    #[test]
    fn a_ratio_takes_about_so_many_traces() {
        let sampler = Sampler::new(true, 0.25);
        let taken = (0..1024_u64).filter(|n| sampler.takes(u128::from(n << 54), None)).count();
        assert_eq!(taken, 256);
        assert!(Sampler::new(false, 1.0).takes(u128::MAX, None));
    }

    #[test]
    fn a_span_says_what_it_was_about() {
        let (begun, _) = tracer(Sampler::default()).begin(&headers(&[("traceparent", SAMPLED_PARENT)]));
        let event = event(OTHER);
        let span =
            span(begun.unwrap(), SpanKind::Client, facts(&[&event]), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        assert_eq!(span.name, "subscription:sub.default send");
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (3_000_000_000, 5_000_000_000));
        assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_eq!(span.status.unwrap().message, "no");
        for expected in [text("cloudevents.event_type", "t"), number("http.response.status_code", 503)] {
            assert!(span.attributes.contains(&expected), "{expected:?}");
        }
    }
}

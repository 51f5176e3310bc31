//! The targets of fuzzing: for every reader of what comes from outside, what holds of it whatever comes. Each room keeps its own
//! laws, in a module `fuzz`; a law that is broken panics. Not part of the program: only tests and fuzzers have this.
//!
//! `scripts/fuzz` runs a target under libFuzzer; the tests here run all of them on any toolchain, over the seeds in `fuzz/seeds/`
//! and mutations of them.

#[cfg(test)]
mod mutation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::dispatch::policy::{Next, after_failure};
use crate::resource::Delivery;
use crate::sink::Failure;
use crate::{channel, event, filter, ingress, resource, sink, telemetry};

/// A target by its name, which is also that of its seeds and of its binary in `fuzz/`.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 16] = [
    ("attribute_values", event::fuzz::values),
    ("cesql", filter::fuzz::cesql),
    ("durations", resource::fuzz::durations),
    ("filters", filter::fuzz::filters),
    ("http_event", event::fuzz::http_event),
    ("json_event", event::fuzz::json_event),
    ("manifests", resource::fuzz::manifests),
    ("nats_frames", channel::fuzz::frames),
    ("nats_message", channel::fuzz::message),
    ("pass_through", event::fuzz::pass_through),
    ("problems", ingress::fuzz::problems),
    ("reply", event::fuzz::reply),
    ("retry_after", retry_after),
    ("sink_answer", sink::fuzz::answer),
    ("sink_request", sink::fuzz::request),
    ("trace_headers", trace_headers),
];

/// Runs one target on one input. An unknown name does nothing: a test holds the names of the binaries to the list.
pub fn run(name: &str, input: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(input);
    }
}

/// However long an answer asks us to wait: no retry waits longer than the policy and `retryAfterMax` allow.
fn retry_after(input: &[u8]) {
    let asked = sink::fuzz::retry_after(input);
    let failure = Failure::answered(503, bytes::Bytes::new(), asked);
    let max = Duration::from_secs(30);
    let delivery = Delivery { retry: u32::MAX, retry_after_max: Some(max), ..Delivery::PROCESS_DEFAULT };
    let wait = asked.unwrap_or_default().clamp(delivery.backoff_delay, max);
    assert_eq!(after_failure(&failure, 1, &delivery, 0.0), Next::RetryAfter(wait));
}

/// Whoever sends headers of a trace, whole or broken: a span can be begun and ended.
fn trace_headers(input: &[u8]) {
    let (headers, _) = event::fuzz::message(input);
    telemetry::trace::fuzz::carries_on(&event::PassThrough::from_http(&headers));
}

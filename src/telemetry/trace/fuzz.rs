//! What holds of traces whatever headers come. `crate::fuzz` makes the input up.

#![allow(clippy::unwrap_used, reason = "a law that is broken panics")]

use super::*;

/// Headers with a trace are continued in that trace, all others in a new one, and what stands beside the trace stays.
pub(crate) fn carries_on(carried: &PassThrough) {
    let beside = |headers: &PassThrough| headers.iter().filter(|(name, _)| *name != "traceparent").count();
    for sampler in [Sampler::new(true, 1.0), Sampler::new(false, 1.0), Sampler::new(false, 0.0)] {
        let (queue, mut spans) = mpsc::channel(1);
        let tracer = Tracer { sampler, queue, dropped: Arc::default() };
        let (begun, onward) = tracer.begin(carried);
        let place = Place::parse(onward.traceparent().unwrap()).unwrap();
        if let Some(parent) = carried.traceparent() {
            assert_eq!(place.trace_id, Place::parse(parent).unwrap().trace_id);
        }
        assert_eq!(beside(&onward), beside(carried));
        assert_eq!(begun.is_some(), place.is_sampled());
        if let Some(begun) = begun {
            let destination = "channel:foo.default".to_owned();
            let (failure, took, more) = (None, Duration::ZERO, Vec::new());
            tracer.received(
                begun,
                Facts { operation: "receive", destination, events: &[], status: None, failure, took, more },
            );
            assert!(spans.try_recv().is_ok());
        }
    }
}

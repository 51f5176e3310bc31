//! Any JSON as a list of filters, on one event: nothing may panic, and an event of a type that the filter does not name never matches.

#![no_main]

use std::sync::LazyLock;

use knats::event::{Builder, Event, SpecVersion};
use knats::filter::{Filter, Verdict};
use libfuzzer_sys::fuzz_target;

static EVENT: LazyLock<Event> = LazyLock::new(|| {
    let mut builder = Builder::new(SpecVersion::V10);
    for (name, value) in [("id", "1"), ("source", "/a"), ("type", "a"), ("x", "7")] {
        builder.attribute(name, value).expect("a valid attribute");
    }
    builder.build().expect("a valid event")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let _ = Filter::from_attributes(&json);
    let Ok(filter) = Filter::compile(&json) else { return };
    let verdict = filter.evaluate(&EVENT);
    if filter.types().is_some_and(|types| !types.iter().any(|known| known == EVENT.kind())) {
        assert_ne!(verdict, Verdict::Match);
    }
});

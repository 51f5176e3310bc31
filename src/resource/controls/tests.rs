//! Owns the tables of the annotations: what is taken, and what is refused with which words.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::resource::Resolver;
use crate::resource::destination::{Addresses, Context};
use crate::resource::reader::Report;

/// What the annotations say, or the faults, each with its path.
fn read(annotations: &[(&str, &str)], delivery: &Spec) -> Result<Controls, Vec<String>> {
    let map: serde_json::Map<String, Value> =
        annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let (map, report) = (Value::Object(map), Report::new("f.yaml", 1));
    let root = report.root(&map);
    let annotations: Vec<_> = root.string_map().into_iter().map(|(name, at)| Annotation { name, at }).collect();
    let controls = Controls::read(&annotations, delivery);
    drop((annotations, root));
    let faults: Vec<String> = report.finish().iter().map(ToString::to_string).collect();
    if faults.is_empty() { Ok(controls) } else { Err(faults) }
}

fn delivery_with(format: Option<&str>) -> Spec {
    let spec = json!({ "delivery": { "format": format } });
    let (report, resolver, brokers) = (Report::new("f.yaml", 1), Resolver::default(), BTreeSet::new());
    let context = Context { namespace: "default", addresses: Addresses { resolver: &resolver, brokers: &brokers } };
    report.root(&spec).object(|spec| Spec::read(spec, &context)).unwrap()
}

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

#[test]
fn every_value_of_the_grammar_is_read() {
    type Change = fn(&mut Controls);
    let cases: [(&str, &str, Change); 27] = [
        ("max-in-flight", "1", |c| c.max_in_flight = Some(count(1))),
        ("max-in-flight", "65536", |c| c.max_in_flight = Some(count(65_536))),
        ("rate", "1", |c| c.rate = Some(count(1))),
        ("rate", "1000000", |c| c.rate = Some(count(1_000_000))),
        ("ordering", "none", |_| {}),
        ("ordering", "strict", |c| c.ordering = Ordering::Strict),
        ("ordering", "key", |c| c.ordering = Ordering::Key("partitionkey".to_owned())),
        ("ordering", "key:subject", |c| c.ordering = Ordering::Key("subject".to_owned())),
        ("ordering", "key:a1", |c| c.ordering = Ordering::Key("a1".to_owned())),
        ("batch", "1", |c| c.batch = Some(Batch { size: count(1), wait: Duration::from_millis(100) })),
        ("batch", "10000", |c| c.batch = Some(Batch { size: count(10_000), wait: Duration::from_millis(100) })),
        ("batch", "50/500ms", |c| c.batch = Some(Batch { size: count(50), wait: Duration::from_millis(500) })),
        ("batch", "50/1m", |c| c.batch = Some(Batch { size: count(50), wait: Duration::from_secs(60) })),
        ("batch", "50/0s", |c| c.batch = Some(Batch { size: count(50), wait: Duration::ZERO })),
        ("batch", "50/PT0.5S", |c| c.batch = Some(Batch { size: count(50), wait: Duration::from_millis(500) })),
        ("batch", "50/PT1M", |c| c.batch = Some(Batch { size: count(50), wait: Duration::from_secs(60) })),
        ("start", "all", |c| c.start = Some(DeliverPolicy::All)),
        ("start", "new", |c| c.start = Some(DeliverPolicy::New)),
        ("start", "1", |c| c.start = Some(DeliverPolicy::ByStartSequence(1))),
        ("start", "18446744073709551615", |c| c.start = Some(DeliverPolicy::ByStartSequence(u64::MAX))),
        ("start", "2026-01-31T12:00:00+01:00", |c| {
            c.start = Some(DeliverPolicy::ByStartTime("2026-01-31T11:00:00Z".parse().unwrap()));
        }),
        ("paused", "true", |c| c.paused = true),
        ("paused", "false", |_| {}),
        ("breaker", "auto", |_| {}),
        ("breaker", "on", |c| c.breaker = Breaker::On),
        ("breaker", "off", |c| c.breaker = Breaker::Off),
        ("filters", "read elsewhere", |_| {}),
    ];
    for (name, value, change) in cases {
        let mut expected = Controls::default();
        change(&mut expected);
        assert_eq!(read(&[(name, value)], &Spec::default()), Ok(expected), "{name}: {value}");
    }
}

#[test]
fn every_other_value_is_a_fault_that_shows_what_was_expected() {
    for (name, values, expected) in [
        ("max-in-flight", ["0", "65537", "-1", "1.5", "", "ten", "+5", " 5"].as_slice(), "an integer from 1 to 65536"),
        ("rate", &["0", "1000001", "10/s", "99999999999999999999"], "an integer from 1 to 1000000"),
        (
            "ordering",
            &["", "Key", "key:", "key:Subject", "key:1a", "key:a-b", "key: a", "keys", "strict:a", "partitionkey"],
            "none, key, key:ATTRIBUTE or strict",
        ),
        (
            "batch",
            &["", "0", "10001", "/1s", "10/", "10/5", "10/61s", "10/PT1M1S", "10/P1Y", "10/1s/1s", "10 /1s", "-1"],
            "N or N/DURATION with N from 1 to 10000 and a duration of at most 1m",
        ),
        (
            "start",
            &["", "0", "All", "last", "-1", "18446744073709551616", "yesterday", "2026-01-31", "2026-01-31T12:00:00"],
            "all, new, a sequence number from 1, or an RFC 3339 time",
        ),
        ("paused", &["", "yes", "True", "1"], "one of true, false"),
        ("breaker", &["", "true", "Auto"], "one of auto, on, off"),
    ] {
        for value in values {
            let faults = read(&[(name, value)], &Spec::default()).unwrap_err();
            let start = format!("f.yaml: document 1: [{name}]: found the string \"{value}\", expected {expected}");
            assert!(faults.len() == 1 && faults[0].starts_with(&start), "{faults:#?}");
        }
    }
}

#[test]
fn an_unknown_annotation_is_a_fault_with_a_hint_and_the_list() {
    let list = "expected one of filters, max-in-flight, rate, ordering, batch, start, paused, breaker";
    for (name, hint) in
        [("max-inflight", "did you mean max-in-flight? "), ("Paused", "did you mean paused? "), ("x", "")]
    {
        let expected = format!("f.yaml: document 1: [{name}]: unknown annotation, {hint}{list}");
        assert_eq!(read(&[(name, "1")], &Spec::default()), Err(vec![expected]));
    }
}

#[test]
fn every_annotation_of_the_list_is_known() {
    for name in NAMES {
        let faults = read(&[(name, "")], &Spec::default()).err().unwrap_or_default();
        assert!(!faults.iter().any(|fault| fault.contains("unknown")), "{name} {faults:?}");
    }
}

#[test]
fn a_batch_goes_with_no_order_and_no_binary_mode() {
    let order = "keeps no order: a batch that fails is sent again whole";
    let binary = "is always sent as JSON, but spec.delivery.format is binary";
    for (batch, ordering, format, expected) in [
        ("1", "key", None, None),
        ("1", "strict", Some("json"), None),
        ("2", "none", Some("json"), None),
        ("2", "key", None, Some(order)),
        ("2", "key:subject", None, Some(order)),
        ("2/1s", "strict", None, Some(order)),
        ("2", "none", Some("binary"), Some(binary)),
        ("1", "none", Some("binary"), Some(binary)),
    ] {
        let delivery = delivery_with(format);
        let faults = read(&[("batch", batch), ("ordering", ordering)], &delivery).err().unwrap_or_default();
        assert_eq!(faults.len(), usize::from(expected.is_some()), "{batch} {ordering} {faults:?}");
        if let Some(expected) = expected {
            assert!(faults[0].starts_with(&format!("f.yaml: document 1: [batch]: {expected}")), "{faults:?}");
        }
    }
}

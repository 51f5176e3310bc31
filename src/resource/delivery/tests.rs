//! Owns the tables of delivery options and where each comes from.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::resource::destination::Addresses;
use crate::resource::reader::Report;
use crate::resource::{Fault, Resolver};

/// A `delivery` as read, or its faults.
fn read(delivery: &Value) -> Result<Spec, Vec<Fault>> {
    let spec = json!({ "delivery": delivery });
    let report = Report::new("f.yaml", 1);
    let resolver = Resolver::default();
    let addresses = Addresses { resolver: &resolver, brokers: &BTreeSet::new() };
    let context = Context { namespace: "default", addresses };
    let read = report.root(&spec).object(|spec| Spec::read(spec, &context));
    let faults = report.finish();
    if faults.is_empty() { Ok(read.unwrap()) } else { Err(faults) }
}

#[test]
fn every_option_is_read() {
    let delivery = json!({ "retry": 2_147_483_647, "backoffPolicy": "linear", "backoffDelay": "PT0S", "backoffMax": "PT1M",
        "timeout": "PT0.5S", "retryAfterMax": "PT0S", "format": "json", "deadLetterSink": { "uri": "http://d" } });
    let expected = Delivery {
        retry: 2_147_483_647,
        backoff_policy: BackoffPolicy::Linear,
        backoff_delay: Duration::ZERO,
        backoff_max: Duration::from_secs(60),
        timeout: Some(Duration::from_millis(500)),
        retry_after_max: Some(Duration::ZERO),
        format: Format::Json,
        dead_letter_sink: Some(Destination::Url("http://d".into())),
    };
    assert_eq!(Delivery::resolve(&read(&delivery).unwrap(), &Spec::default()), expected);
}

#[test]
fn every_wrong_option_is_a_fault() {
    for (field, value, expected) in [
        ("retry", json!(-1), "an integer from 0 to 2147483647"),
        ("retry", json!(2_147_483_648_i64), "an integer from 0 to 2147483647"),
        ("retry", json!("three"), "an integer from 0 to 2147483647"),
        ("retry", json!(1.0), "an integer from 0 to 2147483647"),
        ("backoffPolicy", json!("Linear"), "one of linear, exponential"),
        ("backoffPolicy", json!(1), "one of linear, exponential"),
        ("backoffDelay", json!("200ms"), "an ISO 8601 duration"),
        ("backoffDelay", json!("-PT1S"), "an ISO 8601 duration"),
        ("backoffDelay", json!("P1M"), "an ISO 8601 duration"),
        ("backoffDelay", json!("P367D"), "at most 366 days"),
        ("backoffDelay", json!(1), "a string"),
        ("backoffMax", json!("PT0S"), "greater than zero"),
        ("timeout", json!("PT0S"), "greater than zero"),
        ("retryAfterMax", json!("soon"), "an ISO 8601 duration"),
        ("format", json!("JSON"), "one of json, binary"),
        ("deadLetterSink", json!("http://d"), "an object"),
        ("deadLetterSink", json!({}), "expected ref or uri"),
        ("retries", json!(3), "expected one of retry, backoffPolicy"),
    ] {
        let faults = read(&json!({ field: value })).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].path.as_deref(), Some(format!("delivery.{field}").as_str()));
        assert!(faults[0].message.contains(expected), "{field} {faults:?}");
    }
    assert_eq!(read(&json!([])).unwrap_err()[0].message, "found a list, expected an object");
}

/// Values of every sort for any field: right ones, wrong ones, odd ones.
fn any_value() -> impl Strategy<Value = Value> {
    let words = [
        "linear",
        "exponential",
        "json",
        "binary",
        "PT0S",
        "PT1S",
        "P1DT2H",
        "P1Y",
        "PT",
        "",
        "P99999999999999W",
        "-PT1S",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..20_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(words.to_vec()).prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({ "uri": "http://d" })),
        Just(json!({ "uri": "/d", "ref": { "apiVersion": "v1", "kind": "Service", "name": "s" } })),
        Just(json!({ "ref": { "apiVersion": "v1", "kind": "Pod", "name": 1 } })),
    ]
}

fn any_delivery() -> impl Strategy<Value = Value> {
    let names = [
        "retry",
        "backoffPolicy",
        "backoffDelay",
        "backoffMax",
        "timeout",
        "retryAfterMax",
        "format",
        "deadLetterSink",
        "other",
    ];
    prop_oneof![
        8 => proptest::collection::btree_map(select(names.to_vec()), any_value(), 0..6)
            .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        1 => any_value(),
    ]
}

proptest! {
    #[test]
    fn no_partial_delivery_spec_panics_and_each_resolves_or_faults(own in any_delivery(), of_channel in any_delivery()) {
        if let (Ok(own), Ok(of_channel)) = (read(&own), read(&of_channel)) {
            let delivery = Delivery::resolve(&own, &of_channel);
            prop_assert!(delivery.backoff_max > Duration::ZERO);
            prop_assert!(delivery.timeout != Some(Duration::ZERO));
            prop_assert!(own.dead_letter_sink.is_none() || delivery.dead_letter_sink == own.dead_letter_sink);
            prop_assert!(i32::try_from(delivery.retry).is_ok());
        }
    }
}

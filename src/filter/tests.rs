//! The dialects: what they match, what is refused and where, and the laws they keep.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Filter, Verdict};
use crate::event::{Builder, Event, SpecVersion};

fn event(attributes: &[(&str, &str)]) -> Event {
    let mut builder = Builder::new(SpecVersion::V10);
    for (name, value) in attributes {
        builder.attribute(name, value).unwrap();
    }
    builder.build().unwrap()
}

fn order() -> Event {
    event(&[
        ("id", "a-1"),
        ("source", "/shop"),
        ("type", "com.example.order"),
        ("time", "2020-03-21T12:34:56.78Z"),
        ("exint", "42"),
        ("empty", ""),
        ("twentycharactersname", "x"),
    ])
}

#[track_caller]
fn compile(filters: &Value) -> Filter {
    Filter::compile(filters).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// What one filter says of an order.
#[track_caller]
fn says(filter: Value) -> Verdict {
    compile(&json!([filter])).evaluate(&order())
}

#[track_caller]
fn matches(filter: Value, expected: bool) {
    assert_eq!(says(filter.clone()), if expected { Verdict::Match } else { Verdict::NoMatch }, "{filter}");
}

#[test]
fn an_empty_list_matches_every_event() {
    assert_eq!(compile(&json!([])).evaluate(&order()), Verdict::Match);
    assert_eq!(Filter::from_attributes(&json!({})).unwrap().evaluate(&order()), Verdict::Match);
}

#[test]
fn what_was_declared_is_read_back_in_any_of_its_forms() {
    let list = json!([{ "exact": { "type": "x" } }]);
    let attributes = json!({ "type": "x" });
    let forms = [
        (list.clone(), compile(&list)),
        (json!({ "filters": list, "filter": { "attributes": { "id": "y" } } }), compile(&list)),
        (attributes.clone(), Filter::from_attributes(&attributes).unwrap()),
        (json!({ "filter": { "attributes": attributes } }), Filter::from_attributes(&attributes).unwrap()),
        (json!({ "filter": "x" }), Filter::from_attributes(&json!({ "filter": "x" })).unwrap()),
    ];
    for (declared, expected) in forms {
        assert_eq!(Filter::from_declared(&declared).unwrap(), expected, "{declared}");
    }
    assert!(Filter::from_declared(&json!("x")).is_err());
}

#[test]
fn every_entry_of_the_list_must_hold() {
    let both = json!([{ "exact": { "type": "com.example.order" } }, { "prefix": { "source": "/s" } }]);
    assert_eq!(compile(&both).evaluate(&order()), Verdict::Match);
    let one = json!([{ "exact": { "type": "com.example.order" } }, { "prefix": { "source": "/x" } }]);
    assert_eq!(compile(&one).evaluate(&order()), Verdict::NoMatch);
}

#[test]
fn exact_prefix_and_suffix_compare_all_their_attributes() {
    matches(json!({ "exact": { "type": "com.example.order", "source": "/shop" } }), true);
    matches(json!({ "exact": { "type": "com.example.order", "source": "/s" } }), false);
    matches(json!({ "exact": { "type": "com.example.Order" } }), false);
    matches(json!({ "exact": { "exint": "42" } }), true);
    matches(json!({ "exact": { "specversion": "1.0", "time": "2020-03-21T12:34:56.78Z" } }), true);
    matches(json!({ "exact": { "twentycharactersname": "x" } }), true);
    matches(json!({ "exact": { "missing": "x" } }), false);
    matches(json!({ "prefix": { "type": "com.", "source": "/" } }), true);
    matches(json!({ "prefix": { "type": "example" } }), false);
    matches(json!({ "prefix": { "subject": "x" } }), false);
    matches(json!({ "suffix": { "type": ".order", "id": "1" } }), true);
    matches(json!({ "suffix": { "type": ".example" } }), false);
    matches(json!({ "suffix": { "missing": "x" } }), false);
}

#[test]
fn filters_are_combined_by_all_any_and_not() {
    let (yes, no) = (json!({ "exact": { "id": "a-1" } }), json!({ "exact": { "id": "b" } }));
    matches(json!({ "all": [yes, yes] }), true);
    matches(json!({ "all": [yes, no] }), false);
    matches(json!({ "any": [no, yes] }), true);
    matches(json!({ "any": [no, no] }), false);
    matches(json!({ "not": no }), true);
    matches(json!({ "not": yes }), false);
    matches(json!({ "not": { "any": [no, { "not": yes }] } }), true);
    matches(json!({ "not": { "exact": { "missing": "x" } } }), true);
}

#[test]
fn cesql_matches_where_it_is_true_without_an_error() {
    matches(json!({ "cesql": "type LIKE 'com.%' AND exint = 42" }), true);
    matches(json!({ "cesql": "exint > 42" }), false);
    matches(json!({ "cesql": "EXISTS missing" }), false);
    for errs in ["missing LIKE '%x'", "missing = 'x' OR TRUE", "1 / 0 = 0", "type", "exint + 1", "NOT exint"] {
        assert_eq!(says(json!({ "cesql": errs })), Verdict::Error, "{errs}");
    }
}

#[test]
fn an_error_never_lets_an_event_through() {
    let error = json!({ "cesql": "missing = 'x'" });
    let (yes, no) = (json!({ "exact": { "id": "a-1" } }), json!({ "exact": { "id": "b" } }));
    assert_eq!(says(json!({ "not": error })), Verdict::Error);
    assert_eq!(says(json!({ "all": [error, yes] })), Verdict::Error);
    assert_eq!(says(json!({ "all": [error, no] })), Verdict::NoMatch);
    assert_eq!(says(json!({ "any": [error, no] })), Verdict::Error);
    assert_eq!(says(json!({ "any": [error, yes] })), Verdict::Match);
}

#[test]
fn attributes_compare_exactly_and_an_empty_value_asks_for_any() {
    let says = |attributes: Value| Filter::from_attributes(&attributes).unwrap().evaluate(&order());
    assert_eq!(says(json!({ "type": "com.example.order", "source": "" })), Verdict::Match);
    assert_eq!(says(json!({ "type": "com.example" })), Verdict::NoMatch);
    assert_eq!(says(json!({ "missing": "" })), Verdict::NoMatch);
    assert_eq!(says(json!({ "empty": "" })), Verdict::NoMatch);
}

#[track_caller]
fn refused(filters: Value, path: &str, message: &str) {
    let faults = Filter::compile(&filters).unwrap_err();
    let found = faults.iter().any(|fault| fault.path == path && fault.message.contains(message));
    assert!(found, "{filters}: {faults:?}");
}

#[test]
fn a_fault_names_its_place_and_what_was_expected() {
    refused(json!({}), "", "is a map, expected a list of filters");
    refused(json!(null), "", "is null, expected a list of filters");
    refused(json!(["exact"]), "[0]", "is text, expected a map");
    refused(json!([{}]), "[0]", "is empty, expected one of exact, prefix, suffix, all, any, not, cesql");
    refused(json!([{ "exact": {} }]), "[0].exact", "is empty, expected at least one attribute");
    refused(json!([{ "exact": [] }]), "[0].exact", "is a list, expected a map");
    refused(json!([{ "exact": { "": "x" } }]), "[0].exact.\"\"", "is no attribute name");
    refused(json!([{ "suffix": { "type": "" } }]), "[0].suffix.type", "is empty, expected a value");
    refused(json!([{ "exact": { "exint": 42 } }]), "[0].exact.exint", "is a number, expected text; put it in quotes");
    refused(json!([{ "all": [] }]), "[0].all", "is empty, expected at least one filter");
    refused(json!([{ "any": {} }]), "[0].any", "is a map, expected a list of filters");
    refused(json!([{ "not": [] }]), "[0].not", "is a list, expected a map");
    refused(json!([{ "not": {} }]), "[0].not", "is empty");
    refused(json!([{ "cesql": 1 }]), "[0].cesql", "is a number");
    refused(json!([{ "exakt": {} }]), "[0].exakt", "is no filter dialect, expected one of exact");
    refused(json!([{ "CESQL": "TRUE" }]), "[0].CESQL", "did you mean 'cesql'?");
    refused(
        json!([{ "exact": { "id": "1" } }, { "all": [{ "not": { "exact": { "Type": "x" } } }] }]),
        "[1].all[0].not.exact.Type",
        "lower-case",
    );
    let two = json!([{ "prefix": { "id": "1" }, "exact": { "id": "1" } }]);
    refused(two, "[0]", "has 'exact' and 'prefix', expected exactly one dialect");
    assert_eq!(Filter::compile(&json!([{ "exact": { "A": 1 } }, { "x": 1 }])).unwrap_err().len(), 3);
}

#[test]
fn attribute_names_keep_knatives_rule() {
    for name in ["123", "1a", "Type", "my-name", "my_name", "my name", "", "é", "😀"] {
        assert!(Filter::compile(&json!([{ "exact": { name: "x" } }])).is_err(), "{name}");
        assert!(Filter::from_attributes(&json!({ name: "x" })).is_err(), "{name}");
    }
    assert!(Filter::compile(&json!([{ "exact": { "a1": "x" } }])).is_ok());
}

#[test]
fn cesql_is_checked_with_the_place_shown() {
    refused(json!([{ "cesql": "type = " }]), "[0].cesql", "is no valid CloudEvents SQL: expected an attribute");
    refused(json!([{ "cesql": "type ! 'x'" }]), "[0].cesql", "\n  type ! 'x'\n       ^");
    refused(json!([{ "cesql": "foo(type)" }]), "[0].cesql", "there is no function 'FOO'");
    refused(json!([{ "cesql": "" }]), "[0].cesql", "found the end");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (0..depth).fold(json!({ "exact": { "id": "a-1" } }), |inner, _| json!({ "not": inner }));
    assert!(Filter::compile(&json!([nested(31)])).is_ok());
    let faults = Filter::compile(&json!([nested(32)])).unwrap_err();
    assert!(faults[0].message.contains("nested too deeply, at most 32"), "{faults:?}");
}

#[test]
fn filters_are_equal_when_they_were_written_alike() {
    let filters = json!([{ "exact": { "type": "a" } }]);
    assert_eq!(compile(&filters), compile(&filters));
    assert_ne!(compile(&filters), compile(&json!([{ "exact": { "type": "b" } }])));
    assert_ne!(compile(&json!([])), Filter::from_attributes(&json!({})).unwrap());
    assert_eq!(format!("{:?}", compile(&filters)), r#"Filter([{"exact":{"type":"a"}}])"#);
}

#[test]
fn the_types_that_can_match_are_known_where_they_are_compared_exactly() {
    let types = |filters: Value| compile(&filters).types().map(|types| types.join(" "));
    let some = |types: &str| Some(types.to_owned());
    let exact = |name: &str| json!({ "exact": { "type": name } });
    assert_eq!(types(json!([exact("a")])), some("a"));
    assert_eq!(types(json!([{ "exact": { "type": "a", "source": "b" } }])), some("a"));
    assert_eq!(types(json!([exact("a"), { "prefix": { "source": "/" } }])), some("a"));
    assert_eq!(types(json!([{ "any": [exact("b"), exact("a"), exact("b")] }])), some("a b"));
    assert_eq!(types(json!([{ "all": [{ "any": [exact("a"), exact("b")] }, { "not": exact("a") }] }])), some("a b"));
    assert_eq!(types(json!([{ "cesql": "type IN ('a', 'b') AND exint > 3" }, exact("b")])), some("b"));
    assert_eq!(types(json!([{ "any": [exact("a"), { "cesql": "type = 'b'" }] }])), some("a b"));
    for open in [
        json!([]),
        json!([{ "prefix": { "type": "a" } }]),
        json!([{ "not": exact("a") }]),
        json!([{ "any": [exact("a"), { "exact": { "source": "/" } }] }]),
        json!([exact("a"), exact("b")]),
        json!([{ "any": (0..101).map(|n| exact(&n.to_string())).collect::<Vec<_>>() }]),
    ] {
        assert_eq!(types(open.clone()), None, "{open}");
    }
    let from = |attributes: Value| Filter::from_attributes(&attributes).unwrap().types();
    assert_eq!(from(json!({ "type": "a", "source": "" })), Some(vec!["a".to_owned()]));
    assert_eq!(from(json!({ "type": "" })), None);
}

/// Filters over few names and values, so that they often match; some err.
fn any_filter() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["type", "source", "extra"]);
    let leaf = prop_oneof![
        (prop::sample::select(vec!["exact", "prefix", "suffix"]), name.clone(), "[ab]{1,2}")
            .prop_map(|(dialect, name, value)| json!({ dialect: { name: value } })),
        (name.clone(), "[ab]{1,2}").prop_map(|(name, value)| json!({ "cesql": format!("{name} = '{value}'") })),
        (name, "[ab]{1,2}").prop_map(|(name, value)| json!({ "cesql": format!("{name} IN ('{value}', 'a')") })),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| json!({ "not": inner })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|inner| json!({ "all": inner })),
            prop::collection::vec(inner, 1..4).prop_map(|inner| json!({ "any": inner })),
        ]
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    ("[ab]{1,3}", "[ab]{1,3}", prop::option::of("[ab]{0,3}")).prop_map(|(kind, source, extra)| {
        let mut attributes = vec![("id", "1"), ("type", &kind), ("source", &source)];
        attributes.extend(extra.as_deref().map(|extra| ("extra", extra)));
        event(&attributes)
    })
}

proptest! {
    #[test]
    fn combinations_keep_the_laws_of_logic(event in any_event(), a in any_filter(), b in any_filter()) {
        let says = |filter: Value| compile(&json!([filter])).evaluate(&event);
        let not = |filter: &Value| json!({ "not": filter });
        prop_assert_eq!(says(not(&not(&a))), says(a.clone()));
        prop_assert_eq!(says(json!({ "all": [a] })), says(a.clone()));
        prop_assert_eq!(says(json!({ "any": [a] })), says(a.clone()));
        prop_assert_eq!(says(not(&json!({ "all": [a, b] }))), says(json!({ "any": [not(&a), not(&b)] })));
        prop_assert_eq!(says(not(&json!({ "any": [a, b] }))), says(json!({ "all": [not(&a), not(&b)] })));
        prop_assert_eq!(says(json!({ "all": [a, b] })), says(json!({ "all": [b, a] })));
        prop_assert_eq!(compile(&json!([a, b])).evaluate(&event), says(json!({ "all": [a, b] })));
    }

    #[test]
    fn an_event_of_another_type_than_the_known_ones_never_matches(event in any_event(), filter in any_filter()) {
        let filter = compile(&json!([filter]));
        if let Some(types) = filter.types() && !types.iter().any(|known| known == event.kind()) {
            prop_assert_ne!(filter.evaluate(&event), Verdict::Match);
        }
    }
}

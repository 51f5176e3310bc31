//! Owns the checks of the document that describes the API: it is complete, and it holds together.

#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::*;

fn document() -> Value {
    serde_json::to_value(described().1).unwrap()
}

/// Every operation with where it stands.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

#[test]
fn what_changes_something_needs_the_token_and_what_reads_may_need_it() {
    let document = document();
    for (place, operation) in operations(&document) {
        let security = match operation.get("security") {
            Some(own) => own,
            None => &document["security"],
        };
        let without_token = security.as_array().unwrap().iter().any(|way| way == &serde_json::json!({}));
        assert_eq!(without_token, place.starts_with("get "), "{place}: {security}");
    }
}

#[test]
fn every_operation_tells_what_it_answers_and_every_reference_leads_somewhere() {
    let document = document();
    let all = operations(&document);
    assert_eq!(all.len(), 17, "{:?}", all.iter().map(|(place, _)| place).collect::<Vec<_>>());
    for (place, operation) in all {
        for status in ["401", "503"] {
            let content = &operation["responses"][status]["content"]["application/problem+json"];
            assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem", "{place} {status}");
        }
        assert!(operation["summary"].is_string(), "{place}");
    }
    let text = document.to_string();
    for (at, _) in text.match_indices("#/components/schemas/") {
        let name = text[at..].split(['"', '\\']).next().unwrap().rsplit('/').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

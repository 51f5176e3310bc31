//! Runs CloudEvents' conformance kit for CESQL, which is no part of this repository: `KNATS_CESQL_TCK` names the folder with its
//! YAML files. Without it there is nothing to run; `tests` holds the project's own cases for every construct.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value as Json;

use super::tests::Typed;
use super::{ErrorKind, Expression};

#[derive(Deserialize)]
struct Suite {
    name: String,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    expression: Json,
    result: Option<Json>,
    error: Option<String>,
    event: Option<BTreeMap<String, Json>>,
    event_overrides: Option<BTreeMap<String, Json>>,
}

#[test]
fn the_conformance_kit_passes() {
    let Some(folder) = std::env::var_os("KNATS_CESQL_TCK") else {
        eprintln!("KNATS_CESQL_TCK names no folder with the conformance kit: nothing was run");
        return;
    };
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut passed = 0;
    let mut failed = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let suite: Suite = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for case in suite.tests {
            match check(&case) {
                Ok(()) => passed += 1,
                Err(fault) => {
                    failed.push(format!("{} / {}: {}: {fault}", suite.name, case.name, case.expression));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(passed > 0, "the folder holds no case");
    eprintln!("{passed} cases passed");
}

fn check(case: &Case) -> Result<(), String> {
    // YAML reads an expression such as TRUE or 1 as what it says.
    let text = case.expression.as_str().map_or_else(|| case.expression.to_string(), str::to_owned);
    let expression = match (Expression::parse(&text), case.error.as_deref()) {
        (Err(_), Some("parse")) => return Ok(()),
        (Err(fault), _) => return Err(fault.to_string()),
        (Ok(_), Some("parse")) => return Err("was parsed".to_owned()),
        (Ok(expression), _) => expression,
    };
    let mut attributes = case.event.clone().unwrap_or_else(any_event);
    attributes.extend(case.event_overrides.clone().unwrap_or_default());
    let event = Typed(attributes);
    let evaluation = expression.evaluate(&event);
    let error = evaluation.error.map(|error| match error.kind {
        ErrorKind::Math => "math",
        ErrorKind::Cast => "cast",
        ErrorKind::MissingAttribute => "missingAttribute",
        ErrorKind::MissingFunction => "missingFunction",
        ErrorKind::FunctionEvaluation => "functionEvaluation",
        ErrorKind::Generic => "generic",
    });
    if error != case.error.as_deref() {
        return Err(format!("error {error:?}, expected {:?}", case.error));
    }
    let value = super::tests::json(&evaluation.value);
    match &case.result {
        Some(expected) if *expected != value => Err(format!("is {value}, expected {expected}")),
        _ => Ok(()),
    }
}

fn any_event() -> BTreeMap<String, Json> {
    let attributes = [
        ("specversion", "1.0"),
        ("id", "full-event"),
        ("source", "http://localhost/source"),
        ("type", "com.example.any"),
        ("subject", "topic"),
        ("time", "2020-03-21T12:34:56.78Z"),
    ];
    attributes.map(|(name, value)| (name.to_owned(), Json::from(value))).into()
}

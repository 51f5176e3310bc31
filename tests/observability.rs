//! The dashboard and the alert rules that come with the project ask for metrics and labels that are really there.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::metrics::{Metrics, scrape};
use crate::support::resources::{channel, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event, eventually};

/// Labels that Prometheus itself puts on what it scrapes.
const OF_SCRAPES: [&str; 2] = ["instance", "job"];

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/observability").join(file)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana-dashboard.json")).unwrap()
}

/// The alert rules, each with its annotations.
fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read("prometheus-rules.yaml")).unwrap();
    let groups = rules["spec"]["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

/// Every `expr` below a value.
fn expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(expressions).collect(),
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        _ => Vec::new(),
    }
}

/// What an expression of PromQL names.
#[derive(Debug, Default, PartialEq)]
struct Named {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let (mut in_matchers, mut in_range, mut labels_follow, mut in_labels) = (false, false, false, false);
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = rest[1..].find('"').expect(expression) + 2;
            rest = &rest[end..];
            continue;
        }
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(1));
        rest = after;
        match word {
            "{" => in_matchers = true,
            "}" => in_matchers = false,
            "[" => in_range = true,
            "]" => in_range = false,
            "(" => in_labels = std::mem::take(&mut labels_follow),
            ")" => in_labels = false,
            "by" | "without" | "on" | "ignoring" => labels_follow = true,
            "and" | "or" | "unless" | "bool" => {}
            word if !word.starts_with(|c: char| c.is_ascii_lowercase()) || in_range => {}
            word if in_matchers || in_labels => {
                named.labels.insert(word.to_owned());
            }
            _ if ["(", "by ", "without "].iter().any(|next| rest.trim_start().starts_with(next)) => {}
            word => {
                named.metrics.insert(word.to_owned());
            }
        }
    }
    named
}

#[test]
fn the_reader_of_this_test_reads_expressions() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let expression =
        r#"sum by (le, a) (rate(x_total{b=~"$y|z", c!="d{}"}[5m])) / on (e) max_over_time(w[1h]) > 0.5 and v"#;
    let expected = Named { metrics: set(&["x_total", "w", "v"]), labels: set(&["le", "a", "b", "c", "e"]) };
    assert_eq!(named(expression), expected);
}

/// A bridge that has been through all sorts of things, and what it tells then.
async fn experienced() -> Metrics {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match (request.target(), request.id()) {
        ("/", "retried") if request.attempt == 1 => Answer::status(503),
        ("/", "dead") => Answer::status(400),
        ("/", "reply") => Answer::event("answer"),
        _ => Answer::status(204),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 1, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in ["fine", "retried", "dead", "reply"] {
        bridge.send("foo", &event(id)).await;
    }
    assert_eq!(bridge.post("foo", &event("refused").without("type")).await.status(), 400);
    nats.publish("foo.default", &[("ce-specversion", "9")], "poison").await;
    nats.dead_letters(1).await;
    nats.settled("KN_DEFAULT__FOO").await;
    eventually("what waits is told", || async {
        let metrics = scrape(&bridge).await;
        let told = metrics.of_sub("event_age_seconds_count") == Some(5.0) && metrics.of_sub("lag_seconds").is_some();
        Some(metrics).filter(|_| told)
    })
    .await
}

#[tokio::test]
async fn every_metric_and_label_that_is_asked_for_is_there() {
    let metrics = experienced().await;
    let rules = Value::Array(alerts());
    let mut asked = expressions(&rules);
    asked.extend(expressions(&dashboard()));
    assert!(asked.len() > 30, "only {}", asked.len());
    for expression in asked {
        let Named { metrics: names, labels } = named(&expression);
        assert!(!names.is_empty(), "{expression}");
        let mut known = BTreeSet::from(OF_SCRAPES);
        for name in &names {
            let series = metrics.series(name);
            assert!(!series.is_empty(), "there is no {name}: {expression}");
            known.extend(series.iter().flat_map(|(labels, _)| labels.keys()).map(String::as_str));
        }
        for label in &labels {
            assert!(known.contains(label.as_str()), "{names:?} has no label {label}: {expression}");
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
        assert!(name.starts_with("Knats") && summary.len() > 60, "{name}: {summary}");
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        let labels = named(alert["expr"].as_str().unwrap()).labels;
        for label in summary.split("$labels.").skip(1) {
            let label = label.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
            // Without aggregation all labels are left.
            let is_left = labels.contains(label) || !alert["expr"].as_str().unwrap().contains(" by (");
            assert!(is_left, "{name} shows {label}, which its expression takes away");
        }
    }
    let names: BTreeSet<&str> = alerts.iter().filter_map(|alert| alert["alert"].as_str()).collect();
    assert_eq!(names.len(), alerts.len());
}

#[test]
fn the_panels_of_the_dashboard_have_their_own_places() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    let places: BTreeSet<String> =
        panels.iter().map(|panel| format!("{} {}", panel["gridPos"]["x"], panel["gridPos"]["y"])).collect();
    assert_eq!((ids.len(), places.len()), (panels.len(), panels.len()));
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["description"].as_str().unwrap_or_default().is_empty(), "{}", panel["title"]);
        assert!(!expressions(panel).is_empty(), "{}", panel["title"]);
    }
}

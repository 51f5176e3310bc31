//! Reads what `/metrics` says, strictly: whatever the two formats forbid fails the test.

use std::collections::{BTreeMap, BTreeSet};

use super::bridge::Bridge;
use super::http;

pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels = BTreeMap<String, String>;

/// All samples of one scrape, by name.
#[derive(Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
}

/// Scrapes a bridge in the older format.
pub async fn scrape(bridge: &Bridge) -> Metrics {
    scrape_as(bridge, "text/plain;version=0.0.4", PROMETHEUS).await
}

/// Scrapes a bridge and expects to be answered in a format.
pub async fn scrape_as(bridge: &Bridge, accept: &str, content_type: &str) -> Metrics {
    let answer = http::get(&bridge.admin_url("/metrics")).header("accept", accept).send().await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some(content_type)));
    parse(&answer.text(), content_type == OPEN_METRICS)
}

impl Metrics {
    /// The value of the one series with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(name)?.iter().find(|(known, _)| *known == labels).map(|(_, value)| *value)
    }

    /// The value for `default/sub`.
    pub fn of_sub(&self, name: &str) -> Option<f64> {
        self.value(name, &[("subscription", "default/sub")])
    }

    /// All series of a name: their labels, and their values.
    pub fn series(&self, name: &str) -> &[(Labels, f64)] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    /// The values that a label has in any series.
    pub fn label_values(&self, label: &str) -> BTreeSet<&str> {
        let labels = self.samples.values().flatten().filter_map(|(labels, _)| labels.get(label));
        labels.map(String::as_str).collect()
    }
}

/// The family that is being read.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    is_helped: bool,
    unit: Option<String>,
}

pub fn parse(text: &str, is_open: bool) -> Metrics {
    assert!(text.ends_with('\n'), "the last line does not end");
    let mut lines: Vec<&str> = text.lines().collect();
    if is_open {
        assert_eq!(lines.pop(), Some("# EOF"));
    }
    let (mut metrics, mut family, mut done) = (Metrics::default(), Family::default(), BTreeSet::new());
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().expect(line), words.next().expect(line));
            assert!(is_name(name), "{line}");
            if family.name != name {
                assert!(done.insert(name.to_owned()), "{name} comes twice");
                family = Family { name: name.to_owned(), ..Family::default() };
            }
            match what {
                "HELP" => assert!(!std::mem::replace(&mut family.is_helped, true), "{line}"),
                "TYPE" => {
                    assert!(family.kind.is_empty() && ["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    family.kind = rest.to_owned();
                }
                "UNIT" => {
                    assert!(is_open && family.unit.is_none() && name.ends_with(&format!("_{rest}")), "{line}");
                    family.unit = Some(rest.to_owned());
                }
                other => panic!("{other} in {line}"),
            }
        } else {
            let (name, labels, value) = sample(line);
            assert!(family.is_helped && belongs(&name, &family, is_open), "{line} to {} {}", family.kind, family.name);
            assert!(family.kind == "gauge" || value >= 0.0, "{line}");
            let series = metrics.samples.entry(name).or_default();
            assert!(!series.iter().any(|(known, _)| *known == labels), "twice: {line}");
            series.push((labels, value));
        }
    }
    for name in metrics.samples.keys().filter_map(|name| name.strip_suffix("_bucket")) {
        check_histogram(&metrics, name);
    }
    metrics
}

fn belongs(sample: &str, family: &Family, is_open: bool) -> bool {
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" if is_open => &["_total"],
        "counter" => return sample == family.name && sample.ends_with("_total"),
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    suffixes.iter().any(|suffix| sample == format!("{}{suffix}", family.name))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, more) = inner.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label), "{line}");
            let (value, more) = quoted(more).unwrap_or_else(|| panic!("{line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match more.strip_prefix(',') {
                Some(next) => inner = next,
                None => {
                    rest = more.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}

/// What stands before the closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

/// Buckets grow with their bounds, and the last one has all.
fn check_histogram(metrics: &Metrics, name: &str) {
    let mut by_labels: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (labels, value) in metrics.series(&format!("{name}_bucket")) {
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_else(|| panic!("{name} has a bucket without bound"));
        by_labels.entry(labels).or_default().push((bound.parse().unwrap(), *value));
    }
    for (labels, buckets) in by_labels {
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{name} {labels:?}: {buckets:?}");
        let (bound, all) = *buckets.last().unwrap();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(bound.is_infinite(), "{name} {labels:?}");
        assert_eq!(metrics.value(&format!("{name}_count"), &labels), Some(all), "{name} {labels:?}");
        assert!(metrics.value(&format!("{name}_sum"), &labels).is_some(), "{name} {labels:?}");
    }
}

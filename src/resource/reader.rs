//! Reads fields out of a JSON value by name and type, remembers what nobody asked for, and collects faults with their paths.
//!
//! A value that is `null` counts as absent, as it does in Kubernetes. Reading goes on after a fault, so that one run tells
//! of all of them; what could not be read is `None`, and whoever built on it is thrown away in the end.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Fault, shown_url};

/// No longer piece of a value is shown in a message.
const MAX_SHOWN_CHARS: usize = 60;

/// What was found wrong or without effect in one document.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) file: &'a str,
    pub(super) document: usize,
    faults: RefCell<Vec<Fault>>,
    without_effect: RefCell<Vec<String>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, document: usize) -> Self {
        Self { file, document, faults: RefCell::default(), without_effect: RefCell::default() }
    }

    /// The root of the document.
    pub(super) fn root(&'a self, value: &'a Value) -> At<'a> {
        At { report: self, path: String::new(), value }
    }

    fn fault(&self, path: &str, message: impl Into<String>) {
        let path = (!path.is_empty()).then(|| path.to_owned());
        let fault = Fault { file: self.file.to_owned(), document: Some(self.document), path, message: message.into() };
        self.faults.borrow_mut().push(fault);
    }

    /// Logs the fields without effect in one line and hands over the faults.
    pub(super) fn finish(self) -> Vec<Fault> {
        let fields = self.without_effect.into_inner();
        if !fields.is_empty() {
            let fields = fields.join(", ");
            tracing::warn!(file = self.file, document = self.document, fields, "fields that have no effect here");
        }
        self.faults.into_inner()
    }
}

/// A value that is there, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    report: &'a Report<'a>,
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// `FILE document N`, for messages that name a second place.
    pub(super) fn place(&self) -> String {
        format!("{} document {}", self.report.file, self.report.document)
    }

    pub(super) fn report(&self) -> &'a Report<'a> {
        self.report
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.report.fault(&self.path, message);
    }

    /// A fault at a place below this one, as in `spec.broker`, `.type` or `[0].exact`.
    pub(super) fn fault_below(&self, path: &str, message: impl Into<String>) {
        let is_joined = self.path.is_empty() || path.is_empty() || path.starts_with(['[', '.']);
        let dot = if is_joined { "" } else { "." };
        self.report.fault(&format!("{}{dot}{path}", self.path), message);
    }

    /// Logs something that is allowed but probably not meant.
    pub(super) fn warn(&self, message: impl Display) {
        tracing::warn!(file = self.report.file, document = self.report.document, field = self.path, "{message}");
    }

    /// Notes that the field is known and does nothing here.
    pub(super) fn has_no_effect(&self) {
        self.report.without_effect.borrow_mut().push(self.path.clone());
    }

    fn expected<T>(&self, expected: impl Display) -> Option<T> {
        self.fault(format!("found {}, expected {expected}", describe(self.value)));
        None
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        self.value.as_str().or_else(|| self.expected("a string"))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.expected("true or false"))
    }

    pub(super) fn integer<T: TryFrom<i128>>(&self, range: RangeInclusive<i128>) -> Option<T> {
        let number = self.value.as_i64().map(i128::from).or_else(|| self.value.as_u64().map(i128::from));
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .or_else(|| self.expected(format_args!("an integer from {} to {}", range.start(), range.end())))
    }

    /// One of a few words; the case counts.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let found = self.value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        found.map(|(_, choice)| *choice).or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.expected(format_args!("one of {}", names.join(", ")))
        })
    }

    /// A string that `parse` understands; its error says what was expected.
    pub(super) fn parsed<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.string()?) {
            Ok(parsed) => Some(parsed),
            Err(expected) => self.expected(expected),
        }
    }

    /// The elements of a list.
    pub(super) fn items(&self) -> Vec<Self> {
        let Some(items) = self.value.as_array().or_else(|| self.expected("a list")) else { return Vec::new() };
        let item = |(index, value)| Self { report: self.report, path: format!("{}[{index}]", self.path), value };
        items.iter().enumerate().map(item).collect()
    }

    /// Reads an object; fields that `read` did not ask for are faults.
    pub(super) fn object<T>(&self, read: impl FnOnce(&mut Fields<'a>) -> T) -> Option<T> {
        let map = self.value.as_object().or_else(|| self.expected("an object"))?;
        let mut fields = Fields { at: self.clone(), map, asked: Vec::new() };
        let result = read(&mut fields);
        fields.report_unknown();
        Some(result)
    }

    /// An object of any content that is accepted unread.
    pub(super) fn any_object(&self) {
        if !self.value.is_object() {
            self.expected::<()>("an object");
        }
    }

    /// The entries of a map of strings.
    pub(super) fn string_map(&self) -> Vec<(&'a str, Self)> {
        let Some(map) = self.value.as_object().or_else(|| self.expected("an object")) else { return Vec::new() };
        let entry = |(key, value): (&'a String, &'a Value)| {
            let at = Self { report: self.report, path: format!("{}[{key}]", self.path), value };
            match value {
                Value::Bool(_) | Value::Number(_) => at.expected("a string: put it in quotes")?,
                _ => at.string()?,
            };
            Some((key.as_str(), at))
        };
        map.iter().filter_map(entry).collect()
    }
}

/// The fields of an object while it is read.
pub(super) struct Fields<'a> {
    at: At<'a>,
    map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object itself.
    pub(super) fn at(&self) -> &At<'a> {
        &self.at
    }

    /// The field of that name, if it is there and not null.
    pub(super) fn take(&mut self, name: &'static str) -> Option<At<'a>> {
        self.asked.push(name);
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(At { report: self.at.report, path: self.path_of(name), value })
    }

    /// Like [`Self::take`]; its absence is a fault.
    pub(super) fn require(&mut self, name: &'static str, expected: &str) -> Option<At<'a>> {
        let field = self.take(name);
        if field.is_none() {
            self.at.report.fault(&self.path_of(name), format!("is missing, expected {expected}"));
        }
        field
    }

    /// Accepts a field that does nothing here.
    pub(super) fn ignore(&mut self, name: &'static str) {
        self.take(name);
    }

    fn path_of(&self, name: &str) -> String {
        if self.at.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at.path) }
    }

    fn report_unknown(&self) {
        for name in self.map.keys().filter(|name| !self.asked.contains(&name.as_str())) {
            let hint = match closest(name, &self.asked) {
                Some(close) => format!("did you mean {close}?"),
                None => format!("expected one of {}", self.asked.join(", ")),
            };
            self.at.report.fault(&self.path_of(&shown(name)), format!("unknown field, {hint}"));
        }
    }
}

/// What a value is, in a few words.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string \"{}\"", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Text as a message can hold it: one line, not long, and of a URL nothing that may be a secret.
pub(super) fn shown(text: &str) -> String {
    let text = shown_url(text);
    let mut short: String = text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        short.push('…');
    }
    short
}

/// The candidate that differs from `name` by so little that it was probably meant.
pub fn closest<'c>(name: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let name = name.to_ascii_lowercase();
    let (distance, candidate) = candidates
        .iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 3)
        .map(|candidate| (edit_distance(&name, &candidate.to_ascii_lowercase()), *candidate))
        .min()?;
    (distance <= (candidate.len() / 3).clamp(1, 3)).then_some(candidate)
}

/// Levenshtein's distance in bytes; callers bound the lengths.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn faults_of<T>(value: &Value, read: impl for<'a> FnOnce(At<'a>) -> T) -> Vec<String> {
        let report = Report::new("f.yaml", 2);
        read(report.root(value));
        report.finish().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wrong_type_or_range_names_what_was_found_and_expected() {
        type Read = fn(&At<'_>) -> bool;
        let cases: [(Value, Read, &str); 10] = [
            (json!(3), |at| at.string().is_none(), "found the number 3, expected a string"),
            (json!("yes"), |at| at.boolean().is_none(), "found the string \"yes\", expected true or false"),
            (
                json!("3"),
                |at| at.integer::<u32>(0..=9).is_none(),
                "found the string \"3\", expected an integer from 0 to 9",
            ),
            (
                json!(3.0),
                |at| at.integer::<u32>(0..=9).is_none(),
                "found the number 3.0, expected an integer from 0 to 9",
            ),
            (
                json!(10),
                |at| at.integer::<u32>(0..=9).is_none(),
                "found the number 10, expected an integer from 0 to 9",
            ),
            (
                json!(-1),
                |at| at.integer::<u32>(0..=9).is_none(),
                "found the number -1, expected an integer from 0 to 9",
            ),
            (
                json!("C"),
                |at| at.choice(&[("A", 1), ("B", 2)]).is_none(),
                "found the string \"C\", expected one of A, B",
            ),
            (json!({}), |at| at.items().is_empty(), "found an object, expected a list"),
            (json!([]), |at| at.object(|_| ()).is_none(), "found a list, expected an object"),
            (json!("x\ny"), |at| at.parsed(|_| Err::<(), _>("z")).is_none(), "found the string \"x\\ny\", expected z"),
        ];
        for (value, read, expected) in cases {
            assert_eq!(faults_of(&value, |at| assert!(read(&at))), [format!("f.yaml: document 2: {expected}")]);
        }
    }

    #[test]
    fn integers_reach_both_ends_of_64_bits() {
        for value in [json!(i64::MIN), json!(u64::MAX), json!(0)] {
            let report = Report::new("f", 1);
            assert!(report.root(&value).integer::<i128>(i128::MIN..=i128::MAX).is_some());
        }
    }

    #[test]
    fn fields_that_nobody_asked_for_are_faults_with_a_hint() {
        let value = json!({ "a": { "list": [{ "rtry": 1, "colour": null, "retry": null }] } });
        let faults = faults_of(&value, |at| {
            at.object(|root| {
                root.take("a").unwrap().object(|a| {
                    for item in a.take("list").unwrap().items() {
                        item.object(|item| assert!(item.require("retry", "an integer").is_none()));
                    }
                });
            });
        });
        assert_eq!(
            faults,
            [
                "f.yaml: document 2: a.list[0].retry: is missing, expected an integer",
                "f.yaml: document 2: a.list[0].colour: unknown field, expected one of retry",
                "f.yaml: document 2: a.list[0].rtry: unknown field, did you mean retry?",
            ]
        );
    }

    #[test]
    fn a_fault_below_a_place_has_the_whole_path() {
        let value = json!({ "a": 1 });
        let faults = faults_of(&value, |root| {
            root.fault_below("spec.broker", "x");
            root.object(|root| {
                let a = root.take("a").unwrap();
                for path in ["", "b", ".b", "[0].b"] {
                    a.fault_below(path, "x");
                }
            });
        });
        let paths = ["spec.broker", "a", "a.b", "a.b", "a[0].b"];
        assert_eq!(faults, paths.map(|path| format!("f.yaml: document 2: {path}: x")));
    }

    #[test]
    fn a_hint_is_given_only_when_it_is_close() {
        for (name, hint) in [
            ("backOffDelay", Some("backoffDelay")),
            ("backofDelay", Some("backoffDelay")),
            ("URI", Some("uri")),
            ("url", Some("uri")),
            ("x", None),
            ("", None),
            ("somethingElse", None),
        ] {
            assert_eq!(closest(name, &["backoffDelay", "backoffPolicy", "uri"]), hint, "{name}");
        }
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shown(&"ä".repeat(100)).chars().count(), MAX_SHOWN_CHARS + 1);
    }
}

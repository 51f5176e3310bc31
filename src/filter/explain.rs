//! Owns the reasons of a verdict: which clauses of a filter decided, and what they found in the event. Apart from evaluation,
//! which every event goes through and which must not pay for this.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::Verdict;
use super::cesql::{self, Expression, Value};
use super::node::{Condition, Node, Test};
use crate::event::Event;

/// Clauses that are told; of a filter that is larger, the rest is counted.
const MAX_CLAUSES: usize = 8;
/// The longest value of an attribute and the longest expression that are shown whole, in characters.
const MAX_SHOWN: usize = 200;

/// What a filter says of an event, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub verdict: Verdict,
    /// The clauses that decided; none when there was nothing to decide.
    pub clauses: Vec<Clause>,
    /// Clauses that decided as well and are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// One clause of a filter and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FilterClause)]
pub struct Clause {
    /// Where it stands, as in `filters[1].exact.type`.
    pub path: String,
    /// As in `"a" is not "b"`: the event's value first.
    pub finding: String,
}

/// The clauses that made a node say what it says.
type Reasons = Vec<Clause>;

impl Explanation {
    pub(super) fn of(root: &Node, event: &Event) -> Self {
        // Only the older form has conditions at its root.
        let path = if matches!(root, Node::Attributes(_)) { "filter.attributes" } else { "filters" };
        let (verdict, mut clauses) = explain(root, event, path);
        let more = clauses.len().saturating_sub(MAX_CLAUSES);
        clauses.truncate(MAX_CLAUSES);
        Self { verdict, clauses, more }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Clause { path, finding }) in self.clauses.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{path}: {finding}")?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        Ok(())
    }
}

/// What a node says, by the same rules as its evaluation, and which clauses below it decided.
fn explain(node: &Node, event: &Event, path: &str) -> (Verdict, Reasons) {
    match node {
        Node::Attributes(conditions) => attributes(conditions, event, path),
        Node::All(nodes) => combine(nodes, event, path, Verdict::NoMatch, Verdict::Match),
        Node::Any(nodes) => combine(nodes, event, path, Verdict::Match, Verdict::NoMatch),
        Node::Not(inner) => {
            let (verdict, reasons) = explain(inner, event, &below(path, inner));
            let turned = match verdict {
                Verdict::Match => Verdict::NoMatch,
                Verdict::NoMatch => Verdict::Match,
                Verdict::Error => Verdict::Error,
            };
            (turned, reasons)
        }
        Node::Cesql(expression) => cesql(expression, event, path),
    }
}

/// The one that decides; where none does, those that gave the rest of the verdict.
fn combine(nodes: &[Node], event: &Event, path: &str, decisive: Verdict, otherwise: Verdict) -> (Verdict, Reasons) {
    let (mut erred, mut agreed) = (Reasons::new(), Reasons::new());
    for (index, node) in nodes.iter().enumerate() {
        let (verdict, reasons) = explain(node, event, &below(&format!("{path}[{index}]"), node));
        match verdict {
            verdict if verdict == decisive => return (decisive, reasons),
            Verdict::Error => erred.extend(reasons),
            _ => agreed.extend(reasons),
        }
    }
    if erred.is_empty() { (otherwise, agreed) } else { (Verdict::Error, erred) }
}

fn below(path: &str, node: &Node) -> String {
    let dialect = match node {
        Node::All(_) => "all",
        Node::Any(_) => "any",
        Node::Not(_) => "not",
        Node::Cesql(_) => "cesql",
        Node::Attributes(conditions) => match conditions.first().map(|condition| &condition.test) {
            Some(Test::StartsWith(_)) => "prefix",
            Some(Test::EndsWith(_)) => "suffix",
            Some(Test::Is(_) | Test::IsNotEmpty) | None => "exact",
        },
    };
    format!("{path}.{dialect}")
}

fn attributes(conditions: &[Condition], event: &Event, path: &str) -> (Verdict, Reasons) {
    let mut reasons = Reasons::new();
    for condition in conditions {
        let holds = condition.holds(event);
        let clause = Clause { path: format!("{path}.{}", condition.name), finding: finding(condition, event, holds) };
        if !holds {
            return (Verdict::NoMatch, vec![clause]);
        }
        reasons.push(clause);
    }
    (Verdict::Match, reasons)
}

fn finding(condition: &Condition, event: &Event, holds: bool) -> String {
    let Some(value) = event.attribute(&condition.name) else { return "the event has no such attribute".to_owned() };
    let either = |yes, no| if holds { yes } else { no };
    let value = shown(value);
    match &condition.test {
        Test::Is(wanted) => format!("{value} {} {}", either("is", "is not"), shown(wanted)),
        Test::StartsWith(prefix) => {
            format!("{value} {} {}", either("begins with", "does not begin with"), shown(prefix))
        }
        Test::EndsWith(suffix) => format!("{value} {} {}", either("ends with", "does not end with"), shown(suffix)),
        Test::IsNotEmpty => format!("{value} {}", either("is there", "is empty")),
    }
}

/// An event that notes which of its attributes an expression asks for.
struct Watched<'e> {
    event: &'e Event,
    asked: RefCell<Vec<(String, Option<&'e str>)>>,
}

impl cesql::Attributes for Watched<'_> {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.iter().any(|(known, _)| known == name) {
            asked.push((name.to_owned(), self.event.attribute(name)));
        }
        cesql::Attributes::attribute(self.event, name)
    }
}

fn cesql(expression: &Expression, event: &Event, path: &str) -> (Verdict, Reasons) {
    let watched = Watched { event, asked: RefCell::default() };
    let (verdict, result) = match expression.holds(&watched) {
        Ok(true) => (Verdict::Match, "is true".to_owned()),
        Ok(false) => (Verdict::NoMatch, "is false".to_owned()),
        Err(error) => (Verdict::Error, format!("cannot be evaluated: {}", error.kind)),
    };
    let asked = watched.asked.into_inner();
    let told = asked.iter().map(|(name, value)| match value {
        Some(value) => format!("{name} is {}", shown(value)),
        None => format!("{name} is not there"),
    });
    let told: Vec<String> = told.collect();
    let with = if told.is_empty() { String::new() } else { format!(" where {}", told.join(", ")) };
    let expression = short(&expression.to_string());
    (verdict, vec![Clause { path: path.to_owned(), finding: format!("{expression} {result}{with}") }])
}

fn shown(text: &str) -> String {
    format!("\"{}\"", short(text))
}

/// One line, not long.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        short.push('…');
    }
    short
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::event::{Builder, SpecVersion};
    use crate::filter::Filter;

    fn order() -> Event {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", "a-1"), ("source", "/shop"), ("type", "order"), ("amount", "42"), ("empty", "")] {
            builder.attribute(name, value).unwrap();
        }
        builder.build().unwrap()
    }

    #[track_caller]
    fn check(filters: Json, verdict: Verdict, text: &str) {
        let explanation = Filter::compile(&filters).unwrap().explain(&order());
        assert_eq!((explanation.verdict, explanation.to_string().as_str()), (verdict, text), "{filters}");
    }

    #[test]
    fn the_first_condition_that_fails_is_named_with_both_values() {
        use Verdict::NoMatch;
        check(json!([{ "exact": { "type": "x" } }]), NoMatch, r#"filters[0].exact.type: "order" is not "x""#);
        check(
            json!([{ "prefix": { "type": "x" } }]),
            NoMatch,
            r#"filters[0].prefix.type: "order" does not begin with "x""#,
        );
        check(
            json!([{ "suffix": { "type": "x" } }]),
            NoMatch,
            r#"filters[0].suffix.type: "order" does not end with "x""#,
        );
        check(json!([{ "exact": { "gone": "x" } }]), NoMatch, "filters[0].exact.gone: the event has no such attribute");
        check(
            json!([{ "exact": { "type": "order" } }, { "exact": { "id": "a-1", "source": "/x" } }]),
            NoMatch,
            r#"filters[1].exact.source: "/shop" is not "/x""#,
        );
    }

    #[test]
    fn all_conditions_that_hold_are_why_it_matches() {
        check(
            json!([{ "exact": { "type": "order" } }, { "prefix": { "source": "/s" } }]),
            Verdict::Match,
            r#"filters[0].exact.type: "order" is "order"; filters[1].prefix.source: "/shop" begins with "/s""#,
        );
        check(json!([]), Verdict::Match, "");
    }

    #[test]
    fn combined_filters_tell_of_those_that_decide() {
        let (yes, no) = (json!({ "exact": { "id": "a-1" } }), json!({ "exact": { "id": "b" } }));
        let because = |path: &str, not: &str, value: &str| format!(r#"{path}.exact.id: "a-1" is {not}"{value}""#);
        check(json!([{ "all": [yes, no] }]), Verdict::NoMatch, &because("filters[0].all[1]", "not ", "b"));
        check(json!([{ "any": [no, yes] }]), Verdict::Match, &because("filters[0].any[1]", "", "a-1"));
        check(
            json!([{ "any": [no, no] }]),
            Verdict::NoMatch,
            &format!("{}; {}", because("filters[0].any[0]", "not ", "b"), because("filters[0].any[1]", "not ", "b")),
        );
        check(json!([{ "not": yes }]), Verdict::NoMatch, &because("filters[0].not", "", "a-1"));
        check(json!([{ "not": { "any": [no] } }]), Verdict::Match, &because("filters[0].not.any[0]", "not ", "b"));
    }

    #[test]
    fn an_expression_is_shown_with_the_attributes_that_it_looked_at() {
        check(
            json!([{ "cesql": "amount > 100" }]),
            Verdict::NoMatch,
            r#"filters[0].cesql: amount > 100 is false where amount is "42""#,
        );
        check(json!([{ "cesql": "TRUE" }]), Verdict::Match, "filters[0].cesql: TRUE is true");
        check(
            json!([{ "cesql": "type = 'x' AND missing = 'y'" }]),
            Verdict::NoMatch,
            r#"filters[0].cesql: type = 'x' AND missing = 'y' is false where type is "order""#,
        );
        check(
            json!([{ "cesql": "missing = 'y'" }]),
            Verdict::Error,
            "filters[0].cesql: missing = 'y' cannot be evaluated: the event has no such attribute where missing is not there",
        );
    }

    #[test]
    fn the_older_form_has_its_own_path() {
        let explain = |attributes: Json| Filter::from_attributes(&attributes).unwrap().explain(&order()).to_string();
        assert_eq!(explain(json!({ "type": "x" })), r#"filter.attributes.type: "order" is not "x""#);
        assert_eq!(explain(json!({ "type": "" })), r#"filter.attributes.type: "order" is there"#);
        assert_eq!(explain(json!({ "empty": "" })), r#"filter.attributes.empty: "" is empty"#);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many: Vec<Json> = (0..50).map(|_| json!({ "exact": { "type": "x".repeat(5000) } })).collect();
        let explanation = Filter::compile(&json!([{ "any": many }])).unwrap().explain(&order());
        assert_eq!((explanation.clauses.len(), explanation.more), (MAX_CLAUSES, 50 - MAX_CLAUSES));
        assert!(explanation.to_string().len() < 3000, "{explanation}");
    }

    fn any_filter() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(json!({ "exact": { "type": "order" } })),
            Just(json!({ "exact": { "type": "x" } })),
            Just(json!({ "prefix": { "source": "/s", "id": "a" } })),
            Just(json!({ "suffix": { "gone": "x" } })),
            Just(json!({ "cesql": "amount > 1" })),
            Just(json!({ "cesql": "missing = 'x'" })),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|one| json!({ "not": one })),
                prop::collection::vec(inner.clone(), 1..3).prop_map(|some| json!({ "all": some })),
                prop::collection::vec(inner, 1..3).prop_map(|some| json!({ "any": some })),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_explanation_says_what_evaluation_says(filters in prop::collection::vec(any_filter(), 0..3)) {
            let filter = Filter::compile(&json!(filters)).unwrap();
            let explanation = filter.explain(&order());
            prop_assert_eq!(explanation.verdict, filter.evaluate(&order()));
            prop_assert!(filters.is_empty() || !explanation.clauses.is_empty());
        }
    }
}

//! Owns compiled filters: what each dialect says of an event.

use std::collections::BTreeSet;

use super::Verdict;
use super::cesql::{Expression, both, either};
use crate::event::Event;

#[derive(Debug)]
pub(super) enum Node {
    /// Each of these holds.
    Attributes(Vec<Condition>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Cesql(Expression),
}

/// What the value of one attribute must be; an attribute that is not there is none of it.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) name: String,
    pub(super) test: Test,
}

#[derive(Debug)]
pub(super) enum Test {
    Is(String),
    StartsWith(String),
    EndsWith(String),
    IsNotEmpty,
}

impl Node {
    pub(super) fn evaluate(&self, event: &Event) -> Verdict {
        match self {
            Self::Attributes(conditions) => verdict(conditions.iter().all(|condition| condition.holds(event))),
            Self::All(nodes) => decide(nodes, event, Verdict::NoMatch, Verdict::Match),
            Self::Any(nodes) => decide(nodes, event, Verdict::Match, Verdict::NoMatch),
            Self::Not(node) => match node.evaluate(event) {
                Verdict::Match => Verdict::NoMatch,
                Verdict::NoMatch => Verdict::Match,
                Verdict::Error => Verdict::Error,
            },
            Self::Cesql(expression) => expression.holds(event).map_or(Verdict::Error, verdict),
        }
    }

    /// The types one of which an event must have to match; `None` when it may have others.
    pub(super) fn types(&self) -> Option<BTreeSet<&str>> {
        match self {
            Self::Attributes(conditions) => conditions.iter().find_map(Condition::exact_type),
            Self::All(nodes) => nodes.iter().map(Self::types).fold(None, both),
            Self::Any(nodes) => nodes.iter().map(Self::types).reduce(either)?,
            Self::Not(_) => None,
            Self::Cesql(expression) => expression.exact_values("type"),
        }
    }
}

/// Up to the first verdict that decides; an error decides only when nothing else does.
fn decide(nodes: &[Node], event: &Event, decisive: Verdict, otherwise: Verdict) -> Verdict {
    let mut result = otherwise;
    for node in nodes {
        match node.evaluate(event) {
            verdict if verdict == decisive => return decisive,
            Verdict::Error => result = Verdict::Error,
            _ => {}
        }
    }
    result
}

impl Condition {
    pub(super) fn holds(&self, event: &Event) -> bool {
        event.attribute(&self.name).is_some_and(|value| match &self.test {
            Test::Is(wanted) => value == wanted,
            Test::StartsWith(prefix) => value.starts_with(prefix.as_str()),
            Test::EndsWith(suffix) => value.ends_with(suffix.as_str()),
            Test::IsNotEmpty => !value.is_empty(),
        })
    }

    fn exact_type(&self) -> Option<BTreeSet<&str>> {
        match &self.test {
            Test::Is(wanted) if self.name == "type" => Some(BTreeSet::from([wanted.as_str()])),
            _ => None,
        }
    }
}

fn verdict(holds: bool) -> Verdict {
    if holds { Verdict::Match } else { Verdict::NoMatch }
}

//! Filters of Triggers and Subscriptions: Knative's dialects and CloudEvents SQL, compiled once and evaluated on attributes.
//! It knows events and nothing else.

pub mod cesql;
mod compile;
mod explain;
mod node;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::event::Event;
pub use explain::{Clause, Explanation};
use node::Node;

/// More types than these are not worth selecting by: each is a subject that the server keeps per consumer.
const MAX_TYPES: usize = 100;

/// A compiled list of filters, all of which must hold (Knative's `filters`); two are equal when they were written alike.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    source: Source,
    root: Node,
}

/// What was written, and under which of Knative's two fields.
#[derive(Debug, PartialEq)]
enum Source {
    Filters(Value),
    Attributes(Value),
}

/// One thing that is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Below the list of filters, as in `[0].all[1].exact.type`.
    pub path: String,
    pub message: String,
}

/// What a filter says of an event.
///
/// An error is neither yes nor no: it passes through `not`, and counts in `all` and `any` only where the others leave the
/// answer open. So a filter that errs never matches because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FilterVerdict)]
pub enum Verdict {
    Match,
    NoMatch,
    /// It could not be evaluated on this event; that is no match, and is counted.
    Error,
}

impl Filter {
    /// Compiles Knative's `filters` list. An empty list matches every event.
    ///
    /// # Errors
    /// All faults of the list.
    pub fn compile(filters: &Value) -> Result<Self, Vec<Fault>> {
        let root = compile::filters(filters)?;
        Ok(Self(Arc::new(Compiled { source: Source::Filters(filters.clone()), root })))
    }

    /// Compiles Knative's older `filter.attributes`: names and exact values, an empty value standing for any that is there.
    /// An empty map matches every event.
    ///
    /// # Errors
    /// All faults of the map.
    pub fn from_attributes(attributes: &Value) -> Result<Self, Vec<Fault>> {
        let root = compile::attributes(attributes)?;
        Ok(Self(Arc::new(Compiled { source: Source::Attributes(attributes.clone()), root })))
    }

    /// What was written: a list for `filters`, an object for the older `filter.attributes`.
    pub fn declared(&self) -> &Value {
        match &self.0.source {
            Source::Filters(source) | Source::Attributes(source) => source,
        }
    }

    /// Compiles what [`Self::compile`] or [`Self::from_attributes`] was given, as it is noted somewhere: a list, a map of
    /// attributes, or an object with `filters` or `filter` as a Trigger's `spec` has them.
    ///
    /// # Errors
    /// All faults of it.
    pub fn from_declared(declared: &Value) -> Result<Self, Vec<Fault>> {
        // The value of an attribute is a text, so the three cannot be mistaken for each other.
        match (&declared["filters"], &declared["filter"]["attributes"]) {
            (list @ Value::Array(filters), _) if !filters.is_empty() => Self::compile(list),
            (_, attributes @ Value::Object(_)) => Self::from_attributes(attributes),
            _ if declared.is_array() => Self::compile(declared),
            _ => Self::from_attributes(declared),
        }
    }

    pub fn evaluate(&self, event: &Event) -> Verdict {
        self.0.root.evaluate(event)
    }

    /// The same verdict with the clauses that decided.
    pub fn explain(&self, event: &Event) -> Explanation {
        Explanation::of(&self.0.root, event)
    }

    /// The values of `type` that an event must have one of to match, when the filter says so by exact comparison; `None` when
    /// events of any type may match. The server can select by these.
    pub fn types(&self) -> Option<Vec<String>> {
        let types = self.0.root.types()?;
        // A filter that no type can pass is no reason for a selection that nothing can be written as.
        (1..=MAX_TYPES).contains(&types.len()).then(|| types.into_iter().map(str::to_owned).collect())
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.source == other.0.source
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.declared())
    }
}

impl cesql::Attributes for Event {
    fn attribute(&self, name: &str) -> Option<cesql::Value<'_>> {
        self.attribute(name).map(|text| cesql::Value::String(Cow::Borrowed(text)))
    }
}

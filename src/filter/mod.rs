//! Filters of Triggers and Subscriptions: Knative's dialects and CloudEvents SQL, compiled once and evaluated on attributes.
//! It knows events and nothing else.

use crate::event::Event;

/// A compiled list of filters, all of which must hold (Knative's `filters`); two are equal when they were written alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {}

/// One thing that is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Below the list of filters, as in `[0].all[1].exact.type`.
    pub path: String,
    pub message: String,
}

/// What a filter says of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Match,
    NoMatch,
    /// It could not be evaluated on this event; that is no match, and is counted.
    Error,
}

impl Filter {
    /// Compiles Knative's `filters` list.
    ///
    /// # Errors
    /// All faults of the list.
    pub fn compile(filters: &serde_json::Value) -> Result<Self, Vec<Fault>> {
        let _ = filters;
        todo!()
    }

    /// Compiles Knative's older `filter.attributes`: names and exact values, an empty value standing for any that is there.
    ///
    /// # Errors
    /// All faults of the map.
    pub fn from_attributes(attributes: &serde_json::Value) -> Result<Self, Vec<Fault>> {
        let _ = attributes;
        todo!()
    }

    pub fn evaluate(&self, event: &Event) -> Verdict {
        let _ = event;
        todo!()
    }

    /// The values of `type` that an event must have one of to match, when the filter says so by exact comparison; `None` when
    /// events of any type may match. The server can select by these.
    pub fn types(&self) -> Option<Vec<String>> {
        todo!()
    }
}

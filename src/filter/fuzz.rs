//! What holds of filters and of CESQL whatever they say. `crate::fuzz` makes the input up.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::cesql::{Attributes, Expression, Value};
use super::{Fault, Filter, Verdict};
use crate::event::Event;
use crate::event::json;

/// The attributes `a`, `b`, ...
struct Values<'t>(Vec<&'t str>);

impl Attributes for Values<'_> {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let [letter @ b'a'..=b'z'] = name.as_bytes() else { return None };
        self.0.get(usize::from(letter - b'a')).map(|value| Value::String(Cow::Borrowed(value)))
    }
}

/// The first line is an expression, each further one the value of an attribute `a`, `b`, ... An evaluation is the same when it is
/// repeated, and what goes wrong is said.
pub(crate) fn cesql(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let expression = match Expression::parse(lines.next().unwrap_or_default()) {
        Ok(expression) => expression,
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            return;
        }
    };
    let _ = expression.check_functions();
    let values = Values(lines.collect());
    let evaluation = expression.evaluate(&values);
    assert_eq!(evaluation, expression.evaluate(&values));
    if let Some(error) = evaluation.error {
        assert!(!expression.describe(&error).is_empty());
    }
    if let Some(exact) = expression.exact_values("a")
        && expression.holds(&values) == Ok(true)
    {
        assert!(values.0.first().is_some_and(|value| exact.contains(value)), "{exact:?} does not have all");
    }
}

/// The first line is a list of filters or a map of attributes, the rest a JSON event. The reasons of a verdict agree with it, and
/// an event of a type that the filter does not name never matches.
pub(crate) fn filters(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Ok(written) = serde_json::from_slice::<Json>(&bytes[..end]) else { return };
    let rest = bytes.get(end + 1..).unwrap_or_default().to_vec();
    let event = json::decode(&rest.into()).ok();
    for compiled in [Filter::compile(&written), Filter::from_attributes(&written), Filter::from_declared(&written)] {
        match compiled {
            Ok(filter) => decides(&filter, event.as_ref()),
            Err(faults) => are_told(&faults),
        }
    }
}

fn decides(filter: &Filter, event: Option<&Event>) {
    assert_eq!(Filter::from_declared(filter.declared()).ok().as_ref(), Some(filter), "{:?}", filter.declared());
    let Some(event) = event else { return };
    let verdict = filter.evaluate(event);
    assert_eq!(filter.explain(event).verdict, verdict);
    if filter.types().is_some_and(|types| !types.iter().any(|known| known == event.kind())) {
        assert_ne!(verdict, Verdict::Match);
    }
}

fn are_told(faults: &[Fault]) {
    assert!(!faults.is_empty());
    assert!(faults.iter().all(|fault| !fault.message.is_empty()));
}

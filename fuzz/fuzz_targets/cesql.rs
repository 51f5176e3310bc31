//! Any text as a CESQL expression, on attributes that the input gives too: the first line is the expression, each further one
//! the value of an attribute `a`, `b`, ... Nothing may panic, and an evaluation must be the same when it is repeated.

#![no_main]

use std::borrow::Cow;

use knats::filter::cesql::{Attributes, Expression, Value};
use libfuzzer_sys::fuzz_target;

struct Values<'t>(Vec<&'t str>);

impl Attributes for Values<'_> {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        let [letter @ b'a'..=b'z'] = name.as_bytes() else { return None };
        self.0.get(usize::from(letter - b'a')).map(|value| Value::String(Cow::Borrowed(value)))
    }
}

fuzz_target!(|text: &str| {
    let mut parts = text.split('\n');
    let expression = match Expression::parse(parts.next().unwrap_or_default()) {
        Ok(expression) => expression,
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            return;
        }
    };
    let _ = expression.check_functions();
    let _ = expression.exact_values("a");
    let values = Values(parts.collect());
    let evaluation = expression.evaluate(&values);
    assert_eq!(evaluation, expression.evaluate(&values));
    if let Some(error) = evaluation.error {
        assert!(!expression.describe(&error).is_empty());
    }
});

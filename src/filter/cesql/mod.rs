//! CloudEvents SQL, version 1.0: expressions on the attributes of an event, parsed once and evaluated in time, stack and memory
//! that hostile input cannot drive up. It knows nothing of events but [`Attributes`].
//!
//! Where the specification leaves room: evaluation stops at the first error; arithmetic that does not fit into 32 bits is a
//! [`ErrorKind::Math`]; names of attributes may be written in any case, as the conformance kit does; only [`Attributes`] knows the
//! type of an attribute, and for an [`Event`](crate::event::Event) each is a string (section 3.2).

mod ast;
mod evaluate;
mod functions;
mod lexer;
mod like;
mod parser;
mod render;
mod types;
mod value;

#[cfg(test)]
mod tck;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use evaluate::Evaluator;
pub use parser::{MAX_DEPTH, MAX_LENGTH};
pub(super) use types::{both, either};
pub use value::{Type, Value};

/// Bytes of a text that an expression may make by joining others.
pub const MAX_TEXT_LENGTH: usize = 1024 * 1024;

/// What an expression is evaluated on.
pub trait Attributes {
    /// The attribute of this (lower case) name; `None` when the event has none.
    fn attribute(&self, name: &str) -> Option<Value<'_>>;
}

/// A parsed expression.
pub struct Expression {
    text: Box<str>,
    root: ast::Node,
}

/// What an expression came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation<'a> {
    /// There is one even if there is an error: the zero value of the expression's type, mostly.
    pub value: Value<'a>,
    pub error: Option<Error>,
}

/// An error of evaluation. It holds no text, because evaluating must not cost any; [`Expression::describe`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// The place in the expression, in bytes.
    at: u32,
}

/// The error types of the specification (section 3.3); its parse error is [`ParseError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    #[error("the result is no 32 bit integer, or it was divided by zero")]
    Math,
    #[error("a value cannot be cast to the type that is needed here")]
    Cast,
    #[error("the event has no such attribute")]
    MissingAttribute,
    #[error("there is no such function with so many arguments")]
    MissingFunction,
    #[error("an argument of the function is out of range")]
    FunctionEvaluation,
    #[error("expected true or false")]
    Generic,
}

/// Why a text is no expression. Displayed, it says what was expected and shows the place with a caret under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// What was expected and what was found.
    pub message: String,
    /// The place in the expression, in bytes.
    pub at: usize,
    shown: String,
}

impl Expression {
    /// # Errors
    /// When the text is no expression. A function that does not exist is an error of evaluation; [`Self::check_functions`] finds
    /// it before.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let root = parser::parse(text).map_err(|fault| ParseError::new(fault.message, text, fault.at))?;
        Ok(Self { text: text.into(), root })
    }

    /// # Errors
    /// When the expression calls a function that does not exist, or not with so many arguments.
    pub fn check_functions(&self) -> Result<(), ParseError> {
        match self.root.unknown_call() {
            None => Ok(()),
            Some((name, arguments, at)) => {
                Err(ParseError::new(functions::unknown(name, arguments), &self.text, place(at)))
            }
        }
    }

    pub fn evaluate<'a, A: Attributes + ?Sized>(&'a self, attributes: &'a A) -> Evaluation<'a> {
        match (Evaluator { attributes }).evaluate(&self.root) {
            Ok(value) => Evaluation { value, error: None },
            Err(fault) => Evaluation { value: fault.value, error: Some(Error { kind: fault.kind, at: fault.at }) },
        }
    }

    /// The expression as a predicate.
    ///
    /// # Errors
    /// Any error of evaluation, and [`ErrorKind::Generic`] when the value is no boolean (section 1.2: neither passes a filter).
    pub fn holds<A: Attributes + ?Sized>(&self, attributes: &A) -> Result<bool, Error> {
        match self.evaluate(attributes) {
            Evaluation { error: Some(error), .. } => Err(error),
            Evaluation { value: Value::Boolean(holds), .. } => Ok(holds),
            Evaluation { .. } => Err(Error { kind: ErrorKind::Generic, at: 0 }),
        }
    }

    /// The texts one of which attribute `name` must have for the expression to be true; `None` when it may have others.
    pub fn exact_values(&self, name: &str) -> Option<BTreeSet<&str>> {
        types::exact_values(&self.root, name)
    }

    /// An error that this expression gave, with a caret under its place.
    pub fn describe(&self, error: &Error) -> String {
        render::with_caret(&error.kind.to_string(), &self.text, place(error.at))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl ParseError {
    fn new(message: String, text: &str, at: usize) -> Self {
        let shown = render::with_caret(&message, text, at);
        Self { message, at, shown }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl std::error::Error for ParseError {}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

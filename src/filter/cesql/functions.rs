//! Owns CESQL's built-in functions (specification, section 3.5): their names, how many arguments they take, and what they do.
//! A character is a Unicode scalar value.

use std::borrow::Cow;

use super::ErrorKind;
use super::ast::Node;
use super::evaluate::{Evaluator, Failure, Outcome};
use super::value::{Type, Value};
use super::{Attributes, MAX_TEXT_LENGTH};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Length,
    Concat,
    ConcatWs,
    Lower,
    Upper,
    Trim,
    Left,
    Right,
    Substring,
    Abs,
    Int,
    Bool,
    String,
    IsInt,
    IsBool,
}

/// Name, least and most arguments. The length of an expression bounds those of the variadic ones.
const FUNCTIONS: [(&str, usize, usize, Function); 15] = [
    ("LENGTH", 1, 1, Function::Length),
    ("CONCAT", 0, usize::MAX, Function::Concat),
    ("CONCAT_WS", 1, usize::MAX, Function::ConcatWs),
    ("LOWER", 1, 1, Function::Lower),
    ("UPPER", 1, 1, Function::Upper),
    ("TRIM", 1, 1, Function::Trim),
    ("LEFT", 2, 2, Function::Left),
    ("RIGHT", 2, 2, Function::Right),
    ("SUBSTRING", 2, 3, Function::Substring),
    ("ABS", 1, 1, Function::Abs),
    ("INT", 1, 1, Function::Int),
    ("BOOL", 1, 1, Function::Bool),
    ("STRING", 1, 1, Function::String),
    // Not in the specification of 1.0, but in the Go SDK that Knative evaluates with.
    ("IS_INT", 1, 1, Function::IsInt),
    ("IS_BOOL", 1, 1, Function::IsBool),
];

impl Function {
    pub(super) fn find(name: &str, arguments: usize) -> Option<Self> {
        let is_it = |(known, least, most, _): &&(&str, usize, usize, Self)| {
            name.eq_ignore_ascii_case(known) && (*least..=*most).contains(&arguments)
        };
        FUNCTIONS.iter().find(is_it).map(|(_, _, _, function)| *function)
    }

    pub(super) fn returns(self) -> Type {
        match self {
            Self::Length | Self::Abs | Self::Int => Type::Integer,
            Self::Bool | Self::IsInt | Self::IsBool => Type::Boolean,
            _ => Type::String,
        }
    }
}

/// What is wrong with a call of this name and number of arguments, which [`Function::find`] did not find.
pub(super) fn unknown(name: &str, arguments: usize) -> String {
    match FUNCTIONS.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known)) {
        Some((known, least, most, _)) => {
            let expected = match (*least, *most) {
                (1, 1) => "1 argument".to_owned(),
                (least, usize::MAX) => format!("at least {least} argument{}", if least == 1 { "" } else { "s" }),
                (least, most) if least == most => format!("{least} arguments"),
                (least, most) => format!("{least} to {most} arguments"),
            };
            format!("{known} takes {expected}, not {arguments}")
        }
        None => {
            let names: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
            format!("there is no function '{name}', expected one of {}", names.join(", "))
        }
    }
}

/// One call: its arguments are evaluated as the function asks for them, cast to what it takes.
pub(super) struct Call<'e, 'a, A: ?Sized> {
    pub(super) evaluator: &'e Evaluator<'a, A>,
    pub(super) function: Function,
    pub(super) arguments: &'a [Node],
    pub(super) at: u32,
}

impl<'a, A: Attributes + ?Sized> Call<'_, 'a, A> {
    pub(super) fn run(&self) -> Outcome<'a> {
        match self.function {
            Function::Length => Ok(Value::Integer(i32::try_from(self.text(0)?.chars().count()).unwrap_or(i32::MAX))),
            Function::Concat => self.joined("", self.arguments),
            Function::ConcatWs => self.joined(&self.text(0)?, self.arguments.get(1..).unwrap_or_default()),
            Function::Lower => {
                let text = self.text(0)?;
                Ok(Value::String(if is_lower(&text) { text } else { Cow::Owned(text.to_lowercase()) }))
            }
            Function::Upper => Ok(Value::String(Cow::Owned(self.text(0)?.to_uppercase()))),
            Function::Trim => Ok(Value::String(slice(self.text(0)?, |text| text.trim()))),
            Function::Left => {
                let (text, count) = self.text_and_count()?;
                Ok(Value::String(slice(text, |text| &text[..byte_of(text, count)])))
            }
            Function::Right => {
                let (text, count) = self.text_and_count()?;
                let skipped = text.chars().count().saturating_sub(count);
                Ok(Value::String(slice(text, |text| &text[byte_of(text, skipped)..])))
            }
            Function::Substring => self.substring(),
            Function::Abs => {
                let value = self.integer(0)?;
                value.checked_abs().map(Value::Integer).ok_or(self.failure(ErrorKind::Math, Value::Integer(i32::MAX)))
            }
            Function::Int => self.cast(0, Type::Integer),
            Function::Bool => self.cast(0, Type::Boolean),
            Function::String => self.cast(0, Type::String),
            Function::IsInt => Ok(Value::Boolean(self.argument(0)?.integer().is_ok())),
            Function::IsBool => Ok(Value::Boolean(self.argument(0)?.boolean().is_ok())),
        }
    }

    fn joined(&self, delimiter: &str, arguments: &'a [Node]) -> Outcome<'a> {
        let mut joined = String::new();
        for (index, argument) in arguments.iter().enumerate() {
            let text = self.evaluator.operand(argument, self.function.returns())?.into_text();
            if index > 0 {
                joined.push_str(delimiter);
            }
            joined.push_str(&text);
            if joined.len() > MAX_TEXT_LENGTH {
                return Err(self.failure(ErrorKind::FunctionEvaluation, Type::String.zero()));
            }
        }
        Ok(Value::String(Cow::Owned(joined)))
    }

    /// Positions count from 1, negative ones from the end.
    fn substring(&self) -> Outcome<'a> {
        let text = self.text(0)?;
        let position = self.integer(1)?;
        let length = match self.arguments.get(2) {
            Some(_) => self.integer(2)?,
            None => i32::MAX,
        };
        let characters = text.chars().count();
        let distance = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
        let Some(length) = usize::try_from(length).ok().filter(|_| distance <= characters) else {
            return Err(self.failure(ErrorKind::FunctionEvaluation, Type::String.zero()));
        };
        let skipped = match position {
            0 => return Ok(Type::String.zero()),
            1.. => distance - 1,
            _ => characters - distance,
        };
        Ok(Value::String(slice(text, |text| {
            let rest = &text[byte_of(text, skipped)..];
            &rest[..byte_of(rest, length)]
        })))
    }

    /// The arguments of `LEFT` and `RIGHT`; with a negative count they fail, and are the whole text.
    fn text_and_count(&self) -> Result<(Cow<'a, str>, usize), Failure<'a>> {
        let text = self.text(0)?;
        match usize::try_from(self.integer(1)?) {
            Ok(count) => Ok((text, count)),
            Err(_) => Err(self.failure(ErrorKind::FunctionEvaluation, Value::String(text))),
        }
    }

    fn text(&self, index: usize) -> Result<Cow<'a, str>, Failure<'a>> {
        self.argument(index).map(Value::into_text)
    }

    fn integer(&self, index: usize) -> Result<i32, Failure<'a>> {
        self.argument(index)?.integer().map_err(|_| self.failure(ErrorKind::Cast, self.function.returns().zero()))
    }

    fn cast(&self, index: usize, to: Type) -> Outcome<'a> {
        self.argument(index)?.cast(to).map_err(|_| self.failure(ErrorKind::Cast, to.zero()))
    }

    fn argument(&self, index: usize) -> Outcome<'a> {
        // `Function::find` has counted them.
        match self.arguments.get(index) {
            Some(argument) => self.evaluator.operand(argument, self.function.returns()),
            None => Err(self.failure(ErrorKind::Generic, self.function.returns().zero())),
        }
    }

    fn failure(&self, kind: ErrorKind, value: Value<'a>) -> Failure<'a> {
        Failure { kind, at: self.at, value }
    }
}

/// Whether lower case changes nothing, so that nothing need be copied.
fn is_lower(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// A part of a text, without a copy where the text is borrowed.
fn slice<'a>(text: Cow<'a, str>, part: impl for<'t> Fn(&'t str) -> &'t str) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(part(text)),
        Cow::Owned(text) => Cow::Owned(part(&text).to_owned()),
    }
}

/// The byte at which the character with this number begins, or the end.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

//! Owns CESQL's three types and how one becomes another (specification, section 3.7); it knows no syntax.

use std::borrow::Cow;

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Boolean(bool),
    /// Signed, 32 bits.
    Integer(i32),
    /// URIs and timestamps too are strings to CESQL.
    String(Cow<'a, str>),
}

/// The type of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Boolean,
    Integer,
    String,
}

/// A value that cannot be of the type that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CastFault;

impl Type {
    /// The value of an expression of this type that could not be evaluated.
    pub(super) fn zero(self) -> Value<'static> {
        match self {
            Self::Boolean => Value::Boolean(false),
            Self::Integer => Value::Integer(0),
            Self::String => Value::String(Cow::Borrowed("")),
        }
    }
}

impl<'a> Value<'a> {
    pub fn kind(&self) -> Type {
        match self {
            Self::Boolean(_) => Type::Boolean,
            Self::Integer(_) => Type::Integer,
            Self::String(_) => Type::String,
        }
    }

    pub(super) fn cast(self, to: Type) -> Result<Self, CastFault> {
        Ok(match to {
            Type::Boolean => Self::Boolean(self.boolean()?),
            Type::Integer => Self::Integer(self.integer()?),
            Type::String => Self::String(self.into_text()),
        })
    }

    pub(super) fn boolean(&self) -> Result<bool, CastFault> {
        match self {
            Self::Boolean(value) => Ok(*value),
            Self::Integer(value) => Ok(*value != 0),
            Self::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Self::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Self::String(_) => Err(CastFault),
        }
    }

    pub(super) fn integer(&self) -> Result<i32, CastFault> {
        match self {
            Self::Boolean(value) => Ok(i32::from(*value)),
            Self::Integer(value) => Ok(*value),
            // Digits with at most one sign, nothing around them, 32 bits: what Rust reads is what CESQL reads.
            Self::String(text) => text.parse().map_err(|_| CastFault),
        }
    }

    /// Every value has a text.
    pub(super) fn into_text(self) -> Cow<'a, str> {
        match self {
            Self::Boolean(true) => Cow::Borrowed("true"),
            Self::Boolean(false) => Cow::Borrowed("false"),
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::String(text) => text,
        }
    }
}

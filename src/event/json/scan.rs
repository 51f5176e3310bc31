//! Taking a JSON text apart at its surface: a batch into events, an event into members. What is taken is borrowed, and strings
//! are looked at once. What lies deeper is left to serde_json, and so is the word on what is wrong.

use std::borrow::Cow;

use serde::Deserialize as _;
use serde_json::value::RawValue;

use crate::event::text::{Eight, Found};

/// What is left to read of a JSON text.
pub(super) struct Scanner<'a>(&'a str);

/// The text is no JSON, or of another shape than was asked for.
#[derive(Debug)]
pub(super) struct NotJson;

/// A value as it is written.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    text: &'a str,
    /// A string without escapes.
    is_bare: bool,
}

impl<'a> Value<'a> {
    pub(super) fn text(self) -> &'a str {
        self.text
    }

    /// What stands between the quotes of a string without escapes.
    pub(super) fn characters(self) -> Option<&'a str> {
        if self.is_bare { self.text.get(1..self.text.len() - 1) } else { None }
    }

    pub(super) fn is_string(self) -> bool {
        self.is_bare || self.text.starts_with('"')
    }

    pub(super) fn is_null(self) -> bool {
        self.text == "null"
    }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Reads an object and hands over its members.
    pub(super) fn object(&mut self, mut member: impl FnMut(Cow<'a, str>, Value<'a>)) -> Result<(), NotJson> {
        self.begin(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let name = self.name()?;
            self.begin(b':')?;
            member(name, self.value()?);
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads an array; `member` takes each of its values from the text.
    pub(super) fn array<E: From<NotJson>>(
        &mut self,
        mut member: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            member(self)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// Only white space may be left.
    pub(super) fn end(mut self) -> Result<(), NotJson> {
        if self.next().is_none() { Ok(()) } else { Err(NotJson) }
    }

    fn name(&mut self) -> Result<Cow<'a, str>, NotJson> {
        if self.next() != Some(b'"') {
            return Err(NotJson);
        }
        let name = self.value()?;
        match name.characters() {
            Some(characters) => Ok(Cow::Borrowed(characters)),
            None => serde_json::from_str(name.text).map(Cow::Owned).map_err(|_| NotJson),
        }
    }

    /// Inlined into the loop over the members, where it costs a good deal less.
    #[inline(always)]
    fn value(&mut self) -> Result<Value<'a>, NotJson> {
        let bare = if self.next() == Some(b'"') { bare_string(self.0) } else { None };
        let end = match bare {
            Some(end) => end,
            None => any_value(self.0)?,
        };
        let (text, rest) = self.0.split_at_checked(end).ok_or(NotJson)?;
        self.0 = rest;
        Ok(Value { text, is_bare: bare.is_some() })
    }

    /// Whether a comma follows, and not the end.
    fn more(&mut self, end: u8) -> Result<bool, NotJson> {
        if self.take(b',') {
            return Ok(true);
        }
        self.begin(end).map(|()| false)
    }

    fn begin(&mut self, expected: u8) -> Result<(), NotJson> {
        if self.take(expected) { Ok(()) } else { Err(NotJson) }
    }

    fn take(&mut self, expected: u8) -> bool {
        if self.next() != Some(expected) {
            return false;
        }
        self.0 = self.0.get(1..).unwrap_or_default();
        true
    }

    /// Goes to what follows the white space.
    fn next(&mut self) -> Option<u8> {
        loop {
            match *self.0.as_bytes().first()? {
                b' ' | b'\n' | b'\t' | b'\r' => self.0 = self.0.get(1..)?,
                byte => return Some(byte),
            }
        }
    }
}

/// Where the value ends with which the text begins. However deep it nests, that costs no stack.
#[inline(never)]
fn any_value(text: &str) -> Result<usize, NotJson> {
    let read = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(text));
    read.map(|value| value.get().len()).map_err(|_| NotJson)
}

/// Where the string ends with which the text begins, when nothing in it is escaped.
fn bare_string(text: &str) -> Option<usize> {
    let inside = text.as_bytes().get(1..)?;
    let end = bare_bytes(inside);
    (inside.get(end) == Some(&b'"')).then_some(end + 2)
}

/// How many bytes stand for themselves.
fn bare_bytes(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk() {
        if let Some(first) = escaped(Eight::of(*eight)).first() {
            return bytes.len() - rest.len() + first;
        }
        rest = after;
    }
    bytes.len() - rest.len() + rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..b' ')).count()
}

/// Finds what does not stand for itself in a string: quote, backslash and control characters.
pub(super) fn escaped(eight: Eight) -> Found {
    eight.is(b'"') | eight.is(b'\\') | eight.below(b' ')
}

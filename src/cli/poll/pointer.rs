//! JSON pointers (RFC 6901) into a document whose text is not touched: what is picked keeps its digits, escapes and spaces.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Deeper than documents are in practice; the walk reads a level again for each step.
const MAX_STEPS: usize = 64;
/// How many members a message lists, and how much of each name, in characters.
const LISTED_MEMBERS: usize = 20;
const LISTED_NAME: usize = 60;

/// A parsed pointer. The empty one points to the whole document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer {
    steps: Vec<String>,
}

impl FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { steps: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("expected a JSON pointer that begins with '/', such as /rates/0/value".into());
        };
        let steps: Vec<String> = rest.split('/').map(unescape).collect::<Result<_, _>>()?;
        if steps.len() > MAX_STEPS {
            return Err(format!("more than {MAX_STEPS} steps"));
        }
        Ok(Self { steps })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

impl Pointer {
    /// The text of the value that the pointer picks.
    ///
    /// # Errors
    /// Says how far the document follows the pointer, and what there is instead.
    pub(crate) fn pick<'a>(&self, document: &'a str) -> Result<&'a str, String> {
        let mut value: &RawValue =
            serde_json::from_str(document).map_err(|error| format!("the answer is no JSON document: {error}"))?;
        for (depth, step) in self.steps.iter().enumerate() {
            value = descend(value.get(), step).map_err(|missing| {
                let so_far = Self { steps: self.steps[..depth].to_vec() };
                let place = if depth == 0 { "at the top".to_owned() } else { format!("at '{so_far}'") };
                format!("nothing at '{self}': {place} {missing}")
            })?;
        }
        Ok(value.get())
    }
}

/// One step down, or what there is instead.
fn descend<'a>(text: &'a str, step: &str) -> Result<&'a RawValue, String> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<Name<'a>, &'a RawValue> =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            let found = members.get(step).copied();
            found.ok_or_else(|| {
                format!("there is no '{step}', only {}", list(members.keys().map(|name| name.0.as_ref())))
            })
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let found = index(step).and_then(|index| items.get(index).copied());
            found.ok_or_else(|| format!("there is an array of {} items and no item '{step}'", items.len()))
        }
        _ => Err("there is neither an object nor an array".into()),
    }
}

/// The name of a member, borrowed where it has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut listed: Vec<String> = names
        .take(LISTED_MEMBERS + 1)
        .map(|name| format!("'{}'", name.chars().take(LISTED_NAME).collect::<String>().escape_debug()))
        .collect();
    if listed.is_empty() {
        return "an empty object".into();
    }
    if listed.len() > LISTED_MEMBERS {
        listed[LISTED_MEMBERS] = "...".into();
    }
    listed.join(", ")
}

/// An index into an array: digits with no leading zero.
fn index(step: &str) -> Option<usize> {
    let plain = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { step.parse().ok() } else { None }
}

fn unescape(step: &str) -> Result<String, String> {
    let mut parts = step.split('~');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err("a '~' in a JSON pointer is written ~0, a '/' inside a name ~1".into()),
        };
        plain.push(escaped);
        plain.push_str(rest);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pick<'a>(pointer: &str, document: &'a str) -> Result<&'a str, String> {
        pointer.parse::<Pointer>().unwrap().pick(document)
    }

    /// The example of RFC 6901, section 5.
    #[test]
    fn pointers_pick_what_the_standard_says() {
        let document = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        for (pointer, expected) in [
            ("", document),
            ("/foo", r#"["bar","baz"]"#),
            ("/foo/0", r#""bar""#),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(pick(pointer, document).unwrap(), expected, "{pointer}");
        }
    }

    #[test]
    fn what_is_picked_keeps_its_text() {
        for value in [
            "1.10",
            "1e2",
            "12345678901234567890123",
            r#""106.53000000""#,
            r#""\u00e9""#,
            r#"{ "b":1, "a":2,"a":3 }"#,
            "null",
        ] {
            let document = format!(r#" {{ "x" : [ {value} ] }} "#);
            assert_eq!(pick("/x/0", &document).unwrap(), value);
        }
    }

    #[test]
    fn the_rate_of_the_tutorial_is_found() {
        let document = r#"{"Realtime Currency Exchange Rate":{"5. Exchange Rate":"106.53000000"}}"#;
        assert_eq!(pick("/Realtime Currency Exchange Rate/5. Exchange Rate", document).unwrap(), r#""106.53000000""#);
    }

    #[test]
    fn a_missing_value_lists_what_there_is() {
        for (pointer, document, expected) in [
            ("/a/b", r#"{"x":1,"y":2}"#, "nothing at '/a/b': at the top there is no 'a', only 'x', 'y'"),
            ("/a/b", r#"{"a":{}}"#, "nothing at '/a/b': at '/a' there is no 'b', only an empty object"),
            ("/a/2", r#"{"a":[1]}"#, "nothing at '/a/2': at '/a' there is an array of 1 items and no item '2'"),
            ("/a/-", r#"{"a":[1]}"#, "nothing at '/a/-': at '/a' there is an array of 1 items and no item '-'"),
            ("/a/00", r#"{"a":[1]}"#, "nothing at '/a/00': at '/a' there is an array of 1 items and no item '00'"),
            ("/a/b", r#"{"a":"text"}"#, "nothing at '/a/b': at '/a' there is neither an object nor an array"),
        ] {
            assert_eq!(pick(pointer, document).unwrap_err(), expected);
        }
        assert!(pick("/a", "<html>").unwrap_err().starts_with("the answer is no JSON document"));
    }

    #[test]
    fn a_list_of_members_is_bounded() {
        let members: Vec<String> = (0..500).map(|n| format!(r#""{}{n}":0"#, "k".repeat(500))).collect();
        let message = pick("/a", &format!("{{{}}}", members.join(","))).unwrap_err();
        assert!(message.len() < 2000 && message.ends_with("..."), "{message}");
    }

    #[test]
    fn broken_pointers_are_refused() {
        for text in ["a", "a/b", "/~", "/~2", "/a~"] {
            assert!(text.parse::<Pointer>().is_err(), "{text}");
        }
        assert!("/x".repeat(MAX_STEPS + 1).parse::<Pointer>().is_err());
    }
}

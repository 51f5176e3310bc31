//! Flag values that differ from event to event: `{{n}}`, `{{time}}`, `{{uuid}}` and `{{random LOW HIGH}}` in any text.

use std::str::FromStr;

use jiff::Timestamp;

const EXPECTED: &str = "expected {{n}}, {{time}}, {{uuid}} or {{random LOW HIGH}}";

/// A text with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The number of the event, from 1.
    Number,
    /// When the event was made.
    Time,
    /// A new one at each place.
    Uuid,
    /// A whole number between the two, both included; another one at each place.
    Random(i64, i64),
}

/// What the places of one event are filled with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The number of the event, from 1.
    pub(super) number: u64,
    pub(super) time: Timestamp,
}

impl Moment {
    pub(super) fn now(number: u64) -> Self {
        Self { number, time: Timestamp::now() }
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or_else(|| format!("'{{{{' without '}}}}'; {EXPECTED}"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(inside.parse()?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(inside: &str) -> Result<Self, String> {
        let words: Vec<&str> = inside.split_whitespace().collect();
        match words.as_slice() {
            ["n"] => Ok(Self::Number),
            ["time"] => Ok(Self::Time),
            ["uuid"] => Ok(Self::Uuid),
            ["random", low, high] => match (low.parse(), high.parse()) {
                (Ok(low), Ok(high)) if low <= high => Ok(Self::Random(low, high)),
                _ => Err(format!("'{{{{{inside}}}}}': expected two whole numbers, the lower one first")),
            },
            _ => Err(format!("'{{{{{inside}}}}}' is not known, {EXPECTED}")),
        }
    }
}

impl Template {
    /// True when every event gets the same text.
    pub(super) fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    pub(super) fn fill_in(&self, moment: &Moment) -> String {
        self.parts.iter().map(|part| part.text(moment)).collect()
    }
}

impl Part {
    fn text(&self, moment: &Moment) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number => moment.number.to_string(),
            Self::Time => moment.time.to_string(),
            Self::Uuid => uuid::Uuid::now_v7().to_string(),
            Self::Random(low, high) => fastrand::i64(low..=high).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn filled(text: &str) -> String {
        let moment = Moment { number: 7, time: "2020-03-21T12:34:56.78Z".parse().unwrap() };
        text.parse::<Template>().unwrap().fill_in(&moment)
    }

    #[test]
    fn places_are_filled_in_and_all_else_stays() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#),
            ("{{n}}", "7"),
            ("{{ n }}-{{n}}", "7-7"),
            (r#"{"n":{{n}}}"#, r#"{"n":7}"#),
            (r#"{"a":{"n":{{n}}}}"#, r#"{"a":{"n":7}}"#),
            ("at {{time}}.", "at 2020-03-21T12:34:56.78Z."),
            ("{{random 3 3}}", "3"),
            ("{{random -3 -3}}", "-3"),
            ("a}}b{c", "a}}b{c"),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn random_numbers_reach_both_bounds_and_no_further() {
        let mut seen: Vec<i64> = (0..1000).map(|_| filled("{{random -1 2}}").parse().unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [-1, 0, 1, 2]);
        filled("{{random -9223372036854775808 9223372036854775807}}").parse::<i64>().unwrap();
    }

    #[test]
    fn every_uuid_is_another() {
        let two = filled("{{uuid}} {{uuid}}");
        let (first, second) = two.split_once(' ').unwrap();
        assert_ne!(first, second);
        uuid::Uuid::parse_str(first).unwrap();
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused_with_what_can() {
        for (text, expected) in [
            ("{{", "without"),
            ("a {{n", "without"),
            ("{{}}", "{{n}}"),
            ("{{N}}", "'{{N}}' is not known"),
            ("{{number}}", "{{random LOW HIGH}}"),
            ("{{n 1}}", "'{{n 1}}' is not known"),
            ("{{random}}", "is not known"),
            ("{{random 10}}", "is not known"),
            ("{{random 10 1}}", "the lower one first"),
            ("{{random 1.5 2}}", "whole numbers"),
            ("{{random 0 9223372036854775808}}", "whole numbers"),
        ] {
            let error = text.parse::<Template>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn only_plain_text_is_the_same_for_every_event() {
        for (text, constant) in [("", true), ("a", true), ("{{n}}", false), ("a{{uuid}}", false)] {
            assert_eq!(text.parse::<Template>().unwrap().is_constant(), constant, "{text}");
        }
    }
}

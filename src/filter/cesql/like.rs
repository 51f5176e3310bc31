//! Owns `LIKE`: patterns compiled once, matched without going back over what a `%` has passed.

/// Bytes of one pattern. A part with `_` in it is compared at each place of the text, so its length must have a bound.
const MAX_LENGTH: usize = 1024;

/// A pattern cut at its `%`s. The first and the last part are anchored; each part between is sought from the left, and the
/// leftmost place is always good enough.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    first: Part,
    /// What follows the first `%`; `None` when there is no `%`, and the whole text must be `first`.
    tail: Option<Tail>,
}

#[derive(Debug, Clone)]
struct Tail {
    middle: Vec<Part>,
    last: Part,
}

/// A part of a pattern without `%`.
#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// `None` is `_`: any one character.
    Wild(Vec<Option<char>>),
}

impl Pattern {
    /// # Errors
    /// The message, when the pattern is too long.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_LENGTH {
            return Err(format!("the pattern has {} bytes, at most {MAX_LENGTH} are allowed", pattern.len()));
        }
        let mut parts = split(pattern).into_iter().map(Part::new);
        let first = parts.next().unwrap_or(Part::Text(String::new()));
        let mut middle: Vec<Part> = parts.collect();
        let tail = middle.pop().map(|last| Tail { middle, last });
        Ok(Self { first, tail })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = self.first.strip_prefix(text) else {
            return false;
        };
        let Some(tail) = &self.tail else {
            return rest.is_empty();
        };
        let Some(before_last) = tail.last.strip_suffix(rest) else {
            return false;
        };
        rest = before_last;
        tail.middle.iter().all(|part| match part.find(rest) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

/// The pattern's characters between its `%`s, `None` for `_`. `\%` and `\_` are the characters; any other backslash is one.
fn split(pattern: &str) -> Vec<Vec<Option<char>>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '%' => parts.push(std::mem::take(&mut part)),
            '_' => part.push(None),
            '\\' => part.push(characters.next_if(|escaped| matches!(escaped, '%' | '_')).or(Some('\\'))),
            other => part.push(Some(other)),
        }
    }
    parts.push(part);
    parts
}

impl Part {
    fn new(characters: Vec<Option<char>>) -> Self {
        characters.iter().copied().collect::<Option<String>>().map_or(Self::Wild(characters), Self::Text)
    }

    /// What follows this part at the beginning of the text.
    fn strip_prefix<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Text(part) => text.strip_prefix(part.as_str()),
            Self::Wild(part) => {
                let mut characters = text.chars();
                part.iter().all(|wanted| is_one(characters.next(), *wanted)).then_some(characters.as_str())
            }
        }
    }

    /// What precedes this part at the end of the text.
    fn strip_suffix<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Text(part) => text.strip_suffix(part.as_str()),
            Self::Wild(part) => {
                let mut characters = text.chars();
                part.iter().rev().all(|wanted| is_one(characters.next_back(), *wanted)).then_some(characters.as_str())
            }
        }
    }

    /// What follows the first place of this part in the text.
    fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Text(part) => text.find(part.as_str()).map(|at| &text[at + part.len()..]),
            Self::Wild(_) => text.char_indices().find_map(|(at, _)| self.strip_prefix(&text[at..])),
        }
    }
}

fn is_one(character: Option<char>, wanted: Option<char>) -> bool {
    character.is_some_and(|character| wanted.is_none_or(|wanted| wanted == character))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::Pattern;

    /// The definition, with all the ways that a `%` can go.
    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skipped| by_definition(rest, &text[skipped..])),
            ['\\', escaped @ ('%' | '_'), rest @ ..] => {
                text.first() == Some(escaped) && by_definition(rest, &text[1..])
            }
            ['_', rest @ ..] => !text.is_empty() && by_definition(rest, &text[1..]),
            [wanted, rest @ ..] => text.first() == Some(wanted) && by_definition(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[aé%_\\\\]{0,8}", text in "[aé%_\\\\]{0,10}") {
            let expected = by_definition(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&text), expected);
        }
    }

    #[test]
    fn many_wildcards_do_not_multiply_the_time() {
        let text = "a".repeat(64 * 1024);
        assert!(!Pattern::new(&format!("{}b", "%a".repeat(500))).unwrap().matches(&text));
        assert!(!Pattern::new(&format!("{}b%", "%a_".repeat(300))).unwrap().matches(&text));
    }

    #[test]
    fn a_pattern_that_is_too_long_is_refused() {
        assert!(Pattern::new(&"_".repeat(super::MAX_LENGTH + 1)).is_err());
    }
}

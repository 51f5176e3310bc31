//! The kinds of values that the templates of streams and consumers share: names of NATS, limits, sequence numbers, times.

use crate::resource::reader::At;

/// The stream that keeps dead letters; no channel may write into it.
const RESERVED_STREAM: &str = "KN_DEADLETTERS";

/// The server's bound on a stream's name.
const MAX_STREAM_NAME_BYTES: usize = 255;

/// The server's bound on a line of its protocol is 4096 bytes; half of that leaves room for the rest.
const MAX_SUBJECT_BYTES: usize = 2048;

/// A subject, wildcards allowed: tokens between dots, `*` for one token, `>` for all further ones.
///
/// # Errors
/// What was expected instead.
pub(super) fn subject(text: &str) -> Result<String, &'static str> {
    let tokens: Vec<&str> = text.split('.').collect();
    let last = tokens.len() - 1;
    let is_token = |(index, token): (usize, &&str)| match *token {
        "" => false,
        "*" => true,
        ">" => index == last,
        token => !token.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>')),
    };
    if text.len() <= MAX_SUBJECT_BYTES && tokens.iter().enumerate().all(is_token) {
        Ok(text.to_owned())
    } else {
        Err("a NATS subject such as orders.eu.> (no blanks, no empty token, * and > as whole tokens, > last)")
    }
}

/// The name of a stream.
///
/// # Errors
/// What was expected instead.
pub(super) fn stream(text: &str) -> Result<String, &'static str> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if text.is_empty() || text.len() > MAX_STREAM_NAME_BYTES || text.contains(forbidden) {
        return Err("the name of a stream (no blanks and none of . * > / \\)");
    }
    if text == RESERVED_STREAM {
        return Err("another stream than KN_DEADLETTERS, which keeps dead letters");
    }
    Ok(text.to_owned())
}

/// A limit of JetStream: -1 is none; zero is not set, as Go's `omitempty` has it.
pub(super) fn limit<T: Into<i128> + TryFrom<i128>>(at: &At<'_>, max: T) -> Option<T> {
    at.integer::<i128>(-1..=max.into()).filter(|limit| *limit != 0).and_then(|limit| T::try_from(limit).ok())
}

/// A sequence number; zero is not set.
pub(super) fn sequence(at: &At<'_>) -> Option<u64> {
    at.integer(0..=u64::MAX.into()).filter(|sequence| *sequence != 0)
}

/// A point in time.
pub(super) fn timestamp(at: &At<'_>) -> Option<jiff::Timestamp> {
    at.parsed(|text| text.parse().map_err(|_| "an RFC 3339 time such as 2026-01-31T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        for text in ["a", "a.b", "a.*", "a.>", ">", "*.b", "A-b_c.9", "ä.ö"] {
            assert_eq!(subject(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a.>.b", "a>", "a*.b", "a\u{0}"] {
            assert!(subject(text).is_err(), "{text:?}");
        }
        assert!(subject(&"a".repeat(MAX_SUBJECT_BYTES + 1)).is_err());
    }

    #[test]
    fn streams() {
        for text in ["KN_DEFAULT__FOO", "a-b"] {
            assert_eq!(stream(text).as_deref(), Ok(text));
        }
        for text in ["", "a.b", "a b", "*", ">", "a/b", "a\\b", "KN_DEADLETTERS", &"a".repeat(256)] {
            assert!(stream(text).is_err(), "{text:?}");
        }
    }
}

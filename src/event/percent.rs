//! Percent-coding of attribute values in headers (CloudEvents HTTP binding, section 3.1.3.2). Most values need none, and are
//! borrowed then.

use std::borrow::Cow;

use super::text::{Eight, Found, find, has_none};

/// Whether a value is the same in a header: nothing in it is coded or quoted, nor has to be. Then it is visible ASCII too.
pub(super) fn is_plain(value: &str) -> bool {
    has_none(value, coded)
}

/// Takes the quotes off a value that is one whole quoted string (RFC 9110 section 5.6.4). Any other value stays as it is: peers
/// that do not quote send quotes that mean themselves.
pub(super) fn unquote(value: &str) -> Cow<'_, str> {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => unescape(inner).unwrap_or(Cow::Borrowed(value)),
        None => Cow::Borrowed(value),
    }
}

/// `None` when a quote stands inside without a backslash, or the backslash belongs to the closing one.
fn unescape(inner: &str) -> Option<Cow<'_, str>> {
    if !inner.contains(['\\', '"']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => text.push(characters.next()?),
            _ => text.push(character),
        }
    }
    Some(Cow::Owned(text))
}

/// One round of decoding; a `%` without two hexadecimal digits behind it stands for itself. `None` when the result is not UTF-8.
pub(super) fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(first) = find(value, b'%') else {
        return Some(Cow::Borrowed(value));
    };
    let (plain, mut rest) = value.as_bytes().split_at(first);
    let mut decoded = Vec::with_capacity(value.len());
    decoded.extend_from_slice(plain);
    while let [byte, after @ ..] = rest {
        rest = match escaped(rest) {
            Some((coded, after_escape)) => {
                decoded.push(coded);
                after_escape
            }
            None => {
                decoded.push(*byte);
                after
            }
        };
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn escaped(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = bytes else { return None };
    Some((hex(*high)? << 4 | hex(*low)?, after))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Space, `"`, `%` and everything outside U+0021 to U+007E become `%XY`, upper-case, byte by byte.
pub(super) fn encode(value: &str) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if is_plain(value) {
        return Cow::Borrowed(value);
    }
    let coded = value.bytes().filter(|byte| needs_coding(*byte)).count();
    let mut encoded = String::with_capacity(value.len() + 2 * coded);
    for byte in value.bytes() {
        if needs_coding(byte) {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]];
            encoded.push('%');
            encoded.extend(digits.map(char::from));
        } else {
            encoded.push(char::from(byte));
        }
    }
    Cow::Owned(encoded)
}

/// Finds those of eight bytes that need coding.
fn coded(eight: Eight) -> Found {
    eight.below(b'!') | eight.is(b'"') | eight.is(b'%') | eight.is(0x7f) | eight.beyond_ascii()
}

fn needs_coding(byte: u8) -> bool {
    !matches!(byte, b'!'..=b'~') | (byte == b'"') | (byte == b'%')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_round_of_decoding_and_no_more() {
        for (value, expected) in [
            ("plain", Some("plain")),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro € 😀")),
            ("%e2%82%ac", Some("€")),
            ("%41", Some("A")),
            ("/a%2520b", Some("/a%20b")),
            ("100%", Some("100%")),
            ("%", Some("%")),
            ("%2", Some("%2")),
            ("%zz%20", Some("%zz ")),
            ("%%41", Some("%A")),
            ("%4é", Some("%4é")),
            ("é%20", Some("é ")),
            ("%C0%A0", None),
            ("%FF", None),
            ("%E2%82", None),
            ("%ED%A0%80", None),
        ] {
            assert_eq!(decode(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn only_a_whole_quoted_string_loses_its_quotes() {
        for (value, expected) in [
            ("\"1.0\"", "1.0"),
            ("\"a \\\" b\"", "a \" b"),
            ("\"a\\\\\"", "a\\"),
            ("\"\"", ""),
            ("\"", "\""),
            ("\"a\" and \"b\"", "\"a\" and \"b\""),
            ("\"a\\\"", "\"a\\\""),
            ("a\"b\"", "a\"b\""),
        ] {
            assert_eq!(unquote(value), expected);
        }
    }

    #[test]
    fn encoding_is_canonical() {
        for (value, expected) in [
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("a b \"c\" 100%25", "a%20b%20%22c%22%20100%2525"),
            ("!#$&'()*+,/:;=?@[]~|", "!#$&'()*+,/:;=?@[]~|"),
            ("\u{7f}", "%7F"),
        ] {
            assert_eq!(encode(value), expected);
        }
        assert!(matches!(encode("plain"), Cow::Borrowed(_)));
        assert!(matches!(decode("plain"), Some(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_itself(value in any::<String>()) {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|byte| matches!(byte, b'!'..=b'~')));
            let unquoted = unquote(&encoded);
            let decoded = decode(&unquoted);
            prop_assert_eq!(decoded.as_deref(), Some(value.as_str()));
        }

        #[test]
        fn decoding_never_panics(value in any::<String>()) {
            let _ = decode(&unquote(&value));
        }
    }
}

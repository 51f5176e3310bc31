//! URIs as far as events need them (RFC 3986): whether a text is one, and how to write one that decoding has broken.
//! Characters outside ASCII are accepted wherever RFC 3987 lets an IRI have them, because JSON events carry them.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

/// An absolute URI or a relative reference, with or without query and fragment.
pub(super) fn is_reference(text: &str) -> bool {
    if let Some(rest) = after_scheme(text) {
        return is_after_scheme(rest);
    }
    // Without a scheme, a colon in the first segment would be read as the end of one.
    let first_segment = text.split(['/', '?', '#']).next().unwrap_or_default();
    !first_segment.contains(':') && is_after_scheme(text)
}

/// A URI with a scheme; a fragment is allowed.
pub(super) fn is_absolute(text: &str) -> bool {
    after_scheme(text).is_some_and(|rest| !rest.is_empty() && is_after_scheme(rest))
}

/// Writes a text that is no URI as one that decodes to it: the scheme stands, of the rest all but unreserved characters and
/// slashes is percent-coded. For values such as `/a[b`, which came as `/a%5Bb`.
pub(super) fn escape(text: &str) -> String {
    let rest = after_scheme(text).unwrap_or(text);
    let mut escaped = text[..text.len() - rest.len()].to_owned();
    for byte in rest.bytes() {
        if is_unreserved(byte) || byte == b'/' {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn after_scheme(text: &str) -> Option<&str> {
    let is_named = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let scheme = text.bytes().take_while(is_named).count();
    let begins_with_letter = text.bytes().next()?.is_ascii_alphabetic();
    text[scheme..].strip_prefix(':').filter(|_| begins_with_letter)
}

fn is_after_scheme(text: &str) -> bool {
    let path = match text.strip_prefix("//") {
        None => text,
        Some(authority) => match after_authority(authority) {
            Some(path) => path,
            None => return false,
        },
    };
    let rest = after(path, PATH);
    let rest = rest.strip_prefix('?').map_or(rest, |query| after(query, QUERY));
    let rest = rest.strip_prefix('#').map_or(rest, |fragment| after(fragment, QUERY));
    rest.is_empty()
}

fn after_authority(text: &str) -> Option<&str> {
    let host = after(text, USER).strip_prefix('@').unwrap_or(text);
    let port = match host.strip_prefix('[') {
        None => after(host, HOST),
        Some(literal) => literal.split_once(']').filter(|(address, _)| is_ip_literal(address))?.1,
    };
    let rest = port.strip_prefix(':').map_or(port, |digits| digits.trim_start_matches(|c: char| c.is_ascii_digit()));
    (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
}

fn is_ip_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && !address.contains('%')
                && after(address, USER).is_empty()
        });
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// What follows the characters of one part: those, whole percent-escapes, and characters outside ASCII.
fn after(text: &str, part: u8) -> &str {
    let mut rest = text.as_bytes();
    loop {
        let end = rest.iter().take_while(|byte| PARTS[usize::from(**byte)] & part != 0).count();
        rest = match &rest[end..] {
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
            after => return &text[text.len() - after.len()..],
        };
    }
}

const HOST: u8 = 1;
const USER: u8 = 2;
const PATH: u8 = 4;
/// Or fragment.
const QUERY: u8 = 8;

/// The parts in which a byte may stand: unreserved characters, sub-delimiters and characters outside ASCII in all of them.
const PARTS: [u8; 256] = {
    let mut parts = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        parts[byte] = match value {
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => HOST | USER | PATH | QUERY,
            b':' => USER | PATH | QUERY,
            b'@' | b'/' => PATH | QUERY,
            b'?' => QUERY,
            _ if is_unreserved(value) || !value.is_ascii() => HOST | USER | PATH | QUERY,
            _ => 0,
        };
        byte += 1;
    }
    parts
};

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_references_are_told_from_other_text() {
        for valid in [
            "http://example.com/source",
            "http://user:pass@example.com:8080/a/b;c=d?q=1&r=/?#frag/?",
            "https://[2001:db8::1]:443/",
            "http://[v1.a:b]/",
            "urn:event:from:myapi/resource/123",
            "mailto:cncf-wg-serverless@lists.cncf.io",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "/cloudevents/spec/pull/123",
            "1-555-123-4567",
            "/apis/v1/namespaces/default/pingsources/p#x",
            "./a:b",
            "a/b:c",
            "//host/path",
            "?q",
            "#f",
            "",
            "/a%20b",
            "/café",
            "http://exämple.com:/",
            "http://@h",
            "http://h?q",
            "http://h:80#f",
            "file:///etc/passwd",
        ] {
            assert!(is_reference(valid), "{valid}");
        }
        for invalid in [
            "ht tp://[bad",
            "http://[bad",
            "http://[::1",
            "http://[::1]x/",
            "http://[v.a]/",
            "http://h:x/",
            "http://h:1x",
            "http://h:1:2/",
            "http://[::1]@h/",
            "http://a[b@h/",
            "http://a%zz@h/",
            "http://h/a b",
            "/a b",
            "/a%2",
            "/a%zz",
            "/100%",
            ":a",
            "1a:b",
            "/a[b",
            "/<a>",
            "/a\\b",
            "/a|b",
            "/a^b",
            "/{id}",
            "/`",
            "/\"",
            "#a#b",
            "http://a@b@c/",
        ] {
            assert!(!is_reference(invalid), "{invalid}");
        }
    }

    #[test]
    fn an_absolute_uri_has_a_scheme_and_something_behind_it() {
        assert!(is_absolute("http://example.com/schema"));
        assert!(is_absolute("urn:x"));
        for invalid in ["", "/schema", "schema", "http:", "//host/x", "1:x", "http://[bad"] {
            assert!(!is_absolute(invalid), "{invalid}");
        }
    }

    #[test]
    fn whatever_is_escaped_becomes_a_uri_reference() {
        for (text, escaped) in [
            ("/a b", "/a%20b"),
            ("/a[b", "/a%5Bb"),
            (":a", "%3Aa"),
            ("http://h:x/", "http://h%3Ax/"),
            ("a: b#c#", "a:%20b%23c%23"),
            ("/é |", "/%C3%A9%20%7C"),
        ] {
            assert_eq!(escape(text), escaped);
            assert!(is_reference(escaped), "{escaped}");
        }
    }
}

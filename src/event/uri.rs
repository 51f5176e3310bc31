//! URIs as far as events need them (RFC 3986): whether a text is one, and how to write one that decoding has broken.
//! Characters outside ASCII are accepted wherever RFC 3987 lets an IRI have them, because JSON events carry them.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use super::text::split_once;

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
    let (scheme, rest) = split_once(text, b':')?;
    let mut bytes = scheme.bytes();
    let named = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    named.then_some(rest)
}

fn is_after_scheme(text: &str) -> bool {
    let (text, fragment) = split_once(text, b'#').unwrap_or((text, ""));
    let (text, query) = split_once(text, b'?').unwrap_or((text, ""));
    let path = match text.strip_prefix("//") {
        None => text,
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !is_authority(authority) {
                return false;
            }
            path
        }
    };
    is_made_of(path, b":@/") && is_made_of(query, b":@/?") && is_made_of(fragment, b":@/?")
}

fn is_authority(text: &str) -> bool {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    if !is_made_of(user, b":") {
        return false;
    }
    let (host_ok, port) = match host_port.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, port)) => (is_ip_literal(address), port),
            None => return false,
        },
        None => {
            let (host, port) = host_port.split_at(host_port.find(':').unwrap_or(host_port.len()));
            (is_made_of(host, b""), port)
        }
    };
    let port_ok =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    host_ok && port_ok
}

fn is_ip_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && !address.contains('%')
                && is_made_of(address, b":")
        });
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// Unreserved characters, sub-delimiters, whole percent-escapes, characters outside ASCII, and `more`.
fn is_made_of(text: &str, more: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let ok = match byte {
            b'%' => {
                [bytes.next(), bytes.next()].iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            _ => IS_COMMON[usize::from(byte)] || more.contains(&byte),
        };
        if !ok {
            return false;
        }
    }
    true
}

/// Bytes of unreserved characters, of sub-delimiters, and of characters outside ASCII.
const IS_COMMON: [bool; 256] = {
    let mut is_common = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        is_common[byte] = is_unreserved(value)
            || !value.is_ascii()
            || matches!(value, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    is_common
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

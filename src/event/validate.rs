//! The rules of the specification for names and values of attributes, 1.0 and 0.3.

use super::{Error, SpecVersion, Written, media_type, time, uri};

/// The specification asks for 20 characters at most and forbids none; this bound is ours, so that a name always fits a header.
const MAX_NAME_BYTES: usize = 256;

/// What the value of a specified attribute has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    UriReference,
    AbsoluteUri,
    Time,
    MediaType,
    /// 0.3 only: how `data` is written in JSON.
    ContentEncoding,
}

impl Kind {
    /// The kind of an attribute that the specification itself names; `None` for an extension.
    pub(super) fn of(version: SpecVersion, name: &str) -> Option<Self> {
        match (version, name) {
            (_, "id" | "type" | "subject") => Some(Self::Text),
            (_, "source") | (SpecVersion::V03, "schemaurl") => Some(Self::UriReference),
            (_, "time") => Some(Self::Time),
            (_, "datacontenttype") => Some(Self::MediaType),
            (SpecVersion::V10, "dataschema") => Some(Self::AbsoluteUri),
            (SpecVersion::V03, "datacontentencoding") => Some(Self::ContentEncoding),
            _ => None,
        }
    }

    /// Whether the text is one, length and forbidden characters aside.
    pub(super) fn holds(self, text: &str) -> bool {
        match self {
            Self::Text => true,
            Self::UriReference => uri::is_reference(text),
            Self::AbsoluteUri => uri::is_absolute(text),
            Self::Time => time::is_rfc3339(text),
            Self::MediaType => media_type::is_valid(text),
            Self::ContentEncoding => text.eq_ignore_ascii_case("base64"),
        }
    }

    pub(super) fn is_uri(self) -> bool {
        matches!(self, Self::UriReference | Self::AbsoluteUri)
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Text => "a non-empty value",
            Self::UriReference => "a URI-reference (RFC 3986)",
            Self::AbsoluteUri => "an absolute URI (RFC 3986)",
            Self::Time => "a timestamp such as 2020-03-21T12:34:56.78Z (RFC 3339)",
            Self::MediaType => "a media type such as application/json (RFC 2046)",
            Self::ContentEncoding => "base64",
        }
    }
}

/// Checks one attribute. `written` is how a header had it, before percent-decoding, and the value itself elsewhere: peers that do not percent-code (the Go SDK, so all of Knative) send URIs as they are, and `/a%20b` is a URI-reference
/// though `/a b`, which it decodes to, is none.
///
/// # Errors
/// Says which rule name or value break.
pub(super) fn attribute(version: SpecVersion, name: &str, value: &str, written: Written<'_>) -> Result<(), Error> {
    let characters = || if written == Written::Plain { Ok(()) } else { text(name, value) };
    let Some(kind) = Kind::of(version, name) else {
        extension_name(version, name)?;
        return characters();
    };
    characters()?;
    if value.is_empty() {
        return Err(Error::attribute(name, format!("is empty, expected {}", kind.expected())));
    }
    if kind.holds(value) || matches!(written, Written::As(written) if kind.is_uri() && kind.holds(written)) {
        return Ok(());
    }
    Err(Error::attribute(name, format!("is '{}', expected {}", excerpt(value), kind.expected())))
}

/// As [`attribute`], and the name must be that of an extension.
///
/// # Errors
/// Says which rule name or value break.
pub(super) fn extension(version: SpecVersion, name: &str, value: &str) -> Result<(), Error> {
    extension_name(version, name)?;
    text(name, value)
}

fn extension_name(version: SpecVersion, name: &str) -> Result<(), Error> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(Error::attribute(excerpt(name), "has a name that is not made of the characters a-z and 0-9"));
    }
    if name.len() > MAX_NAME_BYTES {
        let fault = format!("has a name of {} characters, expected at most {MAX_NAME_BYTES}", name.len());
        return Err(Error::attribute(excerpt(name), fault));
    }
    if matches!(name, "data" | "specversion") || Kind::of(version, name).is_some() {
        return Err(Error::attribute(
            name,
            "has a name that the specification reserves, expected that of an extension",
        ));
    }
    Ok(())
}

/// The type String of the specification: no control characters, no noncharacters.
fn text(name: &str, value: &str) -> Result<(), Error> {
    // Without an early end, so that the compiler can look at many bytes at once.
    if value.bytes().fold(true, |visible, byte| visible & matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    match value.chars().find(|&character| is_forbidden(character)) {
        None => Ok(()),
        Some(character) => {
            let fault = format!("holds U+{:04X}, a character that no attribute may hold", u32::from(character));
            Err(Error::attribute(name, fault))
        }
    }
}

fn is_forbidden(character: char) -> bool {
    let code = u32::from(character);
    character.is_control() || matches!(code, 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE
}

/// A text from outside as it may stand in an error: short, nothing that could break a line.
pub(super) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(version: SpecVersion, name: &str, value: &str, valid: bool) {
        let got = attribute(version, name, value, Written::As(value));
        assert_eq!(got.is_ok(), valid, "{name}={value:?}: {got:?}");
        if let Err(fault) = got {
            assert!(fault.to_string().contains("attribute '"), "{fault}");
        }
    }

    #[test]
    fn every_attribute_keeps_its_rule() {
        use SpecVersion::{V03, V10};
        for (name, value, valid) in [
            ("id", "1", true),
            ("id", "", false),
            ("id", "a\u{0}b", false),
            ("id", "a\u{7f}b", false),
            ("id", "a\u{9f}b", false),
            ("id", "a\nb", false),
            ("id", "a\u{fdd0}b", false),
            ("id", "a\u{ffff}b", false),
            ("id", "a\u{1fffe}b", false),
            ("id", "Euro € 😀", true),
            ("type", "", false),
            ("type", "com.example", true),
            ("subject", "", false),
            ("subject", "a b", true),
            ("source", "", false),
            ("source", "/a", true),
            ("source", "/a b", false),
            ("source", "ht tp://[bad", false),
            ("source", "/café", true),
            ("time", "2020-03-21T12:34:56.78Z", true),
            ("time", "yesterday", false),
            ("time", "", false),
            ("datacontenttype", "text/json", true),
            ("datacontenttype", "json", false),
            ("datacontenttype", "", false),
            ("myext", "", true),
            ("myext1", "x", true),
            ("1ext", "x", true),
            ("bad_name", "x", false),
            ("bad-name", "x", false),
            ("Bad", "x", false),
            ("é", "x", false),
            ("", "x", false),
            ("data", "x", false),
            ("data_base64", "x", false),
            ("specversion", "1.0", false),
            ("extension", "a\u{1}", false),
        ] {
            check(V10, name, value, valid);
            check(V03, name, value, valid);
        }
        check(V10, "dataschema", "http://example.com/schema", true);
        check(V10, "dataschema", "/schema", false);
        check(V10, "dataschema", "", false);
        check(V10, "schemaurl", "any text, an extension here", true);
        check(V03, "schemaurl", "/schema", true);
        check(V03, "schemaurl", "a b", false);
        check(V03, "dataschema", "any text, an extension here", true);
        check(V03, "datacontentencoding", "Base64", true);
        check(V03, "datacontentencoding", "rot13", false);
        check(V10, &"a".repeat(256), "x", true);
        check(V10, &"a".repeat(257), "x", false);
    }

    #[test]
    fn a_uri_counts_as_it_was_written_too() {
        for (value, written, valid) in
            [("/a b", "/a%20b", true), ("/a b", "/a b", false), ("/100%", "/100%25", true), ("/a%zz", "/a%zz", false)]
        {
            let got = attribute(SpecVersion::V10, "source", value, Written::As(written));
            assert_eq!(got.is_ok(), valid, "{value} written {written}: {got:?}");
        }
    }

    #[test]
    fn an_extension_cannot_pose_as_an_attribute() {
        for name in ["id", "source", "type", "time", "datacontenttype", "dataschema", "subject", "data", "specversion"]
        {
            assert!(extension(SpecVersion::V10, name, "x").is_err(), "{name}");
        }
    }

    #[test]
    fn an_error_shows_a_short_excerpt_without_line_breaks() {
        let fault = attribute(SpecVersion::V10, &"ä\n".repeat(10_000), "x", Written::Plain).unwrap_err().to_string();
        assert!(fault.len() < 400 && !fault.contains('\n'), "{fault}");
    }
}

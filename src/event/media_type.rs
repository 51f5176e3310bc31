//! Media types as far as CloudEvents needs them: which one is JSON, which one is an event format.

use super::Error;
use super::text::{find, split_once};
use super::validate::excerpt;

pub(super) const EVENT: &str = "application/cloudevents+json";
pub(super) const EVENT_BATCH: &str = "application/cloudevents-batch+json";
/// Every content type that begins so says that the body is an event in some format.
const EVENT_PREFIX: &str = "application/cloudevents";

/// What nearly all events have; it need not be taken apart.
const JSON: &str = "application/json";

/// The event formats that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    JsonBatch,
}

/// The event format that a content type names; `None` when it names none, so that the body is data.
///
/// # Errors
/// [`Error::UnsupportedFormat`] for another format than JSON, or another charset than UTF-8.
pub(super) fn format(content_type: &str) -> Result<Option<Format>, Error> {
    let essence = essence(content_type);
    if !essence.get(..EVENT_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENT_PREFIX)) {
        return Ok(None);
    }
    let unsupported = || Error::UnsupportedFormat(excerpt(content_type));
    let format = if essence.eq_ignore_ascii_case(EVENT_BATCH) {
        Format::JsonBatch
    } else if essence.eq_ignore_ascii_case(EVENT) {
        Format::Json
    } else {
        return Err(unsupported());
    };
    match charset(content_type) {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") => Err(unsupported()),
        _ => Ok(Some(format)),
    }
}

/// `*/json` and `*/*+json`, whatever the parameters (CloudEvents JSON format, section 3.1).
pub(super) fn is_json(media_type: &str) -> bool {
    if media_type == JSON {
        return true;
    }
    let Some((_, subtype)) = split_once(essence(media_type), b'/') else {
        return false;
    };
    let suffix = subtype.len().checked_sub("+json".len()).and_then(|start| subtype.get(start..));
    subtype.eq_ignore_ascii_case("json") || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

/// RFC 2046 in the grammar of RFC 9110 section 8.3.1: `type/subtype` and any parameters.
pub(super) fn is_valid(text: &str) -> bool {
    if text == JSON {
        return true;
    }
    let (essence, mut parameters) = text.split_at(find(text, b';').unwrap_or(text.len()));
    let essence_ok = match split_once(essence.trim_end_matches([' ', '\t']), b'/') {
        Some((kind, subtype)) => is_token(kind) && is_token(subtype),
        None => false,
    };
    if !essence_ok {
        return false;
    }
    while let Some(rest) = parameters.strip_prefix(';') {
        let rest = rest.trim_start_matches([' ', '\t']);
        match after_parameter(rest) {
            Some(rest) => parameters = rest.trim_start_matches([' ', '\t']),
            None => return false,
        }
    }
    parameters.is_empty()
}

pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// What follows one `name=value`, value a token or a quoted string; an empty parameter is allowed.
fn after_parameter(text: &str) -> Option<&str> {
    if text.is_empty() || text.starts_with(';') {
        return Some(text);
    }
    let (name, value) = text.split_once('=')?;
    if !is_token(name) {
        return None;
    }
    if let Some(quoted) = value.strip_prefix('"') {
        return after_quoted(quoted);
    }
    let end = value.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(value.len());
    (end > 0).then(|| value.get(end..)).flatten()
}

fn after_quoted(text: &str) -> Option<&str> {
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return text.get(index + 1..),
            b'\\' => {
                bytes.next().filter(|(_, escaped)| is_quotable(*escaped))?;
            }
            byte if !is_quotable(byte) => return None,
            _ => {}
        }
    }
    None
}

fn is_quotable(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

fn essence(content_type: &str) -> &str {
    split_once(content_type, b';').map_or(content_type, |(essence, _)| essence).trim_matches([' ', '\t'])
}

fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let named = name.trim_matches([' ', '\t']).eq_ignore_ascii_case("charset");
        named.then(|| value.trim_matches([' ', '\t', '"']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_from_other_text() {
        for valid in [
            "application/json",
            "text/json",
            "Application/JSON; charset=utf-8",
            "text/plain;charset=\"utf-8\"; a=b",
            "text/plain ;charset=utf-8",
            "multipart/mixed; boundary=\"a \\\" ;b\"",
            "application/json;",
            "application/vnd.x+json; v=1;;",
            "*/*",
        ] {
            assert!(is_valid(valid), "{valid}");
        }
        for invalid in [
            "",
            "json",
            "/json",
            "application/",
            "application/json/x",
            "application/js on",
            "text/plain; charset",
            "text/plain; =x",
            "text/plain; a=",
            "text/plain; a=\"x",
            "text/plain; a=\"x\\",
            "text/plain; a=\"é\"",
            "text/plain; a=b c",
            "text/plain, text/html",
            "téxt/plain",
        ] {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }

    #[test]
    fn json_is_known_by_subtype_or_suffix() {
        for json in [
            "application/json",
            "text/json",
            "Application/JSON",
            "model/json; a=b",
            "application/vnd.x+json; charset=utf-8",
            "application/CloudEvents+Json",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in
            ["application/json-seq", "application/jsonlines", "text/plain", "text/plain; a=+json", "json", "a/é"]
        {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn the_event_format_is_chosen_by_the_whole_type() {
        let check = |content_type: &str, expected: Option<Format>| {
            assert_eq!(format(content_type), Ok(expected), "{content_type}");
        };
        check("application/cloudevents+json", Some(Format::Json));
        check("Application/CloudEvents+JSON ; charset=UTF-8", Some(Format::Json));
        check("application/cloudevents+json; charset=\"utf-8\"; x=y", Some(Format::Json));
        check("application/cloudevents-batch+json", Some(Format::JsonBatch));
        check("application/json", None);
        check("text/plain; a=application/cloudevents", None);
        check("", None);
        for unsupported in [
            "application/cloudevents",
            "application/cloudevents; charset=utf-8",
            "application/cloudevents+avro",
            "application/cloudevents+json-seq",
            "application/cloudevents+jsonfoo",
            "application/cloudevents-batch+avro",
            "application/cloudevents-batch",
            "application/cloudevents+json; charset=latin1",
        ] {
            assert_eq!(format(unsupported), Err(Error::UnsupportedFormat(unsupported.to_owned())));
        }
    }
}

//! Where the headers of a message are written, whatever they become: a header map, or bytes that go out as they are.

use std::borrow::Cow;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue};

/// What the header of an attribute begins with, in both bindings.
pub(super) const PREFIX: &str = "ce-";

/// The headers of one message. Names are in lower case.
pub trait Headers {
    /// Writes the header of an attribute, which is there once: `ce-` and its name. Both are those of a valid event, and the value
    /// is coded: so they are visible ASCII, and nothing need be looked at once more.
    fn attribute(&mut self, name: &str, value: &str);

    /// Writes a header that is there once. What no header can hold is left out.
    fn set(&mut self, name: &str, value: &str);

    /// Writes a header that may be there already. What no header can hold is left out.
    fn add(&mut self, name: &str, value: &str);
}

/// A map that is full takes no more.
impl Headers for HeaderMap {
    fn attribute(&mut self, name: &str, value: &str) {
        if let (Some(name), Ok(value)) = (attribute_name(name), HeaderValue::from_str(value)) {
            let _ = self.try_insert(name, value);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        if let (Some(name), Ok(value)) = (header_name(name), HeaderValue::from_str(value)) {
            let _ = self.try_insert(name, value);
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        if let (Some(name), Ok(value)) = (header_name(name), HeaderValue::from_str(value)) {
            let _ = self.try_append(name, value);
        }
    }
}

/// The name of a header that nearly every event has, in any case. It costs no memory.
pub(crate) fn usual_header(name: &str) -> Option<HeaderName> {
    usual_attribute(&attribute_of(name)?)
}

/// The attribute that a header of any case stands for, in lower case.
pub(super) fn attribute_of(header: &str) -> Option<Cow<'_, str>> {
    let (prefix, name) = header.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let lower = !name.bytes().fold(false, |upper, byte| upper | byte.is_ascii_uppercase());
    Some(if lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) })
}

/// The names that nearly every event has cost no memory and no look at their characters.
fn attribute_name(name: &str) -> Option<HeaderName> {
    usual_attribute(name).or_else(|| HeaderName::try_from([PREFIX, name].concat()).ok())
}

fn usual_attribute(name: &str) -> Option<HeaderName> {
    const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
    const ID: HeaderName = HeaderName::from_static("ce-id");
    const SOURCE: HeaderName = HeaderName::from_static("ce-source");
    const TYPE: HeaderName = HeaderName::from_static("ce-type");
    const TIME: HeaderName = HeaderName::from_static("ce-time");
    const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
    const DATASCHEMA: HeaderName = HeaderName::from_static("ce-dataschema");
    Some(match name {
        "specversion" => SPECVERSION,
        "id" => ID,
        "source" => SOURCE,
        "type" => TYPE,
        "time" => TIME,
        "subject" => SUBJECT,
        "dataschema" => DATASCHEMA,
        _ => return None,
    })
}

fn header_name(name: &str) -> Option<HeaderName> {
    match name {
        "content-type" => Some(CONTENT_TYPE),
        _ => HeaderName::try_from(name).ok(),
    }
}

/// The bytes of a header line for [`Headers::attribute`]; the same in HTTP and in NATS.
pub(crate) fn write_attribute(bytes: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(HeaderName::try_from(name).is_ok() && value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    bytes.reserve(PREFIX.len() + name.len() + value.len() + 4);
    for part in [PREFIX, name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The headers of a message as a list.
#[cfg(any(test, fuzzing))]
impl Headers for Vec<(String, String)> {
    fn attribute(&mut self, name: &str, value: &str) {
        self.push((format!("{PREFIX}{name}"), value.to_owned()));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.add(name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        self.push((name.to_owned(), value.to_owned()));
    }
}

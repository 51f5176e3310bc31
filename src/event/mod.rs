//! The event as we carry it: validated context attributes and data bytes that are never altered.
//!
//! Everything that is a CloudEvent anywhere in the bridge is an [`Event`], and an [`Event`] cannot be invalid: the only way
//! to make one is [`Builder::build`], which every codec goes through ([`http`] and [`nats`] for the two bindings, [`json`] for
//! the JSON format they share). This room knows no HTTP server and no NATS client.

mod attributes;
mod headers;
pub mod http;
pub mod json;
mod media_type;
pub mod nats;
mod pass_through;
mod percent;
mod sdk;
mod text;
mod time;
mod uri;
mod validate;

#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine as _;
use bytes::Bytes;

use attributes::Attributes;
pub use headers::Headers;
use headers::PREFIX;
pub(crate) use headers::{usual_header, write_attribute};
pub use pass_through::{PassThrough, is_traceparent};

/// The version of the CloudEvents specification an event says it follows. An event leaves in the version it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecVersion {
    V03,
    V10,
}

impl SpecVersion {
    /// # Errors
    /// For any other version than 1.0 and 0.3.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "0.3" => Ok(Self::V03),
            "1.0" => Ok(Self::V10),
            _ => {
                let fault = format!("is '{}', expected 1.0 or 0.3", validate::excerpt(text));
                Err(Error::attribute("specversion", fault))
            }
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V03 => "0.3",
            Self::V10 => "1.0",
        }
    }
}

/// A CloudEvent whose attributes keep the rules of its specification version.
///
/// Attribute values are held in their canonical text form (an integer as decimal text, binary as base64 text), decoded: no
/// percent-coding. That is what `binary` mode sends, and what equality of events is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    version: SpecVersion,
    attributes: Attributes,
    /// A URI among the attributes is none any more as it stands here, decoded.
    has_broken_uri: bool,
    data: Option<Bytes>,
}

impl Event {
    pub fn version(&self) -> SpecVersion {
        self.version
    }

    pub fn id(&self) -> &str {
        self.required("id")
    }

    pub fn source(&self) -> &str {
        self.required("source")
    }

    pub fn kind(&self) -> &str {
        self.required("type")
    }

    pub fn datacontenttype(&self) -> Option<&str> {
        self.attribute("datacontenttype")
    }

    /// A context attribute or extension by its name, `specversion` included.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        if name == "specversion" {
            return Some(self.version.as_str());
        }
        self.attributes.get(name)
    }

    /// All attributes and extensions but `specversion`, in the order in which they came.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter()
    }

    /// All attributes and extensions but `specversion`, each value as a header holds it: percent-coded, plain ASCII.
    fn coded_attributes(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.attributes.iter_plain().map(|(name, value, is_plain)| {
            let coded = match self.uri_text(name, value) {
                Cow::Borrowed(value) if is_plain => Cow::Borrowed(value),
                Cow::Borrowed(value) => percent::encode(value),
                Cow::Owned(escaped) => Cow::Owned(escaped),
            };
            (name, coded)
        })
    }

    /// The value as it may stand for others to read. A URI that decoding has broken (`/a b`, which came as `/a%20b` from a peer
    /// that does not percent-code) is escaped again, or no reader could take it; all other values are what they are.
    fn uri_text<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        if self.has_broken_uri && is_broken_uri(self.version, name, value) {
            Cow::Owned(uri::escape(value))
        } else {
            Cow::Borrowed(value)
        }
    }

    /// The data as bytes, exactly as they came; `None` when the event has none.
    pub fn data(&self) -> Option<&Bytes> {
        self.data.as_ref()
    }

    /// Sets an extension, overwriting an older value.
    ///
    /// # Errors
    /// When the name is not that of an extension (`[a-z0-9]+`, no attribute of the specification) or the value holds
    /// characters that the specification forbids.
    pub fn set_extension(&mut self, name: &str, value: &str) -> Result<(), Error> {
        validate::extension(self.version, name, value)?;
        self.attributes.set(name, value, percent::is_plain(value));
        Ok(())
    }

    /// Takes an extension away, whether it is there or not.
    pub fn remove_extension(&mut self, name: &str) {
        if !matches!(name, "id" | "source" | "type") {
            self.attributes.remove(name);
        }
    }

    /// What identifies the event to JetStream's duplicate window: source **and** id (CloudEvents 1.0.2, "id": the pair is
    /// unique), hashed to 22 characters because the server keeps every id of the window in memory.
    pub fn message_id(&self) -> String {
        // No attribute value may hold a NUL, so the pair cannot be read two ways.
        let pair = [self.source().as_bytes(), &[0], self.id().as_bytes()].concat();
        // In one go: a hash that is fed by parts has a state on the heap, which costs more than the copy.
        let hash = digest::digest(&digest::SHA256, &pair);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16])
    }

    fn required(&self, name: &str) -> &str {
        // `Builder::build` has seen it.
        self.attributes.get(name).unwrap_or_default()
    }
}

/// Collects the parts of one event; [`Builder::build`] is the only door to an [`Event`].
#[derive(Debug)]
pub struct Builder {
    version: SpecVersion,
    attributes: Attributes,
    has_broken_uri: bool,
    data: Option<Bytes>,
}

/// How the value of an attribute was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written<'a> {
    /// As it is read, and so that no header codes any of it (see [`percent::is_plain`]).
    Plain,
    /// So, before percent-decoding.
    As(&'a str),
}

/// Attributes and extensions that one event may have; looking for a name is a scan, so a bound must be.
pub const MAX_ATTRIBUTES: usize = 256;

impl Builder {
    pub fn new(version: SpecVersion) -> Self {
        Self { version, attributes: Attributes::with_room(), has_broken_uri: false, data: None }
    }

    /// Adds one attribute or extension, its value decoded.
    ///
    /// # Errors
    /// When name or value break the specification, the name was there already, or there are [`MAX_ATTRIBUTES`].
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<(), Error> {
        self.add(name, value, if percent::is_plain(value) { Written::Plain } else { Written::As(value) })
    }

    /// Adds one attribute as a header has it: maybe quoted, percent-coded.
    fn coded_attribute(&mut self, name: &str, text: &str) -> Result<(), Error> {
        if percent::is_plain(text) {
            return self.add(name, text, Written::Plain);
        }
        let written = percent::unquote(text);
        let Some(value) = percent::decode(&written) else {
            return Err(Error::attribute(validate::excerpt(name), "is not UTF-8 once it is percent-decoded"));
        };
        self.add(name, &value, Written::As(&written))
    }

    fn add(&mut self, name: &str, value: &str, written: Written<'_>) -> Result<(), Error> {
        // No header keeps the white space around a media type, so it is part of none.
        let value = if name == "datacontenttype" { value.trim_matches(' ') } else { value };
        validate::attribute(self.version, name, value, written)?;
        if self.attributes.has(name) {
            return Err(Error::attribute(name, "is there twice, expected once"));
        }
        if self.attributes.len() >= MAX_ATTRIBUTES {
            return Err(Error::Malformed(format!("the event has more than {MAX_ATTRIBUTES} attributes")));
        }
        self.attributes.push(name, value, written == Written::Plain);
        // What was written as it is read has been looked at just now.
        self.has_broken_uri |= match written {
            Written::Plain => false,
            Written::As(written) => value != written && is_broken_uri(self.version, name, value),
        };
        Ok(())
    }

    /// Sets the data. No bytes are no data: a binary-mode message cannot tell the two apart.
    pub fn data(&mut self, data: Bytes) {
        self.data = (!data.is_empty()).then_some(data);
    }

    /// # Errors
    /// When `id`, `source` or `type` is missing.
    pub fn build(self) -> Result<Event, Error> {
        for name in ["id", "source", "type"] {
            if !self.attributes.has(name) {
                return Err(Error::attribute(name, "is missing, expected a non-empty value"));
            }
        }
        let Self { version, attributes, has_broken_uri, data } = self;
        Ok(Event { version, attributes, has_broken_uri, data })
    }
}

/// Why something is not a CloudEvent. The text names the attribute or field and what was expected of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One attribute breaks a rule.
    #[error("attribute '{name}' {fault}")]
    Attribute { name: String, fault: String },
    /// The envelope cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// One event of a batch is at fault; nothing of the batch counts. Indexes count from 0.
    #[error("event {index} of the batch: {fault}")]
    InBatch { index: usize, fault: Box<Error> },
    /// A CloudEvents format that we do not speak.
    #[error(
        "unsupported event format '{0}', expected application/cloudevents+json or application/cloudevents-batch+json"
    )]
    UnsupportedFormat(String),
}

impl Error {
    pub(crate) fn attribute(name: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Attribute { name: name.into(), fault: fault.into() }
    }
}

fn is_broken_uri(version: SpecVersion, name: &str, value: &str) -> bool {
    validate::Kind::of(version, name).is_some_and(|kind| kind.is_uri() && !kind.holds(value))
}

fn header_text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(value).map_err(|_| Error::attribute(validate::excerpt(name), "is not UTF-8"))
}

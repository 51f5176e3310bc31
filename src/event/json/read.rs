//! Reading the JSON format. Members are borrowed from the input: JSON data is never parsed into values and written again, which
//! would lose digits, order and duplicate keys, and costs ten times as much. Nesting costs no stack, so its depth needs no bound.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::scan::{NotJson, Scanner, Value};
use super::shape;
use crate::event::validate::{self, Kind, excerpt};
use crate::event::{Builder, Error, Event, MAX_ATTRIBUTES, SpecVersion, Written, media_type};

/// Events that one batch may have.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// Attributes and the members that are none: specversion, data, data_base64.
const MAX_MEMBERS: usize = MAX_ATTRIBUTES + 3;

/// # Errors
/// When the bytes are no JSON object that holds a valid event.
pub fn decode(bytes: &Bytes) -> Result<Event, Error> {
    let text = text(bytes)?;
    decode_one(text, bytes).map_err(|refusal| refusal.of(text))
}

fn decode_one(text: &str, bytes: &Bytes) -> Result<Event, Refusal> {
    Ok(Envelope::of(text)?.event(bytes, None)?)
}

/// # Errors
/// [`Error::InBatch`] names the first event at fault.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<Event>, Error> {
    let text = text(bytes)?;
    let mut events = Vec::new();
    let Err(refusal) = decode_all(text, bytes, &mut events) else {
        return Ok(events);
    };
    // What is no array of values at all is not the fault of one event.
    let members = shape::batch(text).map_err(|fault| not_json("batch of events", &fault))?;
    let index = events.len();
    let member = members.get(index).map_or("", |member| member.get());
    Err(Error::InBatch { index, fault: Box::new(refusal.of(member)) })
}

/// Stops at the first event that is none.
fn decode_all(text: &str, bytes: &Bytes, events: &mut Vec<Event>) -> Result<(), Refusal> {
    let mut scanner = Scanner::new(text);
    let mut envelope = Envelope::default();
    scanner.array(|scanner| {
        if events.len() == MAX_BATCH_EVENTS {
            return Err(Refusal::NotJson);
        }
        envelope.read(scanner)?;
        let event = same_version(events.first(), envelope.event(bytes, None)?)?;
        events.push(event);
        Ok(())
    })?;
    Ok(scanner.end()?)
}

/// Reads a message that does not say what it is: `None` when it is no JSON object with a `specversion`, so that it claims nothing.
/// `absent_id` stands in for an `id` that is not there.
pub(in crate::event) fn decode_unlabelled(
    bytes: &Bytes,
    absent_id: impl FnOnce() -> String,
) -> Option<Result<Event, Error>> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let envelope = Envelope::of(std::str::from_utf8(bytes).ok()?).ok()?;
    present(envelope.specversion)?;
    let id = envelope.attribute("id").is_none().then(absent_id);
    Some(envelope.event(bytes, id))
}

fn text(bytes: &Bytes) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|fault| {
        Error::Malformed(format!("the JSON is not UTF-8: the fault is at byte {}", fault.valid_up_to()))
    })
}

/// Why there is no event.
enum Refusal {
    NotJson,
    Invalid(Error),
}

impl Refusal {
    /// `text` is that of the event.
    fn of(self, text: &str) -> Error {
        match self {
            Self::Invalid(fault) => fault,
            Self::NotJson => match shape::event(text) {
                Err(fault) => not_json("event", &fault),
                Ok(()) => {
                    debug_assert!(false, "serde_json takes what the scanner does not: {text}");
                    Error::Malformed("this is not a JSON event".to_owned())
                }
            },
        }
    }
}

impl From<NotJson> for Refusal {
    fn from(NotJson: NotJson) -> Self {
        Self::NotJson
    }
}

impl From<Error> for Refusal {
    fn from(fault: Error) -> Self {
        Self::Invalid(fault)
    }
}

fn not_json(what: &str, fault: &serde_json::Error) -> Error {
    Error::Malformed(format!("this is not a JSON {what}: {fault}"))
}

/// CloudEvents 1.0.2, JSON format, section 4.1: one specversion for the whole batch.
fn same_version(first: Option<&Event>, event: Event) -> Result<Event, Error> {
    match first {
        Some(first) if first.version() != event.version() => {
            let (own, expected) = (event.version().as_str(), first.version().as_str());
            Err(Error::attribute("specversion", format!("is {own}, expected {expected} as in the events before")))
        }
        _ => Ok(event),
    }
}

/// The members of one object.
#[derive(Default)]
struct Envelope<'a> {
    specversion: Option<Value<'a>>,
    data: Option<Value<'a>>,
    data_base64: Option<Value<'a>>,
    /// All others, in order.
    attributes: Vec<(Cow<'a, str>, Value<'a>)>,
    /// The first name that is there twice, `null` or not.
    twice: Option<String>,
    too_many: bool,
}

impl<'a> Envelope<'a> {
    /// That of a text which holds nothing else.
    fn of(text: &'a str) -> Result<Self, NotJson> {
        let mut scanner = Scanner::new(text);
        let mut envelope = Self::default();
        envelope.read(&mut scanner)?;
        scanner.end()?;
        Ok(envelope)
    }

    /// Reads the members of another object into the room of those before.
    fn read(&mut self, scanner: &mut Scanner<'a>) -> Result<(), NotJson> {
        self.attributes.clear();
        *self = Self { attributes: std::mem::take(&mut self.attributes), ..Self::default() };
        let mut members = 0;
        scanner.object(|name, value| {
            if members == MAX_MEMBERS {
                self.too_many = true;
                return;
            }
            members += 1;
            let known = match name.as_ref() {
                "specversion" => &mut self.specversion,
                "data" => &mut self.data,
                "data_base64" => &mut self.data_base64,
                _ => {
                    if self.attributes.iter().any(|(known, _)| *known == name) {
                        self.twice.get_or_insert_with(|| name.clone().into_owned());
                    }
                    self.attributes.push((name, value));
                    return;
                }
            };
            if known.is_some() {
                self.twice.get_or_insert_with(|| name.into_owned());
            }
            *known = present(*known).or(Some(value));
        })
    }

    fn attribute(&self, name: &str) -> Option<Value<'a>> {
        present(self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| *value))
    }

    /// `bytes` is where the members lie; `id` is set for an event that came without.
    fn event(&self, bytes: &Bytes, id: Option<String>) -> Result<Event, Error> {
        if let Some(name) = &self.twice {
            return Err(Error::attribute(excerpt(name), "is there twice, expected once"));
        }
        if self.too_many {
            return Err(Error::Malformed(format!("the event has more than {MAX_ATTRIBUTES} attributes")));
        }
        let Some(version) = present(self.specversion) else {
            return Err(Error::attribute("specversion", "is missing, expected \"1.0\" or \"0.3\""));
        };
        let version = SpecVersion::parse(&string("specversion", version)?)?;
        let mut builder = Builder::new(version);
        if let Some(id) = id {
            builder.attribute("id", &id)?;
        }
        let data = self.data(version)?;
        for (name, value) in &self.attributes {
            if value.is_null() {
                continue;
            }
            let value = match value.characters() {
                Some(characters) => Cow::Borrowed(characters),
                None => attribute(version, name, *value)?,
            };
            if version == SpecVersion::V03 && name == "datacontentencoding" && matches!(data, Data::Encoded { .. }) {
                // The bytes are no longer encoded, so the event does not say so.
                validate::attribute(version, name, &value, Written::As(&value))?;
            } else {
                builder.attribute(name, &value)?;
            }
        }
        set_data(&mut builder, bytes, data)?;
        builder.build()
    }

    fn data(&self, version: SpecVersion) -> Result<Data<'a>, Error> {
        // `null` is a value here, unlike in attributes.
        match (version, self.data, present(self.data_base64)) {
            (SpecVersion::V03, _, Some(_)) => {
                let fault = "does not exist in specversion 0.3, expected data with datacontentencoding base64";
                Err(Error::attribute("data_base64", fault))
            }
            (SpecVersion::V10, Some(data), Some(_)) if !data.is_null() => {
                Err(Error::Malformed("the event has both data and data_base64, expected one of them".to_owned()))
            }
            (SpecVersion::V10, _, Some(encoded)) => Ok(Data::Encoded { member: "data_base64", value: encoded }),
            (SpecVersion::V03, Some(data), None)
                if !data.is_null() && self.attribute("datacontentencoding").is_some() =>
            {
                Ok(Data::Encoded { member: "data", value: data })
            }
            (_, Some(data), None) => Ok(Data::Plain(data)),
            (_, None, None) => Ok(Data::None),
        }
    }
}

/// `null` is no value of an attribute.
fn present(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|value| !value.is_null())
}

/// How the data of an event is written.
#[derive(Clone, Copy)]
enum Data<'a> {
    None,
    /// Member `data`, maybe `null`.
    Plain(Value<'a>),
    /// A base64 string.
    Encoded {
        member: &'static str,
        value: Value<'a>,
    },
}

/// The content type, when there is one, is set by now.
fn set_data(builder: &mut Builder, bytes: &Bytes, data: Data<'_>) -> Result<(), Error> {
    let content_type = builder.attributes.get("datacontenttype");
    let is_json = content_type.is_none_or(media_type::is_json);
    match data {
        Data::None => {}
        Data::Encoded { member, value } => {
            let decoded = STANDARD.decode(string(member, value)?.as_bytes());
            let decoded = decoded.map_err(|fault| Error::attribute(member, format!("is not base64 text: {fault}")))?;
            builder.data(decoded.into());
        }
        Data::Plain(value) if is_json => {
            if content_type.is_none() {
                builder.attribute("datacontenttype", "application/json")?;
            }
            builder.data(slice_of(bytes, value.text()));
        }
        Data::Plain(value) if value.is_null() => {}
        Data::Plain(value) if value.is_string() => builder.data(match string("data", value)? {
            Cow::Borrowed(characters) => slice_of(bytes, characters),
            Cow::Owned(characters) => characters.into(),
        }),
        Data::Plain(value) => builder.data(slice_of(bytes, value.text())),
    }
    Ok(())
}

/// The value of one attribute in its canonical text form. Those that the specification names are strings in JSON.
fn attribute<'a>(version: SpecVersion, name: &str, value: Value<'a>) -> Result<Cow<'a, str>, Error> {
    if value.is_string() || Kind::of(version, name).is_some() {
        return string(name, value);
    }
    match value.text() {
        boolean @ ("true" | "false") => Ok(Cow::Borrowed(boolean)),
        number => match number.parse::<i32>() {
            Ok(number) => Ok(Cow::Owned(number.to_string())),
            Err(_) => {
                let fault = format!("is {}, expected a string, a boolean or a 32-bit integer", excerpt(number));
                Err(Error::attribute(excerpt(name), fault))
            }
        },
    }
}

fn string<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, Error> {
    if let Some(characters) = value.characters() {
        return Ok(Cow::Borrowed(characters));
    }
    if value.is_string() {
        return serde_json::from_str(value.text()).map(Cow::Owned).map_err(|fault| {
            Error::attribute(excerpt(name), format!("is no JSON string of Unicode characters: {fault}"))
        });
    }
    Err(Error::attribute(excerpt(name), format!("is {}, expected a string", excerpt(value.text()))))
}

/// The same bytes without a copy; `part` lies in `whole`, as all that was borrowed from it.
fn slice_of(whole: &Bytes, part: &str) -> Bytes {
    whole.slice_ref(part.as_bytes())
}

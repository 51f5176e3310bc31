//! Reading the JSON format. Members are borrowed from the input ([`RawValue`]): JSON data is never parsed into values and written
//! again, which would lose digits, order and duplicate keys, and costs ten times as much. Nesting costs no stack, so its depth
//! needs no bound.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::validate::{self, Kind, excerpt};
use crate::event::{Builder, Error, Event, MAX_ATTRIBUTES, SpecVersion, Written, media_type};

/// Events that one batch may have.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// Attributes and the members that are none: specversion, data, data_base64.
const MAX_MEMBERS: usize = MAX_ATTRIBUTES + 3;

/// # Errors
/// When the bytes are no JSON object that holds a valid event.
pub fn decode(bytes: &Bytes) -> Result<Event, Error> {
    Envelope::parse(text(bytes)?).map_err(|fault| not_json("event", &fault))?.into_event(bytes, None)
}

/// # Errors
/// [`Error::InBatch`] names the first event at fault.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<Event>, Error> {
    let text = text(bytes)?;
    let mut events: Vec<Event> = Vec::new();
    // In one go. A batch that cannot be read so is read once more, event by event, to tell which one is at fault.
    let envelopes: Vec<Result<Envelope<'_>, serde_json::Error>> = match serde_json::from_str(text) {
        Ok(Batch(envelopes)) => envelopes.into_iter().map(Ok).collect(),
        Err(_) => {
            let Batch(members) = serde_json::from_str(text).map_err(|fault| not_json("batch of events", &fault))?;
            members.into_iter().map(|member: &RawValue| Envelope::parse(member.get())).collect()
        }
    };
    for (index, envelope) in envelopes.into_iter().enumerate() {
        let event = envelope
            .map_err(|fault| not_json("event", &fault))
            .and_then(|envelope| envelope.into_event(bytes, None))
            .and_then(|event| same_version(events.first(), event))
            .map_err(|fault| Error::InBatch { index, fault: Box::new(fault) })?;
        events.push(event);
    }
    Ok(events)
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
    let envelope = Envelope::parse(std::str::from_utf8(bytes).ok()?).ok()?;
    envelope.get("specversion")?;
    let id = envelope.get("id").is_none().then(absent_id);
    Some(envelope.into_event(bytes, id))
}

fn text(bytes: &Bytes) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|fault| {
        Error::Malformed(format!("the JSON is not UTF-8: the fault is at byte {}", fault.valid_up_to()))
    })
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

/// The members of one object that are not `null`, in order.
struct Envelope<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The first name that is there twice, `null` or not.
    twice: Option<String>,
    too_many: bool,
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(known, value)| known == name && !is_null(value)).map(|(_, value)| *value)
    }

    /// `bytes` is where the members lie; `id` is set for an event that came without.
    fn into_event(self, bytes: &Bytes, id: Option<String>) -> Result<Event, Error> {
        if let Some(name) = self.twice {
            return Err(Error::attribute(excerpt(&name), "is there twice, expected once"));
        }
        if self.too_many {
            return Err(Error::Malformed(format!("the event has more than {MAX_ATTRIBUTES} attributes")));
        }
        let Some(version) = self.get("specversion") else {
            return Err(Error::attribute("specversion", "is missing, expected \"1.0\" or \"0.3\""));
        };
        let version = SpecVersion::parse(&string("specversion", version)?)?;
        let mut builder = Builder::new(version);
        if let Some(id) = id {
            builder.attribute("id", &id)?;
        }
        let data = self.data(version)?;
        for (name, value) in &self.members {
            if is_null(value) || matches!(name.as_ref(), "specversion" | "data" | "data_base64") {
                continue;
            }
            let value = attribute(version, name, value)?;
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
        let data = self.members.iter().find(|(name, _)| name == "data").map(|(_, value)| *value);
        let encoding = self.get("datacontentencoding");
        match (version, data, self.get("data_base64")) {
            (SpecVersion::V03, _, Some(_)) => {
                let fault = "does not exist in specversion 0.3, expected data with datacontentencoding base64";
                Err(Error::attribute("data_base64", fault))
            }
            (SpecVersion::V10, Some(data), Some(_)) if !is_null(data) => {
                Err(Error::Malformed("the event has both data and data_base64, expected one of them".to_owned()))
            }
            (SpecVersion::V10, _, Some(encoded)) => Ok(Data::Encoded { member: "data_base64", value: encoded }),
            (SpecVersion::V03, Some(data), None) if encoding.is_some() && !is_null(data) => {
                Ok(Data::Encoded { member: "data", value: data })
            }
            (_, Some(data), None) => Ok(Data::Plain(data)),
            (_, None, None) => Ok(Data::None),
        }
    }
}

/// How the data of an event is written.
#[derive(Clone, Copy)]
enum Data<'a> {
    None,
    /// Member `data`, maybe `null`.
    Plain(&'a RawValue),
    /// A base64 string.
    Encoded {
        member: &'static str,
        value: &'a RawValue,
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
            builder.data(slice_of(bytes, value.get()));
        }
        Data::Plain(value) if is_null(value) => {}
        Data::Plain(value) if is_string(value) => builder.data(match string("data", value)? {
            Cow::Borrowed(characters) => slice_of(bytes, characters),
            Cow::Owned(characters) => characters.into(),
        }),
        Data::Plain(value) => builder.data(slice_of(bytes, value.get())),
    }
    Ok(())
}

/// The value of one attribute in its canonical text form. Those that the specification names are strings in JSON.
fn attribute<'a>(version: SpecVersion, name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Error> {
    if is_string(value) || Kind::of(version, name).is_some() {
        return string(name, value);
    }
    match value.get() {
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

fn string<'a>(name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Error> {
    let text = value.get();
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(characters) if !characters.as_bytes().contains(&b'\\') => Ok(Cow::Borrowed(characters)),
        Some(_) => serde_json::from_str(text).map(Cow::Owned).map_err(|fault| {
            Error::attribute(excerpt(name), format!("is no JSON string of Unicode characters: {fault}"))
        }),
        None => Err(Error::attribute(excerpt(name), format!("is {}, expected a string", excerpt(text)))),
    }
}

fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// The same bytes without a copy; `part` lies in `whole`, as all that was borrowed from it.
fn slice_of(whole: &Bytes, part: &str) -> Bytes {
    whole.slice_ref(part.as_bytes())
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with the attributes of one event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope { members: Vec::with_capacity(12), twice: None, too_many: false };
        while let Some(Name(name)) = map.next_key()? {
            if envelope.members.len() == MAX_MEMBERS {
                envelope.too_many = true;
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?;
            if envelope.twice.is_none() && envelope.members.iter().any(|(known, _)| *known == name) {
                envelope.twice = Some(name.clone().into_owned());
            }
            envelope.members.push((name, value));
        }
        Ok(envelope)
    }
}

/// A member's name, borrowed unless it holds escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

struct Batch<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Batch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for BatchVisitor<T> {
            type Value = Batch<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut batch = Batch(Vec::new());
                while let Some(member) = members.next_element()? {
                    if batch.0.len() == MAX_BATCH_EVENTS {
                        let fault = format!("the batch has more than {MAX_BATCH_EVENTS} events");
                        return Err(serde::de::Error::custom(fault));
                    }
                    batch.0.push(member);
                }
                Ok(batch)
            }
        }

        deserializer.deserialize_seq(BatchVisitor(PhantomData))
    }
}

//! cloudevents-sdk as a second opinion: what both take, both must take alike, and what only one takes must be on the list of
//! what is known to divide them.
//!
//! The SDK is wrong, and excused, in this: it checks no characters, names, lengths or URIs, and takes integers of 64 bits; it
//! takes the last of two members of one name; it parses JSON data into values, and so refuses what is nested too deeply, numbers
//! beyond a double, and data that is no string beside another content type; it refuses relative schema URLs of 0.3 and `null`
//! beside another form of data; it knows no percent-coding, no batch, no content type in upper case or with white space around it,
//! and takes some content types for JSON that are not, and the other way round.

use std::collections::BTreeMap;

use ::http::HeaderMap;
use bytes::Bytes;
use cloudevents::Data;
use cloudevents::event::{AttributesReader as _, ExtensionValue, SpecVersion as SdkVersion, TryIntoTime as _};
use cloudevents::message::{self, BinaryDeserializer, BinarySerializer, MessageAttributeValue};
use serde_json::Value;

use crate::event::{Error, Event, SpecVersion, http, json, media_type};

/// Reads a JSON event with both.
pub(in crate::event) fn agrees_on_json(body: &Bytes) {
    match (json::decode(body), serde_json::from_slice::<cloudevents::Event>(body)) {
        (Ok(ours), Ok(theirs)) => is_same(&ours, &theirs),
        (Ok(ours), Err(fault)) => assert!(may_refuse(&ours, body), "the SDK says '{fault}' of {ours:?}"),
        (Err(fault), Ok(_)) => assert!(is_stricter(&fault), "the SDK takes what is '{fault}'"),
        (Err(_), Err(_)) => {}
    }
}

/// Reads a message in binary or structured mode with both.
pub(in crate::event) fn agrees_on(headers: &HeaderMap, body: &Bytes) {
    match http::mode(headers) {
        Ok(http::Mode::Structured) => agrees_on_json(body),
        Ok(http::Mode::Binary) if headers.contains_key("ce-specversion") && is_plain(headers) => {
            let theirs = BinaryDeserializer::into_event(Binary(headers, body));
            match (http::decode(headers, body.clone()).map(|mut events| events.pop()), theirs) {
                (Ok(Some(ours)), Ok(theirs)) => is_same(&ours, &theirs),
                (Ok(Some(ours)), Err(fault)) => {
                    assert!(cloudevents::Event::try_from(&ours).is_err(), "the SDK says '{fault}' of {ours:?}");
                }
                (Err(fault), Ok(_)) => assert!(is_stricter(&fault), "the SDK takes what is '{fault}'"),
                _ => {}
            }
        }
        _ => {}
    }
}

/// What the SDK's own HTTP binding does, which comes with an HTTP stack of its own.
struct Binary<'a>(&'a HeaderMap, &'a Bytes);

impl BinaryDeserializer for Binary<'_> {
    fn deserialize_binary<R: Sized, V: BinarySerializer<R>>(self, mut visitor: V) -> message::Result<R> {
        let Self(headers, body) = self;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let version = SdkVersion::try_from(text("ce-specversion"))?;
        let specified = version.attribute_names();
        visitor = visitor.set_spec_version(version)?;
        for name in headers.keys().filter_map(|name| name.as_str().strip_prefix("ce-")) {
            let value = MessageAttributeValue::String(text(&format!("ce-{name}")).to_owned());
            visitor = match name {
                "specversion" => visitor,
                _ if specified.contains(&name) => visitor.set_attribute(name, value)?,
                _ => visitor.set_extension(name, value)?,
            };
        }
        if headers.contains_key("content-type") {
            let value = MessageAttributeValue::String(text("content-type").to_owned());
            visitor = visitor.set_attribute("datacontenttype", value)?;
        }
        if body.is_empty() { visitor.end() } else { visitor.end_with_data(body.to_vec()) }
    }
}

/// Values that mean what they say: what is coded or quoted the SDK does not understand, and it does not see a header's second value.
fn is_plain(headers: &HeaderMap) -> bool {
    headers.keys_len() == headers.len()
        && headers.values().all(|value| value.to_str().is_ok_and(|text| !text.contains(['%', '"'])))
}

fn is_same(ours: &Event, theirs: &cloudevents::Event) {
    let version = match theirs.specversion() {
        SdkVersion::V03 => SpecVersion::V03,
        SdkVersion::V10 => SpecVersion::V10,
    };
    assert_eq!(ours.version(), version);
    assert_eq!((ours.id(), ours.source(), ours.kind()), (theirs.id(), theirs.source().as_str(), theirs.ty()));
    assert_eq!(ours.attribute("subject"), theirs.subject());
    // JSON data that says nothing of itself is JSON to us, and we say so.
    let content_type = theirs
        .datacontenttype()
        .map(|told| told.trim_matches(' '))
        .or(ours.datacontenttype().filter(|_| theirs.data().is_some()));
    assert_eq!(ours.datacontenttype(), content_type);
    assert_eq!(ours.attribute("time").and_then(|time| time.into_time().ok()).as_ref(), theirs.time());
    let schema = if version == SpecVersion::V03 { "schemaurl" } else { "dataschema" };
    assert_eq!(ours.attribute(schema).is_some(), theirs.dataschema().is_some());
    same_extensions(ours, theirs);
    same_data(ours, theirs);
}

fn same_extensions(ours: &Event, theirs: &cloudevents::Event) {
    const SPECIFIED: [&str; 8] =
        ["id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "schemaurl"];
    let v03 = ours.version() == SpecVersion::V03;
    let is_specified = |name: &str| match name {
        "dataschema" => !v03,
        "schemaurl" | "datacontentencoding" => v03,
        _ => SPECIFIED.contains(&name),
    };
    let text = |value: &ExtensionValue| match value {
        ExtensionValue::String(text) => text.clone(),
        ExtensionValue::Boolean(boolean) => boolean.to_string(),
        ExtensionValue::Integer(integer) => integer.to_string(),
    };
    let known: BTreeMap<&str, String> = ours
        .attributes()
        .filter(|(name, _)| !is_specified(name))
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    let told: BTreeMap<&str, String> = theirs
        .iter_extensions()
        .filter(|(name, _)| !is_specified(name))
        .map(|(name, value)| (name, text(value)))
        .collect();
    assert_eq!(known, told);
}

fn same_data(ours: &Event, theirs: &cloudevents::Event) {
    let data = ours.data().map(|data| &data[..]).unwrap_or_default();
    // Which content types are JSON is seen differently (`image/json`, `application/jsonp`), and so is what stands beside them.
    let is_json = ours.datacontenttype().is_some_and(media_type::is_json);
    match theirs.data() {
        None => assert!(data.is_empty()),
        Some(Data::Binary(bytes)) => assert_eq!(data, bytes),
        Some(Data::String(text)) if is_json => {
            assert_eq!(serde_json::from_slice::<Value>(data).ok(), Some(Value::String(text.clone())));
        }
        Some(Data::String(text)) => assert_eq!(data, text.as_bytes()),
        Some(Data::Json(Value::String(text))) if !is_json => assert_eq!(data, text.as_bytes()),
        Some(Data::Json(Value::Null)) if !is_json => assert!(data.is_empty()),
        Some(Data::Json(value)) => assert_eq!(serde_json::from_slice::<Value>(data).ok().as_ref(), Some(value)),
    }
}

/// Whether the SDK refuses a JSON event of ours for one of the reasons in which it is wrong.
fn may_refuse(ours: &Event, body: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return true };
    let v03 = ours.version() == SpecVersion::V03;
    let data = value.get("data");
    let encoding = value.get("datacontentencoding");
    cloudevents::Event::try_from(ours).is_err()
        || data.is_some_and(|data| !data.is_string())
        || value.get("data_base64").is_some_and(Value::is_null)
        || (v03 && encoding.is_some_and(Value::is_null))
        || (v03 && encoding.is_some() && data.is_some())
}

/// Whether we refuse for a rule that the SDK does not hold events to, and not because the JSON cannot be read.
fn is_stricter(fault: &Error) -> bool {
    match fault {
        Error::Attribute { .. } | Error::UnsupportedFormat(_) => true,
        Error::Malformed(text) => text.contains("attributes"),
        Error::InBatch { .. } => false,
    }
}

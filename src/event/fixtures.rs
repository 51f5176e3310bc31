//! Events for the tests of this room: Knative's conformance events, and any event at all.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::{Builder, Event, SpecVersion};

pub(super) fn event(version: SpecVersion, attributes: &[(&str, &str)], data: Option<&[u8]>) -> Event {
    let mut builder = Builder::new(version);
    for (name, value) in attributes {
        builder.attribute(name, value).unwrap();
    }
    if let Some(data) = data {
        builder.data(Bytes::copy_from_slice(data));
    }
    builder.build().unwrap()
}

pub(super) fn min() -> Event {
    let attributes = [("id", "min-event"), ("source", "http://example.com/source"), ("type", "com.example.MinEvent")];
    event(SpecVersion::V10, &attributes, None)
}

pub(super) fn full() -> Event {
    let attributes = [
        ("id", "full-event"),
        ("source", "http://example.com/source"),
        ("type", "com.example.FullEvent"),
        ("subject", "topic"),
        ("time", "2020-03-21T12:34:56.78Z"),
        ("dataschema", "http://example.com/schema"),
        ("datacontenttype", "text/json"),
        ("exbool", "true"),
        ("exint", "42"),
        ("exstring", "exstring"),
        ("exbinary", "AAECAw=="),
        ("exurl", "http://example.com/source"),
        ("extime", "2020-03-21T12:34:56.78Z"),
    ];
    event(SpecVersion::V10, &attributes, Some(b"\"hello\""))
}

/// Any valid event, of either version.
pub(super) fn any_event() -> impl Strategy<Value = Event> {
    let text = "[^\\p{C}\u{fffe}\u{ffff}]{1,12}".prop_filter("noncharacters", |text| is_text(text));
    let source = prop_oneof!["/[a-zA-Z0-9%é~]{0,12}", "(urn|https):[a-z/]{1,9}", "/a%20[a-z]"]
        .prop_filter("URI-references", |source: &String| super::uri::is_reference(source));
    let content_type = prop_oneof![
        Just(None),
        Just(Some("application/json")),
        Just(Some("application/vnd.x+json; charset=utf-8")),
        Just(Some("text/plain; a=\"b c\"")),
        Just(Some("application/octet-stream")),
    ];
    let data = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(String::into_bytes),
        Just(b"null".to_vec()),
        Just(b"{\"z\":1.10,\"a\":12345678901234567890123,\"dup\":1,\"dup\":2}".to_vec()),
    ];
    let extensions =
        prop::collection::btree_map("x[a-z0-9]{0,8}", prop_oneof![text.clone(), Just(String::new())], 0..5);
    let version = prop_oneof![Just(SpecVersion::V10), Just(SpecVersion::V03)];
    let subject = prop::option::of(text.clone());
    (version, text, source, subject, content_type, data, extensions).prop_map(
        |(version, id, source, subject, content_type, data, extensions)| {
            let mut attributes = vec![("id", id.as_str()), ("source", &source), ("type", "com.example.any")];
            attributes.extend(subject.as_deref().map(|subject| ("subject", subject)));
            attributes.extend(content_type.map(|content_type| ("datacontenttype", content_type)));
            attributes.extend(extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            event(version, &attributes, Some(&data))
        },
    )
}

fn is_text(text: &str) -> bool {
    super::validate::extension(SpecVersion::V10, "x", text).is_ok()
}

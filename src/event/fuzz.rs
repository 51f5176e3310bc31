//! What holds of this room's codecs whatever comes in. `crate::fuzz` makes the input up.

#![allow(clippy::unwrap_used, reason = "a law that is broken panics")]

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::http::{self, Mode};
use super::{Event, PassThrough, SpecVersion, json, media_type, nats, sdk, validate};

/// Header lines, an empty line, a body. A line that is no header ends the headers, too.
pub(crate) fn message(bytes: &[u8]) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    (headers, Bytes::copy_from_slice(rest))
}

/// A request to the ingress: what is read of it can be written in every form, and is the same when it is read again.
pub(crate) fn http_event(bytes: &[u8]) {
    let (headers, body) = message(bytes);
    sdk::fuzz::agrees_on(&headers, &body);
    match http::decode(&headers, body) {
        Ok(events) => {
            events.iter().for_each(comes_back);
            batch_comes_back(&events);
        }
        Err(fault) => is_told(&fault),
    }
}

/// A JSON event is read as cloudevents-sdk reads it, where that is right.
pub(crate) fn json_event(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    sdk::fuzz::agrees_on_json(&body);
    match json::decode(&body) {
        Ok(event) => {
            is_json(&body);
            comes_back(&event);
        }
        Err(fault) => is_told(&fault),
    }
}

/// An answer of a sink: it is a reply exactly when it claims to be an event, and then the event that a request would be.
pub(crate) fn reply(bytes: &[u8]) {
    let (headers, body) = message(bytes);
    let reply = http::decode_reply(&headers, body.clone());
    let claims = headers.contains_key("ce-specversion") || !matches!(http::mode(&headers), Ok(Mode::Binary));
    assert!(reply.is_none() || claims, "{reply:?} claims nothing");
    match reply {
        Some(Ok(event)) => {
            assert_eq!(http::decode(&headers, body), Ok(vec![event.clone()]));
            comes_back(&event);
        }
        Some(Err(fault)) => is_told(&fault),
        None => assert!(!claims || !headers.contains_key("ce-specversion"), "a claim went unheard"),
    }
}

/// The headers that travel beside an event: within their bounds, the same for both bindings, and once picked they stay.
pub(crate) fn pass_through(bytes: &[u8]) {
    let (headers, _) = message(bytes);
    let picked = PassThrough::from_http(&headers);
    let mut size = 0;
    for (name, value) in picked.iter() {
        assert!(name.starts_with("knative-") || name.starts_with("x-") || name.starts_with("trace"), "{name}");
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}: {value:?}");
        size += name.len() + value.len();
    }
    assert!(picked.iter().count() <= 32 && size <= 8192);
    assert!(picked.tracestate().is_none() || picked.traceparent().is_some());
    let mut written = HeaderMap::new();
    picked.write(&mut written);
    let again = PassThrough::from_http(&written);
    let sorted = |headers: &PassThrough| {
        let mut pairs: Vec<(String, String)> =
            headers.iter().map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(sorted(&again), sorted(&picked));
    assert_eq!(PassThrough::from_pairs(picked.iter()), picked);
}

/// A stored message, its headers as pairs: what is read of it can be stored and is the same when it is read again.
pub(crate) fn nats_message<'a>(headers: impl Iterator<Item = (&'a str, &'a str)> + Clone, payload: Bytes) {
    match nats::decode(headers, payload, ORIGIN) {
        Ok((event, pass_through)) => {
            comes_back(&event);
            assert_eq!(stored(&event, &pass_through), (event, pass_through));
        }
        Err(fault) => is_told(&fault),
    }
}

const ORIGIN: nats::Origin<'static> =
    nats::Origin { stream: "S", sequence: 1, subject: "a.default", stored_at_nanos: 0 };

fn stored(event: &Event, pass_through: &PassThrough) -> (Event, PassThrough) {
    let mut written: Vec<(String, String)> = Vec::new();
    let payload = nats::encode(event, pass_through, &mut written);
    for (name, value) in &written {
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}: {value:?} is no plain text");
    }
    nats::decode(written.iter().map(|(name, value)| (name.as_str(), value.as_str())), payload, ORIGIN).unwrap()
}

/// An event is the same once it was written and read: to NATS, in binary mode, in structured mode.
pub(crate) fn comes_back(event: &Event) {
    assert_eq!(stored(event, &PassThrough::default()).0, *event);
    assert_eq!(event.message_id().len(), 22);

    let mut headers = HeaderMap::new();
    let body = http::encode_binary(event, &mut headers);
    if headers.contains_key("ce-specversion") {
        assert_eq!(http::decode(&headers, body), Ok(vec![event.clone()]));
    } else {
        // In another mode, because binary mode cannot hold it.
        assert_eq!(http::decode(&headers, body), Ok(vec![structured(event)]));
    }

    let read = structured(event);
    if is_kept_by_json(event) {
        assert_eq!(read, with_bare_data(event));
    }
    assert_eq!(structured(&read), with_bare_data(&read));
}

fn structured(event: &Event) -> Event {
    let mut headers = HeaderMap::new();
    let body = http::encode_structured(event, &mut headers);
    is_json(&body);
    http::decode(&headers, body).unwrap().pop().unwrap()
}

fn batch_comes_back(events: &[Event]) {
    let mut headers = HeaderMap::new();
    let body = http::encode_batch(&events.iter().collect::<Vec<_>>(), &mut headers);
    is_json(&body);
    assert_eq!(http::decode(&headers, body).unwrap(), events.iter().map(structured).collect::<Vec<_>>());
}

/// What JSON writes in another way: a URI that is none once it is decoded, and the base64 text of 0.3.
fn is_kept_by_json(event: &Event) -> bool {
    let is_base64_text = event.version() == SpecVersion::V03 && event.attribute("datacontentencoding").is_some();
    !event.has_broken_uri && !is_base64_text
}

/// White space around JSON data is not part of the value.
fn with_bare_data(event: &Event) -> Event {
    let mut event = event.clone();
    if event.datacontenttype().is_some_and(media_type::is_json)
        && let Some(data) = &event.data
        && let Ok(value) = serde_json::from_slice::<&RawValue>(data)
    {
        event.data = Some(Bytes::copy_from_slice(value.get().as_bytes()));
    }
    event
}

fn is_json(body: &Bytes) {
    let text = std::str::from_utf8(body).unwrap();
    serde_json::from_str::<&RawValue>(text).unwrap();
}

fn is_told(fault: &super::Error) {
    let text = fault.to_string();
    assert!(!text.is_empty() && !text.contains(['\n', '\r']), "{text:?} is no line");
}

/// The small grammars that attributes are made of.
pub(crate) fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    use super::{percent, uri};
    assert_eq!(percent::decode(&percent::encode(text)).as_deref(), Some(text));
    assert!(percent::encode(text).bytes().all(|byte| matches!(byte, b'!'..=b'~')));
    assert!(uri::is_reference(&uri::escape(text)), "{:?} is no URI-reference", uri::escape(text));
    assert!(!uri::is_absolute(text) || uri::is_reference(text));
    assert!(!media_type::is_json(text) || text.contains('/'));
    let _ = (validate::excerpt(text), super::time::is_rfc3339(text), super::is_traceparent(text));
}

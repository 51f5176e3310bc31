//! The CloudEvents HTTP binding, both ways: binary, structured and batched content mode. It knows headers and bytes, no
//! server and no client.

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::media_type::{self, Format};
use super::{Builder, Error, Event, Headers, PREFIX, SpecVersion, header_text, json, percent};

const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");

/// How one or more events lie in a request or an answer (CloudEvents HTTP binding, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Structured,
    Batch,
}

/// The content mode that the `Content-Type` asks for.
///
/// # Errors
/// [`Error::UnsupportedFormat`] for a CloudEvents format other than JSON, [`Error::Malformed`] for two content types.
pub fn mode(headers: &HeaderMap) -> Result<Mode, Error> {
    let Some(content_type) = single(headers, &CONTENT_TYPE)? else {
        return Ok(Mode::Binary);
    };
    Ok(match media_type::format(&String::from_utf8_lossy(content_type.as_bytes()))? {
        None => Mode::Binary,
        Some(Format::Json) => Mode::Structured,
        Some(Format::JsonBatch) => Mode::Batch,
    })
}

/// The events of a request, in order: one in binary and structured mode, any number in batched mode.
///
/// # Errors
/// When any of it is no valid event; then nothing of a batch counts.
pub fn decode(headers: &HeaderMap, body: Bytes) -> Result<Vec<Event>, Error> {
    decode_in(mode(headers)?, headers, body)
}

/// The same when the [`mode`] is known already.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(mode: Mode, headers: &HeaderMap, body: Bytes) -> Result<Vec<Event>, Error> {
    match mode {
        Mode::Binary => decode_binary(headers, body).map(|event| vec![event]),
        Mode::Structured => json::decode(&body).map(|event| vec![event]),
        Mode::Batch => json::decode_batch(&body),
    }
}

/// The event that a sink's answer carries: `None` when the answer does not claim to be a CloudEvent.
pub fn decode_reply(headers: &HeaderMap, body: Bytes) -> Option<Result<Event, Error>> {
    let claims_format = || {
        let types = headers.get_all(CONTENT_TYPE);
        types.iter().any(|value| !matches!(media_type::format(&String::from_utf8_lossy(value.as_bytes())), Ok(None)))
    };
    if !headers.contains_key(SPECVERSION) && !claims_format() {
        return None;
    }
    Some(mode(headers).and_then(|mode| match mode {
        Mode::Binary => decode_binary(headers, body),
        Mode::Structured => json::decode(&body),
        Mode::Batch => Err(Error::Malformed("a reply is one event, not a batch".to_owned())),
    }))
}

/// Writes the attributes as headers in binary mode and gives the body. An event whose data is itself an event, or a batch of
/// them, is written in structured mode: in binary mode its `Content-Type` would say that the data is what was sent.
pub fn encode_binary(event: &Event, headers: &mut dyn Headers) -> Bytes {
    if event.datacontenttype().is_some_and(|kind| !matches!(media_type::format(kind), Ok(None))) {
        return encode_structured(event, headers);
    }
    headers.attribute("specversion", event.version().as_str());
    for (name, value) in event.coded_attributes() {
        if name != "datacontenttype" {
            headers.attribute(name, &value);
        }
    }
    if let Some(content_type) = event.datacontenttype() {
        headers.set(CONTENT_TYPE.as_str(), content_type);
    }
    event.data().cloned().unwrap_or_default()
}

/// Writes the content type of structured mode and gives the JSON body.
pub fn encode_structured(event: &Event, headers: &mut dyn Headers) -> Bytes {
    headers.set(CONTENT_TYPE.as_str(), media_type::EVENT);
    json::encode(event)
}

/// Writes the content type of batched mode and gives the JSON body.
pub fn encode_batch(events: &[&Event], headers: &mut dyn Headers) -> Bytes {
    headers.set(CONTENT_TYPE.as_str(), media_type::EVENT_BATCH);
    json::encode_batch(events)
}

fn decode_binary(headers: &HeaderMap, body: Bytes) -> Result<Event, Error> {
    let mut builder = Builder::new(version(headers)?);
    for (header, value) in headers {
        match header.as_str().strip_prefix(PREFIX) {
            None | Some("specversion") => {}
            Some("datacontenttype") => {
                let fault = "must not come as header 'ce-datacontenttype', expected it in Content-Type";
                return Err(Error::attribute("datacontenttype", fault));
            }
            Some(name) => builder.coded_attribute(name, header_text(name, value.as_bytes())?)?,
        }
    }
    if let Some(content_type) = headers.get(CONTENT_TYPE) {
        builder.attribute("datacontenttype", header_text("datacontenttype", content_type.as_bytes())?)?;
    }
    builder.data(body);
    builder.build()
}

fn version(headers: &HeaderMap) -> Result<SpecVersion, Error> {
    let Some(value) = single(headers, &SPECVERSION)? else {
        return Err(Error::Malformed(
            "this is not a CloudEvent: expected the header ce-specversion (with ce-id, ce-source and ce-type; the body is \
             the data) or the Content-Type application/cloudevents+json (the body is the event)"
                .to_owned(),
        ));
    };
    let written = percent::unquote(header_text("specversion", value.as_bytes())?);
    SpecVersion::parse(&percent::decode(&written).unwrap_or_default())
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Error> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Error::Malformed(format!("header '{name}' is there twice, expected once"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::event::fixtures::{any_event, event, full, min};

    fn map(headers: &[(&str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    /// A binary event with these headers in place of, or beside, the required ones.
    fn binary(headers: &[(&str, &str)]) -> Result<Event, Error> {
        let mut all = vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        all.extend(headers.iter().filter(|(_, value)| *value != "-"));
        let all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        decode(&map(&all), Bytes::new()).map(|mut events| events.remove(0))
    }

    fn check(name: &str, value: &str, expected: &str) {
        let event = binary(&[(name, value)]).unwrap();
        assert_eq!(event.attribute(&name[3..].to_lowercase()), Some(expected), "{name}: {value}");
    }

    fn check_refused(headers: &[(&str, &str)], names: &str) {
        let fault = binary(headers).unwrap_err().to_string();
        assert!(fault.contains(names), "'{fault}' does not name '{names}'");
    }

    #[test]
    fn the_conformance_events_come_back_unchanged_in_every_mode() {
        for event in [min(), full()] {
            let mut headers = HeaderMap::new();
            let body = encode_binary(&event, &mut headers);
            assert_eq!(decode(&headers, body), Ok(vec![event.clone()]));
            let mut headers = HeaderMap::new();
            let body = encode_structured(&event, &mut headers);
            assert_eq!(decode(&headers, body), Ok(vec![event.clone()]));
            let mut headers = HeaderMap::new();
            let body = encode_batch(&[&event, &event], &mut headers);
            assert_eq!(decode(&headers, body), Ok(vec![event.clone(), event]));
        }
    }

    #[test]
    fn header_values_are_decoded() {
        check("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀");
        check("ce-subject", "\"a \\\" b\"", "a \" b");
        check("ce-subject", "100% sure", "100% sure");
        check("ce-subject", "€", "€");
        check("ce-source", "/a%2520b", "/a%20b");
        check("ce-source", "/a%20b", "/a b");
        check("ce-source", "/caf%C3%A9", "/café");
        check("ce-source", "/a%5Bb", "/a[b");
        check("ce-specversion", "\"1.0\"", "1.0");
        check("ce-time", "2018-04-05T17:31:00.123456789123+02:00", "2018-04-05T17:31:00.123456789123+02:00");
        check("ce-dataschema", "HTTP://EXAMPLE.com:80/a/../b", "HTTP://EXAMPLE.com:80/a/../b");
        check("CE-MyExt", "", "");
        check("ce-specversion", "0.3", "0.3");
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_named() {
        for (name, value, names) in [
            ("ce-subject", "%C0%A0", "'subject' is not UTF-8"),
            ("ce-subject", "%00", "U+0000"),
            ("ce-subject", "a\tb", "U+0009"),
            ("ce-subject", "", "'subject' is empty"),
            ("ce-id", "", "'id' is empty"),
            ("ce-id", "\"\"", "'id' is empty"),
            ("ce-id", "-", "'id' is missing"),
            ("ce-type", "", "'type'"),
            ("ce-type", "-", "'type' is missing"),
            ("ce-source", "", "'source'"),
            ("ce-source", "-", "'source' is missing"),
            ("ce-source", "ht tp://[bad", "'source'"),
            ("ce-dataschema", "HTTP://EXAMPLE.com:80/a/../b c", "'dataschema'"),
            ("ce-time", "2018-04-05 17:31:00Z", "'time'"),
            ("ce-bad_name", "x", "'bad_name'"),
            ("ce-foo-bar", "x", "'foo-bar'"),
            ("ce-", "x", "attribute ''"),
            ("ce-data", "INJECTED", "'data'"),
            ("ce-datacontenttype", "text/plain", "Content-Type"),
            ("ce-specversion", "9000.1", "expected 1.0 or 0.3"),
            ("ce-specversion", "%FF", "expected 1.0 or 0.3"),
            ("content-type", "text", "'datacontenttype'"),
            ("content-type", "téxt/plain", "'datacontenttype'"),
        ] {
            check_refused(&[(name, value)], names);
        }
        check_refused(&[("ce-specversion", "-")], "expected the header ce-specversion");
        check_refused(&[("ce-specversion", "-")], "application/cloudevents+json");
        check_refused(&[("ce-id", "1"), ("ce-id", "2")], "'id' is there twice");
        check_refused(&[("ce-specversion", "1.0"), ("ce-specversion", "1.0")], "'ce-specversion' is there twice");
        check_refused(&[("content-type", "a/b"), ("content-type", "a/b")], "'content-type' is there twice");
        let raw = map(&[("ce-specversion", b"1.0"), ("ce-id", b"\xff"), ("ce-source", b"/s"), ("ce-type", b"t")]);
        assert!(decode(&raw, Bytes::new()).unwrap_err().to_string().contains("'id' is not UTF-8"));
    }

    #[test]
    fn an_event_of_version_0_3_keeps_its_attributes_and_bytes() {
        let headers = map(&[
            ("ce-specversion", b"0.3"),
            ("ce-id", b"1"),
            ("ce-source", b"/s"),
            ("ce-type", b"t"),
            ("ce-schemaurl", b"/schema"),
            ("ce-datacontentencoding", b"base64"),
            ("content-type", b"text/plain"),
        ]);
        let events = decode(&headers, Bytes::from_static(b"eA==")).unwrap();
        let mut written = HeaderMap::new();
        assert_eq!(encode_binary(&events[0], &mut written), "eA==");
        assert_eq!(written, headers);
    }

    #[test]
    fn the_content_type_is_passed_on_to_the_letter() {
        let event = binary(&[("content-type", "Text/Plain;charset=\"UTF-8\"")]).unwrap();
        assert_eq!(event.datacontenttype(), Some("Text/Plain;charset=\"UTF-8\""));
        assert_eq!(binary(&[]).unwrap().datacontenttype(), None);
        assert_eq!(binary(&[]).unwrap().data(), None);
    }

    #[test]
    fn written_values_are_percent_coded() {
        let mut event = binary(&[("ce-source", "/a%5Bb"), ("ce-subject", "Euro%20%E2%82%AC")]).unwrap();
        event.set_extension("x", "a b \"c\" 100%25").unwrap();
        event.set_extension("y", "/a%20b").unwrap();
        let mut headers = HeaderMap::new();
        encode_binary(&event, &mut headers);
        assert_eq!(headers["ce-source"], "/a%5Bb");
        assert_eq!(headers["ce-subject"], "Euro%20%E2%82%AC");
        assert_eq!(headers["ce-x"], "a%20b%20%22c%22%20100%2525");
        assert_eq!(headers["ce-y"], "/a%2520b");
        assert!(!headers.contains_key("content-type") && !headers.contains_key("ce-datacontenttype"));
    }

    #[test]
    fn the_content_type_chooses_the_mode() {
        let check = |content_type: &str, expected: Option<Mode>| {
            let headers = map(&[("content-type", content_type.as_bytes()), ("ce-specversion", b"1.0")]);
            assert_eq!(mode(&headers).ok(), expected, "{content_type}");
        };
        check("Application/CloudEvents+JSON; charset=UTF-8", Some(Mode::Structured));
        check("application/cloudevents-batch+json", Some(Mode::Batch));
        check("application/json", Some(Mode::Binary));
        check("application/cloudevents+avro", None);
        check("application/cloudevents; charset=utf-8", None);
        check("application/cloudevents+json-seq", None);
        assert_eq!(mode(&HeaderMap::new()), Ok(Mode::Binary));
    }

    #[test]
    fn a_reply_is_an_event_only_when_it_claims_to_be_one() {
        let check = |headers: &[(&str, &[u8])], body: &'static str, expected: Option<bool>| {
            let reply = decode_reply(&map(headers), Bytes::from_static(body.as_bytes()));
            assert_eq!(reply.map(|event| event.is_ok()), expected, "{headers:?}");
        };
        let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
        check(&[], "", None);
        check(&[("content-type", b"application/json")], json, None);
        check(&[("ce-id", b"1")], "", None);
        check(&[("ce-specversion", b"1.0"), ("ce-id", b"1"), ("ce-source", b"/s"), ("ce-type", b"t")], "", Some(true));
        check(&[("ce-specversion", b"1.0")], "", Some(false));
        check(&[("content-type", b"application/cloudevents+json")], json, Some(true));
        check(&[("content-type", b"application/cloudevents+json")], "{}", Some(false));
        check(&[("content-type", b"application/cloudevents-batch+json")], "[]", Some(false));
        check(&[("content-type", b"application/cloudevents+avro")], "", Some(false));
        check(&[("content-type", b"a/b"), ("content-type", b"application/cloudevents+json")], json, Some(false));
    }

    #[test]
    fn an_event_in_an_event_is_not_taken_for_the_one_that_was_sent() {
        let data = br#"{"specversion":"1.0","id":"inner","source":"/s","type":"t"}"#;
        for kind in ["application/cloudevents+json", "Application/CloudEvents-batch+json", "application/cloudevents+x"]
        {
            let attributes = [("id", "outer"), ("source", "/s"), ("type", "t"), ("datacontenttype", kind)];
            let event = event(SpecVersion::V10, &attributes, Some(data));
            let mut headers = HeaderMap::new();
            let body = encode_binary(&event, &mut headers);
            assert_eq!(decode(&headers, body), Ok(vec![event]));
        }
    }

    proptest! {
        #[test]
        fn every_event_comes_back_from_binary_mode(event in any_event()) {
            let mut headers = HeaderMap::new();
            let body = encode_binary(&event, &mut headers);
            prop_assert_eq!(decode(&headers, body), Ok(vec![event]));
        }

        #[test]
        fn no_request_makes_it_panic(
            headers in prop::collection::vec(("(ce-)?(specversion|id|source|type|time|[a-z0-9_-]{1,8})", prop::collection::vec(any::<u8>(), 0..20)), 0..9),
            content_type in "(application/cloudevents(-batch)?(\\+json)?)?.{0,9}",
            body in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut map = HeaderMap::new();
            map.insert("ce-specversion", HeaderValue::from_static("1.0"));
            let content_type = ("content-type".to_owned(), content_type.into_bytes());
            for (name, value) in headers.into_iter().chain([content_type]) {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
                    map.insert(name, value);
                }
            }
            let body = Bytes::from(body);
            let _ = (decode(&map, body.clone()), decode_reply(&map, body));
        }
    }
}

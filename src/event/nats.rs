//! The CloudEvents NATS binding, both ways: what we write (binary mode) and all that we read, whoever wrote it. Headers are
//! pairs of text here; the NATS client is `channel`'s.

use bytes::Bytes;
use jiff::Timestamp;

use super::headers::attribute_of;
use super::media_type::{self, Format};
use super::{Builder, Error, Event, Headers, PassThrough, SpecVersion, json, percent, uri};

const SPECVERSION: &str = "ce-specversion";
const CONTENT_TYPE: &str = "content-type";
/// The type of an event that stands for a message of which nobody said that it is one.
pub const MESSAGE_TYPE: &str = "dev.knats.message";

/// Where a stored message lies; it stands in for what a message from outside CloudEvents does not say.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub stream: &'a str,
    pub sequence: u64,
    pub subject: &'a str,
    /// When the server stored it, in nanoseconds since the Unix epoch.
    pub stored_at_nanos: i128,
}

/// Writes the headers of the message (binary mode, then what passes through) and gives the payload.
pub fn encode(event: &Event, pass_through: &PassThrough, headers: &mut dyn Headers) -> Bytes {
    headers.attribute("specversion", event.version().as_str());
    for (name, value) in event.coded_attributes() {
        headers.attribute(name, &value);
    }
    pass_through.write(headers);
    event.data().cloned().unwrap_or_default()
}

/// Reads a stored message: binary mode, structured mode, bare JSON, or, where it claims to be none of these, any payload as an
/// event of type `dev.knats.message`.
///
/// # Errors
/// When the message claims to be a CloudEvent and is not a valid one.
pub fn decode<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    payload: Bytes,
    origin: Origin<'_>,
) -> Result<(Event, PassThrough), Error> {
    let event = decode_event(headers.clone(), payload, origin)?;
    Ok((event, PassThrough::from_pairs(headers)))
}

fn decode_event<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    payload: Bytes,
    origin: Origin<'_>,
) -> Result<Event, Error> {
    let find =
        |wanted: &str| headers.clone().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value);
    let content_type = find(CONTENT_TYPE).map(str::trim);
    // The content type comes first: a structured message may repeat its attributes as headers, and its payload wins.
    match content_type.map(media_type::format).transpose()?.flatten() {
        Some(Format::Json) => return json::decode(&payload),
        Some(Format::JsonBatch) => {
            return Err(Error::Malformed("a NATS message is one event, not a batch".to_owned()));
        }
        None => {}
    }
    if let Some(version) = find(SPECVERSION) {
        return decode_binary(version, headers, content_type, payload);
    }
    let absent_id = || format!("{}:{}", origin.stream, origin.sequence);
    if let Some(event) = json::decode_unlabelled(&payload, absent_id) {
        return event;
    }
    from_message(content_type, payload, origin)
}

fn decode_binary<'a>(
    version: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&str>,
    payload: Bytes,
) -> Result<Event, Error> {
    let version = percent::unquote(version);
    let mut builder = Builder::new(SpecVersion::parse(&percent::decode(&version).unwrap_or_default())?);
    let mut versions = 0;
    for (header, value) in headers {
        let Some(name) = attribute_of(header) else { continue };
        if name == "specversion" {
            versions += 1;
        } else {
            builder.coded_attribute(&name, value)?;
        }
    }
    if versions > 1 {
        return Err(Error::attribute("specversion", "is there twice, expected once"));
    }
    if let (Some(content_type), None) = (content_type, builder.attributes.get("datacontenttype")) {
        builder.attribute("datacontenttype", content_type)?;
    }
    builder.data(payload);
    builder.build()
}

/// An event around a message of which nobody said that it is one: `nats pub foo.default test`.
fn from_message(content_type: Option<&str>, payload: Bytes, origin: Origin<'_>) -> Result<Event, Error> {
    let mut builder = Builder::new(SpecVersion::V10);
    builder.attribute("id", &origin.sequence.to_string())?;
    builder.attribute("source", &format!("/knats/streams/{}", uri::escape(origin.stream)))?;
    builder.attribute("type", MESSAGE_TYPE)?;
    let time = timestamp(origin.stored_at_nanos);
    let told = [("subject", Some(origin.subject)), ("time", time.as_deref()), ("datacontenttype", content_type)];
    for (name, value) in told {
        if let Some(value) = value {
            // What a message tells beside its payload is a help, not a claim: what no attribute can hold is left out.
            let _ = builder.attribute(name, value);
        }
    }
    builder.data(payload);
    builder.build()
}

fn timestamp(nanos: i128) -> Option<String> {
    Timestamp::from_nanosecond(nanos).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::event::fixtures::{any_event, event, full, min};

    const ORIGIN: Origin<'static> = Origin {
        stream: "KN_DEFAULT__FOO",
        sequence: 42,
        subject: "foo.default",
        stored_at_nanos: 1_584_794_096_780_000_000,
    };

    fn read(headers: &[(&str, &str)], payload: &[u8]) -> Result<Event, Error> {
        decode(headers.iter().copied(), Bytes::copy_from_slice(payload), ORIGIN).map(|(event, _)| event)
    }

    fn written(event: &Event, pass_through: &PassThrough) -> (Vec<(String, String)>, Bytes) {
        let mut headers = Vec::new();
        let payload = encode(event, pass_through, &mut headers);
        (headers, payload)
    }

    fn pairs(headers: &[(String, String)]) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn check_refused(headers: &[(&str, &str)], payload: &str, names: &str) {
        let fault = read(headers, payload.as_bytes()).unwrap_err().to_string();
        assert!(fault.contains(names), "'{fault}' does not name '{names}'");
    }

    #[test]
    fn the_conformance_events_and_what_passes_through_come_back_unchanged() {
        let pass_through = PassThrough::from_pairs([("x-request-id", "r 1"), ("knative-a", "b")].into_iter());
        for event in [min(), full()] {
            let (headers, payload) = written(&event, &pass_through);
            let read = decode(pairs(&headers).into_iter(), payload, ORIGIN).unwrap();
            assert_eq!(read, (event, pass_through.clone()));
        }
    }

    #[test]
    fn headers_are_written_as_the_binding_says() {
        let attributes =
            [("id", "1"), ("source", "/s"), ("type", "t"), ("datacontenttype", "text/plain; a=b"), ("x", "100%")];
        let (headers, payload) = written(&event(SpecVersion::V10, &attributes, Some(b"hi")), &PassThrough::default());
        assert_eq!(
            pairs(&headers),
            [
                ("ce-specversion", "1.0"),
                ("ce-id", "1"),
                ("ce-source", "/s"),
                ("ce-type", "t"),
                ("ce-datacontenttype", "text/plain;%20a=b"),
                ("ce-x", "100%25"),
            ]
        );
        assert_eq!(payload, "hi");
        assert!(written(&min(), &PassThrough::default()).1.is_empty());
    }

    #[test]
    fn binary_mode_is_read_in_any_case() {
        let headers = [
            ("Ce-SpecVersion", "1.0"),
            ("CE-ID", "a%20b"),
            ("ce-Source", "/s"),
            ("Ce-Type", "t"),
            ("Nats-Msg-Id", "x"),
        ];
        let event = read(&[&headers[..], &[("Content-Type", "text/plain")]].concat(), b"hi").unwrap();
        assert_eq!((event.id(), event.datacontenttype()), ("a b", Some("text/plain")));
        assert_eq!(event.data().unwrap(), "hi");
        let both = [&headers[..], &[("content-type", "text/plain"), ("ce-datacontenttype", "a/b")]].concat();
        assert_eq!(read(&both, b"").unwrap().datacontenttype(), Some("a/b"));

        check_refused(&[&headers[..], &[("ce-id", "2")]].concat(), "", "'id' is there twice");
        check_refused(&[&headers[..], &[("ce-specversion", "1.0")]].concat(), "", "'specversion' is there twice");
        check_refused(&[&headers[..], &[("ce-bad_name", "2")]].concat(), "", "'bad_name'");
        check_refused(&[("ce-specversion", "")], "", "'specversion'");
        check_refused(&[("ce-specversion", "1.0")], r#"{"specversion":"1.0"}"#, "'id' is missing");
    }

    #[test]
    fn structured_mode_is_read_by_its_content_type() {
        let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
        let structured = ("content-TYPE", "Application/CloudEvents+JSON; charset=utf-8");
        assert_eq!(read(&[structured], json.as_bytes()).unwrap().id(), "1");
        assert_eq!(read(&[("ce-specversion", "1.0"), ("ce-id", "2"), structured], json.as_bytes()).unwrap().id(), "1");
        check_refused(&[structured], "x", "not a JSON event");
        check_refused(&[structured], r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "'id' is missing");
        check_refused(&[("content-type", "application/cloudevents-batch+json")], "[]", "batch");
        check_refused(&[("content-type", "application/cloudevents+avro")], "", "unsupported event format");
    }

    #[test]
    fn json_that_says_nothing_of_itself_is_read_by_its_specversion() {
        // What eventing-natss writes.
        let natss = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":{"a":1},"traceparent":"","tracestate":""}"#;
        let event = read(&[("Nats-Msg-Id", "1")], natss.as_bytes()).unwrap();
        assert_eq!((event.id(), event.attribute("traceparent")), ("1", Some("")));
        assert_eq!(event.data().unwrap(), "{\"a\":1}");

        // What the tutorial writes.
        for id in ["", r#""id":null,"#] {
            let tutorial = format!(r#" {{{id}"specversion":"1.0","source":"/s","type":"t","data":"x"}}"#);
            assert_eq!(read(&[], tutorial.as_bytes()).unwrap().id(), "KN_DEFAULT__FOO:42");
        }

        for (payload, names) in [
            (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, "'id' is empty"),
            (r#"{"specversion":"1.0","id":5,"source":"/s","type":"t"}"#, "'id'"),
            (r#"{"specversion":"2.0","id":"1","source":"/s","type":"t"}"#, "'specversion'"),
            (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "'source' is missing"),
            (r#"{"specversion":"1.0","id":"1","id":"1","source":"/s","type":"t"}"#, "'id' is there twice"),
        ] {
            check_refused(&[], payload, names);
        }
    }

    #[test]
    fn any_other_message_is_an_event_around_its_payload() {
        let attributes = [
            ("id", "42"),
            ("source", "/knats/streams/KN_DEFAULT__FOO"),
            ("type", "dev.knats.message"),
            ("subject", "foo.default"),
            ("time", "2020-03-21T12:34:56.78Z"),
        ];
        for payload in [
            &b"test"[..],
            b"",
            b"\xff\xfe",
            b"{",
            b"{\"a\":1}",
            b"{\"specversion\":null}",
            b"{\"specversion\":\"1.0\",\"data\":hello}",
            b"{\"specversion\":\"1.0\",\"data\":\"\xff\"}",
            b"[{\"specversion\":\"1.0\"}]",
        ] {
            assert_eq!(read(&[("ce-id", "1")], payload).unwrap(), event(SpecVersion::V10, &attributes, Some(payload)));
        }
        assert_eq!(read(&[("Content-Type", "text/plain")], b"x").unwrap().datacontenttype(), Some("text/plain"));
        assert_eq!(read(&[("Content-Type", "nonsense")], b"x").unwrap().datacontenttype(), None);
    }

    #[test]
    fn a_strange_origin_costs_only_what_it_would_have_told() {
        let origin = Origin { stream: "a b[é:%", sequence: 1, subject: "a\u{1}", stored_at_nanos: i128::MAX };
        let (event, _) = decode([].into_iter(), Bytes::from_static(b"x"), origin).unwrap();
        assert_eq!(event.source(), "/knats/streams/a%20b%5B%C3%A9%3A%25");
        assert_eq!((event.attribute("subject"), event.attribute("time")), (None, None));
    }

    #[test]
    fn what_the_ingress_took_can_be_read_back() {
        for source in ["/a%20b", "/a%5Bb", "%3Aa", "http://h%3Ax/", "urn:a%23b%23c", "/%25zz", "/a%7Cb"] {
            let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", source), ("ce-type", "t")];
            let event = read(&headers, b"").unwrap();
            let (headers, payload) = written(&event, &PassThrough::default());
            assert_eq!(decode(pairs(&headers).into_iter(), payload, ORIGIN).unwrap().0, event, "{source}");
        }
    }

    proptest! {
        #[test]
        fn every_event_comes_back(event in any_event()) {
            let (headers, payload) = written(&event, &PassThrough::default());
            for (_, value) in &headers {
                prop_assert!(value.bytes().all(|byte| matches!(byte, b'!'..=b'~')));
            }
            prop_assert_eq!(decode(pairs(&headers).into_iter(), payload, ORIGIN).unwrap().0, event);
        }

        #[test]
        fn no_message_makes_it_panic(
            headers in prop::collection::vec(("(ce-)?(specversion|id|source|content-type|.{0,6})", any::<String>()), 0..9),
            payload in prop::collection::vec(any::<u8>(), 0..60),
            stream in any::<String>(),
            subject in any::<String>(),
            stored_at_nanos in any::<i128>(),
        ) {
            let origin = Origin { stream: &stream, sequence: u64::MAX, subject: &subject, stored_at_nanos };
            let claims = headers.iter().any(|(name, _)| name == "content-type" || name == "ce-specversion");
            let read = decode(pairs(&headers).into_iter(), Bytes::from(payload), origin);
            prop_assert!(claims || read.is_ok(), "{read:?}");
        }
    }
}

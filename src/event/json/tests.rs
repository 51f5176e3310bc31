//! Owns the checks of the JSON event format, both ways.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::fixtures::{any_event, event, full, min};
use crate::event::{Error, Event, SpecVersion};

/// An event with these members beside the required ones.
fn with(members: &str) -> Result<Event, Error> {
    decode(&Bytes::from(format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{members}}}"#)))
}

fn with_03(members: &str) -> Result<Event, Error> {
    decode(&Bytes::from(format!(r#"{{"specversion":"0.3","id":"1","source":"/s","type":"t",{members}}}"#)))
}

fn check_data(decoded: Result<Event, Error>, content_type: Option<&str>, data: Option<&str>) {
    let decoded = decoded.unwrap();
    assert_eq!(decoded.datacontenttype(), content_type, "{decoded:?}");
    assert_eq!(decoded.data().map(|data| std::str::from_utf8(data).unwrap()), data, "{decoded:?}");
}

fn check_refused(decoded: Result<Event, Error>, names: &str) {
    let fault = decoded.unwrap_err().to_string();
    assert!(fault.contains(names), "'{fault}' does not name '{names}'");
}

#[test]
fn the_conformance_events_come_back_unchanged() {
    for event in [min(), full()] {
        assert_eq!(decode(&encode(&event)).unwrap(), event);
    }
    assert_eq!(
        encode(&full()),
        r#"{"specversion":"1.0","id":"full-event","source":"http://example.com/source","type":"com.example.FullEvent","subject":"topic","time":"2020-03-21T12:34:56.78Z","dataschema":"http://example.com/schema","datacontenttype":"text/json","exbool":"true","exint":"42","exstring":"exstring","exbinary":"AAECAw==","exurl":"http://example.com/source","extime":"2020-03-21T12:34:56.78Z","data":"hello"}"#
    );
}

#[test]
fn white_space_around_a_media_type_is_no_part_of_it() {
    for written in ["text/plain ", "  text/plain", " text/plain  "] {
        check_data(with(&format!(r#""datacontenttype":"{written}","data":"x""#)), Some("text/plain"), Some("x"));
    }
    check_refused(with(r#""datacontenttype":"  ""#), "'datacontenttype' is empty");
}

#[test]
fn json_data_keeps_every_byte() {
    for raw in [
        r#"{"z":1.10,"a":12345678901234567890123,"m":1e2,"dup":1,"dup":2}"#,
        r#""hello""#,
        r#""\ud800""#,
        "[ 1 ,\n 2 ]",
        "null",
        "1e999",
        "-0",
    ] {
        for content_type in ["application/json", "text/json", "Application/JSON", "model/vnd.x+json; charset=utf-8"] {
            let members = format!(r#""datacontenttype":"{content_type}","data": {raw} "#);
            check_data(with(&members), Some(content_type), Some(raw));
        }
        check_data(with(&format!(r#""data":{raw}"#)), Some("application/json"), Some(raw));
    }
}

#[test]
fn json_data_is_not_copied() {
    let body = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#);
    let event = decode(&body).unwrap();
    assert!(body.as_ptr_range().contains(&event.data().unwrap().as_ptr()));
}

#[test]
fn other_data_is_its_characters() {
    let text = r#""datacontenttype":"text/plain","data":"#;
    check_data(with(&format!(r#"{text}"a \"b\" \u20ac""#)), Some("text/plain"), Some("a \"b\" €"));
    check_data(with(&format!(r#"{text}{{"a": 1}}"#)), Some("text/plain"), Some(r#"{"a": 1}"#));
    check_data(with(&format!("{text}true")), Some("text/plain"), Some("true"));
    check_data(with(&format!("{text}null")), Some("text/plain"), None);
    check_data(with(&format!(r#"{text}"""#)), Some("text/plain"), None);
    for kind in ["application/json-seq", "application/jsonlines"] {
        check_data(with(&format!(r#""datacontenttype":"{kind}","data":"[1]""#)), Some(kind), Some("[1]"));
    }
    check_refused(with(&format!(r#"{text}"\ud800""#)), "data");
}

#[test]
fn base64_data_is_its_bytes_and_no_content_type_is_invented() {
    check_data(with(r#""data_base64":"eyJ4IjogMX0=""#), None, Some("{\"x\": 1}"));
    check_data(
        with(r#""datacontenttype":"application/json","data_base64":"eyJ4IjogMX0=""#),
        Some("application/json"),
        Some("{\"x\": 1}"),
    );
    check_data(with(r#""data_base64":null"#), None, None);
    check_data(with(r#""data_base64":null,"data":1"#), Some("application/json"), Some("1"));
    check_data(with(r#""data_base64":"eA==","data":null"#), None, Some("x"));
    check_data(with(r#""data_base64":"\u0065A==""#), None, Some("x"));
    check_refused(with(r#""data_base64":"eA==","data":1"#), "data_base64");
    check_refused(with(r#""data_base64":"eA""#), "base64");
    check_refused(with(r#""data_base64":"e A=""#), "base64");
    check_refused(with(r#""data_base64":"_-8=""#), "base64");
    check_refused(with(r#""data_base64":5"#), "expected a string");
}

#[test]
fn version_0_3_has_its_own_ways() {
    check_data(
        with_03(r#""datacontentencoding":"Base64","data":"eA==","datacontenttype":"a/b""#),
        Some("a/b"),
        Some("x"),
    );
    let decoded = with_03(r#""datacontentencoding":"base64","data":"eA==","schemaurl":"/s""#).unwrap();
    assert_eq!(decoded.attribute("datacontentencoding"), None);
    assert_eq!(decoded.attribute("schemaurl"), Some("/s"));
    assert_eq!(
        encode(&decoded),
        r#"{"specversion":"0.3","id":"1","source":"/s","type":"t","schemaurl":"/s","datacontentencoding":"base64","data":"eA=="}"#
    );
    check_data(with_03(r#""data":{"a":1}"#), Some("application/json"), Some(r#"{"a":1}"#));
    check_data(with_03(r#""datacontentencoding":null,"data":1"#), Some("application/json"), Some("1"));
    check_refused(with_03(r#""datacontentencoding":"rot13","data":"eA==""#), "datacontentencoding");
    check_refused(with_03(r#""datacontentencoding":"base64","data":"?""#), "base64");
    check_refused(with_03(r#""datacontentencoding":"base64","data":1"#), "expected a string");
    check_refused(with_03(r#""data_base64":"eA==""#), "data_base64");

    // In binary mode the bytes are the base64 text, and stay it.
    let attributes = [("id", "1"), ("source", "/s"), ("type", "t"), ("datacontentencoding", "base64")];
    let encoded = encode(&event(SpecVersion::V03, &attributes, Some(b"eA==")));
    check_data(decode(&encoded), None, Some("x"));
    let encoded = encode(&event(SpecVersion::V03, &attributes, Some(b"no base64")));
    check_data(decode(&encoded), None, Some("no base64"));
}

#[test]
fn attributes_are_strings_booleans_and_small_integers() {
    let decoded =
        with(r#""b":true,"c":false,"i":-42,"s":"a \"b\"","n":null,"e":"","zero":-0,"max":2147483647"#).unwrap();
    let expected = [
        ("b", "true"),
        ("c", "false"),
        ("i", "-42"),
        ("s", "a \"b\""),
        ("e", ""),
        ("zero", "0"),
        ("max", "2147483647"),
    ];
    assert_eq!(decoded.attributes().skip(3).collect::<Vec<_>>(), expected);

    for (members, names) in [
        (r#""i":2147483648"#, "'i'"),
        (r#""i":1.0"#, "'i'"),
        (r#""i":1e2"#, "'i'"),
        (r#""o":{}"#, "'o'"),
        (r#""a":[1]"#, "'a'"),
        (r#""subject":"""#, "'subject'"),
        (r#""subject":5"#, "'subject'"),
        (r#""time":5"#, "'time'"),
        (r#""time":"x""#, "'time'"),
        (r#""dataschema":"/relative""#, "'dataschema'"),
        (r#""datacontenttype":"json","data":1"#, "'datacontenttype'"),
        (r#""fooBar":1"#, "'fooBar'"),
        (r#""foo-bar":1"#, "'foo-bar'"),
        (r#""":1"#, "''"),
        (r#""a":"\u0000""#, "U+0000"),
        (r#""a":"\ufffe""#, "U+FFFE"),
        (r#""a":"\ud800""#, "'a'"),
        (r#""id":"2""#, "'id' is there twice"),
        (r#""x":1,"\u0078":null"#, "'x' is there twice"),
        (r#""data":1,"data":2"#, "'data' is there twice"),
        (r#""specversion":"1.0""#, "'specversion' is there twice"),
    ] {
        check_refused(with(members), names);
    }
    assert!(with(r#""datacontenttype":null,"subject":null,"time":null"#).is_ok());
}

#[test]
fn what_is_no_event_is_refused_and_says_why() {
    for (body, names) in [
        ("", "not a JSON event"),
        ("{", "not a JSON event"),
        ("[]", "an object with the attributes of one event"),
        ("5", "an object"),
        ("{} x", "trailing"),
        ("\u{feff}{}", "not a JSON event"),
        ("{}", "'specversion' is missing"),
        (r#"{"specversion":1.0}"#, "'specversion'"),
        (r#"{"specversion":"2.0"}"#, "expected 1.0 or 0.3"),
        (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "'id' is missing"),
        (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, "'id' is empty"),
        (r#"{"specversion":"1.0","id":5,"source":"/s","type":"t"}"#, "'id'"),
        (r#"{"specversion":"1.0","id":"1","source":"ht tp://[bad","type":"t"}"#, "'source'"),
        (r#"{"specversion":"1.0","id":"1","source":null,"type":"t"}"#, "'source' is missing"),
        (r#"{"specversion":"1.0","id":"1","source":"/s"}"#, "'type' is missing"),
    ] {
        check_refused(decode(&Bytes::from(body)), names);
    }
    check_refused(decode(&Bytes::from_static(b"{\"specversion\":\"\xff\"}")), "not UTF-8");
}

#[test]
fn a_string_is_read_to_its_end_wherever_an_escape_is() {
    for (before, after) in (0..20).flat_map(|before| (0..20).map(move |after| (before, after))) {
        let (before, after) = ("x".repeat(before), "y".repeat(after));
        for (written, read) in [("", ""), ("\\\"", "\""), ("\\\\", "\\"), ("\\u0065", "e"), ("é", "é"), ("\u{7f}", "")]
        {
            let decoded = with(&format!(r#""{before}a\u0061":"{before}{written}{after}""#));
            match decoded {
                Ok(event) => {
                    assert_eq!(event.attribute(&format!("{before}aa")), Some(format!("{before}{read}{after}").as_str()))
                }
                Err(fault) => assert_eq!(written, "\u{7f}", "{fault}"),
            }
        }
        check_refused(with(&format!("\"a\":\"{before}\u{1f}{after}\"")), "control character");
    }
}

#[test]
fn a_message_claims_to_be_an_event_by_any_specversion() {
    let claims = |body: &str| decode_unlabelled(&Bytes::copy_from_slice(body.as_bytes()), String::new).is_some();
    for version in ["\"1.0\"", "5", "\"1.0\",\"specversion\":null", "null,\"specversion\":\"1.0\""] {
        assert!(claims(&format!(r#" {{"specversion":{version}}} "#)), "{version}");
    }
    for body in ["{}", r#"{"specversion":null}"#, r#"["specversion"]"#, r#"{"specversion":"1.0"} x"#] {
        assert!(!claims(body), "{body}");
    }
}

#[test]
fn hostile_shapes_are_bounded() {
    let members: Vec<String> = (0..100_000).map(|index| format!("\"a{index}\":1")).collect();
    check_refused(with(&members.join(",")), "more than 256 attributes");
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    check_data(with(&format!(r#""data":{deep}"#)), Some("application/json"), Some(&deep));
    check_refused(with(&format!(r#""x":{deep}"#)), "'x'");
}

#[test]
fn data_is_written_so_that_it_survives() {
    let check = |content_type: Option<&str>, data: &[u8], expected: &str| {
        let mut attributes = vec![("id", "1"), ("source", "/s"), ("type", "t")];
        attributes.extend(content_type.map(|content_type| ("datacontenttype", content_type)));
        let event = event(SpecVersion::V10, &attributes, Some(data));
        let written = encode(&event);
        let written = std::str::from_utf8(&written).unwrap();
        assert!(written.ends_with(&format!("{expected}}}")), "{written}");
    };
    check(Some("application/json"), b"{\"a\": 1}", r#","data":{"a": 1}"#);
    check(Some("application/json"), b"{broken", r#","data_base64":"e2Jyb2tlbg==""#);
    check(Some("application/json"), b"\"\xff\"", r#","data_base64":"Iv8i""#);
    check(Some("text/plain"), b"a \"b\"\n", r#","data":"a \"b\"\n""#);
    check(Some("text/plain"), b"\xff", r#","data_base64":"/w==""#);
    check(None, b"x", r#","data_base64":"eA==""#);
}

#[test]
fn a_source_that_decoding_broke_is_written_as_a_uri() {
    let mut builder = crate::event::Builder::new(SpecVersion::V10);
    for (name, value) in [("id", "1"), ("source", "/a%20b"), ("type", "t")] {
        builder.coded_attribute(name, value).unwrap();
    }
    let event = builder.build().unwrap();
    assert_eq!(event.source(), "/a b");
    assert_eq!(decode(&encode(&event)).unwrap().source(), "/a%20b");
}

#[test]
fn a_batch_is_whole_or_refused() {
    let batch = |body: &str| decode_batch(&Bytes::copy_from_slice(body.as_bytes()));
    assert_eq!(batch(" [] "), Ok(vec![]));
    let events = [min(), full()];
    assert_eq!(decode_batch(&encode_batch(&events.iter().collect::<Vec<_>>())).unwrap(), events);
    assert_eq!(encode_batch(&[]), "[]");

    let event = |version: &str| format!(r#"{{"specversion":"{version}","id":"1","source":"/s","type":"t"}}"#);
    let good = event("1.0");
    for (body, names) in [
        (format!("[{good},{good},{{}}]"), "event 2 of the batch: attribute 'specversion' is missing"),
        (format!("[{good},{}]", event("0.3")), "event 1 of the batch: attribute 'specversion' is 0.3"),
        (
            format!("[{good},5]"),
            "event 1 of the batch: this is not a JSON event: \
             invalid type: integer `5`, expected an object with the attributes of one event at line 1 column 1",
        ),
        (format!("[{{}},{good}"), "this is not a JSON batch of events: EOF while parsing a list at line 1 column"),
        (format!("[{{}},{good}] x"), "this is not a JSON batch of events: trailing characters at line 1 column"),
        (format!("[{good},{{\"\\ud800\":1}}]"), "event 1 of the batch: this is not a JSON event: "),
        (good.clone(), "array of events"),
        (format!("[{good}"), "not a JSON batch"),
        (format!("[{}]", vec!["{}"; MAX_BATCH_EVENTS + 1].join(",")), "more than 10000 events"),
    ] {
        let fault = batch(&body).unwrap_err().to_string();
        assert!(fault.contains(names), "'{fault}' does not name '{names}'");
    }
    assert_eq!(
        batch(&format!("[{}]", vec![good.as_str(); MAX_BATCH_EVENTS].join(","))).unwrap().len(),
        MAX_BATCH_EVENTS
    );
}

proptest! {
    #[test]
    fn every_event_comes_back(event in any_event()) {
        prop_assert_eq!(decode(&encode(&event)).unwrap(), without_outer_space(event));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = (decode(&bytes), decode_batch(&bytes), decode_unlabelled(&bytes, String::new));
    }

    #[test]
    fn a_text_is_taken_apart_as_serde_json_takes_it_apart(
        parts in prop::collection::vec(
            prop_oneof![
                Just("{"), Just("}"), Just("["), Just("]"), Just(":"), Just(","), Just(" "), Just("\"a\":"), Just("\"a\""),
                Just("\"bcdefghijk\\n\""), Just("\"\\ud800\""), Just("\"é\""), Just("\"\t\""), Just("\"\\x\""), Just("\""),
                Just("null"), Just("true"), Just("tru"), Just("-1.5e3"), Just("01"), Just("1."), Just("{\"a\":[1,{}]}"),
                Just("\n"), Just("\u{feff}"), Just("{\"a\":1,"), Just("{\"a\":\"b\"}"),
            ],
            0..7,
        )
    ) {
        let text = parts.concat();
        let mut scanner = scan::Scanner::new(&text);
        let read = scanner.object(|_, _| {}).and_then(|()| scanner.end());
        prop_assert_eq!(read.is_ok(), shape::event(&text).is_ok(), "{}", text);
        let batch = decode_batch(&Bytes::from(text.clone()));
        let is_no_array = batch.is_err_and(|fault| fault.to_string().contains("not a JSON batch"));
        prop_assert_eq!(is_no_array, shape::batch(&text).is_err(), "{}", text);
    }

    #[test]
    fn no_json_makes_it_panic(
        members in prop::collection::vec(("(specversion|id|source|type|time|data|data_base64|x)", ".{0,6}|\"[^\"]{0,9}\"|1|null|\"1.0\""), 0..9)
    ) {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let bytes = Bytes::from(format!("{{{}}}", members.join(",")));
        let _ = (decode(&bytes), decode_unlabelled(&bytes, String::new));
    }
}

/// JSON has no place for the white space around a JSON text.
fn without_outer_space(mut event: Event) -> Event {
    let is_json = event.datacontenttype().is_some_and(crate::event::media_type::is_json);
    let text = event.data().and_then(|data| std::str::from_utf8(data).ok());
    if let Some(text) = text.filter(|text| is_json && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()) {
        event.data = Some(Bytes::copy_from_slice(text.trim_matches([' ', '\t', '\n', '\r']).as_bytes()));
    }
    event
}

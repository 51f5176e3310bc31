//! The seam to cloudevents-sdk, for code that uses knats as a library and builds or reads events in the model it knows.
//!
//! Events on their way through the bridge go around the SDK: it neither codes nor decodes header values, takes empty ids and any
//! extension name, rewrites times and schema URLs, parses JSON data into values (digits, order and duplicate keys are lost, at
//! ten times the cost) and knows no batch. Whatever comes from it passes through [`Builder`] like everything else.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloudevents::event::{ExtensionValue, SpecVersion as SdkVersion, TryIntoUrl as _};
use cloudevents::{AttributesReader as _, AttributesWriter as _, Data, EventBuilder, EventBuilderV03, EventBuilderV10};

use super::{Builder, Error, Event, SpecVersion};

impl TryFrom<&Event> for cloudevents::Event {
    type Error = Error;

    /// Data arrives as [`Data::Binary`], whatever its type: only so does the SDK leave the bytes alone. Data that is base64 text by
    /// its 0.3 `datacontentencoding` arrives decoded, for the SDK has no such attribute.
    ///
    /// # Errors
    /// When the SDK's types cannot hold a value: a relative `schemaurl` of 0.3, a time beyond chrono's range.
    fn try_from(event: &Event) -> Result<Self, Error> {
        let mut built = match event.version() {
            SpecVersion::V03 => build::<EventBuilderV03>()?,
            SpecVersion::V10 => build::<EventBuilderV10>()?,
        };
        for (name, value) in event.attributes() {
            set(&mut built, event, name, value)?;
        }
        if let Some(data) = event.data() {
            let encoded = event.version() == SpecVersion::V03 && event.attribute("datacontentencoding").is_some();
            let bytes =
                if encoded { STANDARD.decode(data).map_err(|fault| not_base64(&fault))? } else { data.to_vec() };
            built.set_data_unchecked(Data::Binary(bytes));
        }
        Ok(built)
    }
}

impl TryFrom<&cloudevents::Event> for Event {
    type Error = Error;

    /// [`Data::Json`] is written as JSON, and says so when it has no content type; text is taken as the bytes it is.
    ///
    /// # Errors
    /// The SDK lets many things pass that are no valid event; the error names the attribute.
    fn try_from(event: &cloudevents::Event) -> Result<Self, Error> {
        let mut builder = Builder::new(match event.specversion() {
            SdkVersion::V03 => SpecVersion::V03,
            SdkVersion::V10 => SpecVersion::V10,
        });
        builder.attribute("id", event.id())?;
        builder.attribute("source", event.source())?;
        builder.attribute("type", event.ty())?;
        let time = event.time().map(|time| utc(time.to_rfc3339()));
        let schema = if event.specversion() == SdkVersion::V03 { "schemaurl" } else { "dataschema" };
        let optional = [
            ("subject", event.subject()),
            ("time", time.as_deref()),
            (schema, event.dataschema().map(|schema| schema.as_str())),
            ("datacontenttype", event.datacontenttype()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                builder.attribute(name, value)?;
            }
        }
        for (name, value) in event.iter_extensions() {
            builder.attribute(name, &extension(name, value)?)?;
        }
        match event.data() {
            None => {}
            Some(Data::Binary(bytes)) => builder.data(bytes.clone().into()),
            Some(Data::String(text)) => builder.data(text.clone().into()),
            Some(Data::Json(value)) => {
                if event.datacontenttype().is_none() {
                    builder.attribute("datacontenttype", "application/json")?;
                }
                builder.data(value.to_string().into());
            }
        }
        builder.build()
    }
}

/// An event of one version; [`set`] puts the true values in place of these.
fn build<B: EventBuilder + Placeholders>() -> Result<cloudevents::Event, Error> {
    B::new().with_placeholders().build().map_err(|fault| Error::Malformed(fault.to_string()))
}

/// The SDK's two builders share their methods by name only.
trait Placeholders {
    fn with_placeholders(self) -> Self;
}

impl Placeholders for EventBuilderV03 {
    fn with_placeholders(self) -> Self {
        self.id("-").source("-").ty("-")
    }
}

impl Placeholders for EventBuilderV10 {
    fn with_placeholders(self) -> Self {
        self.id("-").source("-").ty("-")
    }
}

fn set(built: &mut cloudevents::Event, event: &Event, name: &str, value: &str) -> Result<(), Error> {
    match (event.version(), name) {
        (_, "id") => drop(built.set_id(value)),
        (_, "source") => drop(built.set_source(event.uri_text(name, value))),
        (_, "type") => drop(built.set_type(value)),
        (_, "subject") => drop(built.set_subject(Some(value))),
        (_, "datacontenttype") => drop(built.set_datacontenttype(Some(value))),
        (_, "time") => {
            let time = cloudevents::event::TryIntoTime::into_time(value);
            built.set_time(Some(time.map_err(|fault| unfit(name, &fault))?));
        }
        (SpecVersion::V10, "dataschema") | (SpecVersion::V03, "schemaurl") => {
            let schema = event.uri_text(name, value);
            built.set_dataschema(Some(schema.as_ref().into_url().map_err(|fault| unfit(name, &fault))?));
        }
        (SpecVersion::V03, "datacontentencoding") => {}
        (_, name) => built.set_extension(name, value),
    }
    Ok(())
}

fn extension(name: &str, value: &ExtensionValue) -> Result<String, Error> {
    match value {
        ExtensionValue::String(text) => Ok(text.clone()),
        ExtensionValue::Boolean(boolean) => Ok(boolean.to_string()),
        ExtensionValue::Integer(integer) => match i32::try_from(*integer) {
            Ok(integer) => Ok(integer.to_string()),
            Err(_) => Err(Error::attribute(name, format!("is {integer}, expected a 32-bit integer"))),
        },
    }
}

/// The SDK holds times in UTC and writes them with an offset of zero; `Z` is the usual form of that.
fn utc(mut time: String) -> String {
    if let Some(length) = time.strip_suffix("+00:00").map(str::len) {
        time.truncate(length);
        time.push('Z');
    }
    time
}

fn unfit(name: &str, fault: &dyn std::error::Error) -> Error {
    Error::attribute(name, format!("does not fit into the event model of cloudevents-sdk: {fault}"))
}

fn not_base64(fault: &base64::DecodeError) -> Error {
    Error::attribute("datacontentencoding", format!("is base64, and the data is not: {fault}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::event::fixtures::{any_event, event, full, min};
    use crate::event::{json, media_type};

    fn there_and_back(event: &Event) -> Result<Event, Error> {
        Event::try_from(&cloudevents::Event::try_from(event)?)
    }

    #[test]
    fn the_conformance_events_come_back_but_for_the_text_of_their_time() {
        assert_eq!(there_and_back(&min()), Ok(min()));
        let back = there_and_back(&full()).unwrap();
        assert_eq!(back.attribute("time"), Some("2020-03-21T12:34:56.780Z"));
        assert_eq!(back.data(), full().data());
        assert_eq!(back.attributes().count(), full().attributes().count());
    }

    #[test]
    fn events_built_with_the_sdk_are_checked() {
        let base = || EventBuilderV10::new().id("1").source("/s").ty("t");
        let check = |built: EventBuilderV10, names: Option<&str>| {
            let fault = Event::try_from(&built.build().unwrap()).err().map(|fault| fault.to_string());
            assert_eq!(fault.is_some(), names.is_some(), "{fault:?}");
            assert!(fault.unwrap_or_default().contains(names.unwrap_or_default()));
        };
        check(base(), None);
        check(base().id(""), Some("'id' is empty"));
        check(base().source("ht tp://[bad"), Some("'source'"));
        check(base().subject(""), Some("'subject' is empty"));
        check(base().extension("data", "x"), Some("'data'"));
        check(base().extension("id", "x"), Some("'id' is there twice"));
        check(base().extension("Foo_Bar", "x"), Some("'Foo_Bar'"));
        check(base().extension("n", 1_i64 << 31), Some("32-bit"));
        check(base().extension("n", i64::from(i32::MIN)).extension("b", true), None);
    }

    #[test]
    fn data_of_every_form_becomes_bytes() {
        let check = |data: Data, content_type: Option<&str>, expected: &str| {
            let mut built = EventBuilderV10::new().id("1").source("/s").ty("t").build().unwrap();
            built.set_data_unchecked(data);
            let event = Event::try_from(&built).unwrap();
            assert_eq!(event.data().unwrap(), expected);
            assert_eq!(event.datacontenttype(), content_type);
        };
        check(Data::Json(json!({"a": 1})), Some("application/json"), r#"{"a":1}"#);
        check(Data::String("a".to_owned()), None, "a");
        check(Data::Binary(b"a".to_vec()), None, "a");
    }

    #[test]
    fn what_the_sdk_cannot_hold_is_an_error() {
        let with = |name, value, data: Option<&[u8]>| {
            event(SpecVersion::V03, &[("id", "1"), ("source", "/s"), ("type", "t"), (name, value)], data)
        };
        assert!(there_and_back(&with("schemaurl", "/relative", None)).unwrap_err().to_string().contains("'schemaurl'"));
        assert!(there_and_back(&with("datacontentencoding", "base64", Some(b"?"))).is_err());
        let decoded = there_and_back(&with("datacontentencoding", "base64", Some(b"eA=="))).unwrap();
        assert_eq!((decoded.data().unwrap().as_ref(), decoded.attribute("datacontentencoding")), (&b"x"[..], None));
        assert_eq!(there_and_back(&with("schemaurl", "http://h/s", None)), Ok(with("schemaurl", "http://h/s", None)));
    }

    proptest! {
        #[test]
        fn every_event_comes_back(event in any_event()) {
            prop_assert_eq!(there_and_back(&event), Ok(event));
        }

        /// What both understand, both understand alike.
        #[test]
        fn the_json_of_the_sdk_is_read_alike(event in any_event()) {
            let built = cloudevents::Event::try_from(&event).unwrap();
            let written = serde_json::to_vec(&built).unwrap();
            prop_assert_eq!(json::decode(&written.into()), Ok(event.clone()));
            let written = json::encode(&event);
            // The SDK parses base64 data of a JSON type, or of none, and fails where it is no JSON: the very reason to write it so.
            if event.data().is_none() || event.datacontenttype().is_some_and(|kind| !media_type::is_json(kind)) {
                let read: cloudevents::Event = serde_json::from_slice(&written).unwrap();
                prop_assert_eq!((read.id(), read.source().as_str()), (event.id(), event.source()));
            }
        }
    }
}

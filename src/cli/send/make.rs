//! Events that the flags of `knats send` describe, each with its templates filled in.

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::template::{Moment, Template};
use crate::cli::{Usage, is_json};
use crate::event::{Builder, Event, SpecVersion};

const DEFAULT_SOURCE: &str = "/knats/send";
const DEFAULT_TYPE: &str = "dev.knats.event";

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Attribute `type` [default: dev.knats.event]
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) kind: Option<Template>,
    /// Attribute `source` [default: /knats/send]
    #[arg(long, value_name = "URI-REFERENCE")]
    pub(super) source: Option<Template>,
    /// Attribute `id` [default: a new UUID]
    #[arg(long)]
    pub(super) id: Option<Template>,
    /// Attribute `subject`
    #[arg(long)]
    pub(super) subject: Option<Template>,
    /// The data: JSON unless --content-type says otherwise
    #[arg(long, allow_hyphen_values = true)]
    pub(super) data: Option<Template>,
    /// Attribute `datacontenttype` [default: application/json when there is data]
    #[arg(long, value_name = "MEDIA-TYPE")]
    pub(super) content_type: Option<String>,
}

impl Flags {
    /// The event of this moment.
    ///
    /// # Errors
    /// When the flags make no CloudEvent; the text names the flag.
    pub(super) fn event(&self, moment: &Moment) -> Result<Event, Usage> {
        let text = |template: &Option<Template>| template.as_ref().map(|template| template.fill_in(moment));
        let data = text(&self.data);
        let content_type = self.content_type.clone().or(data.as_ref().map(|_| "application/json".into()));
        if let (Some(data), Some(true)) = (&data, content_type.as_deref().map(is_json)) {
            check_json(data)?;
        }
        let attributes = [
            ("id", "--id", text(&self.id).or_else(|| Some(uuid::Uuid::now_v7().to_string()))),
            ("source", "--source", text(&self.source).or_else(|| Some(DEFAULT_SOURCE.into()))),
            ("type", "--type", text(&self.kind).or_else(|| Some(DEFAULT_TYPE.into()))),
            ("subject", "--subject", text(&self.subject)),
            ("time", "the clock", Some(moment.time.to_string())),
            ("datacontenttype", "--content-type", content_type),
        ];
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, flag, value) in attributes {
            if let Some(value) = value {
                builder.attribute(name, &value).map_err(|error| Usage(format!("{flag}: {error}")))?;
            }
        }
        if let Some(data) = data {
            builder.data(Bytes::from(data));
        }
        builder.build().map_err(|error| Usage(error.to_string()))
    }

    /// True when events would be taken for repetitions of the first one.
    pub(super) fn always_makes_the_same(&self) -> bool {
        self.id.as_ref().is_some_and(Template::is_constant) && self.source.as_ref().is_none_or(Template::is_constant)
    }
}

fn check_json(data: &str) -> Result<(), Usage> {
    serde_json::from_str::<IgnoredAny>(data).map(|_| ()).map_err(|error| {
        Usage(format!(
            "--data is not valid JSON: {error}; quote text as JSON (--data '\"hello\"') or say --content-type text/plain"
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(flags: &[&str]) -> Flags {
        let line = std::iter::once(&"send").chain(flags);
        Line::try_parse_from(line).unwrap_or_else(|error| error.exit()).flags
    }

    fn event(line: &[&str]) -> Result<Event, Usage> {
        flags(line).event(&Moment::now(1))
    }

    #[test]
    fn data_is_sent_as_it_is_typed() {
        for (flags, content_type, data) in [
            (&["--data", r#"{ "b":1.10,"a":2 }"#][..], Some("application/json"), Some(r#"{ "b":1.10,"a":2 }"#)),
            (&["--data", r#""106.53""#], Some("application/json"), Some(r#""106.53""#)),
            (&["--data", "-1"], Some("application/json"), Some("-1")),
            (&["--data", "{not json", "--content-type", "text/plain"], Some("text/plain"), Some("{not json")),
            (&["--data", r#"{"a":{"n":{{n}}}}"#], Some("application/json"), Some(r#"{"a":{"n":1}}"#)),
            (&[], None, None),
        ] {
            let event = event(flags).unwrap();
            assert_eq!(event.datacontenttype(), content_type, "{flags:?}");
            assert_eq!(event.data().map(|data| data.as_ref()), data.map(str::as_bytes), "{flags:?}");
        }
    }

    #[test]
    fn each_event_has_an_id_of_its_own_unless_told() {
        assert_ne!(event(&[]).unwrap().id(), event(&[]).unwrap().id());
        assert_eq!(event(&["--id", "7"]).unwrap().id(), "7");
    }

    #[test]
    fn every_attribute_may_differ_from_event_to_event() {
        let flags = flags(&["--id", "e-{{n}}", "--source", "/s/{{n}}", "--type", "t{{n}}", "--subject", "{{time}}"]);
        let moment = Moment::now(12);
        let event = flags.event(&moment).unwrap();
        assert_eq!((event.id(), event.source(), event.kind()), ("e-12", "/s/12", "t12"));
        // One event has one time, wherever it stands.
        assert_eq!(event.attribute("subject"), event.attribute("time"));
    }

    #[test]
    fn repetitions_are_known_before_they_are_sent() {
        for (line, same) in [
            (&["--id", "1"][..], true),
            (&["--id", "1", "--source", "/s"], true),
            (&["--id", "1", "--source", "/{{n}}"], false),
            (&["--id", "{{n}}"], false),
            (&["--source", "/s"], false),
        ] {
            assert_eq!(flags(line).always_makes_the_same(), same, "{line:?}");
        }
    }

    #[test]
    fn flags_that_make_no_event_are_refused_by_name() {
        for (flags, expected) in [
            (&["--data", "hello"][..], "--data is not valid JSON"),
            (&["--data", "{", "--content-type", "application/vnd.x+json"], "--data is not valid JSON"),
            (&["--data", r#"{"at":{{time}}}"#], "--data is not valid JSON"),
            (&["--type", ""], "--type"),
            (&["--id", ""], "--id"),
            (&["--content-type", "nonsense"], "--content-type"),
        ] {
            let Usage(message) = event(flags).unwrap_err();
            assert!(message.starts_with(expected), "{flags:?}: {message}");
        }
    }
}

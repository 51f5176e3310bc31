//! `K_CE_OVERRIDES`, as a SinkBinding injects it: extensions that are set on every event that leaves.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::Usage;
use crate::event::{self, Builder, Event, SpecVersion};

const VARIABLE: &str = "K_CE_OVERRIDES";

/// Extensions that overwrite an event's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Overrides {
    /// `null` is an empty map, as in Go.
    #[serde(default, deserialize_with = "null_as_default")]
    extensions: BTreeMap<String, String>,
}

fn null_as_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Overrides {
    /// Reads the variable; one that is not there or empty overrides nothing.
    pub(super) fn from_env() -> Result<Self, Usage> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(error) => Err(Usage(format!("{VARIABLE}: {error}"))),
        }
    }

    fn parse(text: &str) -> Result<Self, Usage> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let overrides: Option<Self> = serde_json::from_str(text).map_err(|error| {
            Usage(format!(r#"{VARIABLE}: {error}; expected such as {{"extensions":{{"name":"value"}}}}"#))
        })?;
        let overrides = overrides.unwrap_or_default();
        overrides.check().map_err(|error| Usage(format!("{VARIABLE}: {error}")))?;
        Ok(overrides)
    }

    /// Sets the extensions on an event.
    ///
    /// # Errors
    /// When the event's version does not allow one of them.
    pub(super) fn apply(&self, event: &mut Event) -> Result<(), event::Error> {
        self.extensions.iter().try_for_each(|(name, value)| event.set_extension(name, value))
    }

    /// Names and values are known before any event is: what is wrong with them is better said at once.
    fn check(&self) -> Result<(), event::Error> {
        let mut builder = Builder::new(SpecVersion::V10);
        for name in ["id", "source", "type"] {
            builder.attribute(name, "probe")?;
        }
        self.apply(&mut builder.build()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_is_overridden_by_an_empty_variable() {
        for text in ["", "  ", "null", "{}", r#"{"extensions":{}}"#, r#"{"extensions":null}"#] {
            assert_eq!(Overrides::parse(text).unwrap(), Overrides::default(), "{text:?}");
        }
    }

    #[test]
    fn an_override_overwrites_what_the_event_says() {
        let overrides = Overrides::parse(r#"{"extensions":{"env":"prod","team":"a"}}"#).unwrap();
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", "1"), ("source", "/s"), ("type", "t"), ("env", "dev")] {
            builder.attribute(name, value).unwrap();
        }
        let mut event = builder.build().unwrap();
        overrides.apply(&mut event).unwrap();
        assert_eq!(event.attribute("env"), Some("prod"));
        assert_eq!(event.attribute("team"), Some("a"));
    }

    #[test]
    fn a_broken_variable_is_a_usage_error_that_names_it() {
        for text in [
            "{",
            "1",
            r#"{"extensions":{"a":1}}"#,
            r#"{"extensions":{"Bad_Name":"x"}}"#,
            r#"{"extensions":{"id":"x"}}"#,
        ] {
            let Usage(message) = Overrides::parse(text).unwrap_err();
            assert!(message.starts_with(VARIABLE), "{text}: {message}");
        }
    }
}

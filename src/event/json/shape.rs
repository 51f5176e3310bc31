//! What serde_json says of a text that has not the shape of an event or of a batch. It is asked only when something is wrong.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::MAX_BATCH_EVENTS;

/// # Errors
/// When the text is no JSON object whose names are Unicode characters.
pub(super) fn event(text: &str) -> serde_json::Result<()> {
    serde_json::from_str(text).map(|Object| ())
}

/// # Errors
/// When the text is no JSON array, or one that is too long.
pub(super) fn batch(text: &str) -> serde_json::Result<Vec<&RawValue>> {
    serde_json::from_str(text).map(|Array(members)| members)
}

struct Object;

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with the attributes of one event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self)
    }
}

struct Array<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Array<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Array(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Array<'de> {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while let Some(member) = members.next_element()? {
            if self.0.len() == MAX_BATCH_EVENTS {
                let fault = format!("the batch has more than {MAX_BATCH_EVENTS} events");
                return Err(serde::de::Error::custom(fault));
            }
            self.0.push(member);
        }
        Ok(self)
    }
}

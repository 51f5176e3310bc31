//! What bridges and those who watch them say to each other over core NATS. Nothing of it is stored: whoever wants to see
//! deliveries asks all bridges for them, again and again while it looks, and a bridge that nobody asks tells nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::attempts::Attempt;
use crate::event::{Builder, Event, SpecVersion};
use crate::resource::Key;

/// Where bridges are asked to tell of deliveries. All of them answer.
pub const WATCH: &str = "knats.bridge.watch";
/// How long a bridge tells somebody of deliveries after it was asked.
pub const LEASE: Duration = Duration::from_secs(10);
/// The longest token that tells one who watches from another, in characters.
const MAX_TOKEN: usize = 64;
/// Bytes of an event's attributes that are told with a delivery; the others are left out.
const MAX_ATTRIBUTES: usize = 8 * 1024;

/// The wish to be told of deliveries, for the time of [`LEASE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Letters and digits of its own choice, for [`Watch::subject`].
    pub token: String,
    /// Deliveries of the events of these streams.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Deliveries of these subscriptions (`NAMESPACE/NAME`). With neither a stream nor a subscription all are wanted.
    #[serde(default)]
    pub subscriptions: Vec<String>,
    /// It is over.
    #[serde(default)]
    pub end: bool,
}

/// What a bridge answers to a [`Watch`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// Why it will not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
}

/// What a bridge tells those who watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Delivery(Box<Delivery>),
    /// Deliveries that there was no time to tell of.
    Missed(u64),
}

/// A delivery as a bridge tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub attempt: Attempt,
    /// Of the event, `specversion` included; so whoever watches can filter.
    pub attributes: Vec<(String, String)>,
}

impl Watch {
    /// Where a bridge tells the one with this token. Bridges choose the subject, not those who ask: else whoever may ask could have
    /// a bridge publish where itself it may not.
    pub fn subject(&self) -> Option<String> {
        let token = self.token.as_str();
        let is_plain = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_plain.then(|| format!("knats.bridge.feed.{token}"))
    }

    /// Whether a delivery is among the wanted ones.
    pub fn wants(&self, attempt: &Attempt) -> bool {
        if self.streams.is_empty() && self.subscriptions.is_empty() {
            return true;
        }
        let is_it = |wanted: &String| {
            let parts = wanted.split_once('/');
            parts.is_some_and(|(namespace, name)| namespace == attempt.namespace && name == attempt.subscription)
        };
        self.streams.contains(&attempt.stream) || self.subscriptions.iter().any(is_it)
    }

    /// Wants the deliveries of one more subscription.
    pub fn add(&mut self, subscription: &Key) {
        self.subscriptions.push(subscription.to_string());
    }
}

impl Delivery {
    pub fn new(attempt: Attempt, event: &Event) -> Self {
        let mut room = MAX_ATTRIBUTES;
        let all = std::iter::once(("specversion", event.version().as_str())).chain(event.attributes());
        let told = all.filter(|(name, value)| match room.checked_sub(name.len() + value.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        });
        let attributes = told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { attempt: attempt.shortened(), attributes }
    }

    /// The event without its data; `None` when it was too long to be told of as one.
    pub fn event(&self) -> Option<Event> {
        let value_of = |wanted: &str| self.attributes.iter().find(|(name, _)| name == wanted);
        let mut builder = Builder::new(SpecVersion::parse(&value_of("specversion")?.1).ok()?);
        for (name, value) in self.attributes.iter().filter(|(name, _)| name != "specversion") {
            builder.attribute(name, value).ok()?;
        }
        builder.build().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::channel::attempts::{Next, Purpose};

    fn attempt() -> Attempt {
        Attempt {
            time: jiff::Timestamp::UNIX_EPOCH,
            namespace: "default".into(),
            subscription: "sub".into(),
            stream: "KN_DEFAULT__FOO".into(),
            sequence: 7,
            id: "1".into(),
            source: "/s".into(),
            kind: "t".into(),
            attempt: 1,
            purpose: Purpose::Subscriber,
            sink: "http://sink/".into(),
            duration_ms: 1.5,
            code: Some(200),
            error: None,
            next: Next::Settled,
            retry_at: None,
            redrive: false,
        }
    }

    #[test]
    fn what_is_wanted_is_told_by_stream_or_by_subscription() {
        let watch = |streams: &[&str], subscriptions: &[&str]| Watch {
            streams: streams.iter().map(ToString::to_string).collect(),
            subscriptions: subscriptions.iter().map(ToString::to_string).collect(),
            ..Watch::default()
        };
        for (wanted, expected) in [
            (watch(&[], &[]), true),
            (watch(&["KN_DEFAULT__FOO"], &["x/y"]), true),
            (watch(&["OTHER"], &["default/sub"]), true),
            (watch(&["OTHER"], &["default/other", "sub"]), false),
        ] {
            assert_eq!(wanted.wants(&attempt()), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_bridge_tells_only_below_its_own_subject() {
        let subject = |token: &str| Watch { token: token.into(), ..Watch::default() }.subject();
        assert_eq!(subject("a1B2").as_deref(), Some("knats.bridge.feed.a1B2"));
        for token in ["", "a.b", ">", "*", "a b", "a\r\nPUB x", &"a".repeat(65)] {
            assert_eq!(subject(token), None, "{token}");
        }
    }

    #[test]
    fn the_event_comes_along_without_its_data() {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", "1"), ("source", "/s"), ("type", "t"), ("amount", "5")] {
            builder.attribute(name, value).unwrap();
        }
        let event = builder.build().unwrap();
        let told = Told::Delivery(Box::new(Delivery::new(attempt(), &event)));
        let back: Told = serde_json::from_slice(&serde_json::to_vec(&told).unwrap()).unwrap();
        assert_eq!(back, told);
        let Told::Delivery(delivery) = back else { unreachable!() };
        assert_eq!(delivery.event(), Some(event.clone()));

        let mut long = event;
        long.set_extension("long", &"x".repeat(MAX_ATTRIBUTES)).unwrap();
        let told = Delivery::new(attempt(), &long).event().unwrap();
        assert_eq!((told.attribute("long"), told.attribute("amount")), (None, Some("5")));
    }
}

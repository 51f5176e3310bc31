//! What the owner of a subscription controls beyond Knative: the `knats.dev/...` annotations of Subscriptions and Triggers.

use std::num::NonZeroU32;
use std::time::Duration;

use super::delivery::Spec;
use super::reader::{At, closest};
use super::{DeliverPolicy, duration};

/// All names of annotations; `filters` is read with the other filters.
const NAMES: [&str; 8] = ["filters", "max-in-flight", "rate", "ordering", "batch", "start", "paused", "breaker"];

const MAX_IN_FLIGHT: u32 = 65_536;

const MAX_RATE_PER_SECOND: u32 = 1_000_000;

/// The attribute that `ordering: key` goes by; the CloudEvents extension for it.
const DEFAULT_ORDERING_ATTRIBUTE: &str = "partitionkey";

const MAX_BATCH_SIZE: u32 = 10_000;

const DEFAULT_BATCH_WAIT: Duration = Duration::from_millis(100);

/// Events that wait for others are held by the bridge, unacknowledged.
const MAX_BATCH_WAIT: Duration = Duration::from_secs(60);

/// An annotation of ours, its prefix taken off.
pub(super) struct Annotation<'a> {
    pub(super) name: &'a str,
    pub(super) at: At<'a>,
}

/// The annotations of one subscription, with every default applied.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Controls {
    /// `max-in-flight`: requests under way at once; `None` leaves it to the dispatcher.
    pub max_in_flight: Option<NonZeroU32>,
    /// `rate`: events that may be started on each second.
    pub rate: Option<NonZeroU32>,
    pub ordering: Ordering,
    pub batch: Option<Batch>,
    /// `start`: where a new consumer begins; wins over the channel's template.
    pub start: Option<DeliverPolicy>,
    pub paused: bool,
    pub breaker: Breaker,
}

/// `ordering`: which events wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ordering {
    #[default]
    None,
    /// Events with the same value of this attribute go one after the other (`key`, or `key:ATTRIBUTE`).
    Key(String),
    /// All events go one after the other.
    Strict,
}

/// `batch`: many events in one request to the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Events in one request, at most.
    pub size: NonZeroU32,
    /// How long the first event of a batch waits for others.
    pub wait: Duration,
}

/// `breaker`: whether a sink that cannot be reached holds its events back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Breaker {
    /// On where there is no dead letter sink.
    #[default]
    Auto,
    On,
    Off,
}

impl Controls {
    /// Reads the annotations of one subscription whose own delivery options are given. Faults go to the report.
    pub(super) fn read(annotations: &[Annotation<'_>], delivery: &Spec) -> Self {
        let mut controls = Self::default();
        for Annotation { name, at } in annotations {
            controls.read_one(name, at);
        }
        let at = |name: &str| annotations.iter().find(|annotation| annotation.name == name).map(|found| &found.at);
        if let Some(at) = at("batch")
            && controls.batch.is_some_and(|batch| batch.size > NonZeroU32::MIN)
            && controls.ordering != Ordering::None
        {
            at.fault(
                "keeps no order: a batch that fails is sent again whole, with events that the sink has taken; \
                 expected a batch of 1, or ordering none",
            );
        }
        if let Some(at) = at("batch")
            && delivery.asks_for_binary()
        {
            at.fault("is always sent as JSON, but spec.delivery.format is binary; expected one of the two");
        }
        if let Some(at) = at("max-in-flight")
            && controls.ordering == Ordering::Strict
        {
            at.has_no_effect();
        }
        controls
    }

    fn read_one(&mut self, name: &str, at: &At<'_>) {
        match name {
            // Read with the other filters.
            "filters" => {}
            "max-in-flight" => self.max_in_flight = at.parsed(|text| integer(text, MAX_IN_FLIGHT)),
            "rate" => self.rate = at.parsed(|text| integer(text, MAX_RATE_PER_SECOND)),
            "ordering" => self.ordering = at.parsed(ordering).unwrap_or_default(),
            "batch" => self.batch = at.parsed(batch),
            "start" => self.start = at.parsed(start),
            "paused" => self.paused = at.choice(&[("true", true), ("false", false)]).unwrap_or_default(),
            "breaker" => {
                let choices = [("auto", Breaker::Auto), ("on", Breaker::On), ("off", Breaker::Off)];
                self.breaker = at.choice(&choices).unwrap_or_default();
            }
            _ => {
                let hint = closest(name, &NAMES).map(|close| format!("did you mean {close}? ")).unwrap_or_default();
                at.fault(format!("unknown annotation, {hint}expected one of {}", NAMES.join(", ")));
            }
        }
    }
}

/// Digits only: no sign, no fraction.
fn integer(text: &str, max: u32) -> Result<NonZeroU32, String> {
    let digits = Some(text).filter(|text| is_digits(text)).and_then(|text| text.parse::<NonZeroU32>().ok());
    digits.filter(|number| number.get() <= max).ok_or_else(|| format!("an integer from 1 to {max}"))
}

fn ordering(text: &str) -> Result<Ordering, &'static str> {
    match text {
        "none" => return Ok(Ordering::None),
        "strict" => return Ok(Ordering::Strict),
        "key" => return Ok(Ordering::Key(DEFAULT_ORDERING_ATTRIBUTE.to_owned())),
        _ => {}
    }
    let attribute = text.strip_prefix("key:").filter(|name| is_attribute(name));
    attribute.map(|name| Ordering::Key(name.to_owned())).ok_or(
        "none, key, key:ATTRIBUTE or strict, as in key:customerid (lower-case letters and digits, a letter first)",
    )
}

/// `N` or `N/DURATION`, the duration as Go or ISO 8601 writes it.
fn batch(text: &str) -> Result<Batch, String> {
    let (size, wait) = text.split_once('/').map_or((text, None), |(size, wait)| (size, Some(wait)));
    let wait = match wait {
        None => Ok(DEFAULT_BATCH_WAIT),
        Some(wait) if wait.starts_with('P') => duration::iso8601(wait),
        Some(wait) => duration::go(wait),
    };
    match (integer(size, MAX_BATCH_SIZE), wait) {
        (Ok(size), Ok(wait)) if wait <= MAX_BATCH_WAIT => Ok(Batch { size, wait }),
        _ => Err(format!(
            "N or N/DURATION with N from 1 to {MAX_BATCH_SIZE} and a duration of at most 1m, as in 100 or 100/500ms or 100/PT0.5S"
        )),
    }
}

fn start(text: &str) -> Result<DeliverPolicy, &'static str> {
    let expected = "all, new, a sequence number from 1, or an RFC 3339 time such as 2026-01-31T12:00:00Z";
    match text {
        "all" => Ok(DeliverPolicy::All),
        "new" => Ok(DeliverPolicy::New),
        text if is_digits(text) => {
            let sequence = text.parse().ok().filter(|sequence| *sequence != 0);
            sequence.map(DeliverPolicy::ByStartSequence).ok_or(expected)
        }
        text => text.parse().map(DeliverPolicy::ByStartTime).map_err(|_| expected),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names that Knative's filters take, too.
fn is_attribute(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;

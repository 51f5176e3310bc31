//! What the owner of a subscription controls beyond Knative: the `knats.dev/...` annotations of Subscriptions and Triggers.

use std::num::NonZeroU32;
use std::time::Duration;

use super::DeliverPolicy;

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

//! How a subscription delivers: Knative's DeliverySpec with every default applied.

use std::time::Duration;

use super::Destination;

/// Delivery options as the dispatcher works with them (CONTRACT of the bridge: own options, else the channel's, else the default).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Retries after the first attempt.
    pub retry: u32,
    pub backoff_policy: BackoffPolicy,
    pub backoff_delay: Duration,
    /// No wait that the policy yields is longer.
    pub backoff_max: Duration,
    /// Bounds one request; `None` leaves it to the bridge's own limit.
    pub timeout: Option<Duration>,
    /// `None` or zero: `Retry-After` does not count.
    pub retry_after_max: Option<Duration>,
    pub format: Format,
    pub dead_letter_sink: Option<Destination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackoffPolicy {
    Linear,
    Exponential,
}

/// The content mode of requests to sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Binary,
    /// Structured mode, `format: json`.
    Json,
}

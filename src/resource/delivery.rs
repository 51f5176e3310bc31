//! How a subscription delivers: Knative's DeliverySpec with every default applied.

use std::time::Duration;

use super::destination::Context;
use super::reader::{At, Fields};
use super::{Destination, duration};

/// No wait between retries is longer unless `backoffMax` says so.
const DEFAULT_BACKOFF_MAX: Duration = Duration::from_secs(10 * 60);

/// Knative's own `backoffDelay` for brokers.
const DEFAULT_BACKOFF_DELAY: Duration = Duration::from_millis(200);

/// Retries where no manifest gives any delivery option; Knative's own default for brokers.
const DEFAULT_RETRY: u32 = 10;

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

impl Delivery {
    /// In force where neither the subscription nor its channel sets an option.
    pub const PROCESS_DEFAULT: Self = Self {
        retry: DEFAULT_RETRY,
        backoff_policy: BackoffPolicy::Exponential,
        backoff_delay: DEFAULT_BACKOFF_DELAY,
        backoff_max: DEFAULT_BACKOFF_MAX,
        timeout: None,
        retry_after_max: None,
        format: Format::Binary,
        dead_letter_sink: None,
    };

    /// The subscription's own options, else the channel's, else the process default. A subscription with any option of its
    /// own takes nothing from the channel but, where it names none, the dead letter sink.
    ///
    /// A `delivery: {}` sets no option, so it counts as absent: it falls back to the channel's and the process default
    /// instead of meaning "no retry".
    pub(super) fn resolve(own: &Spec, channel: &Spec) -> Self {
        let empty = Spec::default();
        if *own != empty {
            let dead_letter_sink = own.dead_letter_sink.clone().or_else(|| channel.dead_letter_sink.clone());
            Self { dead_letter_sink, ..own.with_defaults() }
        } else if *channel != empty {
            channel.with_defaults()
        } else {
            Self::PROCESS_DEFAULT
        }
    }
}

/// A DeliverySpec as a manifest has it; `None` is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spec {
    retry: Option<u32>,
    backoff_policy: Option<BackoffPolicy>,
    backoff_delay: Option<Duration>,
    backoff_max: Option<Duration>,
    timeout: Option<Duration>,
    retry_after_max: Option<Duration>,
    format: Option<Format>,
    dead_letter_sink: Option<Destination>,
}

impl Spec {
    /// Reads the field `delivery` of a channel's or subscription's spec; absent is a spec with nothing set.
    pub(super) fn read(spec: &mut Fields<'_>, context: &Context<'_>) -> Self {
        let delivery = spec.take("delivery");
        delivery.and_then(|at| at.object(|fields| Self::read_fields(fields, context))).unwrap_or_default()
    }

    fn read_fields(fields: &mut Fields<'_>, context: &Context<'_>) -> Self {
        let policies = [("linear", BackoffPolicy::Linear), ("exponential", BackoffPolicy::Exponential)];
        let formats = [("json", Format::Json), ("binary", Format::Binary)];
        let any = |at: At<'_>| at.parsed(duration::iso8601);
        let positive = |at: At<'_>| {
            at.parsed(|text| match duration::iso8601(text) {
                Ok(Duration::ZERO) => Err("an ISO 8601 duration greater than zero".to_owned()),
                read => read,
            })
        };
        Self {
            retry: fields.take("retry").and_then(|at| at.integer(0..=i32::MAX.into())),
            backoff_policy: fields.take("backoffPolicy").and_then(|at| at.choice(&policies)),
            backoff_delay: fields.take("backoffDelay").and_then(any),
            backoff_max: fields.take("backoffMax").and_then(positive),
            timeout: fields.take("timeout").and_then(positive),
            retry_after_max: fields.take("retryAfterMax").and_then(any),
            format: fields.take("format").and_then(|at| at.choice(&formats)),
            dead_letter_sink: fields.take("deadLetterSink").and_then(|at| Destination::read(&at, context)),
        }
    }

    /// Whether it asks for binary mode, and not only by default.
    pub(super) fn asks_for_binary(&self) -> bool {
        self.format == Some(Format::Binary)
    }

    /// What a delivery means that is present: an unset `retry` is none.
    fn with_defaults(&self) -> Delivery {
        Delivery {
            retry: self.retry.unwrap_or(0),
            backoff_policy: self.backoff_policy.unwrap_or(BackoffPolicy::Exponential),
            backoff_delay: self.backoff_delay.unwrap_or(DEFAULT_BACKOFF_DELAY),
            backoff_max: self.backoff_max.unwrap_or(DEFAULT_BACKOFF_MAX),
            timeout: self.timeout,
            retry_after_max: self.retry_after_max,
            format: self.format.unwrap_or(Format::Binary),
            dead_letter_sink: self.dead_letter_sink.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

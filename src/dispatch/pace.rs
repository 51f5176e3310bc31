//! How many events a subscription may start on each second.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// A tenth of a second's events may start at once: smooth, and still few pulls.
const BURSTS_PER_SECOND: u32 = 10;

/// Grants starts; without a limit it never waits.
pub(super) struct Pace {
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Pace {
    pub(super) fn new(rate: Option<NonZeroU32>) -> Self {
        let quota = |rate: NonZeroU32| {
            let burst = NonZeroU32::new(rate.get() / BURSTS_PER_SECOND).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(rate).allow_burst(burst)
        };
        Self { limiter: rate.map(|rate| RateLimiter::direct(quota(rate))) }
    }

    /// Waits until at least one start is granted, and grants up to `wanted`. Can be dropped at any time without using one up.
    pub(super) async fn grant(&self, wanted: usize) -> usize {
        let Some(limiter) = &self.limiter else { return wanted };
        limiter.until_ready().await;
        let mut granted = 1;
        while granted < wanted && limiter.check().is_ok() {
            granted += 1;
        }
        granted
    }
}

//! What follows an attempt: pure functions of its outcome, its number and the delivery options.

use std::time::Duration;

use crate::resource::{BackoffPolicy, Delivery};
use crate::sink::Failure;

/// The most that chance adds to a wait, as a fraction of it.
const JITTER: f64 = 0.1;

/// What a failed attempt leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    RetryAfter(Duration),
    /// Retries are used up, or the answer was final.
    GiveUp,
}

/// Decides after attempt number `attempt`, counted from 1. `chance` is anything from 0 to 1.
pub fn after_failure(failure: &Failure, attempt: u64, delivery: &Delivery, chance: f64) -> Next {
    if !failure.retryable || attempt > u64::from(delivery.retry) {
        return Next::GiveUp;
    }
    Next::RetryAfter(wait(failure, attempt, delivery, chance))
}

/// The wait before retry number `retry`, counted from 1: the policy's (CONTRACT: linear `delay*k`, exponential
/// `delay*2^(k-1)`, capped, plus jitter), or what the answer asked for if that is longer, cut at `retryAfterMax`.
fn wait(failure: &Failure, retry: u64, delivery: &Delivery, chance: f64) -> Duration {
    let factor = match delivery.backoff_policy {
        BackoffPolicy::Linear => u32::try_from(retry).unwrap_or(u32::MAX),
        BackoffPolicy::Exponential => {
            u32::try_from(retry - 1).ok().and_then(|exponent| 2_u32.checked_pow(exponent)).unwrap_or(u32::MAX)
        }
    };
    let backoff = delivery.backoff_delay.checked_mul(factor).unwrap_or(Duration::MAX).min(delivery.backoff_max);
    let backoff = backoff.saturating_add(backoff.mul_f64(JITTER * chance.clamp(0.0, 1.0)));
    let asked = match (failure.retry_after, delivery.retry_after_max) {
        (Some(asked), Some(max)) => asked.min(max),
        _ => Duration::ZERO,
    };
    backoff.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Format;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn delivery(retry: u32, backoff_policy: BackoffPolicy) -> Delivery {
        Delivery {
            retry,
            backoff_policy,
            backoff_delay: Duration::from_secs(1),
            backoff_max: Duration::from_secs(600),
            timeout: None,
            retry_after_max: None,
            format: Format::Binary,
            dead_letter_sink: None,
        }
    }

    fn failure(code: u16) -> Failure {
        Failure::answered(code, Bytes::new(), None)
    }

    #[test]
    fn waits_grow_as_the_contract_says() {
        let check = |policy, retry, seconds| {
            let next = after_failure(&failure(500), retry, &delivery(100, policy), 0.0);
            assert_eq!(next, Next::RetryAfter(Duration::from_secs(seconds)), "{policy:?} {retry}");
        };
        for (retry, seconds) in [(1, 1), (2, 2), (3, 3), (10, 10)] {
            check(BackoffPolicy::Linear, retry, seconds);
        }
        for (retry, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (10, 512), (11, 600), (40, 600), (100, 600)] {
            check(BackoffPolicy::Exponential, retry, seconds);
        }
    }

    #[test]
    fn final_answers_and_used_up_retries_end_it() {
        let options = delivery(2, BackoffPolicy::Linear);
        assert_eq!(after_failure(&failure(400), 1, &options, 0.0), Next::GiveUp);
        assert_eq!(after_failure(&failure(302), 1, &options, 0.0), Next::GiveUp);
        assert!(matches!(after_failure(&failure(500), 2, &options, 0.0), Next::RetryAfter(_)));
        assert_eq!(after_failure(&failure(500), 3, &options, 0.0), Next::GiveUp);
        assert_eq!(after_failure(&failure(500), 1, &delivery(0, BackoffPolicy::Linear), 0.0), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_the_larger_wait_and_cut_at_its_maximum() {
        let check = |asked: u64, max: Option<u64>, expected: u64| {
            let mut options = delivery(5, BackoffPolicy::Linear);
            options.retry_after_max = max.map(Duration::from_secs);
            let failure = Failure::answered(503, Bytes::new(), Some(Duration::from_secs(asked)));
            let next = after_failure(&failure, 2, &options, 0.0);
            assert_eq!(next, Next::RetryAfter(Duration::from_secs(expected)), "{asked} {max:?}");
        };
        check(30, None, 2);
        check(30, Some(0), 2);
        check(30, Some(60), 30);
        check(30, Some(10), 10);
        check(1, Some(60), 2);
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_the_policy_or_longer_than_a_tenth_more(
            retry in 1_u64..u64::MAX, delay in 0_u64..1_000_000, max in 1_u64..1_000_000, chance in 0.0_f64..1.0, linear: bool
        ) {
            let policy = if linear { BackoffPolicy::Linear } else { BackoffPolicy::Exponential };
            let mut options = delivery(u32::MAX, policy);
            options.backoff_delay = Duration::from_millis(delay);
            options.backoff_max = Duration::from_millis(max);
            let exact = wait(&failure(500), retry, &options, 0.0);
            let jittered = wait(&failure(500), retry, &options, chance);
            prop_assert!(exact <= options.backoff_max);
            prop_assert!(jittered >= exact && jittered <= exact.mul_f64(1.1) + Duration::from_nanos(1));
        }
    }
}

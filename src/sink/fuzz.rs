//! What holds of requests to sinks and of their answers whatever they say. `crate::fuzz` makes the input up.

use std::time::Duration;

use jiff::Timestamp;

use super::outcome;
pub(crate) use super::plain::fuzz::{answer, request};

/// A `Retry-After`: digits are seconds; anything else is a date, or nothing.
pub(crate) fn retry_after(bytes: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(bytes).ok()?;
    let asked = outcome::retry_after(text, Timestamp::UNIX_EPOCH);
    if let Ok(seconds) = text.trim().parse::<u64>()
        && text.trim().bytes().all(|byte| byte.is_ascii_digit())
    {
        assert_eq!(asked, Some(Duration::from_secs(seconds)));
    }
    asked
}

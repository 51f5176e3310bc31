//! What came of a delivery, and the response table that says so (CONTRACT: 404, 408, 409, 429, 5xx and no answer are worth a
//! retry; all other answers but 2xx are final).

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::event::{Event, PassThrough};

/// The result of one attempt.
#[derive(Debug)]
pub enum Outcome {
    /// The destination has the event; its answer's status, 202 when it is a channel.
    Accepted(u16, Answer),
    Failed(Failure),
}

/// What an accepting answer holds.
#[derive(Debug)]
pub enum Answer {
    Nothing,
    /// A body that is no CloudEvent.
    OtherBody,
    /// An event to be sent on, with the pass-through headers of the answer.
    Reply(Box<(Event, PassThrough)>),
    /// It claims to be an event and is not valid.
    InvalidReply(Failure),
}

/// Why an attempt failed, as far as it concerns what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status of the answer; 500 when there was none.
    pub code: u16,
    /// Whether that is the status of an answer.
    pub answered: bool,
    /// The beginning of the answer's body, at most [`Failure::BODY_LIMIT`] bytes; of our own words when there was no answer.
    pub body: Bytes,
    pub retryable: bool,
    /// Nobody is there, or only somebody who says that nobody is (503).
    pub unreachable: bool,
    /// What the answer asked for, when its status is one on which that counts (429, 503).
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Bytes of a body that a dead letter tells of, so that their base64 has at most 1024 characters.
    pub const BODY_LIMIT: usize = 768;

    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.answered.then_some(self.code)
    }

    /// No answer: a broken connection, a timeout.
    pub fn no_answer(reason: &str) -> Self {
        let mut body = Bytes::from(format!("dispatch error: {reason}"));
        body.truncate(Self::BODY_LIMIT);
        Self { code: 500, answered: false, body, retryable: true, unreachable: false, retry_after: None }
    }

    /// No connection: nobody there, no such name.
    pub fn unreachable(reason: &str) -> Self {
        Self { unreachable: true, ..Self::no_answer(reason) }
    }

    /// An answer that says no.
    pub fn answered(code: u16, body: Bytes, retry_after: Option<Duration>) -> Self {
        let counts = matches!(code, 429 | 503);
        let retry_after = retry_after.filter(|_| counts);
        Self { code, answered: true, body, retryable: is_retryable(code), unreachable: code == 503, retry_after }
    }

    /// An answer that says yes and holds an event that is none.
    pub fn invalid_reply(reason: &str) -> Self {
        let mut body = Bytes::from(reason.to_owned());
        body.truncate(Self::BODY_LIMIT);
        Self { code: 502, answered: true, body, retryable: false, unreachable: false, retry_after: None }
    }
}

pub(super) fn is_retryable(code: u16) -> bool {
    matches!(code, 404 | 408 | 409 | 429 | 500..)
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3). What is neither counts as absent.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX / 2)));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_table_is_that_of_the_contract() {
        for code in [404, 408, 409, 429, 500, 501, 502, 503, 504, 599, 600, 999] {
            assert!(is_retryable(code), "{code}");
        }
        for code in [100, 199, 300, 301, 302, 304, 307, 308, 400, 401, 403, 405, 406, 410, 413, 415, 422, 499] {
            assert!(!is_retryable(code), "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let check = |value, seconds: Option<u64>| {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("Sat, 21 Nov 2026 10:00:07 GMT", Some(7));
        check("Sat, 21 Nov 2026 09:00:00 GMT", Some(0));
        for broken in ["", "soon", "-1", "1.5", "+3", "Sat, 99 Nov 2026 10:00:07 GMT"] {
            check(broken, None);
        }
        assert!(retry_after("99999999999999999999999", now).is_some());
    }

    #[test]
    fn retry_after_counts_on_429_and_503_only() {
        let asked = Some(Duration::from_secs(3));
        for code in [429, 503] {
            assert_eq!(Failure::answered(code, Bytes::new(), asked).retry_after, asked);
        }
        for code in [404, 500, 502] {
            assert_eq!(Failure::answered(code, Bytes::new(), asked).retry_after, None);
        }
    }
}

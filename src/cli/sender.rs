//! Sending events to a sink as a source does: one request, what its answer means, and how long to wait before the next try.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::Usage;
use crate::event::{self, Event};
use crate::sink::client::{self, Client, Url};

/// For one request, from connecting to the last byte of the answer. Longer than any sensible `--publish-timeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer is read for its problem detail only, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How much of an answer that is no problem document is shown, in characters.
const SHOWN_ANSWER: usize = 300;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Where a source sends, as a SinkBinding injects it.
const SINK_VARIABLE: &str = "K_SINK";
const CA_VARIABLE: &str = "K_CA_CERTS";
const TRUST_ADVICE: &str = "set K_CA_CERTS to the certificate of its authority (PEM)";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Attributes as headers, data as body
    Binary,
    /// One JSON event a request
    Structured,
    /// Many JSON events a request
    Batch,
}

/// Sends to one sink.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    client: Client,
    target: Url,
    mode: Mode,
}

/// Why a sink did not take events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    target: String,
    /// `None` when there was no answer.
    status: Option<StatusCode>,
    detail: String,
    retry_after: Option<Duration>,
}

impl Sender {
    /// Sends to `to`, else to `K_SINK`. `K_CA_CERTS` is trusted beside the system's authorities.
    pub(super) fn new(to: Option<&str>, mode: Mode) -> anyhow::Result<Self> {
        let sink = std::env::var(SINK_VARIABLE).ok().filter(|sink| !sink.is_empty());
        let (name, text) = match (to, &sink) {
            (Some(to), _) => ("--to", to),
            (None, Some(sink)) => (SINK_VARIABLE, sink.as_str()),
            (None, None) => return Err(Usage(format!("no target: give --to URL or set {SINK_VARIABLE}")).into()),
        };
        let target = http_url(name, text)?;
        let roots = std::env::var(CA_VARIABLE).ok().filter(|pem| !pem.is_empty());
        let client = Client::with(REQUEST_TIMEOUT, roots.as_deref());
        let client = client.map_err(|error| match roots {
            Some(_) => Usage(format!("{CA_VARIABLE}: {error}")).into(),
            None => anyhow::Error::from(error),
        })?;
        Ok(Self { client, target, mode })
    }

    /// One request with all the events: exactly one of them unless the mode is batch.
    ///
    /// # Errors
    /// When the sink did not say that it has them; it may have them all the same when there was no answer.
    pub(super) async fn attempt(&self, events: &[Event]) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        let body = encode(self.mode, events, &mut headers);
        let request = self.client.post(self.target.clone()).headers(headers).body(body);
        let answer = client::exchange(request, ANSWER_LIMIT)
            .await
            .map_err(|error| self.failure(None, error.advised(TRUST_ADVICE)))?;
        if answer.status.is_success() {
            return Ok(());
        }
        let mut failure = self.failure(Some(answer.status), detail(&answer.body));
        failure.retry_after = retry_after(&answer.headers);
        Err(failure)
    }

    /// The target as it may be shown: no credentials, no query.
    pub(super) fn target(&self) -> String {
        shown(&self.target)
    }

    fn failure(&self, status: Option<StatusCode>, detail: String) -> Failure {
        Failure { target: self.target(), status, detail, retry_after: None }
    }
}

impl Failure {
    /// True when the sink may take the same event a little later: it was not there, or too busy.
    pub(super) fn is_passing(&self) -> bool {
        self.status.is_none_or(|status| {
            status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        })
    }

    /// True when it is worth to a source that runs for ever to go on trying: also a channel that is not there may come yet
    /// (the statuses that Knative retries).
    pub(super) fn is_worth_waiting(&self) -> bool {
        self.is_passing() || matches!(self.status, Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, status, detail, .. } = self;
        match status {
            Some(status) => write!(f, "{target} answered {status}: {detail}"),
            None => write!(f, "no answer from {target}: {detail}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Waits between tries: doubling, with the sink's own `Retry-After` where it is longer, and never more than a bound.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST_BACKOFF }
    }

    pub(super) fn after(&mut self, failure: &Failure) -> Duration {
        let wait = self.next.max(failure.retry_after.unwrap_or_default()).min(LONGEST_BACKOFF);
        self.next = (self.next * 2).min(LONGEST_BACKOFF);
        wait
    }
}

/// Reads an absolute http or https URL; `name` is where the user gave it.
pub(super) fn http_url(name: &str, text: &str) -> Result<Url, Usage> {
    // The text itself is not repeated: it may hold a secret.
    let url = Url::parse(text).map_err(|error| {
        Usage(format!("{name}: {error}; expected an absolute URL such as http://127.0.0.1:8080/default/foo"))
    })?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(Usage(format!("{name}: scheme '{}', expected http or https", url.scheme())))
    }
}

/// A URL as it may be shown: no credentials, no query, no fragment.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn encode(mode: Mode, events: &[Event], headers: &mut HeaderMap) -> Bytes {
    match (mode, events) {
        (Mode::Binary, [event]) => event::http::encode_binary(event, headers),
        (Mode::Structured, [event]) => event::http::encode_structured(event, headers),
        _ => event::http::encode_batch(&events.iter().collect::<Vec<_>>(), headers),
    }
}

/// What the sink says went wrong: a problem document's `detail` (RFC 9457), else the beginning of the text.
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let text = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.detail,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line: String = text.trim().chars().take(SHOWN_ANSWER).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.is_empty() { "no reason given".into() } else { line }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn failure(status: u16, retry_after: Option<u64>) -> Failure {
        Failure {
            target: String::new(),
            status: StatusCode::from_u16(status).ok(),
            detail: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passing, worth_waiting) in [
            (0, true, true),
            (400, false, false),
            (404, false, true),
            (408, true, true),
            (413, false, false),
            (415, false, false),
            (429, true, true),
            (500, true, true),
            (503, true, true),
            (301, false, false),
        ] {
            let failure = failure(status, None);
            assert_eq!((failure.is_passing(), failure.is_worth_waiting()), (passing, worth_waiting), "{status}");
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_heed_the_sink() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after(&failure(503, None)).as_millis(), 200);
        assert_eq!(backoff.after(&failure(503, None)).as_millis(), 400);
        assert_eq!(backoff.after(&failure(503, Some(3))).as_secs(), 3);
        assert_eq!(backoff.after(&failure(503, Some(86_400))), LONGEST_BACKOFF);
        for _ in 0..64 {
            assert!(backoff.after(&failure(503, None)) <= LONGEST_BACKOFF);
        }
    }

    #[test]
    fn a_refusal_shows_the_reason_of_the_sink() {
        for (body, expected) in [
            (&br#"{"title":"Bad Request","detail":"attribute 'id' is missing"}"#[..], "attribute 'id' is missing"),
            (b"  no such channel\n", "no such channel"),
            (b"", "no reason given"),
            (b"\x1b[31mred", " [31mred"),
        ] {
            assert_eq!(detail(body), expected);
        }
    }

    #[test]
    fn a_shown_url_holds_no_secret() {
        let url = http_url("--to", "https://user:word@example.com:8443/a/b?key=1#x").unwrap();
        assert_eq!(shown(&url), "https://example.com:8443/a/b");
        assert!(http_url("--to", "ftp://example.com").is_err());
        assert!(http_url("--to", "/default/foo").is_err());
    }
}

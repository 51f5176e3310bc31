//! Owns how the HTTP client is set up and how one exchange is bounded: no redirects, no cookies, a limit on time and on the
//! bytes of the answer. What an answer means is for others to say.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
pub use reqwest::{Client, RequestBuilder, Url};

/// An answer, read to the end or to the limit.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// There was more of the body than the limit; it was left unread.
    pub truncated: bool,
}

/// Why there is no answer. The text never holds the URL, whose query may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// A client whose exchanges take at most `timeout` from the first byte to the last. A redirect is an answer like another: it is
/// not followed. `roots` are certificate authorities (PEM) that are trusted beside those of the system.
///
/// # Errors
/// When `roots` is no PEM, or TLS cannot be set up.
pub fn client(timeout: Duration, roots: Option<&str>) -> Result<Client, NoAnswer> {
    let mut builder = Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("knats/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = roots {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| no_answer(&error))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| no_answer(&error))
}

/// Sends the request and reads at most `limit` bytes of the answer's body.
///
/// # Errors
/// When no whole answer came: no connection, no answer in time, or one that broke off.
pub async fn exchange(request: RequestBuilder, limit: usize) -> Result<Answer, NoAnswer> {
    let mut response = request.send().await.map_err(|error| no_answer(&error))?;
    let mut body = BytesMut::new();
    let mut truncated = false;
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Answer {
        status: response.status(),
        headers: std::mem::take(response.headers_mut()),
        body: body.freeze(),
        truncated,
    })
}

/// The innermost cause says what happened; what is around it says only that the request failed, and names the URL.
fn no_answer(error: &reqwest::Error) -> NoAnswer {
    if error.is_timeout() {
        return NoAnswer("no answer in time".into());
    }
    let mut cause: &dyn std::error::Error = match error.source() {
        Some(source) => source,
        None => return NoAnswer("the HTTP client could not be used".into()),
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_connect() { NoAnswer(format!("cannot connect: {cause}")) } else { NoAnswer(cause.to_string()) }
}

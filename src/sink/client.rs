//! The HTTP client that everything in the house sends with: no redirects, no cookies, connections that are used again. What an
//! answer means is for others to say.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
pub use reqwest::{RequestBuilder, Url};

/// How long it may take until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept although nobody uses them, for each host, and for how long.
const IDLE_PER_HOST: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Notices a peer that went away without a word.
const TCP_KEEPALIVE: Duration = Duration::from_secs(20);

/// Two pools of connections: through the proxy of the environment, and past it for hosts on this machine.
#[derive(Debug, Clone)]
pub struct Client {
    outside: reqwest::Client,
    loopback: reqwest::Client,
}

/// An answer, read to the end or to the limit.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// There was more of the body than the limit; it was left unread.
    pub truncated: bool,
}

/// Why the client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientError(String);

/// Why there is no answer. The text never holds the URL, whose query may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

impl Client {
    /// A client without a limit of its own on the time of an exchange.
    ///
    /// # Errors
    /// When the proxy settings of the environment or the system's certificates cannot be used.
    pub fn new() -> Result<Self, ClientError> {
        Self::build(builder)
    }

    /// A client whose exchanges take at most `timeout` from the first byte to the last. `roots` are certificate authorities
    /// (PEM) that are trusted beside those of the system.
    ///
    /// # Errors
    /// As [`Client::new`], and when `roots` is no PEM.
    pub fn with(timeout: Duration, roots: Option<&str>) -> Result<Self, ClientError> {
        let certificates = match roots {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| set_up(&error))?,
            None => Vec::new(),
        };
        Self::build(|| builder().timeout(timeout).tls_certs_merge(certificates.clone()))
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.pool(&url).get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.pool(&url).post(url)
    }

    fn build(builder: impl Fn() -> reqwest::ClientBuilder) -> Result<Self, ClientError> {
        let outside = builder().build().map_err(|error| set_up(&error))?;
        let loopback = builder().no_proxy().build().map_err(|error| set_up(&error))?;
        Ok(Self { outside, loopback })
    }

    fn pool(&self, url: &Url) -> &reqwest::Client {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            &self.loopback
        } else {
            &self.outside
        }
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("knats/", env!("CARGO_PKG_VERSION")))
        // A redirect is an outcome, not an instruction: following it could send an event twice or elsewhere.
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(TCP_KEEPALIVE)
        .tcp_nodelay(true)
}

fn set_up(error: &reqwest::Error) -> ClientError {
    ClientError(error.source().map_or_else(|| error.to_string(), ToString::to_string))
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
pub(super) fn no_answer(error: &reqwest::Error) -> NoAnswer {
    if error.is_timeout() {
        return NoAnswer("no answer in time".into());
    }
    let Some(mut cause) = error.source() else {
        return NoAnswer("the HTTP client could not be used".into());
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_connect() { NoAnswer(format!("cannot connect: {cause}")) } else { NoAnswer(cause.to_string()) }
}

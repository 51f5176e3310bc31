//! The HTTP client that everything in the house sends with: no redirects, no cookies, connections that are used again. What an
//! answer means is for others to say.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::redirect::Policy;
pub use reqwest::{RequestBuilder, Url};

use super::plain::{Pool, WeakPool};

/// How long it may take until a connection stands.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept although nobody uses them, for each host, and for how long. A name is looked up for every new
/// connection, so a host that moves and closes its old address is found at once, one that only falls silent after this time.
pub(super) const IDLE_PER_HOST: usize = 256;
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Notices a peer that went away without a word.
pub(super) const TCP_KEEPALIVE: Duration = Duration::from_secs(20);
pub(super) const USER_AGENT: &str = concat!("knats/", env!("CARGO_PKG_VERSION"));

/// The ways out: through the proxy of the environment, and past it for hosts on this machine. What needs neither TLS nor a proxy
/// can go by pools of plain connections, which cost half as much a request.
#[derive(Debug, Clone)]
pub struct Client {
    outside: reqwest::Client,
    loopback: reqwest::Client,
    proxies: Arc<Matcher>,
    plain: Arc<Mutex<HashMap<Authority, WeakPool>>>,
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
        // The same rules as those of the client above, which reads them from the same place.
        Ok(Self { outside, loopback, proxies: Arc::new(Matcher::from_system()), plain: Arc::default() })
    }

    /// The plain connections to where the URL points; `None` when it needs TLS, names a user, or goes through a proxy.
    pub(super) fn plain(&self, url: &Url) -> Option<Pool> {
        let uri: Uri = url.as_str().parse().ok()?;
        let names_user = !url.username().is_empty() || url.password().is_some();
        if url.scheme() != "http" || names_user || (!is_on_this_machine(url) && self.proxies.intercept(&uri).is_some())
        {
            return None;
        }
        let authority: Authority = authority(url).parse().ok()?;
        let mut pools = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&authority).and_then(WeakPool::upgrade) {
            return Some(pool);
        }
        pools.retain(|_, pool| pool.upgrade().is_some());
        let pool = Pool::new(authority.clone());
        pools.insert(authority, pool.downgrade());
        Some(pool)
    }

    fn pool(&self, url: &Url) -> &reqwest::Client {
        if is_on_this_machine(url) { &self.loopback } else { &self.outside }
    }
}

/// Host and port.
pub(super) fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn is_on_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
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

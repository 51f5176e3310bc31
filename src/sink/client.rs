//! The HTTP client that everything in the house sends with: no redirects, no cookies, connections that are used again. What an
//! answer means is for others to say.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
pub use reqwest::{RequestBuilder, Url};
use rustls::pki_types::CertificateDer;

use super::guard::{Guard, Lookup};
use super::plain::{Pool, WeakPool};
use super::trust::Files;
use super::ways::{Clients, Maker, Ways};
use crate::resource::certificates;
use crate::resource::manifest::Watcher;

/// How long it may take until a connection stands.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept although nobody uses them, for each host, and for how long. A name is looked up for every new
/// connection, so a host that moves and closes its old address is found at once, one that only falls silent after this time.
pub(super) const IDLE_PER_HOST: usize = 256;
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Notices a peer that went away without a word.
pub(super) const TCP_KEEPALIVE: Duration = Duration::from_secs(20);
pub(super) const USER_AGENT: &str = concat!("knats/", env!("CARGO_PKG_VERSION"));

/// How a client for deliveries is set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub files: Files,
    pub guard: Guard,
}

/// The ways out. What needs neither TLS nor a proxy can go by pools of plain connections, which cost half as much a request.
#[derive(Debug, Clone)]
pub struct Client {
    maker: Arc<Maker>,
    ways: Arc<Ways>,
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
pub struct ClientError(pub(super) String);

/// Why there is no answer. The text never holds the URL, whose query may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// What a server's certificate lacks when nobody here has said that its authority is to be trusted.
const UNTRUSTED: &str = "its certificate is not signed by an authority that is trusted here";

impl NoAnswer {
    /// The reason; with `advice`, where an authority has to be named for it to go away.
    pub fn advised(self, advice: &str) -> String {
        if self.0.ends_with(UNTRUSTED) { format!("{}: {advice}", self.0) } else { self.0 }
    }
}

impl Client {
    /// A client for deliveries, without a limit of its own on the time of an exchange.
    ///
    /// # Errors
    /// When a file, the proxy settings of the environment or the system's certificates cannot be used.
    pub fn of(settings: Settings) -> Result<Self, ClientError> {
        Self::build(Maker::new(None, settings)?, Vec::new())
    }

    /// A client whose exchanges take at most `timeout` from the first byte to the last. `roots` are certificate authorities
    /// (PEM) that are trusted beside those of the system.
    ///
    /// # Errors
    /// As [`Client::of`], and when `roots` holds no certificate authority.
    pub fn with(timeout: Duration, roots: Option<&str>) -> Result<Self, ClientError> {
        let authorities = roots.map_or(Ok(Vec::new()), |pem| certificates::authorities(pem.as_bytes()));
        let authorities = authorities.map_err(ClientError)?;
        Self::build(Maker::new(Some(timeout), Settings::default())?, authorities)
    }

    fn build(maker: Maker, authorities: Vec<CertificateDer<'static>>) -> Result<Self, ClientError> {
        let ways = Arc::new(maker.ways(authorities)?);
        // The same rules as those by which the library chooses, which reads them from the same place.
        let proxies = Arc::new(Matcher::from_system());
        Ok(Self { maker: Arc::new(maker), ways, proxies, plain: Arc::default() })
    }

    /// The same client for a destination that brings certificate authorities (PEM) of its own.
    ///
    /// # Errors
    /// As [`Client::with`].
    pub(super) fn trusting(&self, pem: &str) -> Result<Self, ClientError> {
        Ok(Self { ways: self.maker.trusting(pem)?, ..self.clone() })
    }

    /// Reads the files of the settings again whenever they change, for ever. One that cannot be used is told of once, and
    /// what was there before stays in force. Ends at once when there are none.
    pub async fn follow_files(&self) {
        let paths = self.maker.files.paths();
        if paths.is_empty() {
            return;
        }
        let mut watcher = Watcher::new(&paths);
        loop {
            let (maker, ways) = (Arc::clone(&self.maker), Arc::clone(&self.ways));
            // Reading all that a system trusts takes its time.
            match tokio::task::spawn_blocking(move || maker.renew(ways)).await {
                Ok(Ok(true)) => tracing::info!("certificates for sinks read anew"),
                Ok(Err(error)) => tracing::error!(%error, "certificates for sinks stay as they were"),
                Ok(Ok(false)) | Err(_) => {}
            }
            watcher.changed().await;
        }
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.way(&url).get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.way(&url).post(url)
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.maker.guard
    }

    /// The plain connections to where the URL points; `None` when it needs TLS, names a user, or goes through a proxy.
    pub(super) fn plain(&self, url: &Url) -> Option<Pool> {
        let names_user = !url.username().is_empty() || url.password().is_some();
        if url.scheme() != "http" || names_user || self.goes_through_a_proxy(url) {
            return None;
        }
        let authority: Authority = authority(url).parse().ok()?;
        let mut pools = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&authority).and_then(WeakPool::upgrade) {
            return Some(pool);
        }
        pools.retain(|_, pool| pool.upgrade().is_some());
        let pool = Pool::new(authority.clone(), Lookup(Arc::clone(&self.maker.guard)));
        pools.insert(authority, pool.downgrade());
        Some(pool)
    }

    fn way(&self, url: &Url) -> reqwest::Client {
        let Clients { proxied, direct } = self.ways.clients();
        if self.goes_through_a_proxy(url) { proxied } else { direct }
    }

    /// What is on this machine never does.
    fn goes_through_a_proxy(&self, url: &Url) -> bool {
        let uri = url.as_str().parse::<Uri>();
        !is_on_this_machine(url) && uri.is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
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
    let Some(cause) = error.source().and_then(|source| causes(source).last()) else {
        return NoAnswer("the HTTP client could not be used".into());
    };
    let reason = if is_untrusted(cause) { UNTRUSTED.to_owned() } else { cause.to_string() };
    if error.is_connect() { NoAnswer(format!("cannot connect: {reason}")) } else { NoAnswer(reason) }
}

fn is_untrusted(cause: &(dyn Error + 'static)) -> bool {
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    cause.downcast_ref::<rustls::Error>() == Some(&unknown)
}

/// An error and its causes, the innermost last; an error that the system's own kind of error wraps is one of them.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

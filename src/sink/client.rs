//! The HTTP client that everything in the house sends with: no redirects, no cookies, connections that are used again. What an
//! answer means is for others to say.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::redirect::Policy;
pub use reqwest::{RequestBuilder, Url};
use rustls::pki_types::CertificateDer;

use super::guard::{Guard, Lookup};
use super::plain::{Pool, WeakPool};
use super::trust::{Files, Trust};
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
    shared: Arc<Shared>,
    ways: Arc<Ways>,
}

/// What is the same for all authorities that are trusted.
struct Shared {
    timeout: Option<Duration>,
    files: Files,
    guard: Arc<Guard>,
    proxies: Matcher,
    plain: Mutex<HashMap<Authority, WeakPool>>,
    /// What the files held when they were last good.
    trust: Mutex<Trust>,
    /// Those that trust authorities of one destination besides, by the PEM of these.
    trusting: Mutex<HashMap<Arc<str>, Weak<Ways>>>,
}

/// The ways out for a set of authorities.
#[derive(Debug)]
struct Ways {
    /// Those that are trusted here beside those of the system and of the file.
    authorities: Vec<CertificateDer<'static>>,
    clients: RwLock<Clients>,
}

#[derive(Debug, Clone)]
struct Clients {
    /// Through the proxy of the environment. Whether that is at an inner address is no concern of the guard's.
    proxied: reqwest::Client,
    /// Past it: the guard sees every address.
    direct: reqwest::Client,
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
        let trust = Trust::read(&settings.files)?;
        Self::build(None, settings, trust, Vec::new())
    }

    /// A client whose exchanges take at most `timeout` from the first byte to the last. `roots` are certificate authorities
    /// (PEM) that are trusted beside those of the system.
    ///
    /// # Errors
    /// As [`Client::of`], and when `roots` holds no certificate authority.
    pub fn with(timeout: Duration, roots: Option<&str>) -> Result<Self, ClientError> {
        let authorities = roots.map_or(Ok(Vec::new()), |pem| certificates::authorities(pem.as_bytes()));
        let authorities = authorities.map_err(ClientError)?;
        Self::build(Some(timeout), Settings::default(), Trust::default(), authorities)
    }

    fn build(
        timeout: Option<Duration>,
        settings: Settings,
        trust: Trust,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, ClientError> {
        let shared = Shared {
            timeout,
            files: settings.files,
            guard: Arc::new(settings.guard),
            // The same rules as those by which the library chooses, which reads them from the same place.
            proxies: Matcher::from_system(),
            plain: Mutex::default(),
            trust: Mutex::new(trust),
            trusting: Mutex::default(),
        };
        let ways = Arc::new(shared.ways(authorities)?);
        Ok(Self { shared: Arc::new(shared), ways })
    }

    /// The same client for a destination that brings certificate authorities (PEM) of its own.
    ///
    /// # Errors
    /// As [`Client::with`].
    pub(super) fn trusting(&self, pem: &str) -> Result<Self, ClientError> {
        let mut trusting = self.shared.trusting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = trusting.get(pem).and_then(Weak::upgrade);
        let ways = match known {
            Some(ways) => ways,
            None => {
                let authorities = certificates::authorities(pem.as_bytes()).map_err(ClientError)?;
                let ways = Arc::new(self.shared.ways(authorities)?);
                trusting.retain(|_, ways| ways.strong_count() > 0);
                trusting.insert(pem.into(), Arc::downgrade(&ways));
                ways
            }
        };
        Ok(Self { shared: Arc::clone(&self.shared), ways })
    }

    /// Reads the files of the settings again whenever they change, for ever. One that cannot be used is told of once, and
    /// what was there before stays in force. Ends at once when there are none.
    pub async fn follow_files(&self) {
        let paths = self.shared.files.paths();
        if paths.is_empty() {
            return;
        }
        let mut watcher = Watcher::new(&paths);
        loop {
            let client = self.clone();
            // Reading all that a system trusts takes its time.
            match tokio::task::spawn_blocking(move || client.renew()).await {
                Ok(Ok(true)) => tracing::info!("certificates for sinks read anew"),
                Ok(Err(error)) => tracing::error!(%error, "certificates for sinks stay as they were"),
                Ok(Ok(false)) | Err(_) => {}
            }
            watcher.changed().await;
        }
    }

    /// True when there was something new. Connections that stand are used no more.
    fn renew(&self) -> Result<bool, ClientError> {
        let trust = Trust::read(&self.shared.files)?;
        // Locked in the order of `trusting`, and first: nobody comes with authorities of his own meanwhile and is left with
        // what was.
        let trusting = self.shared.trusting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.shared.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if trust.is_of_the_same_files(&current) {
            return Ok(false);
        }
        let all = trusting.values().filter_map(Weak::upgrade).chain([Arc::clone(&self.ways)]);
        let renewed: Result<Vec<_>, ClientError> =
            all.map(|ways| Ok((self.shared.clients(&trust, &ways.authorities)?, ways))).collect();
        for (clients, ways) in renewed? {
            *ways.clients.write().unwrap_or_else(PoisonError::into_inner) = clients;
        }
        *current = trust;
        Ok(true)
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.way(&url).get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.way(&url).post(url)
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.shared.guard
    }

    /// The plain connections to where the URL points; `None` when it needs TLS, names a user, or goes through a proxy.
    pub(super) fn plain(&self, url: &Url) -> Option<Pool> {
        let names_user = !url.username().is_empty() || url.password().is_some();
        if url.scheme() != "http" || names_user || self.shared.goes_through_a_proxy(url) {
            return None;
        }
        let authority: Authority = authority(url).parse().ok()?;
        let mut pools = self.shared.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&authority).and_then(WeakPool::upgrade) {
            return Some(pool);
        }
        pools.retain(|_, pool| pool.upgrade().is_some());
        let pool = Pool::new(authority.clone(), Lookup(Arc::clone(&self.shared.guard)));
        pools.insert(authority, pool.downgrade());
        Some(pool)
    }

    fn way(&self, url: &Url) -> reqwest::Client {
        let clients = self.ways.clients.read().unwrap_or_else(PoisonError::into_inner);
        if self.shared.goes_through_a_proxy(url) { clients.proxied.clone() } else { clients.direct.clone() }
    }
}

impl Shared {
    fn ways(&self, authorities: Vec<CertificateDer<'static>>) -> Result<Ways, ClientError> {
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = RwLock::new(self.clients(&trust, &authorities)?);
        Ok(Ways { authorities, clients })
    }

    fn clients(&self, trust: &Trust, authorities: &[CertificateDer<'static>]) -> Result<Clients, ClientError> {
        let all = trust.authorities.iter().chain(authorities);
        let certificates: Result<Vec<_>, _> = all.map(|one| reqwest::Certificate::from_der(one)).collect();
        let certificates = certificates.map_err(|error| set_up(&error))?;
        let builder = || {
            let builder = builder().tls_certs_merge(certificates.clone());
            let builder = trust.identity.iter().cloned().fold(builder, reqwest::ClientBuilder::identity);
            self.timeout.into_iter().fold(builder, reqwest::ClientBuilder::timeout)
        };
        let direct = builder().no_proxy().dns_resolver(Lookup(Arc::clone(&self.guard)));
        Ok(Clients {
            proxied: builder().build().map_err(|error| set_up(&error))?,
            direct: direct.build().map_err(|error| set_up(&error))?,
        })
    }

    /// What is on this machine never does.
    fn goes_through_a_proxy(&self, url: &Url) -> bool {
        let uri = url.as_str().parse::<Uri>();
        !is_on_this_machine(url) && uri.is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("files", &self.files).field("guard", &self.guard).finish_non_exhaustive()
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

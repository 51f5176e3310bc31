//! The clients of the HTTP library: a pair for each set of authorities that is trusted, made anew when our files change.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;

use super::client::{CONNECT_TIMEOUT, ClientError, IDLE_PER_HOST, IDLE_TIMEOUT, Settings, TCP_KEEPALIVE, USER_AGENT};
use super::guard::{Guard, Lookup};
use super::trust::{Files, Trust};
use crate::resource::certificates;

/// Makes clients by what is the same for all of them.
pub(super) struct Maker {
    timeout: Option<Duration>,
    pub(super) files: Files,
    pub(super) guard: Arc<Guard>,
    /// What the files held when they were last good.
    trust: Mutex<Trust>,
    /// Those that trust authorities of one destination besides, by the PEM of these. Locked before `trust`.
    trusting: Mutex<HashMap<Arc<str>, Weak<Ways>>>,
}

/// The clients for a set of authorities.
#[derive(Debug)]
pub(super) struct Ways {
    /// Those that are trusted here beside those of the system and of the file.
    authorities: Vec<CertificateDer<'static>>,
    clients: RwLock<Clients>,
}

#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// Through the proxy of the environment. Whether that is at an inner address is no concern of the guard's.
    pub(super) proxied: reqwest::Client,
    /// Past it: the guard sees every address.
    pub(super) direct: reqwest::Client,
}

impl Ways {
    /// Those in force now.
    pub(super) fn clients(&self) -> Clients {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Maker {
    /// # Errors
    /// When a file cannot be used.
    pub(super) fn new(timeout: Option<Duration>, settings: Settings) -> Result<Self, ClientError> {
        let trust = Mutex::new(Trust::read(&settings.files)?);
        let guard = Arc::new(settings.guard);
        Ok(Self { timeout, files: settings.files, guard, trust, trusting: Mutex::default() })
    }

    /// # Errors
    /// When the proxy settings of the environment or the system's certificates cannot be used.
    pub(super) fn ways(&self, authorities: Vec<CertificateDer<'static>>) -> Result<Ways, ClientError> {
        let trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = RwLock::new(self.clients(&trust, &authorities)?);
        Ok(Ways { authorities, clients })
    }

    /// The clients that trust these authorities (PEM) too; the same for everybody who asks.
    ///
    /// # Errors
    /// As [`Maker::ways`], and when there is no authority in it.
    pub(super) fn trusting(&self, pem: &str) -> Result<Arc<Ways>, ClientError> {
        let mut trusting = self.trusting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ways) = trusting.get(pem).and_then(Weak::upgrade) {
            return Ok(ways);
        }
        let authorities = certificates::authorities(pem.as_bytes()).map_err(ClientError)?;
        let ways = Arc::new(self.ways(authorities)?);
        trusting.retain(|_, ways| ways.strong_count() > 0);
        trusting.insert(pem.into(), Arc::downgrade(&ways));
        Ok(ways)
    }

    /// Reads the files again, for `ways` and for all that trust others besides. True when there was something new;
    /// connections that stand are then used no more.
    ///
    /// # Errors
    /// When a file cannot be used; then nothing has changed.
    pub(super) fn renew(&self, ways: Arc<Ways>) -> Result<bool, ClientError> {
        let trust = Trust::read(&self.files)?;
        // Held to the end: nobody comes meanwhile and is left with what was.
        let trusting = self.trusting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if trust.is_of_the_same_files(&current) {
            return Ok(false);
        }
        let all = trusting.values().filter_map(Weak::upgrade).chain([ways]);
        let renewed: Result<Vec<_>, ClientError> =
            all.map(|ways| Ok((self.clients(&trust, &ways.authorities)?, ways))).collect();
        for (clients, ways) in renewed? {
            *ways.clients.write().unwrap_or_else(PoisonError::into_inner) = clients;
        }
        *current = trust;
        Ok(true)
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
}

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maker").field("files", &self.files).field("guard", &self.guard).finish_non_exhaustive()
    }
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

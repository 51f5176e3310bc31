//! Connections to NATS: what both kinds have in common, and the one for everything that does not happen with every event.
//!
//! A bridge has two: [`Connection`] is that of the NATS library, for the JetStream API; events go over a
//! [`Wire`](super::Wire).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::watch;

use super::secrets::{Secrets, bad_credentials};

/// How often the server is asked whether it is still there.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(5);
/// So many unanswered pings end a wire; the library's client has the same bound built in.
pub(super) const MAX_UNANSWERED_PINGS: usize = 3;
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers of the JetStream API.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands that wait in the client. Few, because what waits while the connection is down is stored after it is back although
/// its caller was told otherwise; sixteen is as fast as thousands.
const CLIENT_CAPACITY: usize = 16;
/// The longest wait between two attempts to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Subjects that the server has denied us and that we remember; when there are more, we start anew.
const MAX_DENIED: usize = 1000;

/// Where NATS is and who we are there. Secrets come from files only.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `nats://`, `tls://` URLs; any of them.
    pub urls: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub nkey_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

/// A setting that cannot work, whatever the server does.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {what} from {}: {error}", path.display())]
    File { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Contradiction(String),
    #[error("--nats-url '{url}': {error}")]
    Url { url: String, error: String },
}

/// One connection for requests, which comes back for ever.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    link: watch::Receiver<Link>,
    denied: watch::Receiver<Denied>,
}

/// How often the server has denied us to publish, by subject. It answers such a message with nothing else.
type Denied = BTreeMap<String, u64>;

/// What became of a connection so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    pub connected: bool,
    /// How often it was lost.
    pub losses: u64,
}

impl Connection {
    /// Starts to connect and goes on until it succeeds, so a server that is not there yet is no error.
    ///
    /// # Errors
    /// When the settings themselves are wrong.
    pub async fn open(settings: &Settings, name: &str) -> Result<Self, SettingsError> {
        let (sender, link) = watch::channel(Link::default());
        let (denier, denied) = watch::channel(Denied::default());
        let follower = Arc::new(Follower { link: sender, denied: denier, refusal: Mutex::default() });
        let options = options(Secrets::read(settings).await?)?
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .client_capacity(CLIENT_CAPACITY)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                follower.follow(&event);
                std::future::ready(())
            });
        let mut servers = Vec::new();
        for url in &settings.urls {
            let address = url
                .parse::<async_nats::ServerAddr>()
                .map_err(|error| SettingsError::Url { url: without_secrets(url), error: error.to_string() })?;
            servers.push(address);
        }
        let client = async_nats::connect_with_options(servers, options)
            .await
            .map_err(|error| SettingsError::Contradiction(format!("cannot set up the NATS client: {error}")))?;
        Ok(Self { client, link, denied })
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Tells of every loss and return.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// How often the server has denied us to publish to this subject so far.
    pub(super) fn denials(&self, subject: &str) -> u64 {
        self.denied.borrow().get(subject).copied().unwrap_or(0)
    }

    /// Returns when the server has denied us this subject more than `before` times.
    pub(super) async fn denied(&self, subject: &str, before: u64) {
        let mut denied = self.denied.clone();
        if denied.wait_for(|denied| denied.get(subject).is_some_and(|times| *times > before)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until all that was sent so far has left for the server, but no longer than `limit`. True when it has.
    pub async fn flush(&self, limit: Duration) -> bool {
        // `flush` never ends while the connection is down, and what waits then may leave long after.
        if !self.is_connected() {
            return false;
        }
        matches!(tokio::time::timeout(limit, self.client.flush()).await, Ok(Ok(())))
    }
}

/// Listens to the client.
struct Follower {
    link: watch::Sender<Link>,
    denied: watch::Sender<Denied>,
    /// Why there is no connection, as far as it was told; each reason is told once.
    refusal: Mutex<String>,
}

impl Follower {
    fn follow(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clear();
                self.link.send_modify(|link| link.connected = true);
            }
            Event::Disconnected => self.link.send_modify(|link| {
                link.connected = false;
                link.losses += 1;
            }),
            Event::SlowConsumer(_) => {
                tracing::error!("the NATS client dropped messages: a pull asked for more than fits")
            }
            Event::ServerError(ServerError::Other(text)) => match denied_subject(text) {
                Some(subject) => self.deny(subject, text),
                None => tracing::warn!(error = text, "NATS server error"),
            },
            Event::ServerError(error) => tracing::warn!(%error, "NATS server error"),
            Event::ClientError(error) => self.refused(error.to_string()),
            _ => {}
        }
    }

    fn deny(&self, subject: &str, text: &str) {
        let mut is_new = false;
        self.denied.send_modify(|denied| {
            if denied.len() >= MAX_DENIED {
                denied.clear();
            }
            let times = denied.entry(subject.to_owned()).or_default();
            is_new = *times == 0;
            *times += 1;
        });
        if is_new {
            tracing::warn!(error = text, "NATS does not permit what the bridge needs");
        }
    }

    fn refused(&self, reason: String) {
        let mut known = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != reason {
            tracing::warn!(error = reason, "cannot connect to NATS, still trying");
            *known = reason;
        }
    }
}

/// The subject in `Permissions Violation for Publish to "SUBJECT"`.
pub(super) fn denied_subject(text: &str) -> Option<&str> {
    let at = text.to_ascii_lowercase().find("permissions violation for publish to")?;
    text[at..].split('"').nth(1)
}

fn options(secrets: Secrets) -> Result<ConnectOptions, SettingsError> {
    let mut options = ConnectOptions::new();
    if let Some((path, text)) = &secrets.credentials {
        options = options.credentials(text).map_err(|error| bad_credentials(path, error))?;
    }
    if let Some((user, password)) = secrets.user {
        options = options.user_and_password(user, password);
    }
    if let Some(token) = secrets.token {
        options = options.token(token);
    }
    if let Some((_, seed)) = secrets.nkey {
        options = options.nkey(seed);
    }
    if let Some(path) = secrets.ca_file {
        options = options.add_root_certificates(path);
    }
    if let Some((certificate, key)) = secrets.client_certificate {
        options = options.add_client_certificate(certificate, key);
    }
    Ok(options)
}

/// How long to wait before an attempt to connect; the first is 1.
pub(super) fn reconnect_delay(attempt: usize) -> Duration {
    let exponent = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    Duration::from_millis(10 * 2_u64.pow(exponent)).min(RECONNECT_MAX)
}

/// A URL as it may be shown: without user and password.
pub(super) fn without_secrets(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

//! Connections to NATS: how they are made, whether they stand, and when they fell.
//!
//! A bridge has two. One stored message that the client cannot parse makes the client drop its connection, so messages are
//! pulled over a connection of their own and a poison message never stops the ingress or the JetStream API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::watch;

use crate::telemetry::Tally;

/// How often the server is asked whether it is still there. Three unanswered pings end the connection.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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

impl Settings {
    /// Where NATS is, as it may be shown to anybody.
    pub fn shown_urls(&self) -> String {
        self.urls.iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(", ")
    }
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

/// One connection that comes back for ever.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    link: watch::Receiver<Link>,
    denied: watch::Receiver<Denied>,
    refusal: watch::Receiver<String>,
}

/// How often the server has denied us to publish, by subject. It answers such a message with nothing else.
type Denied = BTreeMap<String, u64>;

/// What became of a connection so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    pub connected: bool,
    /// How often it was lost.
    pub losses: u64,
    /// How often the client dropped messages because nobody took them in time.
    pub drops: u64,
}

impl Connection {
    /// Starts to connect and goes on until it succeeds, so a server that is not there yet is no error.
    ///
    /// # Errors
    /// When the settings themselves are wrong.
    pub async fn open(settings: &Settings, name: &str) -> Result<Self, SettingsError> {
        let (sender, link) = watch::channel(Link::default());
        let (denier, denied) = watch::channel(Denied::default());
        let (refuser, refusal) = watch::channel(String::new());
        let follower = Arc::new(Follower {
            link: sender,
            denied: denier,
            refusal: refuser,
            slow: Tally::default(),
            server_errors: Tally::default(),
            denials: Tally::default(),
        });
        let options = authenticate(settings)
            .await?
            .name(name)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .client_capacity(CLIENT_CAPACITY)
            .reconnect_delay_callback(|attempts| {
                let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
                Duration::from_millis(10 * 2_u64.pow(exponent)).min(RECONNECT_MAX)
            })
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
        Ok(Self { client, link, denied, refusal })
    }

    /// Waits for the connection; the error says why there is none, as far as that is known.
    ///
    /// # Errors
    /// When it does not stand within `limit`.
    pub async fn established(&self, limit: Duration) -> Result<(), String> {
        let mut link = self.link();
        match tokio::time::timeout(limit, link.wait_for(|link| link.connected)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let refusal = self.refusal.borrow();
                Err(if refusal.is_empty() { format!("no answer within {limit:?}") } else { refusal.clone() })
            }
        }
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
    refusal: watch::Sender<String>,
    slow: Tally,
    server_errors: Tally,
    denials: Tally,
}

impl Follower {
    fn follow(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.refusal.send_modify(String::clear);
                self.link.send_modify(|link| link.connected = true);
            }
            Event::Disconnected => self.link.send_modify(|link| {
                link.connected = false;
                link.losses += 1;
            }),
            Event::SlowConsumer(_) => self.link.send_modify(|link| {
                link.drops += 1;
                if let Some(count) = self.slow.add() {
                    tracing::error!(count, "the NATS client dropped messages: a pull asked for more than fits");
                }
            }),
            Event::ServerError(ServerError::Other(text)) => match denied_subject(text) {
                Some(subject) => self.deny(subject, text),
                None => self.server_error(text),
            },
            Event::ServerError(error) => self.server_error(&error.to_string()),
            Event::ClientError(error) => self.refused(error.to_string()),
            _ => {}
        }
    }

    fn server_error(&self, error: &str) {
        if let Some(count) = self.server_errors.add() {
            tracing::warn!(error, count, "NATS server error");
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
        // Subjects of acknowledgements are one each, so that a new one may come with every event.
        if is_new && let Some(count) = self.denials.add() {
            tracing::warn!(error = text, count, "NATS does not permit what the bridge needs");
        }
    }

    fn refused(&self, reason: String) {
        self.refusal.send_if_modified(|known| {
            let is_new = *known != reason;
            if is_new {
                tracing::warn!(error = reason, "cannot connect to NATS, still trying");
                *known = reason;
            }
            is_new
        });
    }
}

/// The subject in `Permissions Violation for Publish to "SUBJECT"`.
fn denied_subject(text: &str) -> Option<&str> {
    let at = text.to_ascii_lowercase().find("permissions violation for publish to")?;
    text[at..].split('"').nth(1)
}

async fn authenticate(settings: &Settings) -> Result<ConnectOptions, SettingsError> {
    let mut options = ConnectOptions::new();
    if let Some(path) = &settings.credentials_file {
        let text = read_secret(path, "NATS credentials (--nats-creds)").await?;
        options = options.credentials(&text).map_err(|error| SettingsError::File {
            what: "NATS credentials (--nats-creds)",
            path: path.clone(),
            error,
        })?;
    }
    match (&settings.user, &settings.password_file) {
        (Some(user), Some(path)) => {
            let password = read_secret(path, "the NATS password (--nats-password-file)").await?;
            options = options.user_and_password(user.clone(), password);
        }
        (None, None) => {}
        _ => {
            let text = "--nats-user and --nats-password-file go together, expected both or neither";
            return Err(SettingsError::Contradiction(text.into()));
        }
    }
    if let Some(path) = &settings.token_file {
        options = options.token(read_secret(path, "the NATS token (--nats-token-file)").await?);
    }
    if let Some(path) = &settings.nkey_file {
        options = options.nkey(read_secret(path, "the NATS nkey seed (--nats-nkey-file)").await?);
    }
    if let Some(path) = &settings.ca_file {
        read_secret(path, "the CA certificates (--nats-ca)").await?;
        options = options.add_root_certificates(path.clone());
    }
    match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            read_secret(certificate, "the client certificate (--nats-cert)").await?;
            read_secret(key, "the client key (--nats-key)").await?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        (None, None) => {}
        _ => {
            let text = "--nats-cert and --nats-key go together, expected both or neither";
            return Err(SettingsError::Contradiction(text.into()));
        }
    }
    Ok(options)
}

async fn read_secret(path: &PathBuf, what: &'static str) -> Result<String, SettingsError> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(SettingsError::File { what, path: path.clone(), error }),
    }
}

/// A URL as it may be shown: without user and password.
fn without_secrets(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

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

use super::secret::{self, Secret};

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

/// Where NATS is and who we are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `nats://`, `tls://` URLs; any of them.
    pub urls: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    pub nkey_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// What the subjects begin with on which answers come, where it is not `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// The server begins with TLS and greets after it.
    pub tls_first: bool,
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
        let follower = Arc::new(Follower { link: sender, denied: denier, refusal: refuser });
        let mut identity = None;
        let mut servers = Vec::new();
        for url in &settings.urls {
            let (server, who) = without_identity(address(url)?);
            servers.push(server);
            identity = identity.or(who);
        }
        let options = authenticate(settings, identity)
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
            Event::SlowConsumer(_) => {
                tracing::error!("the NATS client dropped messages: a pull asked for more than fits")
            }
            Event::ServerError(ServerError::Other(text)) => match denied_subject(text, "publish to") {
                Some(subject) => self.deny(subject, text),
                // The server says so again at each new connection.
                None if denied_subject(text, "subscription to").is_some() => self.deny(text, text),
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

/// The subject in `Permissions Violation for Publish to "SUBJECT"`, or for something else that was not permitted.
fn denied_subject<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let at = text.to_ascii_lowercase().find(&format!("permissions violation for {what}"))?;
    text[at..].split('"').nth(1)
}

/// Who we are by a URL: a user with a password, or a token.
type Identity = (String, Option<String>);

async fn authenticate(settings: &Settings, by_url: Option<Identity>) -> Result<ConnectOptions, SettingsError> {
    let mut options = ConnectOptions::new();
    let Settings { credentials_file, user, token, nkey_file, .. } = settings;
    // Who is named besides is meant.
    if credentials_file.is_none() && user.is_none() && token.is_none() && nkey_file.is_none() {
        options = match by_url {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        };
    }
    if let Some(path) = &settings.credentials_file {
        let text = secret::read(path, "NATS credentials (--nats-creds)").await?;
        options = options.credentials(&text).map_err(|error| SettingsError::File {
            what: "NATS credentials (--nats-creds)",
            path: path.clone(),
            error,
        })?;
    }
    match (&settings.user, &settings.password) {
        (Some(user), Some(password)) => {
            let password = password.reveal("the NATS password (--nats-password-file)").await?;
            options = options.user_and_password(user.clone(), password);
        }
        (None, None) => {}
        _ => {
            let text = "--nats-user and --nats-password-file go together, expected both or neither";
            return Err(SettingsError::Contradiction(text.into()));
        }
    }
    if let Some(token) = &settings.token {
        options = options.token(token.reveal("the NATS token (--nats-token-file)").await?);
    }
    if let Some(path) = &settings.nkey_file {
        options = options.nkey(secret::read(path, "the NATS nkey seed (--nats-nkey-file)").await?);
    }
    if let Some(path) = &settings.ca_file {
        secret::read(path, "the CA certificates (--nats-ca)").await?;
        options = options.add_root_certificates(path.clone());
    }
    match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            secret::read(certificate, "the client certificate (--nats-cert)").await?;
            secret::read(key, "the client key (--nats-key)").await?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        (None, None) => {}
        _ => {
            let text = "--nats-cert and --nats-key go together, expected both or neither";
            return Err(SettingsError::Contradiction(text.into()));
        }
    }
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(if settings.tls_first { options.tls_first() } else { options })
}

/// Reads where a server is.
pub(super) fn address(url: &str) -> Result<async_nats::ServerAddr, SettingsError> {
    url.parse()
        .map_err(|error: std::io::Error| SettingsError::Url { url: without_secrets(url), error: error.to_string() })
}

/// Takes who we are out of a URL: the client makes no use of it there, and shows it in its logs.
fn without_identity(server: async_nats::ServerAddr) -> (async_nats::ServerAddr, Option<Identity>) {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut url = server.clone().into_inner();
    if url.username().is_empty() {
        return (server, None);
    }
    let identity = (decoded(url.username()), url.password().map(decoded));
    // Fails only for URLs that can have neither.
    let _ = url.set_username("").and(url.set_password(None));
    (async_nats::ServerAddr::from_url(url).unwrap_or(server), Some(identity))
}

/// A URL as it may be shown: without user and password, and without a token.
fn without_secrets(url: &str) -> String {
    let host = url.find("://").map_or(0, |scheme| scheme + "://".len());
    match url.rfind('@') {
        Some(at) if at >= host => format!("{}***{}", &url[..host], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_is_shown_without_what_it_says_of_us() {
        for (url, shown) in [
            ("nats://ann:secret@host:4222", "nats://***@host:4222"),
            ("nats://t0ken@host", "nats://***@host"),
            ("ann:se@cret@host", "***@host"),
            ("tls://host:4222", "tls://host:4222"),
            ("host", "host"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn who_we_are_is_taken_out_of_a_url() {
        for (url, left, who) in [
            ("nats://ann:se%40cret@host:4222", "nats://host:4222", Some(("ann", Some("se@cret")))),
            ("tls://t0ken@host", "tls://host", Some(("t0ken", None))),
            ("nats://host", "nats://host", None),
        ] {
            let (server, identity) = without_identity(address(url).unwrap());
            assert_eq!(server.into_inner().as_str(), left);
            assert_eq!(identity, who.map(|(user, password)| (user.to_owned(), password.map(str::to_owned))));
        }
    }
}

//! Connections to NATS: what both kinds have in common, and the one for everything that does not happen with every event.
//!
//! A bridge has two: [`Connection`] is that of the NATS library, for the JetStream API; events go over a
//! [`Wire`](super::Wire).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::watch;

use super::secret::Secret;
use super::secrets::{Secrets, bad_credentials};
use crate::telemetry::Tally;

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
/// How subjects begin on which answers come, unless the settings say otherwise.
pub(super) const INBOX_PREFIX: &str = "_INBOX";
/// What [`Link::deaf`] means.
pub const DEAF: &str = "NATS does not permit us to subscribe to where answers come";
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

/// One connection for requests, which comes back for ever.
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Client,
    link: watch::Receiver<Link>,
    denied: watch::Receiver<Denied>,
    refusal: watch::Receiver<String>,
    /// When it was last given up because it was deaf.
    renewed: Arc<Mutex<Option<Instant>>>,
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
    /// Whether the server does not let us subscribe to where answers come. It says so, and takes the subscription away, also when
    /// the permission is revoked later; when it is given back, nobody tells.
    pub deaf: bool,
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
        let secrets = Secrets::read(settings).await?;
        let follower = Arc::new(Follower {
            inbox_prefix: secrets.inbox_prefix.clone().unwrap_or_else(|| INBOX_PREFIX.to_owned()),
            link: sender,
            denied: denier,
            refusal: refuser,
            slow: Tally::default(),
            server_errors: Tally::default(),
            denials: Tally::default(),
        });
        let servers: Result<Vec<_>, _> =
            settings.urls.iter().map(|url| address(url).map(|server| without_identity(server).0)).collect();
        let servers = servers?;
        let options = options(secrets)?
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
        let client = async_nats::connect_with_options(servers, options)
            .await
            .map_err(|error| SettingsError::Contradiction(format!("cannot set up the NATS client: {error}")))?;
        #[cfg(debug_assertions)]
        tokio::spawn(reconnect_at_each_cut(client.clone()));
        Ok(Self { client, link, denied, refusal, renewed: Arc::default() })
    }

    /// One that leads nowhere, for good.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let settings = Settings { urls: vec!["nats://127.0.0.1:9".to_owned()], ..Settings::default() };
        // What would connect ends with the runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Self::open(&settings, "nowhere")).unwrap()
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

    /// When answers cannot come, makes a new connection, which asks once more to be let listen; every few seconds at most. The
    /// library itself would go on as if it were heard. True when answers can come, as far as is known.
    pub async fn hears(&self) -> bool {
        if !self.link.borrow().deaf {
            return true;
        }
        let is_due = {
            let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = renewed.is_none_or(|last| last.elapsed() >= RECONNECT_MAX);
            if is_due {
                *renewed = Some(Instant::now());
            }
            is_due
        };
        // Fails only when the client is closed for good.
        if is_due && let Err(error) = self.client.force_reconnect().await {
            tracing::debug!(%error, "no new connection");
        }
        false
    }

    /// Returns when answers cannot come.
    pub(super) async fn deaf(&self) {
        if self.link().wait_for(|link| link.deaf).await.is_err() {
            std::future::pending::<()>().await;
        }
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
    inbox_prefix: String,
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
                self.link.send_modify(|link| (link.connected, link.deaf) = (true, false));
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
            Event::ServerError(ServerError::Other(text)) => match denied_subject(text, "publish to") {
                Some(subject) => self.deny(subject, text),
                None => match denied_subject(text, "subscription to") {
                    Some(subject) => self.deny_subscription(subject, text),
                    None => self.server_error(text),
                },
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

    fn deny_subscription(&self, subject: &str, text: &str) {
        let is_inbox = subject.starts_with(&self.inbox_prefix);
        if is_inbox {
            self.link.send_modify(|link| link.deaf = true);
        }
        // The server says so again at each new connection.
        self.deny(if is_inbox { &self.inbox_prefix } else { text }, text);
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
pub(super) fn denied_subject<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let at = text.to_ascii_lowercase().find(&format!("permissions violation for {what}"))?;
    text[at..].split('"').nth(1)
}

fn options(secrets: Secrets) -> Result<ConnectOptions, SettingsError> {
    let mut options = ConnectOptions::new();
    if let Some((path, text)) = &secrets.credentials {
        // The library wants a line end behind the last line of dashes.
        options = options.credentials(&format!("{text}\n")).map_err(|error| bad_credentials(path, error))?;
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
    if let Some(prefix) = secrets.inbox_prefix {
        options = options.custom_inbox_prefix(&prefix);
    }
    Ok(if secrets.tls_first { options.tls_first() } else { options })
}

/// How long to wait before an attempt to connect; the first is 1.
pub(super) fn reconnect_delay(attempt: usize) -> Duration {
    let exponent = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    Duration::from_millis(10 * 2_u64.pow(exponent)).min(RECONNECT_MAX)
}

/// A cut ends all connections of the bridge.
#[cfg(debug_assertions)]
async fn reconnect_at_each_cut(client: async_nats::Client) {
    // Refused only when the client is closed for good.
    crate::fault_point::at_each_cut(|| async {
        let _ = client.force_reconnect().await;
    })
    .await;
}

/// Reads where a server is.
pub(super) fn address(url: &str) -> Result<async_nats::ServerAddr, SettingsError> {
    url.parse()
        .map_err(|error: std::io::Error| SettingsError::Url { url: without_secrets(url), error: error.to_string() })
}

/// Who we are by a URL: a user with a password, or a token.
pub(super) type Identity = (String, Option<String>);

/// Takes who we are out of a URL: the client makes no use of it there, and shows it in its logs.
pub(super) fn without_identity(server: async_nats::ServerAddr) -> (async_nats::ServerAddr, Option<Identity>) {
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
pub(super) fn without_secrets(url: &str) -> String {
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

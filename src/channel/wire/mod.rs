//! The way of events to and from NATS: a client of our own for what happens with every event, which is to publish, to pull and
//! to settle. Everything else goes over the NATS library's client.
//!
//! One task holds the connection ([`session`]). It reads what is there in one go and hands each message to whoever is
//! subscribed; it writes all that has gathered in the one buffer that everybody adds to ([`outbox`]) in one go. Messages stay the
//! bytes that came: what a header holds can harm nobody but its own message.
//!
//! While there is no connection nothing waits for it: what has not left is thrown away, and its sender is told.

mod connect;
mod denials;
pub mod frame;
pub(super) mod headers;
mod identity;
mod outbox;
mod servers;
mod session;
mod subscribers;
mod tls;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{INBOX_PREFIX, Link, Settings, SettingsError, denied_subject};
use super::secrets::Secrets;
use crate::fault_point;
use crate::telemetry::Tally;
use connect::Dialer;
use denials::Denials;
pub(super) use frame::Message;
use identity::{Identity, Info};
use outbox::{NotAdded, Outbox, Ping};
use servers::Servers;
use session::{Fault, Session};
use subscribers::Subscribers;
pub(super) use subscribers::{Subscriber, Subscription};
use tls::Tls;

/// The largest message a server takes unless it says otherwise, in bytes.
const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024;
/// Ends a line, and a message.
const END: &[u8] = b"\r\n";

/// Makes the connections to a server that is simulated.
#[cfg(test)]
pub(crate) type SimulatedServer = Arc<dyn Fn() -> std::io::Result<tokio::io::DuplexStream> + Send + Sync>;

/// A connection for events. It comes back for ever, and ends with its last clone.
#[derive(Clone)]
pub struct Wire {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

struct Shared {
    inbox_prefix: String,
    outbox: Outbox,
    subscribers: Mutex<Subscribers>,
    connected: AtomicBool,
    link: watch::Sender<Link>,
    denials: Denials,
    /// Subscriptions that the server has denied us.
    deafness: Tally,
    max_payload: AtomicUsize,
    /// The last PING that was answered.
    answered: watch::Sender<Option<Ping>>,
}

impl Wire {
    /// Starts to connect and goes on until it succeeds, so a server that is not there yet is no error.
    ///
    /// # Errors
    /// When the settings themselves are wrong.
    pub async fn open(settings: &Settings, name: &str) -> Result<Self, SettingsError> {
        let secrets = Secrets::read(settings).await?;
        let inbox_prefix = secrets.inbox_prefix.clone().unwrap_or_else(|| INBOX_PREFIX.to_owned());
        let dialer = Dialer {
            servers: Servers::new(settings)?,
            identity: Identity::new(&secrets, name)?,
            tls_first: secrets.tls_first,
            tls: Tls::new(&secrets),
            #[cfg(test)]
            simulated: None,
        };
        Ok(Self::start(inbox_prefix, dialer))
    }

    /// A connection to a server that is simulated.
    #[cfg(test)]
    pub(crate) fn simulated(server: SimulatedServer) -> Self {
        let settings = Settings { urls: vec!["nats://simulated".to_owned()], ..Settings::default() };
        let secrets = Secrets::default();
        let dialer = Dialer {
            servers: Servers::new(&settings).unwrap(),
            identity: Identity::new(&secrets, "simulated").unwrap(),
            tls_first: false,
            tls: Tls::new(&secrets),
            simulated: Some(server),
        };
        Self::start(INBOX_PREFIX.to_owned(), dialer)
    }

    fn start(inbox_prefix: String, dialer: Dialer) -> Self {
        let shared = Arc::new(Shared {
            inbox_prefix,
            outbox: Outbox::default(),
            subscribers: Mutex::default(),
            connected: AtomicBool::new(false),
            link: watch::Sender::new(Link::default()),
            denials: Denials::default(),
            deafness: Tally::default(),
            max_payload: AtomicUsize::new(DEFAULT_MAX_PAYLOAD),
            answered: watch::Sender::new(None),
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(connections(Arc::clone(&shared), dialer)));
        Self { shared, _end: Arc::new(end.drop_guard()) }
    }

    /// A subject of ours alone, to be told from others by what is added after a dot. Nobody can guess it.
    pub(super) fn new_inbox(&self) -> String {
        format!("{}.{}", self.shared.inbox_prefix, URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes()))
    }

    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    /// Returns when there is a connection.
    pub(super) async fn connected(&self) {
        // The sender lives as long as we do.
        let _ = self.link().wait_for(|link| link.connected).await;
    }

    /// Tells of every loss and return.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Waits until the server has all that was sent so far, but no longer than `limit`. True when it has.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(ping) = self.shared.outbox.ping() else { return false };
        let mut answered = self.shared.answered.subscribe();
        let mut link = self.link();
        let answer = async {
            tokio::select! {
                biased;
                answer = answered.wait_for(|last| last.is_some_and(|last| last >= ping)) => {
                    answer.is_ok_and(|last| last.is_some_and(|last| last.connection == ping.connection))
                }
                _ = link.wait_for(|link| link.losses >= ping.connection) => false,
            }
        };
        tokio::time::timeout(limit, answer).await.unwrap_or(false)
    }

    /// The server's limit for one message, headers included, in bytes.
    pub(super) fn max_payload(&self) -> usize {
        self.shared.max_payload.load(Ordering::Relaxed)
    }

    /// A number to ask [`Wire::denied_since`] with.
    pub(super) fn denials(&self) -> u64 {
        self.shared.denials.count()
    }

    /// Whether the server has denied us to publish to this subject since.
    pub(super) fn denied_since(&self, subject: &str, denials: u64) -> bool {
        self.shared.denials.denied_since(subject, denials)
    }

    /// Hands whatever comes for `subject` to `subscriber`, over every connection to come, until the subscription is dropped.
    pub(super) fn subscribe(&self, subject: String, subscriber: Arc<dyn Subscriber>) -> Subscription {
        let mut subscribers = self.shared.subscribers();
        let (sid, line) = subscribers.add(subject, subscriber);
        self.shared.outbox.add_line(&line);
        drop(subscribers);
        Subscription::new(self.clone(), sid)
    }

    /// Sends what `write` appends, now or after others have left. False when there is no connection; nothing is sent then.
    pub(super) async fn send(&self, write: impl Fn(&mut Vec<u8>)) -> bool {
        self.shared.outbox.add(None, write).await
    }

    /// The same over that connection alone. False when it is not the one that stands.
    pub(super) async fn send_over(&self, connection: u64, write: impl Fn(&mut Vec<u8>)) -> bool {
        self.shared.outbox.add(Some(connection), write).await
    }

    /// Which connection it is that stands, from 1, or the last one that did.
    pub(super) fn connection(&self) -> u64 {
        self.shared.outbox.connection()
    }

    /// Sends what `write` appends if it can be done at once. `None` when there is no room for it now, `Some(false)` when there
    /// is no connection.
    pub(super) fn try_send(&self, write: impl FnOnce(&mut Vec<u8>)) -> Option<bool> {
        match self.shared.outbox.try_add(None, write) {
            Ok(()) => Some(true),
            Err(NotAdded::Disconnected) => Some(false),
            Err(NotAdded::Full) => None,
        }
    }

    fn unsubscribe(&self, sid: u64) {
        if self.shared.subscribers().remove(sid) {
            self.say_unsubscribed(sid);
        }
    }

    fn say_unsubscribed(&self, sid: u64) {
        self.shared.outbox.add_line(&format!("UNSUB {sid}\r\n"));
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wire").field("link", &*self.shared.link.borrow()).finish_non_exhaustive()
    }
}

/// One connection after the other.
async fn connections(shared: Arc<Shared>, mut dialer: Dialer) {
    loop {
        let connected = dialer.connect().await;
        let server = connected.server.clone();
        let connection = shared.up(&connected.info);
        tracing::debug!(host = server.host, port = server.port, "connected to NATS");
        let mut session = Session::new(Arc::clone(&shared), connected, connection);
        let fault = fault_point::cuttable(session.run()).await.unwrap_or(Fault::Closed);
        shared.down();
        dialer.servers.discovered(&server, &session.connect_urls);
        tracing::warn!(host = server.host, port = server.port, error = %fault, "the connection to NATS is lost");
    }
}

impl Shared {
    fn up(&self, info: &Info) -> u64 {
        self.informed(info);
        // Whoever subscribes meanwhile waits, and then says so himself.
        let mut subscribers = self.subscribers();
        let connection = self.outbox.open(&subscribers.lines());
        drop(subscribers);
        self.connected.store(true, Ordering::Release);
        self.link.send_modify(|link| (link.connected, link.deaf) = (true, false));
        connection
    }

    fn down(&self) {
        self.connected.store(false, Ordering::Release);
        self.outbox.close();
        for subscriber in self.subscribers().all() {
            subscriber.lost();
        }
        self.link.send_modify(|link| {
            *link = Link { connected: false, losses: link.losses + 1, deaf: false, ..*link };
        });
    }

    fn informed(&self, info: &Info) {
        if let Some(max_payload) = info.max_payload.filter(|max_payload| *max_payload > 0) {
            self.max_payload.store(max_payload, Ordering::Relaxed);
        }
    }

    fn pong(&self, subscribers: &Subscribers, connection: u64, number: u64) {
        self.answered.send_replace(Some(Ping { connection, number }));
        // It has said no to none of the subscriptions that it was asked for before.
        if !subscribers.is_any_denied() {
            self.link.send_if_modified(|link| std::mem::replace(&mut link.deaf, false));
        }
    }

    /// Asks again for the subscriptions that the server has denied us: it does not tell when it would permit them.
    fn subscribe_again(&self) {
        let lines = self.subscribers().denied_lines();
        self.outbox.add_line(&lines);
    }

    /// The server has said no to something.
    fn refused(&self, subscribers: &mut Subscribers, text: &str) {
        if let Some(subject) = denied_subject(text, "subscription to") {
            subscribers.deny(subject);
            self.link.send_if_modified(|link| !std::mem::replace(&mut link.deaf, true));
            if let Some(count) = self.deafness.add() {
                tracing::warn!(error = text, count, "NATS does not permit what the bridge needs");
            }
            return;
        }
        let Some(subject) = denied_subject(text, "publish to") else {
            tracing::warn!(error = text, "NATS server error");
            return;
        };
        if self.denials.add(subject) {
            tracing::warn!(error = text, "NATS does not permit what the bridge needs");
        }
        for subscriber in subscribers.all() {
            subscriber.denied();
        }
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a subject can stand in a line of the protocol.
pub(super) fn is_subject(subject: &str) -> bool {
    !subject.is_empty() && subject.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// Appends a message. `reply` may be empty, and so may `headers`: the block's first line and those of the headers, each with
/// its end, but not the empty line behind them.
pub(super) fn write_message(buffer: &mut Vec<u8>, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
    /// More than what is not counted.
    const REST: usize = 40;
    buffer.reserve(subject.len() + reply.len() + headers.len() + payload.len() + REST);
    if headers.is_empty() {
        buffer.extend_from_slice(b"PUB ");
        write_subjects(buffer, subject, reply);
        write_number(buffer, payload.len());
        return write_body(buffer, &[payload]);
    }
    let headers_length = headers.len() + END.len();
    buffer.extend_from_slice(b"HPUB ");
    write_subjects(buffer, subject, reply);
    write_number(buffer, headers_length);
    write_number(buffer, headers_length + payload.len());
    write_body(buffer, &[headers, END, payload]);
}

fn write_subjects(buffer: &mut Vec<u8>, subject: &str, reply: &str) {
    buffer.extend_from_slice(subject.as_bytes());
    if !reply.is_empty() {
        buffer.push(b' ');
        buffer.extend_from_slice(reply.as_bytes());
    }
}

fn write_number(buffer: &mut Vec<u8>, number: usize) {
    buffer.push(b' ');
    buffer.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_body(buffer: &mut Vec<u8>, parts: &[&[u8]]) {
    buffer.extend_from_slice(END);
    for part in parts {
        buffer.extend_from_slice(part);
    }
    buffer.extend_from_slice(END);
}

#[cfg(test)]
mod tests;

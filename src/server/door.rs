//! What a connection passes before there is a request on it: the limit for its peer, and the TLS handshake.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::connection::Ends;
use super::peers::Place;
use super::{Peers, Tls};
use crate::telemetry::ConnectionMeter;

/// A connection that requests can come on. The one with TLS is boxed: it is large, and most are plain.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Lets connections in. The default one lets in all, as they come.
#[derive(Debug, Clone, Default)]
pub struct Door {
    /// `None` for plain connections.
    pub tls: Option<Tls>,
    /// Shared by all doors that one peer may knock at; `None` when a peer may have any number of connections.
    pub peers: Option<Arc<Peers>>,
    pub meter: Arc<ConnectionMeter>,
}

impl Door {
    /// A place for one more connection of the peer; `None` when it has all that it may have. The outer is for the caller to
    /// look at, the inner to be kept as long as the connection lasts.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Option<Place>> {
        let Some(peers) = &self.peers else { return Some(None) };
        let place = peers.admit(peer);
        if place.is_none()
            && let Some(count) = self.meter.over_limit.add()
        {
            tracing::warn!(%peer, limit = peers.limit(), count, "closed: the peer has too many connections");
        }
        place.map(Some)
    }

    /// Shakes hands where there is TLS, for as long as silence may last: whoever is slower is closed like one who never ends
    /// the head of a request. Until then it takes a connection's slot and nothing else, so it holds up nobody.
    pub(super) async fn open(&self, stream: TcpStream, peer: IpAddr, ends: &Ends) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Either::Left(stream)) };
        let handshake = timeout(ends.max_silence, Box::pin(tls.accept(stream)));
        let fault = match ends.shutdown.run_until_cancelled(handshake).await? {
            Ok(Ok(stream)) => return Some(Either::Right(Box::new(stream))),
            // A probe that connects and leaves is no fault.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done after {:?}", ends.max_silence),
        };
        if let Some(count) = self.meter.handshakes.add() {
            tracing::info!(%peer, fault, count, "a TLS handshake failed");
        }
        None
    }
}

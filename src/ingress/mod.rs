//! Events in, over HTTP: which channel a request means, whether its sender may send there, what it holds, and 202 only when
//! JetStream has all of it. It knows nothing of dispatch.

mod account;
mod body;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handler;
mod oidc;
mod route;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::channel::{Publisher, Targets};
use crate::resource::Key;
use crate::server::{self, Door, Peers, Tls};
use crate::telemetry::{Metrics, Tracer};
use handler::Gate;

pub use oidc::Settings as OidcSettings;

/// What an ingress needs to work.
#[derive(Clone)]
pub struct Ingress {
    pub publisher: Publisher,
    pub routes: watch::Receiver<Arc<Targets>>,
    /// Where `POST /` goes when the Host header names no channel.
    pub default_channel: Option<Key>,
    /// Requests at work at once; further ones are answered 503.
    pub max_in_flight: usize,
    pub access: Access,
    pub metrics: Arc<Metrics>,
    /// `None` when nobody records traces.
    pub tracer: Option<Tracer>,
}

/// Who gets in.
#[derive(Debug, Clone)]
pub struct Access {
    /// Certificates of the listener with TLS.
    pub tls: Option<Tls>,
    /// Whose tokens senders must show; `None` lets all send.
    pub oidc: Option<OidcSettings>,
    /// Connections that one address may have at a time.
    pub max_connections_per_peer: NonZeroUsize,
}

/// Where events come in.
#[derive(Debug, Default)]
pub struct Listeners {
    pub plain: Option<TcpListener>,
    /// Of use with [`Access::tls`] only.
    pub tls: Option<TcpListener>,
}

/// Serves until `shutdown`, then lets requests at work finish for at most `drain_timeout`.
pub async fn serve(listeners: Listeners, ingress: Ingress, shutdown: CancellationToken, drain_timeout: Duration) {
    let Ingress { publisher, routes, default_channel, max_in_flight, access, metrics, tracer } = ingress;
    let meter = Arc::clone(&metrics.connections);
    let oidc = access.oidc.as_ref().map(oidc::Oidc::new);
    let gate = Arc::new(Gate::new(publisher, routes, default_channel, oidc, max_in_flight, metrics, tracer));
    let peers = Peers::new(access.max_connections_per_peer);
    let serve = async |listener: Option<TcpListener>, tls: Option<Tls>| {
        let Some(listener) = listener else { return };
        let door = Door { tls, peers: Some(Arc::clone(&peers)), meter: Arc::clone(&meter) };
        let drained = server::serve_behind(door, listener, Arc::clone(&gate), shutdown.clone(), drain_timeout).await;
        if drained.cut > 0 {
            tracing::warn!(connections = drained.cut, ?drain_timeout, "ingress ended with requests at work");
        }
    };
    let follow_certificates = async {
        if let Some(tls) = &access.tls {
            tls.follow(&meter, &shutdown).await;
        }
    };
    let follow_keys = async {
        if let Some(oidc) = gate.oidc() {
            oidc.follow(&meter, &shutdown).await;
        }
    };
    let secure = access.tls.as_ref().and(listeners.tls);
    tokio::join!(serve(listeners.plain, None), serve(secure, access.tls.clone()), follow_certificates, follow_keys);
}

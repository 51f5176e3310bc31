//! Events in, over HTTP: which channel a request means, what it holds, and 202 only when JetStream has all of it.
//! It knows nothing of dispatch.

mod account;
mod body;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handler;
mod route;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::channel::{Publisher, Targets};
use crate::resource::Key;
use crate::server;
use crate::telemetry::{Metrics, Tracer};

/// What an ingress needs to work.
#[derive(Clone)]
pub struct Ingress {
    pub publisher: Publisher,
    pub routes: watch::Receiver<Arc<Targets>>,
    /// Where `POST /` goes when the Host header names no channel.
    pub default_channel: Option<Key>,
    /// Requests at work at once; further ones are answered 503.
    pub max_in_flight: usize,
    pub metrics: Arc<Metrics>,
    /// `None` when nobody records traces.
    pub tracer: Option<Tracer>,
}

/// Serves until `shutdown`, then lets requests at work finish for at most `drain_timeout`.
pub async fn serve(listener: TcpListener, ingress: Ingress, shutdown: CancellationToken, drain_timeout: Duration) {
    let Ingress { publisher, routes, default_channel, max_in_flight, metrics, tracer } = ingress;
    let gate = handler::Gate::new(publisher, routes, default_channel, max_in_flight, metrics, tracer);
    let drained = server::serve(listener, Arc::new(gate), shutdown, drain_timeout).await;
    if drained.cut > 0 {
        tracing::warn!(connections = drained.cut, ?drain_timeout, "ingress ended with requests at work");
    }
}

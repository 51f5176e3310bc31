//! Health and readiness over HTTP, for probes and people.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What `/readyz` tells. Ready means: nothing is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What keeps the bridge from being ready; empty when it is.
    pub missing: Vec<Missing>,
    /// Faults of the newest manifests when an older set is in force; they do not make the bridge unready.
    pub resource_faults: Vec<String>,
}

/// One thing that is not in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// `nats`, `channel`, `subscription`, `bridge` (while it drains).
    pub kind: &'static str,
    /// `NAMESPACE/NAME` for a resource.
    pub name: Option<String>,
    pub reason: String,
}

/// Serves `/healthz` and `/readyz` until `shutdown`.
pub async fn serve(listener: TcpListener, readiness: watch::Receiver<Readiness>, shutdown: CancellationToken) {
    let _ = (listener, readiness, shutdown);
    todo!()
}

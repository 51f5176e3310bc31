//! Whether the bridge lives and whether it is ready, for probes and people.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use tokio::sync::watch;

/// What `/readyz` tells. Ready means: nothing is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What keeps the bridge from being ready; empty when it is.
    pub missing: Vec<Missing>,
    /// What is as it should be and yet worth knowing: paused subscriptions, sinks that cannot be reached.
    pub notes: Vec<Missing>,
    /// Faults of the newest manifests when an older set is in force; they do not make the bridge unready.
    pub resource_faults: Vec<String>,
}

/// One thing that is not in place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Missing {
    /// `nats`, `channel`, `subscription`, `bridge` (while it drains).
    pub kind: &'static str,
    /// `NAMESPACE/NAME` for a resource.
    pub name: Option<String>,
    pub reason: String,
}

/// The body of `/readyz`.
#[derive(Serialize)]
struct Report<'a> {
    ready: bool,
    missing: &'a [Missing],
    notes: &'a [Missing],
    resources: Resources<'a>,
}

#[derive(Serialize)]
struct Resources<'a> {
    faults: &'a [String],
}

pub(super) async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> Response {
    let readiness = readiness.borrow();
    let ready = readiness.missing.is_empty();
    let resources = Resources { faults: &readiness.resource_faults };
    // Strings and a truth value always become JSON.
    let body =
        serde_json::to_string(&Report { ready, missing: &readiness.missing, notes: &readiness.notes, resources })
            .unwrap_or_default();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

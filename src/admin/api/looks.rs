//! What is told of an event, of the server, and of the manifests in force; and the way into the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{InPath, Length, Name, Query, Text};
use super::failure::{Always, Failure, OfOne};
use super::{PREFIX, Shared};
use crate::manage::diff::Difference;
use crate::manage::doctor::Report;
use crate::manage::why::{Question, Story};

/// What is here.
#[derive(Serialize, ToSchema)]
pub(super) struct Index {
    /// Of the bridge.
    version: &'static str,
    /// By what they lead to.
    links: BTreeMap<&'static str, String>,
}

/// The way in.
#[utoipa::path(get, path = "/", tag = "about", responses((status = 200, description = "What is here.", body = Index), Always))]
pub(super) async fn index() -> Json<Index> {
    let names = ["channels", "subscriptions", "deadletters", "feed", "doctor", "diff", "openapi.json"];
    let links = names.into_iter().map(|name| (name, format!("{PREFIX}/{name}"))).collect();
    Json(Index { version: env!("CARGO_PKG_VERSION"), links })
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "about",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = Object), Always)
)]
pub(super) async fn document(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    Json(shared.document.clone())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct EventPath {
    /// The event's id, percent-encoded.
    #[param(inline)]
    id: Text,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Narrowed {
    /// Of this source.
    #[param(inline, required = false)]
    source: Option<Text>,
    /// Stored in this channel, `NAMESPACE/NAME`.
    #[param(inline, required = false)]
    channel: Option<Name>,
    /// Look through all that was stored within this time, whatever the log of attempts says.
    #[param(inline, required = false)]
    since_seconds: Option<Length>,
}

/// The story of one event: where it is stored, which subscriptions wanted it, and what became of it at each.
#[utoipa::path(
    get, path = "/events/{id}/why", tag = "events", params(EventPath, Narrowed),
    responses((status = 200, description = "The story.", body = Story), Always, OfOne)
)]
pub(super) async fn why(
    State(shared): State<Arc<Shared>>,
    InPath(EventPath { id }): InPath<EventPath>,
    Query(asked): Query<Narrowed>,
) -> Result<Json<Story>, Failure> {
    let question = Question {
        id: id.0,
        source: asked.source.map(|text| text.0),
        channel: asked.channel.map(|name| name.0),
        since: asked.since_seconds.map(|seconds| Duration::from_secs(seconds.0)),
        desired: None,
    };
    Ok(Json(shared.manager.why(&question, Timestamp::now(), |_, _| {}).await?))
}

/// Checks the NATS server and says what a 202 means on it.
#[utoipa::path(
    get, path = "/doctor", tag = "about",
    responses((status = 200, description = "What was found.", body = Report), Always)
)]
pub(super) async fn doctor(State(shared): State<Arc<Shared>>) -> Json<Report> {
    let desired = (shared.desired)();
    Json(shared.manager.doctor(&desired, None).await)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Compared {
    /// Also the consumers that `--prune` would delete.
    #[serde(default)]
    #[param(required = false)]
    prune: bool,
}

/// Streams and consumers that are not as the manifests in force have them.
#[derive(Serialize, ToSchema)]
pub(super) struct Differences {
    items: Vec<Difference>,
}

/// What this bridge would create, change or cannot change in JetStream, by the manifests that it works with.
#[utoipa::path(
    get, path = "/diff", tag = "about", params(Compared),
    responses((status = 200, description = "The differences.", body = Differences), Always)
)]
pub(super) async fn diff(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Compared>,
) -> Result<Json<Differences>, Failure> {
    let desired = (shared.desired)();
    Ok(Json(Differences { items: shared.manager.diff(&desired, asked.prune).await? }))
}

//! Channels and subscriptions, and what is done to subscriptions.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Body, Length, Named, NamedPath, Namespace, Query};
use super::failure::{Always, Failure, OfOne, WithBody};
use crate::manage::channels::Channel;
use crate::manage::steering::{Paused, Replay, start};
use crate::manage::subscriptions::Subscription;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Only those of this namespace.
    #[param(inline, required = false)]
    namespace: Option<Namespace>,
}

impl Listing {
    fn wants(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted.0 == namespace)
    }
}

/// Channels, sorted by namespace and name.
#[derive(Serialize, ToSchema)]
pub(super) struct Channels {
    items: Vec<Channel>,
}

/// Subscriptions, sorted by namespace and name.
#[derive(Serialize, ToSchema)]
pub(super) struct Subscriptions {
    items: Vec<Subscription>,
    /// What could not be found out, a line each.
    gaps: Vec<String>,
}

/// All channels and brokers.
#[utoipa::path(
    get, path = "/channels", tag = "channels", params(Listing),
    responses((status = 200, description = "The channels.", body = Channels), Always)
)]
pub(super) async fn channels(
    State(shared): State<Arc<Shared>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Channels>, Failure> {
    let mut items = shared.manager.channels().await?;
    items.retain(|channel| listing.wants(&channel.namespace));
    Ok(Json(Channels { items }))
}

/// One channel or broker. A list as well: while a channel moves to another stream there may be two of that name.
#[utoipa::path(
    get, path = "/channels/{namespace}/{name}", tag = "channels", params(NamedPath),
    responses((status = 200, description = "The channel.", body = Channels), Always, OfOne)
)]
pub(super) async fn channel(State(shared): State<Arc<Shared>>, Named(key): Named) -> Result<Json<Channels>, Failure> {
    let mut items = shared.manager.channels().await?;
    items.retain(|channel| channel.namespace == key.namespace() && channel.name == key.name());
    if items.is_empty() {
        return Err(Failure::not_found(format!("there is no channel {key}; /api/v1/channels lists what is there")));
    }
    Ok(Json(Channels { items }))
}

/// All subscriptions and triggers.
#[utoipa::path(
    get, path = "/subscriptions", tag = "subscriptions", params(Listing),
    responses((status = 200, description = "The subscriptions.", body = Subscriptions), Always)
)]
pub(super) async fn subscriptions(
    State(shared): State<Arc<Shared>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Subscriptions>, Failure> {
    let mut all = shared.manager.subscriptions(None).await?;
    all.found.retain(|subscription| listing.wants(&subscription.namespace));
    Ok(Json(Subscriptions { items: all.found, gaps: all.gaps }))
}

/// One subscription or trigger. A list as well: one that has moved to another channel has a consumer in both streams until the
/// old one is pruned.
#[utoipa::path(
    get, path = "/subscriptions/{namespace}/{name}", tag = "subscriptions", params(NamedPath),
    responses((status = 200, description = "The subscription.", body = Subscriptions), Always, OfOne)
)]
pub(super) async fn subscription(
    State(shared): State<Arc<Shared>>,
    Named(key): Named,
) -> Result<Json<Subscriptions>, Failure> {
    let all = shared.manager.subscriptions(Some(&key)).await?;
    Ok(Json(Subscriptions { items: all.found, gaps: all.gaps }))
}

/// How long a subscription is to be paused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    /// Absent: until it is resumed.
    #[schema(inline)]
    for_seconds: Option<Length>,
}

/// Holds a subscription back, for all bridges. What is in flight comes to its end.
#[utoipa::path(
    post, path = "/subscriptions/{namespace}/{name}/pause", tag = "subscriptions", params(NamedPath), request_body = Pause,
    security(("token" = [])),
    responses((status = 200, description = "It is paused.", body = Paused), Always, OfOne, WithBody)
)]
pub(super) async fn pause(
    State(shared): State<Arc<Shared>>,
    Named(key): Named,
    Body(pause): Body<Pause>,
) -> Result<Json<Paused>, Failure> {
    let length = pause.for_seconds.map(|seconds| Duration::from_secs(seconds.0));
    Ok(Json(shared.manager.pause(&key, length).await?))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Resumed {
    /// `NAMESPACE/NAME`.
    subscription: String,
    /// False when it was not paused.
    resumed: bool,
}

/// Lets a paused subscription go on.
#[utoipa::path(
    post, path = "/subscriptions/{namespace}/{name}/resume", tag = "subscriptions", params(NamedPath),
    security(("token" = [])),
    responses((status = 200, description = "It goes on.", body = Resumed), Always, OfOne)
)]
pub(super) async fn resume(State(shared): State<Arc<Shared>>, Named(key): Named) -> Result<Json<Resumed>, Failure> {
    let resumed = shared.manager.resume(&key).await?;
    Ok(Json(Resumed { subscription: key.to_string(), resumed }))
}

/// Where a replay is to begin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// A time (RFC 3339), how long ago (`2h`, `30m`, `10s`), or a sequence of the stream (`seq:1200`, `1200`).
    #[schema(schema_with = start_schema)]
    from: String,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
}

fn start_schema() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let forms = AnyOfBuilder::new()
        .item(time)
        .item(text().pattern(Some("^[1-9][0-9]{0,5}[smh]$")))
        .item(text().pattern(Some("^(seq:)?[1-9][0-9]{0,14}$")));
    Schema::AnyOf(forms.build())
}

/// A replay, carried out or not.
#[derive(Serialize, ToSchema)]
pub(super) struct Replayed {
    #[serde(flatten)]
    replay: Replay,
    /// False after a dry run, and when there is nothing to deliver again.
    replayed: bool,
}

/// Delivers events once more that a subscription has had, and says how many.
#[utoipa::path(
    post, path = "/subscriptions/{namespace}/{name}/replay", tag = "subscriptions", params(NamedPath), request_body = From,
    security(("token" = [])),
    responses((status = 200, description = "What is delivered again.", body = Replayed), Always, OfOne, WithBody)
)]
pub(super) async fn replay(
    State(shared): State<Arc<Shared>>,
    Named(key): Named,
    Body(asked): Body<From>,
) -> Result<Json<Replayed>, Failure> {
    let from = start(&asked.from).map_err(|fault| Failure::bad(format!("the body: from: {fault}")))?;
    let replay = shared.manager.plan_replay(&key, from).await?;
    let replayed = !asked.dry_run && replay.redelivered > 0;
    if replayed {
        shared.manager.replay(&replay).await?;
    }
    Ok(Json(Replayed { replay, replayed }))
}

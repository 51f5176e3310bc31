//! Dead letters: listed, looked at, thrown away, redriven.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Body, InPath, MAX_SEQUENCE, Name, Named, NamedPath, Number, Query, Seconds, Sequence, Text};
use super::failure::{Always, Failure, OfOne, WithBody};
use crate::channel::kept::Keeping;
use crate::manage::Error;
use crate::manage::dead_letters::{self, DeadLetter, Story};
use crate::manage::redrive::Summary;

/// Letters in one answer, unless another number is asked for.
const PAGE: u64 = 100;
/// Letters in one answer, and in one redrive: each is read whole, and one redrive is one request.
const MAX_PAGE: u64 = 1000;
/// After so long a redrive begins no further letters; those at work have some seconds more. It stays below the deadline of the
/// request.
const REDRIVE: Duration = Duration::from_secs(20);

/// Which letters; all that is given must hold.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Of this subscription, `NAMESPACE/NAME`.
    #[param(inline, required = false)]
    subscription: Option<Name>,
    /// Of events of this channel or broker, `NAMESPACE/NAME`.
    #[param(inline, required = false)]
    channel: Option<Name>,
    /// Of events with this id.
    #[param(inline, required = false)]
    id: Option<Text>,
    /// Of events of this source.
    #[param(inline, required = false)]
    source: Option<Text>,
    /// Of events of this type.
    #[param(inline, required = false)]
    r#type: Option<Text>,
    /// That failed with this code last; 500 also stands for no answer.
    #[param(inline, required = false)]
    code: Option<Code>,
    /// Kept for at least so long.
    #[param(inline, required = false)]
    older_than_seconds: Option<Seconds>,
    /// Kept for at most so long.
    #[param(inline, required = false)]
    newer_than_seconds: Option<Seconds>,
    /// Kept after this sequence of `KN_DEADLETTERS`: `next_after` of the page before.
    #[param(inline, required = false)]
    after: Option<Bound>,
    /// At most so many, the oldest first; 100 unless told otherwise.
    #[param(inline, required = false)]
    limit: Option<Limit>,
}

type Code = Number<100, 999>;
type Limit = Number<1, MAX_PAGE>;
type Rate = Number<1, 100_000>;
/// A place before or after letters.
type Bound = Number<0, MAX_SEQUENCE>;

/// A page of dead letters, the oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    items: Vec<DeadLetter>,
    /// What `after` is to be for the next page; null on the last.
    next_after: Option<u64>,
    /// How dead letters are kept; null while there is no stream of them.
    keeping: Option<Keeping>,
}

/// What is kept in `KN_DEADLETTERS`.
#[utoipa::path(
    get, path = "/deadletters", tag = "dead letters", params(Listing),
    responses((status = 200, description = "A page of dead letters.", body = Page), Always)
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Listing>,
) -> Result<Json<Page>, Failure> {
    let limit = asked.limit.map_or(PAGE, |limit| limit.0);
    let query = dead_letters::Query {
        subscription: asked.subscription.map(|name| name.0),
        channel: asked.channel.map(|name| name.0),
        id: asked.id.map(|text| text.0),
        source: asked.source.map(|text| text.0),
        kind: asked.r#type.map(|text| text.0),
        code: code(asked.code),
        older_than: seconds(asked.older_than_seconds),
        newer_than: seconds(asked.newer_than_seconds),
        after: asked.after.map(|after| after.0),
        // One more tells whether there is a next page.
        limit: Some(limit + 1),
        ..dead_letters::Query::default()
    };
    let mut found = shared.manager.dead_letters(&query).await?;
    let mut items: Vec<DeadLetter> = Vec::new();
    let mut next_after = None;
    while let Some(letter) = found.next().await? {
        if items.len() as u64 == limit {
            next_after = items.last().map(|last| last.sequence);
            break;
        }
        items.push(DeadLetter::from(&letter));
    }
    Ok(Json(Page { items, next_after, keeping: shared.manager.dead_letter_keeping().await? }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Place {
    /// Where it is kept: its sequence in `KN_DEADLETTERS`.
    #[param(inline)]
    sequence: Sequence,
}

/// One dead letter in full: its event, and each attempt that the log of attempts still has.
#[utoipa::path(
    get, path = "/deadletters/{sequence}", tag = "dead letters", params(Place),
    responses((status = 200, description = "The letter.", body = Story), Always, OfOne)
)]
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    InPath(place): InPath<Place>,
) -> Result<Json<Story>, Failure> {
    Ok(Json(shared.manager.dead_letter(&at(&place)).await?))
}

/// Throws a dead letter away for good.
#[utoipa::path(
    delete, path = "/deadletters/{sequence}", tag = "dead letters", params(Place), security(("token" = [])),
    responses((status = 204, description = "It is gone."), Always, OfOne)
)]
pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    InPath(place): InPath<Place>,
) -> Result<StatusCode, Failure> {
    let mut found = shared.manager.dead_letters(&at(&place)).await?;
    let sequence = place.sequence.0;
    let gone = || Failure::not_found(format!("there is no dead letter with sequence {sequence}"));
    let letter = found.next().await?.ok_or_else(gone)?;
    shared.manager.discard(letter.place).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn at(place: &Place) -> dead_letters::Query {
    dead_letters::Query { sequence: Some(place.sequence.0), ..dead_letters::Query::default() }
}

/// Which letters of the subscription are redriven; all that is given must hold. Nothing is all of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redrive {
    /// Of events of this channel or broker, `NAMESPACE/NAME`.
    #[schema(inline)]
    channel: Option<Name>,
    /// Of events with this id.
    #[schema(inline)]
    id: Option<Text>,
    /// Of events of this source.
    #[schema(inline)]
    source: Option<Text>,
    /// Of events of this type.
    #[schema(inline)]
    r#type: Option<Text>,
    /// That failed with this code last; 500 also stands for no answer.
    #[schema(inline)]
    code: Option<Code>,
    /// Kept for at least so long.
    #[schema(inline)]
    older_than_seconds: Option<Seconds>,
    /// Kept for at most so long.
    #[schema(inline)]
    newer_than_seconds: Option<Seconds>,
    /// The one with this sequence in `KN_DEADLETTERS`.
    #[schema(inline)]
    sequence: Option<Sequence>,
    /// Kept up to this sequence. Who calls again gives `until_sequence` of the first answer, so that what failed again in between
    /// is not sent once more.
    #[schema(inline)]
    until_sequence: Option<Bound>,
    /// At most so many events, the oldest first; 100 unless told otherwise.
    #[schema(inline)]
    limit: Option<Limit>,
    /// Events a second at most; as fast as they are taken unless told otherwise.
    #[schema(inline)]
    rate: Option<Rate>,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
}

/// What came of a redrive.
#[derive(Serialize, ToSchema)]
pub(super) struct Redriven {
    #[serde(flatten)]
    summary: Summary,
    /// Whether further letters fit that were beyond `limit`. While this holds or `left` is not 0, and `failed` is, call again.
    more: bool,
    /// The last sequence of `KN_DEADLETTERS` that was part of it.
    until_sequence: u64,
    dry_run: bool,
}

/// Sends dead letters of a subscription to it again, and to nobody else. It takes at most about 25 seconds; who goes away
/// stops it: what is at work comes to its end, the others stay kept. It may be repeated at any time.
#[utoipa::path(
    post, path = "/subscriptions/{namespace}/{name}/redrive", tag = "dead letters", params(NamedPath),
    request_body = Redrive, security(("token" = [])),
    responses((status = 200, description = "What came of it.", body = Redriven), Always, OfOne, WithBody)
)]
pub(super) async fn redrive(
    State(shared): State<Arc<Shared>>,
    Named(key): Named,
    Body(asked): Body<Redrive>,
) -> Result<Json<Redriven>, Failure> {
    let until_sequence = match asked.until_sequence {
        Some(until) => until.0,
        None => shared.manager.dead_letter_keeping().await?.map_or(0, |keeping| keeping.last_sequence),
    };
    let limit = asked.limit.map_or(PAGE, |limit| limit.0);
    let query = dead_letters::Query {
        subscription: Some(key.clone()),
        channel: asked.channel.map(|name| name.0),
        id: asked.id.map(|text| text.0),
        source: asked.source.map(|text| text.0),
        kind: asked.r#type.map(|text| text.0),
        code: code(asked.code),
        older_than: seconds(asked.older_than_seconds),
        newer_than: seconds(asked.newer_than_seconds),
        sequence: asked.sequence.map(|sequence| sequence.0),
        until: Some(until_sequence),
        limit: Some(limit + 1),
        limits_events: true,
        ..dead_letters::Query::default()
    };
    let count = shared.manager.count_dead_letters(&query).await?;
    let more = count.events > limit;
    let summary = if asked.dry_run {
        let matched = count.events.min(limit);
        Summary { matched, left: matched, poison: count.poison, ..Summary::of(&key) }
    } else {
        let rate = asked.rate.and_then(|rate| NonZeroU32::new(u32::try_from(rate.0).unwrap_or(u32::MAX)));
        let query = dead_letters::Query { limit: Some(limit), ..query };
        send(&shared, &key, &query, rate).await?
    };
    Ok(Json(Redriven { summary, more, until_sequence, dry_run: asked.dry_run }))
}

/// Redrives within the time that a request may take. What was done until a fault is told together with the fault.
async fn send(
    shared: &Shared,
    key: &crate::resource::Key,
    query: &dead_letters::Query,
    rate: Option<NonZeroU32>,
) -> Result<Summary, Error> {
    let stop = shared.shutdown.child_token();
    let mut redrive = std::pin::pin!(shared.manager.redrive(key, query, rate, &stop, |_| {}));
    let (mut summary, result) = tokio::select! {
        done = &mut redrive => done,
        () = tokio::time::sleep(REDRIVE) => {
            stop.cancel();
            redrive.await
        }
    };
    match result {
        Err(error) if summary.done() == 0 => return Err(error),
        Err(error) => summary.reasons.push(error.to_string()),
        Ok(()) => {}
    }
    Ok(summary)
}

fn code(code: Option<Code>) -> Option<u16> {
    code.and_then(|code| u16::try_from(code.0).ok())
}

fn seconds(seconds: Option<Seconds>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.0))
}

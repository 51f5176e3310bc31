//! The management API, version 1: what the commands show and do, as JSON over HTTP, with the document that describes it. A
//! handler reads what is asked, calls [`Manager`], and answers; what it cannot do is a problem.

mod extract;
mod failure;
mod feed;
mod letters;
mod lists;
mod looks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method, StatusCode, Uri};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::guard::{Guard, guard};
use crate::manage::{Manager, tail};
use crate::resource::Desired;
use failure::Failure;

/// Where the API lives. What is in it only grows; what would break a client gets another version.
const PREFIX: &str = "/api/v1";
/// Requests at work at once. What comes beyond is refused, not queued: people and consoles ask again, and the connection to NATS
/// and the processors are there for deliveries first.
const MAX_AT_WORK: usize = 32;
/// How long a request may take: JetStream has 5 s for one call.
const DEADLINE: Duration = Duration::from_secs(10);
/// For those that make many calls: reading through streams, redriving, waiting until an ordered subscription has settled.
const LONG_DEADLINE: Duration = Duration::from_secs(30);

/// What handlers know.
pub(super) struct Shared {
    manager: Manager,
    desired: Arc<dyn Fn() -> Desired + Send + Sync>,
    shutdown: CancellationToken,
    feeds: Arc<Semaphore>,
    document: serde_json::Value,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "knats management API",
        description = "What the commands of knats show and do. On loopback reading needs no token; all else needs `Authorization: Bearer TOKEN`, and beyond loopback reading does, too.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(failure::Described9457, tail::Item)),
    security((), ("token" = []))
)]
struct Document;

pub(super) fn router(
    manager: Manager,
    desired: Arc<dyn Fn() -> Desired + Send + Sync>,
    shutdown: CancellationToken,
    who: Arc<Guard>,
) -> Router {
    let (router, document) = described();
    let feeds = Arc::new(Semaphore::new(feed::MAX_FEEDS));
    let document = serde_json::to_value(document).unwrap_or_default();
    let router = router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(extract::MAX_BODY))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(MAX_AT_WORK)), at_most))
        .layer(from_fn_with_state(who, guard))
        .layer(map_response(not_to_be_kept))
        .with_state(Arc::new(Shared { manager, desired, shutdown, feeds, document }));
    Router::new().nest(PREFIX, router)
}

/// The routes, and the document that describes them: what is in one is in the other.
fn described() -> (Router<Arc<Shared>>, utoipa::openapi::OpenApi) {
    let quick = OpenApiRouter::new()
        .routes(routes!(looks::index))
        .routes(routes!(looks::document))
        .routes(routes!(lists::channels))
        .routes(routes!(lists::channel))
        .routes(routes!(lists::subscriptions))
        .routes(routes!(lists::subscription))
        .routes(routes!(lists::pause))
        .routes(routes!(lists::resume))
        .routes(routes!(letters::one, letters::discard))
        .routes(routes!(feed::feed))
        .route_layer(from_fn_with_state(DEADLINE, within));
    let slow = OpenApiRouter::new()
        .routes(routes!(lists::replay))
        .routes(routes!(letters::list))
        .routes(routes!(letters::redrive))
        .routes(routes!(looks::why))
        .routes(routes!(looks::doctor))
        .routes(routes!(looks::diff))
        .route_layer(from_fn_with_state(LONG_DEADLINE, within));
    let (router, routes) = quick.merge(slow).split_for_parts();
    let whole = |base: &str, path: &str| format!("{base}{}", path.trim_end_matches('/'));
    let mut document = Document::openapi().nest_with_path_composer(PREFIX, routes, whole);
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    document.components.get_or_insert_default().add_security_scheme("token", bearer);
    (router, document)
}

/// Answers when nobody else does in time.
async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(limit, next.run(request)).await;
    answered.unwrap_or_else(|_| Failure::too_late(limit).into_response())
}

/// Lets a bounded number of requests through. The events of a feed come after its answer and have a bound of their own.
async fn at_most(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_place) = places.try_acquire() else {
        return Failure::busy(format!("{MAX_AT_WORK} requests are at work already, ask again")).into_response();
    };
    next.run(request).await
}

/// What is told here is true now, and not for every eye.
async fn not_to_be_kept(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn method_not_allowed(method: Method) -> Failure {
    let detail = format!("method {method} is not allowed here, the header Allow says which are");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

async fn not_found(uri: Uri) -> Failure {
    Failure::not_found(format!("there is nothing at '{PREFIX}{}', {PREFIX} says what there is", uri.path()))
}

#[cfg(test)]
mod tests;

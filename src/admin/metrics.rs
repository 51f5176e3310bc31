//! `/metrics`, in whichever of Prometheus' formats the scraper asks for.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use super::method_not_allowed;
use crate::telemetry::Exposition;
use crate::telemetry::text::{self, Format};

pub(super) fn router(exposition: Arc<Exposition>) -> Router {
    Router::new().route("/metrics", get(metrics)).method_not_allowed_fallback(method_not_allowed).with_state(exposition)
}

async fn metrics(State(exposition): State<Arc<Exposition>>, headers: HeaderMap) -> Response {
    let accepted: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accepted.join(","));
    let text = text::write(&exposition.gather().await, format);
    ([(CONTENT_TYPE, HeaderValue::from_static(format.content_type()))], text).into_response()
}

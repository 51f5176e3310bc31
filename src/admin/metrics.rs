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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::{Body, to_bytes};
    use http::{Method, Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: Method, accept: &str) -> (StatusCode, HeaderMap, String) {
        let exposition = Arc::new(Exposition::new(Arc::default(), Vec::new()));
        let request =
            Request::builder().method(method).uri("/metrics").header(ACCEPT, accept).body(Body::empty()).unwrap();
        let response = router(exposition).oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn head_has_the_type_and_no_body() {
        let (status, headers, body) = ask(Method::HEAD, "*/*").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
        assert_eq!(headers[CONTENT_TYPE], Format::Prometheus.content_type());
        let (_, headers, body) = ask(Method::GET, "application/openmetrics-text").await;
        assert_eq!(headers[CONTENT_TYPE], Format::OpenMetrics.content_type());
        assert!(body.contains("knats_build_info{") && body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn nothing_can_be_posted() {
        assert_eq!(ask(Method::POST, "*/*").await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
}

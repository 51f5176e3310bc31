//! The admin port: health and readiness for probes, metrics for scrapers, and the management API for people and their programs.

mod api;
mod guard;
mod health;
mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{Method, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::manage::Manager;
use crate::resource::Desired;
use crate::server;
use crate::server::problem::Problem;
use crate::telemetry::Exposition;

pub use guard::Token;
pub use health::{Missing, Readiness};

use guard::Guard;

/// Answers take no time here; what is not read by then is not waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const PATHS: &str = "/healthz, /metrics, /readyz, /api/v1";

/// What the admin port shows and lets people do.
pub struct Admin {
    pub readiness: watch::Receiver<Readiness>,
    pub exposition: Arc<Exposition>,
    pub manager: Manager,
    /// The manifests in force.
    pub desired: Arc<dyn Fn() -> Desired + Send + Sync>,
    /// Opens the management API; without one it can only be read, and only on loopback.
    pub token: Option<Token>,
}

/// Serves the admin port until `shutdown`.
pub async fn serve(listener: TcpListener, admin: Admin, shutdown: CancellationToken) {
    // A socket that does not know its address is taken for one that everybody reaches.
    let address = listener.local_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let guard = Guard::new(admin.token, address);
    let api = api::router(admin.manager, admin.desired, shutdown.clone(), guard);
    let router = router(admin.readiness).merge(metrics::router(admin.exposition)).merge(api);
    server::serve(listener, router, shutdown, DRAIN_TIMEOUT).await;
}

fn router(readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(health::readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(readiness)
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem {
        status: StatusCode::METHOD_NOT_ALLOWED,
        detail: format!("method {method} is not allowed here, expected GET or HEAD"),
    }
}

async fn not_found(uri: Uri) -> Problem {
    Problem {
        status: StatusCode::NOT_FOUND,
        detail: format!("there is nothing at '{}', expected one of {PATHS}", uri.path()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::{Body, to_bytes};
    use axum::response::Response;
    use http::header::CONTENT_TYPE;
    use http::{HeaderValue, Request};
    use serde_json::json;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(readiness: Readiness, method: Method, path: &str) -> Response {
        let (_sender, receiver) = watch::channel(readiness);
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        router(receiver).oneshot(request).await.unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
    }

    fn unready() -> Readiness {
        let missing = vec![
            Missing { kind: "nats", name: None, reason: "not connected".into() },
            Missing { kind: "channel", name: Some("default/foo".into()), reason: "no stream".into() },
        ];
        Readiness { missing, ..Readiness::default() }
    }

    #[tokio::test]
    async fn a_process_that_answers_is_healthy_ready_or_not() {
        let response = ask(unready(), Method::GET, "/healthz").await;
        assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "ok"));
    }

    #[tokio::test]
    async fn it_is_not_ready_as_long_as_something_is_missing_and_says_what() {
        let response = ask(unready(), Method::GET, "/readyz").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
        let missing = json!([
            {"kind": "nats", "name": null, "reason": "not connected"},
            {"kind": "channel", "name": "default/foo", "reason": "no stream"},
        ]);
        assert_eq!(body, json!({"ready": false, "missing": missing, "notes": [], "resources": {"faults": []}}));
    }

    #[tokio::test]
    async fn faults_of_newer_manifests_are_shown_and_leave_it_ready() {
        let readiness = Readiness { resource_faults: vec!["a.yaml: document 1: x".into()], ..Readiness::default() };
        let response = ask(readiness, Method::GET, "/readyz").await;
        assert_eq!(response.status(), StatusCode::OK);
        let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(
            body,
            json!({"ready": true, "missing": [], "notes": [], "resources": {"faults": ["a.yaml: document 1: x"]}})
        );
    }

    #[tokio::test]
    async fn head_has_the_status_and_no_body() {
        for (path, status) in [("/healthz", StatusCode::OK), ("/readyz", StatusCode::SERVICE_UNAVAILABLE)] {
            let response = ask(unready(), Method::HEAD, path).await;
            assert_eq!((response.status(), text(response).await.as_str()), (status, ""));
        }
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_problems() {
        for (method, path, status) in [
            (Method::POST, "/healthz", StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, "/readyz", StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/", StatusCode::NOT_FOUND),
            (Method::GET, "/readyz/", StatusCode::NOT_FOUND),
        ] {
            let response = ask(unready(), method, path).await;
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let allow = response.headers().get(http::header::ALLOW).map(HeaderValue::as_bytes);
            assert_eq!(allow, (status == StatusCode::METHOD_NOT_ALLOWED).then_some(b"GET,HEAD".as_slice()), "{path}");
        }
    }
}

//! Error answers as RFC 9457 problem details, the one form that all servers of the bridge use.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// Characters of `detail`: it may quote what the client sent, and that may be long.
const MAX_DETAIL_CHARS: usize = 1000;

/// What went wrong, for the person who reads the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

/// `type` is `about:blank`: the status says it all, and `title` is its phrase (RFC 9457, section 4.2.1).
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Problem {
    /// The answer with its whole body.
    pub fn response(self) -> http::Response<Full<Bytes>> {
        self.because(None)
    }

    /// The same with a word for programs, where one status stands for several things: an extension member `reason` (RFC 9457,
    /// section 3.2).
    pub fn because(mut self, reason: Option<&str>) -> http::Response<Full<Bytes>> {
        if let Some((end, _)) = self.detail.char_indices().nth(MAX_DETAIL_CHARS) {
            self.detail.truncate(end);
            self.detail.push('…');
        }
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            reason,
        };
        // Strings and a number always become JSON.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = http::Response::new(Full::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.response().into_response()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::to_bytes;

    use super::*;

    async fn json(problem: Problem) -> serde_json::Value {
        let response = problem.into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_rfc_9457() {
        let problem = Problem { status: StatusCode::NOT_FOUND, detail: "no \"such\" thing".into() };
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no \"such\" thing"
        });
        assert_eq!(json(problem).await, expected);
    }

    #[tokio::test]
    async fn a_long_detail_is_cut_between_characters() {
        let problem = Problem { status: StatusCode::BAD_REQUEST, detail: "€".repeat(MAX_DETAIL_CHARS + 1) };
        let detail = json(problem).await["detail"].as_str().unwrap().to_owned();
        assert_eq!(detail, "€".repeat(MAX_DETAIL_CHARS) + "…");
    }
}

//! What the API answers when it does not do what was asked: problem details (RFC 9457), the same for every call.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

use crate::channel::{ApiError, CallError};
use crate::manage::Error;
use crate::server::problem::Problem;

/// Seconds after which it is worth asking again: NATS is looked for about so often.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("2");

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// Tells cases of one status apart, for programs.
    reason: Option<&'static str>,
    detail: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, reason: None, detail: detail.into() }
    }

    /// What was asked is not as it should be; the text names the place.
    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn too_late(limit: Duration) -> Self {
        let detail = format!(
            "not done within {} s, so nobody waits for it any more; what would have been changed may be changed",
            limit.as_secs()
        );
        Self::new(StatusCode::GATEWAY_TIMEOUT, detail)
    }

    fn conflict(reason: &'static str, detail: String) -> Self {
        Self { status: StatusCode::CONFLICT, reason: Some(reason), detail }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound(_) | Error::Api { cause: ApiError::NotFound(_), .. } => Self::not_found(detail),
            Error::Ambiguous(_) => Self::conflict("ambiguous", detail),
            Error::Refused(_) => Self::conflict("refused", detail),
            Error::TooOld { .. } => Self::conflict("too_old", detail),
            // NATS is there and will not: asking again does not help.
            Error::Api { cause: ApiError::Denied(_) | ApiError::Refused { .. }, .. }
            | Error::Call { cause: CallError::Denied(_), .. } => Self::new(StatusCode::BAD_GATEWAY, detail),
            Error::NotConnected { .. }
            | Error::Api { cause: ApiError::Disconnected | ApiError::NoAnswer(_), .. }
            | Error::Call { .. } => Self::busy(detail),
            // The bridge runs with its settings; they were fit when it started.
            Error::Settings(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, reason, detail } = self;
        let mut response = Problem { status, detail }.because(reason).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, ASK_AGAIN);
        }
        response
    }
}

/// Problem details (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes what the server's problems look like")]
pub(super) struct Described9457 {
    /// `about:blank`: the status says it all.
    r#type: String,
    /// The phrase of the status.
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong, where, and what to do.
    detail: String,
    /// With 409: `ambiguous` (it fits several things), `refused` (it cannot be done as things are) or `too_old` (the NATS server is).
    reason: Option<String>,
}

/// What every call may answer.
pub(super) struct Always;
/// What calls answer that name something.
pub(super) struct OfOne;
/// What calls answer that take a body.
pub(super) struct WithBody;

impl IntoResponses for Always {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[
            ("400", "A parameter or a field is not as described; the detail names it."),
            ("401", "The token is missing or wrong."),
            ("502", "NATS does not permit it, or JetStream refuses; the detail names the subject."),
            ("503", "NATS is away or does not answer, or too much is asked at once; ask again after `Retry-After`."),
            ("504", "It took too long."),
        ])
    }
}

impl IntoResponses for OfOne {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[
            ("404", "There is no such thing; the detail says what there is."),
            ("409", "It cannot be done as things are: `reason` says which kind, `detail` what to do."),
        ])
    }
}

impl IntoResponses for WithBody {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[("413", "The body is larger than 64 KiB."), ("415", "The body is not `application/json`.")])
    }
}

fn described(all: &[(&str, &str)]) -> BTreeMap<String, RefOr<Described>> {
    let problem = || ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let one =
        |text: &str| ResponseBuilder::new().description(text).content("application/problem+json", problem()).build();
    all.iter().map(|(status, text)| ((*status).to_owned(), RefOr::T(one(text)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: Error) -> (u16, Option<&'static str>, bool) {
        let failure = Failure::from(error);
        let (status, reason) = (failure.status.as_u16(), failure.reason);
        (status, reason, failure.into_response().headers().contains_key(RETRY_AFTER))
    }

    #[test]
    fn the_status_tells_whether_asking_again_helps() {
        let api = |cause| Error::Api { doing: "x".into(), cause };
        let call = |cause| Error::Call { doing: "x".into(), cause };
        assert_eq!(status(Error::NotFound("x".into())), (404, None, false));
        assert_eq!(status(Error::Ambiguous("x".into())), (409, Some("ambiguous"), false));
        assert_eq!(status(Error::Refused("x".into())), (409, Some("refused"), false));
        assert_eq!(status(Error::TooOld { what: "x", version: "2.14" }), (409, Some("too_old"), false));
        assert_eq!(status(api(ApiError::Disconnected)), (503, None, true));
        assert_eq!(status(api(ApiError::NoAnswer("x".into()))), (503, None, true));
        assert_eq!(status(api(ApiError::Denied("x".into()))), (502, None, false));
        assert_eq!(status(api(ApiError::Refused { code: 1, description: "x".into() })), (502, None, false));
        assert_eq!(status(api(ApiError::NotFound("x".into()))), (404, None, false));
        assert_eq!(status(call(CallError::Disconnected)), (503, None, true));
        assert_eq!(status(call(CallError::Denied("x".into()))), (502, None, false));
    }
}

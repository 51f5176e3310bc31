//! Why a request was not answered 202, and the one place that makes statuses of it (CONTRACT of the bridge, section 3).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use crate::channel::PublishError;
use crate::event;
use crate::resource::Key;
use crate::server::problem::Problem;
use crate::telemetry::Received;

/// What a path of the ingress can be asked.
pub(super) const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("POST, OPTIONS");
/// Seconds. What a 503 is about is over in a moment or lasts; a client with patience finds out by itself.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// The bridge asks an issuer for its keys no more often than that.
const RETRY_AFTER_KEYS_SECONDS: HeaderValue = HeaderValue::from_static("5");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const BEARER_INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no channel can be at path '{0}', expected '/NAMESPACE/NAME' or '/'")]
    NoSuchPath(String),
    #[error("no channel can be at host '{0}', expected 'NAME-kn-channel.NAMESPACE.svc' with names of resources")]
    NoSuchHost(String),
    #[error("channel '{0}' is not declared in the bridge's manifests")]
    NotDeclared(Key),
    #[error(
        "the request names no channel and the bridge has no default channel; POST to '/NAMESPACE/NAME', or to '/' with \
         'Host: NAME-kn-channel.NAMESPACE.svc'"
    )]
    NoDefault,
    #[error("channel '{0}' takes events with a token only: expected 'Authorization: Bearer TOKEN'")]
    NoToken(Key),
    #[error("the bearer token is not taken: {0}")]
    BadToken(&'static str),
    #[error("the bearer token is not taken: it is not for this channel, expected audience '{0}'")]
    WrongAudience(String),
    #[error("channel '{channel}' takes no events from '{subject}'")]
    NotAllowed { channel: Key, subject: String },
    #[error("the bearer token cannot be checked without the keys of its issuer: {0}")]
    NoKeys(&'static str),
    #[error("method {0} is not allowed here, expected POST")]
    Method(Method),
    #[error("{0} requests are being worked on, and the bridge takes no more at once")]
    TooMany(usize),
    #[error("the bridge is not connected to NATS")]
    NotConnected,
    #[error("channel '{0}' is declared, but its stream is not in place yet")]
    NotInPlace(Key),
    #[error("the requests being worked on fill all memory that the bridge has for bodies")]
    NoMemory,
    #[error("the body is larger than {limit} bytes, the limit for this kind of request")]
    BodyTooLarge { limit: usize },
    #[error("the body was not there after {0:?}")]
    BodyTooSlow(Duration),
    #[error("the body cannot be read: {0}")]
    BodyBroken(String),
    #[error(transparent)]
    Event(#[from] event::Error),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the bridge failed at this request; its log says why")]
    Panicked,
}

impl Error {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath(_) | Self::NoSuchHost(_) | Self::NotDeclared(_) | Self::NoDefault => StatusCode::NOT_FOUND,
            Self::NoToken(_) | Self::BadToken(_) | Self::WrongAudience(_) => StatusCode::UNAUTHORIZED,
            Self::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } | Self::Publish(PublishError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Event(event::Error::UnsupportedFormat(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyBroken(_) | Self::Event(_) | Self::Publish(PublishError::TtlUsedUp) => StatusCode::BAD_REQUEST,
            Self::TooMany(_)
            | Self::NotConnected
            | Self::NotInPlace(_)
            | Self::NoMemory
            | Self::NoKeys(_)
            | Self::Publish(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What metrics call it.
    pub(super) fn received(&self) -> Received {
        match self {
            Self::NoSuchPath(_) | Self::NoSuchHost(_) | Self::NotDeclared(_) | Self::NoDefault => {
                Received::NoSuchChannel
            }
            Self::NoToken(_) | Self::BadToken(_) | Self::WrongAudience(_) => Received::Unauthorized,
            Self::NotAllowed { .. } => Received::Forbidden,
            Self::Method(_) => Received::MethodNotAllowed,
            Self::BodyTooLarge { .. } | Self::Publish(PublishError::TooLarge(_)) => Received::TooLarge,
            Self::BodyTooSlow(_) => Received::TooSlow,
            Self::Event(event::Error::UnsupportedFormat(_)) => Received::UnsupportedFormat,
            Self::Publish(PublishError::TtlUsedUp) => Received::TtlUsedUp,
            Self::BodyBroken(_) | Self::Event(_) => Received::Invalid,
            Self::TooMany(_) | Self::NoMemory => Received::Overloaded,
            Self::NotConnected | Self::NotInPlace(_) | Self::NoKeys(_) | Self::Publish(_) => Received::Unavailable,
            Self::Panicked => Received::Failed,
        }
    }

    /// Whether some of the request may be stored, and whether repeating it is of use.
    fn advice(&self) -> &'static str {
        match self {
            Self::Publish(PublishError::TooLarge(_) | PublishError::TtlUsedUp) => {
                "Nothing was stored; the same request will fail again."
            }
            // The dedupe id is made of source and id.
            Self::Publish(_) | Self::Panicked => {
                "Repeating the request is safe: within the stream's duplicate window an event with the same source and id is \
                 stored once."
            }
            Self::BodyTooSlow(_) | Self::BodyBroken(_) => "Nothing was stored; repeating the request is safe.",
            other if other.status() == StatusCode::SERVICE_UNAVAILABLE => {
                "Nothing was stored; repeating the request is safe."
            }
            _ => "Nothing was stored; the same request will fail again.",
        }
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let problem = Problem { status, detail: format!("{self}. {}", self.advice()) };
        let mut response = problem.response();
        let header = match status {
            // RFC 6750, section 3: whoever shows none is not told that it is wrong.
            StatusCode::UNAUTHORIZED if matches!(self, Self::NoToken(_)) => (WWW_AUTHENTICATE, BEARER),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, BEARER_INVALID),
            StatusCode::SERVICE_UNAVAILABLE if matches!(self, Self::NoKeys(_)) => {
                (RETRY_AFTER, RETRY_AFTER_KEYS_SECONDS)
            }
            StatusCode::METHOD_NOT_ALLOWED => (ALLOW, ALLOWED_METHODS),
            StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, RETRY_AFTER_SECONDS),
            // The rest of the body may come yet, and would be read as the next request.
            StatusCode::REQUEST_TIMEOUT => (CONNECTION, HeaderValue::from_static("close")),
            _ => return response,
        };
        response.headers_mut().insert(header.0, header.1);
        response
    }
}

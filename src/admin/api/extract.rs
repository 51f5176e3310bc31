//! What is asked, read from path, query and body. Whatever is not as described is a 400 that names the place; nothing that is
//! not known is passed over in silence, since a misspelt filter would mean everything.

use std::borrow::Cow;
use std::fmt;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, RawPathParams, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, StatusCode, Uri};
use serde::de::{DeserializeOwned, Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::failure::Failure;
use crate::resource::Key;

/// A body is a handful of fields.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// Characters of a text that is looked for. Ids and sources that are longer cannot be asked for.
const MAX_TEXT: usize = 4096;
/// The largest number that every JSON reader keeps exact (2^53 - 1).
pub(super) const MAX_SEQUENCE: u64 = 9_007_199_254_740_991;
/// Ten years. More is a slip of the finger.
const MAX_SECONDS: u64 = 315_360_000;

const NAMESPACE: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const KEY: &str =
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const MAX_NAMESPACE: usize = 63;
/// The name of a stream or a subject holds both parts, and nothing longer is ever there.
const MAX_KEY: usize = 255;

/// The channel or subscription that a path names.
pub(super) struct Named(pub(super) Key);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct NamedPath {
    #[param(max_length = 63, pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    namespace: String,
    #[param(max_length = 253, pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")]
    name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let InPath(NamedPath { namespace, name }) = InPath::from_request_parts(parts, state).await?;
        format!("{namespace}/{name}").parse().map(Self).map_err(Failure::bad)
    }
}

/// Other parts of a path.
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let fault = match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => return Ok(Self(value)),
            Err(fault) => fault.body_text(),
        };
        // The fault of a value does not say whose it is.
        let names = RawPathParams::from_request_parts(parts, state).await;
        let names = names.map(|names| names.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>().join(", "));
        let told = fault.trim_start_matches("Invalid URL: ");
        Err(Failure::bad(format!("the path: {}: {told}", names.unwrap_or_default())))
    }
}

/// A query, every parameter of which is known and as described.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> Query<T> {
    pub(super) fn read(uri: &Uri) -> Result<T, Failure> {
        AxumQuery::try_from_uri(uri).map(|AxumQuery(value)| value).map_err(|fault| {
            let text = fault.body_text();
            Failure::bad(format!("the query: {}", text.trim_start_matches("Failed to deserialize query string: ")))
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::read(&parts.uri).map(Self)
    }
}

/// A JSON object.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let is_json = request.headers().get(CONTENT_TYPE).is_some_and(is_json);
        let read = Bytes::from_request(request, state).await;
        let body = read.map_err(|fault| match fault.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Failure::new(fault.status(), format!("the body is larger than {MAX_BODY} bytes"))
            }
            status => Failure::new(status, format!("the body: {}", fault.body_text())),
        })?;
        if body.is_empty() {
            return Err(Failure::bad("the body is missing, expected a JSON object such as {}"));
        }
        if !is_json {
            let detail = "the body is of another type, expected 'Content-Type: application/json'";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        // serde would take the values of an object as an array, too.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Failure::bad("the body is no JSON object"));
        }
        Json::from_bytes(&body).map(|Json(value)| Self(value)).map_err(|fault| {
            let text = fault.body_text();
            let told = text.split_once(": ").map_or(text.as_str(), |(_, told)| told);
            Failure::bad(format!("the body: {told}"))
        })
    }
}

fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// A text that is not empty and not longer than anybody needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Text(pub(super) String);

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.chars().count() {
            1..=MAX_TEXT => Ok(Self(text)),
            _ => Err(format!("expected a text of 1 to {MAX_TEXT} characters")),
        }
    }
}

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub(super) Key);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() > MAX_KEY {
            return Err(format!("expected at most {MAX_KEY} characters"));
        }
        text.parse().map(Self)
    }
}

/// A namespace.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Namespace(pub(super) String);

impl TryFrom<String> for Namespace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        format!("{text}/x").parse::<Key>().map(|key| Self(key.namespace().to_owned()))
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Number<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_u64(Whole)?;
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(D::Error::custom(format!("expected a number from {MIN} to {MAX}, got {number}")))
        }
    }
}

/// A number that may be written as `5.0`: JSON knows no other integers (JSON Schema, "integer").
struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        // Beyond that the fraction is lost, and no bound of ours is as large.
        let is_whole = number.fract() == 0.0 && (0.0..=MAX_SEQUENCE as f64).contains(&number);
        if is_whole { Ok(number as u64) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
    }
}

/// Seconds back from now.
pub(super) type Seconds = Number<0, MAX_SECONDS>;
/// A length of time that is not zero, in seconds.
pub(super) type Length = Number<1, MAX_SECONDS>;
/// A place in a stream.
pub(super) type Sequence = Number<1, MAX_SEQUENCE>;

fn text(pattern: Option<&str>, min: usize, max: usize) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(Some(max));
    Schema::Object(schema.pattern(pattern).build()).into()
}

impl PartialSchema for Text {
    fn schema() -> RefOr<Schema> {
        text(None, 1, MAX_TEXT)
    }
}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        text(Some(KEY), 3, MAX_KEY)
    }
}

impl PartialSchema for Namespace {
    fn schema() -> RefOr<Schema> {
        text(Some(NAMESPACE), 1, MAX_NAMESPACE)
    }
}

impl<const MIN: u64, const MAX: u64> PartialSchema for Number<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::Integer);
        Schema::Object(schema.minimum(Some(MIN)).maximum(Some(MAX)).build()).into()
    }
}

impl ToSchema for Text {}
impl ToSchema for Name {}
impl ToSchema for Namespace {}
impl<const MIN: u64, const MAX: u64> ToSchema for Number<MIN, MAX> {
    fn name() -> Cow<'static, str> {
        format!("NumberFrom{MIN}To{MAX}").into()
    }
}

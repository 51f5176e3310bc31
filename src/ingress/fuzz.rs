//! What holds of refusals whatever was asked for. `crate::fuzz` makes the input up.

#![allow(clippy::unwrap_used, reason = "a law that is broken panics")]

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::error::Error;
use super::route::{self, Route};
use crate::event;
use crate::server::problem::Problem;

/// A path in the first line, then the headers and the body of a request: every refusal is a problem that can be read.
pub(crate) fn problems(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, rest) = (String::from_utf8_lossy(&bytes[..end]), bytes.get(end + 1..).unwrap_or_default());
    let (headers, body) = event::fuzz::message(rest);
    if let Ok(uri) = path.parse::<Uri>() {
        match route::parse(&uri, &headers) {
            None => is_readable(&Error::NoSuchPath(uri.path().to_owned()).response()),
            Some(Route::Channel(key)) => {
                let named = format!("/{}/{}", key.namespace(), key.name()).parse().unwrap();
                assert_eq!(route::parse(&named, &headers), Some(Route::Channel(key.clone())));
                is_readable(&Error::NotDeclared(key).response());
            }
            Some(Route::NoName(host)) => is_readable(&Error::NoSuchHost(host).response()),
            Some(Route::Default) => {}
        }
    }
    if let Ok(method) = Method::from_bytes(headers.get(HOST).map_or(b"X", |host| host.as_bytes())) {
        is_readable(&Error::Method(method).response());
    }
    if let Err(fault) = event::http::decode(&headers, body) {
        is_readable(&Error::Event(fault).response());
    }
    let (status, detail) = (http::StatusCode::BAD_REQUEST, path.clone().into_owned());
    is_readable(&Problem { status, detail }.because(Some(&path)));
}

fn is_readable(response: &Response<Full<Bytes>>) {
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let body = response.body().clone().collect().now_or_never().unwrap().unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], response.status().as_u16());
    assert!(!problem["title"].as_str().unwrap().is_empty());
    assert!(problem["detail"].as_str().unwrap().chars().count() <= 1001, "{problem}");
}

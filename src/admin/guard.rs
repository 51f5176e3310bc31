//! Who may use the management API: anybody on this machine may look, and whoever shows the token may do the rest.
//!
//! The port is on loopback unless somebody moves it. There, reading needs no token: whoever is on the machine can read
//! JetStream as well. Beyond loopback everything needs the token, and what changes something needs it everywhere. Without a
//! token file nothing can be changed over HTTP at all.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::server::problem::Problem;

/// A shorter token can be guessed.
const MIN_TOKEN: usize = 16;

/// The secret that opens the management API; only its hash is kept.
#[derive(Clone)]
pub struct Token {
    hash: digest::Digest,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the file; white space around the token does not count.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds is no token for a header or too short.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("cannot read the token from {place}: {error}"))?;
        Self::new(text.trim()).map_err(|fault| format!("the token in {place} {fault}"))
    }

    fn new(text: &str) -> Result<Self, String> {
        if text.len() < MIN_TOKEN {
            return Err(format!("is too short, expected at least {MIN_TOKEN} characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds something else than visible ASCII characters".to_owned());
        }
        Ok(Self { hash: digest::digest(&digest::SHA256, text.as_bytes()) })
    }

    /// Takes the same time whatever is shown.
    fn is(&self, shown: &[u8]) -> bool {
        let shown = digest::digest(&digest::SHA256, shown);
        constant_time::verify_slices_are_equal(self.hash.as_ref(), shown.as_ref()).is_ok()
    }
}

/// What the guard knows.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    token: Option<Token>,
    on_loopback: bool,
}

impl Guard {
    pub(super) fn new(token: Option<Token>, listens_on: SocketAddr) -> Arc<Self> {
        Arc::new(Self { token, on_loopback: listens_on.ip().is_loopback() })
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let shown = headers.get(AUTHORIZATION);
        match (&self.token, shown) {
            (Some(token), Some(shown)) => match bearer(shown) {
                Some(shown) if token.is(shown) => Ok(()),
                _ => Err(Refusal::Wrong),
            },
            // A page in a browser on this machine must not read it under a name of its own (DNS rebinding).
            (_, None) if reads && self.on_loopback && is_local(headers) => Ok(()),
            (None, None) if reads && self.on_loopback => Err(Refusal::Host),
            (None, _) => Err(Refusal::NoToken),
            (Some(_), None) => Err(Refusal::Missing),
        }
    }
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Missing,
    Wrong,
    NoToken,
    Host,
}

impl Refusal {
    fn detail(self) -> &'static str {
        match self {
            Self::Missing => "this needs the token of --admin-token-file, expected 'Authorization: Bearer TOKEN'",
            Self::Wrong => "the token is not that of --admin-token-file",
            Self::NoToken => {
                "this needs a token and the bridge knows none: start it with --admin-token-file FILE, then send \
                 'Authorization: Bearer TOKEN'"
            }
            Self::Host => "without a token, expected a Host header that is localhost or an IP address",
        }
    }
}

/// Lets a request through, or answers 401.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let problem = Problem { status: StatusCode::UNAUTHORIZED, detail: refusal.detail().to_owned() };
            ([(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"knats\""))], problem).into_response()
        }
    }
}

fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<http::uri::Authority>() else { return false };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn check(token: bool, address: &str, method: Method, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let token = token.then(|| Token::new(TOKEN).unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Guard::new(token, address.parse().unwrap()).check(&method, &map)
    }

    const LOOPBACK: &str = "127.0.0.1:9090";
    const EVERYWHERE: &str = "0.0.0.0:9090";
    const RIGHT: (&str, &str) = ("authorization", "Bearer 0123456789abcdef");

    #[test]
    fn on_loopback_anybody_may_read() {
        for host in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "10.0.0.1"] {
            assert_eq!(check(false, LOOPBACK, Method::GET, &[("host", host)]), Ok(()), "{host}");
            assert_eq!(check(true, LOOPBACK, Method::HEAD, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_name_that_somebody_else_may_have_pointed_here_is_refused() {
        assert_eq!(check(false, LOOPBACK, Method::GET, &[("host", "evil.example")]), Err(Refusal::Host));
        assert_eq!(check(true, LOOPBACK, Method::GET, &[("host", "evil.example:9090")]), Err(Refusal::Missing));
        assert_eq!(check(true, LOOPBACK, Method::GET, &[("host", "evil.example"), RIGHT]), Ok(()));
    }

    #[test]
    fn whoever_changes_something_shows_the_token() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            for address in [LOOPBACK, EVERYWHERE] {
                assert_eq!(check(true, address, method.clone(), &[RIGHT]), Ok(()));
                assert_eq!(check(true, address, method.clone(), &[]), Err(Refusal::Missing));
                assert_eq!(check(false, address, method.clone(), &[]), Err(Refusal::NoToken));
                assert_eq!(check(false, address, method.clone(), &[RIGHT]), Err(Refusal::NoToken));
            }
        }
    }

    #[test]
    fn beyond_loopback_reading_needs_the_token_too() {
        assert_eq!(check(true, EVERYWHERE, Method::GET, &[]), Err(Refusal::Missing));
        assert_eq!(check(false, EVERYWHERE, Method::GET, &[]), Err(Refusal::NoToken));
        assert_eq!(check(true, EVERYWHERE, Method::GET, &[RIGHT]), Ok(()));
        assert_eq!(check(true, EVERYWHERE, Method::GET, &[("authorization", "bearer   0123456789abcdef ")]), Ok(()));
    }

    #[test]
    fn a_wrong_token_is_wrong_everywhere() {
        for wrong in ["Bearer ", "Bearer 0123456789abcdeg", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef", "x"] {
            for address in [LOOPBACK, EVERYWHERE] {
                assert_eq!(
                    check(true, address, Method::GET, &[("authorization", wrong)]),
                    Err(Refusal::Wrong),
                    "{wrong}"
                );
            }
        }
    }

    #[test]
    fn a_token_is_long_enough_and_fit_for_a_header() {
        assert!(Token::new("short").is_err_and(|fault| fault.contains("at least 16")));
        assert!(Token::new("0123456789 abcdef").is_err_and(|fault| fault.contains("visible ASCII")));
        assert!(!format!("{:?}", Token::new(TOKEN).unwrap()).contains("0123"));
    }
}

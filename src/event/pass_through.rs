//! Owns the headers that travel beside an event without being part of it: Knative's pass-through list (`x-request-id`,
//! `knative-*`, `x-b3-*`) and the W3C trace headers. All others end at the ingress.

use ::http::HeaderMap;

/// Headers kept beside an event from the ingress to the sink. Names are lower-case, values visible ASCII.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassThrough {
    headers: Vec<(String, String)>,
}

impl PassThrough {
    /// Picks what passes through; a broken `traceparent` is left behind, and its `tracestate` with it.
    pub fn from_http(headers: &HeaderMap) -> Self {
        let _ = headers;
        todo!()
    }

    /// The same from names and values in any case, as a NATS message has them.
    pub fn from_pairs<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let _ = headers;
        todo!()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn write_http(&self, headers: &mut HeaderMap) {
        let _ = headers;
        todo!()
    }
}

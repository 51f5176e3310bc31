//! The CloudEvents HTTP binding, both ways: binary, structured and batched content mode. It knows headers and bytes, no
//! server and no client.

use ::http::HeaderMap;
use bytes::Bytes;

use super::{Error, Event};

/// How one or more events lie in a request or an answer (CloudEvents HTTP binding, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Structured,
    Batch,
}

/// The content mode that the `Content-Type` asks for.
///
/// # Errors
/// [`Error::UnsupportedFormat`] for a CloudEvents format other than JSON.
pub fn mode(headers: &HeaderMap) -> Result<Mode, Error> {
    let _ = headers;
    todo!()
}

/// The events of a request, in order: one in binary and structured mode, any number in batched mode.
///
/// # Errors
/// When any of it is no valid event; then nothing of a batch counts.
pub fn decode(headers: &HeaderMap, body: Bytes) -> Result<Vec<Event>, Error> {
    let _ = (headers, body);
    todo!()
}

/// The event that a sink's answer carries: `None` when the answer does not claim to be a CloudEvent.
pub fn decode_reply(headers: &HeaderMap, body: Bytes) -> Option<Result<Event, Error>> {
    let _ = (headers, body);
    todo!()
}

/// Writes the attributes as headers in binary mode and gives the body.
pub fn encode_binary(event: &Event, headers: &mut HeaderMap) -> Bytes {
    let _ = (event, headers);
    todo!()
}

/// Writes the content type of structured mode and gives the JSON body.
pub fn encode_structured(event: &Event, headers: &mut HeaderMap) -> Bytes {
    let _ = (event, headers);
    todo!()
}

//! The CloudEvents NATS binding, both ways: what we write (binary mode) and all that we read, whoever wrote it. Headers are
//! pairs of text here; the NATS client is `channel`'s.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Error, Event, PassThrough};

/// Where a stored message lies; it stands in for what a message from outside CloudEvents does not say.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub stream: &'a str,
    pub sequence: u64,
    pub subject: &'a str,
    /// When the server stored it, in nanoseconds since the Unix epoch.
    pub stored_at_nanos: i128,
}

/// Gives each header of the message (binary mode, then what passes through) and returns the payload.
/// Values are percent-coded where the binding asks for it, so they are plain ASCII.
pub fn encode(event: &Event, pass_through: &PassThrough, header: impl FnMut(&str, Cow<'_, str>)) -> Bytes {
    let _ = (event, pass_through, header);
    todo!()
}

/// Reads a stored message: binary mode, structured mode, bare JSON, or, where it claims to be none of these, any payload as an
/// event of type `dev.knats.message`.
///
/// # Errors
/// When the message claims to be a CloudEvent and is not a valid one.
pub fn decode<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    payload: Bytes,
    origin: Origin<'_>,
) -> Result<(Event, PassThrough), Error> {
    let _ = (headers, payload, origin);
    todo!()
}

//! The CloudEvents JSON event format: one event or a batch, read without touching the bytes of `data`.

use bytes::Bytes;

use super::{Error, Event};

/// # Errors
/// When the bytes are no JSON object that holds a valid event.
pub fn decode(bytes: &Bytes) -> Result<Event, Error> {
    let _ = bytes;
    todo!()
}

/// # Errors
/// [`Error::InBatch`] names the first event at fault.
pub fn decode_batch(bytes: &Bytes) -> Result<Vec<Event>, Error> {
    let _ = bytes;
    todo!()
}

/// One JSON object, members in the order specversion, id, source, type, other attributes, data.
pub fn encode(event: &Event) -> Bytes {
    let _ = event;
    todo!()
}

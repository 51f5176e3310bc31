//! The CloudEvents JSON event format: one event or a batch, read without touching the bytes of `data`.

mod read;
mod scan;
mod shape;
mod write;

pub(super) use read::decode_unlabelled;
pub use read::{MAX_BATCH_EVENTS, decode, decode_batch};
pub use write::{encode, encode_batch};

#[cfg(test)]
mod tests;

//! Any header lines, an empty line, any payload: reading a stored message must not panic, and what was read can be written and
//! read again.

#![no_main]

use bytes::Bytes;
use knats::event::nats::{Origin, decode, encode};
use libfuzzer_sys::fuzz_target;

fn origin() -> Origin<'static> {
    Origin { stream: "S", sequence: 1, subject: "a.default", stored_at_nanos: 0 }
}

fuzz_target!(|text: &str| {
    let (head, payload) = text.split_once("\n\n").unwrap_or(("", text));
    let headers: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(':')).collect();
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let Ok((event, pass_through)) = decode(headers.iter().copied(), payload, origin()) else { return };
    let mut written = Vec::new();
    let payload = encode(&event, &pass_through, |name, value| written.push((name.to_owned(), value.into_owned())));
    let written = written.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    decode(written, payload, origin()).expect("what was written can be read");
});

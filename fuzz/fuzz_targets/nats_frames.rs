//! Any bytes of a NATS server, cut anywhere: reading them must not panic, and the cut must make no difference.

#![no_main]

use bytes::BytesMut;
use knats::channel::wire::frame::{Next, next};
use libfuzzer_sys::fuzz_target;

/// What is read of the chunks, as text.
fn read(chunks: &[&[u8]]) -> Vec<String> {
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match next(&mut buffer) {
                Ok(Next::Frame(frame)) => all.push(format!("{frame:?}")),
                Ok(Next::Incomplete(length)) => {
                    assert!(length > buffer.len());
                    break;
                }
                Err(error) => {
                    all.push(error.to_string());
                    return all;
                }
            }
        }
    }
    all
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (begin, rest) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(read(&[bytes]), read(&[begin, rest]));
});

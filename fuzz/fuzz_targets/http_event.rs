//! Any header lines, an empty line, any body: reading events from a request must not panic, and what was read can be written.

#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use knats::event::http::{decode, decode_reply, encode_binary, encode_structured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 1..])) {
            headers.append(name, value);
        }
    }
    let body = Bytes::copy_from_slice(rest);
    let _ = decode_reply(&headers, body.clone());
    for event in decode(&headers, body).unwrap_or_default() {
        let mut written = HeaderMap::new();
        let body = encode_binary(&event, &mut written);
        let read = decode(&written, body).expect("what was written can be read");
        assert_eq!(read.len(), 1);
        encode_structured(&event, &mut HeaderMap::new());
    }
});

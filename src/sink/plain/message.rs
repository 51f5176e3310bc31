//! Writes a request: its head as the bytes that go out, in one buffer with a body that is short.

use bytes::{Buf, Bytes};
use http::Uri;

use crate::event::{Headers, write_attribute};

/// A longer body is not copied behind the head, but written beside it.
const COPIED_BODY: usize = 16 * 1024;
/// Room for a usual request. More than this costs the allocator several times as much.
const ROOM: usize = 1024;

/// The beginning of every request to one target.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Preamble(Vec<u8>);

/// A request that is being written.
#[derive(Debug)]
pub(in crate::sink) struct Head(Vec<u8>);

/// A request as it goes out.
#[derive(Debug)]
pub(in crate::sink) struct Message {
    head: Vec<u8>,
    /// What is not in there yet.
    body: Bytes,
}

impl Preamble {
    /// A POST to this path and query with these headers, whose names and values are those of HTTP.
    pub(in crate::sink) fn post(target: &Uri, headers: &[(&str, &str)]) -> Self {
        let mut head = Head(format!("POST {target} HTTP/1.1\r\n").into_bytes());
        for (name, value) in headers {
            head.add(name, value);
        }
        Self(head.0)
    }

    pub(in crate::sink) fn head(&self) -> Head {
        let mut bytes = Vec::with_capacity(ROOM.max(self.0.len()));
        bytes.extend_from_slice(&self.0);
        Head(bytes)
    }
}

impl Head {
    pub(in crate::sink) fn with_body(self, body: Bytes) -> Message {
        let Self(mut head) = self;
        head.extend_from_slice(b"content-length: ");
        head.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        if body.len() > COPIED_BODY {
            return Message { head, body };
        }
        head.extend_from_slice(&body);
        Message { head, body: Bytes::new() }
    }
}

impl Headers for Head {
    fn attribute(&mut self, name: &str, value: &str) {
        write_attribute(&mut self.0, name, value);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.add(name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        // Without an early end, so that the compiler can look at many bytes at once.
        let is_name = name.bytes().fold(true, |is, byte| is & byte.is_ascii_graphic() & (byte != b':'));
        let is_value = value.bytes().fold(true, |is, byte| is & (matches!(byte, b' '..=b'~') | (byte == b'\t')));
        if is_name && is_value {
            for part in [name, ": ", value, "\r\n"] {
                self.0.extend_from_slice(part.as_bytes());
            }
        }
    }
}

impl Message {
    /// What is to be written.
    pub(super) fn bytes(&self) -> impl Buf + '_ {
        self.head.chain(&*self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(body: &'static [u8]) -> Vec<u8> {
        let mut head = Preamble::post(&Uri::from_static("/a?b=c"), &[("host", "x:1")]).head();
        head.set("ce-id", "1");
        head.add("ce-split", "a\r\nevil: b");
        head.add("sp lit", "a");
        let message = head.with_body(Bytes::from_static(body));
        let mut bytes = message.bytes();
        bytes.copy_to_bytes(bytes.remaining()).to_vec()
    }

    #[test]
    fn a_request_is_its_head_and_its_body_whatever_their_size() {
        static LONG: [u8; COPIED_BODY + 1] = [b'x'; COPIED_BODY + 1];
        for body in [&b""[..], b"body", &LONG] {
            let head =
                format!("POST /a?b=c HTTP/1.1\r\nhost: x:1\r\nce-id: 1\r\ncontent-length: {}\r\n\r\n", body.len());
            assert_eq!(written(body), [head.as_bytes(), body].concat());
        }
    }
}

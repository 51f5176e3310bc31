//! The laws of framing and of requests, for `sink::fuzz`.

#![allow(clippy::unwrap_used, reason = "a law that is broken panics")]

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::framing::{Body, Piece, head};
use super::message::Preamble;
use crate::event::Headers as _;
use crate::event::http::{decode, decode_reply, encode_binary};
use crate::event::{self, PassThrough};

/// Bounds of lines are looked at when more is missing, so longer answers may differ by where they are cut.
const MAX_COMPARED: usize = 4096;

/// Two bytes that say where the rest, which a server sends, is cut: the cut makes no difference, nothing is read twice, and what
/// is no HTTP ends the reading.
pub(crate) fn answer(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_at_checked(2) else { return };
    let cut = usize::from(u16::from_le_bytes([cut[0], cut[1]])).min(bytes.len());
    let (begin, rest) = bytes.split_at(cut);
    let (whole, in_parts) = (read(&[bytes]), read(&[begin, rest]));
    // A head that does not end may be found to be broken earlier or later.
    let is_head = |read: &Read| read.headers.is_some();
    if bytes.len() <= MAX_COMPARED && (is_head(&whole) || is_head(&in_parts)) {
        assert_eq!(whole, in_parts);
    }
    if let Read { headers: Some(headers), body, .. } = whole {
        let _ = decode_reply(&headers, body.into());
    }
}

#[derive(Debug, PartialEq, Default)]
struct Read {
    status: u16,
    headers: Option<HeaderMap>,
    keeps: bool,
    body: Vec<u8>,
    ended: bool,
    fault: Option<String>,
}

fn read(chunks: &[&[u8]]) -> Read {
    let mut read = Read::default();
    read.fault = try_read(chunks, &mut read).err();
    read
}

fn try_read(chunks: &[&[u8]], read: &mut Read) -> Result<(), String> {
    let (mut buffer, mut seen, mut body) = (BytesMut::new(), 0, None::<Body>);
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        if body.is_none() {
            let Some(head) = head(&mut buffer, &mut seen).map_err(|fault| fault.to_string())? else { continue };
            (read.status, read.keeps, read.headers) = (head.status.as_u16(), head.keeps, Some(head.headers));
            body = Some(head.body);
        }
        let Some(body) = &mut body else { continue };
        loop {
            let before = buffer.len();
            match body.next(&mut buffer).map_err(|fault| fault.to_string())? {
                Piece::Data(data) => {
                    assert!(!data.is_empty() && buffer.len() < before);
                    read.body.extend_from_slice(&data);
                }
                Piece::Missing => break,
                Piece::End => {
                    read.ended = true;
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// An event as it is delivered: what goes out is one request, whose headers are those of the event and no others.
pub(crate) fn request(bytes: &[u8]) {
    let (headers, body) = event::fuzz::message(bytes);
    let pass_through = PassThrough::from_http(&headers);
    for event in decode(&headers, body).unwrap_or_default() {
        let mut head = Preamble::post(&Uri::from_static("/sink"), &[("host", "sink")]).head();
        let body = encode_binary(&event, &mut head);
        pass_through.write(&mut head);
        head.set("kn-namespace", "default");
        let message = head.with_body(body.clone());
        let mut sent = message.bytes();
        let sent = sent.copy_to_bytes(sent.remaining());
        let (received, rest) = parse(&sent);
        assert_eq!(rest, body);
        for name in ["host", "kn-namespace", "content-length"] {
            assert_eq!(received.get_all(name).iter().count(), 1, "{name}");
        }
        let mut expected = HeaderMap::new();
        encode_binary(&event, &mut expected);
        assert_eq!(decode(&received, rest), decode(&expected, body));
        assert_eq!(PassThrough::from_http(&received).iter().count(), pass_through.iter().count());
    }
}

fn parse(sent: &Bytes) -> (HeaderMap, Bytes) {
    let mut fields = vec![httparse::EMPTY_HEADER; 400];
    let mut request = httparse::Request::new(&mut fields);
    let length = request.parse(sent).unwrap().unwrap();
    assert_eq!((request.method, request.path), (Some("POST"), Some("/sink")));
    let mut headers = HeaderMap::new();
    for field in request.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(field.value).unwrap());
    }
    (headers, sent.slice(length..))
}

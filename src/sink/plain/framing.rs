//! Reads answers as HTTP/1.1 frames them (RFC 9112): where a head ends, how long the body behind it is, what its chunks hold.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use memchr::memchr;

/// The longest head, and how many headers it may have: far beyond what any server in use sends.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// The longest line before a chunk.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// The longest trailers behind the last chunk.
const MAX_TRAILERS: usize = 16 * 1024;

/// Headers that nearly every answer has and nobody here looks at.
const UNREAD: [&str; 2] = ["date", "server"];

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Without those that frame the answer, which are between us and the server of the connection, and those that nobody reads.
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Whether its connection may serve another request.
    pub(super) keeps: bool,
}

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Chunk),
    /// All until the server closes the connection.
    UntilClose,
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Before the line that tells its size.
    Line,
    /// Before so many bytes of its data.
    Data(u64),
    /// Before the end of the line behind its data.
    End,
    /// Among the trailers, of which there were so many bytes.
    Trailers(usize),
}

/// What the buffer holds of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    /// More must be read first.
    Missing,
    End,
}

/// Why what came is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the answer is not HTTP/1.1: {0}")]
    Head(#[from] httparse::Error),
    #[error("the answer is not HTTP/1.1: {0}")]
    Field(&'static str),
    #[error("the answer's head is longer than {MAX_HEAD} bytes")]
    TooLong,
    #[error("the answer's chunks are not those of HTTP/1.1")]
    Chunk,
}

/// Takes the head of an answer off the buffer once it is there whole; those that only announce it (1xx, but for 101, behind which
/// no HTTP follows) are passed over.
/// `seen` is how much of the buffer was looked at before, in vain.
pub(super) fn head(buffer: &mut BytesMut, seen: &mut usize) -> Result<Option<Head>, Malformed> {
    while ends(buffer, *seen) {
        // Not filled beforehand: that would take longer than the parsing.
        let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, buffer, &mut fields);
        let httparse::Status::Complete(length) = parsed? else { break };
        let code = answer.code.unwrap_or_default();
        let head = match code {
            100 | 102..200 => None,
            code => Some(read(code, answer.version == Some(1), answer.headers)?),
        };
        buffer.advance(length);
        *seen = 0;
        if head.is_some() {
            return Ok(head);
        }
    }
    *seen = buffer.len();
    if *seen > MAX_HEAD { Err(Malformed::TooLong) } else { Ok(None) }
}

/// Whether an empty line ends in what was not `seen` yet, so that a head that trickles in is parsed once.
fn ends(buffer: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3);
    memchr::memchr_iter(b'\n', &buffer[from..])
        .any(|at| matches!(&buffer[from + at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

fn read(code: u16, is_1_1: bool, fields: &[httparse::Header<'_>]) -> Result<Head, Malformed> {
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Field("its status is below 100"))?;
    let mut headers = HeaderMap::new();
    let (mut coding, mut length, mut closes, mut stays) = (None, None, false, false);
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            length = Some(content_length(field.value, length)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // The last one counts.
            coding = Some(words(field.value).last().unwrap_or_default().eq_ignore_ascii_case("chunked"));
        } else if field.name.eq_ignore_ascii_case("connection") {
            closes |= words(field.value).any(|word| word.eq_ignore_ascii_case("close"));
            stays |= words(field.value).any(|word| word.eq_ignore_ascii_case("keep-alive"));
        } else if !UNREAD.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
            let name =
                HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Field("a header's name"))?;
            let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Field("a header's value"))?;
            headers.append(name, value);
        }
    }
    if coding.is_some() && !is_1_1 {
        return Err(Malformed::Field("HTTP/1.0 has no Transfer-Encoding"));
    }
    let body = match (coding, length) {
        _ if matches!(code, 101 | 204 | 304) => Body::Length(0),
        (Some(true), _) => Body::Chunked(Chunk::Line),
        (None, Some(length)) => Body::Length(length),
        (Some(false), _) | (None, None) => Body::UntilClose,
    };
    // Two lengths are what smuggling is made of (RFC 9112, section 6.3).
    let is_clear = body != Body::UntilClose && !(coding.is_some() && length.is_some());
    let keeps = is_clear && code != 101 && !closes && (is_1_1 || stays);
    Ok(Head { status, headers, body, keeps })
}

/// The length that a `Content-Length` tells; all its elements, and those `before` it, must agree.
fn content_length(value: &[u8], before: Option<u64>) -> Result<u64, Malformed> {
    let mut length = before;
    for digits in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let digits = Some(digits).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        if number.is_none() || length.is_some_and(|length| Some(length) != number) {
            return Err(Malformed::Field("its Content-Length"));
        }
        length = number;
    }
    length.ok_or(Malformed::Field("its Content-Length"))
}

/// The elements of a header that is a list; what is no text is none.
fn words(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value).unwrap_or_default().split(',').map(str::trim)
}

impl Body {
    /// Takes what is there off the buffer.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            let mut all = u64::MAX;
            let chunk = match self {
                Self::Length(0) => return Ok(Piece::End),
                Self::Length(left) => return Ok(data(left, buffer)),
                Self::UntilClose => return Ok(data(&mut all, buffer)),
                Self::Chunked(chunk) => chunk,
            };
            let taken = match chunk {
                Chunk::Line => line(chunk, buffer)?,
                Chunk::Data(0) => {
                    *chunk = Chunk::End;
                    true
                }
                Chunk::Data(left) => return Ok(data(left, buffer)),
                Chunk::End => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *chunk = Chunk::Line;
                        true
                    }
                    Some(_) => return Err(Malformed::Chunk),
                    None => false,
                },
                Chunk::Trailers(bytes) => match trailer(bytes, buffer)? {
                    Trailer::Last => {
                        *self = Self::Length(0);
                        true
                    }
                    Trailer::Another => true,
                    Trailer::Missing => false,
                },
            };
            if !taken {
                return Ok(Piece::Missing);
            }
        }
    }
}

fn data(left: &mut u64, buffer: &mut BytesMut) -> Piece {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    if length == 0 {
        return Piece::Missing;
    }
    *left -= length as u64;
    Piece::Data(buffer.split_to(length).freeze())
}

/// Takes the line before a chunk. False when it is not there whole.
fn line(chunk: &mut Chunk, buffer: &mut BytesMut) -> Result<bool, Malformed> {
    match httparse::parse_chunk_size(buffer) {
        Ok(httparse::Status::Complete((length, size))) => {
            buffer.advance(length);
            *chunk = if size == 0 { Chunk::Trailers(0) } else { Chunk::Data(size) };
            Ok(true)
        }
        Ok(httparse::Status::Partial) if buffer.len() <= MAX_CHUNK_LINE => Ok(false),
        Ok(httparse::Status::Partial) | Err(_) => Err(Malformed::Chunk),
    }
}

enum Trailer {
    Last,
    Another,
    Missing,
}

fn trailer(bytes: &mut usize, buffer: &mut BytesMut) -> Result<Trailer, Malformed> {
    let end = memchr(b'\n', buffer);
    let length = end.map_or(buffer.len(), |end| end + 1);
    if *bytes + length > MAX_TRAILERS {
        return Err(Malformed::Chunk);
    }
    if end.is_none() {
        return Ok(Trailer::Missing);
    }
    let is_last = matches!(&buffer[..length], b"\r\n" | b"\n");
    buffer.advance(length);
    *bytes += length;
    Ok(if is_last { Trailer::Last } else { Trailer::Another })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads an answer that comes in these pieces: status, body, what is left behind it, and whether its connection is of use.
    fn answer(pieces: &[&[u8]]) -> Result<(u16, Vec<u8>, Vec<u8>, bool), String> {
        let (mut buffer, mut seen, mut head) = (BytesMut::new(), 0, None::<Head>);
        let (mut body, mut ended) = (Vec::new(), false);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if head.is_none() {
                head = super::head(&mut buffer, &mut seen).map_err(|error| error.to_string())?;
            }
            while let (Some(head), false) = (&mut head, ended) {
                match head.body.next(&mut buffer).map_err(|error| error.to_string())? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::Missing => break,
                    Piece::End => ended = true,
                }
            }
        }
        let head = head.ok_or("no head")?;
        if !ended && head.body != Body::UntilClose {
            return Err("no end".to_owned());
        }
        Ok((head.status.as_u16(), body, buffer.to_vec(), head.keeps))
    }

    fn check(text: &str, body: &str, left: &str, keeps: bool) {
        let (_, found, rest, kept) = answer(&[text.as_bytes()]).unwrap();
        assert_eq!((&*found, &*rest, kept), (body.as_bytes(), left.as_bytes(), keeps), "{text:?}");
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhixx", "hi", "xx", true);
        check("HTTP/1.1 200\ncontent-length: 2, 2\ncontent-length: 2\n\nhi", "hi", "", true);
        check("HTTP/1.1 204 No\r\n\r\nx", "", "x", true);
        check("HTTP/1.1 101 Switch\r\n\r\nx", "", "x", false);
        check("HTTP/1.1 200 OK\r\n\r\nall of it", "all of it", "", false);
        check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", "x", "", false);
        check("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\nx", "x", "", true);
        check("HTTP/1.1 200 OK\r\nconnection: a, Close\r\ncontent-length: 1\r\n\r\nx", "x", "", false);
        check(
            "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 H\r\na: b\r\n\r\nHTTP/1.1 202 A\r\ncontent-length: 0\r\n\r\n",
            "",
            "",
            true,
        );
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n";
        check(&format!("{chunked}\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\na: b\r\nc: d\r\n\r\nxx"), "hello", "xx", true);
        check(&format!("{chunked}content-length: 1\r\n\r\n0\r\n\r\n"), "", "", false);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nall", "all", "", false);
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let long = "x".repeat(MAX_HEAD);
        for (text, fault) in [
            ("hello\r\n\r\n".to_owned(), "not HTTP/1.1"),
            ("HTTP/1.1 099 Low\r\n\r\n".to_owned(), "status"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".to_owned(), "Content-Length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\nx".to_owned(), "Content-Length"),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nx".to_owned(), "Content-Length"),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), "Transfer-Encoding"),
            (format!("HTTP/1.1 200 OK\r\nx: {long}"), "longer than"),
            (format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1)), "headers"),
            (format!("{chunked}x\r\n"), "chunks"),
            (format!("{chunked}1;{}", &long[..MAX_CHUNK_LINE]), "chunks"),
            (format!("{chunked}1\r\nxyz\r\n"), "chunks"),
            (format!("{chunked}0\r\n{}", &long[..MAX_TRAILERS + 1]), "chunks"),
            (format!("{chunked}fffffffffffffffff\r\n"), "chunks"),
        ] {
            let error = answer(&[text.as_bytes()]).unwrap_err();
            assert!(error.contains(fault), "{error:?} of {:?}", &text[..text.len().min(80)]);
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            chunks in prop::collection::vec("[a-z\r\n]{1,20}", 0..5),
            early in any::<bool>(),
            framed in 0..3,
            cuts in prop::collection::vec(0_usize..400, 0..8),
        ) {
            let body = chunks.concat();
            let mut text = if early { "HTTP/1.1 103 Early\r\na: b\r\n\r\n".to_owned() } else { String::new() };
            text += "HTTP/1.1 200 OK\r\ndate: now\r\n";
            text += &match framed {
                0 => format!("content-length: {}\r\n\r\n{body}", body.len()),
                1 => format!("\r\n{body}"),
                _ => {
                    let chunks: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
                    format!("transfer-encoding: chunked\r\n\r\n{chunks}0\r\nt: x\r\n\r\n")
                }
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(answer(&pieces), Ok((200, body.into_bytes(), Vec::new(), framed != 1)));
        }

        #[test]
        fn no_bytes_make_it_panic(
            head in "(|HTTP/1.1 200 OK\r\n|HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n|HTTP/1.1 1)",
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "[0-9a-f;: \r\n]{0,60}",
        ) {
            let _ = answer(&[head.as_bytes(), &bytes]);
            let _ = answer(&[head.as_bytes(), text.as_bytes()]);
        }
    }
}

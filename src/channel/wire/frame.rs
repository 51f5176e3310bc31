//! Splits what a NATS server sends into frames, wherever the reads may have cut it. Nothing in a message can make it fail: its
//! headers are bytes here.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr;

/// The longest line. A server's own limit for clients is 4 KiB; an INFO with the addresses of a large cluster is longer.
const MAX_LINE: usize = 64 * 1024;
/// The most that headers and payload of one message may take: the largest `max_payload` a server can have, 64 MiB, and what
/// JetStream adds in headers. The present `max_payload` is no bound, since a stream may hold what an earlier one let in.
const MAX_BODY: usize = 64 * 1024 * 1024 + MAX_LINE;
/// A shorter payload is copied out of the read buffer, so that an event that waits for long does not keep the whole buffer.
const KEEP_IN_PLACE: usize = 4 * 1024;

/// One thing that the server says.
#[derive(Debug)]
pub enum Frame {
    Message(Message),
    /// The JSON of an INFO.
    Info(Bytes),
    Ping,
    Pong,
    Ok,
    /// The text of an -ERR, without its quotes.
    Error(String),
}

/// What the buffer holds at its beginning.
#[derive(Debug)]
pub enum Next {
    /// A whole frame, which has been taken off.
    Frame(Frame),
    /// The beginning of a frame, of so many bytes at least.
    Incomplete(usize),
}

/// Why what came is not the NATS protocol. There is no way to go on behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a line is longer than {MAX_LINE} bytes")]
    Line,
    #[error("a message is longer than {MAX_BODY} bytes")]
    Body,
    #[error("not the NATS protocol: '{0}'")]
    Unknown(String),
}

/// A message of a subscription, still as its bytes.
#[derive(Debug, Clone)]
pub struct Message {
    frame: Bytes,
    /// The number of the subscription that it is for.
    pub sid: u64,
    subject: Span,
    reply: Option<Span>,
    headers: Span,
    payload: Span,
}

/// A part of a frame.
type Span = std::ops::Range<usize>;

impl Message {
    pub fn subject(&self) -> &[u8] {
        &self.frame[self.subject.clone()]
    }

    pub fn reply(&self) -> Option<&[u8]> {
        self.reply.clone().map(|reply| &self.frame[reply])
    }

    /// The header block with its first line and the empty one at its end; empty when there are no headers.
    pub fn headers(&self) -> &[u8] {
        &self.frame[self.headers.clone()]
    }

    pub fn payload(&self) -> &[u8] {
        &self.frame[self.payload.clone()]
    }

    /// The payload to keep.
    pub fn to_payload(&self) -> Bytes {
        if self.payload.len() < KEEP_IN_PLACE {
            Bytes::copy_from_slice(self.payload())
        } else {
            self.frame.slice(self.payload.clone())
        }
    }
}

/// Takes the next frame off the buffer.
///
/// # Errors
/// When it is not the NATS protocol; the connection is of no more use then.
pub fn next(buffer: &mut BytesMut) -> Result<Next, Malformed> {
    let Some(end) = memchr(b'\n', &buffer[..buffer.len().min(MAX_LINE)]) else {
        return if buffer.len() < MAX_LINE { Ok(Next::Incomplete(buffer.len() + 1)) } else { Err(Malformed::Line) };
    };
    let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
    let (verb, arguments) = line.split_at(memchr(b' ', line).unwrap_or(line.len()));
    let frame = match verb {
        b"MSG" => return message(buffer, end, false),
        b"HMSG" => return message(buffer, end, true),
        b"PING" => Frame::Ping,
        b"PONG" => Frame::Pong,
        b"+OK" => Frame::Ok,
        b"INFO" => Frame::Info(Bytes::copy_from_slice(arguments.trim_ascii())),
        b"-ERR" => Frame::Error(String::from_utf8_lossy(arguments).trim_matches([' ', '\'']).to_owned()),
        _ => return Err(unknown(line)),
    };
    buffer.advance(end + 1);
    Ok(Next::Frame(frame))
}

/// `MSG subject sid [reply] size` or `HMSG subject sid [reply] header-size size`, and what follows; `end` is the end of the line.
fn message(buffer: &mut BytesMut, end: usize, has_headers: bool) -> Result<Next, Malformed> {
    const MOST: usize = 5;
    let malformed = || unknown(&buffer[..end]);
    let mut spans: [Span; MOST] = std::array::from_fn(|_| 0..0);
    let mut count = 0;
    for span in words(&buffer[..end]).skip(1) {
        *spans.get_mut(count).ok_or_else(malformed)? = span;
        count += 1;
    }
    let number = |span: &Span| number(&buffer[span.clone()]).ok_or_else(malformed);
    let sizes = if has_headers { 2 } else { 1 };
    let (reply, sizes) = match count.checked_sub(2 + sizes) {
        Some(0) => (None, &spans[2..count]),
        Some(1) => (Some(spans[2].clone()), &spans[3..count]),
        _ => return Err(malformed()),
    };
    let sid = number(&spans[1])?;
    let size = |span: &Span| number(span).map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    let (header_size, size) = match sizes {
        [headers, total] => (size(headers)?, size(total)?),
        [total] => (0, size(total)?),
        _ => return Err(malformed()),
    };
    if size > MAX_BODY {
        return Err(Malformed::Body);
    }
    if header_size > size {
        return Err(malformed());
    }
    let begin = end + 1;
    let length = begin + size + 2;
    if buffer.len() < length {
        return Ok(Next::Incomplete(length));
    }
    if &buffer[begin + size..length] != b"\r\n" {
        return Err(malformed());
    }
    let subject = spans[0].clone();
    Ok(Next::Frame(Frame::Message(Message {
        frame: buffer.split_to(length).freeze(),
        sid,
        subject,
        reply,
        headers: begin..begin + header_size,
        payload: begin + header_size..begin + size,
    })))
}

/// The words of a line, between its spaces.
fn words(line: &[u8]) -> impl Iterator<Item = Span> + '_ {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut at = 0;
    std::iter::from_fn(move || {
        at += line[at..].iter().take_while(|byte| **byte == b' ').count();
        let begin = at;
        at += memchr(b' ', &line[at..]).unwrap_or(line.len() - at);
        (at > begin).then_some(begin..at)
    })
}

/// A decimal number; `None` when it is none, or too large.
pub(in crate::channel) fn number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |sum: u64, byte: &u8| sum.checked_mul(10)?.checked_add(digit(byte)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

fn unknown(line: &[u8]) -> Malformed {
    const SHOWN: usize = 100;
    Malformed::Unknown(line[..line.len().min(SHOWN)].escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that is in there, as text; the last line says how it ended.
    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let mut buffer = BytesMut::new();
        let mut all = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            loop {
                match next(&mut buffer) {
                    Ok(Next::Frame(frame)) => all.push(show(&frame)),
                    Ok(Next::Incomplete(least)) => {
                        assert!(least > buffer.len());
                        break;
                    }
                    Err(error) => {
                        all.push(error.to_string());
                        return all;
                    }
                }
            }
        }
        all.push(format!("{} left", buffer.len()));
        all
    }

    fn show(frame: &Frame) -> String {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        match frame {
            Frame::Message(message) => format!(
                "{} {} {:?} [{}] {}",
                message.sid,
                text(message.subject()),
                message.reply().map(text),
                text(message.headers()),
                text(&message.to_payload())
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_frame_is_read() {
        let bytes = b"INFO {\"a\":1} \r\nMSG a.b 7 2\r\nhi\r\nMSG a.b 7 r.x 0\r\n\r\nHMSG a 12 r 4 6\r\n\xff\r\nhpp\r\nHMSG a 1 2 2\r\nhh\r\n\
            PING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\nMSG  a  1  1\r\nx\r\nPI";
        let expected = [
            "Info(b\"{\\\"a\\\":1}\")",
            "7 a.b None [] hi",
            "7 a.b Some(\"r.x\") [] ",
            "12 a Some(\"r\") [\\xff\\r\\nh] pp",
            "1 a None [hh] ",
            "Ping",
            "Pong",
            "Ok",
            "Error(\"Stale Connection\")",
            "1 a None [] x",
            "2 left",
        ];
        assert_eq!(read(&[bytes]), expected);
    }

    #[test]
    fn what_is_no_frame_ends_it() {
        for bytes in [
            "\r\n",
            "HTTP/1.1 200 OK\r\n",
            "MSG a 1\r\n",
            "MSG a x 1\r\nx\r\n",
            "MSG a 1 r s 1\r\nx\r\n",
            "MSG a 1 1\r\nxyz\r\n",
            "MSG a 1 99999999999999999999999\r\n",
            "HMSG a 1 3 2\r\nxx\r\n",
            "HMSG a 1 2\r\nxx\r\n",
        ] {
            assert!(read(&[bytes.as_bytes()])[0].starts_with("not the NATS protocol"), "{bytes}");
        }
        assert_eq!(read(&[b"MSG a 1 1000000000\r\n"]), [Malformed::Body.to_string()]);
        assert_eq!(read(&[&[b'x'; MAX_LINE]]), [Malformed::Line.to_string()]);
    }

    #[test]
    fn a_short_payload_does_not_keep_the_buffer() {
        let mut buffer = BytesMut::from(&b"MSG a 1 2\r\nhi\r\n"[..]);
        let Ok(Next::Frame(Frame::Message(message))) = next(&mut buffer) else { panic!("no message") };
        assert_ne!(message.to_payload().as_ptr(), message.payload().as_ptr());
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            bodies in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 1..6),
            cuts in prop::collection::vec(0_usize..400, 0..8),
        ) {
            let mut bytes = Vec::new();
            for (headers, body) in &bodies {
                let size = body.len();
                let head = if *headers { format!("HMSG s 1 r {} {size}\r\n", size / 2) } else { format!("MSG s 1 {size}\r\n") };
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(b"\r\nPING\r\n");
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let whole = read(&[&bytes]);
            prop_assert_eq!(whole.len(), bodies.len() * 2 + 1);
            prop_assert_eq!(read(&chunks), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), verb in "(|MSG |HMSG |INFO |-ERR )") {
            read(&[verb.as_bytes(), &bytes, b"\r\n"]);
        }
    }
}

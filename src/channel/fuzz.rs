//! What holds of what NATS sends whatever it is. `crate::fuzz` makes the input up.

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::api::StoredMessage;
use super::dead_letter::ERROR_ATTRIBUTES;
use super::kept::{Content, Letter};
use super::pub_ack;
use super::ticket::Place;
use super::wire::frame::{Frame, Message, Next, next};
use super::wire::headers;
use crate::event;

/// Two bytes that say where the rest, which a NATS server sends, is cut: the cut makes no difference.
pub(crate) fn frames(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_at_checked(2) else { return };
    let cut = usize::from(u16::from_le_bytes([cut[0], cut[1]])).min(bytes.len());
    let (begin, rest) = bytes.split_at(cut);
    assert_eq!(read(&[bytes]), read(&[begin, rest]));
}

/// What is read of the chunks, as text.
fn read(chunks: &[&[u8]]) -> Vec<String> {
    let mut buffer = BytesMut::new();
    let mut all = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match next(&mut buffer) {
                Ok(Next::Frame(frame)) => {
                    all.push(format!("{frame:?}"));
                    if let Frame::Message(message) = frame {
                        answers(&message);
                    }
                }
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

/// What a message may be to us: a status, an acknowledgement, a delivery.
fn answers(message: &Message) {
    let _ = headers::status(message.headers());
    if pub_ack::read(message, "KN_DEFAULT__FOO") == pub_ack::Ack::Stored {
        assert!(pub_ack::is_one(message));
    }
    let _ = message.reply().and_then(|reply| std::str::from_utf8(reply).ok()).and_then(Place::parse);
}

/// Header lines, an empty line, a payload: a message of a channel, and a dead letter.
pub(crate) fn message(bytes: &[u8]) {
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, payload) = at.map_or((&b""[..], bytes), |at| (&bytes[..at], &bytes[at + 2..]));
    let block = [b"NATS/1.0\r\n", head, b"\r\n\r\n"].concat();
    let payload = Bytes::copy_from_slice(payload);
    let _ = headers::find(&block, "Nats-Msg-Id");
    let text = headers::text(&block);
    if let Some(pairs) = text.as_deref().and_then(headers::pairs) {
        event::fuzz::nats_message(pairs.iter().copied(), payload.clone());
    }
    letter(block, payload);
}

/// An event that is kept says nothing of its failure, and can be kept anew; what is none says why.
fn letter(headers: Vec<u8>, payload: Bytes) {
    let subject = "knats.deadletter.default.sub".to_owned();
    let stored_at = Timestamp::UNIX_EPOCH;
    match Letter::read(StoredMessage { sequence: 1, subject, stored_at, headers, payload }).content {
        Content::Event(kept) => {
            assert!(ERROR_ATTRIBUTES.iter().all(|name| kept.event.attribute(name).is_none()));
            event::fuzz::comes_back(&kept.event);
        }
        Content::Poison(_) => {}
    }
}

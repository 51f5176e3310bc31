//! What JetStream answers to a publish, and whether it is JetStream that answers.

use std::borrow::Cow;

use serde::Deserialize;

use super::publish::PublishError;
use super::wire::{Message, headers};

/// The status of an answer when there is no stream for a subject, or none with a leader.
const NO_RESPONDERS: u16 = 503;
/// How an acknowledgement begins.
const BEGIN: &[u8] = b"{\"stream\":\"";

/// An answer.
#[derive(Debug, PartialEq)]
pub(super) enum Ack {
    Stored,
    /// The stream that we meant does not have it.
    Elsewhere,
    Refused(PublishError),
}

#[derive(Deserialize)]
struct PubAck<'a> {
    error: Option<Refusal>,
    #[serde(default, borrow)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Whether this is JetStream's answer: anybody who is subscribed to the subject of an event may answer too.
pub(super) fn is_one(message: &Message) -> bool {
    is_plain(message.payload()) || is_no_responders(message) || parse(message.payload()).is_some()
}

/// What the answer says to somebody who wants the event in `stream`.
pub(super) fn read(message: &Message, stream: &str) -> Ack {
    if stored_in(message.payload(), stream) {
        return Ack::Stored;
    }
    match parse(message.payload()) {
        Some(PubAck { error: Some(refusal), .. }) => Ack::Refused(classify(refusal)),
        Some(ack) if ack.stream == stream => Ack::Stored,
        _ => Ack::Elsewhere,
    }
}

/// The sequence of the message with the same dedupe id that the stream had before, when an acknowledgement tells of one. It may
/// have been taken away since.
pub(super) fn duplicate_of(message: &Message) -> Option<u64> {
    parse(message.payload()).filter(|ack| ack.duplicate).map(|ack| ack.seq)
}

fn is_no_responders(message: &Message) -> bool {
    headers::status(message.headers()).is_some_and(|(code, _)| code == NO_RESPONDERS)
}

/// `{"stream":"NAME","seq":1`, as nats-server writes it, whatever the name.
fn is_plain(payload: &[u8]) -> bool {
    let Some(rest) = payload.strip_prefix(BEGIN) else { return false };
    memchr::memchr(b'"', rest).is_some_and(|end| end > 0 && has_sequence(&rest[end..]))
}

/// Whether it is plainly an acknowledgement of that stream; otherwise it has to be parsed.
fn stored_in(payload: &[u8], stream: &str) -> bool {
    let rest = payload.strip_prefix(BEGIN).and_then(|rest| rest.strip_prefix(stream.as_bytes()));
    rest.is_some_and(has_sequence)
}

fn has_sequence(rest: &[u8]) -> bool {
    rest.strip_prefix(b"\",\"seq\":").and_then(<[u8]>::first).is_some_and(|digit| matches!(digit, b'1'..=b'9'))
}

fn parse(payload: &[u8]) -> Option<PubAck<'_>> {
    let ack = serde_json::from_slice::<PubAck<'_>>(payload).ok()?;
    (ack.error.is_some() || (!ack.stream.is_empty() && ack.seq > 0)).then_some(ack)
}

/// Error codes of nats-server (`errors.json` in its sources).
fn classify(refusal: Refusal) -> PublishError {
    let text = format!("{} ({})", refusal.description, refusal.err_code);
    match refusal.err_code {
        // Insufficient resources, memory, storage, stream limits.
        10_023 | 10_028 | 10_047 | 10_077 => PublishError::Full(text),
        // The stream got a smaller `maxMsgSize` than we knew of.
        10_054 => PublishError::TooLarge(text),
        _ => PublishError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::wire::frame::{Frame, Next, next};
    use super::*;

    fn message(headers: &str, payload: &str) -> Message {
        let (header, total) = (headers.len(), headers.len() + payload.len());
        let frame = format!("HMSG _INBOX.x.1 1 {header} {total}\r\n{headers}{payload}\r\n");
        let Ok(Next::Frame(Frame::Message(message))) = next(&mut BytesMut::from(frame.as_str())) else {
            panic!("{frame}")
        };
        message
    }

    #[test]
    fn answers_are_read() {
        let check = |payload: &str, expected: Ack| {
            let message = message("", payload);
            assert!(is_one(&message), "{payload}");
            assert_eq!(read(&message, "S"), expected, "{payload}");
        };
        check(r#"{"stream":"S","seq":1}"#, Ack::Stored);
        check(r#"{"stream":"S","seq":12,"duplicate":true}"#, Ack::Stored);
        check(r#"{ "seq":12, "domain":"hub", "stream":"S" }"#, Ack::Stored);
        check(r#"{"stream":"SS","seq":1}"#, Ack::Elsewhere);
        check(r#"{"stream":"T","seq":1}"#, Ack::Elsewhere);
        check(
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}"#,
            Ack::Refused(PublishError::Full("maximum messages exceeded (10077)".to_owned())),
        );
        let nobody = message("NATS/1.0 503\r\n\r\n", "");
        assert!(is_one(&nobody) && read(&nobody, "S") == Ack::Elsewhere);
    }

    #[test]
    fn a_duplicate_names_the_message_that_was_there_before() {
        assert_eq!(duplicate_of(&message("", r#"{"stream":"S","seq":12,"duplicate": true}"#)), Some(12));
        assert_eq!(duplicate_of(&message("", r#"{"stream":"S","seq":12}"#)), None);
    }

    #[test]
    fn what_others_say_is_no_answer() {
        for payload in ["", "ok", "{}", r#"{"stream":"S","seq":0}"#, r#"{"stream":"S"}"#, r#"{"stream":"","seq":1}"#] {
            assert!(!is_one(&message("", payload)), "{payload}");
        }
    }
}

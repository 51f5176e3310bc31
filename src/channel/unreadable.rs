//! Finds stored messages whose headers make the NATS client drop its connection, and sets them aside.
//!
//! Any NATS client may store a header that is not UTF-8 or whose name holds a space. When such a message is delivered to us,
//! the client cannot parse it and reconnects, after every ack wait, for ever, and what shared the read with it is lost until
//! its own ack wait is over. So after a pull connection fell while the other stood, each subscription looks through what
//! JetStream has delivered to it, by the API, which gives headers as base64.

use std::str::FromStr as _;
use std::time::Duration;

use async_nats::HeaderName;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::api::{Api, ApiError};
use super::connect::Connection;
use super::consumer::Consumer;
use super::dead_letter::DeadLetters;
use super::publish::PublishError;
use super::pull::RawMessage;
use super::ticket::settle;
use crate::resource::Key;
use crate::telemetry::Tally;

/// Messages that are asked for at once.
const PARALLEL: u64 = 16;
/// Messages that one search looks at; the next one goes on from there.
const AT_MOST: u64 = 50_000;
const REASON: &str = "its headers cannot be read by NATS clients, expected UTF-8 'name: value' lines";
/// How often, and after which pause, a consumer is looked at until nobody pulls from it over a connection that is lost.
const SETTLE_LOOKS: u32 = 6;
const SETTLE_PAUSE: Duration = Duration::from_millis(50);
/// How long to wait for the last answers to leave.
const FLUSH: Duration = Duration::from_secs(2);

/// Remembers how far a subscription's messages are known to be readable. Stored messages never change.
#[derive(Debug, Default)]
pub struct Search {
    readable_to: u64,
    told: Tally,
}

/// Why a search did not come to its end; it is tried again after the next loss.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("cannot keep an unreadable message: {0}")]
    Keep(#[from] PublishError),
}

impl Search {
    /// Sets every unreadable message aside that was delivered to the consumer and not acknowledged, deletes it from the
    /// stream, and asks for what was lost beside it again: what was delivered since we began and is not `ours`, be it at work or
    /// on its way back for a retry.
    ///
    /// # Errors
    /// When JetStream did not answer on the way; what was set aside until then stays so.
    pub async fn run(
        &mut self,
        api: &Api,
        connection: &Connection,
        dead_letters: &DeadLetters,
        consumer: &Consumer,
        subscription: &Key,
        ours: impl Fn(u64) -> bool,
    ) -> Result<(), SearchError> {
        let Some(info) = settled_info(api, consumer).await? else { return Ok(()) };
        if info["num_ack_pending"].as_u64() == Some(0) {
            return Ok(());
        }
        let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap_or(0);
        let delivered = info["delivered"]["stream_seq"].as_u64().unwrap_or(0);
        let last = delivered.min(floor.max(self.readable_to).saturating_add(AT_MOST));
        let consumer_sequence = info["delivered"]["consumer_seq"].as_u64().unwrap_or(0);
        let mut next = floor.max(self.readable_to) + 1;
        while next <= last {
            let end = last.min(next + PARALLEL - 1);
            // All of them before anything else: a question that nobody polls can hold the client's place for the next command.
            let found = try_join_all((next..=end).map(|sequence| look(api, &consumer.stream, sequence))).await?;
            for message in found.into_iter().flatten() {
                dead_letters.set_aside(subscription, &message, REASON).await?;
                let RawMessage { stream, sequence, .. } = &message;
                // Nobody shall stumble over it again. Not every stream lets go of messages; our own consumer always does.
                if let Err(error) = api.delete_message(stream, *sequence).await {
                    tracing::debug!(%subscription, stream, sequence, %error, "it stays in its stream");
                    settle(connection, consumer, *sequence, consumer_sequence, "+ACK").await;
                }
                if let Some(count) = self.told.add() {
                    tracing::error!(%subscription, stream, sequence, count, "unreadable message set aside: {REASON}");
                }
            }
            self.readable_to = end;
            next = end + 1;
        }
        // What shared the connection is lost too, with or without an unreadable message of our own.
        let begin = floor.max(consumer.delivered);
        let delivered = begin + 1..=delivered.min(begin.saturating_add(AT_MOST));
        for sequence in delivered.filter(|sequence| !ours(*sequence)) {
            settle(connection, consumer, sequence, consumer_sequence, "-NAK").await;
        }
        connection.flush(FLUSH).await;
        Ok(())
    }
}

/// What JetStream says of the consumer once it knows that the lost connection is gone. Until then it delivers there, and what it
/// has delivered is not all yet. With other bridges pulling there is no telling, so the wait is bounded.
async fn settled_info(api: &Api, consumer: &Consumer) -> Result<Option<Value>, ApiError> {
    let mut info = api.consumer_info(&consumer.stream, &consumer.name).await?;
    for _ in 0..SETTLE_LOOKS {
        if info.as_ref().is_none_or(|info| info["num_waiting"].as_u64() == Some(0)) {
            break;
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
        info = api.consumer_info(&consumer.stream, &consumer.name).await?;
    }
    Ok(info)
}

/// The message of that sequence if it is there and unreadable.
async fn look(api: &Api, stream: &str, sequence: u64) -> Result<Option<RawMessage>, ApiError> {
    let Some(message) = api.message(stream, sequence).await? else { return Ok(None) };
    let bytes = |field: &str| {
        message.get(field).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
    };
    let headers = bytes("hdrs");
    if readable(&headers) {
        return Ok(None);
    }
    let subject = message["subject"].as_str().unwrap_or_default().to_owned();
    Ok(Some(RawMessage { stream: stream.to_owned(), sequence, subject, headers, payload: bytes("data").into() }))
}

/// Whether the client parses this header block (`NATS/1.0`, then `name: value` lines, a line that begins with white space
/// going on with the one before).
fn readable(block: &[u8]) -> bool {
    if block.is_empty() {
        return true;
    }
    let Ok(text) = std::str::from_utf8(block) else { return false };
    let mut lines = text.lines();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else { return false };
    let status = status.split_whitespace().next().unwrap_or_default();
    if !status.is_empty() && async_nats::StatusCode::from_str(status).is_err() {
        return false;
    }
    let mut in_header = false;
    lines.filter(|line| !line.is_empty()).all(|line| {
        if in_header && line.starts_with(char::is_whitespace) {
            return true;
        }
        in_header = true;
        line.split_once(':').is_some_and(|(name, _)| HeaderName::from_str(name).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_the_client_is_unreadable() {
        let check = |block: &[u8], expected| assert_eq!(readable(block), expected, "{}", block.escape_ascii());
        check(b"", true);
        check(b"NATS/1.0\r\na: b\r\n\r\n", true);
        check(b"NATS/1.0\r\na: b\r\n c\r\n\r\n", true);
        check(b"NATS/1.0\r\na:\r\n\r\n", true);
        check(b"NATS/1.0\r\na: \xff\r\n\r\n", false);
        check(b"NATS/1.0\r\na b: c\r\n\r\n", false);
        check(b"NATS/1.0\r\nno colon\r\n\r\n", false);
        check(b"NATS/1.0 abc\r\n\r\n", false);
        check(b"HTTP/1.1\r\n\r\n", false);
    }
}

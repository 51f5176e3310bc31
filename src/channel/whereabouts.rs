//! How far a consumer is with one message of its stream, as far as JetStream tells. It counts deliveries and acknowledgements;
//! which of several deliveries waits, it keeps to itself.

use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, ApiError, StoredMessage};
use super::name::covers;

/// Where a message stands with one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It was stored before the place where the consumer began.
    BeforeStart,
    /// Its subject is not among those that the consumer selects.
    NotSelected { subjects: Vec<String> },
    /// The consumer has not come to it.
    Ahead {
        /// Messages that the consumer has not come to, this one included.
        undelivered: u64,
        paused: bool,
        /// Nobody asks the consumer for messages, and none is at work.
        idle: bool,
    },
    /// It was delivered and is not acknowledged.
    Unsettled,
    /// It was delivered, and is one of `unsettled` among the last `delivered` messages that are not acknowledged, or it is
    /// acknowledged.
    Open { unsettled: u64, delivered: u64 },
    /// It is acknowledged.
    Settled,
}

/// Asks where a message stands with a consumer; `None` when there is no such consumer. Of a message that is gone, its sequence
/// has to do.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn of(
    api: &Api,
    stream: &str,
    consumer: &str,
    sequence: u64,
    message: Option<&StoredMessage>,
) -> Result<Option<Whereabouts>, ApiError> {
    Ok(api.consumer_info(stream, consumer).await?.map(|info| read(&info, sequence, message)))
}

fn read(info: &Value, sequence: u64, message: Option<&StoredMessage>) -> Whereabouts {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    if message.is_some_and(|message| is_before_start(info, message)) {
        return Whereabouts::BeforeStart;
    }
    let subjects = selected(&info["config"]);
    if let Some(message) = message
        && !subjects.is_empty()
        && !subjects.iter().any(|pattern| covers(pattern, &message.subject))
    {
        return Whereabouts::NotSelected { subjects };
    }
    let delivered = number(&info["delivered"]["stream_seq"]);
    let floor = number(&info["ack_floor"]["stream_seq"]);
    let unsettled = number(&info["num_ack_pending"]);
    if sequence > delivered {
        return Whereabouts::Ahead {
            undelivered: number(&info["num_pending"]),
            paused: info["paused"].as_bool() == Some(true),
            idle: number(&info["num_waiting"]) == 0 && unsettled == 0,
        };
    }
    if sequence <= floor || unsettled == 0 {
        return Whereabouts::Settled;
    }
    let open = delivered - floor;
    // The floor stops just below the first that waits.
    if sequence == floor + 1 || open <= unsettled {
        return Whereabouts::Unsettled;
    }
    Whereabouts::Open { unsettled, delivered: open }
}

fn is_before_start(info: &Value, message: &StoredMessage) -> bool {
    let config = &info["config"];
    let before = |time: &Value| {
        time.as_str().and_then(|time| time.parse::<Timestamp>().ok()).is_some_and(|time| message.stored_at < time)
    };
    match config["deliver_policy"].as_str() {
        Some("by_start_sequence") => config["opt_start_seq"].as_u64().is_some_and(|start| message.sequence < start),
        Some("by_start_time") => before(&config["opt_start_time"]),
        Some("new") => before(&info["created"]),
        _ => false,
    }
}

fn selected(config: &Value) -> Vec<String> {
    let several = config["filter_subjects"].as_array().into_iter().flatten();
    let one = std::iter::once(&config["filter_subject"]);
    several.chain(one).filter_map(Value::as_str).filter(|subject| !subject.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn message(sequence: u64) -> StoredMessage {
        StoredMessage {
            sequence,
            subject: "foo.default".into(),
            stored_at: "2026-01-02T00:00:00Z".parse().unwrap(),
            headers: Vec::new(),
            payload: bytes::Bytes::new(),
        }
    }

    #[track_caller]
    fn check(config: Value, sequence: u64, expected: Whereabouts) {
        let info = json!({
            "created": "2026-01-03T00:00:00Z", "config": config, "num_pending": 7, "num_waiting": 1, "num_ack_pending": 2,
            "delivered": { "stream_seq": 20 }, "ack_floor": { "stream_seq": 10 },
        });
        assert_eq!(read(&info, sequence, Some(&message(sequence))), expected);
    }

    #[test]
    fn floor_and_delivered_part_what_is_settled_open_and_ahead() {
        let open = Whereabouts::Open { unsettled: 2, delivered: 10 };
        check(json!({}), 10, Whereabouts::Settled);
        check(json!({}), 11, Whereabouts::Unsettled);
        check(json!({}), 12, open.clone());
        check(json!({}), 20, open);
        check(json!({}), 21, Whereabouts::Ahead { undelivered: 7, paused: false, idle: false });
    }

    #[test]
    fn when_all_that_is_open_waits_so_does_this_one() {
        let info = json!({ "num_ack_pending": 3, "delivered": { "stream_seq": 5 }, "ack_floor": { "stream_seq": 2 } });
        assert_eq!(read(&info, 4, None), Whereabouts::Unsettled);
        let info = json!({ "num_ack_pending": 0, "delivered": { "stream_seq": 5 }, "ack_floor": { "stream_seq": 2 } });
        assert_eq!(read(&info, 4, None), Whereabouts::Settled);
    }

    #[test]
    fn what_lies_before_the_start_was_never_asked_for() {
        check(json!({ "deliver_policy": "new" }), 1, Whereabouts::BeforeStart);
        check(json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 5 }), 4, Whereabouts::BeforeStart);
        check(json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 5 }), 5, Whereabouts::Settled);
        let start = "2026-01-02T00:00:01Z";
        check(json!({ "deliver_policy": "by_start_time", "opt_start_time": start }), 1, Whereabouts::BeforeStart);
    }

    #[test]
    fn a_subject_that_is_not_selected_never_comes() {
        let subjects = vec!["bar.>".to_owned()];
        check(json!({ "filter_subjects": subjects }), 1, Whereabouts::NotSelected { subjects: subjects.clone() });
        check(json!({ "filter_subject": "foo.*" }), 1, Whereabouts::Settled);
    }
}

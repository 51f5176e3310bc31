//! The stream of a channel: made when it is missing, adopted when it is there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::publish::Target;
use super::{broker, name};
use crate::resource::{Channel, ChannelKind, Discard, Retention, Source, Storage, StreamTemplate};

/// How long events are kept when the manifest does not say.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEFAULT_DUPLICATE_WINDOW: Duration = Duration::from_secs(2 * 60);
const STREAM_NAME_IN_USE: u64 = 10_058;

/// Why a channel's stream is not as the manifest asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnsureError {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The server lacks something that the manifest asks for.
    #[error("{0}")]
    TooOld(&'static str),
    /// The thing is there and JetStream cannot change it.
    #[error("{asset} cannot be changed: {differences}: {cause}")]
    CannotChange { asset: String, differences: String, cause: String },
    #[error("stream {0} acknowledges nothing (no_ack), so no event would ever be known to be stored")]
    NoAck(String),
}

/// The name of a channel's stream.
pub fn stream_name(channel: &Channel) -> String {
    channel.stream.override_name.clone().unwrap_or_else(|| name::stream(&channel.key))
}

/// Brings the stream of a channel into place: creates it, or adds the channel's subject to the one that is there and changes
/// in it only what the manifest sets.
///
/// # Errors
/// [`EnsureError::CannotChange`] shows what is declared beside what is there.
pub async fn ensure(api: &Api, channel: &Channel) -> Result<Target, EnsureError> {
    let stream = stream_name(channel);
    let subject = name::subject(&channel.key);
    let config = match api.stream_config(&stream).await? {
        Some(existing) => adopt(api, channel, &stream, &subject, existing).await?,
        None => match api.create_stream(&stream, &new_config(channel, &stream, &subject)).await {
            // Another bridge was faster.
            Err(ApiError::Refused { code: STREAM_NAME_IN_USE, .. }) => match api.stream_config(&stream).await? {
                Some(existing) => adopt(api, channel, &stream, &subject, existing).await?,
                None => return Err(ApiError::NotFound(format!("stream {stream} comes and goes")).into()),
            },
            created => created?,
        },
    };
    if config["no_ack"] == json!(true) {
        return Err(EnsureError::NoAck(stream));
    }
    let max_msg_size = config["max_msg_size"].as_u64().and_then(|size| usize::try_from(size).ok());
    let max_msg_size = max_msg_size.filter(|size| *size > 0);
    Ok(Target { stream, subject, kind: channel.kind, max_msg_size, meter: Arc::default() })
}

async fn adopt(
    api: &Api,
    channel: &Channel,
    stream: &str,
    subject: &str,
    existing: Value,
) -> Result<Value, EnsureError> {
    let mut config = existing.clone();
    for (field, declared) in declared_fields(&channel.stream) {
        config[field] = declared;
    }
    let mut subjects: Vec<Value> = existing["subjects"].as_array().cloned().unwrap_or_default();
    for wanted in wanted_subjects(channel, subject) {
        let covered = subjects.iter().filter_map(Value::as_str).any(|pattern| covers(pattern, &wanted));
        if !covered {
            subjects.push(json!(wanted));
        }
    }
    config["subjects"] = Value::Array(subjects);
    let differences = differences(&existing, &config);
    if differences.is_empty() {
        return Ok(existing);
    }
    match api.update_stream(stream, &config).await {
        Ok(updated) => {
            tracing::info!(stream, changes = differences.join(", "), "stream changed");
            Ok(updated)
        }
        Err(ApiError::Refused { description, .. }) => Err(EnsureError::CannotChange {
            asset: format!("stream {stream}"),
            differences: differences.join(", "),
            cause: description,
        }),
        Err(error) => Err(error.into()),
    }
}

fn wanted_subjects(channel: &Channel, subject: &str) -> Vec<String> {
    let mut subjects = vec![subject.to_owned()];
    if channel.kind == ChannelKind::Broker {
        subjects.push(broker::all_subjects(subject));
    }
    subjects.extend(channel.stream.additional_subjects.iter().filter(|more| *more != subject).cloned());
    subjects
}

fn new_config(channel: &Channel, stream: &str, subject: &str) -> Value {
    let mut config = json!({
        "name": stream,
        "subjects": wanted_subjects(channel, subject),
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": 1,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "max_age": nanos(DEFAULT_MAX_AGE),
        "duplicate_window": nanos(DEFAULT_DUPLICATE_WINDOW),
        "allow_direct": true,
    });
    let declared = declared_fields(&channel.stream);
    if let Some((_, age)) = declared.iter().find(|(field, _)| *field == "max_age") {
        // The server wants the window to be no longer than the age.
        let age = age.as_u64().filter(|age| *age > 0).unwrap_or(u64::MAX);
        config["duplicate_window"] = json!(age.min(nanos(DEFAULT_DUPLICATE_WINDOW)));
    }
    for (field, value) in declared {
        config[field] = value;
    }
    config
}

/// The fields that the manifest sets, by their names in JetStream's configuration.
fn declared_fields(template: &StreamTemplate) -> Vec<(&'static str, Value)> {
    let retention = template.retention.map(|retention| match retention {
        Retention::Limits => "limits",
        Retention::Interest => "interest",
        Retention::Work => "workqueue",
    });
    let discard = template.discard.map(|discard| match discard {
        Discard::Old => "old",
        Discard::New => "new",
    });
    let storage = template.storage.map(|storage| match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    });
    let placement = template
        .placement
        .as_ref()
        .map(|placement| json!({ "cluster": placement.cluster.clone().unwrap_or_default(), "tags": placement.tags }));
    let sources = (!template.sources.is_empty()).then(|| template.sources.iter().map(source).collect::<Vec<_>>());
    let fields = [
        ("retention", retention.map(|value| json!(value))),
        ("max_consumers", template.max_consumers.map(|value| json!(value))),
        ("max_msgs", template.max_msgs.map(|value| json!(value))),
        ("max_msgs_per_subject", template.max_msgs_per_subject.map(|value| json!(value))),
        ("max_bytes", template.max_bytes.map(|value| json!(value))),
        ("discard", discard.map(|value| json!(value))),
        ("max_age", template.max_age.map(|value| json!(nanos(value)))),
        ("max_msg_size", template.max_msg_size.map(|value| json!(value))),
        ("storage", storage.map(|value| json!(value))),
        ("num_replicas", template.replicas.map(|value| json!(value))),
        ("no_ack", template.no_ack.map(|value| json!(value))),
        ("duplicate_window", template.duplicate_window.map(|value| json!(nanos(value)))),
        ("placement", placement),
        ("mirror", template.mirror.as_ref().map(source)),
        ("sources", sources.map(|value| json!(value))),
    ];
    fields.into_iter().filter_map(|(field, value)| value.map(|value| (field, value))).collect()
}

fn source(source: &Source) -> Value {
    let mut value = json!({ "name": source.name });
    if let Some(sequence) = source.start_sequence {
        value["opt_start_seq"] = json!(sequence);
    }
    if let Some(time) = source.start_time {
        value["opt_start_time"] = json!(time.to_string());
    }
    if let Some(subject) = &source.filter_subject {
        value["filter_subject"] = json!(subject);
    }
    value
}

/// The fields of `wanted` that `existing` has otherwise, each with both values.
pub(super) fn differences(existing: &Value, wanted: &Value) -> Vec<String> {
    let Some(fields) = wanted.as_object() else { return Vec::new() };
    let differs = |field: &str, value: &Value| {
        let there = &existing[field];
        // The server leaves out what is false or zero.
        let empty = [json!(false), json!(0), json!(""), json!([])];
        let absent = there.is_null() && empty.contains(value);
        there != value && !absent
    };
    fields
        .iter()
        .filter(|(field, value)| differs(field, value))
        .map(|(field, value)| format!("{field} is declared {value} and is {}", existing[field]))
        .collect()
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a subject with wildcards takes every message of another.
pub(super) fn covers(pattern: &str, subject: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut subject = subject.split('.');
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_what_nats_says_they_cover() {
        let check = |pattern, subject, expected| assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        check("foo.default", "foo.default", true);
        check("foo.*", "foo.default", true);
        check("foo.>", "foo.default", true);
        check(">", "foo.default", true);
        check("foo", "foo.default", false);
        check("foo.default", "foo", false);
        check("foo.>", "foo", false);
        check("foo.*", "foo.>", false);
        check("foo.*.x", "foo.default", false);
    }

    #[test]
    fn only_what_differs_is_a_difference() {
        let existing = json!({ "storage": "file", "max_msgs": -1 });
        assert!(differences(&existing, &json!({ "storage": "file", "no_ack": false })).is_empty());
        assert_eq!(
            differences(&existing, &json!({ "storage": "memory" })),
            ["storage is declared \"memory\" and is \"file\""]
        );
    }
}

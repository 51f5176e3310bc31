//! The stream of a channel: made when it is missing, adopted when it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::name::covers;
use super::plan::{Change, Step, is_same, listed, obstacles};
use super::publish::Target;
use super::{broker, label, name};
use crate::resource::{Channel, ChannelKind, Discard, Key, Retention, Source, Storage, StreamTemplate};

/// How long events are kept when the manifest does not say.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEFAULT_DUPLICATE_WINDOW: Duration = Duration::from_secs(2 * 60);
/// A server of a cluster that its leader has not heard of for so long is away; they speak every second.
const AWAY: Duration = Duration::from_secs(5);
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
    #[error("stream {stream} can store nothing: {away} of the {all} servers that hold it are away")]
    NoMajority { stream: String, away: usize, all: usize },
}

impl EnsureError {
    /// Whether the stream is there, as far as was known before, and may well take events.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Api(error) => error.is_passing(),
            Self::NoMajority { .. } => true,
            Self::TooOld(_) | Self::CannotChange { .. } | Self::NoAck(_) => false,
        }
    }
}

/// The name of a channel's stream.
pub fn stream_name(channel: &Channel) -> String {
    channel.stream.override_name.clone().unwrap_or_else(|| name::stream(&channel.key))
}

/// Which channel has a stream when several would have the same one: the first by name.
pub fn owners<'a>(channels: impl IntoIterator<Item = &'a Channel>) -> BTreeMap<String, Key> {
    let mut owners = BTreeMap::new();
    for channel in channels {
        owners.entry(stream_name(channel)).or_insert_with(|| channel.key.clone());
    }
    owners
}

/// What has to be done to a channel's stream; `info` is what JetStream says about the one that is there. Of that only what the
/// manifest sets is changed, and the channel's subject is added.
///
/// # Errors
/// [`EnsureError::NoAck`], whatever is there.
pub fn plan(channel: &Channel, info: Option<&Value>) -> Result<Step, EnsureError> {
    let (stream, subject) = (stream_name(channel), name::subject(&channel.key));
    let wanted = match info {
        Some(info) => adopted(channel, &subject, &info["config"]),
        None => new_config(channel, &stream, &subject),
    };
    if wanted["no_ack"] == json!(true) {
        return Err(EnsureError::NoAck(stream));
    }
    Ok(match info {
        None => Step::Create(wanted),
        Some(info) => {
            let window = wanted["duplicate_window"].clone();
            Step::between(&info["config"], wanted, |change| obstacle(change, info, &window))
        }
    })
}

/// Brings the stream of a channel into place, as planned.
///
/// # Errors
/// [`EnsureError::CannotChange`] shows what is declared beside what is there.
pub async fn ensure(api: &Api, channel: &Channel) -> Result<Target, EnsureError> {
    let stream = stream_name(channel);
    let config = match bring_about(api, channel, &stream).await {
        // Another bridge was faster.
        Err(EnsureError::Api(ApiError::Refused { code: STREAM_NAME_IN_USE, .. })) => {
            bring_about(api, channel, &stream).await?
        }
        config => config?,
    };
    let max_msg_size = config["max_msg_size"].as_u64().and_then(|size| usize::try_from(size).ok());
    Ok(Target {
        stream,
        subject: name::subject(&channel.key),
        kind: channel.kind,
        max_msg_size: max_msg_size.filter(|size| *size > 0),
        allowed_subjects: channel.allowed_subjects.clone(),
        meter: Arc::default(),
    })
}

/// The stream's configuration when it is as declared.
async fn bring_about(api: &Api, channel: &Channel, stream: &str) -> Result<Value, EnsureError> {
    let info = api.stream_info(stream).await?;
    let cannot = |changes: &[Change], cause: String| EnsureError::CannotChange {
        asset: format!("stream {stream}"),
        differences: listed(changes),
        cause,
    };
    has_majority(stream, info.as_ref())?;
    match plan(channel, info.as_ref())? {
        Step::Keep => Ok(info.map(|info| info["config"].clone()).unwrap_or_default()),
        Step::Create(config) => Ok(api.create_stream(stream, &config).await?),
        Step::Update { config, changes } => match api.update_stream(stream, &config).await {
            Ok(updated) => {
                tracing::info!(stream, changes = listed(&changes), "stream changed");
                Ok(updated)
            }
            Err(ApiError::Refused { description, .. }) => Err(cannot(&changes, description)),
            Err(error) => Err(error.into()),
        },
        Step::Cannot(changes) => Err(cannot(&changes, obstacles(&changes))),
    }
}

/// Whether enough servers of a cluster are there to store anything. The leader of a stream answers for ten seconds and more after
/// it has lost the others.
fn has_majority(stream: &str, info: Option<&Value>) -> Result<(), EnsureError> {
    let replicas = info.and_then(|info| info["cluster"]["replicas"].as_array()).map_or(&[][..], Vec::as_slice);
    let is_away = |replica: &&Value| {
        replica["offline"] == json!(true) || replica["active"].as_u64().is_some_and(|silence| silence > nanos(AWAY))
    };
    // The leader is not among them.
    let (away, all) = (replicas.iter().filter(is_away).count(), replicas.len() + 1);
    if away * 2 >= all { Err(EnsureError::NoMajority { stream: stream.to_owned(), away, all }) } else { Ok(()) }
}

/// What is there, with the channel's subjects and all that the manifest sets.
fn adopted(channel: &Channel, subject: &str, existing: &Value) -> Value {
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
    config
}

/// Why JetStream, of whatever version, refuses a change of a stream that is there. What only some versions refuse
/// (`max_consumers`), or what they refuse for other reasons such as an account that is full, is refused when it is made.
fn obstacle(change: &Change, info: &Value, window: &Value) -> Option<String> {
    let either_is = |policy: &str| change.from == json!(policy) || change.to == json!(policy);
    let age = |value: &Value| value.as_u64().filter(|age| *age > 0).unwrap_or(u64::MAX);
    match change.field.as_str() {
        "storage" => Some("JetStream cannot change where a stream is stored: needs replace".to_owned()),
        "retention" if either_is("workqueue") => {
            Some("JetStream cannot change the retention to or from workqueue: needs replace".to_owned())
        }
        "max_age" if window.as_u64().unwrap_or(0) > age(&change.to) => {
            Some("the duplicate window would be longer than that; set duplicateWindow as well".to_owned())
        }
        // Only a server in a cluster tells its cluster's name.
        "num_replicas" if info["cluster"]["name"].is_null() && change.to.as_u64() > Some(1) => {
            Some("the NATS server is not part of a cluster".to_owned())
        }
        _ => None,
    }
}

/// What a stream that is there has otherwise than one that were made now would have, and that stays so: what the manifest does
/// not set. Its name and what is of the server's own making aside.
pub fn kept_settings(channel: &Channel, info: &Value) -> Vec<Change> {
    let (stream, subject) = (stream_name(channel), name::subject(&channel.key));
    let fresh = new_config(channel, &stream, &subject);
    let adopted = adopted(channel, &subject, &info["config"]);
    let fields = fresh.as_object().into_iter().flatten();
    fields
        .filter(|(field, value)| {
            !["allow_direct", "metadata"].contains(&field.as_str()) && !is_same(&adopted[field.as_str()], value)
        })
        .map(|(field, value)| Change {
            field: field.clone(),
            from: adopted[field.as_str()].clone(),
            to: value.clone(),
            obstacle: None,
        })
        .collect()
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
        "metadata": label::of_channel(channel),
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

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

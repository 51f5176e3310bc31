//! The durable pull consumer of a subscription: made when it is missing, kept when it is there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::name;
use super::stream::{EnsureError, differences, nanos, stream_name};
use crate::resource::{Channel, ConsumerTemplate, DeliverPolicy, Key};

/// How long JetStream waits for an acknowledgement or a sign of work before it delivers again.
pub const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries that may wait for their acknowledgement, those that wait for a retry included: so many failing events do not
/// stand in the way of others. Bounded because the server walks over all of them.
const DEFAULT_MAX_ACK_PENDING: i64 = 20_000;
/// The metadata key that says whose consumer this is. eventing-natss names its own `KN_SUB_...` too.
const OWNER: &str = "knats.dev/subscription";

/// A consumer in place.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub stream: String,
    pub name: String,
    pub ack_wait: Duration,
    /// The last stream sequence that it had delivered, to whomever, before we began.
    pub delivered: u64,
    /// Whether it is known to be gone. One that is made in its place counts its messages anew, so an answer to a delivery of
    /// this one would settle a message that nobody has looked at.
    pub(super) gone: Arc<AtomicBool>,
}

/// Brings the consumer of a subscription into place.
///
/// # Errors
/// [`EnsureError::CannotChange`] when the manifest sets something that JetStream cannot change in a consumer that exists.
pub async fn ensure(api: &Api, channel: &Channel, subscription: &Key) -> Result<Consumer, EnsureError> {
    let stream = stream_name(channel);
    let consumer = name::consumer(subscription);
    let declared = declared_fields(&channel.consumer);
    let info = match api.consumer_info(&stream, &consumer).await? {
        None => api.set_consumer(&stream, &consumer, &new_config(&consumer, subscription, &declared)).await?,
        Some(info) => {
            let mut config = info["config"].clone();
            require(&mut config);
            for (field, value) in &declared {
                config[*field] = value.clone();
            }
            let changes = differences(&info["config"], &config);
            if changes.is_empty() {
                info
            } else {
                match api.set_consumer(&stream, &consumer, &config).await {
                    Err(ApiError::Refused { description, .. }) => {
                        return Err(EnsureError::CannotChange {
                            asset: format!("consumer {consumer} of stream {stream}"),
                            differences: changes.join(", "),
                            cause: description,
                        });
                    }
                    changed => changed?,
                }
            }
        }
    };
    let ack_wait = info["config"]["ack_wait"].as_u64().map_or(DEFAULT_ACK_WAIT, Duration::from_nanos);
    let delivered = info["delivered"]["stream_seq"].as_u64().unwrap_or(0);
    Ok(Consumer { stream, name: consumer, ack_wait, delivered, gone: Arc::default() })
}

/// Sets what a consumer that others have made must have so that it loses nothing: pulls, an acknowledgement for each message,
/// no end of deliveries, whole messages. What of it JetStream cannot change makes the update fail.
fn require(config: &mut Value) {
    let is_set = |value: &Value| !matches!(value, Value::Null) && *value != json!("") && *value != json!([]);
    if is_set(&config["deliver_subject"]) {
        config["deliver_subject"] = json!("");
    }
    config["ack_policy"] = json!("explicit");
    config["max_deliver"] = json!(-1);
    config["headers_only"] = json!(false);
    if is_set(&config["backoff"]) {
        // Its first step has taken the place of the ack wait.
        config["backoff"] = json!([]);
        config["ack_wait"] = json!(nanos(DEFAULT_ACK_WAIT));
    }
}

/// Deletes the consumer of a subscription that is gone from the manifests.
///
/// # Errors
/// When JetStream does not answer or says no; one that is not there is no error.
pub async fn remove(api: &Api, stream: &str, subscription: &Key) -> Result<(), ApiError> {
    api.delete_consumer(stream, &name::consumer(subscription)).await
}

/// The subscriptions whose consumers the stream holds and that are ours.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn owned(api: &Api, stream: &str) -> Result<Vec<Key>, ApiError> {
    let mut keys = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = api.consumers(stream, offset).await?;
        keys.extend(page.iter().filter_map(|consumer| owner(&consumer["config"])));
        offset += page.len();
        if page.is_empty() || offset >= total {
            return Ok(keys);
        }
    }
}

fn owner(config: &Value) -> Option<Key> {
    let key: Key = config["metadata"][OWNER].as_str()?.parse().ok()?;
    (config["durable_name"].as_str() == Some(&name::consumer(&key))).then_some(key)
}

fn new_config(consumer: &str, subscription: &Key, declared: &[(&'static str, Value)]) -> Value {
    let mut config = json!({
        "durable_name": consumer,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": nanos(DEFAULT_ACK_WAIT),
        // Attempts are bounded by the dispatcher, which keeps what it gives up. The server would drop it.
        "max_deliver": -1,
        "max_ack_pending": DEFAULT_MAX_ACK_PENDING,
        "metadata": { OWNER: subscription.to_string() },
    });
    for (field, value) in declared {
        config[*field] = value.clone();
    }
    config
}

fn declared_fields(template: &ConsumerTemplate) -> Vec<(&'static str, Value)> {
    let (policy, start_sequence, start_time) = match template.deliver_policy {
        None => (None, None, None),
        Some(DeliverPolicy::All) => (Some("all"), None, None),
        Some(DeliverPolicy::Last) => (Some("last"), None, None),
        Some(DeliverPolicy::New) => (Some("new"), None, None),
        Some(DeliverPolicy::ByStartSequence(sequence)) => (Some("by_start_sequence"), Some(sequence), None),
        Some(DeliverPolicy::ByStartTime(time)) => (Some("by_start_time"), None, Some(time.to_string())),
    };
    let replay = template.replay_original.map(|original| if original { "original" } else { "instant" });
    let fields = [
        ("deliver_policy", policy.map(|value| json!(value))),
        ("opt_start_seq", start_sequence.map(|value| json!(value))),
        ("opt_start_time", start_time.map(|value| json!(value))),
        ("ack_wait", template.ack_wait.map(|value| json!(nanos(value)))),
        ("max_ack_pending", template.max_ack_pending.map(|value| json!(value))),
        ("filter_subject", template.filter_subject.as_ref().map(|value| json!(value))),
        ("replay_policy", replay.map(|value| json!(value))),
        // Only push consumers have a rate limit, and ours pull: `rate_limit_bps` is checked and has no effect.
        ("sample_freq", template.sample_frequency.map(|value| json!(format!("{value}%")))),
    ];
    fields.into_iter().filter_map(|(field, value)| value.map(|value| (field, value))).collect()
}

impl Consumer {
    /// Why the consumer brings nothing although messages wait in its stream; `None` when none wait, when they wait for room or
    /// a retry, or when JetStream does not say.
    pub async fn waiting_in_vain(&self, api: &Api) -> Option<String> {
        let info = api.consumer_info(&self.stream, &self.name).await.ok()??;
        let pending = info["num_pending"].as_u64().unwrap_or(0);
        let unacknowledged = info["num_ack_pending"].as_i64().unwrap_or(0);
        let limit = info["config"]["max_ack_pending"].as_i64().unwrap_or(i64::MAX);
        if pending == 0 || (limit > 0 && unacknowledged >= limit) {
            return None;
        }
        let paused = info["paused"].as_bool() == Some(true);
        let cause = if paused { "its consumer is paused" } else { "its consumer delivers none" };
        Some(format!("{pending} messages wait and {cause}"))
    }
}

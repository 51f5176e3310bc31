//! The durable pull consumer of a subscription: made when it is missing, kept when it is there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::stream::{EnsureError, differences, nanos, stream_name};
use super::{broker, name};
use crate::filter::Filter;
use crate::resource::{Channel, ChannelKind, ConsumerTemplate, Controls, DeliverPolicy, Key, Ordering, Subscription};

/// How long JetStream waits for an acknowledgement or a sign of work before it delivers again.
pub const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries that may wait for their acknowledgement, those that wait for a retry included: so many failing events do not
/// stand in the way of others. Bounded because the server walks over all of them.
const DEFAULT_MAX_ACK_PENDING: i64 = 20_000;
/// The metadata key that says whose consumer this is. eventing-natss names its own `KN_SUB_...` too.
const OWNER: &str = "knats.dev/subscription";

/// Until when a consumer is paused whose subscription says so: for good. It tells our pause from an operator's.
const PAUSED: &str = "2999-01-01T00:00:00Z";

/// The fields of a consumer that say where it begins. They count when it is made, and cannot be changed.
const START_FIELDS: [&str; 3] = ["deliver_policy", "opt_start_seq", "opt_start_time"];

/// A consumer in place.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub stream: String,
    pub name: String,
    pub ack_wait: Duration,
    /// Its stream is that of a broker.
    pub of_broker: bool,
    /// Only one of several bridges is given messages at a time; another takes over when it is gone.
    pub pinned: bool,
    /// The last stream sequence that it had delivered, to whomever, before we began.
    pub delivered: u64,
    /// Whether it is known to be gone. One that is made in its place counts its messages anew, so an answer to a delivery of
    /// this one would settle a message that nobody has looked at.
    pub(super) gone: Arc<AtomicBool>,
}

/// Unsettled deliveries of a subscription that is ordered by key: whoever takes over holds all of them at once, to put them
/// in order.
pub const MAX_UNSETTLED_BY_KEY: u32 = 1024;
/// The one group of a pinned consumer (ADR-42).
pub(super) const GROUP: &str = "knats";
/// How long a bridge may be silent before another one takes over.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(8);

/// Brings the consumer of a subscription into place.
///
/// # Errors
/// [`EnsureError::CannotChange`] when the manifest sets something that JetStream cannot change in a consumer that exists.
pub async fn ensure(api: &Api, channel: &Channel, subscription: &Subscription) -> Result<Consumer, EnsureError> {
    let stream = stream_name(channel);
    let consumer = name::consumer(&subscription.key);
    let pinned = matches!(subscription.controls.ordering, Ordering::Key(_));
    if pinned && !api.knows(2, 11) {
        return Err(EnsureError::TooOld("ordering by key needs nats-server 2.11 or newer (pinned consumers)"));
    }
    let declared = declared_fields(channel, subscription);
    let info = match api.consumer_info(&stream, &consumer).await? {
        None => {
            let mut config = new_config(&consumer, &subscription.key, &declared);
            // A consumer that is there goes on where it is.
            for (field, value) in subscription.controls.start.map(start_fields).unwrap_or_default() {
                config[field] = value;
            }
            api.set_consumer(&stream, &consumer, &config).await?
        }
        Some(info) => {
            let mut config = info["config"].clone();
            require(&mut config);
            if owner(&config).is_some() {
                // What nobody asks for any more is as if nobody ever had. Others' settings in a consumer of theirs stay.
                for (field, value) in defaults() {
                    config[field] = value;
                }
            }
            let begins_elsewhere = subscription.controls.start.is_some();
            for (field, value) in &declared {
                if !(begins_elsewhere && START_FIELDS.contains(field)) {
                    config[*field] = value.clone();
                }
            }
            if !pinned && config["priority_groups"].is_array() {
                // The ordering was by key and is no longer.
                config["priority_policy"] = json!("none");
                config["priority_groups"] = json!([]);
                config["priority_timeout"] = json!(0);
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
    hold(api, &stream, &consumer, &info, subscription.controls.paused).await?;
    let ack_wait = info["config"]["ack_wait"].as_u64().map_or(DEFAULT_ACK_WAIT, Duration::from_nanos);
    let delivered = info["delivered"]["stream_seq"].as_u64().unwrap_or(0);
    Ok(Consumer {
        stream,
        name: consumer,
        ack_wait,
        of_broker: channel.kind == ChannelKind::Broker,
        pinned,
        delivered,
        gone: Arc::default(),
    })
}

/// Whether a pinned consumer has chosen a bridge.
pub(super) fn is_pinned(info: &Value) -> bool {
    info["priority_groups"].as_array().is_some_and(|groups| {
        groups.iter().any(|group| group["pinned_client_id"].as_str().is_some_and(|pin| !pin.is_empty()))
    })
}

/// Pauses the consumer at the server too, or takes our own pause back; one that an operator has made stays.
async fn hold(api: &Api, stream: &str, consumer: &str, info: &Value, paused: bool) -> Result<(), ApiError> {
    let held = info["config"]["pause_until"].as_str() == Some(PAUSED);
    let answer = match (paused, held) {
        (true, false) => api.pause_consumer(stream, consumer, Some(PAUSED)).await,
        (false, true) => api.pause_consumer(stream, consumer, None).await,
        _ => return Ok(()),
    };
    match answer {
        // A server before 2.11 does not know how; that nobody pulls is enough.
        Err(ApiError::NoAnswer(_)) if paused => Ok(()),
        answer => answer,
    }
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

pub(super) fn owner(config: &Value) -> Option<Key> {
    let key: Key = config["metadata"][OWNER].as_str()?.parse().ok()?;
    (config["durable_name"].as_str() == Some(&name::consumer(&key))).then_some(key)
}

fn new_config(consumer: &str, subscription: &Key, declared: &[(&'static str, Value)]) -> Value {
    let mut config = json!({
        "durable_name": consumer,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        // Attempts are bounded by the dispatcher, which keeps what it gives up. The server would drop it.
        "max_deliver": -1,
        "metadata": { OWNER: subscription.to_string() },
    });
    for (field, value) in defaults().into_iter().chain(declared.iter().cloned()) {
        config[field] = value;
    }
    config
}

/// What a consumer of ours has where neither the channel's template nor an annotation says otherwise, and what can be changed.
fn defaults() -> [(&'static str, Value); 2] {
    [("ack_wait", json!(nanos(DEFAULT_ACK_WAIT))), ("max_ack_pending", json!(DEFAULT_MAX_ACK_PENDING))]
}

/// Where a consumer begins, by the names of JetStream's configuration.
fn start_fields(policy: DeliverPolicy) -> Vec<(&'static str, Value)> {
    let named = |name: &str| ("deliver_policy", json!(name));
    match policy {
        DeliverPolicy::All => vec![named("all")],
        DeliverPolicy::Last => vec![named("last")],
        DeliverPolicy::New => vec![named("new")],
        DeliverPolicy::ByStartSequence(sequence) => {
            vec![named("by_start_sequence"), ("opt_start_seq", json!(sequence))]
        }
        DeliverPolicy::ByStartTime(time) => {
            vec![named("by_start_time"), ("opt_start_time", json!(time.to_string()))]
        }
    }
}

/// How many deliveries may wait for their acknowledgement, where somebody says so. JetStream counts over all bridges, so this
/// bounds them together.
fn max_ack_pending(template: &ConsumerTemplate, controls: &Controls) -> Option<i64> {
    if controls.ordering == Ordering::Strict {
        // Nothing is delivered before the one before it is settled, not even to another bridge.
        return Some(1);
    }
    if let Ordering::Key(_) = controls.ordering {
        // Those that wait behind their key count too, and only one bridge works anyway.
        return Some(i64::from(MAX_UNSETTLED_BY_KEY));
    }
    controls.max_in_flight.map(|limit| i64::from(limit.get())).or(template.max_ack_pending)
}

fn declared_fields(channel: &Channel, subscription: &Subscription) -> Vec<(&'static str, Value)> {
    let template = &channel.consumer;
    let replay = template.replay_original.map(|original| if original { "original" } else { "instant" });
    let fields = [
        ("ack_wait", template.ack_wait.map(|value| json!(nanos(value)))),
        ("max_ack_pending", max_ack_pending(template, &subscription.controls).map(|value| json!(value))),
        (
            "filter_subjects",
            (channel.kind == ChannelKind::Broker).then(|| json!(filter_subjects(channel, subscription))),
        ),
        ("filter_subject", template.filter_subject.as_ref().map(|value| json!(value))),
        ("replay_policy", replay.map(|value| json!(value))),
        // Only push consumers have a rate limit, and ours pull: `rate_limit_bps` is checked and has no effect.
        ("sample_freq", template.sample_frequency.map(|value| json!(format!("{value}%")))),
    ];
    let pinned = matches!(subscription.controls.ordering, Ordering::Key(_));
    let group = [
        ("priority_policy", json!("pinned_client")),
        ("priority_groups", json!([GROUP])),
        ("priority_timeout", json!(nanos(TAKE_OVER_AFTER))),
    ];
    let mut declared = template.deliver_policy.map(start_fields).unwrap_or_default();
    declared.extend(group.into_iter().filter(|_| pinned));
    declared.extend(fields.into_iter().filter_map(|(field, value)| value.map(|value| (field, value))));
    declared
}

/// What JetStream itself selects for a Trigger that names its types; everything for one that may want any event. Said in so many
/// words, because a consumer whose filters are taken away is not told of new messages any more (nats-server 2.15.1).
fn filter_subjects(channel: &Channel, subscription: &Subscription) -> Vec<String> {
    let types = subscription.filter.as_ref().and_then(Filter::types);
    types.map_or_else(|| vec![">".to_owned()], |types| broker::filter_subjects(&name::subject(&channel.key), &types))
}

impl Consumer {
    /// Why the consumer brings nothing although messages wait in its stream; `None` when none wait, when they wait for room or
    /// a retry, or when JetStream does not say.
    ///
    /// A pinned consumer gives its messages to one bridge; for the others there is nothing to wonder about.
    pub async fn waiting_in_vain(&self, api: &Api) -> Option<String> {
        let info = api.consumer_info(&self.stream, &self.name).await.ok()??;
        let pending = info["num_pending"].as_u64().unwrap_or(0);
        let unacknowledged = info["num_ack_pending"].as_i64().unwrap_or(0);
        let limit = info["config"]["max_ack_pending"].as_i64().unwrap_or(i64::MAX);
        if pending == 0 || (limit > 0 && unacknowledged >= limit) {
            return None;
        }
        if self.pinned && is_pinned(&info) {
            return None;
        }
        let paused = info["paused"].as_bool() == Some(true);
        let cause = if paused { "its consumer is paused" } else { "its consumer delivers none" };
        Some(format!("{pending} messages wait and {cause}"))
    }

    /// Lets another bridge take over at once.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn unpin(&self, api: &Api) -> Result<(), ApiError> {
        api.unpin_consumer(&self.stream, &self.name, GROUP).await
    }
}

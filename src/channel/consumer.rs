//! The durable pull consumer of a subscription: made when it is missing, kept when it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::plan::{Change, Step, listed, obstacles};
use super::stream::{EnsureError, nanos, stream_name};
use super::wire::Wire;
use super::{broker, inventory, label, name};
use crate::filter::Filter;
use crate::resource::{Channel, ChannelKind, ConsumerTemplate, Controls, DeliverPolicy, Key, Ordering, Subscription};

/// How long JetStream waits for an acknowledgement or a sign of work before it delivers again.
pub const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries that may wait for their acknowledgement, those that wait for a retry included: so many failing events do not
/// stand in the way of others. Bounded because the server walks over all of them.
const DEFAULT_MAX_ACK_PENDING: i64 = 20_000;
/// In place of the number of a connection.
const GONE: u64 = u64::MAX;
/// How long after a question without answer it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Until when a consumer is paused whose subscription says so: for good. It tells our pause from an operator's.
pub(super) const PAUSED: &str = "2999-01-01T00:00:00Z";

/// The fields of a consumer that say where it begins. They count when it is made, and cannot be changed.
const START_FIELDS: [&str; 3] = ["deliver_policy", "opt_start_seq", "opt_start_time"];

/// A consumer in place.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// The channel or broker whose events it gives.
    pub channel: Key,
    pub stream: String,
    pub name: String,
    pub ack_wait: Duration,
    /// Its stream is that of a broker.
    pub of_broker: bool,
    /// Only one of several bridges is given messages at a time; another takes over when it is gone.
    pub pinned: bool,
    /// The last stream sequence that it had delivered, to whomever, before we began.
    pub delivered: u64,
    /// When JetStream made it; another one of the same name was made at another time.
    created: Value,
    standing: Arc<Standing>,
}

/// What is known of a consumer to all who have deliveries of it. One that is made in its place may count its messages anew, so an
/// answer to a delivery of this one would settle a message that nobody has looked at.
#[derive(Debug, Default)]
struct Standing {
    /// The last connection during which it was found to be the one that it was; [`GONE`] when it is not any more.
    seen: AtomicU64,
    /// One asks for all.
    asking: tokio::sync::Mutex<()>,
}

/// Why a consumer brings nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Somebody wants it so; the text says who, and until when.
    Paused(String),
    /// Nobody wants it so.
    Broken(String),
}

/// Unsettled deliveries of a subscription that is ordered by key: whoever takes over holds all of them at once, to put them
/// in order.
pub const MAX_UNSETTLED_BY_KEY: u32 = 1024;
/// The one group of a pinned consumer (ADR-42).
pub(super) const GROUP: &str = "knats";
/// How long a bridge may be silent before another one takes over.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(8);

/// What has to be done to the consumer of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub step: Step,
    /// Whether the consumer is to be paused, or our own pause to be taken back; one that an operator has made stays.
    pub pause: Option<bool>,
}

/// What has to be done to the consumer of a subscription; `info` is what JetStream says about the one that is there, and `knows`
/// whether the server is of a version or newer.
///
/// # Errors
/// [`EnsureError::TooOld`] when the server lacks what the subscription asks for.
pub fn plan(
    channel: &Channel,
    subscription: &Subscription,
    info: Option<&Value>,
    knows: impl Fn(i64, i64) -> bool,
) -> Result<Plan, EnsureError> {
    if is_pinned_by(subscription) && !knows(2, 11) {
        return Err(EnsureError::TooOld("ordering by key needs nats-server 2.11 or newer (pinned consumers)"));
    }
    let declared = declared_fields(channel, subscription);
    let step = match info {
        None => {
            let mut config = new_config(&name::consumer(&subscription.key), subscription, &declared);
            // A consumer that is there goes on where it is.
            for (field, value) in subscription.controls.start.map(start_fields).unwrap_or_default() {
                config[field] = value;
            }
            Step::Create(config)
        }
        Some(info) => Step::between(&info["config"], changed(&info["config"], &declared, subscription), obstacle),
    };
    let is_held = info.is_some_and(|info| info["config"]["pause_until"].as_str() == Some(PAUSED));
    let paused = subscription.controls.paused;
    // That nobody pulls is enough where the server cannot hold it.
    let pause = (paused != is_held && knows(2, 11)).then_some(paused);
    Ok(Plan { step, pause })
}

/// Brings the consumer of a subscription into place, as planned.
///
/// # Errors
/// [`EnsureError::CannotChange`] when the manifest sets something that JetStream cannot change in a consumer that exists.
pub async fn ensure(api: &Api, channel: &Channel, subscription: &Subscription) -> Result<Consumer, EnsureError> {
    let stream = stream_name(channel);
    let consumer = name::consumer(&subscription.key);
    let there = api.consumer_info(&stream, &consumer).await?;
    let cannot = |changes: &[Change], cause: String| EnsureError::CannotChange {
        asset: format!("consumer {consumer} of stream {stream}"),
        differences: listed(changes),
        cause,
    };
    let plan = plan(channel, subscription, there.as_ref(), |major, minor| api.knows(major, minor))?;
    let info = match plan.step {
        Step::Keep => there.unwrap_or_default(),
        Step::Create(config) => api.set_consumer(&stream, &consumer, &config).await?,
        Step::Update { config, changes } => match api.set_consumer(&stream, &consumer, &config).await {
            Err(ApiError::Refused { description, .. }) => return Err(cannot(&changes, description)),
            changed => changed?,
        },
        Step::Cannot(changes) => return Err(cannot(&changes, obstacles(&changes))),
    };
    if let Some(paused) = plan.pause {
        api.pause_consumer(&stream, &consumer, paused.then_some(PAUSED)).await?;
    }
    let ack_wait = info["config"]["ack_wait"].as_u64().map_or(DEFAULT_ACK_WAIT, Duration::from_nanos);
    let delivered = info["delivered"]["stream_seq"].as_u64().unwrap_or(0);
    Ok(Consumer {
        channel: channel.key.clone(),
        stream,
        name: consumer,
        ack_wait,
        of_broker: channel.kind == ChannelKind::Broker,
        pinned: is_pinned_by(subscription),
        delivered,
        created: info["created"].clone(),
        standing: Arc::default(),
    })
}

/// The configuration of a consumer that is there, with all that is declared and all that it must have.
fn changed(existing: &Value, declared: &[(&'static str, Value)], subscription: &Subscription) -> Value {
    let controls = &subscription.controls;
    let mut config = existing.clone();
    require(&mut config);
    if owner(&config).is_some() {
        // What nobody asks for any more is as if nobody ever had. Others' settings in a consumer of theirs stay.
        for (field, value) in defaults() {
            config[field] = value;
        }
        label::describe(&mut config["metadata"], subscription);
    }
    for (field, value) in declared {
        if !(controls.start.is_some() && START_FIELDS.contains(field)) {
            config[*field] = value.clone();
        }
    }
    if !matches!(controls.ordering, Ordering::Key(_)) && config["priority_groups"].is_array() {
        // The ordering was by key and is no longer.
        config["priority_policy"] = json!("none");
        config["priority_groups"] = json!([]);
        config["priority_timeout"] = json!(0);
    }
    config
}

/// Why JetStream refuses a change of a consumer that is there.
fn obstacle(change: &Change) -> Option<String> {
    let fixed = [START_FIELDS.as_slice(), &["ack_policy", "replay_policy", "deliver_subject"]].concat();
    fixed
        .contains(&change.field.as_str())
        .then(|| "JetStream cannot change that in a consumer: needs replace".to_owned())
}

fn is_pinned_by(subscription: &Subscription) -> bool {
    matches!(subscription.controls.ordering, Ordering::Key(_))
}

/// Whether a pinned consumer has chosen a bridge.
pub(super) fn is_pinned(info: &Value) -> bool {
    info["priority_groups"].as_array().is_some_and(|groups| {
        groups.iter().any(|group| group["pinned_client_id"].as_str().is_some_and(|pin| !pin.is_empty()))
    })
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

/// Whose consumer it is, where a bridge has made it; `info` is what JetStream says about it.
pub fn owner_of(info: &Value) -> Option<Key> {
    owner(&info["config"])
}

/// Whose consumer it is, when it is ours.
pub(super) fn owner(config: &Value) -> Option<Key> {
    let key: Key = config["metadata"][label::SUBSCRIPTION].as_str()?.parse().ok()?;
    (config["durable_name"].as_str() == Some(&name::consumer(&key))).then_some(key)
}

fn new_config(consumer: &str, subscription: &Subscription, declared: &[(&'static str, Value)]) -> Value {
    let mut config = json!({
        "durable_name": consumer,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        // Attempts are bounded by the dispatcher, which keeps what it gives up. The server would drop it.
        "max_deliver": -1,
    });
    label::describe(&mut config["metadata"], subscription);
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
    let group = [
        ("priority_policy", json!("pinned_client")),
        ("priority_groups", json!([GROUP])),
        ("priority_timeout", json!(nanos(TAKE_OVER_AFTER))),
    ];
    let mut declared = template.deliver_policy.map(start_fields).unwrap_or_default();
    declared.extend(group.into_iter().filter(|_| is_pinned_by(subscription)));
    declared.extend(fields.into_iter().filter_map(|(field, value)| value.map(|value| (field, value))));
    declared
}

/// What JetStream itself selects for a Trigger that names its types; everything for one that may want any event. Said in so many
/// words, because a consumer whose filters are taken away is not told of new messages any more (nats-server 2.15.1).
fn filter_subjects(channel: &Channel, subscription: &Subscription) -> Vec<String> {
    let types = subscription.filter.as_ref().and_then(Filter::types);
    types.map_or_else(|| vec![">".to_owned()], |types| broker::filter_subjects(&name::subject(&channel.key), &types))
}

#[cfg(test)]
impl Consumer {
    /// One that is said to be there.
    pub(crate) fn simulated(channel: Key, stream: &str, name: &str, ack_wait: Duration, pinned: bool) -> Self {
        let (stream, name) = (stream.to_owned(), name.to_owned());
        let created = Value::Null;
        let standing = Arc::default();
        Self { channel, stream, name, created, ack_wait, of_broker: false, pinned, delivered: 0, standing }
    }
}

impl Consumer {
    /// Why the consumer brings nothing; `None` when nothing waits, when what waits needs room or the time of a retry, or when
    /// JetStream does not say.
    ///
    /// A pinned consumer gives its messages to one bridge; for the others there is nothing to wonder about.
    pub async fn silence(&self, api: &Api) -> Option<Silence> {
        let info = api.consumer_info(&self.stream, &self.name).await.ok()??;
        if let Some(pause) = inventory::pause(&info) {
            return Some(Silence::Paused(format!("paused {pause}")));
        }
        let pending = info["num_pending"].as_u64().unwrap_or(0);
        let unacknowledged = info["num_ack_pending"].as_i64().unwrap_or(0);
        let limit = info["config"]["max_ack_pending"].as_i64().unwrap_or(i64::MAX);
        if pending == 0 || (limit > 0 && unacknowledged >= limit) || (self.pinned && is_pinned(&info)) {
            return None;
        }
        Some(Silence::Broken(format!("{pending} messages wait and its consumer delivers none")))
    }

    /// Whether it is still there. When it is, what it has delivered so far can be settled over the connection that stands; when it
    /// is not, it is not settled any more.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn is_there(&self, api: &Api, wire: &Wire) -> Result<bool, ApiError> {
        // A connection that comes after the question is none of its business.
        let connection = wire.connection();
        let info = api.consumer_info(&self.stream, &self.name).await?;
        let is_there = info.is_some_and(|info| info["created"] == self.created);
        self.standing.seen.fetch_max(if is_there { connection } else { GONE }, Memory::Relaxed);
        Ok(is_there)
    }

    /// Waits for a connection, and asks until it is known whether what came over earlier ones can be settled over it, or until
    /// NATS does not permit to ask.
    pub async fn make_sure(&self, api: &Api, wire: &Wire) {
        let _turn = self.standing.asking.lock().await;
        loop {
            wire.connected().await;
            if self.settles_over(0).is_none_or(|seen| seen >= wire.connection()) {
                return;
            }
            if let Err(error) = self.is_there(api, wire).await {
                tokio::time::sleep(ASK_AGAIN).await;
                if matches!(error, ApiError::Denied(_)) {
                    return;
                }
            }
        }
    }

    /// The connection over which a delivery that came over `connection` can be settled; `None` when it must not be any more.
    pub(super) fn settles_over(&self, connection: u64) -> Option<u64> {
        let seen = self.standing.seen.load(Memory::Relaxed);
        (seen != GONE).then(|| seen.max(connection))
    }

    /// Whether it is known not to be the one any more that it was.
    pub fn is_gone(&self) -> bool {
        self.settles_over(0).is_none()
    }

    /// Notes that JetStream has told of its end.
    pub(super) fn deleted(&self) {
        self.standing.seen.store(GONE, Memory::Relaxed);
    }

    /// Whether it is there and not paused, so that it gives what is due to whoever asks.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn gives(&self, api: &Api) -> Result<bool, ApiError> {
        let info = api.consumer_info(&self.stream, &self.name).await?;
        Ok(info.is_some_and(|info| inventory::pause(&info).is_none()))
    }

    /// Lets another bridge take over at once.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn unpin(&self, api: &Api) -> Result<(), ApiError> {
        api.unpin_consumer(&self.stream, &self.name, GROUP).await
    }
}

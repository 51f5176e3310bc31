//! The subscriptions that are there: what JetStream knows of their consumers, and what bridges add to it.

use std::collections::HashSet;
use std::fmt;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::bridges::{Doing, Said, Work};
use super::{Error, Manager, while_doing};
use crate::channel::inventory::{self, ConsumerFacts, Pause, StreamFacts};
use crate::dispatch::LastError;
use crate::resource::{Key, closest};

/// Consumers whose oldest event is looked up in one listing. Each costs JetStream the read of a message.
const MAX_LOOKUPS: usize = 1000;
/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;

/// One subscription. What is null is not known, or does not apply: what only bridges know is null when none has answered.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Subscription {
    pub namespace: String,
    pub name: String,
    /// `subscription` or `trigger`.
    pub kind: String,
    /// `NAMESPACE/NAME`.
    pub channel: Option<String>,
    pub stream: String,
    pub consumer: String,
    pub state: State,
    /// Why it is in that state, where there is something to say.
    pub reason: String,
    /// Events that are not settled: not delivered yet, in flight or waiting for a retry.
    pub lag: u64,
    /// How old the oldest of them is; 0 when there is none.
    pub lag_seconds: Option<u64>,
    /// Events that were not delivered yet.
    pub undelivered: u64,
    /// Events that bridges hold: under way, or waiting there for their key, their batch or their sink.
    pub in_flight: Option<u64>,
    /// Events that were delivered, are not settled and are not held by a bridge: they come again.
    pub waiting_for_retry: Option<u64>,
    /// The next retry that a bridge has asked for.
    pub next_retry: Option<Timestamp>,
    pub last_error: Option<LastError>,
    /// Where its events go; as it may be shown.
    pub sink: Option<String>,
    pub reply: Option<String>,
    pub dead_letter_sink: Option<String>,
    /// The filter as it was declared: Knative's `filters` list, or an object of the older attributes.
    pub filter: Option<serde_json::Value>,
    /// `strict`, or `key:` and the attribute.
    pub ordering: Option<String>,
    /// Until when an operator has paused it; null also while it is paused without an end.
    pub paused_until: Option<Timestamp>,
    /// While its sink cannot be reached: when the next event is let through.
    pub held_until: Option<Timestamp>,
    /// Bridges that have answered and work on it.
    pub bridges: u64,
    /// Deliveries that may be unsettled at once.
    pub max_unsettled: Option<u64>,
    /// All events up to this sequence of the stream are settled.
    pub settled_sequence: u64,
    pub delivered_sequence: u64,
    /// When JetStream delivered to it or heard from it last.
    pub last_active: Option<Timestamp>,
}

/// What a subscription is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = SubscriptionState, rename_all = "snake_case")]
pub enum State {
    /// Events wait or are under way, and somebody works on them.
    Delivering,
    /// Nothing to do.
    Idle,
    /// Somebody wants it so.
    Paused,
    /// Its sink cannot be reached; its breaker keeps events back.
    Held,
    /// Bridges are there and cannot do what they should.
    Stalled,
    /// Nobody pulls.
    NoBridge,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delivering => "delivering",
            Self::Idle => "idle",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Stalled => "stalled",
            Self::NoBridge => "no_bridge",
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The subscriptions that were found, and what could not be found out about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscriptions {
    pub found: Vec<Subscription>,
    /// One line each: what is not shown, and why.
    pub gaps: Vec<String>,
}

impl Manager {
    /// All subscriptions, or the one of that name, sorted by namespace and name. One that has moved to another channel has a
    /// consumer in each of both streams until the old one is pruned.
    ///
    /// # Errors
    /// [`Error::NotFound`] with names that are near when there is no subscription of that name; else when JetStream does not
    /// answer or does not permit the question.
    pub async fn subscriptions(&self, wanted: Option<&Key>) -> Result<Subscriptions, Error> {
        let (inventory, said) = tokio::join!(self.inventory(), self.ask_bridges(wanted));
        let ((streams, consumers), said) = (inventory?, said?);
        let mut owned = owned(&consumers, &said);
        owned.extend(missing(&consumers, &said));
        if let Some(wanted) = wanted
            && !owned.iter().any(|(key, _)| key == wanted)
        {
            return Err(unknown(wanted, owned.iter().map(|(key, _)| key)));
        }
        let mut owned: Vec<(Key, ConsumerFacts)> =
            owned.into_iter().filter(|(key, _)| wanted.is_none_or(|wanted| wanted == key)).collect();
        owned.sort_by(|(a, one), (b, other)| (a, &one.stream).cmp(&(b, &other.stream)));
        let mut gaps: Vec<String> = said.failure.iter().cloned().collect();
        let looked = stream::iter(owned.into_iter().enumerate()).map(|(number, (key, consumer))| {
            let said = &said;
            let streams = &streams;
            async move { self.look(key, consumer, said, streams, number < MAX_LOOKUPS).await }
        });
        let mut found = Vec::new();
        for (subscription, gap) in looked.buffered(PARALLEL).collect::<Vec<_>>().await {
            found.push(subscription);
            gaps.extend(gap);
        }
        gaps.dedup();
        Ok(Subscriptions { found, gaps })
    }

    /// The one consumer of a subscription.
    ///
    /// # Errors
    /// [`Error::NotFound`] with names that are near; [`Error::Ambiguous`] when it has one in each of several streams and nothing
    /// says which of them counts.
    pub(super) async fn consumer_of(&self, wanted: &Key) -> Result<(ConsumerFacts, Vec<StreamFacts>), Error> {
        let (inventory, said) = tokio::join!(self.inventory(), self.ask_bridges(Some(wanted)));
        let ((streams, consumers), said) = (inventory?, said?);
        let owned = owned(&consumers, &said);
        let mut mine: Vec<&ConsumerFacts> =
            owned.iter().filter(|(key, _)| key == wanted).map(|(_, consumer)| consumer).collect();
        if mine.len() > 1 {
            let at_work: Vec<_> = mine
                .iter()
                .copied()
                .filter(|one| one.pulls > 0 || !said.of(&one.stream, &one.name).is_empty())
                .collect();
            if at_work.len() == 1 {
                mine = at_work;
            }
        }
        match mine.as_slice() {
            [] => Err(unknown(wanted, owned.iter().map(|(key, _)| key))),
            [one] => Ok(((*one).clone(), streams)),
            several => {
                let names: Vec<&str> = several.iter().map(|one| one.stream.as_str()).collect();
                Err(Error::Ambiguous(format!(
                    "subscription {wanted} has a consumer in each of the streams {}; delete those that are left over with \
                     'knats prune -f PATH'",
                    names.join(", ")
                )))
            }
        }
    }

    /// One subscription, and what could not be found out about it.
    async fn look(
        &self,
        key: Key,
        mut consumer: ConsumerFacts,
        said: &Said,
        streams: &[StreamFacts],
        may_look_up: bool,
    ) -> (Subscription, Option<String>) {
        let mut gap = None;
        let works = said.of(&consumer.stream, &consumer.name);
        let mut moved = false;
        if works.is_empty() && consumer.pulls == 0 {
            // A bridge may be between two pulls, or have its hands full.
            match inventory::consumer(&self.api, &consumer.stream, &consumer.name).await {
                Ok(Some(now)) => {
                    moved = now.last_active != consumer.last_active;
                    consumer = now;
                }
                Ok(None) => {}
                Err(error) => gap = Some(while_doing("cannot look at consumers twice")(error).to_string()),
            }
        }
        let mut lag_seconds = (consumer.lag() == 0).then_some(0);
        if consumer.lag() > 0 && may_look_up {
            match consumer.oldest(&self.api).await {
                Ok(oldest) => lag_seconds = oldest.map(seconds_since),
                Err(error) => gap = Some(while_doing("cannot look up the oldest event")(error).to_string()),
            }
        }
        let (state, reason) = state(&consumer, works, moved);
        let mut subscription = describe(&key, consumer, works, state);
        subscription.reason = reason;
        subscription.lag_seconds = lag_seconds;
        if subscription.channel.is_none() {
            let stream = streams.iter().find(|stream| stream.name == subscription.stream);
            subscription.channel = stream.and_then(|stream| stream.channel.as_ref()).map(ToString::to_string);
        }
        (subscription, gap)
    }
}

/// What is known without a further question.
fn describe(key: &Key, consumer: ConsumerFacts, works: &[Work], state: State) -> Subscription {
    let in_flight = (!works.is_empty()).then(|| works.iter().map(|work| work.in_flight).sum());
    let (first, channel) = (works.first(), consumer.channel.as_ref().map(ToString::to_string));
    let sink = consumer.subscriber.as_ref().or(consumer.reply.as_ref()).cloned();
    Subscription {
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        kind: consumer.kind.to_string(),
        channel: channel.or_else(|| first.map(|work| work.channel.clone())),
        state,
        reason: String::new(),
        lag: consumer.lag(),
        lag_seconds: None,
        undelivered: consumer.undelivered,
        in_flight,
        waiting_for_retry: in_flight.map(|held| consumer.unsettled.saturating_sub(held)),
        next_retry: works.iter().filter_map(|work| work.next_retry).min().filter(|_| consumer.unsettled > 0),
        last_error: works.iter().filter_map(|work| work.last_error.clone()).max_by_key(|error| error.time),
        sink: sink.or_else(|| first.map(|work| work.sink.clone())),
        reply: consumer.reply,
        dead_letter_sink: consumer.dead_letter_sink,
        filter: consumer.filter,
        ordering: consumer.ordering,
        paused_until: match consumer.pause {
            Some(Pause::ByOperator(until)) => until,
            Some(Pause::ByAnnotation) | None => None,
        },
        held_until: works.iter().filter_map(|work| work.held_until).min().filter(|_| state == State::Held),
        bridges: u64::try_from(works.len()).unwrap_or(u64::MAX),
        max_unsettled: consumer.max_unsettled,
        settled_sequence: consumer.settled_to,
        delivered_sequence: consumer.delivered_to,
        last_active: consumer.last_active,
        stream: consumer.stream,
        consumer: consumer.name,
    }
}

fn seconds_since(time: Timestamp) -> u64 {
    Timestamp::now().as_second().saturating_sub(time.as_second()).max(0).unsigned_abs()
}

/// The consumers that are ours, by what they say themselves, or by what bridges say that have taken over somebody else's.
fn owned(consumers: &[ConsumerFacts], said: &Said) -> Vec<(Key, ConsumerFacts)> {
    let owner = |consumer: &ConsumerFacts| {
        let told = || said.of(&consumer.stream, &consumer.name).iter().find_map(|work| work.subscription.parse().ok());
        consumer.subscription.clone().or_else(told)
    };
    consumers.iter().filter_map(|consumer| Some((owner(consumer)?, consumer.clone()))).collect()
}

/// What bridges have been told to deliver and what has no consumer, so that nobody looks for it in vain.
fn missing(consumers: &[ConsumerFacts], said: &Said) -> Vec<(Key, ConsumerFacts)> {
    let there: HashSet<(&str, &str)> =
        consumers.iter().map(|consumer| (consumer.stream.as_str(), consumer.name.as_str())).collect();
    let first = said.all().filter_map(<[Work]>::first);
    let missing = first.filter(|work| !there.contains(&(work.stream.as_str(), work.consumer.as_str())));
    missing
        .filter_map(|work| {
            Some((work.subscription.parse().ok()?, ConsumerFacts::missing(&work.stream, &work.consumer)))
        })
        .collect()
}

fn unknown<'a>(wanted: &Key, all: impl Iterator<Item = &'a Key>) -> Error {
    let all: Vec<String> = all.map(ToString::to_string).collect();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let elsewhere = || {
        let name = format!("/{}", wanted.name());
        names.iter().find(|other| other.ends_with(&name)).copied()
    };
    let hint = match closest(&wanted.to_string(), &names).or_else(elsewhere) {
        Some(near) => format!("did you mean {near}?"),
        None if names.is_empty() => "JetStream holds no subscription at all".to_owned(),
        None => "'knats get subscriptions' lists what is there".to_owned(),
    };
    Error::NotFound(format!("there is no subscription {wanted}; {hint}"))
}

/// What a subscription is at, and why.
fn state(consumer: &ConsumerFacts, works: &[Work], moved: bool) -> (State, String) {
    if let Some(pause) = consumer.pause {
        return (State::Paused, pause.to_string());
    }
    let at_work = || if consumer.lag() == 0 { State::Idle } else { State::Delivering };
    let Some(best) = works.iter().min_by_key(|work| work.doing) else {
        return match (consumer.pulls, consumer.lag()) {
            (1.., _) => (at_work(), String::new()),
            (0, 0) => (State::NoBridge, "no bridge pulls".to_owned()),
            (0, _) if moved => (State::Delivering, String::new()),
            (0, lag) => (State::NoBridge, format!("{lag} events wait and no bridge pulls")),
        };
    };
    let others = works.iter().filter(|work| work.doing != best.doing).count();
    let state = match best.doing {
        Doing::Pulling => at_work(),
        Doing::Held => State::Held,
        Doing::Paused => State::Paused,
        Doing::Stalled | Doing::Unknown => State::Stalled,
    };
    let reason = match works.iter().find(|work| work.doing != best.doing) {
        Some(worse) if best.doing == Doing::Pulling => {
            format!("{others} of {} bridges: {}", works.len(), worse.reason)
        }
        _ => best.reason.clone(),
    };
    (state, reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    #[test]
    fn near_names_are_suggested() {
        let all = [key("default/orders"), key("shop/mail")];
        let told = |wanted: &str| unknown(&key(wanted), all.iter()).to_string();
        assert_eq!(told("default/order"), "there is no subscription default/order; did you mean default/orders?");
        assert_eq!(told("default/mail"), "there is no subscription default/mail; did you mean shop/mail?");
        assert!(told("default/zebra").ends_with("'knats get subscriptions' lists what is there"));
        assert!(unknown(&key("a/b"), [].iter()).to_string().ends_with("no subscription at all"));
    }
}

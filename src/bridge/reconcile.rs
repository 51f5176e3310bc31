//! The difference between what is desired and what runs, and how it is closed: streams first, then consumers, then workers.
//! Whatever fails is shown, tried again, and stands in the way of nothing else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::{Board, Entry, Standing};
use super::{Config, Resources, readiness};
use crate::admin::{Missing, Readiness};
use crate::channel::{Publisher, Target, Targets, consumer, dead_letter, inventory, name, stream as streams};
use crate::dispatch::{Health, Plan, Shared, State, Worker};
use crate::resource::{Channel, Desired, Destination, Key, Ordering, Subscription};
use crate::sink::{ChannelSink, Client, HttpSink, Sink};
use crate::telemetry;

/// What is missing at once is told in the log up to here: when NATS is gone, every subscription is missing.
const MAX_TOLD: usize = 10;
/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;
/// The first and the longest wait before what failed is tried again.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often everything is looked at although nothing tells of a change: a stream that nobody uses may have been deleted.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How soon it is looked at again because events are not acknowledged: they may be many.
const LOOK_SOONEST: Duration = Duration::from_secs(1);

/// How long an ordered subscription that has changed waits for the events that are at work as it was declared before.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Brings JetStream and the workers in line with the desired resources.
pub(super) struct Reconciler {
    config: Config,
    shared: Shared,
    publisher: Publisher,
    client: Client,
    targets: watch::Sender<Arc<Targets>>,
    readiness: watch::Sender<Readiness>,
    /// What operators are told who ask over NATS.
    board: watch::Sender<Board>,
    channels: BTreeMap<Key, Placed>,
    subscriptions: BTreeMap<Key, Placement>,
    /// Workers of subscriptions that have changed, until they have ended; by subscription.
    ending: BTreeMap<Key, Vec<Ending>>,
    dead_letters: Result<(), String>,
    workers: TaskTracker,
    nudge: Arc<Notify>,
    /// Cancelled when workers may no longer finish what they are at.
    deadline: CancellationToken,
}

/// What became of a channel.
struct Placed {
    declared: Channel,
    target: Result<Target, String>,
    /// Where its events go all the same while JetStream cannot be asked: each is stored or refused for itself.
    known: Option<Target>,
}

/// What became of a subscription.
enum Placement {
    Running(Box<Running>),
    /// As its owner wants it to be.
    Paused,
    Waiting(String),
}

/// A worker that was told to stop.
#[derive(Clone)]
struct Ending {
    ended: CancellationToken,
    by_key: bool,
}

struct Running {
    declared: Subscription,
    channel: Channel,
    stream: String,
    health: Health,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Reconciler {
    pub(super) fn new(
        config: Config,
        shared: Shared,
        publisher: Publisher,
        client: Client,
        targets: watch::Sender<Arc<Targets>>,
        readiness: watch::Sender<Readiness>,
        board: watch::Sender<Board>,
    ) -> Self {
        Self {
            config,
            shared,
            publisher,
            client,
            targets,
            readiness,
            board,
            channels: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            ending: BTreeMap::new(),
            dead_letters: Err("not looked for yet".to_owned()),
            workers: TaskTracker::new(),
            nudge: Arc::new(Notify::new()),
            deadline: CancellationToken::new(),
        }
    }

    /// Works until `shutdown`, then stops the workers and waits for them.
    pub(super) async fn run(mut self, mut resources: watch::Receiver<Resources>, shutdown: CancellationToken) {
        let mut control = self.shared.control.link();
        let mut pulls = self.shared.pulls.link();
        let mut patience = RETRY_MIN;
        loop {
            let wanted = resources.borrow_and_update().clone();
            control.borrow_and_update();
            pulls.borrow_and_update();
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                all_well = self.reconcile(&wanted.desired) => all_well,
            };
            self.report(&wanted);
            self.board.send_replace(self.board(&wanted.desired));
            patience = if step { RETRY_MIN } else { (patience * 2).min(RETRY_MAX) };
            let publisher = self.publisher.clone();
            let looked = Instant::now();
            let missing = async {
                publisher.stream_missing().await;
                tokio::time::sleep_until(looked + LOOK_SOONEST).await;
            };
            tokio::pin!(missing);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return self.stop().await,
                    Ok(()) = resources.changed() => break,
                    Ok(()) = control.changed() => break,
                    Ok(()) = pulls.changed() => self.report(&wanted),
                    () = &mut missing => break,
                    () = tokio::time::sleep(if step { LOOK_AGAIN } else { patience }) => break,
                    () = self.nudge.notified() => {
                        self.report(&wanted);
                        if self.someone_is_gone() {
                            break;
                        }
                    }
                }
            }
        }
        self.stop().await;
    }

    /// One pass over everything. True when nothing is left to do.
    async fn reconcile(&mut self, desired: &Desired) -> bool {
        self.retire(desired).await;
        self.shared
            .metrics
            .retain(|channel| desired.channels.contains_key(channel), |key| desired.subscriptions.contains_key(key));
        if !self.shared.control.is_connected() {
            // Declared and not in place: the ingress says 503, not 404.
            self.channels.retain(|key, _| desired.channels.contains_key(key));
            self.publish_targets(desired);
            return true;
        }
        let hears = self.shared.control.hears().await;
        self.dead_letters = match self.config.dispatcher {
            true => self.place_dead_letters().await,
            false => Ok(()),
        };
        self.place_channels(desired).await;
        self.publish_targets(desired);
        if self.config.dispatcher {
            self.place_subscriptions(desired).await;
        }
        if self.config.prune {
            self.prune(desired).await;
        }
        hears
            && self.dead_letters.is_ok()
            && self.channels.values().all(|placed| placed.target.as_ref().is_ok_and(|target| !self.is_silent(target)))
            && self.subscriptions.values().all(|placement| !matches!(placement, Placement::Waiting(_)))
    }

    /// Settings are applied once: two bridges that were started with different ones do not undo each other's for ever.
    async fn place_dead_letters(&mut self) -> Result<(), String> {
        let retention = std::mem::take(&mut self.config.retention);
        let placed = dead_letter::ensure(&self.shared.api, retention).await.map_err(|error| error.to_string());
        if placed.is_err() {
            self.config.retention = retention;
        }
        placed
    }

    async fn place_channels(&mut self, desired: &Desired) {
        let names = streams::owners(desired.channels.values());
        let api = &self.shared.api;
        let mut before = std::mem::take(&mut self.channels);
        let placed = stream::iter(desired.channels.values().cloned()).map(|channel| {
            let before = before.remove(&channel.key).filter(|placed| placed.declared == channel);
            let stream = streams::stream_name(&channel);
            let owner = names.get(&stream).filter(|owner| **owner != channel.key).cloned();
            async move {
                let (target, known) = match owner {
                    Some(owner) => (Err(format!("its stream {stream} is that of channel {owner}")), None),
                    None => match streams::ensure(api, &channel).await {
                        Ok(target) => (Ok(target.clone()), Some(target)),
                        Err(error) => {
                            let known = before.filter(|_| error.is_passing()).and_then(|placed| placed.known);
                            (Err(error.to_string()), known)
                        }
                    },
                };
                (channel.key.clone(), Placed { declared: channel, target, known })
            }
        });
        self.channels = placed.buffer_unordered(PARALLEL).collect().await;
    }

    fn publish_targets(&self, desired: &Desired) {
        let target = |key: &Key| {
            let target = self.channels.get(key).and_then(|placed| placed.known.clone());
            target.map(|target| Target { meter: self.shared.metrics.channel(key), ..target })
        };
        let targets: Targets = desired.channels.keys().map(|key| (key.clone(), target(key))).collect();
        self.targets.send_if_modified(|current| {
            let changed = **current != targets;
            *current = Arc::new(targets);
            changed
        });
    }

    /// Stops what is no longer wanted, or not as it is.
    async fn retire(&mut self, desired: &Desired) {
        let mut retired = Vec::new();
        let ending = &mut self.ending;
        ending.retain(|_, workers| {
            workers.retain(|worker| !worker.ended.is_cancelled());
            !workers.is_empty()
        });
        self.subscriptions.retain(|key, placement| {
            let Placement::Running(running) = placement else { return false };
            let Running { declared, channel, stream, health, stop, ended } = &**running;
            let wanted = desired.subscriptions.get(key);
            let same_channel = desired.channels.get(&declared.channel).is_some_and(|wanted| wanted.reads_like(channel));
            if wanted == Some(declared) && same_channel && !matches!(health.state(), State::Gone(_)) {
                return true;
            }
            stop.cancel();
            let by_key = is_by_key(declared);
            ending.entry(key.clone()).or_default().push(Ending { ended: ended.clone(), by_key });
            if wanted.is_none() {
                tracing::info!(subscription = %key, "no longer declared, its delivery ends");
                retired.push((key.clone(), stream.clone()));
            }
            false
        });
        for (key, stream) in retired {
            if self.config.prune
                && let Err(error) = consumer::remove(&self.shared.api, &stream, &key).await
            {
                tracing::warn!(subscription = %key, %error, "its consumer could not be deleted");
            }
        }
    }

    async fn place_subscriptions(&mut self, desired: &Desired) {
        let missing: Vec<Subscription> = desired
            .subscriptions
            .values()
            .filter(|subscription| !self.subscriptions.contains_key(&subscription.key))
            .cloned()
            .collect();
        let this = &*self;
        let placements: Vec<_> = stream::iter(missing)
            .map(|subscription| async move {
                let placement = this.place(&subscription, desired).await;
                (subscription.key, placement)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        self.subscriptions.extend(placements);
    }

    /// Makes the consumer and starts the worker of one subscription.
    async fn place(&self, subscription: &Subscription, desired: &Desired) -> Placement {
        let channel = match self.channels.get(&subscription.channel) {
            None => return Placement::Waiting(format!("channel {} is not declared", subscription.channel)),
            Some(Placed { target: Err(_), .. }) => {
                return Placement::Waiting(format!("channel {} is not in place", subscription.channel));
            }
            Some(Placed { declared, .. }) => declared,
        };
        if let Err(reason) = &self.dead_letters {
            return Placement::Waiting(format!("stream {} is not in place: {reason}", dead_letter::STREAM));
        }
        if let Some(undeclared) = desired.undeclared_destination(subscription) {
            return Placement::Waiting(format!("it sends to channel {undeclared}, which is not declared"));
        }
        let consumer = match consumer::ensure(&self.shared.api, channel, subscription).await {
            Ok(consumer) => consumer,
            Err(error) => return Placement::Waiting(error.to_string()),
        };
        if subscription.controls.paused {
            return Placement::Paused;
        }
        let stream = consumer.stream.clone();
        let plan = Plan {
            subscription: subscription.key.clone(),
            consumer,
            subscriber: subscription.subscriber.as_ref().map(|destination| self.sink(destination)),
            reply: subscription.reply.as_ref().map(|destination| self.sink(destination)),
            dead_letter_sink: subscription.delivery.dead_letter_sink.as_ref().map(|sink| self.sink(sink)),
            delivery: subscription.delivery.clone(),
            filter: subscription.filter.clone(),
            controls: subscription.controls.clone(),
            request_timeout: self.config.request_timeout,
        };
        let health = Health::new(Arc::clone(&self.nudge));
        let stop = CancellationToken::new();
        let worker = Worker::new(plan, self.shared.clone(), health.clone());
        let ended = CancellationToken::new();
        // Boxed: the task below would have room for it twice.
        let run = Box::pin(worker.run(stop.clone(), self.deadline.clone()));
        let predecessors = self.predecessors(subscription);
        let (stopped, end, waits) = (stop.clone(), ended.clone().drop_guard(), health.clone());
        self.workers.spawn(async move {
            let _end = end;
            if !predecessors.is_empty() {
                waits.hold("the events that are at work come to their end as it was declared before");
                let all = join_all(predecessors.iter().map(|worker| worker.ended.cancelled()));
                tokio::select! {
                    _ = tokio::time::timeout(PREDECESSOR, all) => waits.go_on(),
                    () = stopped.cancelled() => return,
                }
            }
            run.await;
        });
        tracing::info!(subscription = %subscription.key, channel = %subscription.channel, "delivering");
        let running = Running { declared: subscription.clone(), channel: channel.clone(), stream, health, stop, ended };
        Placement::Running(Box::new(running))
    }

    /// The workers that must end before a subscription starts again: whoever takes over one that is ordered by key has all that
    /// is unsettled delivered anew.
    fn predecessors(&self, subscription: &Subscription) -> Vec<Ending> {
        let now_by_key = is_by_key(subscription);
        let ending = self.ending.get(&subscription.key).into_iter().flatten();
        ending.filter(|worker| now_by_key || worker.by_key).cloned().collect()
    }

    fn sink(&self, destination: &Destination) -> Sink {
        match destination {
            Destination::Channel(key) => Sink::Channel(ChannelSink {
                publisher: self.publisher.clone(),
                channel: key.clone(),
                targets: self.targets.subscribe(),
            }),
            Destination::Url(address) => Sink::Http(HttpSink::new(&self.client, address)),
        }
    }

    /// Deletes consumers of ours in the streams of declared channels whose subscriptions are no longer declared there.
    async fn prune(&self, desired: &Desired) {
        let api = &self.shared.api;
        for channel in desired.channels.values() {
            let stream = streams::stream_name(channel);
            let consumers = match inventory::consumers_of(api, &stream).await {
                Ok(consumers) => consumers,
                Err(error) => {
                    tracing::warn!(stream, %error, "its consumers could not be listed");
                    continue;
                }
            };
            for (subscription, consumer) in inventory::orphans(&consumers, desired) {
                match consumer.delete(api).await {
                    Ok(()) => tracing::info!(%subscription, stream, "consumer deleted"),
                    Err(error) => tracing::warn!(%subscription, stream, %error, "consumer could not be deleted"),
                }
            }
        }
    }

    /// Whether events are not stored although their stream is in place.
    fn is_silent(&self, target: &Target) -> bool {
        self.publisher.is_unanswered(&target.stream)
    }

    fn someone_is_gone(&self) -> bool {
        let gone = |placement: &Placement| matches!(placement, Placement::Running(running) if matches!(running.health.state(), State::Gone(_)));
        self.subscriptions.values().any(gone)
    }

    /// What operators are told of each subscription.
    fn board(&self, desired: &Desired) -> Board {
        let entry = |subscription: &Subscription| {
            let standing = match self.subscriptions.get(&subscription.key) {
                Some(Placement::Running(running)) => Standing::Running(running.health.clone()),
                Some(Placement::Paused) => Standing::Paused,
                Some(Placement::Waiting(reason)) => Standing::Waiting(reason.clone()),
                None => Standing::Waiting("not looked for yet".to_owned()),
            };
            let sink = subscription.subscriber.as_ref().or(subscription.reply.as_ref());
            Entry {
                channel: subscription.channel.clone(),
                sink: sink.map(Destination::shown).unwrap_or_default(),
                stream: desired.channels.get(&subscription.channel).map(streams::stream_name).unwrap_or_default(),
                consumer: name::consumer(&subscription.key),
                standing,
            }
        };
        let all = desired.subscriptions.values().map(|subscription| (subscription.key.clone(), entry(subscription)));
        Arc::new(all.collect())
    }

    fn report(&self, wanted: &Resources) {
        let (mut missing, mut notes) = (Vec::new(), Vec::new());
        if !(self.shared.control.is_connected() && self.shared.pulls.is_connected()) {
            missing.push(readiness::nats());
        }
        if self.shared.control.link().borrow().deaf || self.shared.pulls.link().borrow().deaf {
            missing.push(readiness::deaf());
        }
        for key in wanted.desired.channels.keys() {
            match self.channels.get(key).map(|placed| &placed.target) {
                Some(Ok(target)) if self.is_silent(target) => {
                    missing.push(readiness::channel(key, "its stream is there and acknowledges no events"));
                }
                Some(Ok(_)) => {}
                Some(Err(reason)) => missing.push(readiness::channel(key, reason)),
                None => missing.push(readiness::channel(key, "not looked for yet")),
            }
        }
        if self.config.dispatcher {
            for key in wanted.desired.subscriptions.keys() {
                match self.subscriptions.get(key) {
                    Some(Placement::Running(running)) => match running.health.state() {
                        State::Pulling => {}
                        State::Held(reason) | State::Paused(reason) => {
                            notes.push(readiness::subscription(key, &reason))
                        }
                        State::Stalled(reason) | State::Gone(reason) => {
                            missing.push(readiness::subscription(key, &reason));
                        }
                    },
                    Some(Placement::Paused) => notes.push(readiness::subscription(key, "paused by its annotation")),
                    Some(Placement::Waiting(reason)) => missing.push(readiness::subscription(key, reason)),
                    None => missing.push(readiness::subscription(key, "not looked for yet")),
                }
            }
        }
        self.tell_states(wanted);
        let now = Readiness { missing, notes, resource_faults: wanted.faults.clone() };
        self.shared.metrics.ready.set(u64::from(now.missing.is_empty()));
        self.readiness.send_if_modified(|current| {
            let changed = *current != now;
            let known: HashSet<&Missing> = current.missing.iter().collect();
            let mut new = now.missing.iter().filter(|missing| !known.contains(missing));
            for missing in new.by_ref().take(MAX_TOLD) {
                let name = missing.name.as_deref().unwrap_or_default();
                tracing::warn!(kind = missing.kind, name, reason = missing.reason, "not in place");
            }
            let more = new.count();
            if more > 0 {
                tracing::warn!(more, "more is not in place; /readyz names all of it");
            }
            if now.missing.is_empty() && !current.missing.is_empty() {
                tracing::info!("ready");
            }
            *current = now;
            changed
        });
    }

    /// Tells metrics how each subscription is doing.
    fn tell_states(&self, wanted: &Resources) {
        if !self.config.dispatcher {
            return;
        }
        for key in wanted.desired.subscriptions.keys() {
            let state = match self.subscriptions.get(key) {
                Some(Placement::Running(running)) => match running.health.state() {
                    State::Pulling => telemetry::State::Delivering,
                    State::Held(_) => telemetry::State::Held,
                    State::Paused(_) => telemetry::State::Paused,
                    State::Stalled(_) | State::Gone(_) => telemetry::State::Stalled,
                },
                Some(Placement::Paused) => telemetry::State::Paused,
                Some(Placement::Waiting(_)) | None => telemetry::State::Waiting,
            };
            self.shared.metrics.subscription(key).set_state(state);
        }
    }

    async fn stop(self) {
        self.readiness.send_replace(readiness::draining());
        self.shared.metrics.ready.set(0);
        for placement in self.subscriptions.values() {
            if let Placement::Running(running) = placement {
                running.stop.cancel();
            }
        }
        self.workers.close();
        let finished = tokio::time::timeout(self.config.drain_timeout, self.workers.wait()).await;
        if finished.is_err() {
            self.deadline.cancel();
            self.workers.wait().await;
        }
    }
}

fn is_by_key(subscription: &Subscription) -> bool {
    matches!(subscription.controls.ordering, Ordering::Key(_))
}

//! A process of a history: a real worker with a real wire, publisher and sinks, in a world that is not real.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::Role;
use super::scenario::Way;
use super::sinks::Sink as Model;
use super::world::{EPOCH, World};
use super::{CONSUMER, LETTERS, REPLIES, STREAM, nats};
use crate::channel::attempts::{self, AttemptLog, Level};
use crate::channel::{
    Api, ApiError, Connection, Consumer, DeadLetters, Publisher, SimulatedApi, Target, Targets, Wire,
};
use crate::dispatch::redrive::Redriver;
use crate::dispatch::{Budget, Feed, Health, Plan, Shared, State, Worker};
use crate::filter::Filter;
use crate::resource::{ChannelKind, Key};
use crate::sink::{ChannelSink, HttpSink, Sink};
use crate::telemetry::Metrics;

/// How long a worker waits for the one before it, as the bridge has it.
const PREDECESSOR: Duration = Duration::from_secs(60);
/// An end in good order may take this much longer than it was given: for the last words, and for a JetStream that is silent.
const LAST_WORDS: Duration = Duration::from_secs(12);
/// Until a call of the API is given up.
const API_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Process {
    world: Arc<World>,
    number: u32,
    shared: Shared,
    publisher: Publisher,
    closed: CancellationToken,
    deadline: CancellationToken,
    workers: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    ended: CancellationToken,
    health: Health,
    pub(super) redriver: Redriver,
    /// Notified when the worker's state changes.
    pub(super) nudge: Arc<Notify>,
}

impl Process {
    pub(super) fn start(world: &Arc<World>, control: &Connection) -> Self {
        let number = world.lock().process;
        let server = Arc::clone(world);
        let wire = Wire::simulated(Arc::new(move || nats::accept(&server, number)));
        let closed = CancellationToken::new();
        let (publish_timeout, crowded) = {
            let scenario = &world.lock().scenario;
            (scenario.publish_timeout, scenario.crowded)
        };
        let publisher = Publisher::start(wire.clone(), publish_timeout, closed.clone());
        let metrics = Arc::new(Metrics::default());
        let off = attempts::Settings { level: Level::Off, ..attempts::Settings::default() };
        let (attempts, _) = AttemptLog::new(control.clone(), off, metrics.attempt_log_drops());
        let (feed, _) = Feed::new(control.clone());
        let api = Api::simulated(control.clone(), Arc::new(Answers { world: Arc::clone(world), process: number }));
        let shared = Shared {
            dead_letters: DeadLetters::new(publisher.clone(), api.clone()),
            api: Arc::new(api),
            pulls: wire,
            control: control.clone(),
            attempts,
            feed,
            metrics,
            budget: if crowded { Budget::crowded() } else { Budget::default() },
            tracer: None,
        };
        let nudge = Arc::new(Notify::new());
        let plan = plan(world, number, &shared, &publisher);
        let health = Health::new(Arc::clone(&nudge));
        let worker = Worker::new(plan, shared.clone(), health.clone());
        let mut process = Self {
            world: Arc::clone(world),
            number,
            publisher,
            closed,
            deadline: CancellationToken::new(),
            workers: Vec::new(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            redriver: worker.redriver(),
            health,
            nudge,
            shared,
        };
        process.run(worker, None);
        process
    }

    fn run(&mut self, worker: Worker, after: Option<CancellationToken>) {
        self.redriver = worker.redriver();
        self.world.lock().health = Some(self.health.clone());
        let (stop, deadline) = (self.stop.clone(), self.deadline.clone());
        let end = self.ended.clone().drop_guard();
        self.workers.push(tokio::spawn(async move {
            let _end = end;
            if let Some(before) = after {
                let _ = timeout(PREDECESSOR, before.cancelled()).await;
            }
            worker.run(stop, deadline).await;
        }));
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.health.state(), State::Gone(_))
    }

    /// What the bridge does when a consumer is said to be gone: another worker, once JetStream answers.
    pub(super) fn renew(&mut self) {
        if !self.is_gone() || self.world.lock().is_leaderless() {
            return;
        }
        self.stop.cancel();
        let before = std::mem::take(&mut self.ended);
        self.stop = CancellationToken::new();
        self.health = Health::new(Arc::clone(&self.nudge));
        let plan = plan(&self.world, self.number, &self.shared, &self.publisher);
        let by_key = plan.consumer.pinned;
        let worker = Worker::new(plan, self.shared.clone(), self.health.clone());
        self.run(worker, by_key.then_some(before));
    }

    /// The process is gone from one moment to the next.
    pub(super) async fn kill(self) {
        for worker in &self.workers {
            worker.abort();
        }
        for worker in self.workers {
            let _ = worker.await;
        }
        self.closed.cancel();
    }

    /// Ends in good order within so many ms, and what is not finished then goes back. False when it does not.
    pub(super) async fn end(mut self, within: u64) -> bool {
        self.stop.cancel();
        let mut workers = std::mem::take(&mut self.workers);
        let mut all = futures_util::future::join_all(workers.iter_mut());
        let mut is_over = timeout(Duration::from_millis(within), &mut all).await.is_ok();
        if !is_over {
            self.deadline.cancel();
            is_over = timeout(LAST_WORDS, &mut all).await.is_ok();
        }
        drop(all);
        self.workers = workers;
        if !is_over {
            self.kill().await;
            return false;
        }
        self.closed.cancel();
        // What it has written leaves.
        sleep(Duration::from_millis(20)).await;
        true
    }
}

fn plan(world: &Arc<World>, process: u32, shared: &Shared, publisher: &Publisher) -> Plan {
    let mut state = world.lock();
    state.workers += 1;
    let (scenario, worker) = (state.scenario.clone(), state.workers);
    drop(state);
    let channel = Key::new("default", "events").unwrap();
    let target = |name: &str, stream: &str, subject: &str| {
        let key = Key::new("default", name).unwrap();
        let target = Target {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            kind: ChannelKind::Channel,
            max_msg_size: None,
            allowed_subjects: None,
            meter: shared.metrics.channel(&key),
        };
        (key, Some(target))
    };
    let targets: Targets = [target("replies", "KN_REPLIES", REPLIES), target("letters", "KN_LETTERS", LETTERS)].into();
    let (_, targets) = watch::channel(Arc::new(targets));
    let http = |role: Role| {
        let model = Model { world: Arc::clone(world), process, worker, role };
        Sink::Http(HttpSink::simulated(&format!("http://{role:?}"), Arc::new(model)))
    };
    let into = |name: &str| {
        let channel = Key::new("default", name).unwrap();
        Sink::Channel(ChannelSink { publisher: publisher.clone(), channel, targets: targets.clone() })
    };
    let sink = |way: Way, role: Role, name: &str| match way {
        Way::None => None,
        Way::Http => Some(http(role)),
        Way::Channel => Some(into(name)),
    };
    let mut consumer = Consumer::simulated(channel, STREAM, CONSUMER, scenario.ack_wait, scenario.is_by_key());
    consumer.of_broker = scenario.of_broker;
    Plan {
        subscription: Key::new("default", "sub").unwrap(),
        consumer,
        subscriber: scenario.subscriber.then(|| http(Role::Subscriber)),
        reply: sink(scenario.reply, Role::Reply, "replies"),
        dead_letter_sink: sink(scenario.dead_letter_sink, Role::DeadLetter, "letters"),
        delivery: scenario.delivery,
        filter: scenario.filtered.then(|| Filter::from_attributes(&json!({ "type": "wanted" })).unwrap()),
        controls: scenario.controls,
        request_timeout: scenario.request_timeout,
    }
}

/// JetStream's API, as one process reaches it.
struct Answers {
    world: Arc<World>,
    process: u32,
}

impl SimulatedApi for Answers {
    fn call(&self, subject: String, request: Value) -> BoxFuture<'_, Result<Value, ApiError>> {
        async move {
            let latency = self.world.lock().rng.u64(0..4);
            sleep(Duration::from_millis(latency)).await;
            match self.answer(&subject, &request) {
                Some(answer) => answer,
                None => {
                    sleep(API_TIMEOUT).await;
                    Err(ApiError::NoAnswer("simulated: time is up".to_owned()))
                }
            }
        }
        .boxed()
    }
}

impl Answers {
    /// `None` when no answer comes.
    fn answer(&self, subject: &str, request: &Value) -> Option<Result<Value, ApiError>> {
        let mut state = self.world.lock();
        self.world.step(&mut state);
        if state.process != self.process || state.is_leaderless() || state.stalled_for() > 0 {
            return None;
        }
        if state.is_down() {
            return Some(Err(ApiError::Disconnected));
        }
        let not_found = || Err(ApiError::NotFound("simulated: not there".to_owned()));
        let answer = if subject.starts_with("CONSUMER.INFO.") {
            let jetstream = &state.jetstream;
            let (delivered, floor) = jetstream.places();
            let pin = if jetstream.is_pinned() { "somebody" } else { "" };
            Ok(json!({
                "num_pending": jetstream.unseen(),
                "num_ack_pending": jetstream.pending(),
                "delivered": { "stream_seq": delivered, "consumer_seq": jetstream.deliveries },
                "ack_floor": { "stream_seq": floor },
                "config": { "max_ack_pending": jetstream.max_ack_pending },
                "priority_groups": [{ "group": "knats", "pinned_client_id": pin }],
            }))
        } else if subject.starts_with("CONSUMER.UNPIN.") {
            state.jetstream.unpin();
            state.advance();
            self.world.changed.notify_one();
            Ok(json!({}))
        } else if subject.starts_with("STREAM.MSG.GET.") {
            let sequence = request["seq"].as_u64().unwrap();
            match state.kept.messages.get(&sequence) {
                Some((headers, payload, at)) => Ok(json!({ "message": {
                    "seq": sequence,
                    "subject": super::LETTER_SUBJECT,
                    "time": kept_at(*at).to_string(),
                    "hdrs": STANDARD.encode(headers),
                    "data": STANDARD.encode(payload),
                }})),
                None => not_found(),
            }
        } else if subject.starts_with("STREAM.MSG.DELETE.") {
            match state.kept.messages.remove(&request["seq"].as_u64().unwrap()) {
                Some((headers, ..)) => {
                    let sequence = letter_of(&headers).unwrap();
                    state.ledger().copy_deleted(sequence);
                    Ok(json!({}))
                }
                None => not_found(),
            }
        } else {
            panic!("{subject} is asked of the API")
        };
        let is_lost = !state.scenario.is_clean() && !state.calm && state.chance(10);
        (!is_lost).then_some(answer)
    }
}

/// The event that a kept message is of; `None` when it is none.
pub(super) fn letter_of(headers: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(headers).unwrap();
    text.lines().find_map(|line| line.strip_prefix("ce-id: e")).map(|sequence| sequence.parse().unwrap())
}

pub(super) fn kept_at(millis: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(EPOCH + millis).unwrap()).unwrap()
}

//! The model of sinks: what each request meets, drawn from the seed, and what the ledger is told of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response};
use serde_json::Value;
use tokio::time::sleep;

use super::Sabotage;
use super::ledger::{Failure, Role};
use super::scenario::{Kind, Way};
use super::world::{State, World};
use crate::sink;

/// The longest answer when all is calm, in ms.
const CALM_SLOWNESS: u64 = 50;

/// A sink, as one worker of one process reaches it.
pub(super) struct Sink {
    pub(super) world: Arc<World>,
    pub(super) process: u32,
    pub(super) worker: u32,
    pub(super) role: Role,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.role)
    }
}

/// What a request meets.
#[derive(Debug, Clone)]
enum Fortune {
    Answer { code: u16, retry_after: Option<u64>, body: Body },
    Hangs,
    Resets,
    NobodyThere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Empty,
    Other,
    Reply,
    InvalidReply,
}

/// A request under way. It may be dropped at any time, which is when its worker has lost patience.
struct Exchange<'a> {
    sink: &'a Sink,
    sequences: Vec<u64>,
    /// Whether it is what the subscription is for, and not a reply or a dead letter.
    first: bool,
    is_over: bool,
}

impl sink::SimulatedServer for Sink {
    fn post(&self, headers: HeaderMap, body: Bytes) -> BoxFuture<'_, Result<Response<Bytes>, sink::Failure>> {
        async move {
            let letter = Letter::read(&headers, &body);
            let Some((mut exchange, fortune, wait)) = self.begin(&letter) else { return std::future::pending().await };
            sleep(Duration::from_millis(wait)).await;
            exchange.end(&fortune, letter.code)?;
            let Fortune::Answer { code, retry_after, body } = fortune else { return std::future::pending().await };
            Ok(answer(code, retry_after, body, &exchange.sequences))
        }
        .boxed()
    }
}

/// What a request holds.
struct Letter {
    ids: Vec<String>,
    code: Option<u16>,
    is_batch: bool,
}

impl Letter {
    fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        if let Some(id) = header("ce-id") {
            let code = header("ce-knativeerrorcode").and_then(|code| code.parse().ok());
            return Self { ids: vec![id], code, is_batch: false };
        }
        let body: Value = serde_json::from_slice(body).unwrap();
        let events = body.as_array().map_or_else(|| vec![&body], |events| events.iter().collect());
        Self {
            ids: events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect(),
            code: body["knativeerrorcode"].as_str().and_then(|code| code.parse().ok()),
            is_batch: body.is_array(),
        }
    }
}

impl Sink {
    fn begin(&self, letter: &Letter) -> Option<(Exchange<'_>, Fortune, u64)> {
        let mut state = self.world.lock();
        self.world.step(&mut state);
        if state.process != self.process {
            return None;
        }
        let sequences: Vec<u64> = letter.ids.iter().map(|id| id[1..].parse().unwrap()).collect();
        let first = self.role != Role::DeadLetter && letter.ids[0].starts_with('e');
        let worker = self.worker;
        state.ledger().asks(self.role, &sequences, worker, first);
        let fortune = self.fortune(&mut state, &sequences, first, letter.is_batch);
        let slowness = state.scenario.sinks[self.role as usize].slowness;
        let slowness = if state.calm { slowness.min(CALM_SLOWNESS) } else { slowness };
        let wait = match fortune {
            Fortune::Hangs => u64::from(u32::MAX),
            _ => state.rng.u64(0..=slowness),
        };
        drop(state);
        Some((Exchange { sink: self, sequences, first, is_over: false }, fortune, wait))
    }

    fn fortune(&self, state: &mut State, sequences: &[u64], first: bool, is_batch: bool) -> Fortune {
        let temper = state.scenario.sinks[self.role as usize];
        let curse = sequences.iter().find_map(|sequence| match state.scenario.events[*sequence as usize - 1].kind {
            Kind::Cursed(code) => Some(code),
            _ => None,
        });
        let says = |code, retry_after| Fortune::Answer { code, retry_after, body: Body::Other };
        if let Some(code) = curse.filter(|_| first && !state.healed) {
            return says(code, None);
        }
        if temper.broken {
            return says(500, None);
        }
        let now = state.now();
        if !state.calm && (temper.outage.0..temper.outage.1).contains(&now) {
            return if temper.outage.0.is_multiple_of(2) { Fortune::NobodyThere } else { says(503, Some(1)) };
        }
        if !state.calm && state.chance(temper.trouble) {
            let retry_after = Some(state.rng.u64(0..8)).filter(|asked| *asked > 0);
            let codes = [404, 408, 409, 429, 500, 502, 503, 503, 400, 302, 422];
            let code = *state.rng.choice(&codes).unwrap();
            return match state.rng.u8(..6) {
                0 => Fortune::Hangs,
                1 => Fortune::Resets,
                2 => Fortune::NobodyThere,
                _ => says(code, retry_after),
            };
        }
        let may_reply = first && self.role == Role::Subscriber && !is_batch;
        let body = if !may_reply || state.scenario.reply == Way::None {
            Body::Empty
        } else if state.chance(temper.replies) {
            Body::Reply
        } else if !state.calm && state.chance(10) {
            *state.rng.choice(&[Body::InvalidReply, Body::Other]).unwrap()
        } else {
            Body::Empty
        };
        let code = if body == Body::Empty { *state.rng.choice(&[200, 202, 204]).unwrap() } else { 200 };
        Fortune::Answer { code, retry_after: None, body }
    }
}

impl Exchange<'_> {
    /// The worker learns what came of it.
    fn end(&mut self, fortune: &Fortune, code: Option<u16>) -> Result<(), sink::Failure> {
        let Sink { world, process, worker, role } = self.sink;
        let mut state = world.lock();
        world.step(&mut state);
        if state.process != *process {
            return Ok(());
        }
        self.is_over = true;
        let of_broker = state.scenario.of_broker;
        let failure = match fortune {
            Fortune::Answer { code: 200..=299, body: Body::InvalidReply, .. } => Some(502),
            Fortune::Answer { code: 200..=299, body: Body::Other, .. } if of_broker => Some(502),
            Fortune::Answer { code: 200..=299, .. } => None,
            Fortune::Answer { code, .. } => Some(*code),
            Fortune::Hangs | Fortune::Resets | Fortune::NobodyThere => Some(500),
        };
        let asked = match fortune {
            Fortune::Answer { retry_after, .. } => retry_after.map(|seconds| seconds * 1000),
            _ => None,
        };
        let unreachable = matches!(fortune, Fortune::NobodyThere | Fortune::Answer { code: 503, .. });
        let failure = failure.map(|code| Failure { code, retry_after: asked, unreachable });
        if *role == Role::DeadLetter {
            if failure.is_none() {
                state.ledger().given_up("letter taken", self.sequences[0], code);
            }
        } else {
            state.ledger().ended(&self.sequences, *worker, self.first, failure);
            let leads_on = matches!(fortune, Fortune::Answer { body: Body::Reply, .. });
            if failure.is_none() && !leads_on {
                for sequence in &self.sequences {
                    state.ledger().is_safe("taken", *sequence);
                }
            }
        }
        if state.sabotage == Sabotage::SwallowsRetries && failure.is_some() && self.first && state.rng.bool() {
            let sequence = self.sequences[0];
            state.jetstream.acknowledge(sequence);
        }
        match fortune {
            Fortune::NobodyThere => Err(sink::Failure::unreachable("simulated: nobody there")),
            Fortune::Resets => Err(sink::Failure::no_answer("simulated: reset")),
            Fortune::Answer { .. } | Fortune::Hangs => Ok(()),
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let Sink { world, process, worker, role } = self.sink;
        let mut state = world.lock();
        // What a process that was killed had under way concerns nobody.
        if self.is_over || state.process != *process || *role == Role::DeadLetter {
            return;
        }
        let failure = Some(Failure { code: 500, retry_after: None, unreachable: false });
        state.ledger().ended(&self.sequences, *worker, self.first, failure);
    }
}

fn answer(code: u16, retry_after: Option<u64>, body: Body, sequences: &[u64]) -> Response<Bytes> {
    let mut response = Response::builder().status(code);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    if matches!(body, Body::Reply | Body::InvalidReply) {
        response = response.header("ce-specversion", "1.0").header("ce-type", "reply").header("ce-source", "/sink");
    }
    if body == Body::Reply {
        response = response.header("ce-id", format!("r{}", sequences[0]));
    }
    let text = if body == Body::Empty { Bytes::new() } else { Bytes::from_static(b"so it is") };
    response.body(text).unwrap()
}

//! Histories: a subscription at work in a world of which every move is drawn from a seed.
//!
//! Real are the worker and everything below it: desk, lanes, batches, breaker, attempts, replies, dead letters, redrive, the
//! puller, the tickets, the publisher, and the wire with its protocol. Models are what is outside of the process: nats-server
//! ([`nats`], [`jetstream`]), its API, the sinks ([`sinks`]), and the clock, which is tokio's, paused: it goes on when nobody
//! has anything to do. All of it runs on one thread, and all chance comes from the seed, so a seed is a history.
//!
//! What must hold is written down in [`ledger`], and checked with each move and at the end:
//!
//! - no loss: every stored event was taken by its sink, or is a dead letter, or was not wanted
//! - no early ack: an event is acknowledged when its outcome is durable, never before
//! - nothing left: when the faults have stopped, everything is settled within minutes
//! - order: by key or strict, an event is sent when those before it are settled; one request at a time for each event
//! - attempts: one request for each delivery, retries as the policy has them, by JetStream's count; no fewer before giving up
//! - wait before retry: what the policy says, at least, and at most a tenth more
//! - bounds: what is held, and what is under way
//! - dead letters tell of the last failure, are kept once, and a redriven copy goes when its outcome is durable
//!
//! That it can fail is shown by [`Sabotage`], and was shown by breaking the worker by hand. The first 2,000 histories caught: an ack
//! before the request, or before the reply is stored; a wait that is forgotten; one retry too many, or one too few; a letter with
//! another code; lanes that let everybody through; two requests at once where order is strict; no signs of work; an event that
//! is sent while it is at work; pulls without regard to what is held; a breaker that forgets whom it has parked; a take-over
//! that begins before it is complete, or is content with what has come.
//!
//! `KNATS_SIM_HISTORIES=100000 cargo test --lib simulation::` plays more of them, `KNATS_SIM_SEED=123` plays one and tells it.

mod jetstream;
mod ledger;
mod nats;
mod process;
mod scenario;
mod sinks;
mod world;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::slots::MAX_HELD;
use crate::channel::Connection;
use crate::channel::kept::LetterId;
use process::Process;
use scenario::Scenario;
use world::{Demand, World};

const STREAM: &str = "KN_DEFAULT__EVENTS";
const CONSUMER: &str = "KN_SUB_DEFAULT__SUB";
const SUBJECT: &str = "events.default";
const LETTER_SUBJECT: &str = "knats.deadletter.default.sub";
const REPLIES: &str = "replies.default";
const LETTERS: &str = "letters.default";
/// When everything must be settled, long after all is calm.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// How often a bridge looks again whether a consumer that was gone is there.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What is told of a history that fails: its end.
const TOLD_LINES: usize = 60;
/// So many histories that fail are enough.
const TOLD: usize = 10;
/// Histories that are played with every run of the tests.
const HISTORIES: u64 = 1_500;

/// A fault of the model that no history may pass with: whether the promises are looked after at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    None,
    /// Some events are acknowledged as soon as they are handed out.
    AcksEarly,
    /// The stream of dead letters says that it has stored what it has not.
    ForgetsLetters,
    /// Retries come in half of their time.
    HalvesWaits,
    /// Some events that failed are never delivered again.
    SwallowsRetries,
}

/// What became of a history.
struct Told {
    violations: Vec<String>,
    fingerprint: u64,
    trace: String,
    processes: u32,
    steps: u64,
    virtual_time: Duration,
    most_held: u64,
}

fn play(seed: u64, sabotage: Sabotage, control: &Connection) -> Told {
    act(Scenario::draw(seed), seed, sabotage, control)
}

fn act(scenario: Scenario, seed: u64, sabotage: Sabotage, control: &Connection) -> Told {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(history(scenario, seed, sabotage, control))
}

async fn history(scenario: Scenario, seed: u64, sabotage: Sabotage, control: &Connection) -> Told {
    let began = Instant::now();
    let world = Arc::new(World::new(&scenario, seed, sabotage));
    let turning = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.turn().await }
    });
    let limit = Instant::now() + LIMIT;
    let mut process = settle_all(&world, control, limit).await;
    if world.lock().is_settled()
        && let Some(redrive) = scenario.redrive
    {
        process = redrive_all(&world, control, process, redrive).await;
    }
    let ended = process.end(3_000).await;
    turning.abort();
    let mut state = world.lock();
    if !ended {
        state.ledger().violations.push("drain: the process does not end in its time".to_owned());
    }
    state.ledger().close();
    Told {
        violations: std::mem::take(&mut state.ledger.violations),
        fingerprint: state.ledger.fingerprint(),
        trace: state.ledger.last_lines(if number("KNATS_SIM_SEED").is_some() { usize::MAX } else { TOLD_LINES }),
        processes: state.process + 1,
        steps: state.steps,
        virtual_time: began.elapsed(),
        most_held: state.ledger.most_held,
    }
}

/// Plays until all is calm and every event is settled.
async fn settle_all(world: &Arc<World>, control: &Connection, limit: Instant) -> Process {
    let mut process = Process::start(world, control);
    loop {
        let nudge = Arc::clone(&process.nudge);
        tokio::select! {
            biased;
            () = world.process.notified() => {}
            () = nudge.notified() => {}
            () = sleep(LOOK_AGAIN), if process.is_gone() => {}
            () = sleep_until(limit) => return process,
        }
        let demand = world.lock().demand.take();
        if let Some(demand) = demand {
            process = replace(world, control, process, demand).await;
        }
        let state = world.lock();
        if state.is_settled() || !state.ledger.violations.is_empty() {
            return process;
        }
        drop(state);
        process.renew();
    }
}

/// Another process in place of one that is gone, or is to go.
async fn replace(world: &Arc<World>, control: &Connection, process: Process, demand: Demand) -> Process {
    match demand {
        Demand::Killed(away) => {
            process.kill().await;
            sleep(Duration::from_millis(away)).await;
        }
        Demand::Restart(within) => {
            if !process.end(within).await {
                world.lock().ledger().violations.push("drain: the process does not end in its time".to_owned());
            }
            world.lock().leave();
        }
    }
    world.lock().demand = None;
    Process::start(world, control)
}

/// Redrives every kept letter until each is answered, once with a process that is killed on the way.
async fn redrive_all(
    world: &Arc<World>,
    control: &Connection,
    mut process: Process,
    redrive: scenario::Redrive,
) -> Process {
    world.lock().begin_redrive(redrive);
    loop {
        let letters: Vec<LetterId> = world.lock().letters_kept();
        let stop = CancellationToken::new();
        let answers: Vec<_> =
            letters.into_iter().map(|letter| process.redriver.deliver(letter, stop.clone())).collect();
        tokio::select! {
            biased;
            () = killed(world) => {}
            () = async { for answer in answers { answer.await; } } => return process,
        }
        process.kill().await;
        world.lock().demand = None;
        process = Process::start(world, control);
    }
}

async fn killed(world: &World) {
    while !matches!(world.lock().demand, Some(Demand::Killed(_))) {
        world.process.notified().await;
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}, expected a number")))
}

#[test]
fn every_promise_holds_in_every_history() {
    let control = Connection::nowhere();
    let began = std::time::Instant::now();
    let (first, count) = match number("KNATS_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("KNATS_SIM_HISTORIES").unwrap_or(HISTORIES)),
    };
    let (mut steps, mut processes, mut time) = (0, 0, Duration::ZERO);
    let mut failed = Vec::new();
    for seed in first..first + count {
        let told = play(seed, Sabotage::None, &control);
        if !told.violations.is_empty() || count == 1 {
            let (what, how) = (told.violations.join("\n  "), "cargo test --lib simulation::every -- --nocapture");
            println!(
                "{:?}\n{}\n  {what}\nseed {seed}, again with: KNATS_SIM_SEED={seed} {how}\n",
                Scenario::draw(seed),
                told.trace
            );
        }
        failed.extend(told.violations.into_iter().next().map(|violation| format!("seed {seed}: {violation}")));
        if failed.len() == TOLD {
            break;
        }
        (steps, processes, time) =
            (steps + told.steps, processes + u64::from(told.processes), time + told.virtual_time);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!(
        "{count} histories, {steps} moves, {processes} processes, {:.1} h of virtual time in {:.1} s",
        time.as_secs_f64() / 3600.0,
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn a_seed_is_a_history() {
    let control = Connection::nowhere();
    for seed in 0..20 {
        let (one, two) = (play(seed, Sabotage::None, &control), play(seed, Sabotage::None, &control));
        assert_eq!((one.fingerprint, one.steps), (two.fingerprint, two.steps), "seed {seed}");
        assert_ne!(one.fingerprint, play(seed + 1, Sabotage::None, &control).fingerprint, "seed {seed}");
    }
}

#[test]
fn a_flood_fills_the_desk_and_no_more() {
    let control = Connection::nowhere();
    for by_key in [true, false] {
        let told = act(Scenario::flood(by_key), 1, Sabotage::None, &control);
        assert!(told.violations.is_empty(), "{:?}", told.violations);
        assert!(told.most_held >= MAX_HELD as u64, "it was never full: {}", told.most_held);
    }
}

#[test]
fn whoever_breaks_a_promise_is_caught() {
    let control = Connection::nowhere();
    let caught = |sabotage| -> Vec<String> {
        let told = (0..40).map(|seed| play(seed, sabotage, &control));
        told.flat_map(|told| told.violations).collect()
    };
    for (sabotage, promise) in [
        (Sabotage::AcksEarly, "no early ack"),
        (Sabotage::ForgetsLetters, "no early ack"),
        (Sabotage::HalvesWaits, "wait before retry"),
        (Sabotage::SwallowsRetries, "nothing left"),
    ] {
        let violations = caught(sabotage);
        assert!(violations.iter().any(|text| text.starts_with(promise)), "{sabotage:?}: {violations:?}");
    }
}

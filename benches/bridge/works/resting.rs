//! Owns what a bridge takes up: when nothing happens, and when a large backlog waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::usual;
use crate::nats::Nats;
use crate::process::Process;
use crate::program::{Job, KNATS, start};
use crate::report::Report;
use crate::sink::Sink;

/// The works, as the report names them.
pub const IDLE: &str = "idle";
pub const BACKLOG: &str = "drain a backlog";
/// What an empty bridge takes, as a figure of either.
pub const EMPTY: &str = "memory MiB without";
/// How long an idle bridge is watched.
const WATCH: Duration = Duration::from_secs(20);
/// How long it may take until nothing happens any more.
const CALM: Duration = Duration::from_secs(300);
/// After its start a bridge is left alone for so long before its memory counts.
const SETTLE: Duration = Duration::from_secs(1);

/// A bridge with many subscriptions to which nothing happens.
pub async fn idle(report: &mut Report, subscriptions: usize) {
    let nats = Nats::start();
    let sink = Sink::start(Duration::ZERO).await;
    let empty = empty(&nats).await;
    let sinks: Vec<_> = (0..subscriptions).map(|_| Arc::clone(&sink)).collect();
    let started = start(KNATS, &nats.url(), Job { sinks: &sinks, ..Job::INGEST });
    calm(&nats).await;
    let (before, before_nats) = (started.process.cpu(), nats.processes[0].cpu());
    tokio::time::sleep(WATCH).await;
    let share = |before: Duration, process: &Process| {
        process.cpu().saturating_sub(before).as_secs_f64() / WATCH.as_secs_f64() * 100.0
    };
    let memory = started.process.memory().0;
    report.add(IDLE, KNATS, "% of a core", share(before, &started.process));
    report.add(IDLE, KNATS, "NATS % of a core", share(before_nats, &nats.processes[0]));
    report.add(IDLE, KNATS, "memory MiB", memory as f64 / 1024.0);
    report.add(IDLE, KNATS, "KiB/subscription", memory.saturating_sub(empty) as f64 / subscriptions.max(1) as f64);
    report.add(IDLE, KNATS, EMPTY, empty as f64 / 1024.0);
}

/// The highest memory while a large backlog drains.
pub async fn backlog(report: &mut Report, events: usize) {
    usual::deliver(report, BACKLOG, KNATS, events, None).await;
    report.add(BACKLOG, KNATS, EMPTY, empty(&Nats::start()).await as f64 / 1024.0);
}

/// The memory of a bridge without subscriptions and events, in KiB.
async fn empty(nats: &Nats) -> u64 {
    let started = start(KNATS, &nats.url(), Job::INGEST);
    tokio::time::sleep(SETTLE).await;
    started.process.memory().0
}

/// All consumers are in place when they stop costing anything to make.
async fn calm(nats: &Nats) {
    let deadline = Instant::now() + CALM;
    let mut quiet = 0;
    let mut last = nats.processes[0].cpu();
    while quiet < 3 {
        assert!(Instant::now() < deadline, "NATS is not quiet within {CALM:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = nats.processes[0].cpu();
        quiet = if now.saturating_sub(last) < Duration::from_millis(200) { quiet + 1 } else { 0 };
        last = now;
    }
}

//! Owns what is measured: which works there are, in which order and how often. One file for each theme.

mod fan_out;
mod replicas;
mod resting;
mod slow;
mod usual;

pub use fan_out::{DELIVERIES, PER_DELIVERY, UNRELATED};
pub use replicas::WORKS as REPLICAS;
pub use resting::{BACKLOG, EMPTY, IDLE};
pub use usual::RATE_WORK;

use crate::program::{KNATS, STRAIGHTFORWARD};
use crate::report::Report;

/// The works by the names that `--only` takes.
pub const NAMES: &str =
    "ingest, deliver, both, rate, bare, batch-in, batch-out, fan-out, unrelated, slow, r3, idle, memory";
/// How often those are measured at most that take a minute or more each: fan-out and all that follow it.
pub const ROUNDS_OF_LONG_ONES: usize = 3;

/// How much is to be done.
pub struct Amount {
    pub rounds: usize,
    pub events: usize,
    /// Subscriptions of the idle bridge.
    pub idle: usize,
    pub backlog: usize,
    /// Names of works; all when there are none.
    pub only: Vec<String>,
}

impl Amount {
    fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == work)
    }
}

/// Measures round by round, so that what the machine does besides falls on all of them alike.
pub async fn run(amount: &Amount) -> Report {
    let mut report = Report::default();
    for round in 1..=amount.rounds {
        eprintln!("round {round} of {}", amount.rounds);
        short_ones(&mut report, amount).await;
        if round <= ROUNDS_OF_LONG_ONES {
            long_ones(&mut report, amount, round).await;
        }
    }
    report
}

async fn short_ones(report: &mut Report, amount: &Amount) {
    let events = amount.events;
    for program in [STRAIGHTFORWARD, KNATS] {
        if amount.wants("ingest") {
            usual::ingest(report, "ingest", program, events, 1).await;
        }
        if amount.wants("deliver") {
            usual::deliver(report, "deliver", program, events, None).await;
        }
        if amount.wants("both") {
            usual::both(report, "both", program, events, None).await;
        }
        if amount.wants("rate") {
            usual::both(report, RATE_WORK, program, events, Some(usual::RATE)).await;
        }
    }
    if amount.wants("bare") {
        usual::bare(report, events).await;
    }
    if amount.wants("batch-in") {
        usual::ingest(report, "ingest by 100", KNATS, events, 100).await;
    }
    if amount.wants("batch-out") {
        usual::deliver(report, "deliver by 100", KNATS, events, Some(100)).await;
    }
}

async fn long_ones(report: &mut Report, amount: &Amount, round: usize) {
    let events = amount.events;
    if amount.wants("fan-out") {
        fan_out::cost(report, events).await;
    }
    if amount.wants("unrelated") {
        fan_out::unrelated(report, events).await;
    }
    if amount.wants("slow") {
        slow::slow(report, events, round).await;
    }
    if amount.wants("r3") {
        replicas::replicas(report, events, round).await;
    }
    if amount.wants("idle") {
        resting::idle(report, amount.idle).await;
    }
    if amount.wants("memory") {
        resting::backlog(report, amount.backlog).await;
    }
}

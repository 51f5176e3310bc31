//! Everything goes wrong, again and again, while events flow: servers are killed and stalled, links cut, bridges killed and
//! drained, sinks fall ill, the ingress is flooded. In the end every event that was answered with 202 must have reached every
//! subscription or its dead letters.
//!
//! `make test` runs each fault once. `make chaos` goes on for as long as `KNATS_CHAOS_SECONDS` says, with a backlog of
//! `KNATS_CHAOS_BACKLOG` events and `KNATS_CHAOS_CONNECTIONS` slow senders, and prints a summary. `KNATS_CHAOS_SEED` repeats the order of the faults.

mod faults;
mod house;
mod load;
mod sinks;
mod summary;

use std::time::{Duration, Instant};

use crate::chaos::faults::Fault;
use crate::chaos::house::House;
use crate::chaos::load::Load;
use crate::chaos::summary::Summary;

/// Events that must be taken between two faults.
const BETWEEN: u64 = 50;

/// A setting of the long form.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', expected a whole number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_every_fault_no_acknowledged_event_is_lost() {
    let seed = setting("KNATS_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("KNATS_CHAOS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(setting("KNATS_CHAOS_SECONDS").unwrap_or(0));
    let mut house = House::start().await;
    let load = Load::start(&house);
    let mut summary = Summary::default();
    load.more(BETWEEN).await;
    // Each fault at least once.
    while summary.faults() < Fault::ALL.len() as u64 || Instant::now() < end {
        let mut round = Fault::ALL;
        random.shuffle(&mut round);
        for fault in round {
            fault.strike(&mut house, &load, &mut random).await;
            house.wait_until_ready().await;
            load.more(BETWEEN).await;
            summary.struck(fault);
        }
    }
    let sent = load.end().await;
    house.settle().await;
    summary.events(&sent, &house).await;
    summary.memory_peak_kib = house.memory_peak_kib();
    println!("{summary}");
    assert_eq!(summary.lost, Vec::<String>::new());
    assert_eq!(sent.unexpected, Vec::<String>::new(), "answers that are neither 202 nor a 503 with Retry-After");
    assert!(summary.memory_peak_kib < house::MEMORY_BOUND_KIB, "{} KiB", summary.memory_peak_kib);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_that_is_drained_by_bridges_that_are_killed_is_delivered_in_full() {
    let count = setting("KNATS_CHAOS_BACKLOG").unwrap_or(4_000);
    let mut house = House::start_paused().await;
    house.load_backlog(count).await;
    house.resume();
    let mut kills = 0;
    loop {
        let goal = (house.sinks.steady() + count.div_ceil(4).min(20_000)).min(count);
        house.until_delivered(goal).await;
        if goal == count {
            break;
        }
        house.kill_and_restart(kills % 2).await;
        kills += 1;
    }
    house.settle().await;
    let mut summary = Summary::default();
    let sent = load::Sent::all(count);
    summary.events(&sent, &house).await;
    summary.memory_peak_kib = house.memory_peak_kib();
    println!("{kills} kills\n{summary}");
    assert!(kills >= 1, "none was killed in the middle of it");
    assert_eq!(summary.lost, Vec::<String>::new());
    assert!(summary.memory_peak_kib < house::MEMORY_BOUND_KIB, "{} KiB", summary.memory_peak_kib);
}

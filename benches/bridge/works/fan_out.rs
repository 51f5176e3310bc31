//! Owns what many subscriptions of one channel cost: themselves, and a channel that has nothing to do with them.

use std::time::Duration;

use crate::load::{Clock, Load, limit};
use crate::nats::Nats;
use crate::program::{Job, KNATS, Window, leave_backlog, start, tell_latencies, tell_memory};
use crate::report::Report;
use crate::sink::{Gate, Sink, all_have, arrived};

use super::usual::IN_FLIGHT_AT_RATE;

/// The same deliveries, to so many subscriptions each.
pub const DELIVERIES: [(&str, usize); 3] = [("deliver to 1", 1), ("deliver to 10", 10), ("deliver to 100", 100)];
pub const PER_DELIVERY: &str = "CPU µs/delivery";
/// An unrelated channel's events, while so many subscriptions of another have a backlog. With none, the machine has nothing else
/// to do; one subscription that is busy takes what there is of processors, so it is what a hundred are to be compared with.
pub const UNRELATED: [(&str, usize); 3] =
    [("unrelated, 0 busy", 0), ("unrelated, 1 busy", 1), ("unrelated, 100 busy", 100)];
/// Deliveries in all, for each event of a usual measurement.
const TIMES: usize = 4;
/// The same where they are there to keep the bridge busy: more than it delivers while somebody looks on.
const TIMES_BUSY: usize = 10;
/// A low rate, for five seconds.
const RATE: u32 = 200;
const EVENTS_AT_RATE: usize = 1_000;

/// A backlog out to 1, 10 and 100 subscriptions, with the same number of deliveries in all: events get fewer as subscriptions
/// get more, so if each costs its deliveries alone, a delivery costs the same in all three.
pub async fn cost(report: &mut Report, events: usize) {
    let mut alone = None;
    for (work, subscriptions) in DELIVERIES {
        let events = events * TIMES / subscriptions;
        let deliveries = events * subscriptions;
        let nats = Nats::start();
        leave_backlog(KNATS, &nats, events).await;
        let gate = Gate::closed();
        let sinks = Sink::start_many(subscriptions, &gate).await;
        let started = start(KNATS, &nats.url(), Job { ingress: false, sinks: &sinks, ..Job::INGEST });
        // What it costs to start subscriptions is not a cost of deliveries.
        all_have(&sinks, 1, limit(subscriptions)).await;
        let before = arrived(&sinks);
        let window = Window::open(Some(&started.process), &nats.processes);
        gate.open();
        all_have(&sinks, events, limit(deliveries)).await;
        let spent = window.close(deliveries.saturating_sub(before));
        report.add(work, KNATS, PER_DELIVERY, spent.program);
        report.add(work, KNATS, "x of 1", spent.program / *alone.get_or_insert(spent.program));
        report.add(work, KNATS, "deliveries/s", spent.events_per_second);
        report.add(work, KNATS, "NATS CPU µs/delivery", spent.nats);
        tell_memory(report, work, KNATS, &started.process);
    }
}

/// A second channel with one subscription gets events at a low rate, while the subscriptions of the first drain a backlog.
pub async fn unrelated(report: &mut Report, events: usize) {
    for (work, busy) in UNRELATED {
        let events = events * TIMES_BUSY / busy.max(1);
        let nats = Nats::start();
        if busy > 0 {
            leave_backlog(KNATS, &nats, events).await;
        }
        let gate = Gate::closed();
        let (sinks, other) = (Sink::start_many(busy, &gate).await, Sink::start(Duration::ZERO).await);
        let started = start(KNATS, &nats.url(), Job { sinks: &sinks, other: Some(&other), ..Job::INGEST });
        all_have(&sinks, 1, limit(busy)).await;
        gate.open();
        let clock = Clock::new(EVENTS_AT_RATE);
        other.measure(&clock);
        let steady = Load {
            path: "/default/other",
            rate: Some(RATE),
            in_flight: IN_FLIGHT_AT_RATE,
            ..Load::saturating(started.ingress, EVENTS_AT_RATE)
        };
        let steady = async {
            steady.run(&clock).await;
            other.wait_for(EVENTS_AT_RATE as u64, limit(EVENTS_AT_RATE)).await;
        };
        // What comes when all have theirs does not count: nobody is busy then.
        tokio::select! {
            () = steady => {}
            () = all_have(&sinks, events, limit(events * busy)), if busy > 0 => {}
        }
        report.add(work, KNATS, "events measured", other.arrived() as f64);
        tell_latencies(report, work, KNATS, other.latencies());
    }
}

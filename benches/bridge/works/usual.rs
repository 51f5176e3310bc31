//! Owns the works that both programs do: events in, events out, both at once, and what HTTP and JetStream cost by themselves.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream;

use crate::bare::{self, Publish};
use crate::load::{Clock, Load, limit};
use crate::nats::{Nats, context};
use crate::program::{IN_FLIGHT, Job, Window, leave_backlog, start, tell_latencies, tell_memory};
use crate::report::{CPU, Report};
use crate::sink::{Sink, arrived};

/// The rate of the work that asks for latency: far below what either program can do.
pub const RATE: u32 = 2_000;
pub const RATE_WORK: &str = "both at 2,000/s";
/// Six seconds of it.
const EVENTS_AT_RATE: usize = 12_000;
/// At a rate, more than are under way, so that no event waits for a connection.
pub const IN_FLIGHT_AT_RATE: usize = 256;

/// Events in, nobody takes them out.
pub async fn ingest(report: &mut Report, work: &'static str, program: &'static str, events: usize, batch: usize) {
    let nats = Nats::start();
    let started = start(program, &nats.url(), Job::INGEST);
    let window = Window::open(Some(&started.process), &nats.processes);
    Load { batch, ..Load::saturating(started.ingress, events) }.run(&Clock::new(events)).await;
    window.close(events).tell(report, work, program);
    tell_memory(report, work, program, &started.process);
}

/// A backlog out to one sink.
pub async fn deliver(
    report: &mut Report,
    work: &'static str,
    program: &'static str,
    events: usize,
    batch: Option<usize>,
) {
    let nats = Nats::start();
    leave_backlog(program, &nats, events).await;
    let sinks = [Sink::start(Duration::ZERO).await];
    let started = start(program, &nats.url(), Job { ingress: false, sinks: &sinks, batch, ..Job::INGEST });
    // What it costs to start is not a cost of the events.
    sinks[0].wait_for(1, limit(0)).await;
    let before = arrived(&sinks);
    let window = Window::open(Some(&started.process), &nats.processes);
    sinks[0].wait_for(events as u64, limit(events)).await;
    window.close(events.saturating_sub(before)).tell(report, work, program);
    tell_memory(report, work, program, &started.process);
}

/// In and out at once, as fast as it goes or at a rate.
pub async fn both(report: &mut Report, work: &'static str, program: &'static str, events: usize, rate: Option<u32>) {
    let nats = Nats::start();
    let sink = Sink::start(Duration::ZERO).await;
    let job = Job { sinks: &[Arc::clone(&sink)], ..Job::INGEST };
    let started = start(program, &nats.url(), job);
    let events = if rate.is_some() { events.min(EVENTS_AT_RATE) } else { events };
    let in_flight = if rate.is_some() { IN_FLIGHT_AT_RATE } else { IN_FLIGHT };
    let clock = Clock::new(events);
    sink.measure(&clock);
    let window = Window::open(Some(&started.process), &nats.processes);
    Load { rate, in_flight, ..Load::saturating(started.ingress, events) }.run(&clock).await;
    sink.wait_for(events as u64, limit(events)).await;
    window.close(events).tell(report, work, program);
    tell_memory(report, work, program, &started.process);
    tell_latencies(report, work, program, sink.latencies());
}

/// HTTP without JetStream, and JetStream without HTTP.
pub async fn bare(report: &mut Report, events: usize) {
    let (process, address) = bare::start_http();
    let window = Window::open(Some(&process), &[]);
    Load::saturating(address, events).run(&Clock::new(events)).await;
    let spent = window.close(events);
    report.add("ingest", bare::HTTP, CPU, spent.program);
    report.add("ingest", bare::HTTP, "events/s", spent.events_per_second);
    let nats = Nats::start();
    let config = stream::Config { name: "BARE".to_owned(), subjects: vec!["bare".to_owned()], ..Default::default() };
    context(&nats.url()).await.create_stream(config).await.unwrap();
    let publish = Publish { nats: nats.url(), subject: "bare".to_owned(), first: 0, events, in_flight: IN_FLIGHT };
    let (cpu, took) = publish.run().await;
    report.add("ingest", bare::PUBLISHER, CPU, cpu.as_secs_f64() * 1e6 / events as f64);
    report.add("ingest", bare::PUBLISHER, "events/s", events as f64 / took.as_secs_f64());
}

//! Owns a stream with three replicas that are apart: events in by way of the bridge, beside a bare publisher of the same bytes.

use crate::bare::{self, Publish};
use crate::load::{Clock, Load};
use crate::nats::{Nats, SERVERS, context, held};
use crate::program::{Job, KNATS, STREAM, SUBJECT, Spent, Window, start};
use crate::report::Report;

/// How many publishes are under way at once. Each waits for an answer from another zone: with few of them the processors, which
/// servers, bridge and load share, are left with so little to do that JetStream is the limit. With many they are it again.
pub const WORKS: [(&str, usize); 3] =
    [("r3 ingest, 16 at once", 16), ("r3 ingest, 64 at once", 64), ("r3 ingest, 256 at once", 256)];

/// Both publish to the same stream of the same cluster, one after the other, each connected to the server that leads it. Who
/// begins changes from round to round.
pub async fn replicas(report: &mut Report, events: usize, round: usize) {
    let nats = Nats::start_cluster().await;
    // Once, to bring the stream into being; only then is it known who leads it.
    drop(start(KNATS, &nats.url(), Job { replicas: SERVERS, ..Job::INGEST }));
    let leader = nats.leader_of(STREAM).await;
    let mut first = 0;
    for (work, in_flight) in WORKS {
        let mut order = [KNATS, bare::PUBLISHER];
        order.rotate_left(round % 2);
        for program in order {
            let publish = Publish { nats: leader.clone(), subject: SUBJECT.to_owned(), first, events, in_flight };
            first += events;
            measured(report, &nats, work, program, publish).await;
        }
        let [bridge, publisher] = [KNATS, bare::PUBLISHER].map(|program| report.latest(work, program, "events/s"));
        report.add(work, KNATS, "x of bare-publisher", bridge / publisher);
    }
    nats.assert_apart().await;
}

/// What went into it, with the number and the size of what the stream has more: neither program may be spared work, by an event
/// that is dropped as known or is smaller than the other's.
async fn measured(report: &mut Report, nats: &Nats, work: &'static str, program: &'static str, publish: Publish) {
    let context = context(&publish.nats).await;
    let before = held(&context, STREAM).await;
    let spent = if program == KNATS { bridge(nats, &publish).await } else { publisher(nats, &publish).await };
    let after = held(&context, STREAM).await;
    assert_eq!(after.messages - before.messages, publish.events as u64, "events of {program} that were stored");
    spent.tell(report, work, program);
    report.add(work, program, "% of a core", spent.program * spent.events_per_second / 1e4);
    report.add(work, program, "load CPU µs/event", spent.load);
    report.add(work, program, "processors busy %", spent.busy_percent);
    // With so many always under way, each takes as long as so many take to be done.
    report.add(work, program, "ms each", publish.in_flight as f64 / spent.events_per_second * 1e3);
    report.add(work, program, "bytes/event", (after.bytes - before.bytes) as f64 / publish.events as f64);
}

async fn bridge(nats: &Nats, publish: &Publish) -> Spent {
    let started = start(KNATS, &publish.nats, Job { replicas: SERVERS, ..Job::INGEST });
    let load = Load {
        first: publish.first,
        in_flight: publish.in_flight,
        ..Load::saturating(started.ingress, publish.events)
    };
    let window = Window::open(Some(&started.process), &nats.processes);
    let took = load.run(&Clock::new(publish.events)).await;
    let spent = window.close(publish.events);
    Spent { events_per_second: publish.events as f64 / took.as_secs_f64(), ..spent }
}

/// The publisher is its own load.
async fn publisher(nats: &Nats, publish: &Publish) -> Spent {
    let window = Window::open(None, &nats.processes);
    let (cpu, took) = publish.run().await;
    let events = publish.events as f64;
    let spent = window.close(publish.events);
    Spent { program: cpu.as_secs_f64() * 1e6 / events, events_per_second: events / took.as_secs_f64(), ..spent }
}

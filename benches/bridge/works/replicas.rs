//! Owns a stream with three replicas: events in by way of the bridge, beside a bare publisher of the same bytes.

use crate::bare::{self, Publish};
use crate::load::{Clock, Load};
use crate::nats::{Disk, Nats, SERVERS, context, held};
use crate::program::{Job, KNATS, STREAM, SUBJECT, Spent, Window, start};
use crate::report::Report;

/// How many publishes are under way at once: few, where each waits for the servers to agree, and many, where the servers have
/// enough to do. Three servers, the bridge and its load share the processors of one machine, though, and mostly those are the
/// limit. Where the servers wait for their disks, they are, and nothing else.
pub const WORKS: [(&str, Disk, usize); 3] = [
    ("r3 ingest, 64 at once", Disk::Later, 64),
    ("r3 ingest, 256 at once", Disk::Later, 256),
    ("r3 ingest, synced", Disk::EachWrite, 256),
];
/// Of the program, all servers and the load.
const ALL_CPU: &str = "CPU of all µs/event";
/// A write that waits for the disk takes so much longer.
const FEWER_IF_SYNCED: usize = 5;

/// The works, each kind of cluster once.
pub async fn replicas(report: &mut Report, events: usize, round: usize) {
    for disk in [Disk::Later, Disk::EachWrite] {
        on_a_cluster(report, events, round, disk).await;
    }
}

/// Both publish to the same stream of the same cluster, one after the other, each connected to the server that leads it. Who
/// begins changes from round to round.
async fn on_a_cluster(report: &mut Report, events: usize, round: usize, disk: Disk) {
    let nats = Nats::start_cluster(disk).await;
    // Once, to bring the stream into being; only then is it known who leads it.
    drop(start(KNATS, &nats.url(), Job { replicas: SERVERS, ..Job::INGEST }));
    let leader = nats.leader_of(STREAM).await;
    let events = if disk == Disk::EachWrite { (events / FEWER_IF_SYNCED).max(1) } else { events };
    let mut first = 0;
    for (work, _, in_flight) in WORKS.into_iter().filter(|work| work.1 == disk) {
        let mut order = [KNATS, bare::PUBLISHER];
        order.rotate_left(round % 2);
        for program in order {
            let publish = Publish { nats: leader.clone(), subject: SUBJECT.to_owned(), first, events, in_flight };
            first += events;
            measured(report, &nats, work, program, publish).await;
        }
        compare(report, work);
    }
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
    report.add(work, program, ALL_CPU, spent.program + spent.nats + spent.load);
    report.add(work, program, "processors busy %", spent.busy_percent);
    report.add(work, program, "bytes/event", (after.bytes - before.bytes) as f64 / publish.events as f64);
}

/// The two of this round beside each other: what came of it, and what would if nothing but the processors limited both.
fn compare(report: &mut Report, work: &'static str) {
    let ratio = |what| report.latest(work, KNATS, what) / report.latest(work, bare::PUBLISHER, what);
    let (rate, cpu) = (ratio("events/s"), ratio(ALL_CPU));
    report.add(work, KNATS, "x of bare-publisher", rate);
    report.add(work, KNATS, "x if processors were the limit", 1.0 / cpu);
}

async fn bridge(nats: &Nats, publish: &Publish) -> Spent {
    let started = start(KNATS, &publish.nats, Job { replicas: SERVERS, ..Job::INGEST });
    let load = Load {
        first: publish.first,
        in_flight: publish.in_flight,
        ..Load::saturating(started.ingress, publish.events)
    };
    let window = Window::open(Some(&started.process), &nats.processes);
    load.run(&Clock::new(publish.events)).await;
    window.close(publish.events)
}

/// The publisher is its own load.
async fn publisher(nats: &Nats, publish: &Publish) -> Spent {
    let window = Window::open(None, &nats.processes);
    let (cpu, took) = publish.run().await;
    let events = publish.events as f64;
    let spent = window.close(publish.events);
    Spent { program: cpu.as_secs_f64() * 1e6 / events, events_per_second: events / took.as_secs_f64(), ..spent }
}

//! Owns the slow sink among fast ones: whether it gets what its concurrency allows, and whether the others feel it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::limit;
use crate::nats::Nats;
use crate::program::{Job, KNATS, leave_backlog, start};
use crate::report::Report;
use crate::sink::{Gate, Sink, all_have, arrived};

const SLOW: Duration = Duration::from_millis(100);
const FAST: usize = 9;
/// Enough that the slow one has a backlog for as long as it is looked at.
const EVENTS: usize = 10_000;
/// For how long the slow one is looked at, and from when on, as its first requests have waited for the gate: both well before it
/// has all, which takes it four seconds with 256 requests at once.
const STEADY: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_millis(500);

/// Who is there beside the nine.
///
/// Nobody is what a slow sink is compared with: the nine are the same and nothing but the tenth differs. A tenth that is as fast
/// as they are would be no baseline, because it takes a tenth of the processors, which a slow one leaves to the others: they
/// would gain from it. What the slow one does get is work too, for which the nine make room when the processors are full; so the
/// deliveries of all are compared besides.
#[derive(Clone, Copy, PartialEq)]
enum Tenth {
    Absent,
    Slow,
    Fast,
}

/// What came of it, a second.
struct Pace {
    each_of_nine: f64,
    all: f64,
    /// The tenth's alone, and the most requests that were open with it at once.
    tenth: Option<(f64, u64)>,
}

/// The same backlog to the nine with each of the three, one after the other. Who begins changes from round to round.
pub async fn slow(report: &mut Report, events: usize, round: usize) {
    let events = events.max(EVENTS);
    let mut order = [(Tenth::Absent, "9 sinks"), (Tenth::Slow, "9 sinks and 1 slow"), (Tenth::Fast, "10 sinks")];
    order.rotate_left(round % 3);
    let mut paces = Vec::new();
    for (tenth, work) in order {
        paces.push((tenth, work, drain(tenth, events).await));
    }
    let alone =
        paces.iter().find(|pace| pace.0 == Tenth::Absent).map(|pace| (pace.2.each_of_nine, pace.2.all)).unwrap();
    paces.sort_by_key(|pace| pace.0 as u8);
    for (_, work, pace) in paces {
        report.add(work, KNATS, "events/s each of 9", pace.each_of_nine);
        report.add(work, KNATS, "x of 9 sinks", pace.each_of_nine / alone.0);
        report.add(work, KNATS, "deliveries/s of all", pace.all);
        report.add(work, KNATS, "x of 9 sinks, all", pace.all / alone.1);
        if let Some((rate, most_open)) = pace.tenth {
            report.add(work, KNATS, "events/s of the tenth", rate);
            report.add(work, KNATS, "most open at the tenth", most_open as f64);
        }
    }
}

async fn drain(tenth: Tenth, events: usize) -> Pace {
    let nats = Nats::start();
    leave_backlog(KNATS, &nats, events).await;
    let gate = Gate::closed();
    let mut sinks = Sink::start_many(FAST, &gate).await;
    match tenth {
        Tenth::Absent => {}
        Tenth::Slow => sinks.push(Sink::start_behind(&gate, SLOW).await),
        Tenth::Fast => sinks.push(Sink::start_behind(&gate, Duration::ZERO).await),
    }
    let limit = limit(events * sinks.len());
    let _started = start(KNATS, &nats.url(), Job { ingress: false, sinks: &sinks, ..Job::INGEST });
    all_have(&sinks, 1, limit).await;
    gate.open();
    let (began, before, before_nine) = (Instant::now(), arrived(&sinks), arrived(&sinks[..FAST]));
    let nine = async {
        all_have(&sinks[..FAST], events, limit).await;
        (began.elapsed().as_secs_f64(), arrived(&sinks))
    };
    let ((seconds, after), tenth) = tokio::join!(nine, steady(sinks.get(FAST)));
    Pace {
        each_of_nine: (events * FAST - before_nine) as f64 / FAST as f64 / seconds,
        all: (after - before) as f64 / seconds,
        tenth,
    }
}

/// What a sink gets a second while it has a backlog, and the most requests that are open with it at once.
async fn steady(sink: Option<&Arc<Sink>>) -> Option<(f64, u64)> {
    let sink = sink?;
    tokio::time::sleep(SETTLE).await;
    let (before, _) = (sink.arrived(), sink.most_open());
    tokio::time::sleep(STEADY).await;
    Some(((sink.arrived() - before) as f64 / STEADY.as_secs_f64(), sink.most_open()))
}

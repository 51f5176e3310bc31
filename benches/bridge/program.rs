//! Owns how the programs under test are started for a work, and what they have used meanwhile.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::{Clock, Load};
use super::nats::Nats;
use super::process::{self, Process, free_port, wait_for, wait_until_ready};
use super::report::{BASELINE, CPU, Report};
use super::sink::Sink;

pub const KNATS: &str = "knats";
pub const STRAIGHTFORWARD: &str = BASELINE;
/// The stream of the bridge's channel `default/foo`, and its subject.
pub const STREAM: &str = "KN_DEFAULT__FOO";
pub const SUBJECT: &str = "foo.default";
/// Requests under way at once unless said.
pub const IN_FLIGHT: usize = 64;
/// Events in one request where a backlog is only made to be measured on its way out.
const BATCH: usize = 100;
/// How long a bridge may take until it is ready: to connect, and for each subscription.
const START: Duration = Duration::from_secs(30);
const START_EACH: Duration = Duration::from_millis(50);

/// What a program is started for.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Whether it takes events in.
    pub ingress: bool,
    /// A subscription for each, on the channel `foo`.
    pub sinks: &'a [Arc<Sink>],
    /// A subscription on a channel of its own, `other`.
    pub other: Option<&'a Sink>,
    /// Events in one request to a sink.
    pub batch: Option<usize>,
    /// Servers that hold a copy of the channel's stream.
    pub replicas: usize,
}

impl Job<'_> {
    /// Takes events in, and nobody takes them out.
    pub const INGEST: Self = Self { ingress: true, sinks: &[], other: None, batch: None, replicas: 1 };
}

/// A program at work, and where it takes events in.
pub struct Started {
    pub process: Process,
    pub ingress: SocketAddr,
    _manifests: tempfile::TempDir,
}

/// Starts a program. One that takes events in is ready when this returns; one that does not may be at work already.
pub fn start(program: &str, nats: &str, job: Job<'_>) -> Started {
    let manifests = tempfile::tempdir().unwrap();
    let [ingress, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let process = if program == KNATS {
        write_manifests(manifests.path(), job);
        start_bridge(nats, manifests.path(), ingress, admin, job)
    } else {
        start_straightforward(nats, ingress, job)
    };
    if job.ingress {
        wait_for(ingress);
        if program == KNATS {
            let subscriptions = u32::try_from(job.sinks.len()).unwrap();
            wait_until_ready(admin, START + START_EACH * subscriptions);
        }
    }
    Started { process, ingress, _manifests: manifests }
}

fn start_bridge(nats: &str, manifests: &Path, ingress: SocketAddr, admin: SocketAddr, job: Job<'_>) -> Process {
    let mut arguments = vec!["serve".to_owned(), "--default-channel".to_owned(), "default/foo".to_owned()];
    let settings = [
        ("--nats-url", nats.to_owned()),
        ("-f", manifests.display().to_string()),
        ("--listen", ingress.to_string()),
        ("--admin-listen", admin.to_string()),
    ];
    arguments.extend(settings.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    let role = match (job.ingress, job.sinks.is_empty() && job.other.is_none()) {
        (true, true) => Some("ingress"),
        (true, false) => None,
        (false, _) => Some("dispatcher"),
    };
    arguments.extend(role.into_iter().flat_map(|role| ["--role".to_owned(), role.to_owned()]));
    Process::start(Path::new(env!("CARGO_BIN_EXE_knats")), &arguments)
}

/// The program of the baseline is a mode of this one.
fn start_straightforward(nats: &str, ingress: SocketAddr, job: Job<'_>) -> Process {
    let threads = (std::thread::available_parallelism().map_or(2, usize::from) / 2).max(1);
    let mut arguments = vec![STRAIGHTFORWARD.to_owned(), format!("--nats={nats}"), format!("--threads={threads}")];
    arguments.extend(job.ingress.then(|| format!("--listen={ingress}")));
    arguments.extend(job.sinks.first().map(|sink| format!("--sink={}", sink.url())));
    Process::start(&std::env::current_exe().unwrap(), &arguments)
}

/// Leaves a backlog on a server by way of a program that ends then.
pub async fn leave_backlog(program: &str, nats: &Nats, events: usize) {
    let started = start(program, &nats.url(), Job::INGEST);
    let batch = if program == KNATS { BATCH } else { 1 };
    Load { batch, ..Load::saturating(started.ingress, events) }.run(&Clock::new(events)).await;
}

/// A channel and its subscriptions, one for each sink; more than some hundreds are spread over further channels and files, as a
/// file holds a bounded number of documents and a stream of consumers.
fn write_manifests(directory: &Path, job: Job<'_>) {
    const EACH: usize = 500;
    let annotations =
        job.batch.map_or_else(String::new, |size| format!(", annotations: {{knats.dev/batch: \"{size}/50ms\"}}"));
    for file in 0..job.sinks.len().div_ceil(EACH).max(1) {
        let name = if file == 0 { "foo".to_owned() } else { format!("foo{file}") };
        let mut text = channel(&name, job.replicas);
        for (at, sink) in job.sinks.iter().enumerate().skip(file * EACH).take(EACH) {
            text.push_str(&subscription(&format!("s{at}{annotations}"), &name, sink));
        }
        std::fs::write(directory.join(format!("{file}.yaml")), text).unwrap();
    }
    if let Some(sink) = job.other {
        let text = channel("other", job.replicas) + &subscription("other", "other", sink);
        std::fs::write(directory.join("other.yaml"), text).unwrap();
    }
}

fn channel(name: &str, replicas: usize) -> String {
    format!(
        "{{apiVersion: messaging.knative.dev/v1alpha1, kind: NatsJetStreamChannel, metadata: {{name: {name}}}, \
         spec: {{stream: {{config: {{replicas: {replicas}}}}}}}}}\n"
    )
}

fn subscription(metadata: &str, channel: &str, sink: &Sink) -> String {
    format!(
        "---\n{{apiVersion: messaging.knative.dev/v1, kind: Subscription, metadata: {{name: {metadata}}}, spec: {{\
         channel: {{apiVersion: messaging.knative.dev/v1alpha1, kind: NatsJetStreamChannel, name: {channel}}}, \
         subscriber: {{uri: \"{}\"}}}}}}\n",
        sink.url()
    )
}

/// What a program, NATS and this process (load and sinks) have used since some moment.
pub struct Window<'a> {
    program: Option<&'a Process>,
    nats: &'a [Process],
    began: Instant,
    before: [Duration; 3],
    machine: (u64, u64),
}

/// The same in all, in µs for each event.
pub struct Spent {
    pub program: f64,
    pub nats: f64,
    pub load: f64,
    pub events_per_second: f64,
    /// The share of all processors of the machine that was in use.
    pub busy_percent: f64,
}

impl<'a> Window<'a> {
    /// Opens now. Without a program, what that uses is not part of it.
    pub fn open(program: Option<&'a Process>, nats: &'a [Process]) -> Self {
        let mut window =
            Self { program, nats, began: Instant::now(), before: Default::default(), machine: process::machine() };
        window.before = window.used();
        window
    }

    fn used(&self) -> [Duration; 3] {
        let program = self.program.map_or(Duration::ZERO, Process::cpu);
        [program, self.nats.iter().map(Process::cpu).sum(), Process::own_cpu()]
    }

    /// Closes now, when so many events have been dealt with in it.
    pub fn close(self, events: usize) -> Spent {
        let (took, used) = (self.began.elapsed(), self.used());
        let events = events.max(1) as f64;
        let micros = |at: usize| used[at].saturating_sub(self.before[at]).as_secs_f64() * 1e6 / events;
        let (worked, rested) = process::machine();
        let (worked, rested) = (worked - self.machine.0, rested.saturating_sub(self.machine.1));
        Spent {
            program: micros(0),
            nats: micros(1),
            load: micros(2),
            events_per_second: events / took.as_secs_f64(),
            busy_percent: worked as f64 / (worked + rested).max(1) as f64 * 100.0,
        }
    }
}

impl Spent {
    /// The figures that every work has.
    pub fn tell(&self, report: &mut Report, work: &'static str, program: &'static str) {
        report.add(work, program, CPU, self.program);
        report.add(work, program, "events/s", self.events_per_second);
        report.add(work, program, "NATS CPU µs/event", self.nats);
    }
}

/// Resident memory of a process at most so far.
pub fn tell_memory(report: &mut Report, work: &'static str, program: &'static str, process: &Process) {
    report.add(work, program, "memory MiB", process.memory().1 as f64 / 1024.0);
}

/// The latencies of a work, from when an event was to be sent until it was with its sink.
pub fn tell_latencies(report: &mut Report, work: &'static str, program: &'static str, mut latencies: Vec<Duration>) {
    latencies.sort();
    for (what, part) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
        let at = (latencies.len() as f64 * part) as usize;
        let at = at.min(latencies.len().saturating_sub(1));
        // None when the work was over before it was measured.
        if let Some(latency) = latencies.get(at) {
            report.add(work, program, what, latency.as_secs_f64() * 1000.0);
        }
    }
}

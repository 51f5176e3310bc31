//! What an event costs, from outside: starts nats-server, the bridge, sinks and a source, and beside the bridge in the same run
//! the straightforward program, so that the ratio of the two holds on any machine.
//!
//! `cargo bench --bench bridge` (all works, 5 rounds), or for instance
//! `cargo bench --bench bridge -- --rounds 3 --only ingest,both --json out.json --svg docs/performance.svg`.
//! It needs the nats-server that `make tools` fetches, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to report")]
#![allow(unreachable_pub, reason = "one program")]
#![allow(
    clippy::disallowed_methods,
    reason = "the straightforward program does what it should not; elsewhere nothing else waits"
)]
#![allow(clippy::cast_precision_loss, reason = "figures are approximate")]

mod load;
mod process;
mod report;
mod sink;
mod straightforward;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{Clock, Load};
use process::{Nats, Process, free_port, wait_for};
use report::{CPU, Report};
use sink::Sink;

const KNATS: &str = "knats";
const STRAIGHTFORWARD: &str = report::BASELINE;
/// HTTP without JetStream, and the other way round.
const BARE_HTTP: &str = "bare-http";
const BARE_PUBLISHER: &str = "bare-publisher";
const IN_FLIGHT: usize = 64;
/// The rate of the work that asks for latency: far below what either program can do.
const RATE: u32 = 2_000;
const DRAIN: Duration = Duration::from_secs(120);
/// How long an idle bridge is watched.
const IDLE: Duration = Duration::from_secs(20);

/// What is measured; see [`usage`].
struct Options {
    rounds: usize,
    events: usize,
    idle: usize,
    backlog: usize,
    only: Vec<String>,
    json: Option<String>,
    svg: Option<String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == STRAIGHTFORWARD) {
        let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name)).map(str::to_owned);
        let settings = straightforward::Settings {
            nats: value("--nats=").unwrap(),
            listen: value("--listen="),
            sink: value("--sink="),
        };
        let threads = value("--threads=").unwrap().parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        return runtime.unwrap().block_on(straightforward::run(settings));
    }
    if let [mode, rest @ ..] = arguments.as_slice()
        && let Some(work) = bare(mode, rest)
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work);
        // For the one who waits for the end and can look at us no more.
        return println!("{}", Process::own_cpu().as_micros());
    }
    let options = options(&arguments);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(run(&options));
    print!("{}", report.text());
    if let Some(path) = options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json()).unwrap()).unwrap();
    }
    if let Some(path) = options.svg {
        std::fs::write(path, report.svg()).unwrap();
    }
}

/// The programs that show what HTTP and JetStream cost by themselves.
fn bare(mode: &str, rest: &[String]) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let rest = rest.to_vec();
    match mode {
        BARE_HTTP => Some(Box::pin(async move { straightforward::bare_http(&rest[0]).await })),
        BARE_PUBLISHER => Some(Box::pin(async move {
            let events = rest[1].parse().unwrap();
            straightforward::bare_publisher(&rest[0], events, IN_FLIGHT, load::DATA).await;
        })),
        _ => None,
    }
}

fn options(arguments: &[String]) -> Options {
    let mut options =
        Options { rounds: 5, events: 50_000, idle: 5_000, backlog: 200_000, only: Vec::new(), json: None, svg: None };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().unwrap_or_else(|| usage(argument));
        let mut number = || value().parse().unwrap_or_else(|_| usage(argument));
        match argument.as_str() {
            // What cargo says to every bench.
            "--bench" => {}
            "--rounds" => options.rounds = number(),
            "--events" => options.events = number(),
            "--idle" => options.idle = number(),
            "--backlog" => options.backlog = number(),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--json" => options.json = Some(value()),
            "--svg" => options.svg = Some(value()),
            other => usage(other),
        }
    }
    options
}

fn usage(fault: &str) -> ! {
    eprintln!(
        "what to do with '{fault}'?\n\
         --rounds N    how often each work is measured, the programs in turn (5)\n\
         --events N    events of one measurement (50000)\n\
         --idle N      subscriptions of the idle bridge (5000)\n\
         --backlog N   events of the backlog whose drain shows the memory (200000)\n\
         --only A,B    of: ingest, deliver, both, rate, bare, batch-in, batch-out, fan-out, slow, idle, memory\n\
         --json FILE   the figures as JSON\n\
         --svg FILE    a chart of the CPU per event"
    );
    std::process::exit(2);
}

async fn run(options: &Options) -> Report {
    let mut report = Report::default();
    let wanted = |work: &str| options.only.is_empty() || options.only.iter().any(|only| only == work);
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for program in [STRAIGHTFORWARD, KNATS] {
            let bench = Bench { program, events: options.events };
            if wanted("ingest") {
                bench.ingest(&mut report, "ingest", 1).await;
            }
            if wanted("deliver") {
                bench.deliver(&mut report, "deliver", 1, None).await;
            }
            if wanted("both") {
                bench.both(&mut report, "both", None).await;
            }
            if wanted("rate") {
                bench.both(&mut report, "both at 2,000/s", Some(RATE)).await;
            }
        }
        let bench = Bench { program: KNATS, events: options.events };
        if wanted("bare") {
            bare_baselines(&mut report, &bench).await;
        }
        if wanted("batch-in") {
            bench.ingest(&mut report, "ingest by 100", 100).await;
        }
        if wanted("batch-out") {
            bench.deliver(&mut report, "deliver by 100", 1, Some(100)).await;
        }
        if wanted("fan-out") {
            bench.deliver(&mut report, "deliver to 1", 1, None).await;
            bench.deliver(&mut report, "deliver to 10", 10, None).await;
            let fewer = Bench { program: KNATS, events: options.events / 10 };
            fewer.deliver(&mut report, "deliver to 100", 100, None).await;
        }
        if wanted("slow") {
            bench.slow(&mut report).await;
        }
        if wanted("idle") {
            idle(&mut report, options.idle).await;
        }
        if wanted("memory") {
            let bench = Bench { program: KNATS, events: options.backlog };
            bench.deliver(&mut report, "drain a backlog", 1, None).await;
        }
    }
    report
}

/// One program and how much it is given to do.
struct Bench {
    program: &'static str,
    events: usize,
}

/// Where the program takes events in, and the program.
struct Started {
    process: Process,
    ingress: SocketAddr,
    _manifests: tempfile::TempDir,
}

impl Bench {
    /// Starts the program with these halves.
    fn start(&self, nats: &Nats, ingress: bool, sinks: &[Arc<Sink>], batch: Option<usize>) -> Started {
        let manifests = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (program, arguments) = if self.program == KNATS {
            write_manifests(manifests.path(), sinks, batch);
            let mut arguments = vec!["serve".into(), "--nats-url".into(), nats.url(), "-f".into()];
            arguments.push(manifests.path().display().to_string());
            arguments.extend([
                "--listen".into(),
                address.to_string(),
                "--default-channel".into(),
                "default/foo".into(),
            ]);
            arguments.extend(["--admin-listen".into(), format!("127.0.0.1:{}", free_port())]);
            if sinks.is_empty() {
                arguments.extend(["--role".into(), "ingress".into()]);
            } else if !ingress {
                arguments.extend(["--role".into(), "dispatcher".into()]);
            }
            (env!("CARGO_BIN_EXE_knats").into(), arguments)
        } else {
            let threads = (std::thread::available_parallelism().map_or(2, usize::from) / 2).max(1);
            let mut arguments =
                vec![STRAIGHTFORWARD.into(), format!("--nats={}", nats.url()), format!("--threads={threads}")];
            arguments.extend(ingress.then(|| format!("--listen={address}")));
            arguments.extend(sinks.first().map(|sink| format!("--sink={}", sink.url())));
            (std::env::current_exe().unwrap(), arguments)
        };
        let process = Process::start(&program, &arguments);
        if ingress {
            wait_for(address);
            // Connected and its channel in place; both programs say 503 before.
            std::thread::sleep(Duration::from_millis(500));
        }
        Started { process, ingress: address, _manifests: manifests }
    }

    fn load(&self, to: SocketAddr, rate: Option<u32>, batch: usize) -> Load {
        let in_flight = if rate.is_some() { 256 } else { IN_FLIGHT };
        Load { to, path: "/", events: self.events, in_flight, rate, batch }
    }

    /// Events in, nobody takes them out.
    async fn ingest(&self, report: &mut Report, work: &'static str, batch: usize) {
        let nats = Nats::start();
        let started = self.start(&nats, true, &[], None);
        let before = (started.process.used().cpu, nats.process.used().cpu);
        let took = self.load(started.ingress, None, batch).run(&Clock::new(self.events)).await;
        self.tell(report, work, self.events, took, before, (&started.process, &nats.process));
    }

    /// A backlog out, to so many sinks.
    async fn deliver(&self, report: &mut Report, work: &'static str, sinks: usize, batch: Option<usize>) {
        let nats = Nats::start();
        {
            let started = self.start(&nats, true, &[], None);
            self.load(started.ingress, None, 1).run(&Clock::new(self.events)).await;
        }
        let mut all = Vec::new();
        for _ in 0..sinks {
            all.push(Sink::start(Duration::ZERO).await);
        }
        let before_nats = nats.process.used().cpu;
        let started = self.start(&nats, false, &all, batch);
        all[0].wait_for(1, DRAIN).await;
        let (began, before) = (Instant::now(), started.process.used().cpu);
        for sink in &all {
            sink.wait_for(self.events as u64, DRAIN).await;
        }
        let took = began.elapsed();
        let pair = (&started.process, &nats.process);
        self.tell(report, work, self.events * sinks, took, (before, before_nats), pair);
    }

    /// In and out at once, as fast as it goes or at a rate.
    async fn both(&self, report: &mut Report, work: &'static str, rate: Option<u32>) {
        let nats = Nats::start();
        let sink = Sink::start(Duration::ZERO).await;
        let started = self.start(&nats, true, &[Arc::clone(&sink)], None);
        let bench = Bench { events: if rate.is_some() { self.events.min(12_000) } else { self.events }, ..*self };
        let clock = Clock::new(bench.events);
        sink.measure(&clock);
        let before = (started.process.used().cpu, nats.process.used().cpu);
        let began = Instant::now();
        bench.load(started.ingress, rate, 1).run(&clock).await;
        sink.wait_for(bench.events as u64, DRAIN).await;
        self.tell(report, work, bench.events, began.elapsed(), before, (&started.process, &nats.process));
        let mut latencies = sink.latencies();
        latencies.sort();
        for (what, part) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
            let at = (latencies.len() as f64 * part) as usize;
            report.add(work, self.program, what, latencies[at.min(latencies.len() - 1)].as_secs_f64() * 1000.0);
        }
    }

    /// Ten sinks; then the same with one of them slow. What the other nine get is compared.
    async fn slow(&self, report: &mut Report) {
        for (work, delay) in [("9 of 10 sinks, all fast", 0), ("9 of 10 sinks, 1 slow", 100)] {
            let nats = Nats::start();
            {
                let started = self.start(&nats, true, &[], None);
                self.load(started.ingress, None, 1).run(&Clock::new(self.events)).await;
            }
            let mut sinks = vec![Sink::start(Duration::from_millis(delay)).await];
            for _ in 1..10 {
                sinks.push(Sink::start(Duration::ZERO).await);
            }
            let started = self.start(&nats, false, &sinks, None);
            sinks[1].wait_for(1, DRAIN).await;
            let (began, slow_before) = (Instant::now(), sinks[0].arrived());
            for sink in &sinks[1..] {
                sink.wait_for(self.events as u64, DRAIN).await;
            }
            let seconds = began.elapsed().as_secs_f64();
            report.add(work, self.program, "events/s each", self.events as f64 / seconds);
            report.add(
                work,
                self.program,
                "events/s of the tenth",
                (sinks[0].arrived() - slow_before) as f64 / seconds,
            );
            drop(started);
        }
    }

    fn tell(
        &self,
        report: &mut Report,
        work: &'static str,
        events: usize,
        took: Duration,
        before: (Duration, Duration),
        after: (&Process, &Process),
    ) {
        let micros = |before: Duration, process: &Process| {
            process.used().cpu.saturating_sub(before).as_secs_f64() * 1e6 / events as f64
        };
        report.add(work, self.program, CPU, micros(before.0, after.0));
        report.add(work, self.program, "events/s", events as f64 / took.as_secs_f64());
        report.add(work, self.program, "NATS CPU µs/event", micros(before.1, after.1));
        report.add(work, self.program, "memory MiB", after.0.memory().1 as f64 / 1024.0);
    }
}

/// HTTP without JetStream, and JetStream without HTTP.
async fn bare_baselines(report: &mut Report, bench: &Bench) {
    let own = std::env::current_exe().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let process = Process::start(&own, &[BARE_HTTP.to_owned(), address.to_string()]);
    wait_for(address);
    let before = process.used().cpu;
    let took = bench.load(address, None, 1).run(&Clock::new(bench.events)).await;
    let cpu = process.used().cpu.saturating_sub(before);
    let per_event = |cpu: Duration| cpu.as_secs_f64() * 1e6 / bench.events as f64;
    report.add("ingest", BARE_HTTP, CPU, per_event(cpu));
    report.add("ingest", BARE_HTTP, "events/s", bench.events as f64 / took.as_secs_f64());
    let nats = Nats::start();
    let began = Instant::now();
    let arguments = [BARE_PUBLISHER.to_owned(), nats.url(), bench.events.to_string()];
    let output = tokio::process::Command::new(&own).args(&arguments).output().await.unwrap();
    let micros = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    report.add("ingest", BARE_PUBLISHER, CPU, per_event(Duration::from_micros(micros)));
    report.add("ingest", BARE_PUBLISHER, "events/s", bench.events as f64 / began.elapsed().as_secs_f64());
}

/// A bridge with many subscriptions to which nothing happens.
async fn idle(report: &mut Report, subscriptions: usize) {
    let nats = Nats::start();
    let sink = Sink::start(Duration::ZERO).await;
    let bench = Bench { program: KNATS, events: 0 };
    let empty = {
        let started = bench.start(&nats, true, &[], None);
        started.process.memory().0
    };
    let sinks: Vec<_> = (0..subscriptions).map(|_| Arc::clone(&sink)).collect();
    let started = bench.start(&nats, true, &sinks, None);
    // All are in place when their consumers stop costing anything to make.
    let mut quiet = 0;
    let mut last = nats.process.used().cpu;
    while quiet < 3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = nats.process.used().cpu;
        quiet = if now.saturating_sub(last) < Duration::from_millis(200) { quiet + 1 } else { 0 };
        last = now;
    }
    let (before, before_nats) = (started.process.used().cpu, nats.process.used().cpu);
    tokio::time::sleep(IDLE).await;
    let share = |before: Duration, process: &Process| {
        process.used().cpu.saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64() * 100.0
    };
    let memory = started.process.memory().0;
    report.add("idle", KNATS, "% of a core", share(before, &started.process));
    report.add("idle", KNATS, "NATS % of a core", share(before_nats, &nats.process));
    report.add("idle", KNATS, "memory MiB", memory as f64 / 1024.0);
    report.add("idle", KNATS, "KiB/subscription", memory.saturating_sub(empty) as f64 / subscriptions.max(1) as f64);
    report.add("idle", KNATS, "memory MiB without", empty as f64 / 1024.0);
}

/// A channel and its subscriptions, one for each sink; more than some hundreds are spread over further channels and files, as a
/// file holds a bounded number of documents and a stream of consumers.
fn write_manifests(directory: &Path, sinks: &[Arc<Sink>], batch: Option<usize>) {
    const EACH: usize = 500;
    let annotations =
        batch.map_or_else(String::new, |size| format!(", annotations: {{knats.dev/batch: \"{size}/50ms\"}}"));
    for file in 0..sinks.len().div_ceil(EACH).max(1) {
        let channel = if file == 0 { "foo".to_owned() } else { format!("foo{file}") };
        let mut text = format!(
            "{{apiVersion: messaging.knative.dev/v1alpha1, kind: NatsJetStreamChannel, metadata: {{name: {channel}}}}}\n"
        );
        for (at, sink) in sinks.iter().enumerate().skip(file * EACH).take(EACH) {
            text.push_str(&format!(
                "---\n{{apiVersion: messaging.knative.dev/v1, kind: Subscription, metadata: {{name: s{at}{annotations}}}, spec: {{\
                 channel: {{apiVersion: messaging.knative.dev/v1alpha1, kind: NatsJetStreamChannel, name: {channel}}}, \
                 subscriber: {{uri: \"{}\"}}}}}}\n",
                sink.url()
            ));
        }
        std::fs::write(directory.join(format!("{file}.yaml")), text).unwrap();
    }
}

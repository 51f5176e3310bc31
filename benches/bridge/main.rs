//! What an event costs, from outside: starts nats-server, the bridge, sinks and a source, and beside the bridge in the same run
//! the straightforward program, so that the ratio of the two holds on any machine.
//!
//! `cargo bench --bench bridge` (all works, 5 rounds), or for instance
//! `cargo bench --bench bridge -- --rounds 3 --only ingest,both --json out.json --svg docs/charts`.
//! It needs the nats-server that `make tools` fetches, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench that fails has nothing to report")]
#![allow(unreachable_pub, reason = "one program")]
#![allow(
    clippy::disallowed_methods,
    reason = "the straightforward program does what it should not; elsewhere nothing else waits"
)]
#![allow(clippy::cast_precision_loss, reason = "figures are approximate")]

mod bare;
mod charts;
mod load;
mod nats;
mod process;
mod program;
mod report;
mod sink;
mod straightforward;
mod works;
mod zones;

use std::path::Path;

use program::STRAIGHTFORWARD;
use works::Amount;

/// What is measured, and where it goes besides the terminal; see [`usage`].
struct Options {
    amount: Amount,
    json: Option<String>,
    svg: Option<String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((mode, rest)) if mode == STRAIGHTFORWARD => straightforward(rest),
        Some((mode, rest)) if mode == bare::HTTP => on_one_thread(bare::http(&rest[0])),
        Some((mode, rest)) if mode == bare::PUBLISHER => {
            on_one_thread(bare::Publish::from_arguments(rest).publish());
        }
        _ => bench(&options(&arguments)),
    }
}

fn bench(options: &Options) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(works::run(&options.amount));
    print!("{}", report.text());
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json()).unwrap()).unwrap();
    }
    if let Some(directory) = &options.svg {
        charts::write(&report, Path::new(directory));
    }
}

fn straightforward(arguments: &[String]) {
    let value = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name)).map(str::to_owned);
    let settings = straightforward::Settings {
        nats: value("--nats=").unwrap(),
        listen: value("--listen="),
        sink: value("--sink="),
    };
    let threads = value("--threads=").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.unwrap().block_on(straightforward::run(settings));
}

fn on_one_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn options(arguments: &[String]) -> Options {
    let amount = Amount { rounds: 5, events: 50_000, idle: 5_000, backlog: 1_000_000, only: Vec::new() };
    let mut options = Options { amount, json: None, svg: None };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().cloned().unwrap_or_else(|| usage(argument));
        let mut number = || value().parse().unwrap_or_else(|_| usage(argument));
        match argument.as_str() {
            // What cargo says to every bench.
            "--bench" => {}
            "--rounds" => options.amount.rounds = number(),
            "--events" => options.amount.events = number(),
            "--idle" => options.amount.idle = number(),
            "--backlog" => options.amount.backlog = number(),
            "--only" => options.amount.only = value().split(',').map(known).collect(),
            "--json" => options.json = Some(value()),
            "--svg" => options.svg = Some(value()),
            "--help" => {
                print!("{}", help());
                std::process::exit(0);
            }
            other => usage(other),
        }
    }
    options
}

fn known(work: &str) -> String {
    if !works::NAMES.split(", ").any(|name| name == work) {
        usage(work);
    }
    work.to_owned()
}

fn usage(fault: &str) -> ! {
    eprint!("what to do with '{fault}'?\n{}", help());
    std::process::exit(2);
}

fn help() -> String {
    let (names, long) = (works::NAMES, works::ROUNDS_OF_LONG_ONES);
    format!(
        "--rounds N    how often each work is measured, the programs in turn (5); fan-out, unrelated, slow, r3, idle and\n\
         \x20             memory take a minute or so each and are measured {long} times at most\n\
         --events N    events of one measurement (50000)\n\
         --idle N      subscriptions of the idle bridge (5000)\n\
         --backlog N   events of the backlog whose drain shows the memory (1000000)\n\
         --only A,B    of: {names}\n\
         --json FILE   the figures as JSON\n\
         --svg DIR     charts of what was measured, one file each\n"
    )
}

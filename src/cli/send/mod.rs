//! `knats send`: sends CloudEvents made from flags, or read from a file or standard input.
//!
//! Two halves joined by a channel of requests: one makes or reads events ([`make`], [`read`]), paces and gathers them
//! ([`produce`]); the other sends them ([`deliver`]).

mod deliver;
mod make;
mod produce;
mod read;
mod template;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::overrides::Overrides;
use super::progress::Progress;
use super::say;
use super::sender::{Mode, Sender};
use crate::event::Event;
use deliver::Delivery;
use produce::{Flow, Pace, Producer};
use template::{Moment, Template};

/// From more events on it is speed that counts: many requests are under way at once, and on a terminal a line of progress
/// stands for the lines of events.
const LONG_RUN: u64 = 100;
/// Requests under way at once in a long run.
const MANY: u16 = 64;
/// Requests that are ready before the sink takes them.
const READY: usize = 1;

// Spaces in the templates: clap takes `{n}` for the end of a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    knats send --to http://127.0.0.1:8080/default/foo --type dev.example.rate --data '{\"rate\":\"106.53\"}'\n  \
    knats send --to http://127.0.0.1:8080/default/foo --file - < events.ndjson\n  \
    knats send --to http://127.0.0.1:8080/default/foo --count 10000 --rate 500 --id 'order-{{ n }}' \\\n    \
    --data '{\"at\":\"{{ time }}\",\"amount\":{{ random 10 100 }}}'\n\n\
    Templates, in the values of --type, --source, --id, --subject, --data and --ext: {{ n }} is the number of the event\n\
    from 1, {{ time }} when it was made, {{ uuid }} a new UUID, {{ random LOW HIGH }} a whole number, bounds included.\n\n\
    K_SINK is the target when --to is not given; the extensions in K_CE_OVERRIDES are set on every event.\n\
    Each accepted event is told on standard output. Ends with 1 when the sink refuses an event or cannot be reached;\n\
    events before it are sent then.")]
pub(super) struct Args {
    /// Where to send [default: $K_SINK]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    flags: make::Flags,
    /// An extension; on every event of a file, too
    #[arg(long, value_name = "NAME=VALUE", value_parser = extension)]
    ext: Vec<(String, Template)>,
    /// Send the events of a file, `-` for standard input: one JSON event a line, or one JSON document with an event or an
    /// array of events when its name ends with .json
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kind", "source", "id", "subject", "data", "content_type"])]
    file: Option<PathBuf>,
    /// How many events [default: 1, or all of the file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Events a second, evenly [default: as fast as they are accepted]
    #[arg(long, value_name = "N", value_parser = produce::rate)]
    rate: Option<f64>,
    /// Content mode of the requests
    #[arg(long, value_enum, default_value_t = Mode::Binary)]
    mode: Mode,
    /// Events in one request of batch mode
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// Requests under way at once; with 1 events leave in order [default: 1; 64 when --count is more than 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: Option<u16>,
    /// How often a request is tried again when the sink is not there or too busy
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let (requests, ready) = mpsc::channel(READY);
    let producer = args.producer(requests)?;
    let mut delivery = args.delivery()?;
    if args.is_series() && args.file.is_none() && args.flags.always_makes_the_same() {
        tracing::warn!("all events have one source and id, and count as one: --id 'x-{{{{n}}}}' makes them differ");
    }
    let result = tokio::select! {
        result = send(&args, producer, &mut delivery, ready) => result,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    delivery.progress.clear();
    if args.is_series() {
        say(&summary(&delivery))?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Lets both halves run to their end. What was wrong with a request is told before what was wrong with the input.
async fn send(
    args: &Args,
    producer: Producer,
    delivery: &mut Delivery,
    ready: mpsc::Receiver<Vec<Event>>,
) -> anyhow::Result<()> {
    let mut producing = std::pin::pin!(produce(args, producer));
    let mut delivering = std::pin::pin!(delivery.all(ready));
    tokio::select! {
        produced = &mut producing => {
            delivering.await?;
            produced
        }
        // Before the input has ended: a failure. A read of standard input is not waited for.
        delivered = &mut delivering => delivered,
    }
}

async fn produce(args: &Args, mut producer: Producer) -> anyhow::Result<()> {
    let produced = match &args.file {
        Some(path) => read::file(path, &mut producer).await,
        None => make_all(args, &mut producer).await,
    };
    // What came before a fault is sent, so that a repeat can start there.
    producer.flush().await;
    produced
}

async fn make_all(args: &Args, producer: &mut Producer) -> anyhow::Result<()> {
    loop {
        let event = args.flags.event(&Moment::now(producer.pushed + 1))?;
        if producer.push(event, "the event").await? == Flow::Enough {
            return Ok(());
        }
    }
}

fn summary(delivery: &Delivery) -> String {
    let Delivery { accepted, under_way, .. } = delivery;
    let events = if *accepted == 1 { "event" } else { "events" };
    let unknown = if *under_way > 0 { format!(", {under_way} perhaps") } else { String::new() };
    let took = delivery.progress.elapsed().as_secs_f64();
    format!("{accepted} {events} accepted{unknown} by {} in {took:.2} s\n", delivery.sender.target())
}

impl Args {
    /// How many events there will be, when that is known.
    fn count(&self) -> Option<u64> {
        self.count.or(if self.file.is_none() { Some(1) } else { None })
    }

    /// True unless it is about one event from flags.
    fn is_series(&self) -> bool {
        self.file.is_some() || self.count.is_some_and(|count| count > 1)
    }

    fn producer(&self, requests: mpsc::Sender<Vec<Event>>) -> anyhow::Result<Producer> {
        Ok(Producer {
            extensions: self.ext.clone(),
            overrides: Overrides::from_env()?,
            pace: self.rate.map(Pace::new),
            batch_size: if self.mode == Mode::Batch { self.batch_size.into() } else { 1 },
            count: self.count(),
            requests,
            pushed: 0,
            batch: Vec::new(),
        })
    }

    fn delivery(&self) -> anyhow::Result<Delivery> {
        let is_long = self.count().is_some_and(|count| count > LONG_RUN);
        let is_typed = self.file.as_ref().is_some_and(|path| path.as_os_str() == "-") && io::stdin().is_terminal();
        let on_terminal = io::stdout().is_terminal();
        // Lines of events and a line of progress on one terminal would be in each other's way.
        let shows = Progress::is_possible() && !is_typed && (is_long || (!on_terminal && self.is_series()));
        let progress = Progress::new(if self.file.is_none() { self.count() } else { None }, "accepted", shows);
        Ok(Delivery {
            sender: Sender::new(self.to.as_deref(), self.mode)?,
            retries: self.retries,
            in_flight: self.in_flight.unwrap_or(if is_long { MANY } else { 1 }).into(),
            progress,
            tell_each: !(shows && on_terminal),
            accepted: 0,
            under_way: 0,
        })
    }
}

fn extension(text: &str) -> Result<(String, Template), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.parse()?))
}

//! `knats tail`: what happens now, one line an event and a delivery.

mod lines;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Usage, duration, nats, say};
use crate::manage::tail::{self, Begin, Item, MAX_HISTORY, Only, Sort, Wanted};
use crate::manage::{self, Manager};
use crate::resource::Key;
use lines::Lines;

/// Items that are printed at once.
const PRINTED_AT_ONCE: usize = 256;

const HELP: &str = "\
Examples:
  knats tail                                           # all channels and subscriptions
  knats tail default/foo --last 10                     # a channel, from ten events back
  knats tail default/big-orders --only deliveries      # what a subscription's sink answers
  knats tail --filter \"type LIKE 'com.example.%' AND amount > 1000\"
  knats tail --id order-7 --since 1h -o json --limit 1

Events come from JetStream, deliveries from the bridges that make them, while they make them. What is to be known beside them
goes to standard error. Nothing is left behind, neither in JetStream nor in a bridge.
Exit codes: 0 done (Ctrl-C and a reader that has gone away included), 1 unknown name, no connection or no permission, 2 usage
or configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    nats: nats::Args,
    /// Channels and subscriptions; everything of ours when there are none
    #[arg(value_name = "NAMESPACE/NAME")]
    names: Vec<Key>,
    /// The names are those of channels
    #[arg(long, conflicts_with = "subscription")]
    channel: bool,
    /// The names are those of subscriptions
    #[arg(long)]
    subscription: bool,
    /// How each is shown
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only what is about events that this CloudEvents SQL expression holds for
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Only what is about events of this type
    #[arg(long)]
    r#type: Option<String>,
    /// Only what is about events of this source
    #[arg(long)]
    source: Option<String>,
    /// Only what is about events with this id
    #[arg(long)]
    id: Option<String>,
    /// Begin with the events of this time back, at most 10000 of each channel
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive, conflicts_with = "last")]
    since: Option<Duration>,
    /// Begin so many events back in each channel, before any filter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_HISTORY))]
    last: Option<u64>,
    /// Only events, or only deliveries
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// End after so many events (with --only deliveries: so many deliveries)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// The shape of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One aligned line each
    Table,
    /// The layout of Knative's event display
    Pretty,
    /// One JSON array, whole once the command ends
    Json,
    /// One JSON object a line
    Ndjson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Half {
    Events,
    Deliveries,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let wanted = args.wanted()?;
    let manager = Manager::connect(&args.nats.settings()?).await.map_err(misconfigured)?;
    let mut tail = manager.tail(wanted).await?;
    let mut printer = Printer { lines: Lines::new(args.output), left: args.limit, counts: args.only };
    let mut text = printer.lines.begin();
    loop {
        // Whoever reads may be slow; that must neither hold up the runtime nor the end.
        let printed = tokio::task::spawn_blocking(move || say(&text));
        tokio::select! {
            printed = printed => if let Err(error) = printed? {
                tail.end().await;
                return if is_gone(&error) { Ok(ExitCode::SUCCESS) } else { Err(error) };
            },
            () = shutdown.cancelled() => break,
        }
        if printer.left == Some(0) {
            break;
        }
        let items = tokio::select! {
            items = tail.next_many(PRINTED_AT_ONCE) => items,
            () = shutdown.cancelled() => break,
        };
        if items.is_empty() {
            break;
        }
        text = printer.print(&items)?;
    }
    tail.end().await;
    // A reader that takes nothing must not hold up the end.
    let end = printer.lines.end();
    let last = tokio::task::spawn_blocking(move || say(&end));
    let _ = tokio::time::timeout(LAST_WORD, last).await;
    Ok(ExitCode::SUCCESS)
}

/// How long whoever reads may take to read the end.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Args {
    fn wanted(&self) -> Result<Wanted, Usage> {
        let sort = match (self.channel, self.subscription) {
            (true, _) => Some(Sort::Channel),
            (_, true) => Some(Sort::Subscription),
            _ => None,
        };
        let begin = match (self.last, self.since) {
            (Some(count), _) => Begin::Last(count),
            (None, Some(since)) => Begin::At(Timestamp::now().checked_sub(since).unwrap_or(Timestamp::MIN)),
            (None, None) => Begin::Now,
        };
        let only = self.only.map(|half| match half {
            Half::Events => Only::Events,
            Half::Deliveries => Only::Deliveries,
        });
        let names = self.names.iter().map(|name| (name.clone(), sort)).collect();
        let attributes =
            [("type", self.r#type.as_deref()), ("source", self.source.as_deref()), ("id", self.id.as_deref())];
        let filter = tail::filter(&attributes, self.filter.as_deref()).map_err(Usage)?;
        Ok(Wanted { names, begin, filter, only })
    }
}

/// What is wrong with the settings is a matter of usage.
fn misconfigured(error: manage::Error) -> anyhow::Error {
    match error {
        manage::Error::Settings(error) => Usage(error.to_string()).into(),
        error => error.into(),
    }
}

/// Whether it failed because nobody reads any more, as in `knats tail | head`.
fn is_gone(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Makes text of items, as many as are wanted.
struct Printer {
    lines: Lines,
    /// How many may still come.
    left: Option<u64>,
    counts: Option<Half>,
}

impl Printer {
    fn print(&mut self, items: &[Item]) -> anyhow::Result<String> {
        let mut text = String::new();
        for item in items {
            if let Item::Note(note) = item {
                eprintln!("note: {}", super::output::plain(&note.text));
                continue;
            }
            if self.left == Some(0) {
                break;
            }
            text.push_str(&self.lines.of(item)?);
            let counts = matches!(item, Item::Delivery(_)) == (self.counts == Some(Half::Deliveries));
            if counts {
                self.left = self.left.map(|left| left - 1);
            }
        }
        Ok(text)
    }
}

//! `knats redrive`: kept dead letters go to their subscription again.

use std::io::Write as _;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::confirm;
use super::letters::{Filter, counted};
use super::output::{self, render};
use super::progress::Progress;
use super::{nats, say};
use crate::manage::Manager;
use crate::manage::dead_letters::{Count, DeadLetter, Query};
use crate::manage::redrive::Summary;
use crate::resource::Key;

/// How often a line tells of progress where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats redrive default/orders --dry-run\n  knats redrive default/orders --id 4711\n  \
    knats redrive default/orders --code 503 --rate 50\n\n\
    To that subscription only, through a bridge that delivers it. A letter leaves KN_DEADLETTERS when what became of its event\n\
    is durable, so the command may be stopped and repeated at any time; an event that fails again is kept once, with its newest\n\
    failure. Messages that are no events stay kept.\n\n\
    Ends with 0 when all were delivered (or none fits), with 1 when some failed again or are left, when nothing has the --id, or\n\
    when no bridge delivers the subscription."
)]
pub(super) struct Args {
    /// The subscription
    #[arg(value_name = "NAMESPACE/SUBSCRIPTION")]
    subscription: Key,
    #[command(flatten)]
    filter: Filter,
    /// List and count them, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Events a second at most [default: as fast as they are taken]
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Do not ask on a terminal
    #[arg(short, long)]
    yes: bool,
    /// How to print what came of it; with --dry-run, what would be sent
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    nats: nats::Args,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object; with --dry-run, one JSON array
    Json,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let manager = args.nats.manager().await?;
    let query = args.filter.query(Some(&args.subscription));
    let count = manager.count_dead_letters(&query).await?;
    if args.dry_run {
        list(&manager, &query, args.output).await?;
        if args.output == Format::Text {
            say(&format!(
                "{} would be redriven to {}{}\n",
                counted(count.events),
                args.subscription,
                poison(count.poison)
            ))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Without a terminal nobody is there to ask, and the command line is the decision.
    if count.events > 1 && !args.yes && confirm::is_possible() {
        let question = format!("Redrive {} to {}?", counted(count.events), args.subscription);
        if !confirm::ask(&question, &shutdown).await? {
            say("nothing was sent\n")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let summary = send(&args, &manager, &query, count, &shutdown).await?;
    let all_well = summary.is_all_well() && !(args.filter.names_one() && count.events == 0);
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn send(
    args: &Args,
    manager: &Manager,
    query: &Query,
    count: Count,
    shutdown: &CancellationToken,
) -> anyhow::Result<Summary> {
    let mut progress = Progress::new(Some(count.events), "redriven", Progress::is_possible());
    let mut told_at = Instant::now();
    let tell = |summary: &Summary| {
        progress.show(summary.done());
        if !Progress::is_possible() && told_at.elapsed() >= BETWEEN_LINES {
            told_at = Instant::now();
            // A service to whoever reads the log of a long run; nobody has to.
            let _ = writeln!(std::io::stderr(), "{} of {} redriven", summary.done(), counted(summary.matched));
        }
    };
    let (summary, result) = manager.redrive(&args.subscription, query, args.rate, shutdown, tell).await;
    progress.clear();
    say(&match args.output {
        Format::Json => serde_json::to_string_pretty(&summary).context("cannot write JSON")? + "\n",
        Format::Text => text(&summary),
    })?;
    result?;
    Ok(summary)
}

/// What a query finds.
pub(super) async fn listed(manager: &Manager, query: &Query) -> anyhow::Result<Vec<DeadLetter>> {
    let mut found = manager.dead_letters(query).await?;
    let mut letters = Vec::new();
    while let Some(letter) = found.next().await? {
        letters.push(DeadLetter::from(&letter));
    }
    Ok(letters)
}

async fn list(manager: &Manager, query: &Query, format: Format) -> anyhow::Result<()> {
    let letters = listed(manager, query).await?;
    let format = if format == Format::Json { output::Format::Json } else { output::Format::Table };
    say(&render(&letters, format, Timestamp::now())?)
}

fn text(summary: &Summary) -> String {
    let Summary { matched, delivered, dead_letter_sink, kept, gone, failed, left, .. } = summary;
    let others = [
        (dead_letter_sink, "failed again, the dead letter sink has it"),
        (kept, "failed again and kept"),
        (gone, "gone meanwhile"),
        (failed, "not tried to the end"),
        (left, "left"),
    ];
    let mut text = format!("{} delivered of {} to {}", delivered, counted(*matched), summary.subscription);
    for (count, what) in others.into_iter().filter(|(count, _)| **count > 0) {
        text.push_str(&format!("; {count} {what}"));
    }
    text.push_str(&poison(summary.poison));
    text.push('\n');
    for reason in &summary.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    if summary.interrupted && *left > 0 {
        text.push_str("interrupted; the same command goes on where it was\n");
    }
    text
}

fn poison(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => "; 1 message is no event and stays kept".to_owned(),
        count => format!("; {count} messages are no events and stay kept"),
    }
}

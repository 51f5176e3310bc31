//! `knats diff`: what `knats serve` would create, change or cannot change in JetStream.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::output::plain;
use super::{Usage, nats, say};
use crate::channel::Change;
use crate::manage::Manager;
use crate::manage::diff::{Action, Asset, Difference, Events, Meaning};
use crate::resource::{Desired, Key, Resolver, resolve_entry};

const EXAMPLES: &str = "\
Examples:
  knats diff -f manifests/
  knats diff -f manifests/ --prune -o json --nats-url nats://nats.example.com:4222

A block for each stream and consumer: + is created, ~ is changed, ! cannot be changed, - is deleted by --prune; a block that
begins with a blank is taken over as it is. Nothing is changed by looking.
Exit code: 0 no difference, 1 a difference, 2 no comparison: wrong usage, faulty manifests, NATS away or not permitted.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    nats: nats::Args,
    /// Manifest file, or directory of .yaml, .yml and .json files
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',', required = true)]
    resources: Vec<PathBuf>,
    /// What a reference to a Service means outside a cluster
    #[arg(long, value_name = "NAMESPACE/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    resolve: Vec<(Key, String)>,
    /// Show the consumers that `serve --prune` would delete, too
    #[arg(long)]
    prune: bool,
    /// Text for people, or one JSON array
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desired = declared(&args.resources, &args.resolve)?;
    let settings = args.nats.settings()?;
    let compared = async { Manager::connect(&settings).await?.diff(&desired, args.prune).await };
    // Exit code 1 says that there is a difference.
    let found = compared.await.map_err(|error| Usage(error.to_string()))?;
    match args.output {
        Format::Text => say(&text(&found))?,
        Format::Json => say(&(serde_json::to_string_pretty(&found)? + "\n"))?,
    }
    Ok(if found.iter().any(Difference::is_change) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// What the manifests ask for; their faults go to standard output, as `validate` tells them.
pub(super) fn declared(resources: &[PathBuf], resolve: &[(Key, String)]) -> anyhow::Result<Desired> {
    let resolver = Resolver { services: resolve.iter().cloned().collect() };
    match Desired::load(resources, &resolver) {
        Ok(desired) => Ok(desired),
        Err(faults) => {
            let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            say(&lines)?;
            Err(Usage("the manifests have faults".to_owned()).into())
        }
    }
}

fn text(found: &[Difference]) -> String {
    let mut text: String = found.iter().map(block).collect();
    let count = |action: Action| found.iter().filter(|difference| difference.change == action).count();
    let counts = [
        (Action::Create, "to create"),
        (Action::Update, "to change"),
        (Action::Cannot, "that cannot be changed"),
        (Action::Delete, "to delete"),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(action, words)| (count(action), words))
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    let summary = if counts.is_empty() { "no difference".to_owned() } else { counts.join(", ") };
    let _ = writeln!(text, "{summary}");
    text
}

/// One stream or consumer: what happens to it, then a line for each thing to know.
fn block(difference: &Difference) -> String {
    let sign = match difference.change {
        Action::None => ' ',
        Action::Create => '+',
        Action::Update => '~',
        Action::Cannot => '!',
        Action::Delete => '-',
    };
    let stream = plain(&difference.stream);
    let asset = match (&difference.consumer, difference.asset) {
        (Some(consumer), _) if difference.stream.is_empty() => format!("consumer {consumer}"),
        (Some(consumer), Asset::Consumer) => format!("consumer {consumer} of stream {stream}"),
        _ => format!("stream {stream}"),
    };
    let resource = difference.resource.as_ref().map(|resource| format!(" ({resource})")).unwrap_or_default();
    let mut block = format!("{sign} {asset}{resource}\n");
    for change in difference.fields.iter().filter(|change| !is_unlimited_anyway(change)) {
        let _ = writeln!(block, "    {}", plain(&field(change)));
    }
    for line in difference.reason.iter().cloned().chain(difference.events.map(|events| told(&events))) {
        let _ = writeln!(block, "    {}", plain(&line));
    }
    for Change { field, from, to, .. } in &difference.kept {
        let (kept, new) = (value(field, from), value(field, to));
        let _ = writeln!(block, "    kept: {}", plain(&format!("{field} {kept} (a new one would have {new})")));
    }
    for note in &difference.notes {
        let _ = writeln!(block, "    note: {}", plain(note));
    }
    block
}

/// A limit that a new stream does not have is not worth a line.
fn is_unlimited_anyway(change: &Change) -> bool {
    change.from.is_null() && change.to == -1
}

fn field(Change { field, from, to, obstacle }: &Change) -> String {
    let mut line = match from {
        Value::Null => format!("{field}: {}", value(field, to)),
        from => format!("{field}: {} → {}", value(field, from), value(field, to)),
    };
    if let Some(obstacle) = obstacle {
        let _ = write!(line, " ({obstacle})");
    }
    line
}

/// As people write it: durations with units, text without quotes.
fn value(field: &str, value: &Value) -> String {
    let is_duration = ["max_age", "duplicate_window", "ack_wait", "priority_timeout"].contains(&field);
    match value {
        Value::Number(number) if is_duration => match number.as_u64() {
            Some(0) => "none".to_owned(),
            Some(nanos) => {
                format!("{:#}", jiff::SignedDuration::try_from(Duration::from_nanos(nanos)).unwrap_or_default())
            }
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| self::value("", item)).collect::<Vec<_>>().join(", "),
        Value::Number(number) if number.as_i64() == Some(-1) => "unlimited".to_owned(),
        other => other.to_string(),
    }
}

fn told(Events { count, exact, meaning }: &Events) -> String {
    let events = if *count == 1 { "event" } else { "events" };
    let about = if *exact { "" } else { "about " };
    match meaning {
        Meaning::StartsWith => format!("starts with {about}{count} kept {events}"),
        Meaning::Removed => format!("removes {about}{count} {events}"),
        Meaning::Held => format!("holds {about}{count} {events}, to be moved or lost when it is replaced"),
        Meaning::Undelivered => format!("{about}{count} {events} not delivered or not settled"),
    }
}

//! `knats get deadletter ID`: one dead letter, whole.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;

use super::deadletters::kept;
use crate::channel::attempts::Attempt;
use crate::cli::letters::shortened;
use crate::cli::output::{Row, age, plain, table};
use crate::cli::{Usage, nats, say};
use crate::manage::dead_letters::{DeadLetter, Query, Story};
use crate::resource::Key;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats get deadletter 4711\n  knats get deadletter 4711 --source /shop -o json\n  \
    knats get deadletter --seq 12\n\n\
    Ends with 1 when there is no such dead letter, or when several fit."
)]
pub(super) struct Args {
    /// The id of the event
    #[arg(value_name = "ID", required_unless_present = "seq")]
    id: Option<String>,
    /// The one with this sequence in KN_DEADLETTERS
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Of this subscription
    #[arg(long, value_name = "NAMESPACE/NAME")]
    subscription: Option<Key>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    nats: nats::Args,
}

/// The shape of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object
    Json,
    /// One YAML document
    Yaml,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.id.as_deref() == Some("") {
        return Err(Usage("the id is empty, and no event has such an id".to_owned()).into());
    }
    let manager = args.nats.manager().await?;
    let Args { id, seq, source, subscription, output, .. } = args;
    let query = Query { id, sequence: seq, source, subscription, ..Query::default() };
    let story = manager.dead_letter(&query).await?;
    say(&match output {
        Format::Text => text(&story, Timestamp::now()),
        Format::Json => serde_json::to_string_pretty(&story).context("cannot write JSON")? + "\n",
        Format::Yaml => {
            // By way of JSON: what flattens there does so here.
            let value = serde_json::to_value(&story).context("cannot write JSON")?;
            serde_saphyr::to_string(&value).context("cannot write YAML")?
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(story: &Story, now: Timestamp) -> String {
    let DeadLetter { namespace, subscription, code, dest, error, reason, sequence, time, .. } = &story.letter;
    let mut lines = String::new();
    // Writing to a String cannot fail.
    let mut line = |text: &str| _ = writeln!(lines, "{text}");
    match &story.event {
        Some(event) => told_event(event, &mut line),
        None => {
            let payload = story.payload.as_ref().or(story.payload_base64.as_ref());
            line("No event");
            line(&format!("  {}", plain(reason.as_deref().unwrap_or_default())));
            line("Payload");
            data(payload.map(String::as_str).unwrap_or_default(), &mut line);
        }
    }
    if story.event.is_some() {
        line("Failure");
        for (name, value) in [("code", code.map(|code| code.to_string())), ("dest", dest.clone())] {
            line(&format!("  {name}: {}", plain(&value.unwrap_or_default())));
        }
        line("Answer");
        data(error.as_deref().unwrap_or_default(), &mut line);
        line("Attempts");
        match story.attempts.as_slice() {
            [] => line("  none in the log: it is kept for a while only, or is off"),
            attempts => table(attempts, false, now).lines().for_each(|row| line(&format!("  {row}"))),
        }
    }
    line("Kept");
    line(&format!("  for {namespace}/{subscription}, sequence {sequence}, since {time} ({} ago)", age(*time, now)));
    for (channel, name) in [(&story.letter.channel, "channel"), (&story.letter.stream, "stream")] {
        if let Some(channel) = channel {
            line(&format!("  from {name} {}", plain(channel)));
        }
    }
    line(&format!("  {}", kept(story.keeping.as_ref())));
    lines
}

/// Attributes in the order of the event, and its data.
fn told_event(event: &Value, line: &mut impl FnMut(&str)) {
    line("Event");
    let members = event.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(name, _)| !matches!(name.as_str(), "data" | "data_base64")) {
        line(&format!("  {name}: {}", plain(value.as_str().unwrap_or_default())));
    }
    for name in ["data", "data_base64"] {
        let Some(value) = event.get(name) else { continue };
        line(if name == "data" { "Data" } else { "Data, as base64" });
        match value {
            Value::String(text) if name == "data_base64" || !is_json(event) => data(text, line),
            value => data(&serde_json::to_string_pretty(value).unwrap_or_default(), line),
        }
    }
}

fn is_json(event: &Value) -> bool {
    crate::cli::is_json(event["datacontenttype"].as_str().unwrap_or_default())
}

/// Text of others, its lines kept and nothing else of what a terminal would obey.
fn data(text: &str, line: &mut impl FnMut(&str)) {
    if text.is_empty() {
        line("  -");
    }
    text.lines().for_each(|one| line(&format!("  {}", if one.is_empty() { String::new() } else { plain(one) })));
}

impl Row for Attempt {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("TIME", false),
        ("FOR", false),
        ("ATTEMPT", false),
        ("CODE", false),
        ("TOOK", false),
        ("NEXT", false),
        ("ANSWER", false),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        // As the JSON has it, without its quotes.
        let word = |value: serde_json::Result<String>| value.unwrap_or_default().trim_matches('"').to_owned();
        let redrive = if self.redrive { " (redrive)" } else { "" };
        vec![
            self.time.to_string(),
            format!("{}{redrive}", word(serde_json::to_string(&self.purpose))),
            self.attempt.to_string(),
            self.code.map_or_else(|| "none".to_owned(), |code| code.to_string()),
            format!("{:.0}ms", self.duration_ms),
            word(serde_json::to_string(&self.next)),
            self.error.as_deref().map(shortened).unwrap_or_default(),
        ]
    }
}

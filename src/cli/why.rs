//! `knats why`: the story of one event on one screen.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::output::{age, plain};
use super::{Usage, duration, nats, say};
use crate::channel::attempts::{Attempt, Next, Purpose};
use crate::filter::Verdict;
use crate::manage::why::{Chapter, Letter, Question, Story};
use crate::resource::{Desired, Key, Resolver, resolve_entry};

const EXAMPLES: &str = "\
Examples:
  knats why 7f3a
  knats why 7f3a --source /orders --channel default/shop -f manifests/
  knats why 7f3a --since 168h -o json

It asks JetStream alone; no bridge needs to run. Attempts come from the log that `serve --attempt-log` keeps. An event that
this log does not name is looked for in the streams of the channels: the newest 200,000 messages, or as far as --since says.
Exit code: 0 found, 1 unknown or ambiguous, 2 wrong usage.";

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);
/// The longest value of an attribute and the longest answer of a sink that one line shows, in characters.
const MAX_SHOWN: usize = 120;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The event's id
    #[arg(value_name = "EVENT-ID")]
    id: String,
    /// The event's source, where several events have that id
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// The channel or broker it is in
    #[arg(long, value_name = "NAMESPACE/NAME")]
    channel: Option<Key>,
    /// Look through everything that was stored within this time
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    since: Option<Duration>,
    /// Manifest files or directories: their filters count, and their subscriptions are shown
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    resources: Vec<PathBuf>,
    /// What a `ref` to a Service means outside a cluster
    #[arg(long, value_name = "NAMESPACE/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    resolve: Vec<(Key, String)>,
    /// The form of the answer
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    nats: nats::Args,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    /// A line a fact
    #[default]
    Text,
    Json,
    Yaml,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let resolver = Resolver { services: args.resolve.iter().cloned().collect() };
    let desired = match args.resources.as_slice() {
        [] => None,
        paths => Some(Desired::load(paths, &resolver).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Usage(faults.join("\n  "))
        })?),
    };
    let question = Question {
        id: args.id.clone(),
        source: args.source.clone(),
        channel: args.channel.clone(),
        since: args.since,
        desired,
    };
    let manager = args.nats.manager().await?;
    let now = Timestamp::now();
    let progress = Progress::default();
    let story = tokio::select! {
        story = manager.why(&question, now, |done, total| progress.show(done, total)) => story.map_err(anyhow::Error::new),
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted before the event was found")),
    };
    progress.clear();
    let story = story?;
    say(&match args.output {
        Form::Text => text(&story, now),
        Form::Json => serde_json::to_string_pretty(&story).context("cannot write JSON")? + "\n",
        Form::Yaml => serde_saphyr::to_string(&story).context("cannot write YAML")?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A line on a terminal's standard error while streams are looked through.
#[derive(Default)]
struct Progress {
    shown: Cell<Option<Instant>>,
}

impl Progress {
    fn show(&self, done: u64, total: u64) {
        let is_due = self.shown.get().is_none_or(|shown| shown.elapsed() >= PROGRESS);
        if is_due && std::io::stderr().is_terminal() {
            self.shown.set(Some(Instant::now()));
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            // Whoever has closed standard error does not want it.
            let _ = write!(std::io::stderr(), "\rlooked at {done} of {total} messages, {percent} %");
        }
    }

    fn clear(&self) {
        if self.shown.get().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The story, a line a fact. Whatever came from outside is made fit for a terminal.
fn text(story: &Story, now: Timestamp) -> String {
    let mut lines =
        vec![fact("event", short(&story.id)), fact("source", short(&story.source)), fact("type", short(&story.kind))];
    lines.push(fact("stored", whereabouts(story)));
    if let Some(time) = story.received_at {
        let word = if story.stored { "received" } else { "heard of" };
        lines.push(fact(word, format!("{time:.3}, {} ago", age(time, now))));
    }
    if !story.attributes.is_empty() {
        let all: Vec<String> =
            story.attributes.iter().map(|(name, value)| format!("{name}={}", short(value))).collect();
        lines.push(fact("attributes", all.join("  ")));
    }
    if let Some(bytes) = story.data_bytes {
        lines.push(fact("data", format!("{bytes} bytes")));
    }
    if story.subscriptions.is_empty() {
        lines.push(fact("delivery", "no subscription of its channel is known".to_owned()));
    }
    for chapter in &story.subscriptions {
        lines.push((String::new(), String::new()));
        chapter_lines(chapter, &mut lines);
    }
    let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in lines {
        let line = format!("{label:width$}  {value}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn fact(label: &str, value: String) -> (String, String) {
    (label.to_owned(), value)
}

fn whereabouts(story: &Story) -> String {
    let mut told = match (&story.stream, story.sequence) {
        (Some(stream), Some(sequence)) => format!("stream {stream} at sequence {sequence}"),
        (Some(stream), None) => format!("stream {stream}"),
        (None, _) => "no stream is known".to_owned(),
    };
    if let Some(channel) = &story.channel {
        let _ = write!(told, ", channel {channel}");
    }
    if !story.stored {
        told.push_str("; it is gone from there");
    }
    if !story.also_at.is_empty() {
        let others: Vec<String> = story.also_at.iter().map(u64::to_string).collect();
        let _ = write!(told, "; the same source and id also at {}", others.join(", "));
    }
    told
}

fn chapter_lines(chapter: &Chapter, lines: &mut Vec<(String, String)>) {
    lines.push(fact("subscription", chapter.subscription.clone()));
    let verdict = match chapter.filter.verdict {
        Some(Verdict::Match) => "matched",
        Some(Verdict::NoMatch) => "not matched",
        Some(Verdict::Error) => "not matched, with an error",
        None => "not known",
    };
    lines.push(fact("  filter", format!("{verdict}: {}", plain(&chapter.filter.because))));
    lines.push(fact("  state", plain(&chapter.detail)));
    for attempt in &chapter.attempts {
        let purpose = match attempt.purpose {
            Purpose::Subscriber => "attempt",
            Purpose::Reply => "reply",
            Purpose::DeadLetter => "dead letter",
        };
        let redrive = if attempt.redrive { "redrive, " } else { "" };
        lines.push((format!("  {redrive}{purpose} {}", attempt.attempt), exchange(attempt)));
    }
    for letter in &chapter.dead_letters {
        lines.push(fact("  kept", kept(letter)));
    }
}

fn exchange(attempt: &Attempt) -> String {
    let answer = attempt.code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
    let next = match (attempt.next, attempt.retry_at) {
        (Next::Settled, _) => "done".to_owned(),
        (Next::Reply, _) => "its reply goes on".to_owned(),
        (Next::Retry, Some(time)) => format!("next try at {time:.3}"),
        (Next::Retry, None) => "tried again".to_owned(),
        (Next::DeadLetterSink, _) => "given up, to the dead letter sink".to_owned(),
        (Next::Kept, _) => "given up, to be kept".to_owned(),
    };
    let (time, sink) = (attempt.time, short(&attempt.sink));
    let mut told = format!("{time:.3}  {answer} after {:.1} ms from {sink}, {next}", attempt.duration_ms);
    if let Some(error) = attempt.error.as_deref().filter(|error| !error.is_empty()) {
        let _ = write!(told, ": {}", short(error));
    }
    told
}

fn kept(letter: &Letter) -> String {
    let mut told = format!("{:.3}  in KN_DEADLETTERS at sequence {}", letter.kept_at, letter.sequence);
    if let Some(code) = &letter.code {
        let _ = write!(told, ", code {}", short(code));
    }
    if let Some(destination) = &letter.destination {
        let _ = write!(told, " from {}", short(destination));
    }
    told
}

/// Text of others on one line of bounded length.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        short.push('…');
    }
    plain(&short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::manage::why::{Matching, State};

    fn attempt(fields: serde_json::Value) -> Attempt {
        let mut whole = json!({
            "time": "2026-03-02T09:15:04.1314Z", "namespace": "default", "subscription": "billing", "stream": "S",
            "sequence": 7, "id": "1", "source": "/s", "type": "t", "attempt": 1, "purpose": "subscriber",
            "sink": "http://b/", "duration_ms": 3.21, "next": "settled",
        });
        whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn story() -> Story {
        let retried =
            json!({ "code": 503, "next": "retry", "retry_at": "2026-03-02T09:15:14Z", "error": "bu\u{1b}sy\nnow" });
        let kept = json!({ "next": "kept", "attempt": 2, "error": "timed out", "redrive": true });
        Story {
            id: "order\r7".into(),
            source: "/orders".into(),
            kind: "com.example.order".into(),
            channel: Some("default/shop".into()),
            stream: Some("S".into()),
            sequence: Some(7),
            also_at: vec![3],
            received_at: Some("2026-03-02T09:15:04.12Z".parse().unwrap()),
            stored: true,
            attributes: [("subject".to_owned(), "x".repeat(200))].into(),
            data_bytes: Some(17),
            attempt_log_from: None,
            subscriptions: vec![Chapter {
                subscription: "default/billing".into(),
                filter: Matching { verdict: Some(Verdict::Match), because: "it has no filter".into(), clauses: vec![] },
                state: State::Settled,
                detail: "settled: given up".into(),
                retry_at: None,
                attempts: vec![attempt(retried), attempt(kept)],
                dead_letters: vec![Letter {
                    sequence: 9,
                    kept_at: "2026-03-02T09:15:20Z".parse().unwrap(),
                    code: Some("500".into()),
                    destination: Some("http://b/".into()),
                }],
            }],
        }
    }

    #[test]
    fn a_story_is_a_line_a_fact_and_safe_for_a_terminal() {
        let text = text(&story(), "2026-03-02T09:15:46Z".parse().unwrap());
        let expected = [
            "event                 order\u{fffd}7",
            "source                /orders",
            "type                  com.example.order",
            "stored                stream S at sequence 7, channel default/shop; the same source and id also at 3",
            "received              2026-03-02T09:15:04.120Z, 42s ago",
            &format!("attributes            subject={}…", "x".repeat(MAX_SHOWN)),
            "data                  17 bytes",
            "",
            "subscription          default/billing",
            "  filter              matched: it has no filter",
            "  state               settled: given up",
            "  attempt 1           2026-03-02T09:15:04.131Z  503 after 3.2 ms from http://b/, next try at 2026-03-02T09:15:14.000Z: bu\u{fffd}sy\u{fffd}now",
            "  redrive, attempt 2  2026-03-02T09:15:04.131Z  no answer after 3.2 ms from http://b/, given up, to be kept: timed out",
            "  kept                2026-03-02T09:15:20.000Z  in KN_DEADLETTERS at sequence 9, code 500 from http://b/",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}

//! `knats send`: sends CloudEvents made from flags, or read from a file or standard input.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use super::overrides::Overrides;
use super::sender::{Backoff, Failure, Mode, Sender};
use super::{Usage, is_json, say};
use crate::event::{self, Builder, Event, SpecVersion};

/// The longest line of a file of events, in bytes.
const MAX_LINE: usize = 8 * 1024 * 1024;
/// The largest `.json` document, in bytes: it is read as a whole.
const MAX_DOCUMENT: usize = 64 * 1024 * 1024;
const DEFAULT_SOURCE: &str = "/knats/send";
const DEFAULT_TYPE: &str = "dev.knats.event";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    knats send --to http://127.0.0.1:8080/default/foo --type dev.example.rate --data '{\"rate\":\"106.53\"}'\n  \
    knats send --to http://127.0.0.1:8080/default/foo --file - < events.ndjson\n\n\
    K_SINK is the target when --to is not given; the extensions in K_CE_OVERRIDES are set on every event.\n\
    Ends with 1 when the sink refuses an event or cannot be reached; events before it are sent then.")]
pub(super) struct Args {
    /// Where to send [default: $K_SINK]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Attribute `type` [default: dev.knats.event]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Attribute `source` [default: /knats/send]
    #[arg(long, value_name = "URI-REFERENCE")]
    source: Option<String>,
    /// Attribute `id` [default: a new UUID]
    #[arg(long)]
    id: Option<String>,
    /// Attribute `subject`
    #[arg(long)]
    subject: Option<String>,
    /// The data: JSON unless --content-type says otherwise
    #[arg(long, allow_hyphen_values = true)]
    data: Option<String>,
    /// Attribute `datacontenttype` [default: application/json when there is data]
    #[arg(long, value_name = "MEDIA-TYPE")]
    content_type: Option<String>,
    /// An extension; on every event of a file, too
    #[arg(long, value_name = "NAME=VALUE", value_parser = extension)]
    ext: Vec<(String, String)>,
    /// Send the events of a file, `-` for standard input: one JSON event a line, or one JSON document with an event or an
    /// array of events when its name ends with .json
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kind", "source", "id", "subject", "data", "content_type"])]
    file: Option<PathBuf>,
    /// Content mode of the requests
    #[arg(long, value_enum, default_value_t = Mode::Binary)]
    mode: Mode,
    /// Events in one request of batch mode
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// How often a request is tried again when the sink is not there or too busy
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut outgoing = Outgoing {
        sender: Sender::new(args.to.as_deref(), args.mode)?,
        overrides: Overrides::from_env()?,
        extensions: args.ext.clone(),
        retries: args.retries,
        batch: Vec::new(),
        batch_size: if args.mode == Mode::Batch { args.batch_size.into() } else { 1 },
        accepted: 0,
    };
    let sending = async {
        match &args.file {
            None => outgoing.push(build(&args)?, "the event").await?,
            Some(path) => send_file(path, &mut outgoing).await?,
        }
        outgoing.flush().await
    };
    let result = tokio::select! {
        result = sending => result,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    let Outgoing { sender, accepted, .. } = outgoing;
    if args.file.is_some() {
        say(&format!(
            "{accepted} {} accepted by {}\n",
            if accepted == 1 { "event" } else { "events" },
            sender.target()
        ))?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Events on their way to the sink, in order.
struct Outgoing {
    sender: Sender,
    overrides: Overrides,
    extensions: Vec<(String, String)>,
    retries: u32,
    batch: Vec<Event>,
    batch_size: usize,
    accepted: u64,
}

impl Outgoing {
    /// Takes one event; `place` says where it was found.
    async fn push(&mut self, mut event: Event, place: &str) -> anyhow::Result<()> {
        for (name, value) in &self.extensions {
            event.set_extension(name, value).map_err(|error| Usage(format!("--ext {name}: {error}")))?;
        }
        self.overrides.apply(&mut event).with_context(|| format!("{place}: K_CE_OVERRIDES"))?;
        self.batch.push(event);
        if self.batch.len() < self.batch_size { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let events = std::mem::take(&mut self.batch);
        if events.is_empty() {
            return Ok(());
        }
        self.deliver(&events).await.with_context(|| match events.as_slice() {
            [event] => format!("event {} is not sent", event.id()),
            [first, ..] => format!("a batch of {} events from {} on is not sent", events.len(), first.id()),
            [] => String::new(),
        })?;
        self.accepted += events.len() as u64;
        let lines: String = events.iter().map(|event| format!("accepted {}\n", event.id())).collect();
        say(&lines)
    }

    async fn deliver(&self, events: &[Event]) -> Result<(), Failure> {
        let mut backoff = Backoff::new();
        let mut retries = 0;
        loop {
            let failure = match self.sender.attempt(events).await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.is_passing() && retries < self.retries => failure,
                Err(failure) => return Err(failure),
            };
            retries += 1;
            let wait = backoff.after(&failure);
            tracing::warn!(retry = retries, of = self.retries, wait_ms = wait.as_millis() as u64, "{failure}");
            tokio::time::sleep(wait).await;
        }
    }
}

/// The event that the flags describe.
fn build(args: &Args) -> Result<Event, Usage> {
    let id = args.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let time = jiff::Timestamp::now().to_string();
    let content_type = args.content_type.as_deref().or(args.data.as_ref().map(|_| "application/json"));
    if let (Some(data), Some(true)) = (&args.data, content_type.map(is_json)) {
        serde_json::from_str::<IgnoredAny>(data).map_err(|error| {
            Usage(format!(
                "--data is not valid JSON: {error}; quote text as JSON (--data '\"hello\"') or say --content-type text/plain"
            ))
        })?;
    }
    let attributes = [
        ("id", "--id", Some(id.as_str())),
        ("source", "--source", Some(args.source.as_deref().unwrap_or(DEFAULT_SOURCE))),
        ("type", "--type", Some(args.kind.as_deref().unwrap_or(DEFAULT_TYPE))),
        ("subject", "--subject", args.subject.as_deref()),
        ("time", "the clock", Some(time.as_str())),
        ("datacontenttype", "--content-type", content_type),
    ];
    let mut builder = Builder::new(SpecVersion::V10);
    for (name, flag, value) in attributes {
        if let Some(value) = value {
            builder.attribute(name, value).map_err(|error| Usage(format!("{flag}: {error}")))?;
        }
    }
    if let Some(data) = &args.data {
        builder.data(Bytes::from(data.clone()));
    }
    builder.build().map_err(|error| Usage(error.to_string()))
}

async fn send_file(path: &Path, outgoing: &mut Outgoing) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        return send_lines(tokio::io::stdin(), "standard input", outgoing).await;
    }
    let name = path.display().to_string();
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {name}"))?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        send_document(file, &name, outgoing).await
    } else {
        send_lines(file, &name, outgoing).await
    }
}

/// One JSON event a line; empty lines do not count. Stops at the first line at fault.
async fn send_lines(input: impl AsyncRead + Unpin, name: &str, outgoing: &mut Outgoing) -> anyhow::Result<()> {
    let mut input = BufReader::new(input);
    for number in 1_u64.. {
        let mut line = Vec::new();
        let place = format!("{name}: line {number}");
        let read = (&mut input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await;
        if read.with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        if line.len() > MAX_LINE {
            bail!("{place}: longer than {MAX_LINE} bytes");
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let hint = if number == 1 {
            "; expected one JSON event a line (a document over several lines goes in a .json file)"
        } else {
            ""
        };
        let event = event::json::decode(&Bytes::copy_from_slice(text))
            .map_err(|error| anyhow::anyhow!("{place}: {error}{hint}"));
        match event {
            Ok(event) => outgoing.push(event, &place).await?,
            Err(error) => {
                // What came before the fault is sent, so that a repeat can start here.
                outgoing.flush().await?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// One JSON document: an event, or an array of events of which none is sent when one is at fault.
async fn send_document(input: impl AsyncRead + Unpin, name: &str, outgoing: &mut Outgoing) -> anyhow::Result<()> {
    let mut document = Vec::new();
    input
        .take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut document)
        .await
        .with_context(|| format!("cannot read {name}"))?;
    if document.len() > MAX_DOCUMENT {
        bail!("{name}: larger than {MAX_DOCUMENT} bytes; send many events as lines (.ndjson)");
    }
    let is_array = document.trim_ascii_start().first() == Some(&b'[');
    let document = Bytes::from(document);
    if !is_array {
        let event = event::json::decode(&document).with_context(|| name.to_owned())?;
        return outgoing.push(event, name).await;
    }
    let events = event::json::decode_batch(&document).with_context(|| name.to_owned())?;
    for (index, event) in events.into_iter().enumerate() {
        outgoing.push(event, &format!("{name}: event {index}")).await?;
    }
    Ok(())
}

fn extension(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn event(flags: &[&str]) -> Result<Event, Usage> {
        let line = std::iter::once(&"send").chain(flags);
        build(&Line::try_parse_from(line).unwrap_or_else(|error| error.exit()).args)
    }

    #[test]
    fn data_is_sent_as_it_is_typed() {
        for (flags, content_type, data) in [
            (&["--data", r#"{ "b":1.10,"a":2 }"#][..], Some("application/json"), Some(r#"{ "b":1.10,"a":2 }"#)),
            (&["--data", r#""106.53""#], Some("application/json"), Some(r#""106.53""#)),
            (&["--data", "-1"], Some("application/json"), Some("-1")),
            (&["--data", "{not json", "--content-type", "text/plain"], Some("text/plain"), Some("{not json")),
            (&[], None, None),
        ] {
            let event = event(flags).unwrap();
            assert_eq!(event.datacontenttype(), content_type, "{flags:?}");
            assert_eq!(event.data().map(|data| data.as_ref()), data.map(str::as_bytes), "{flags:?}");
        }
    }

    #[test]
    fn each_event_has_an_id_of_its_own_unless_told() {
        assert_ne!(event(&[]).unwrap().id(), event(&[]).unwrap().id());
        assert_eq!(event(&["--id", "7"]).unwrap().id(), "7");
    }

    #[test]
    fn flags_that_make_no_event_are_refused_by_name() {
        for (flags, expected) in [
            (&["--data", "hello"][..], "--data is not valid JSON"),
            (&["--data", "{", "--content-type", "application/vnd.x+json"], "--data is not valid JSON"),
            (&["--type", ""], "--type"),
            (&["--id", ""], "--id"),
            (&["--content-type", "nonsense"], "--content-type"),
        ] {
            let Usage(message) = event(flags).unwrap_err();
            assert!(message.starts_with(expected), "{flags:?}: {message}");
        }
    }
}

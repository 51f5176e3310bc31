//! `knats poll`: a source that polls an HTTP API, picks a value by JSON pointer and sends it as a CloudEvent.
//!
//! An event that was made is sent until the sink takes it or refuses it for good, in order, always with the same id. While
//! the sink is away a bounded number of events wait; when there is no room for another, polling pauses: no event that was
//! made is dropped.

mod fetch;
mod pointer;

use std::process::ExitCode;
use std::slice;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::overrides::Overrides;
use super::sender::{Backoff, Mode, Sender, http_url};
use super::{Usage, duration};
use crate::event::{Builder, Event, SpecVersion};
pub(super) use fetch::{Api, Reading, Secret};
pub(super) use pointer::Pointer;

/// Events that wait for the sink.
const MAX_WAITING: usize = 1000;
/// How long events that are left may take to be sent once the command is asked to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  knats poll --url http://127.0.0.1:8100/rate --every 30s --pointer /rate \\\n    \
    --type dev.example.rate --source /rates/usd-jpy --to http://127.0.0.1:8080/default/foo\n\n\
    K_SINK is the target when --to is not given; the extensions in K_CE_OVERRIDES are set on every event.\n\
    A poll that fails is logged, and the next one is made when it is due. An event is sent until the sink takes it; while\n\
    1000 events wait for the sink, polling pauses.")]
pub(super) struct Args {
    /// What to poll
    #[arg(long, value_name = "URL")]
    url: String,
    /// What to poll when --url fails; it gets no secrets
    #[arg(long, value_name = "URL")]
    fallback_url: Option<String>,
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse_positive)]
    every: Duration,
    /// Which value of the answer is the data, as it stands; the whole answer when not given
    #[arg(long, value_name = "JSON-POINTER")]
    pointer: Option<Pointer>,
    /// Attribute `type`
    #[arg(long = "type", value_name = "TYPE", default_value = "dev.knats.poll")]
    kind: String,
    /// Attribute `source`
    #[arg(long, value_name = "URI-REFERENCE", default_value = "/knats/poll")]
    source: String,
    /// Attribute `subject`
    #[arg(long)]
    subject: Option<String>,
    /// A header of the request whose value is in a file
    #[arg(long, value_name = "NAME=PATH")]
    header_file: Vec<Secret>,
    /// A query parameter of --url whose value is in a file
    #[arg(long, value_name = "NAME=PATH")]
    query_file: Vec<Secret>,
    /// Where to send [default: $K_SINK]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long one poll may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse_positive)]
    timeout: Duration,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let sender = Sender::new(args.to.as_deref(), Mode::Binary)?;
    let source = Source {
        api: Api::new(
            http_url("--url", &args.url)?,
            args.header_file,
            args.query_file,
            args.pointer.clone(),
            args.timeout,
        )?,
        fallback: match &args.fallback_url {
            Some(url) => {
                Some(Api::new(http_url("--fallback-url", url)?, Vec::new(), Vec::new(), args.pointer, args.timeout)?)
            }
            None => None,
        },
        attributes: Attributes { kind: args.kind, source: args.source, subject: args.subject },
        overrides: Overrides::from_env()?,
    };
    // Made and thrown away: wrong attributes are better refused now than at every poll.
    let probe = Reading { data: bytes::Bytes::new(), content_type: None };
    source.event(probe).map_err(|error| Usage(error.to_string()))?;
    source.api.check_secrets().await.map_err(anyhow::Error::msg)?;

    let (waiting, events) = mpsc::channel(MAX_WAITING);
    let mut sending = tokio::spawn(send_all(sender, events, shutdown.clone()));
    tokio::select! {
        () = source.poll(args.every, args.count, waiting) => {}
        () = shutdown.cancelled() => {}
    }
    // The queue is closed now: the sending task ends when it has sent what is left.
    let flushed = tokio::select! {
        flushed = &mut sending => Some(flushed?),
        () = async { shutdown.cancelled().await; tokio::time::sleep(FLUSH_TIMEOUT).await } => None,
    };
    if flushed.is_none() {
        sending.abort();
        tracing::error!("asked to end while the sink is away: events that were waiting for it are not sent");
    }
    Ok(if shutdown.is_cancelled() || flushed == Some(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Source {
    api: Api,
    fallback: Option<Api>,
    attributes: Attributes,
    overrides: Overrides,
}

struct Attributes {
    kind: String,
    source: String,
    subject: Option<String>,
}

impl Source {
    /// Polls at once and then whenever it is due, until `count` events are made or nobody takes them any more.
    async fn poll(&self, every: Duration, count: Option<u64>, waiting: mpsc::Sender<Event>) {
        let mut due = tokio::time::interval_at(Instant::now(), every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made = 0;
        while count.is_none_or(|count| made < count) {
            due.tick().await;
            if waiting.capacity() == 0 {
                tracing::error!(waiting = MAX_WAITING, "the sink takes no events: polling pauses until it does");
            }
            let Ok(room) = waiting.reserve().await else { return };
            if let Some(event) = self.next().await {
                made += 1;
                room.send(event);
            }
        }
    }

    /// One event, or `None` when neither the API nor what stands in for it has one; the log says why.
    async fn next(&self) -> Option<Event> {
        let reading = match self.api.fetch().await {
            Ok(reading) => reading,
            Err(error) => {
                let url = self.api.shown();
                let Some(fallback) = &self.fallback else {
                    tracing::warn!(url, "poll failed: {error}");
                    return None;
                };
                tracing::warn!(url, fallback = fallback.shown(), "poll failed: {error}; falling back");
                match fallback.fetch().await {
                    Ok(reading) => reading,
                    Err(error) => {
                        tracing::warn!(url = fallback.shown(), "poll failed: {error}");
                        return None;
                    }
                }
            }
        };
        self.event(reading).inspect_err(|error| tracing::warn!("no event can be made of the answer: {error}")).ok()
    }

    fn event(&self, reading: Reading) -> Result<Event, crate::event::Error> {
        let mut builder = Builder::new(SpecVersion::V10);
        builder.attribute("id", &uuid::Uuid::now_v7().to_string())?;
        builder.attribute("source", &self.attributes.source)?;
        builder.attribute("type", &self.attributes.kind)?;
        if let Some(subject) = &self.attributes.subject {
            builder.attribute("subject", subject)?;
        }
        builder.attribute("time", &jiff::Timestamp::now().to_string())?;
        if let Some(content_type) = &reading.content_type {
            builder.attribute("datacontenttype", content_type)?;
        }
        builder.data(reading.data);
        let mut event = builder.build()?;
        self.overrides.apply(&mut event)?;
        Ok(event)
    }
}

/// Sends events one after the other, each until the sink has it. True when the sink refused none.
async fn send_all(sender: Sender, mut events: mpsc::Receiver<Event>, shutdown: CancellationToken) -> bool {
    let mut all_taken = true;
    let mut last_chance = false;
    while let Some(event) = events.recv().await {
        let mut backoff = Backoff::new();
        loop {
            match sender.attempt(slice::from_ref(&event)).await {
                Ok(()) => {
                    tracing::debug!(id = event.id(), "sent");
                    break;
                }
                Err(failure) if failure.is_worth_waiting() => {
                    let wait = backoff.after(&failure);
                    let waiting = events.len() + 1;
                    tracing::warn!(id = event.id(), waiting, wait_ms = wait.as_millis() as u64, "{failure}");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        // There is little time left: do not spend it waiting.
                        () = shutdown.cancelled(), if !last_chance => {
                            last_chance = true;
                            backoff = Backoff::new();
                        }
                    }
                }
                Err(failure) => {
                    all_taken = false;
                    tracing::error!(id = event.id(), "the sink refused the event: {failure}");
                    break;
                }
            }
        }
    }
    all_taken
}

#[cfg(test)]
mod tests;

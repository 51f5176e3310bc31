//! `knats get channels`.

use std::process::ExitCode;

use jiff::Timestamp;

use super::Listing;
use crate::cli::output::{Row, age, bytes, short};
use crate::manage::channels::Channel;

const EXAMPLES: &str = "\
Examples:
  knats get channels
  knats get channels -n default -o wide
  knats get channels -o json

Exit codes: 0 done, 1 NATS does not answer or does not permit it, 2 usage or configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    listing: Listing,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let manager = args.listing.nats.manager().await?;
    let mut channels = manager.channels().await?;
    channels.retain(|channel| args.listing.wants(&channel.namespace));
    args.listing.say(&channels)?;
    Ok(ExitCode::SUCCESS)
}

impl Row for Channel {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("NAME", false),
        ("KIND", false),
        ("STREAM", false),
        ("SUBJECT", true),
        ("EVENTS", false),
        ("BYTES", false),
        ("OLDEST", false),
        ("NEWEST", false),
        ("SUBSCRIPTIONS", false),
        ("STORAGE", true),
        ("REPLICAS", true),
        ("MAX AGE", true),
        ("MAX EVENTS", true),
        ("MAX BYTES", true),
        ("MAX EVENT", true),
        ("WHEN FULL", true),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let ago = |time: Option<Timestamp>| time.map(|time| age(time, now)).unwrap_or_default();
        let size = |limit: Option<u64>| limit.map(bytes).unwrap_or_default();
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.kind.clone(),
            self.stream.clone(),
            self.subject.clone(),
            self.events.to_string(),
            bytes(self.bytes),
            ago(self.first_event),
            ago(self.last_event),
            self.subscriptions.to_string(),
            self.storage.clone(),
            self.replicas.to_string(),
            self.max_age_seconds.map(short).unwrap_or_default(),
            self.max_events.map(|limit| limit.to_string()).unwrap_or_default(),
            size(self.max_bytes),
            size(self.max_event_bytes),
            if self.discard == "new" { "refuses" } else { "deletes oldest" }.to_owned(),
        ]
    }
}

//! `knats get`: what is there, straight from JetStream; one file a kind.

mod channels;
mod deadletter;
mod deadletters;
mod subscriptions;

use std::process::ExitCode;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::output::{self, Format, Row};
use super::{nats, say};

const EXAMPLES: &str = "\
Examples:
  knats get channels
  knats get subscriptions -o wide
  knats get subscriptions default/orders
  knats get deadletters default/orders --code 503
  knats get deadletter 4711
  knats get subscriptions -o json | jq '.[] | select(.lag > 1000)'

Works against NATS alone. What only a running bridge knows (in flight, last error, next retry) is asked over NATS, and
shown as '-' when none answers.

Exit codes: 0 done, 1 it is not there or NATS does not answer, 2 usage or configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Channels and brokers: their streams, what these hold and their limits
    #[command(visible_aliases = ["channel", "ch", "brokers", "broker"])]
    Channels(channels::Args),
    /// Subscriptions and triggers: how far behind they are, what they are at and why
    #[command(visible_aliases = ["subscription", "sub", "triggers", "trigger"])]
    Subscriptions(subscriptions::Args),
    /// Events that nobody would take and messages that are no events, as they are kept in KN_DEADLETTERS
    #[command(visible_alias = "dl")]
    Deadletters(Box<deadletters::Args>),
    /// One of them: the event, why it failed, and what was tried
    Deadletter(Box<deadletter::Args>),
}

/// The flags of everything that can be listed.
#[derive(Debug, clap::Args)]
#[group(skip)]
struct Listing {
    #[command(flatten)]
    nats: nats::Args,
    /// How to show it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Only those of this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.kind {
        Kind::Channels(args) => channels::run(args).await,
        Kind::Subscriptions(args) => subscriptions::run(args).await,
        Kind::Deadletters(args) => deadletters::run(*args).await,
        Kind::Deadletter(args) => deadletter::run(*args).await,
    }
}

impl Listing {
    fn wants(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }

    fn say<T: Row + Serialize>(&self, items: &[T]) -> anyhow::Result<()> {
        say(&output::render(items, self.output, Timestamp::now())?)
    }
}

//! `knats get`: what is there, straight from JetStream, with or without a bridge that runs.

mod deadletter;
mod deadletters;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats get deadletters default/orders --code 503\n  knats get deadletter 4711 -o json"
)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Events that nobody would take and messages that are no events, as they are kept in KN_DEADLETTERS
    Deadletters(Box<deadletters::Args>),
    /// One of them: the event, why it failed, and what was tried
    Deadletter(Box<deadletter::Args>),
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Deadletters(args) => deadletters::run(*args).await,
        What::Deadletter(args) => deadletter::run(*args).await,
    }
}

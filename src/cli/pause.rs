//! `knats pause`: holds a subscription back, for all bridges.

use std::process::ExitCode;
use std::time::Duration;

use super::{duration, nats, say};
use crate::resource::Key;

const EXAMPLES: &str = "\
Examples:
  knats pause default/orders
  knats pause default/orders --for 30m

What is in flight comes to its end; everything else waits in JetStream until 'knats resume', or until the time is over.
Needs nats-server 2.11 or newer.

Exit codes: 0 done, 1 there is no such subscription or it cannot be paused, 2 usage or configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[arg(value_name = "NAMESPACE/NAME")]
    subscription: Key,
    /// How long; until it is resumed when not given
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse_positive)]
    length: Option<Duration>,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let paused = args.nats.manager().await?.pause(&args.subscription, args.length).await?;
    say(&match paused.until {
        Some(until) => format!("{} is paused until {until}\n", paused.subscription),
        None => format!("{} is paused until 'knats resume {0}'\n", paused.subscription),
    })?;
    Ok(ExitCode::SUCCESS)
}

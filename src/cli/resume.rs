//! `knats resume`: lets a subscription go on that was paused.

use std::process::ExitCode;

use super::{nats, say};
use crate::resource::Key;

const EXAMPLES: &str = "\
Example:
  knats resume default/orders

A subscription that is paused by its annotation goes on when its manifest says so.

Exit codes: 0 done (also when it was not paused), 1 there is no such subscription or its annotation pauses it, 2 usage or
configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[arg(value_name = "NAMESPACE/NAME")]
    subscription: Key,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let was_paused = args.nats.manager().await?.resume(&args.subscription).await?;
    let what = if was_paused { "goes on" } else { "was not paused" };
    say(&format!("{} {what}\n", args.subscription))?;
    Ok(ExitCode::SUCCESS)
}

//! `knats replay`: delivers events once more that a subscription has had.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::{confirm, nats, say};
use crate::channel::steer::Start;
use crate::manage::steering::{self, Replay};
use crate::resource::Key;

const EXAMPLES: &str = "\
Examples:
  knats replay default/orders --from 2h --dry-run
  knats replay default/orders --from 2026-11-21T10:00:00Z
  knats replay default/orders --from seq:1200 --yes

Says how many events will be delivered again, asks, and moves the subscription back, for all bridges. Other subscriptions
notice nothing. Attempts are counted anew. Needs nats-server 2.14 or newer.

Exit codes: 0 done (also when the answer was no), 1 there is no such subscription or it cannot be moved there, 2 usage or
configuration, or nobody to ask without --yes.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[arg(value_name = "NAMESPACE/NAME")]
    subscription: Key,
    /// Where to begin: a time, how long ago, or a sequence of the stream (seq:N, or N)
    #[arg(long, value_name = "TIME|DURATION|SEQ", value_parser = steering::start)]
    from: Start,
    #[command(flatten)]
    confirm: confirm::Args,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let manager = args.nats.manager().await?;
    let replay = manager.plan_replay(&args.subscription, args.from).await?;
    say(&told(&replay))?;
    if args.confirm.dry_run || replay.redelivered == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.confirm.confirmed(&format!("Replay {}?", replay.subscription), &shutdown).await? {
        say("not replayed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    manager.replay(&replay).await?;
    say(&format!("{} goes on from sequence {}\n", replay.subscription, replay.from_sequence))?;
    Ok(ExitCode::SUCCESS)
}

fn told(replay: &Replay) -> String {
    let Replay { subscription, stream, from_sequence, events, redelivered, paused, .. } = replay;
    if *redelivered == 0 {
        return format!("{subscription} has had no event from there on, nothing is to be replayed\n");
    }
    let later = if *paused { "; it is paused, so they come when it is resumed" } else { "" };
    let new = events.saturating_sub(*redelivered);
    let beside = if new > 0 { format!(", before {new} that were not delivered yet") } else { String::new() };
    let noun = if *redelivered == 1 { "event" } else { "events" };
    format!(
        "{redelivered} {noun} of {stream} from sequence {from_sequence} on will be delivered again to {subscription}{beside}{later}\n"
    )
}

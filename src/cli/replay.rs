//! `knats replay`: delivers events once more that a subscription has had.

use std::process::ExitCode;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{confirm, duration, nats, say};
use crate::channel::steer::Start;
use crate::manage::steering::Replay;
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
    #[arg(long, value_name = "TIME|DURATION|SEQ", value_parser = start)]
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

/// Reads a time (RFC 3339), a duration ago, or a sequence.
fn start(text: &str) -> Result<Start, String> {
    let expected =
        "expected a time such as 2026-11-21T10:00:00Z, how long ago such as 2h, or a sequence from 1 such as seq:123";
    let number = text.strip_prefix("seq:").unwrap_or(text);
    if text.starts_with("seq:") || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) {
        let sequence = number.parse().ok().filter(|sequence| *sequence > 0);
        return sequence.map(Start::Sequence).ok_or_else(|| expected.to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Start::Time(time));
    }
    let ago = duration::parse(text).ok().and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    ago.map(Start::Time).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_start_is_a_time_a_while_ago_or_a_sequence() {
        assert_eq!(start("seq:123"), Ok(Start::Sequence(123)));
        assert_eq!(start("123"), Ok(Start::Sequence(123)));
        assert_eq!(start("18446744073709551615"), Ok(Start::Sequence(u64::MAX)));
        assert_eq!(start("2026-11-21T10:00:00Z"), Ok(Start::Time("2026-11-21T10:00:00Z".parse().unwrap())));
        let Ok(Start::Time(time)) = start("2h") else { panic!("no time") };
        assert_eq!(Timestamp::now().duration_since(time).as_secs() / 60, 120);
        for wrong in
            ["", "0", "seq:", "seq:0", "seq:x", "-1", "18446744073709551616", "yesterday", "99999999999h", "2026-11-21"]
        {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}

//! `knats discard`: kept dead letters are thrown away, those among them that are no events too.

use std::process::ExitCode;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::confirm;
use super::letters::{Filter, counted};
use super::output::{Format, render};
use super::{Usage, nats, say};
use crate::resource::Key;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats discard default/orders --dry-run\n  knats discard default/orders --older-than 720h\n  \
    knats discard default/orders --seq 12\n\n\
    What is thrown away is gone for good. Ends with 1 when nothing has the --id or --seq, with 2 when\n\
    there is no terminal to ask on and no --yes."
)]
pub(super) struct Args {
    /// The subscription
    #[arg(value_name = "NAMESPACE/SUBSCRIPTION")]
    subscription: Key,
    #[command(flatten)]
    filter: Filter,
    /// List and count them, and throw nothing away
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let manager = args.nats.manager().await?;
    let query = args.filter.query(Some(&args.subscription));
    let count = manager.count_dead_letters(&query).await?;
    let (letters, of) = (counted(count.events + count.poison), &args.subscription);
    if args.dry_run {
        say(&render(&super::redrive::listed(&manager, &query).await?, Format::Table, Timestamp::now())?)?;
        say(&format!("{letters} of {of} would be thrown away\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if count.events + count.poison > 0 && !args.yes {
        if !confirm::is_possible() {
            return Err(Usage(format!("{letters} of {of} would be gone for good: say --yes")).into());
        }
        if !confirm::ask(&format!("Throw {letters} of {of} away for good?"), &shutdown).await? {
            say("nothing was thrown away\n")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut found = manager.dead_letters(&query).await?;
    let mut discarded = 0;
    while !shutdown.is_cancelled()
        && let Some(letter) = found.next().await?
    {
        manager.discard(letter.place).await?;
        discarded += 1;
    }
    say(&format!("{} of {of} thrown away\n", counted(discarded)))?;
    Ok(ExitCode::SUCCESS)
}

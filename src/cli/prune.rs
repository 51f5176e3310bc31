//! `knats prune`: deletes the consumers that subscriptions leave behind.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::output::{self, Format, Row};
use super::{confirm, nats, say};
use crate::manage::prune::Orphan;
use crate::resource::{Desired, Key, Resolver, resolve_entry};

const EXAMPLES: &str = "\
Examples:
  knats prune -f manifests/ --dry-run
  knats prune -f manifests/ --yes
  knats prune -f manifests/ -n shop -o json --dry-run

Lists the consumers of knats' own whose subscriptions no manifest declares, with the events that they have not settled, asks,
and deletes them. Consumers of others are never touched, nor those that a bridge works on. Events stay in their streams.

Exit codes: 0 done (also when the answer was no), 1 a manifest is not valid or something could not be deleted, 2 usage or
configuration, or nobody to ask without --yes.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Manifest files or directories: all that declare subscriptions in this NATS account
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',', required = true)]
    resources: Vec<PathBuf>,
    /// What a reference to a Service means outside a cluster
    #[arg(long, value_name = "NS/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    resolve: Vec<(Key, String)>,
    /// Only subscriptions of this namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to show what is left behind
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    confirm: confirm::Args,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let desired = match Desired::load(&args.resources, &Resolver { services: args.resolve.into_iter().collect() }) {
        Ok(desired) => desired,
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::bail!("nothing is deleted, the manifests have faults:\n  {}", faults.join("\n  "));
        }
    };
    if desired == Desired::default() {
        anyhow::bail!("the manifests declare nothing at all, so everything would be deleted; is -f the right path?");
    }
    let manager = args.nats.manager().await?;
    let mut orphans = manager.orphans(&desired).await?;
    orphans.retain(|orphan| args.namespace.as_ref().is_none_or(|wanted| *wanted == orphan.namespace));
    say(&output::render(&orphans, args.output, Timestamp::now())?)?;
    let (used, free): (Vec<Orphan>, Vec<Orphan>) = orphans.into_iter().partition(|orphan| orphan.in_use);
    for orphan in used {
        eprintln!("{}/{} is left alone: a bridge works on it", orphan.namespace, orphan.name);
    }
    if args.confirm.dry_run || free.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let noun = if free.len() == 1 { "consumer" } else { "consumers" };
    if !args.confirm.confirmed(&format!("Delete {} {noun}?", free.len()), &shutdown).await? {
        eprintln!("nothing is deleted");
        return Ok(ExitCode::SUCCESS);
    }
    for (done, orphan) in free.iter().enumerate() {
        if shutdown.is_cancelled() {
            anyhow::bail!("interrupted: {done} of {} {noun} deleted", free.len());
        }
        manager.delete_orphan(orphan).await?;
    }
    eprintln!("{} {noun} deleted", free.len());
    Ok(ExitCode::SUCCESS)
}

impl Row for Orphan {
    const COLUMNS: &'static [(&'static str, bool)] =
        &[("NAME", false), ("STREAM", false), ("CONSUMER", false), ("UNSETTLED", false), ("IN USE", false)];

    fn cells(&self, _: Timestamp) -> Vec<String> {
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.stream.clone(),
            self.consumer.clone(),
            self.lag.to_string(),
            if self.in_use { "yes" } else { "no" }.to_owned(),
        ]
    }
}

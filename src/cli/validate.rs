//! `knats validate`: checks manifests.

use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  knats validate -f manifests/")]
pub(super) struct Args {
    /// Manifest files or directories
    #[arg(short = 'f', long, value_name = "PATH", value_delimiter = ',', required = true)]
    resources: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _ = &args.resources;
    anyhow::bail!("not wired yet")
}

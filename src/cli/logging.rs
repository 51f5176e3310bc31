//! Logs: to standard error, as text for people or JSON for machines, filtered.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::Usage;

/// The NATS client tells of every connection; so do we, with the reason.
const DEFAULT_FILTER: &str = "info,async_nats=error";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// How logs are written to standard error
    #[arg(long, global = true, display_order = 1000, value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// What is logged, as in `info` or `warn,knats=debug`; RUST_LOG counts when this is not set
    #[arg(long, global = true, display_order = 1000, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Starts logging for the process.
///
/// # Errors
/// When the filter cannot be read.
pub(super) fn start(args: &Args) -> anyhow::Result<()> {
    let given = args.log.clone().or_else(|| std::env::var("RUST_LOG").ok()).filter(|filter| !filter.is_empty());
    let filter = given.as_deref().unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Usage(format!("log filter '{filter}': {error}; expected such as info or warn,knats=debug")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

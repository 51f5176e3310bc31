//! One run of the server behind its guard, from start to end.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const GUARD: &str = include_str!("guard.sh");
/// A large store takes its time to be read.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
/// The first line that a server says, in bytes.
const MAX_GREETING: u64 = 16 * 1024;
/// Longer than the guard itself waits before it kills the server.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Lines of the server's log that are kept for an error message.
const KEPT_LINES: usize = 10;
const MAX_LINE: u64 = 4096;

/// How the server is started, each time anew.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) binary: PathBuf,
    pub(super) directory: PathBuf,
    /// The directory goes when the server does.
    pub(super) temporary: bool,
    pub(super) port: u16,
    pub(super) lock: File,
}

/// A server that takes connections, or did.
#[derive(Debug)]
pub(super) struct Running {
    guard: Child,
    pipe: ChildStdin,
    pid: u32,
    /// Ends when the server's output does: then the server is gone.
    log: JoinHandle<()>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Launch {
    /// Starts the server and waits until it takes connections.
    pub(super) async fn start(&self) -> anyhow::Result<Running> {
        let name = format!("knats-{:016x}", fastrand::u64(..));
        let mut running = self.spawn(&name).await?;
        let accepting = tokio::select! {
            result = self.accepting(&name) => result,
            () = running.ended() => Err(anyhow::anyhow!("it ended")),
        };
        if let Err(error) = accepting {
            let last_lines = running.last_lines();
            running.clear_away().await;
            bail!("nats-server on port {}: {error}{last_lines}", self.port);
        }
        Ok(running)
    }

    /// For when there is no guard to do it.
    pub(super) fn remove_temporary(&self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    async fn spawn(&self, name: &str) -> anyhow::Result<Running> {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", GUARD, "guard"]);
        command.arg(if self.temporary { self.directory.as_os_str() } else { "".as_ref() });
        command.arg(&self.binary).args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-n", name, "-js", "-sd"]);
        command.arg(&self.directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(self.lock.try_clone()?).process_group(0);
        let mut guard = Command::from(command).spawn().context("cannot run /bin/sh, which guards nats-server")?;
        let (Some(pipe), Some(output)) = (guard.stdin.take(), guard.stdout.take()) else {
            bail!("no pipe to the guard of nats-server");
        };
        let mut output = BufReader::new(output);
        let mut first = String::new();
        (&mut output)
            .take(MAX_LINE)
            .read_line(&mut first)
            .await
            .context("cannot read from the guard of nats-server")?;
        let pid = first.trim().parse().context("the guard of nats-server did not start it")?;
        let last_lines = Arc::default();
        let log = tokio::spawn(read_log(output, Arc::clone(&last_lines)));
        Ok(Running { guard, pipe, pid, log, last_lines })
    }

    /// Waits for our own server to greet: another one may have taken the port.
    async fn accepting(&self, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Ok(greeting)) = timeout(GREETING_TIMEOUT, greeting(self.port)).await {
                if greeting.contains(name) {
                    return Ok(());
                }
                bail!("another program answers there");
            }
            sleep(PAUSE).await;
        }
        bail!("it takes no connections within {START_TIMEOUT:?}")
    }
}

async fn greeting(port: u16) -> std::io::Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_GREETING)).read_line(&mut line).await?;
    Ok(line)
}

/// The server's log, at debug level: what matters of it is seen by the bridge anyway.
async fn read_log(mut output: BufReader<ChildStdout>, last_lines: Arc<Mutex<VecDeque<String>>>) {
    let mut line = Vec::new();
    while matches!((&mut output).take(MAX_LINE).read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(target: "nats_server", "{text}");
        let mut kept = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
        line.clear();
    }
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns when server or guard is gone; each without the other is not how it should be.
    pub(super) async fn ended(&mut self) {
        if self.log.is_finished() {
            return;
        }
        tokio::select! {
            _ = &mut self.log => {}
            _ = self.guard.wait() => {}
        }
    }

    /// Ends the server; its temporary directory goes with it.
    pub(super) async fn stop(self) {
        drop(self.pipe);
        await_end(self.guard, self.pid).await;
    }

    /// Takes away what is left of a run that ended, and keeps the store.
    pub(super) async fn clear_away(mut self) {
        let _ = self.pipe.write_all(b"keep\n").await;
        drop(self.pipe);
        await_end(self.guard, self.pid).await;
    }

    fn last_lines(&self) -> String {
        let kept = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// The guard ends after the server. When it was killed itself, or takes too long, the server is killed here.
async fn await_end(mut guard: Child, server: u32) {
    let ended = timeout(STOP_TIMEOUT, guard.wait()).await;
    if !matches!(ended, Ok(Ok(status)) if status.code().is_some()) {
        let kill =
            Command::new("/bin/sh").args(["-c", r#"kill -9 "$1" 2>/dev/null"#, "kill", &server.to_string()]).status();
        let _ = kill.await;
        let _ = guard.kill().await;
    }
}

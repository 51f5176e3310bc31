//! A part of the demo: a child process of this same program that is started again when it ends, and that ends when we do.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_RESTART_DELAY: Duration = Duration::from_millis(100);
const LONGEST_RESTART_DELAY: Duration = Duration::from_secs(5);
/// A part that ran this long is started again at once.
const RAN_WELL: Duration = Duration::from_secs(5);
/// How long a part may take to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest line of output that is passed on as one, in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// The exit code of a part that will never run: its flags are wrong.
const EXIT_USAGE: i32 = 2;

/// Variables that are meant for a command of the user's, not for the parts.
const FOREIGN_VARIABLES: [&str; 5] = ["K_SINK", "K_CE_OVERRIDES", "K_CA_CERTS", super::KEY_VARIABLE, "RUST_LOG"];
const LOG_VARIABLES: [&str; 2] = ["KNATS_LOG", "KNATS_LOG_FORMAT"];

/// How a part is started, each time anew.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) name: &'static str,
    pub(super) args: Vec<OsString>,
    /// Gets each line of standard output, line end included.
    pub(super) output: Option<mpsc::Sender<Vec<u8>>>,
}

/// A part that runs until [`Part::stop`].
#[derive(Debug)]
pub(super) struct Part {
    pid: watch::Receiver<u32>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl Part {
    /// Starts the part; `failed` is cancelled when it can never run.
    pub(super) fn start(launch: Launch, failed: CancellationToken) -> anyhow::Result<Self> {
        let child = launch.spawn()?;
        let (pid_now, pid) = watch::channel(child.id().unwrap_or_default());
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(launch, child, pid_now, stop.clone(), failed));
        Ok(Self { pid, stop, supervisor })
    }

    pub(super) fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// Ends the part and waits until it is gone and all that it wrote is passed on.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if self.supervisor.await.is_err() {
            tracing::error!("the supervisor of a part failed");
        }
    }
}

async fn supervise(
    launch: Launch,
    mut child: Child,
    pid: watch::Sender<u32>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    let name = launch.name;
    let mut delay = FIRST_RESTART_DELAY;
    loop {
        let started = Instant::now();
        let pass_on = launch.pass_on(&mut child);
        // Taken out, because to wait for a child closes its standard input, and so would end it.
        let leash = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => {
                drop(leash);
                end(child).await;
                let _ = pass_on.await;
                return;
            }
        };
        let _ = pass_on.await;
        let how = status.as_ref().map_or_else(|error| error.to_string(), |status| status.to_string());
        if status.is_ok_and(|status| status.code() == Some(EXIT_USAGE)) {
            tracing::error!("the {name} cannot run: {how}");
            failed.cancel();
            return;
        }
        tracing::warn!(pid = *pid.borrow(), "the {name} ended ({how}); starting it again");
        if started.elapsed() > RAN_WELL {
            delay = FIRST_RESTART_DELAY;
        }
        child = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_RESTART_DELAY),
            }
            match launch.spawn() {
                Ok(child) => break child,
                Err(error) => tracing::error!("{error:#}"),
            }
        };
        pid.send_replace(child.id().unwrap_or_default());
        tracing::info!(pid = *pid.borrow(), "the {name} runs again");
    }
}

impl Launch {
    fn spawn(&self) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(program);
        // The pipe to its standard input is what tells it that we are gone. A process group of its own keeps Ctrl-C away from it.
        command.arg("--exit-with-parent").args(&self.args).process_group(0);
        command.stdin(Stdio::piped()).stdout(if self.output.is_some() { Stdio::piped() } else { Stdio::null() });
        for (name, _) in std::env::vars_os() {
            let is_flag =
                name.to_str().is_some_and(|name| name.starts_with("KNATS_") && !LOG_VARIABLES.contains(&name));
            if is_flag || FOREIGN_VARIABLES.iter().any(|foreign| name == *foreign) {
                command.env_remove(name);
            }
        }
        if std::env::var_os(LOG_VARIABLES[0]).is_none() {
            command.env(LOG_VARIABLES[0], "warn");
        }
        for name in ["NO_PROXY", "no_proxy"] {
            let others = std::env::var(name).unwrap_or_default();
            command.env(name, format!("127.0.0.1,{others}"));
        }
        command.kill_on_drop(true).spawn().with_context(|| format!("cannot start the {}", self.name))
    }

    /// Passes on what the child writes until it ends.
    fn pass_on(&self, child: &mut Child) -> JoinHandle<()> {
        let (stdout, output) = (child.stdout.take(), self.output.clone());
        tokio::spawn(async move {
            if let (Some(stdout), Some(output)) = (stdout, output) {
                pass_on_lines(stdout, output).await;
            }
        })
    }
}

async fn pass_on_lines(stdout: ChildStdout, output: mpsc::Sender<Vec<u8>>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match (&mut stdout).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(1..) if output.send(line).await.is_ok() => {}
            _ => return,
        }
    }
}

/// Waits for a child whose standard input is closed; kills it when it takes too long.
async fn end(mut child: Child) {
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

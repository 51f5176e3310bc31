//! A child process that never outlives its test, and the signals that tests send.

use std::fs::File;
use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;

/// A running command whose output goes to files. Dropping it kills and reaps it.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a command left when it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Output is appended to `NAME.stdout` and `NAME.stderr` in `dir`.
    pub fn spawn(mut command: Command, dir: &Path, name: &str) -> Self {
        let stdout = dir.join(format!("{name}.stdout"));
        let stderr = dir.join(format!("{name}.stderr"));
        let append = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        command.stdout(append(&stdout)).stderr(append(&stderr));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, stdout, stderr }
    }

    /// The same, with standard output going into a pipe that the test reads, or does not.
    pub fn spawn_piped(mut command: Command, dir: &Path, name: &str) -> (Self, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        let stderr = dir.join(format!("{name}.stderr"));
        let child = command.stdout(writer).stderr(File::create(&stderr).unwrap()).spawn().unwrap();
        (Self { child, stdout: PathBuf::new(), stderr }, reader)
    }

    /// The memory it holds now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory it has held, in KiB.
    pub fn resident_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success(), "kill -{signal} {}", self.child.id());
    }

    /// Whether SIGSTOP has taken effect on every thread.
    pub fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        threads
            .map(|thread| state_and_parent(&thread.path().join("stat")))
            .all(|found| found.is_none_or(|(state, _)| state == "T"))
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub async fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the process ends", || std::future::ready(child.try_wait().unwrap())).await
    }

    pub async fn ended(mut self) -> Ended {
        let code = self.wait().await.code();
        Ended { code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A command with nothing of our own environment but what finds programs and directories: neither proxies nor settings of
/// the one who runs the tests.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The product itself.
pub fn knats() -> Command {
    command(env!("CARGO_BIN_EXE_knats"))
}

/// Runs `knats` with these arguments to its end.
pub async fn run(args: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let mut command = knats();
    command.args(args);
    Process::spawn(command, dir.path(), "knats").ended().await
}

/// The processes that `id` has started, and those they started.
pub fn descendants(id: u32) -> Vec<u32> {
    let mut found = vec![id];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        next += 1;
        found.extend(all_processes().filter(|&(_, its_parent)| its_parent == parent).map(|(child, _)| child));
    }
    found.split_off(1)
}

/// Whether a process is there and not merely waiting to be reaped.
pub fn is_alive(id: u32) -> bool {
    stat(id).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn all_processes() -> impl Iterator<Item = (u32, u32)> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((id, stat(id)?.1))
    })
}

fn stat(id: u32) -> Option<(String, u32)> {
    state_and_parent(Path::new(&format!("/proc/{id}/stat")))
}

/// From a `stat` file: `ID (NAME) STATE PARENT ...`.
fn state_and_parent(file: &Path) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

//! The bridge as its users run it: the real binary, manifests in files, waited for through `/readyz`.

use std::path::PathBuf;
use std::process::ExitStatus;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Event, Message};
use super::process::{self, Ended, Process, knats};
use super::resources::to_yaml;
use super::{Nats, eventually, free_port};

/// How a bridge is to be run.
pub struct Setup {
    nats_url: String,
    files: Vec<(String, String)>,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    descriptors: Option<u64>,
    listen: u16,
    admin: u16,
    tls: u16,
}

/// A running `knats serve`. Killed when dropped; a bridge that has panicked fails its test.
pub struct Bridge {
    setup: Setup,
    dir: TempDir,
    process: Process,
}

impl Bridge {
    /// Its manifests are these documents in one file, `resources.yaml`.
    pub fn of(nats: &Nats, documents: &[Value]) -> Setup {
        Self::at(&nats.url()).file("resources.yaml", &to_yaml(documents))
    }

    /// Started and ready.
    pub async fn serve(nats: &Nats, documents: &[Value]) -> Self {
        Self::of(nats, documents).start().await
    }

    pub fn at(nats_url: &str) -> Setup {
        Setup {
            nats_url: nats_url.to_owned(),
            files: Vec::new(),
            flags: Vec::new(),
            variables: Vec::new(),
            descriptors: None,
            listen: free_port(),
            admin: free_port(),
            tls: free_port(),
        }
    }
}

impl Setup {
    /// Adds a manifest file; all of them lie in one directory, which is what the bridge is given.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push(name.to_owned());
        self.flags.push(value.to_owned());
        self
    }

    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts with so many file descriptors, though it may ask for more, as many systems start their programs.
    pub fn descriptors(mut self, count: u64) -> Self {
        self.descriptors = Some(count);
        self
    }

    /// Starts and waits until it is ready.
    pub async fn start(self) -> Bridge {
        let bridge = self.spawn();
        bridge.wait_until_ready().await;
        bridge
    }

    /// Starts and does not wait for anything.
    pub fn spawn(self) -> Bridge {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("resources")).unwrap();
        for (name, text) in &self.files {
            std::fs::write(dir.path().join("resources").join(name), text).unwrap();
        }
        let process = self.process(&dir);
        Bridge { setup: self, dir, process }
    }

    /// Starts and waits for its end; for what must not start.
    pub async fn ended(self) -> Ended {
        let mut bridge = self.spawn();
        let code = bridge.process.wait().await.code();
        Ended { code, stdout: bridge.process.stdout(), stderr: bridge.process.stderr() }
    }

    fn process(&self, dir: &TempDir) -> Process {
        let mut command = knats();
        if let Some(count) = self.descriptors {
            let program = std::mem::replace(&mut command, process::command("sh"));
            command.arg("-c").arg(format!("ulimit -S -n {count}; exec \"$0\" \"$@\"")).arg(program.get_program());
        }
        command.args(["serve", "--nats-url", &self.nats_url]);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.listen));
        command.arg("--admin-listen").arg(format!("127.0.0.1:{}", self.admin));
        if self.flags.iter().any(|flag| flag == "--tls-cert-file") {
            command.arg("--tls-listen").arg(format!("127.0.0.1:{}", self.tls));
        }
        command.arg("--resources").arg(dir.path().join("resources"));
        command.args(&self.flags);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::spawn(command, dir.path(), "knats")
    }
}

impl Bridge {
    /// The ingress; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.setup.listen)
    }

    /// The address of the ingress.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.setup.listen).into()
    }

    /// The address of the ingress with TLS, for a bridge that has a certificate.
    pub fn tls_address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.setup.tls).into()
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.setup.admin)
    }

    /// Posts an event to a channel of namespace `default`.
    pub async fn post(&self, channel: &str, event: &Event) -> Message {
        http::post(&self.url(&format!("/default/{channel}"))).event(event).send().await
    }

    /// Posts an event to a channel of namespace `default`, which must take it.
    pub async fn send(&self, channel: &str, event: &Event) {
        let answer = self.post(channel, event).await;
        assert_eq!(answer.status(), 202, "{}", answer.text());
    }

    pub async fn readyz(&self) -> std::io::Result<Message> {
        http::get(&self.admin_url("/readyz")).try_send().await
    }

    pub async fn wait_until_ready(&self) {
        self.wait_for_readyz("200", |answer| answer.status() == 200).await;
    }

    /// Waits for an answer of `/readyz` that is as told.
    pub async fn wait_for_readyz(&self, what: &str, is: impl Fn(&Message) -> bool) -> Message {
        let ask = || async { self.readyz().await.ok().filter(|answer| is(answer)) };
        eventually(&format!("/readyz: {what}"), ask).await
    }

    /// Writes a manifest file in one step, as an editor or a mounted ConfigMap does.
    pub fn write(&self, name: &str, documents: &[Value]) {
        self.write_text(name, &to_yaml(documents));
    }

    pub fn write_text(&self, name: &str, text: &str) {
        let aside = self.dir.path().join("aside");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, self.resources().join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.resources().join(name)).unwrap();
    }

    fn resources(&self) -> PathBuf {
        self.dir.path().join("resources")
    }

    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM.
    pub fn term(&self) {
        self.process.signal("TERM");
    }

    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Starts it again with the same ports, flags and files, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn_again();
        self.wait_until_ready().await;
    }

    pub fn spawn_again(&mut self) {
        self.process = self.setup.process(&self.dir);
    }

    /// What everybody on the machine sees of how it was started.
    pub fn arguments(&self) -> String {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.process.id())).unwrap();
        String::from_utf8_lossy(&bytes).replace('\0', "\n")
    }

    /// The memory it holds now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.process.resident_kib()
    }

    /// The most memory that the process running now has held, in KiB.
    pub fn resident_peak_kib(&self) -> u64 {
        self.process.resident_peak_kib()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.process.kill9();
        let (log, output) = (self.process.stderr(), self.process.stdout());
        if std::thread::panicking() {
            const SHOWN: usize = 60;
            let lines: Vec<&str> = log.lines().chain(output.lines()).collect();
            eprintln!("--- the bridge said ---\n{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
        } else {
            assert!(!log.contains("panicked at"), "the bridge has panicked:\n{log}");
        }
    }
}

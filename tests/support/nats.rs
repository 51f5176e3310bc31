//! A private nats-server with JetStream, and clients to look into it and to write what others write.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_nats::jetstream;
use async_nats::jetstream::consumer;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::process::{Process, command};
use super::{eventually, free_port, until, within};

/// A nats-server of the test's own, on loopback. Killed when dropped.
pub struct Nats {
    port: u16,
    dir: TempDir,
    program: PathBuf,
    process: Process,
    /// The largest file that it can write, in KiB.
    file_limit: Option<u64>,
}

impl Nats {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// `settings` are further lines of its configuration file.
    pub async fn start_with(settings: &str) -> Self {
        let nats = Self::start_as(settings);
        nats.wait_until_up().await;
        nats
    }

    /// Started with settings that let nobody in without a secret, so nobody waits until it is up.
    pub fn start_as(settings: &str) -> Self {
        Self::start_program(executable(), settings)
    }

    /// A server of another version; nobody waits until it is up.
    pub fn start_program(program: PathBuf, settings: &str) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let config = format!(
            "listen: 127.0.0.1:{port}\njetstream {{ store_dir: {store:?}, max_file_store: 1GB, max_memory_store: 64MB }}\n\
             {settings}\n"
        );
        std::fs::write(dir.path().join("nats.conf"), config).unwrap();
        let process = spawn(&program, &dir, None);
        Self { port, dir, program, process, file_limit: None }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, on the same port and with what it had stored.
    pub async fn start_again(&mut self) {
        self.spawn_again();
        self.wait_until_up().await;
    }

    /// The same, and nobody waits until it is up.
    pub fn spawn_again(&mut self) {
        self.process = spawn(&self.program, &self.dir, self.file_limit);
    }

    /// From its next start on it can write no file that is larger, as if its disk were full then; `None` is without a limit.
    pub fn limit_files(&mut self, kib: Option<u64>) {
        self.file_limit = kib;
    }

    /// From its next start on it is this program.
    pub fn becomes(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Throws away what it had stored; only while it is not running.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.dir.path().join("store")).unwrap();
    }

    /// SIGSTOP: connections stay, nobody answers.
    pub async fn stop(&self) {
        self.process.signal("STOP");
        until("nats-server has stopped", || async { self.process.is_stopped() }).await;
    }

    pub fn cont(&self) {
        self.process.signal("CONT");
    }

    pub fn cont_if_running(&mut self) {
        if self.process.is_running() {
            self.cont();
        }
    }

    /// Tells it to end as a server does that is taken out of service, and waits until it has.
    pub async fn lame_duck(&mut self) {
        self.process.signal("USR2");
        let deadline = std::time::Instant::now() + super::DEADLINE;
        while self.process.is_running() {
            assert!(std::time::Instant::now() < deadline, "nats-server does not end");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Changes its configuration file; counts from the next start on, or from [`Nats::reload`] on.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.dir.path().join("nats.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "no {from:?} in {text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
    }

    /// SIGHUP: reads its configuration file again. Returns when it has.
    pub async fn reload(&self) {
        const DONE: &str = "Reloaded server configuration";
        let before = self.process.stderr().matches(DONE).count();
        self.process.signal("HUP");
        until("nats-server has reloaded", || async { self.process.stderr().matches(DONE).count() > before }).await;
    }

    /// Makes such a change and lets it count at once.
    pub async fn reload_with(&self, from: &str, to: &str) {
        self.reconfigure(from, to);
        self.reload().await;
    }

    pub async fn wait_until_up(&self) {
        eventually("nats-server greets", || async { RawNats::try_connect(self.port).await.ok() }).await;
    }

    pub async fn client(&self) -> async_nats::Client {
        within("a NATS connection", async_nats::connect(self.url())).await.unwrap()
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    pub async fn stream(&self, name: &str) -> jetstream::stream::Stream {
        self.jetstream().await.get_stream(name).await.unwrap_or_else(|error| panic!("stream {name}: {error}"))
    }

    pub async fn stream_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.jetstream().await.stream_names().try_collect().await.unwrap();
        names.sort();
        names
    }

    /// How many messages a stream holds.
    pub async fn count(&self, stream: &str) -> u64 {
        self.stream(stream).await.get_info().await.unwrap().state.messages
    }

    /// One stored message, from 1.
    pub async fn message(&self, stream: &str, sequence: u64) -> StreamMessage {
        self.stream(stream).await.get_raw_message(sequence).await.unwrap()
    }

    /// All messages that a stream holds; none when there is no such stream.
    pub async fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        let Ok(stream) = self.jetstream().await.get_stream(stream).await else { return Vec::new() };
        let state = stream.get_info().await.unwrap().state;
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            // A sequence in between may be gone.
            if let Ok(message) = stream.get_raw_message(sequence).await {
                messages.push(message);
            }
        }
        messages
    }

    /// Waits for at least so many kept dead letters.
    pub async fn dead_letters(&self, count: usize) -> Vec<StreamMessage> {
        let enough = || async { Some(self.messages("KN_DEADLETTERS").await).filter(|all| all.len() >= count) };
        eventually(&format!("{count} messages in KN_DEADLETTERS"), enough).await
    }

    /// Waits until so many dead letters are kept, without reading them.
    pub async fn dead_letters_counted(&self, count: u64) {
        until(&format!("{count} messages in KN_DEADLETTERS"), || async { self.count("KN_DEADLETTERS").await == count })
            .await;
    }

    pub async fn consumers(&self, stream: &str) -> Vec<consumer::Info> {
        self.stream(stream).await.consumers().try_collect().await.unwrap()
    }

    /// Waits until every consumer of a stream has all its messages delivered and acknowledged.
    pub async fn settled(&self, stream: &str) {
        let stream = self.stream(stream).await;
        let settled = || async {
            let all: Vec<consumer::Info> = stream.consumers().try_collect().await.ok()?;
            let idle = |info: &consumer::Info| info.num_pending == 0 && info.num_ack_pending == 0;
            Some(()).filter(|()| !all.is_empty() && all.iter().all(idle))
        };
        eventually("nothing pending, nothing unacknowledged", settled).await;
    }

    /// Publishes as `nats pub` would, headers as given.
    pub async fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: impl Into<Vec<u8>>) {
        let headers: Vec<(&[u8], &[u8])> =
            headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        self.publish_raw(subject, &headers, &payload.into()).await;
    }

    /// Publishes header bytes that a decent client would refuse.
    pub async fn publish_raw(&self, subject: &str, headers: &[(&[u8], &[u8])], payload: &[u8]) {
        let mut raw = RawNats::try_connect(self.port).await.unwrap();
        raw.publish(subject, headers, payload).await.unwrap();
    }
}

fn spawn(program: &Path, dir: &TempDir, file_limit: Option<u64>) -> Process {
    let mut server = command(if file_limit.is_some() { Path::new("sh") } else { program });
    if let Some(kib) = file_limit {
        // In blocks of 512 bytes.
        server.arg("-c").arg(format!("ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib)).arg(program);
    }
    server.arg("-c").arg(dir.path().join("nats.conf"));
    Process::spawn(server, dir.path(), "nats")
}

/// `KNATS_NATS_SERVER`, else the one in the project's own tool folder, else the one on `PATH`.
pub fn executable() -> PathBuf {
    find("KNATS_NATS_SERVER", "nats-server")
        .unwrap_or_else(|| panic!("no nats-server: `make test` fetches one, or name one in KNATS_NATS_SERVER"))
}

/// The oldest version that is supported, to be upgraded: `KNATS_OLD_NATS_SERVER`, else as above.
pub fn old_executable() -> PathBuf {
    find("KNATS_OLD_NATS_SERVER", "nats-server-2.10").unwrap_or_else(|| {
        panic!(
            "no nats-server 2.10 to upgrade from: `make tools` fetches one into .tools/nats-server-2.10, or name one in \
             KNATS_OLD_NATS_SERVER"
        )
    })
}

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    named.into_iter().chain([own]).chain(on_path).find(|program| program.is_file())
}

/// The value of a stored message's header, its name in the case given.
pub fn header<'a>(message: &'a StreamMessage, name: &str) -> Option<&'a str> {
    message.headers.get(name).map(async_nats::HeaderValue::as_str)
}

/// A message's payload as text.
pub fn text(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// The NATS protocol by hand.
struct RawNats {
    stream: BufReader<TcpStream>,
}

impl RawNats {
    async fn try_connect(port: u16) -> std::io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut raw = Self { stream: BufReader::new(TcpStream::connect(address).await?) };
        raw.expect("INFO").await?;
        raw.stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n").await?;
        raw.ping().await?;
        Ok(raw)
    }

    async fn publish(&mut self, subject: &str, headers: &[(&[u8], &[u8])], payload: &[u8]) -> std::io::Result<()> {
        let mut block = b"NATS/1.0\r\n".to_vec();
        for (name, value) in headers {
            block.extend_from_slice(name);
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
            block.extend_from_slice(b"\r\n");
        }
        block.extend_from_slice(b"\r\n");
        let total = block.len() + payload.len();
        let mut message = match headers {
            [] => format!("PUB {subject} {}\r\n", payload.len()).into_bytes(),
            _ => [format!("HPUB {subject} {} {total}\r\n", block.len()).into_bytes(), block].concat(),
        };
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.stream.write_all(&message).await?;
        self.ping().await
    }

    /// Comes back when the server has worked on everything sent before.
    async fn ping(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"PING\r\n").await?;
        self.expect("PONG").await
    }

    async fn expect(&mut self, verb: &str) -> std::io::Result<()> {
        let mut line = String::new();
        while !line.starts_with(verb) {
            line.clear();
            let read = tokio::time::timeout(super::DEADLINE, self.stream.read_line(&mut line)).await;
            if read.map_err(|_| std::io::ErrorKind::TimedOut)?? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            assert!(!line.starts_with("-ERR"), "NATS says {line}");
        }
        Ok(())
    }
}

//! Owns the nats-servers: one alone, or three that are a cluster, each with a store of its own and gone with the bench.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};

use super::process::{Process, free_port, wait_for};

/// How many servers are a cluster.
pub const SERVERS: usize = 3;
/// How long a cluster may take to agree on something, and one server to answer.
const AGREE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// When what is stored has to be on the disk.
#[derive(Clone, Copy, PartialEq)]
pub enum Disk {
    /// Some time after it was acknowledged, as nats-server has it by default.
    Later,
    /// Before it is acknowledged (`sync_interval: always`).
    EachWrite,
}

/// A NATS server, or several that are one.
#[derive(Default)]
pub struct Nats {
    pub processes: Vec<Process>,
    ports: Vec<u16>,
    stores: Vec<tempfile::TempDir>,
}

impl Nats {
    pub fn start() -> Self {
        let mut nats = Self::default();
        nats.add(&[]);
        nats.wait();
        nats
    }

    /// A cluster, with somebody who leads JetStream.
    pub async fn start_cluster(disk: Disk) -> Self {
        let routes: Vec<String> = (0..SERVERS).map(|_| format!("nats://127.0.0.1:{}", free_port())).collect();
        let all = routes.join(",");
        let mut cluster = Self::default();
        let settings = tempfile::NamedTempFile::new().unwrap();
        if disk == Disk::EachWrite {
            std::fs::write(settings.path(), "jetstream { sync_interval: always }\n").unwrap();
        }
        let settings = settings.path().display().to_string();
        for (number, own) in routes.iter().enumerate() {
            let name = format!("n{number}");
            cluster.add(&["-c", &settings, "-n", &name, "--cluster_name", "bench", "--cluster", own, "--routes", &all]);
        }
        cluster.wait();
        for number in 0..SERVERS {
            let context = context(&cluster.url_of(number)).await;
            agreed("leader of JetStream", || async { context.query_account().await.ok() }).await;
        }
        cluster
    }

    fn add(&mut self, more: &[&str]) {
        let store = tempfile::tempdir().unwrap();
        let port = free_port();
        let (port_text, store_text) = (port.to_string(), store.path().display().to_string());
        let own = ["-a", "127.0.0.1", "-p", &port_text, "-js", "-sd", &store_text];
        let arguments: Vec<String> = own.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        self.processes.push(Process::start(&executable(), &arguments));
        self.ports.push(port);
        self.stores.push(store);
    }

    fn wait(&self) {
        self.ports.iter().for_each(|port| wait_for(SocketAddr::from(([127, 0, 0, 1], *port))));
    }

    /// The server alone, or any of a cluster.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    fn url_of(&self, number: usize) -> String {
        format!("nats://127.0.0.1:{}", self.ports[number])
    }

    /// The server that leads a stream, once all others have what it has. Whoever talks to it is spared a hop.
    pub async fn leader_of(&self, stream: &str) -> String {
        let context = context(&self.url()).await;
        let leader = || async {
            let cluster = context.get_stream(stream).await.ok()?.cached_info().cluster.clone()?;
            let current = cluster.replicas.iter().filter(|replica| replica.current).count();
            let number = cluster.leader?.strip_prefix('n')?.parse().ok()?;
            (current + 1 == SERVERS).then_some(number)
        };
        self.url_of(agreed("leader of the stream with all replicas", leader).await)
    }
}

/// A client for what a bench asks of JetStream besides.
pub async fn context(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.unwrap())
}

/// How many messages a stream holds, and how many bytes.
pub async fn held(context: &jetstream::Context, stream: &str) -> stream::State {
    context.get_stream(stream).await.unwrap().cached_info().state.clone()
}

/// Asks until there is an answer.
async fn agreed<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + AGREE;
    loop {
        if let Ok(Some(answer)) = tokio::time::timeout(ANSWER, ask()).await {
            return answer;
        }
        assert!(Instant::now() < deadline, "no {what} within {AGREE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The `nats-server` that `make tools` has fetched, else the one on PATH.
fn executable() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nats-server");
    if fetched.is_file() { fetched } else { PathBuf::from("nats-server") }
}

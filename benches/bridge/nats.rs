//! Owns the nats-servers: one alone, or three that are a cluster, each with a store of its own and gone with the bench.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use serde_json::Value;

use super::process::{Process, free_port, wait_for};
use super::zones;

/// How many servers are a cluster.
pub const SERVERS: usize = 3;
/// How long a cluster may take to agree on something, and one server to answer.
const AGREE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// A NATS server, or several that are one.
#[derive(Default)]
pub struct Nats {
    pub processes: Vec<Process>,
    ports: Vec<u16>,
    /// Where those of a cluster tell of their routes.
    monitoring: Vec<u16>,
    stores: Vec<tempfile::TempDir>,
}

impl Nats {
    pub fn start() -> Self {
        let mut nats = Self::default();
        nats.add([]);
        nats.wait();
        nats
    }

    /// A cluster whose servers are [`zones::ONE_WAY`] apart, with somebody who leads JetStream.
    pub async fn start_cluster() -> Self {
        let ports = [(); SERVERS].map(|()| free_port());
        let relays = ports.map(zones::relay);
        let all = relays.map(|relay| format!("nats://{relay}")).join(",");
        let mut cluster = Self::default();
        for (number, (port, relay)) in ports.into_iter().zip(relays).enumerate() {
            let monitoring = free_port();
            let settings = [
                ("-n", format!("n{number}")),
                ("-m", monitoring.to_string()),
                ("--cluster_name", "bench".to_owned()),
                ("--cluster", format!("nats://127.0.0.1:{port}")),
                // Servers also learn of each other from each other.
                ("--cluster_advertise", relay.to_string()),
                ("--routes", all.clone()),
            ];
            cluster.add(settings.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            cluster.monitoring.push(monitoring);
        }
        cluster.wait();
        for number in 0..SERVERS {
            let context = context(&cluster.url_of(number)).await;
            agreed("leader of JetStream", || async { context.query_account().await.ok() }).await;
        }
        cluster
    }

    fn add(&mut self, more: impl IntoIterator<Item = String>) {
        let store = tempfile::tempdir().unwrap();
        let port = free_port();
        let (port_text, store_text) = (port.to_string(), store.path().display().to_string());
        let own = ["-a", "127.0.0.1", "-p", &port_text, "-js", "-sd", &store_text].map(str::to_owned);
        let arguments: Vec<String> = own.into_iter().chain(more).collect();
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

    /// Panics when a route of a cluster goes around the relays: the answer to its last ping came too early then.
    pub async fn assert_apart(&self) {
        for monitoring in &self.monitoring {
            let answer = reqwest::get(format!("http://127.0.0.1:{monitoring}/routez")).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            let routes = answer["routes"].as_array().unwrap();
            assert!(!routes.is_empty(), "{answer}");
            for route in routes {
                // As Go writes it: 2.1ms, or 1.2s.
                let rtt = route["rtt"].as_str().unwrap_or_default();
                let seconds: Option<f64> = match rtt.strip_suffix("ms") {
                    Some(millis) => millis.parse().ok().map(|millis: f64| millis / 1e3),
                    None => rtt.strip_suffix('s').and_then(|seconds| seconds.parse().ok()),
                };
                let round_trip = 2 * zones::ONE_WAY;
                assert!(
                    seconds.is_some_and(|rtt| rtt >= round_trip.as_secs_f64()),
                    "a route takes {rtt}, not {round_trip:?}"
                );
            }
        }
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

//! Three nats-servers that are one JetStream cluster, and what can happen to it.

use serde_json::Value;

use super::nats::{Nats, executable};
use super::{eventually, free_port, until, within};

const SIZE: usize = 3;
/// Whoever says nothing works in one account; all of JetStream is the business of another.
const ACCOUNTS: &str = "accounts {
  A: { jetstream: enabled, users: [{ user: anybody, password: p }] }
  S: { users: [{ user: admin, password: p }] }
}
no_auth_user: anybody
system_account: S";

/// The cluster. Its servers are killed when it is dropped.
pub struct Cluster {
    nodes: Vec<Nats>,
}

impl Cluster {
    /// Started, with a leader.
    pub async fn start() -> Self {
        let ports: Vec<u16> = (0..SIZE).map(|_| free_port()).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let node = |(number, port): (usize, &u16)| {
            let routes = routes.join(", ");
            let cluster = format!("cluster {{ name: test, listen: 127.0.0.1:{port}, routes: [{routes}] }}");
            Nats::start_program(executable(), &format!("server_name: n{number}\n{cluster}\n{ACCOUNTS}"))
        };
        let cluster = Self { nodes: ports.iter().enumerate().map(node).collect() };
        for node in &cluster.nodes {
            node.wait_until_up().await;
        }
        cluster.wait_until_whole().await;
        cluster
    }

    /// All servers, as `--nats-url` takes them.
    pub fn urls(&self) -> String {
        self.servers().join(",")
    }

    pub fn node(&self, number: usize) -> &Nats {
        &self.nodes[number]
    }

    pub fn kill9(&mut self, number: usize) {
        self.nodes[number].kill9();
    }

    /// Starts one again that was killed, with what it had stored.
    pub async fn start_again(&mut self, number: usize) {
        self.nodes[number].start_again().await;
    }

    /// Waits until each server answers calls of the JetStream API, so there is a leader and nobody is alone.
    pub async fn wait_until_whole(&self) {
        for node in &self.nodes {
            until("JetStream answers", || async { call(node.client().await, "$JS.API.INFO").await.is_some() }).await;
        }
    }

    /// Which server leads a stream.
    pub async fn stream_leader(&self, stream: &str) -> usize {
        self.leader(&format!("$JS.API.STREAM.INFO.{stream}")).await
    }

    /// Which server leads a consumer.
    pub async fn consumer_leader(&self, stream: &str, consumer: &str) -> usize {
        self.leader(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}")).await
    }

    async fn leader(&self, subject: &str) -> usize {
        let ask = || async {
            let leader = self.call(subject).await?["cluster"]["leader"].as_str()?.to_owned();
            leader.strip_prefix('n')?.parse().ok()
        };
        eventually("somebody leads", ask).await
    }

    /// Has the leader of a stream hand over to another server.
    pub async fn stream_steps_down(&self, stream: &str) {
        self.steps_down(&format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}")).await;
    }

    /// Has the leader of a consumer hand over to another server.
    pub async fn consumer_steps_down(&self, stream: &str, consumer: &str) {
        self.steps_down(&format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{stream}.{consumer}")).await;
    }

    /// Has the leader of all of JetStream hand over to another server.
    pub async fn meta_steps_down(&self) {
        let admin = || async_nats::ConnectOptions::with_user_and_password("admin".into(), "p".into());
        let subject = "$JS.API.META.LEADER.STEPDOWN";
        let ask = || async { call(admin().connect(self.servers()).await.ok()?, subject).await };
        eventually(subject, ask).await;
    }

    /// Asks again while there is nobody who could.
    async fn steps_down(&self, subject: &str) {
        eventually(subject, || self.call(subject)).await;
    }

    /// Asks whatever server is there.
    async fn call(&self, subject: &str) -> Option<Value> {
        call(async_nats::connect(self.servers()).await.ok()?, subject).await
    }

    fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(Nats::url).collect()
    }
}

/// What JetStream answers to a call without arguments, unless it is an error.
async fn call(client: async_nats::Client, subject: &str) -> Option<Value> {
    let answer = within("an answer, whatever it says", async {
        tokio::time::timeout(std::time::Duration::from_secs(2), client.request(subject.to_owned(), "".into())).await
    });
    let answer: Value = serde_json::from_slice(&answer.await.ok()?.ok()?.payload).ok()?;
    answer["error"].is_null().then_some(answer)
}

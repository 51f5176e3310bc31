//! What stands while the faults strike: a nats-server, a link to it that can be cut, two bridges, and the sinks.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::json;

use super::sinks::Sinks;
use crate::support::chaos::ChaosProxy;
use crate::support::http::post;
use crate::support::resources::{channel_with, subscription, to_yaml};
use crate::support::{Bridge, Nats};

const STREAM: &str = "KN_DEFAULT__CHAOS";
/// What a bridge may hold at most, in KiB. A debug build needs more than a release build.
pub const MEMORY_BOUND_KIB: u64 = 192 * 1024;
/// How long nothing may happen before the test gives up: longer than any wait of the bridge after a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events in one request when a backlog is loaded.
const BATCH: u64 = 100;

pub struct House {
    pub nats: Nats,
    pub link: ChaosProxy,
    /// The first reaches NATS over the link, the second at once.
    pub bridges: [Bridge; 2],
    pub sinks: Sinks,
}

impl House {
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    /// Its subscriptions are not delivered to yet.
    pub async fn start_paused() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(paused: bool) -> Self {
        // The long form has thousands of connections, and many systems let a program have 1,024 until it asks for more.
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let nats = Nats::start().await;
        let link = ChaosProxy::to(nats.port()).await;
        let sinks = Sinks::start().await;
        let manifests = manifests(&sinks, paused);
        let bridge = |url: &str| {
            // All senders, the slow ones too, are one peer here.
            let setup = Bridge::at(url).file("resources.yaml", &manifests).flag("--max-connections-per-peer", "8000");
            setup.flag("--publish-timeout", "1s").flag("--max-in-flight", "128").flag("--drain-timeout", "10s").spawn()
        };
        let bridges = [bridge(&link.nats_url()), bridge(&nats.url())];
        let house = Self { nats, link, bridges, sinks };
        house.wait_until_ready().await;
        house
    }

    pub async fn wait_until_ready(&self) {
        for bridge in &self.bridges {
            bridge.wait_until_ready().await;
        }
    }

    /// Puts events 0 to `count` into the channel, whose subscriptions are paused.
    pub async fn load_backlog(&self, count: u64) {
        let url = self.bridges[0].url("/default/chaos");
        let mut next = 0;
        while next < count {
            let numbers = next..(next + BATCH).min(count);
            let events: Vec<_> = numbers
                .clone()
                .map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "/chaos", "type": "t", "data": id}))
                .collect();
            let body = serde_json::to_vec(&events).unwrap();
            let answer =
                post(&url).header("content-type", "application/cloudevents-batch+json").body(body).send().await;
            // A batch that was refused half-way is sent again as a whole; the dedupe ids see to the rest.
            match answer.status() {
                202 => next = numbers.end,
                503 => tokio::time::sleep(Duration::from_millis(50)).await,
                status => panic!("{status} {}", answer.text()),
            }
        }
    }

    /// Takes the pause out of the manifests.
    pub fn resume(&self) {
        for bridge in &self.bridges {
            bridge.write_text("resources.yaml", &manifests(&self.sinks, false));
        }
    }

    pub async fn kill_and_restart(&mut self, which: usize) {
        self.bridges[which].kill9();
        self.bridges[which].start_again().await;
    }

    pub async fn drain_and_restart(&mut self, which: usize) {
        self.bridges[which].term();
        let status = self.bridges[which].wait().await;
        assert!(status.success(), "a drained bridge ended with {status}");
        self.bridges[which].start_again().await;
    }

    /// Waits until so many events have reached the sink that never fails.
    pub async fn until_delivered(&self, goal: u64) {
        let (mut last, mut since) = (0, Instant::now());
        while self.sinks.steady() < goal {
            let now = self.sinks.steady();
            if now > last {
                (last, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{last} of {goal} delivered, and no more for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every consumer has all its messages delivered and acknowledged, as long as that goes on.
    pub async fn settle(&self) {
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let consumers = self.nats.consumers(STREAM).await;
            let open: u64 = consumers.iter().map(|info| info.num_pending + info.num_ack_pending as u64).sum();
            if open == 0 {
                return;
            }
            if open < least {
                (least, since) = (open, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "{open} events are open, and no fewer for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ids of the kept dead letters of a subscription, each as often as it is kept.
    pub async fn kept(&self, subscription: &str) -> Vec<u64> {
        use futures_util::StreamExt as _;
        let Ok(stream) = self.nats.jetstream().await.get_stream("KN_DEADLETTERS").await else { return Vec::new() };
        let config = jetstream::consumer::pull::OrderedConfig {
            filter_subject: format!("knats.deadletter.default.{subscription}"),
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.unwrap();
        let mut ids = Vec::new();
        while left > 0 {
            let message = crate::support::within("a kept dead letter", messages.next()).await.unwrap().unwrap();
            ids.push(message.headers.as_ref().unwrap().get("ce-id").unwrap().as_str().parse().unwrap());
            left -= 1;
        }
        ids
    }

    pub fn memory_peak_kib(&self) -> u64 {
        self.bridges.iter().map(Bridge::resident_peak_kib).max().unwrap_or(0)
    }
}

/// A channel with a short ack wait, and one subscription for each way in which an event can end.
fn manifests(sinks: &Sinks, paused: bool) -> String {
    let template = json!({"consumerConfigTemplate": {"ackWait": "3s"}});
    let subscribe = |name: &str, delivery: serde_json::Value| {
        let spec = json!({"subscriber": {"uri": sinks.url(name)}, "delivery": delivery});
        let mut document = subscription(name, "chaos", spec);
        if paused {
            document["metadata"]["annotations"] = json!({"knats.dev/paused": "true"});
        }
        document
    };
    // Patient enough to outlast every fault; what it gives up all the same is kept.
    let patient = json!({"retry": 30, "backoffPolicy": "linear", "backoffDelay": "PT0.05S", "timeout": "PT2S"});
    let letters = json!({"retry": 1, "backoffDelay": "PT0.05S", "timeout": "PT2S",
        "deadLetterSink": {"uri": sinks.url("letters")}});
    to_yaml(&[
        channel_with("chaos", template),
        subscribe("steady", patient.clone()),
        subscribe("flaky", patient),
        subscribe("picky", letters),
        subscribe("unforgiving", json!({"retry": 0, "timeout": "PT2S"})),
    ])
}

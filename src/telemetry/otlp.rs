//! To a collector, by OTLP over HTTP with protobuf: one way out for metrics and spans. A collector that is
//! away or slow costs what could not be handed over, and nothing else.

pub(super) mod encode;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Counter, Exposition};
use settings::{Endpoint, Metrics};
pub use settings::{Settings, SettingsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept, for each of the two signals.
const IDLE_CONNECTIONS: usize = 1;
/// Bytes of an answer that are read so that its connection can be used again; nobody looks at them.
const ANSWER_BYTES: usize = 64 * 1024;
/// How often one batch is tried while the collector says that it may work later, and the pause between.
const TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// What is left at the end must leave within this.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Hands metrics over, each time the interval is over and once more at the end. Returns at once when nobody wants them.
pub async fn export_metrics(settings: &Settings, exposition: Arc<Exposition>, stop: CancellationToken) {
    let Some(Metrics { endpoint, interval }) = &settings.metrics else { return };
    let Some(mut exporter) = Exporter::new(endpoint.clone(), "metrics") else { return };
    let mut ticks = interval_at(Instant::now() + *interval, *interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => is_last = true,
        }
        let handing_over = async {
            let request = encode::metrics(&exposition.gather().await, &settings.resource);
            exporter.hand_over(request.encode_to_vec()).await
        };
        if is_last {
            // What the collector does not take by then is lost.
            let _ = timeout(LAST_EXPORT, handing_over).await;
        } else {
            handing_over.await;
        }
    }
}

/// Hands spans over in batches until nobody makes any more and none is left. Counts those that the collector did not take.
pub(super) async fn export_spans(
    settings: Settings,
    mut spans: mpsc::Receiver<Span>,
    dropped: Arc<Counter>,
    stop: CancellationToken,
) {
    let Some(traces) = &settings.traces else { return };
    let Some(mut exporter) = Exporter::new(traces.endpoint.clone(), "traces") else { return };
    let mut batch = Vec::new();
    let mut is_last = false;
    while !is_last {
        let deadline = Instant::now() + traces.delay;
        let gathering = async {
            while batch.len() < traces.batch {
                let room = traces.batch - batch.len();
                if spans.recv_many(&mut batch, room).await == 0 {
                    return true;
                }
            }
            false
        };
        is_last = tokio::select! {
            // The first of them wait no longer than the delay.
            ended = timeout_at(deadline, gathering) => ended.unwrap_or(false),
            () = stop.cancelled() => true,
        };
        if is_last {
            spans.close();
            while spans.recv_many(&mut batch, traces.queue).await > 0 {}
        }
        if batch.is_empty() {
            continue;
        }
        let count = batch.len() as u64;
        let request = encode::spans(std::mem::take(&mut batch), &settings.resource);
        let handing_over = exporter.hand_over(request.encode_to_vec());
        let taken =
            if is_last { timeout(LAST_EXPORT, handing_over).await.unwrap_or(false) } else { handing_over.await };
        if !taken {
            dropped.add(count);
        }
    }
}

/// Posts to one endpoint, and tells when that begins to fail and when it works again.
struct Exporter {
    client: reqwest::Client,
    endpoint: Endpoint,
    signal: &'static str,
    is_failing: bool,
}

impl Exporter {
    fn new(endpoint: Endpoint, signal: &'static str) -> Option<Self> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("knats/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(endpoint.timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS);
        match builder.build() {
            Ok(client) => Some(Self { client, endpoint, signal, is_failing: false }),
            Err(error) => {
                tracing::warn!(signal, %error, "nothing is exported: the HTTP client cannot be set up");
                None
            }
        }
    }

    /// True when the collector has taken it.
    async fn hand_over(&mut self, body: Vec<u8>) -> bool {
        let posted = self.post(body).await;
        if let (Err(reason), false) = (&posted, self.is_failing) {
            let endpoint = without_secrets(&self.endpoint.url);
            tracing::warn!(signal = self.signal, endpoint, reason, "the collector does not take what is exported");
        } else if posted.is_ok() && self.is_failing {
            tracing::info!(signal = self.signal, "the collector takes what is exported again");
        }
        self.is_failing = posted.is_err();
        posted.is_ok()
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let mut tries = 1;
        loop {
            let request = self.client.post(self.endpoint.url.clone()).headers(self.endpoint.headers.clone());
            let request = request.header(CONTENT_TYPE, "application/x-protobuf").body(body.clone());
            let (reason, may_pass) = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    drain(answer).await;
                    match status {
                        200..300 => return Ok(()),
                        // The statuses that OTLP has tried again.
                        429 | 502 | 503 | 504 => (format!("status {status}"), true),
                        _ => (format!("status {status}"), false),
                    }
                }
                Err(error) => (error.without_url().to_string(), false),
            };
            if !may_pass || tries == TRIES {
                return Err(reason);
            }
            tries += 1;
            tokio::time::sleep(TRY_PAUSE).await;
        }
    }
}

async fn drain(mut answer: reqwest::Response) {
    let mut seen = 0;
    while seen < ANSWER_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => seen += chunk.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that can have neither.
    let _ = url.set_username("").and(url.set_password(None));
    url.set_query(None);
    url.to_string()
}

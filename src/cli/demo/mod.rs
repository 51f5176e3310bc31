//! `knats demo`: the whole currency story on one terminal. Every part is a process of its own, so that any of them can be
//! killed and be seen to come back, with nothing lost.

mod feed;
mod part;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::dev;
use super::nats_server::{self, NatsServer};
use super::poll::{Api, Secret};
use super::sender::http_url;
use super::{duration, free_port, say, socket_address, view};
use crate::sink::client;
use part::{Launch, Part};

const KEY_VARIABLE: &str = "ALPHAVANTAGE_KEY";
const SERVICE: &str =
    "https://www.alphavantage.co/query?function=CURRENCY_EXCHANGE_RATE&from_currency=USD&to_currency=JPY";
const EVENT_TYPE: &str = "dev.knats.demo.rate";
const EVENT_SOURCE: &str = "/knats/demo/rates";
const EVENT_SUBJECT: &str = "USD/JPY";
const FEED_INTERVAL: Duration = Duration::from_secs(2);
/// The real service counts requests.
const SERVICE_INTERVAL: Duration = Duration::from_secs(30);
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(50);
/// How long the bridge may drain, which is the most that the end of the demo has to wait for.
const DRAIN_TIMEOUT: &str = "5s";
/// Lines of the viewer that wait for the terminal.
const MAX_LINES: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  knats demo\n\n\
    Then kill any part by its process id and watch it come back with nothing lost.\n\
    With ALPHAVANTAGE_KEY set, rates come from the real service as long as it answers.")]
pub(super) struct Args {
    /// How often the rate is polled [default: 2s; 30s from the real service]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    every: Option<Duration>,
    /// End after N events were shown
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where events come in, on a free port by default
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = socket_address)]
    listen: SocketAddr,
    /// The nats-server program, 2.10 or newer [default: .tools/nats-server, else the one on PATH]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let binary = nats_server::find(args.nats_server.as_deref()).await?;
    let nats = NatsServer::start(binary, None).await?;
    let feed_ended = CancellationToken::new();
    let feed = feed::start(feed_ended.clone()).await?;
    let result = play(&args, &nats, feed, &shutdown).await;
    feed_ended.cancel();
    nats.stop().await;
    result
}

/// The parts that were started so far, in the order in which they end.
#[derive(Default)]
struct Parts {
    poller: Option<Part>,
    bridge: Option<Part>,
    viewer: Option<Part>,
}

impl Parts {
    async fn stop(self) {
        for part in [self.poller, self.bridge, self.viewer].into_iter().flatten() {
            part.stop().await;
        }
    }
}

async fn play(args: &Args, nats: &NatsServer, feed: String, shutdown: &CancellationToken) -> anyhow::Result<ExitCode> {
    // Ends the play: the count is reached, nobody reads any more, or a part cannot run.
    let over = shutdown.child_token();
    let failed = over.child_token();
    let (lines, shown) = mpsc::channel(MAX_LINES);
    let mut parts = Parts::default();
    let started = tokio::select! {
        started = start(args, nats, feed, &mut parts, lines, &failed) => started,
        () = over.cancelled() => Ok(()),
        () = failed.cancelled() => Ok(()),
    };
    // Not before: the addresses come first.
    let printing = tokio::task::spawn_blocking({
        let (over, count) = (over.clone(), args.count);
        move || print(shown, count, &over)
    });
    if started.is_ok() {
        failed.cancelled().await;
    }
    let is_asked = over.is_cancelled();
    parts.stop().await;
    printing.await.context("printing failed")?;
    started?;
    if !is_asked {
        bail!("a part of the demo cannot run");
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(
    args: &Args,
    nats: &NatsServer,
    feed: String,
    parts: &mut Parts,
    lines: mpsc::Sender<Vec<u8>>,
    failed: &CancellationToken,
) -> anyhow::Result<()> {
    // Fixed before the parts start, so that one that is started again is where the others look for it.
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let viewer = loopback(free_port()?);
    let admin = loopback(free_port()?);
    let listen = if args.listen.port() == 0 { SocketAddr::new(args.listen.ip(), free_port()?) } else { args.listen };
    let channel = format!("{}/{}", dev::base_url(listen), dev::CHANNEL);
    let manifest = nats.directory().join("foo.yaml");
    std::fs::write(&manifest, dev::MANIFEST).with_context(|| format!("cannot write {}", manifest.display()))?;

    let viewer_args = words(&["view", "--listen", &viewer.to_string()]);
    let viewer_launch = Launch { name: "viewer", args: viewer_args, output: Some(lines) };
    let viewer_part = parts.viewer.insert(Part::start(viewer_launch, failed.clone())?);

    let mut bridge_args = words(&["serve", "--nats-url", &nats.url(), "--listen", &listen.to_string()]);
    bridge_args.extend(words(&["--admin-listen", &admin.to_string(), "--default-channel", dev::CHANNEL]));
    bridge_args.extend(words(&["--resolve", &format!("{}=http://{viewer}", dev::VIEWER)]));
    bridge_args.extend(words(&["--drain-timeout", DRAIN_TIMEOUT, "--resources"]));
    bridge_args.push(manifest.into());
    let bridge_launch = Launch { name: "bridge", args: bridge_args, output: None };
    let bridge_part = parts.bridge.insert(Part::start(bridge_launch, failed.clone())?);
    ready(&format!("http://{admin}/readyz")).await?;

    let rates = Rates::choose(feed, nats.directory()).await?;
    let poller_launch = Launch { name: "poller", args: rates.poll_args(args.every, &channel), output: None };
    let poller_part = parts.poller.insert(Part::start(poller_launch, failed.clone())?);

    say(&format!(
        "knats demo: rates go from the poller through channel {} to the viewer\n  \
         rates     {}\n  \
         poller    pid {}\n  \
         ingress   {channel}   pid {}\n  \
         ready     http://{admin}/readyz\n  \
         nats      {}   pid {}\n  \
         data      {} (removed in the end)\n  \
         viewer    http://{viewer}   pid {}\n\n\
         Kill any part (kill -9 PID): it comes back and nothing is lost. Ctrl-C ends it all. Send an event of your own:\n  \
         curl -i {channel} -H 'ce-specversion: 1.0' -H 'ce-type: dev.example.greeting' -H 'ce-source: /curl' \
         -H 'ce-id: 1' -H 'content-type: application/json' -d '{{\"text\":\"hello\"}}'\n\n",
        dev::CHANNEL,
        rates.told,
        poller_part.pid(),
        bridge_part.pid(),
        nats.url(),
        nats.pid(),
        nats.directory().display(),
        viewer_part.pid(),
    ))
}

/// Waits until the bridge says that everything is in place.
async fn ready(url: &str) -> anyhow::Result<()> {
    let client = client::Client::with(READY_TIMEOUT, None).context("cannot set up the HTTP client")?;
    let url: client::Url = url.parse().context("the address of the bridge")?;
    let mut last = String::new();
    let asking = async {
        loop {
            match client::exchange(client.get(url.clone()), 64 * 1024).await {
                Ok(answer) if answer.status.is_success() => return,
                Ok(answer) => last = String::from_utf8_lossy(&answer.body).into_owned(),
                Err(error) => last = error.0,
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    };
    match tokio::time::timeout(READY_TIMEOUT, asking).await {
        Ok(()) => Ok(()),
        Err(_) => bail!("the bridge is not ready within {READY_TIMEOUT:?}: {last}"),
    }
}

/// Where the rates come from.
struct Rates {
    url: String,
    /// What stands in for `url`, and the file with its key, when it is the real service.
    service: Option<(String, PathBuf)>,
    told: String,
}

impl Rates {
    /// The real service when there is a key for it and it answers, else the built-in feed.
    async fn choose(feed: String, directory: &Path) -> anyhow::Result<Self> {
        let Some(key) = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()) else {
            let told = format!("{feed} (built in; set {KEY_VARIABLE} for real ones)");
            return Ok(Self { url: feed, service: None, told });
        };
        let path = directory.join("alphavantage.key");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(key.as_bytes())?;
        let secret = Secret { name: "apikey".into(), path: path.clone() };
        let pointer = feed::POINTER.parse().map_err(anyhow::Error::msg)?;
        let api =
            Api::new(http_url("the service", SERVICE)?, Vec::new(), vec![secret], Some(pointer), SERVICE_TIMEOUT)?;
        Ok(match api.fetch().await {
            Ok(_) => Self { url: SERVICE.into(), service: Some((feed, path)), told: api.shown() },
            Err(error) => {
                tracing::warn!("{} failed: {error}; falling back to the built-in feed", api.shown());
                let told = format!("{feed} (built in, because {} failed: {error})", api.shown());
                Self { url: feed, service: None, told }
            }
        })
    }

    fn poll_args(&self, every: Option<Duration>, channel: &str) -> Vec<OsString> {
        let default = if self.service.is_some() { SERVICE_INTERVAL } else { FEED_INTERVAL };
        let every = format!("{}ms", every.unwrap_or(default).as_millis().max(1));
        let timeout = format!("{}s", SERVICE_TIMEOUT.as_secs());
        let mut args = words(&["poll", "--url", &self.url, "--pointer", feed::POINTER, "--every", &every]);
        args.extend(words(&["--type", EVENT_TYPE, "--source", EVENT_SOURCE, "--subject", EVENT_SUBJECT]));
        args.extend(words(&["--timeout", &timeout, "--to", channel]));
        if let Some((feed, key)) = &self.service {
            args.extend(words(&["--fallback-url", feed, "--query-file"]));
            let mut query = OsString::from("apikey=");
            query.push(key);
            args.push(query);
        }
        args
    }
}

fn words(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// Prints what the viewer shows, to the end of the `count`-th event.
fn print(mut shown: mpsc::Receiver<Vec<u8>>, count: Option<u64>, over: &CancellationToken) {
    let mut events = 0;
    while let Some(line) = shown.blocking_recv() {
        if line.starts_with(view::HEADLINE.as_bytes()) {
            events += 1;
        }
        if count.is_some_and(|count| events > count) {
            continue;
        }
        if say(&String::from_utf8_lossy(&line)).is_err() || count == Some(events) {
            over.cancel();
        }
    }
}

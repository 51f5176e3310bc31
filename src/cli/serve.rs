//! `knats serve`: the bridge against a NATS server that already runs.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Usage, duration, ingress, nats, sinks, size, socket_address};
use crate::admin::Token;
use crate::bridge::{self, Config, Resources, Sockets};
use crate::channel::attempts::{self, Level};
use crate::channel::dead_letter::Retention;
use crate::ingress::Listeners;
use crate::resource::manifest::Watcher;
use crate::resource::{Desired, Fault, Key, Resolver, resolve_entry};
use crate::telemetry::otlp;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  knats serve --nats-url nats://127.0.0.1:4222 -f manifests/ \
    --resolve default/viewer=http://127.0.0.1:8090")]
pub struct Args {
    #[command(flatten)]
    pub nats: nats::Args,
    /// Manifest files or directories; watched, changes apply without a restart
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    pub resources: Vec<PathBuf>,
    /// Where events come in
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", value_parser = socket_address)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub ingress: ingress::Args,
    /// Where /healthz, /readyz, /metrics and the management API are; beyond loopback the API wants a token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", value_parser = socket_address)]
    pub admin_listen: SocketAddr,
    /// File that holds the token of the management API; without it nothing can be changed over HTTP
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Where `POST /` goes when the Host header names no channel
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub default_channel: Option<Key>,
    /// Which half of the bridge runs, so that the halves scale apart; both when not given
    #[arg(long, value_enum, value_delimiter = ',')]
    pub role: Vec<Role>,
    /// What a `ref` to a Service means outside a cluster
    #[arg(long, value_name = "NAMESPACE/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    pub resolve: Vec<(Key, String)>,
    #[command(flatten)]
    pub sinks: sinks::Args,
    /// Ingress requests at work at once; further ones get 503
    #[arg(long, value_name = "N", default_value = "4096")]
    pub max_in_flight: NonZeroUsize,
    /// Threads that move events; blocking work such as name lookups has others [default: half of the processors]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How long the ingress waits for JetStream to store an event
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse_positive)]
    pub publish_timeout: Duration,
    /// How long one request to a sink may take when delivery.timeout is not set
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse_positive)]
    pub request_timeout: Duration,
    /// How long requests and deliveries at work may take to finish after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub drain_timeout: Duration,
    /// Which attempts are kept for `knats why`, in the stream KN_ATTEMPTS
    #[arg(long, value_enum, default_value_t = AttemptLevel::Failures)]
    pub attempt_log: AttemptLevel,
    /// How long they are kept
    #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = duration::parse_positive)]
    pub attempt_log_max_age: Duration,
    /// How long a dead letter is kept in the stream KN_DEADLETTERS, 0s for ever [default: as the stream is, else for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub dead_letter_max_age: Option<Duration>,
    /// How much KN_DEADLETTERS may hold, 0 for no limit; full, it takes no more and events wait in their channels
    /// [default: as the stream is, else no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub dead_letter_max_bytes: Option<u64>,
    /// How many servers of a NATS cluster hold a copy of KN_DEADLETTERS [default: as the stream is, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub dead_letter_replicas: Option<u8>,
    /// Delete the JetStream consumer of a subscription that leaves the files
    #[arg(long)]
    pub prune: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Ingress,
    Dispatcher,
}

/// Which attempts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttemptLevel {
    /// None
    Off,
    /// Those of events that failed at least once, and of replies, dead letters and redrives
    Failures,
    /// All, at the cost of one more message in JetStream for each
    All,
}

pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let sockets = bind(&args).await?;
    run_on(args, sockets, shutdown).await
}

pub(super) async fn bind(args: &Args) -> anyhow::Result<Sockets> {
    // Many systems start their programs with 1,024 and let them have more. Each request under way to a sink needs one, and a
    // connection that cannot be opened is an attempt that has failed.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the number of files that may be open stays as it is");
    }
    let listen = |flag: &'static str, address: SocketAddr| async move {
        TcpListener::bind(address).await.map_err(|error| Usage(format!("cannot listen on {address} ({flag}): {error}")))
    };
    let mut ingress = Listeners::default();
    if args.has(Role::Ingress) {
        if !args.ingress.tls_only {
            ingress.plain = Some(listen("--listen", args.listen).await?);
        }
        if let Some(address) = args.ingress.tls_listen() {
            ingress.tls = Some(listen("--tls-listen", address).await?);
        }
    }
    Ok(Sockets { ingress, admin: listen("--admin-listen", args.admin_listen).await? })
}

pub(super) async fn run_on(args: Args, sockets: Sockets, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let resolver = Resolver { services: args.resolve.iter().cloned().collect() };
    // Before the first look, so that no change falls between.
    let mut watcher = Watcher::new(&args.resources);
    let desired = Desired::load(&args.resources, &resolver).map_err(|faults| Usage(list(&faults).join("\n  ")))?;
    let (sender, resources) = watch::channel(Resources { desired, ..Resources::default() });
    let following = async {
        loop {
            watcher.changed().await;
            let (paths, resolver, sender) = (args.resources.clone(), resolver.clone(), sender.clone());
            // Reading and checking many manifests takes a while, and events must not wait for it.
            let reloading = tokio::task::spawn_blocking(move || reload(&paths, &resolver, &sender));
            if let Err(error) = reloading.await {
                tracing::error!(%error, "the manifests could not be looked at, the last good set stays in force");
            }
        }
    };
    let config = config(&args)?;
    tokio::select! {
        ended = bridge::run(config, sockets, resources, shutdown) => ended.map_err(|error| Usage(error.to_string()))?,
        () = following => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a new set of resources, or keeps the last good one and tells what is wrong with the new one.
fn reload(paths: &[PathBuf], resolver: &Resolver, sender: &watch::Sender<Resources>) {
    match Desired::load(paths, resolver) {
        Ok(desired) => {
            tracing::info!(channels = desired.channels.len(), subscriptions = desired.subscriptions.len(), "reloaded");
            sender.send_modify(|resources| {
                resources.desired = desired;
                resources.faults.clear();
            });
        }
        Err(faults) => {
            let faults = list(&faults);
            for fault in &faults {
                tracing::error!(fault, "manifest refused, the last good set stays in force");
            }
            sender.send_modify(|resources| {
                resources.faults = faults;
                resources.refusals += 1;
            });
        }
    }
}

fn list(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn config(args: &Args) -> Result<Config, Usage> {
    Ok(Config {
        nats: args.nats.settings_of_bridge()?,
        dispatcher: args.has(Role::Dispatcher),
        default_channel: args.default_channel.clone(),
        access: args.ingress.access()?,
        max_in_flight: args.max_in_flight.get(),
        publish_timeout: args.publish_timeout,
        request_timeout: args.request_timeout,
        sinks: args.sinks.settings()?,
        drain_timeout: args.drain_timeout,
        prune: args.prune,
        attempts: attempts::Settings {
            level: match args.attempt_log {
                AttemptLevel::Off => Level::Off,
                AttemptLevel::Failures => Level::Failures,
                AttemptLevel::All => Level::All,
            },
            max_age: args.attempt_log_max_age,
        },
        retention: Retention {
            max_age: args.dead_letter_max_age,
            max_bytes: args.dead_letter_max_bytes,
            replicas: args.dead_letter_replicas,
        },
        telemetry: otlp::Settings::read(|name| std::env::var(name).ok()).map_err(|error| Usage(error.to_string()))?,
        admin_token: args.admin_token_file.as_deref().map(Token::read).transpose().map_err(Usage)?,
    })
}

impl Args {
    /// Whether this process has the role; it has both when none is named.
    fn has(&self, role: Role) -> bool {
        self.role.is_empty() || self.role.contains(&role)
    }
}

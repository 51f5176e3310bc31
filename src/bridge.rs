//! The whole bridge: connections, servers and subscription workers, started, kept in line with the desired resources, and
//! ended in order. The only room that knows everybody; it knows nobody's details.

mod readiness;
mod reconcile;
mod scrape;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Token};
use crate::channel::attempts::{self, AttemptLog, Level};
use crate::channel::connect::{Settings, SettingsError};
use crate::channel::dead_letter::Retention;
use crate::channel::{Api, Connection, DeadLetters, Publisher, Targets, Wire};
use crate::dispatch::{Budget, Feed, Shared};
use crate::ingress::{self, Access, Ingress, Listeners};
use crate::manage::Manager;
use crate::resource::{Desired, Key};
use crate::sink::{Client, ClientError, client};
use crate::telemetry::{Exposition, Metrics, Tracer, otlp};
use reconcile::Reconciler;
use scrape::Scrape;

/// After the drain timeout, tasks that still do not end are left behind.
const LAST_CALL: Duration = Duration::from_secs(3);

/// How a bridge is set up; what it works towards comes as [`Resources`].
#[derive(Debug, Clone)]
pub struct Config {
    pub nats: Settings,
    /// Whether this process delivers events.
    pub dispatcher: bool,
    pub default_channel: Option<Key>,
    /// Who gets in.
    pub access: Access,
    pub max_in_flight: usize,
    pub publish_timeout: Duration,
    pub request_timeout: Duration,
    pub drain_timeout: Duration,
    /// Delete the consumers of subscriptions that are no longer declared.
    pub prune: bool,
    pub attempts: attempts::Settings,
    /// What opens the management API.
    pub admin_token: Option<Token>,
    /// How dead letters are kept.
    pub retention: Retention,
    /// How deliveries leave over HTTP.
    pub sinks: client::Settings,
    /// What is handed to a collector.
    pub telemetry: otlp::Settings,
}

/// Sockets come bound, so that a port clash is known before anything is built.
#[derive(Debug)]
pub struct Sockets {
    /// None of them when the process takes no events in.
    pub ingress: Listeners,
    pub admin: TcpListener,
}

/// What the bridge is to be, and what is wrong with a newer wish that could not be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub desired: Desired,
    pub faults: Vec<String>,
    /// How often a newer wish could not be read so far.
    pub refusals: u64,
}

/// Why a bridge cannot start at all. A NATS server that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs until `shutdown`, then drains: not ready at once, no new requests, no new pulls, and what is at work finishes or is
/// given back within the drain timeout.
///
/// # Errors
/// When settings cannot work whatever the world does.
pub async fn run(
    config: Config,
    sockets: Sockets,
    resources: watch::Receiver<Resources>,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let client = Client::of(config.sinks.clone())?;
    let closed = CancellationToken::new();
    let control = Connection::open(&config.nats, "knats").await?;
    let wire = Wire::open(&config.nats, "knats-events").await?;
    let publisher = Publisher::start(wire.clone(), config.publish_timeout, closed.clone());
    // Declared and not in place yet: the ingress says 503, not 404.
    let declared: Targets = resources.borrow().desired.channels.keys().map(|key| (key.clone(), None)).collect();
    let (targets, targets_receiver) = watch::channel(Arc::new(declared));
    let (readiness, readiness_receiver) = watch::channel(readiness::starting());

    let tasks = TaskTracker::new();
    let metrics = Arc::new(Metrics::default());
    let api = Api::new(control.clone());
    let scrape = Scrape::new(api.clone(), [control.link(), wire.link()], resources.clone(), config.dispatcher);
    let exposition = Arc::new(Exposition::new(Arc::clone(&metrics), vec![Box::new(scrape)]));
    let exporting = TaskTracker::new();
    let tracer = Tracer::new(&config.telemetry, metrics.span_drops(), closed.clone()).map(|(tracer, export)| {
        exporting.spawn(export);
        tracer
    });
    let (telemetry, told, stop) = (config.telemetry.clone(), Arc::clone(&exposition), closed.clone());
    exporting.spawn(async move { otlp::export_metrics(&telemetry, told, stop).await });
    exporting.close();
    let in_force = resources.clone();
    let admin = Admin {
        readiness: readiness_receiver,
        exposition,
        manager: Manager::new(control.clone()),
        desired: Arc::new(move || in_force.borrow().desired.clone()),
        token: config.admin_token.clone(),
    };
    let admin = tokio::spawn(admin::serve(sockets.admin, admin, closed.clone()));
    if sockets.ingress.plain.is_some() || sockets.ingress.tls.is_some() {
        let ingress = Ingress {
            publisher: publisher.clone(),
            routes: targets_receiver,
            default_channel: config.default_channel.clone(),
            max_in_flight: config.max_in_flight,
            access: config.access.clone(),
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
        };
        tasks.spawn(ingress::serve(sockets.ingress, ingress, shutdown.clone(), config.drain_timeout));
    }
    let level = if config.dispatcher { config.attempts.level } else { Level::Off };
    let attempts = attempts::Settings { level, ..config.attempts };
    let (attempts, writing) = AttemptLog::new(control.clone(), attempts, metrics.attempt_log_drops());
    tasks.spawn(writing);
    let (feed, telling) = Feed::new(control.clone());
    if config.dispatcher {
        tasks.spawn(telling);
    }
    let dead_letters = DeadLetters::new(publisher.clone(), api.clone());
    let (api, budget) = (Arc::new(api), Budget::default());
    let shared =
        Shared { api, pulls: wire, control: control.clone(), dead_letters, attempts, feed, metrics, budget, tracer };
    let (board, board_receiver) = watch::channel(status::Board::default());
    if config.dispatcher {
        tasks.spawn(status::respond(control.clone(), board_receiver, shutdown.clone()));
    }
    let (followed, drained) = (client.clone(), shutdown.clone());
    tasks.spawn(async move { drained.run_until_cancelled_owned(followed.follow_files()).await });
    let reconciler = Reconciler::new(config.clone(), shared, publisher, client, targets, readiness, board);
    tasks.spawn(reconciler.run(resources, shutdown.clone()));
    tasks.close();

    shutdown.cancelled().await;
    let patience = config.drain_timeout + LAST_CALL;
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        tracing::warn!(?patience, "some of the work did not end in time; JetStream delivers it again");
    }
    control.flush(LAST_CALL).await;
    closed.cancel();
    // Ends at once: no admin request takes long.
    let _ = admin.await;
    // What a collector does not take by then is lost.
    let _ = tokio::time::timeout(LAST_CALL, exporting.wait()).await;
    Ok(())
}

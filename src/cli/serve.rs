//! `knats serve`: the bridge against a NATS server that already runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::duration;
use crate::resource::Key;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  knats serve --nats-url nats://127.0.0.1:4222 -f manifests/ \
    --resolve default/viewer=http://127.0.0.1:8090")]
pub struct Args {
    /// NATS servers, comma separated
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "nats://127.0.0.1:4222")]
    pub nats_url: Vec<String>,
    /// NATS credentials file (.creds)
    #[arg(long, value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// NATS user, with --nats-password-file
    #[arg(long, value_name = "NAME", requires = "nats_password_file")]
    pub nats_user: Option<String>,
    /// File that holds the NATS user's password
    #[arg(long, value_name = "FILE", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// File that holds a NATS token
    #[arg(long, value_name = "FILE")]
    pub nats_token_file: Option<PathBuf>,
    /// File that holds an NKey seed
    #[arg(long, value_name = "FILE")]
    pub nats_nkey_file: Option<PathBuf>,
    /// Certificate authorities that NATS servers may be signed by (PEM)
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Client certificate for NATS (PEM), with --nats-key
    #[arg(long, value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
    /// Manifest files or directories; watched, changes apply without a restart
    #[arg(short = 'f', long, value_name = "PATH", value_delimiter = ',')]
    pub resources: Vec<PathBuf>,
    /// Where events come in
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where /healthz and /readyz are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,
    /// Where `POST /` goes when the Host header names no channel
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub default_channel: Option<Key>,
    /// Which half of the bridge runs, so that the halves scale apart; both when not given
    #[arg(long, value_enum, value_delimiter = ',')]
    pub role: Vec<Role>,
    /// What a `ref` to a Service means outside a cluster
    #[arg(long, value_name = "NAMESPACE/NAME=URL", value_delimiter = ',', value_parser = resolution)]
    pub resolve: Vec<(Key, String)>,
    /// Ingress requests at work at once; further ones get 503
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_in_flight: usize,
    /// How long the ingress waits for JetStream to store an event
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse_positive)]
    pub publish_timeout: Duration,
    /// How long one request to a sink may take when delivery.timeout is not set
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse_positive)]
    pub request_timeout: Duration,
    /// How long requests and deliveries at work may take to finish after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub drain_timeout: Duration,
    /// Delete the JetStream consumer of a subscription that leaves the files
    #[arg(long)]
    pub prune: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Ingress,
    Dispatcher,
}

/// The sockets of the bridge: bound first, so that a port that is taken fails before anything is built.
#[derive(Debug)]
pub struct Sockets {
    pub ingress: TcpListener,
    pub admin: TcpListener,
}

pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let sockets = bind(&args).await?;
    run_on(args, sockets, shutdown).await
}

pub(super) async fn bind(args: &Args) -> anyhow::Result<Sockets> {
    let listen = |flag: &'static str, address: SocketAddr| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({flag})"))
    };
    Ok(Sockets {
        ingress: listen("--listen", args.listen).await?,
        admin: listen("--admin-listen", args.admin_listen).await?,
    })
}

pub(super) async fn run_on(args: Args, sockets: Sockets, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let _ = (args, sockets, shutdown);
    anyhow::bail!("not wired yet")
}

fn resolution(text: &str) -> Result<(Key, String), String> {
    let (key, url) = text.split_once('=').ok_or("expected NAMESPACE/NAME=URL")?;
    Ok((key.parse()?, url.to_owned()))
}

//! `knats dev`: everything of `serve` with a private `nats-server`, and with a channel and a viewer when no manifests are given.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::nats_server::{self, NatsServer};
use super::view::Viewer;
use super::{Usage, say, serve};
use crate::ingress::Listeners;
use crate::resource::{Desired, Key, Resolver};

/// Channel `default/foo`, and a subscription that delivers to the Service `default/viewer`.
pub(super) const MANIFEST: &str = include_str!("foo.yaml");
pub(super) const CHANNEL: &str = "default/foo";
pub(super) const VIEWER: &str = "default/viewer";
const MANIFEST_FILE: &str = "foo.yaml";

/// Flags of `serve` that say how to reach a server: `dev` has its own.
const CONNECTION_FLAGS: [&str; 10] = [
    "nats_url",
    "context",
    "nats_creds",
    "nats_user",
    "nats_password_file",
    "nats_token_file",
    "nats_nkey_file",
    "nats_ca",
    "nats_cert",
    "nats_key",
];

#[derive(Debug, clap::Args)]
#[group(skip)] // The flags of `serve` bring a group of the same name.
pub(super) struct Args {
    #[command(flatten)]
    pub(super) serve: serve::Args,
    /// The nats-server program, 2.10 or newer [default: .tools/nats-server, else the one on PATH]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// Where events are kept [default: a temporary directory, removed in the end]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
}

/// What differs from `serve` on the command line: loopback only, and no way to another server.
pub(super) fn defaults(command: clap::Command) -> clap::Command {
    command.mut_subcommand("dev", |dev| {
        let dev = dev
            .after_help("Examples:\n  knats dev\n  knats dev -f manifests/ --data ./events")
            .mut_arg("listen", |arg| arg.default_value("127.0.0.1:8080"))
            .mut_arg("tls_listen", |arg| arg.default_value("127.0.0.1:8443"));
        CONNECTION_FLAGS.into_iter().fold(dev, |dev, flag| dev.mut_arg(flag, |arg| arg.hide(true)))
    })
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let Args { mut serve, nats_server, data } = args;
    if !serve.nats.nats_url.is_empty() || serve.nats.context.is_some() {
        return Err(Usage("dev starts a NATS server of its own; for another one there is `knats serve`".into()).into());
    }
    let binary = nats_server::find(nats_server.as_deref()).await?;
    let sockets = serve::bind(&serve).await?;
    let nats = NatsServer::start(binary, data.as_deref()).await?;
    serve.nats.nats_url = vec![nats.url()];

    let viewer = if serve.resources.is_empty() { Some(add_viewer(&mut serve, &nats).await?) } else { None };
    if serve.default_channel.is_none() {
        serve.default_channel = only_channel(&serve);
    }
    let facts = Facts {
        ingress: ingress_url(&sockets.ingress)?,
        admin: base_url(sockets.admin.local_addr()?),
        nats: format!("{} (pid {})", nats.url(), nats.pid()),
        data: format!(
            "{}{}",
            nats.directory().display(),
            if nats.is_temporary() { " (removed in the end)" } else { "" }
        ),
        channel: serve.default_channel.clone(),
        viewer: viewer.as_ref().map(TcpListener::local_addr).transpose()?.map(base_url),
    };
    say(&facts.to_string())?;

    // The viewer goes on until the bridge has drained.
    let bridge_ended = CancellationToken::new();
    let viewing = viewer.map(|listener| {
        let viewer = Viewer::plain(shutdown.clone());
        tokio::spawn(viewer.serve(listener, bridge_ended.clone()))
    });
    let result = serve::run_on(serve, sockets, shutdown).await;
    bridge_ended.cancel();
    if let Some(viewing) = viewing {
        viewing.await.context("the viewer failed")??;
    }
    nats.stop().await;
    result
}

/// Declares the channel and the subscription, and binds where its viewer will listen.
async fn add_viewer(serve: &mut serve::Args, nats: &NatsServer) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no loopback port for the viewer")?;
    let file = nats.directory().join(MANIFEST_FILE);
    std::fs::write(&file, MANIFEST).with_context(|| format!("cannot write {}", file.display()))?;
    serve.resources.push(file);
    let key = VIEWER.parse().map_err(anyhow::Error::msg)?;
    serve.resolve.push((key, base_url(listener.local_addr()?)));
    Ok(listener)
}

/// The channel of manifests that declare exactly one. What is wrong with manifests is for `serve` to say.
fn only_channel(serve: &serve::Args) -> Option<Key> {
    let resolver = Resolver { services: serve.resolve.iter().cloned().collect() };
    // Quietly: the bridge reads them again, and tells then what it skips.
    let quiet = tracing::subscriber::NoSubscriber::new();
    let load = || Desired::load(&serve.resources, &resolver).ok();
    let desired = tracing::subscriber::with_default(quiet, load)?;
    let mut channels = desired.channels.into_keys();
    channels.next().filter(|_| channels.next().is_none())
}

/// Where events come in: over plain HTTP, else over HTTPS.
fn ingress_url(listeners: &Listeners) -> std::io::Result<String> {
    let url = |listener: &TcpListener| listener.local_addr().map(base_url);
    match (&listeners.plain, &listeners.tls) {
        (Some(plain), _) => url(plain),
        (None, Some(tls)) => Ok(url(tls)?.replacen("http", "https", 1)),
        (None, None) => Ok("none".into()),
    }
}

/// `http://` and an address that one can connect to.
pub(super) fn base_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

/// What a person needs to know to use the bridge.
struct Facts {
    ingress: String,
    admin: String,
    nats: String,
    data: String,
    channel: Option<Key>,
    viewer: Option<String>,
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ingress, admin, nats, data, channel, viewer } = self;
        let path = channel.as_ref().map_or("NAMESPACE/NAME".to_owned(), Key::to_string);
        writeln!(f, "knats dev\n  ingress   {ingress}/{path}\n  ready     {admin}/readyz\n  nats      {nats}")?;
        writeln!(f, "  data      {data}")?;
        if let Some(channel) = channel {
            writeln!(f, "  channel   {channel}")?;
        }
        if let Some(viewer) = viewer {
            writeln!(f, "  viewer    {viewer} (prints here)")?;
        }
        let attributes = r#""specversion":"1.0","type":"dev.example.greeting","source":"/curl""#;
        let data = r#""data":{"text":"hello"}"#;
        write!(
            f,
            "\nSend an event: binary, structured and batched mode\n  \
             curl -i {ingress}/{path} -H 'ce-specversion: 1.0' -H 'ce-type: dev.example.greeting' -H 'ce-source: /curl' \
             -H 'ce-id: 1' -H 'content-type: application/json' -d '{{\"text\":\"hello\"}}'\n  \
             curl -i {ingress}/{path} -H 'content-type: application/cloudevents+json' -d '{{{attributes},\"id\":\"2\",{data}}}'\n  \
             curl -i {ingress}/{path} -H 'content-type: application/cloudevents-batch+json' \
             -d '[{{{attributes},\"id\":\"3\",{data}}},{{{attributes},\"id\":\"4\",{data}}}]'\n\n\
             Ctrl-C ends it.\n\n"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_and_commands_are_ready_to_paste() {
        let facts = Facts {
            ingress: base_url("0.0.0.0:8080".parse().unwrap()),
            admin: "http://127.0.0.1:9090".into(),
            nats: "nats://127.0.0.1:4222 (pid 7)".into(),
            data: "/tmp/x (removed in the end)".into(),
            channel: Some(CHANNEL.parse().unwrap()),
            viewer: Some("http://127.0.0.1:8090".into()),
        };
        insta::assert_snapshot!(facts.to_string(), @r#"
        knats dev
          ingress   http://127.0.0.1:8080/default/foo
          ready     http://127.0.0.1:9090/readyz
          nats      nats://127.0.0.1:4222 (pid 7)
          data      /tmp/x (removed in the end)
          channel   default/foo
          viewer    http://127.0.0.1:8090 (prints here)

        Send an event: binary, structured and batched mode
          curl -i http://127.0.0.1:8080/default/foo -H 'ce-specversion: 1.0' -H 'ce-type: dev.example.greeting' -H 'ce-source: /curl' -H 'ce-id: 1' -H 'content-type: application/json' -d '{"text":"hello"}'
          curl -i http://127.0.0.1:8080/default/foo -H 'content-type: application/cloudevents+json' -d '{"specversion":"1.0","type":"dev.example.greeting","source":"/curl","id":"2","data":{"text":"hello"}}'
          curl -i http://127.0.0.1:8080/default/foo -H 'content-type: application/cloudevents-batch+json' -d '[{"specversion":"1.0","type":"dev.example.greeting","source":"/curl","id":"3","data":{"text":"hello"}},{"specversion":"1.0","type":"dev.example.greeting","source":"/curl","id":"4","data":{"text":"hello"}}]'

        Ctrl-C ends it.
        "#);
    }
}

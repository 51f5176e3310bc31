//! Serves a router until the end, for the commands that are sinks themselves.

use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::server;

/// How long requests at work may take once the command is asked to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
    server::serve(listener, router, shutdown, DRAIN_TIMEOUT).await;
    Ok(())
}

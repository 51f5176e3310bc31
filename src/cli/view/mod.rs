//! `knats view`: a sink that prints every event in the layout of Knative's event display, and that can be told to fail.

mod display;
mod tries;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Usage, duration, say, socket_address};
use crate::event::{self, Builder, Event};
pub(super) use display::{HEADLINE, block};
use tries::Tries;

/// The largest request, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Requests that are read and printed at once: with the largest body, this bounds the memory.
const MAX_AT_WORK: usize = 32;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  knats view --listen 127.0.0.1:8090\n  \
    knats view --fail-first 2 --status 503    # watch the bridge retry every event twice\n\n\
    An event is printed when it is answered with 2xx.")]
pub(super) struct Args {
    /// Where to listen; any path takes events
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = socket_address)]
    listen: SocketAddr,
    /// Fail the first N tries of every event
    #[arg(long, value_name = "N")]
    fail_first: Option<u32>,
    /// How to answer: with --fail-first the status of the failures (default 500), without it of every event (default 200)
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: Option<u16>,
    /// How long to wait before every answer
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    delay: Option<Duration>,
    /// Reply with an event of this type that has the same data
    #[arg(long, value_name = "TYPE")]
    reply: Option<String>,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| Usage(format!("cannot listen on {} (--listen): {error}", args.listen)))?;
    tracing::info!(address = %listener.local_addr()?, "viewer listens");
    let viewer = Viewer::new(args, shutdown.clone());
    let broken = viewer.output_is_broken.clone();
    viewer.serve(listener, shutdown).await?;
    Ok(if broken.is_cancelled() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Answers events, prints them.
pub(super) struct Viewer {
    fail_first: u32,
    status: Option<StatusCode>,
    delay: Duration,
    reply: Option<String>,
    tries: Mutex<Tries>,
    at_work: Semaphore,
    shutdown: CancellationToken,
    output_is_broken: CancellationToken,
}

impl Viewer {
    fn new(args: Args, shutdown: CancellationToken) -> Self {
        Self {
            fail_first: args.fail_first.unwrap_or(0),
            status: args.status.and_then(|code| StatusCode::from_u16(code).ok()),
            delay: args.delay.unwrap_or_default(),
            reply: args.reply,
            tries: Mutex::default(),
            at_work: Semaphore::new(MAX_AT_WORK),
            shutdown,
            output_is_broken: CancellationToken::new(),
        }
    }

    /// A viewer that takes everything.
    pub(super) fn plain(shutdown: CancellationToken) -> Self {
        Self::new(
            Args {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                fail_first: None,
                status: None,
                delay: None,
                reply: None,
            },
            shutdown,
        )
    }

    pub(super) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let router = Router::new().fallback(answer).with_state(Arc::new(self));
        super::http::serve(listener, router, shutdown).await
    }

    async fn take(&self, request: Request) -> Response {
        let outcome = {
            // Never closed.
            let Ok(_permit) = self.at_work.acquire().await else {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            };
            self.handle(request).await
        };
        tokio::time::sleep(self.delay).await;
        outcome
    }

    async fn handle(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let events = match read(&parts.headers, body).await {
            Ok(events) => events,
            Err(refusal) => return refusal,
        };
        let status = self.verdict(&events);
        if !status.is_success() {
            for event in &events {
                tracing::warn!(source = event.source(), id = event.id(), "told to answer {status}");
            }
            return (status, format!("told to answer {status}\n")).into_response();
        }
        let blocks: String = events.iter().map(block).collect();
        // Whoever reads may be slow; that must not hold up the runtime.
        let printed = tokio::task::spawn_blocking(move || say(&blocks)).await;
        if !matches!(printed, Ok(Ok(()))) {
            self.output_is_broken.cancel();
            self.shutdown.cancel();
            return (StatusCode::SERVICE_UNAVAILABLE, "cannot print\n").into_response();
        }
        match (&self.reply, events.as_slice()) {
            (Some(kind), [event]) => reply(kind, event),
            _ => status.into_response(),
        }
    }

    /// A failure as long as one of the events is to fail.
    fn verdict(&self, events: &[Event]) -> StatusCode {
        if self.fail_first == 0 {
            return self.status.unwrap_or(StatusCode::OK);
        }
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        // Every event counts, so `any` with its early end would not do.
        let failing = events.iter().filter(|event| tries.count(event) <= self.fail_first).count();
        if failing == 0 { StatusCode::OK } else { self.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR) }
    }
}

async fn answer(State(viewer): State<Arc<Viewer>>, request: Request) -> Response {
    let allow = [(header::ALLOW, "POST, OPTIONS")];
    match (request.method(), request.uri().path()) {
        (&Method::POST, _) => viewer.take(request).await,
        (&Method::OPTIONS, _) => {
            let headers = [("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "*")];
            (StatusCode::OK, allow, headers).into_response()
        }
        (&(Method::GET | Method::HEAD), "/healthz") => StatusCode::OK.into_response(),
        _ => (StatusCode::METHOD_NOT_ALLOWED, allow, "expected POST\n").into_response(),
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<Event>, Response> {
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        let error = error.into_inner();
        if error.is::<http_body_util::LengthLimitError>() {
            problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is larger than {MAX_BODY} bytes"))
        } else {
            problem(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {error}"))
        }
    })?;
    event::http::decode(headers, body).map_err(|error| match error {
        event::Error::UnsupportedFormat(_) => problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error.to_string()),
        _ => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    })
}

/// RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response {
    tracing::warn!("refused a request: {detail}");
    let body = serde_json::json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn reply(kind: &str, event: &Event) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    let build = || -> Result<Event, event::Error> {
        let mut builder = Builder::new(event.version());
        builder.attribute("id", &id)?;
        builder.attribute("source", "/knats/view")?;
        builder.attribute("type", kind)?;
        if let Some(content_type) = event.datacontenttype() {
            builder.attribute("datacontenttype", content_type)?;
        }
        if let Some(data) = event.data() {
            builder.data(Bytes::clone(data));
        }
        builder.build()
    };
    match build() {
        Ok(reply) => {
            let mut headers = HeaderMap::new();
            let body = event::http::encode_binary(&reply, &mut headers);
            (StatusCode::OK, headers, body).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("--reply: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::event::SpecVersion;

    fn event(id: &str) -> Event {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", id), ("source", "/s"), ("type", "t")] {
            builder.attribute(name, value).unwrap();
        }
        builder.build().unwrap()
    }

    fn viewer(fail_first: Option<u32>, status: Option<u16>) -> Viewer {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Viewer::new(Args { listen, fail_first, status, delay: None, reply: None }, CancellationToken::new())
    }

    #[test]
    fn each_event_fails_as_often_as_asked() {
        let viewer = viewer(Some(2), Some(503));
        let verdict = |id| viewer.verdict(&[event(id)]).as_u16();
        assert_eq!(
            [verdict("a"), verdict("a"), verdict("b"), verdict("a"), verdict("b"), verdict("b")],
            [503, 503, 503, 200, 503, 200]
        );
    }

    #[test]
    fn a_status_alone_is_always_the_answer() {
        assert_eq!(viewer(None, Some(404)).verdict(&[event("a")]).as_u16(), 404);
        assert_eq!(viewer(None, None).verdict(&[event("a")]).as_u16(), 200);
        assert_eq!(viewer(Some(1), None).verdict(&[event("a")]).as_u16(), 500);
    }

    #[test]
    fn a_batch_fails_as_a_whole_and_counts_for_each_of_its_events() {
        let viewer = viewer(Some(1), None);
        assert_eq!(viewer.verdict(&[event("a"), event("b")]).as_u16(), 500);
        assert_eq!(viewer.verdict(&[event("a"), event("b"), event("c")]).as_u16(), 500);
        assert_eq!(viewer.verdict(&[event("a"), event("b"), event("c")]).as_u16(), 200);
    }
}

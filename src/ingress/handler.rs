//! One request: routed, let in, read, decoded, stored, answered. Every step can refuse it, and nothing is stored before all of
//! it is known to be valid.
//!
//! A client that hangs up has no answer, and must repeat the request. While the body is read, nothing of it is stored. While it is
//! being stored, all or a part of a batch may be, whether the request ends with its connection or comes to its end; what was
//! stored already is dropped by its dedupe id.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::account::Account;
use super::body::{Inbound, MEMORY_BYTES};
use super::error::{ALLOWED_METHODS, Error};
use super::oidc::Oidc;
use super::route::{self, Route};
use crate::channel::Targets;
use crate::channel::{PublishError, Publisher, Target};
use crate::event::http::Mode;
use crate::event::{self, Event, PassThrough};
use crate::fault_point::{Point, at};
use crate::resource::Key;
use crate::server::{Fault, Handler};
use crate::telemetry::{Metrics, Tally, Tracer};

/// Bytes that a batch may have at least; each of its events is held to the limit of one message besides.
const MIN_BATCH_LIMIT: usize = 16 * 1024 * 1024;
/// What the JSON around the data of a structured event may take.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// Any origin may send, at any rate: who may is for the network to say (CloudEvents web hooks, section 4.2).
const WEBHOOK_ANY: HeaderValue = HeaderValue::from_static("*");

/// Where events are stored: a [`Publisher`], or what tests put in its place.
pub(super) trait Store: Send + Sync + 'static {
    fn is_connected(&self) -> bool;
    fn max_payload(&self) -> usize;
    fn publish_all(
        &self,
        target: &Target,
        events: &[Event],
        pass_through: &PassThrough,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;
}

impl Store for Publisher {
    fn is_connected(&self) -> bool {
        self.is_connected()
    }

    fn max_payload(&self) -> usize {
        self.max_payload()
    }

    async fn publish_all(
        &self,
        target: &Target,
        events: &[Event],
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        self.publish_all(target, events, pass_through).await
    }
}

/// What all requests share.
pub(super) struct Gate<S> {
    store: S,
    routes: watch::Receiver<Arc<Targets>>,
    default_channel: Option<Key>,
    /// `None` when anybody may send.
    oidc: Option<Oidc>,
    /// Requests for channels that name whom they take events from while nobody is asked who he is.
    unguarded: Tally,
    max_in_flight: usize,
    /// Places for requests, from the first byte of the body to the answer.
    in_flight: Semaphore,
    /// Bytes for bodies.
    memory: Semaphore,
    metrics: Arc<Metrics>,
    tracer: Option<Tracer>,
}

type Response = http::Response<Full<Bytes>>;

impl<S: Store> Handler for Arc<Gate<S>> {
    type Body = Full<Bytes>;

    const TAKES_WHOLE: bool = true;

    fn usual_header(name: &str) -> Option<HeaderName> {
        event::usual_header(name)
    }

    fn answer<B>(self, request: Request<B>) -> impl Future<Output = Response> + Send
    where
        B: Body<Data = Bytes, Error: Into<Fault> + Display> + Unpin + Send + 'static,
    {
        handle(self, request)
    }
}

/// The paths are channels, and those come and go: `route` reads them, and a router has nothing to do.
fn handle<S: Store, B>(gate: Arc<Gate<S>>, request: Request<B>) -> impl Future<Output = Response> + Send
where
    B: Body<Data = Bytes, Error: Display> + Unpin + Send,
{
    // Taken apart out here: a future that is given its parts has room for each of them once.
    let (head, body) = request.into_parts();
    let mut body = Inbound::new(&head.headers, body);
    let mut account = Account::open(gate.tracer.as_ref(), &head.headers);
    async move {
        let answer = AssertUnwindSafe(Gate::answer(&gate, &head, &mut body, &mut account)).catch_unwind().await;
        let answer = answer.unwrap_or(Err(Error::Panicked));
        account.close(head.uri.path(), &gate.metrics, &answer);
        let response = answer.unwrap_or_else(|error| error.response());
        at(Point::AnswerReady, body.discard()).await;
        response
    }
}

impl<S: Store> Gate<S> {
    pub(super) fn new(
        store: S,
        routes: watch::Receiver<Arc<Targets>>,
        default_channel: Option<Key>,
        oidc: Option<Oidc>,
        max_in_flight: usize,
        metrics: Arc<Metrics>,
        tracer: Option<Tracer>,
    ) -> Self {
        let in_flight = Semaphore::new(max_in_flight.min(Semaphore::MAX_PERMITS));
        let memory = Semaphore::new(MEMORY_BYTES);
        let unguarded = Tally::default();
        Self { store, routes, default_channel, oidc, unguarded, max_in_flight, in_flight, memory, metrics, tracer }
    }

    pub(super) fn oidc(&self) -> Option<&Oidc> {
        self.oidc.as_ref()
    }

    async fn answer<B>(&self, head: &Parts, body: &mut Inbound<B>, account: &mut Account) -> Result<Response, Error>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin + Send,
    {
        let route =
            route::parse(&head.uri, &head.headers).ok_or_else(|| Error::NoSuchPath(head.uri.path().to_owned()))?;
        match head.method {
            Method::POST => self.take_in(route, &head.headers, body, account).await,
            Method::OPTIONS => Ok(options()),
            ref other => Err(Error::Method(other.clone())),
        }
    }

    async fn take_in<B>(
        &self,
        route: Route,
        headers: &HeaderMap,
        body: &mut Inbound<B>,
        account: &mut Account,
    ) -> Result<Response, Error>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin + Send,
    {
        let channel = self.channel(&route)?;
        let targets = Arc::clone(&self.routes.borrow());
        let target = target(&targets, channel)?;
        account.is_for(target);
        self.authorize(channel, target, headers).await?;
        let _place = self.let_in()?;
        let mode = event::http::mode(headers)?;
        account.has_mode(mode);
        let body = at(Point::BodyRead, body.read(self.limit(mode), &self.memory)).await?;
        let events = event::http::decode_in(mode, headers, body.bytes.clone())?;
        account.has(&events);
        self.store.publish_all(target, &events, &account.pass_through(headers)).await?;
        Ok(empty(StatusCode::ACCEPTED))
    }

    fn channel<'a>(&'a self, route: &'a Route) -> Result<&'a Key, Error> {
        match route {
            Route::Channel(key) => Ok(key),
            Route::NoName(host) => Err(Error::NoSuchHost(host.clone())),
            Route::Default => self.default_channel.as_ref().ok_or(Error::NoDefault),
        }
    }

    /// Whether the sender may send there. Before anything of the body is read, and before it holds a place: who waits for an
    /// issuer holds up nobody.
    async fn authorize(&self, channel: &Key, target: &Target, headers: &HeaderMap) -> Result<(), Error> {
        let Some(oidc) = &self.oidc else {
            if target.allowed_subjects.is_some()
                && let Some(count) = self.unguarded.add()
            {
                tracing::warn!(%channel, count, "has allowed subjects, and takes events from anybody without --oidc-issuer");
            }
            return Ok(());
        };
        // Boxed: it is large, and without an issuer it would be carried along for nothing.
        let subject = Box::pin(oidc.subject(headers, target.kind, channel)).await?;
        match &target.allowed_subjects {
            Some(allowed) if !allowed.allow(&subject) => Err(Error::NotAllowed { channel: channel.clone(), subject }),
            _ => Ok(()),
        }
    }

    /// A place among the requests at work, when there is one and it is of use.
    fn let_in(&self) -> Result<SemaphorePermit<'_>, Error> {
        if !self.store.is_connected() {
            return Err(Error::NotConnected);
        }
        self.in_flight.try_acquire().map_err(|_| Error::TooMany(self.max_in_flight))
    }

    /// Bytes of body that can still be events which fit: escapes and base64 make JSON larger than what is stored. The exact
    /// limit, per event as it is stored, is for the publisher to check.
    fn limit(&self, mode: Mode) -> usize {
        let max_payload = self.store.max_payload();
        let limit = match mode {
            Mode::Binary => max_payload,
            Mode::Structured => max_payload.saturating_mul(2).saturating_add(ENVELOPE_BYTES),
            Mode::Batch => max_payload.saturating_mul(4).max(MIN_BATCH_LIMIT),
        };
        limit.min(MEMORY_BYTES)
    }
}

fn target<'a>(targets: &'a Targets, channel: &Key) -> Result<&'a Target, Error> {
    match targets.get(channel) {
        Some(Some(target)) => Ok(target),
        Some(None) => Err(Error::NotInPlace(channel.clone())),
        None => Err(Error::NotDeclared(channel.clone())),
    }
}

fn options() -> Response {
    let mut response = empty(StatusCode::OK);
    response.headers_mut().extend([
        (ALLOW, ALLOWED_METHODS),
        (HeaderName::from_static("webhook-allowed-origin"), WEBHOOK_ANY),
        (HeaderName::from_static("webhook-allowed-rate"), WEBHOOK_ANY),
    ]);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;

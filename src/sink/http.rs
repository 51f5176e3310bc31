//! A sink that is a URL: one POST, its answer classified, its body bounded.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode, Uri};
use jiff::Timestamp;
use reqwest::Url;
use url::Position;

use super::client::{self, NoAnswer, no_answer};
use super::guard::Refused;
use super::outcome::{Answer, Failure, Outcome, retry_after};
use super::plain::{self, Message, Pool, Preamble};
use super::{BatchRequest, Client, Purpose, Request};
use crate::event::Headers;
use crate::event::{self, PassThrough};
use crate::resource::{Address, Format};

const KN_NAMESPACE: &str = "kn-namespace";
const PREFER: &str = "prefer";
const PREFER_REPLY: &str = "reply";
/// Room for the headers of a usual request, so that the map grows only for an unusual one.
const HEADER_ROOM: usize = 24;
/// The longest reply event; Knative asks for at least 64 KiB, a stream takes 1 MiB by default, and JSON makes of it what it
/// makes. A subscription may have hundreds of them in memory at once.
const REPLY_LIMIT: usize = 2 * 1024 * 1024;
/// What is read of a body that nobody needs, so that its connection can be used again.
const DRAIN_LIMIT: usize = 64 * 1024;
/// How long a body may take whose status has decided everything already.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

const TRUST_ADVICE: &str = "give the certificate of its authority as CACerts of the destination, or to --sink-ca-file";

/// Posts events to one URL.
#[derive(Debug, Clone)]
pub struct HttpSink {
    address: String,
    /// The error is why nothing can be sent there, whatever happens.
    way: Result<Way, String>,
}

/// How requests get there.
#[derive(Debug, Clone)]
enum Way {
    /// Straight on connections of our own.
    Plain(Plain),
    Client(Client, Url),
    #[cfg(test)]
    Simulated(std::sync::Arc<dyn SimulatedServer>),
}

/// What answers requests in place of a server.
#[cfg(test)]
pub(crate) trait SimulatedServer: std::fmt::Debug + Send + Sync {
    fn post(
        &self,
        headers: HeaderMap,
        body: Bytes,
    ) -> futures_util::future::BoxFuture<'_, Result<http::Response<Bytes>, Failure>>;
}

#[derive(Debug, Clone)]
struct Plain {
    pool: Pool,
    /// How every request begins.
    preamble: Preamble,
}

impl HttpSink {
    /// Takes any address; deliveries to one that is no http or https URL, or that the client's guard refuses, fail.
    pub fn new(client: &Client, address: &Address) -> Self {
        let way = match Url::parse(&address.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Way::to(client, url, address.ca_certs.as_deref()),
            Ok(url) => Err(format!("cannot deliver to scheme '{}', expected http or https", url.scheme())),
            Err(error) => Err(format!("not a URL: {error}")),
        };
        Self { address: address.url.clone(), way }
    }

    #[cfg(test)]
    pub(crate) fn simulated(address: &str, server: std::sync::Arc<dyn SimulatedServer>) -> Self {
        Self { address: address.to_owned(), way: Ok(Way::Simulated(server)) }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn deliver<'a>(&'a self, request: Request<'a>) -> impl Future<Output = Outcome> + Send + 'a {
        self.post(move |headers| compose(request, headers), request.purpose, request.timeout)
    }

    pub(super) fn deliver_batch<'a>(&'a self, request: BatchRequest<'a>) -> impl Future<Output = Outcome> + Send + 'a {
        let compose = |headers: &mut dyn Headers| {
            headers.set(KN_NAMESPACE, request.namespace);
            event::http::encode_batch(request.events, headers)
        };
        // A batch asks for no reply, and gets none looked at.
        self.post(compose, Purpose::Reply, request.timeout)
    }

    /// Posts what `compose` makes: it writes headers and gives the body. That is done before anything waits, so that while it does
    /// the request is its bytes and nothing else.
    fn post<F: FnOnce(&mut dyn Headers) -> Bytes>(
        &self,
        compose: F,
        purpose: Purpose,
        timeout: Duration,
    ) -> impl Future<Output = Outcome> + Send + use<'_, F> {
        let post = match &self.way {
            Ok(way) => Ok(way.post(compose)),
            Err(reason) => Err(Failure::no_answer(reason)),
        };
        async move {
            let exchange = async {
                let mut response = post?.answer().await?;
                if response.says_all(purpose) {
                    return Ok(Outcome::Accepted(response.code(), Answer::Nothing));
                }
                // Boxed: most requests would have room for it and never need it.
                Ok(Box::pin(read(response, purpose)).await)
            };
            match tokio::time::timeout(timeout, exchange).await {
                Ok(outcome) => outcome.unwrap_or_else(Outcome::Failed),
                Err(_) => Outcome::Failed(Failure::no_answer(&format!("no answer within {timeout:?}"))),
            }
        }
    }
}

/// A request that is ready to go.
enum Post<'a> {
    Plain(&'a Pool, Message),
    Client(Box<reqwest::RequestBuilder>),
    #[cfg(test)]
    Simulated(futures_util::future::BoxFuture<'a, Result<http::Response<Bytes>, Failure>>),
}

impl Post<'_> {
    async fn answer(self) -> Result<Response, Failure> {
        match self {
            Self::Plain(pool, message) => match pool.post(&message).await {
                Ok(answer) => Ok(Response::Plain(answer)),
                Err(plain::Fault::Unreachable(reason)) => Err(Failure::unreachable(&reason.0)),
                Err(plain::Fault::Broken(reason)) => Err(Failure::no_answer(&reason.0)),
            },
            Self::Client(request) => match Box::pin(request.send()).await {
                Ok(response) => Ok(Response::Client(response)),
                Err(error) => Err(unanswered(&error)),
            },
            #[cfg(test)]
            Self::Simulated(answer) => answer.await.map(Response::Simulated),
        }
    }
}

impl Way {
    /// The error says why nothing may be sent there.
    fn to(client: &Client, url: Url, ca_certs: Option<&str>) -> Result<Self, String> {
        client.guard().check(&url).map_err(|refused| refused.to_string())?;
        if let Some(plain) = client.plain(&url).and_then(|pool| Plain::new(pool, &url)) {
            return Ok(Self::Plain(plain));
        }
        let client = match ca_certs {
            Some(pem) => client.trusting(pem).map_err(|error| error.to_string())?,
            None => client.clone(),
        };
        Ok(Self::Client(client, url))
    }

    fn post(&self, compose: impl FnOnce(&mut dyn Headers) -> Bytes) -> Post<'_> {
        match self {
            Self::Plain(plain) => {
                let mut head = plain.preamble.head();
                let body = compose(&mut head);
                Post::Plain(&plain.pool, head.with_body(body))
            }
            Self::Client(client, url) => {
                let mut headers = HeaderMap::with_capacity(HEADER_ROOM);
                let body = compose(&mut headers);
                Post::Client(Box::new(client.post(url.clone()).headers(headers).body(body)))
            }
            #[cfg(test)]
            Self::Simulated(server) => {
                let mut headers = HeaderMap::with_capacity(HEADER_ROOM);
                let body = compose(&mut headers);
                Post::Simulated(server.post(headers, body))
            }
        }
    }
}

impl Plain {
    /// `None` for a URL that HTTP's own grammar does not take.
    fn new(pool: Pool, url: &Url) -> Option<Self> {
        let target: Uri = url[Position::BeforePath..Position::AfterQuery].parse().ok()?;
        let authority = client::authority(url);
        let headers = [("host", &*authority), ("user-agent", client::USER_AGENT), ("accept", "*/*")];
        Some(Self { pool, preamble: Preamble::post(&target, &headers) })
    }
}

/// Why the client has no answer. An address that the guard refuses is no sink that is away: events do not wait for it.
fn unanswered(error: &reqwest::Error) -> Failure {
    if let Some(refused) = Refused::in_causes_of(error) {
        return Failure::no_answer(&refused.to_string());
    }
    let reason = no_answer(error).advised(TRUST_ADVICE);
    if error.is_connect() { Failure::unreachable(&reason) } else { Failure::no_answer(&reason) }
}

/// An answer, whichever way it comes.
enum Response {
    Plain(plain::Answer),
    Client(reqwest::Response),
    #[cfg(test)]
    Simulated(http::Response<Bytes>),
}

impl Response {
    fn code(&self) -> u16 {
        self.status().as_u16()
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Plain(answer) => answer.status,
            Self::Client(response) => response.status(),
            #[cfg(test)]
            Self::Simulated(response) => response.status(),
        }
    }

    fn headers(&self) -> &HeaderMap {
        match self {
            Self::Plain(answer) => &answer.headers,
            Self::Client(response) => response.headers(),
            #[cfg(test)]
            Self::Simulated(response) => response.headers(),
        }
    }

    /// Whether the event is accepted and there is nothing to read. Then its connection is free.
    fn says_all(&mut self, purpose: Purpose) -> bool {
        let code = self.code();
        let claims_reply = || may_reply(code, purpose) && claims_event(self.headers());
        (200..300).contains(&code) && !claims_reply() && self.is_empty()
    }

    /// Whether it has no body, as far as its head tells; then its connection is free.
    fn is_empty(&mut self) -> bool {
        match self {
            Self::Plain(answer) => answer.is_empty(),
            Self::Client(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
        }
    }

    /// The next piece of the body; `None` at its end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        match self {
            Self::Plain(answer) => answer.chunk().await,
            Self::Client(response) => response.chunk().await.map_err(|error| no_answer(&error)),
            #[cfg(test)]
            Self::Simulated(response) => Ok(Some(std::mem::take(response.body_mut())).filter(|body| !body.is_empty())),
        }
    }
}

/// Writes the headers of a request and gives its body. A namespace is a DNS label, so it is always a header value.
fn compose(request: Request<'_>, headers: &mut dyn Headers) -> Bytes {
    request.pass_through.write(headers);
    headers.set(KN_NAMESPACE, request.namespace);
    if request.purpose == Purpose::Subscriber {
        headers.set(PREFER, PREFER_REPLY);
    }
    match request.format {
        Format::Binary => event::http::encode_binary(request.event, headers),
        Format::Json => event::http::encode_structured(request.event, headers),
    }
}

async fn read(mut response: Response, purpose: Purpose) -> Outcome {
    let code = response.code();
    if !(200..300).contains(&code) {
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let asked = header.and_then(|value| retry_after(value, Timestamp::now()));
        let body = beginning(&mut response, Failure::BODY_LIMIT).await;
        return Outcome::Failed(Failure::answered(code, body, asked));
    }
    let may_reply = may_reply(code, purpose);
    if !may_reply || !claims_event(response.headers()) {
        let body = beginning(&mut response, 1).await;
        return Outcome::Accepted(
            code,
            if may_reply && !body.is_empty() { Answer::OtherBody } else { Answer::Nothing },
        );
    }
    match whole(&mut response).await {
        Ok(body) => Outcome::Accepted(code, reply(response.headers(), body)),
        // The subscriber has spoken, and what it said is lost: asking again is the only way to hear it.
        Err(Broken::Cut(reason)) => Outcome::Failed(Failure::no_answer(&reason)),
        Err(Broken::TooLong) => {
            let reason = format!("the reply is longer than {REPLY_LIMIT} bytes");
            Outcome::Accepted(code, Answer::InvalidReply(Failure::invalid_reply(&reason)))
        }
    }
}

/// Whether an answer may hold a reply: a 202 promises none (Knative's data plane specification), and only subscribers are asked for one.
fn may_reply(code: u16, purpose: Purpose) -> bool {
    purpose == Purpose::Subscriber && matches!(code, 200 | 201 | 203..=206)
}

/// Whether there is anything that [`event::http::decode_reply`] would look at; it alone decides about validity.
fn claims_event(headers: &HeaderMap) -> bool {
    event::http::decode_reply(headers, Bytes::new()).is_some()
}

fn reply(headers: &HeaderMap, body: Bytes) -> Answer {
    match event::http::decode_reply(headers, body) {
        None => Answer::OtherBody,
        Some(Ok(event)) => Answer::Reply(Box::new((event, PassThrough::from_http(headers)))),
        Some(Err(error)) => Answer::InvalidReply(Failure::invalid_reply(&error.to_string())),
    }
}

enum Broken {
    Cut(String),
    TooLong,
}

async fn whole(response: &mut Response) -> Result<Bytes, Broken> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > REPLY_LIMIT => return Err(Broken::TooLong),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return Err(Broken::Cut(error.0)),
        }
    }
}

/// The first `keep` bytes of a body whose status has said all. A body that is long, slow or broken changes nothing; it only
/// costs its connection.
async fn beginning(response: &mut Response, keep: usize) -> Bytes {
    if response.is_empty() {
        return Bytes::new();
    }
    let mut body = BytesMut::new();
    let mut seen = 0;
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            seen += chunk.len();
            let missing = keep.saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(missing)]);
            if seen > DRAIN_LIMIT {
                break;
            }
        }
    };
    // Late is as good as never here.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    body.freeze()
}

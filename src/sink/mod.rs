//! One delivery to one destination, and what came of it: over HTTP, or straight into a channel. A sink knows nothing of
//! subscriptions and makes one attempt; only a request that was lost with a connection out of the pool is sent once more.

pub mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
mod http;
mod into_channel;
mod outcome;
mod plain;
mod trust;
mod ways;

use std::pin::Pin;
use std::time::Duration;

use crate::event::{Event, PassThrough};
use crate::resource::{Format, shown_url, without_user};

pub use client::{Client, ClientError};
pub use guard::{Guard, parse_network};
pub use http::HttpSink;
pub use into_channel::ChannelSink;
pub use outcome::{Answer, Failure, Outcome};
pub use trust::Files;

#[cfg(test)]
pub(crate) use http::SimulatedServer;

/// What a request to a destination is for; Knative asks for slightly different headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// May answer with a reply, and is told so (`Prefer: reply`).
    Subscriber,
    Reply,
    DeadLetter,
}

/// One event on its way to a destination.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub event: &'a Event,
    pub pass_through: &'a PassThrough,
    pub purpose: Purpose,
    pub delivery: DeliveryId<'a>,
    /// Sent as `Kn-Namespace`.
    pub namespace: &'a str,
    pub format: Format,
    /// Bounds the whole exchange, the answer's body included.
    pub timeout: Duration,
}

/// Names the delivery that a request belongs to: the same for every repetition of it, and for no other.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryId<'a> {
    pub stream: &'a str,
    pub consumer: &'a str,
    pub sequence: u64,
}

/// Many events on their way to a destination, as one request.
#[derive(Debug, Clone, Copy)]
pub struct BatchRequest<'a> {
    pub events: &'a [&'a Event],
    pub namespace: &'a str,
    pub timeout: Duration,
}

/// A place that events can be delivered to.
#[derive(Clone)]
pub enum Sink {
    Http(HttpSink),
    Channel(ChannelSink),
}

impl Sink {
    /// Delivers once. Boxed: what a request needs on its way is large, and would be copied with every future around it.
    pub fn deliver<'a>(&'a self, request: Request<'a>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        match self {
            Self::Http(sink) => Box::pin(sink.deliver(request)),
            Self::Channel(sink) => Box::pin(sink.deliver(request)),
        }
    }

    /// Delivers many at once. What the answer holds beside its status is of no account.
    pub fn deliver_batch<'a>(
        &'a self,
        request: BatchRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        match self {
            Self::Http(sink) => Box::pin(sink.deliver_batch(request)),
            Self::Channel(sink) => Box::pin(sink.deliver_batch(request)),
        }
    }

    /// The URL as anybody may see it: neither user nor query.
    pub fn shown_address(&self) -> String {
        shown_url(&self.written_address())
    }

    /// The URL as `knativeerrordest` shows it: without user and password.
    pub fn address(&self) -> String {
        without_user(&self.written_address())
    }

    fn written_address(&self) -> String {
        match self {
            Self::Http(sink) => sink.address().to_owned(),
            Self::Channel(sink) => sink.address(),
        }
    }
}

//! A sink that is a channel of ours: straight into its subject, with no HTTP hop.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::outcome::{Answer, Failure, Outcome};
use super::{BatchRequest, DeliveryId, Request};
use crate::channel::{PublishError, Publisher, Target, Targets};
use crate::event::{Event, PassThrough};
use crate::resource::{Destination, Key};

/// Publishes into one channel.
#[derive(Clone)]
pub struct ChannelSink {
    pub publisher: Publisher,
    pub channel: Key,
    pub targets: watch::Receiver<Arc<Targets>>,
}

impl ChannelSink {
    pub(super) fn address(&self) -> String {
        Destination::Channel(self.channel.clone()).to_string()
    }

    pub(super) async fn deliver(&self, request: Request<'_>) -> Outcome {
        let Some(target) = self.target() else { return self.not_in_place() };
        let DeliveryId { stream, consumer, sequence } = request.delivery;
        let delivery = format!("{stream}.{consumer}.{sequence}.{:?}", request.purpose);
        outcome(self.publisher.forward(&target, request.event, request.pass_through, &delivery).await)
    }

    pub(super) async fn deliver_batch(&self, request: BatchRequest<'_>) -> Outcome {
        let Some(target) = self.target() else { return self.not_in_place() };
        let events: Vec<Event> = request.events.iter().map(|event| (*event).clone()).collect();
        outcome(self.publisher.publish_all(&target, &events, &PassThrough::default()).await)
    }

    fn target(&self) -> Option<Target> {
        self.targets.borrow().get(&self.channel).cloned().flatten()
    }

    fn not_in_place(&self) -> Outcome {
        let text = format!("channel {} is not in place", self.channel);
        Outcome::Failed(Failure::answered(404, Bytes::from(text), None))
    }
}

fn outcome(stored: Result<(), PublishError>) -> Outcome {
    match stored {
        Ok(()) => Outcome::Accepted(202, Answer::Nothing),
        Err(error) => Outcome::Failed(failure(&error)),
    }
}

/// The answers that the channel's ingress would have given.
fn failure(error: &PublishError) -> Failure {
    let code = match error {
        PublishError::TooLarge(_) => 413,
        PublishError::TtlUsedUp => 400,
        _ => 503,
    };
    Failure::answered(code, Bytes::from(error.to_string()), None)
}

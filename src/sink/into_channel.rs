//! A sink that is a channel of ours: straight into its subject, with no HTTP hop.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Request;
use super::outcome::{Answer, Failure, Outcome};
use crate::channel::{PublishError, Publisher, Targets};
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
        let target = self.targets.borrow().get(&self.channel).cloned().flatten();
        let Some(target) = target else {
            let text = format!("channel {} is not in place", self.channel);
            return Outcome::Failed(Failure::answered(404, Bytes::from(text), None));
        };
        match self.publisher.publish(&target, request.event, request.pass_through).await {
            Ok(()) => Outcome::Accepted(Answer::Nothing),
            Err(error) => Outcome::Failed(failure(&error)),
        }
    }
}

/// The answers that the channel's ingress would have given.
fn failure(error: &PublishError) -> Failure {
    let code = if matches!(error, PublishError::TooLarge(_)) { 413 } else { 503 };
    Failure::answered(code, Bytes::from(error.to_string()), None)
}

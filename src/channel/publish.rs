//! Publishing with acknowledgement: an event counts as stored when JetStream's PubAck for it is here, and never before.

use std::time::Duration;

use crate::event::{Event, PassThrough};

/// Where events of one channel go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub subject: String,
    /// The largest message the stream takes (`maxMsgSize`), headers included, in bytes; `None` when only the server's
    /// `max_payload` bounds it.
    pub max_msg_size: Option<usize>,
}

/// Publishes on one NATS connection. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {}

/// Why an event is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("NATS is not connected")]
    Disconnected,
    #[error("no acknowledgement from JetStream within {0:?}; the event may be stored all the same")]
    NoAck(Duration),
    #[error("no stream takes subject '{0}' right now")]
    NoStream(String),
    #[error("the stream takes no more: {0}")]
    Full(String),
    #[error("the event needs {size} bytes in JetStream, more than the {limit} that one message may have")]
    TooLarge { size: usize, limit: usize },
    #[error("JetStream refused the event: {0}")]
    Refused(String),
}

impl Publisher {
    /// False while there is no connection: nothing can be stored then, and nothing should be tried.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// The server's limit for one message, headers included, in bytes.
    pub fn max_payload(&self) -> usize {
        todo!()
    }

    /// Stores one event; returns when JetStream has it.
    ///
    /// # Errors
    /// The event may be stored all the same when the error is [`PublishError::NoAck`].
    pub async fn publish(
        &self,
        target: &Target,
        event: &Event,
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        let _ = (target, event, pass_through);
        todo!()
    }

    /// Stores all events of a request; returns when JetStream has every one. Sizes are checked first, so that an event that is
    /// too large leaves nothing of its batch behind.
    ///
    /// # Errors
    /// The first thing that went wrong; some of the events may be stored then.
    pub async fn publish_all(
        &self,
        target: &Target,
        events: &[Event],
        pass_through: &PassThrough,
    ) -> Result<(), PublishError> {
        let _ = (target, events, pass_through);
        todo!()
    }
}

//! What an operator does to a consumer: holds it back, lets it go on, moves it to an earlier event.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::api::{Api, ApiError};
use super::inventory::{ConsumerFacts, UNTIL_RESUMED};
use super::stream::nanos;

/// A consumer that only counts is deleted by JetStream itself after this, should we not come to it.
const COUNTER_LIVES: Duration = Duration::from_secs(30);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event that was stored then or later.
    Time(Timestamp),
    /// With this sequence of the stream, or the next one that is there.
    Sequence(u64),
}

/// What a consumer would deliver from some place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The sequence of the stream that it begins with.
    pub sequence: u64,
    pub events: u64,
}

impl ConsumerFacts {
    /// Holds it back at the server, until then or until somebody resumes it.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn pause(&self, api: &Api, until: Option<Timestamp>) -> Result<(), ApiError> {
        let until = until.map_or_else(|| UNTIL_RESUMED.to_owned(), |until| until.to_string());
        api.pause_consumer(&self.stream, &self.name, Some(&until)).await
    }

    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn resume(&self, api: &Api) -> Result<(), ApiError> {
        api.pause_consumer(&self.stream, &self.name, None).await
    }

    /// What it would deliver from `start` on. JetStream counts it exactly for a consumer that is made with the same filter and
    /// never used.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn stretch(&self, api: &Api, start: Start) -> Result<Stretch, ApiError> {
        let name = format!("KN_COUNT_{}", uuid::Uuid::new_v4().simple());
        let mut config = json!({
            "name": name,
            "ack_policy": "none",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": nanos(COUNTER_LIVES),
            "filter_subjects": self.subjects,
        });
        match start {
            Start::Time(time) => {
                config["deliver_policy"] = json!("by_start_time");
                config["opt_start_time"] = json!(time.to_string());
            }
            Start::Sequence(sequence) => {
                config["deliver_policy"] = json!("by_start_sequence");
                config["opt_start_seq"] = json!(sequence);
            }
        }
        let info = api.create_ephemeral(&self.stream, &name, &config).await?;
        if let Err(error) = api.delete_consumer(&self.stream, &name).await {
            tracing::debug!(consumer = name, %error, "JetStream deletes it in a while");
        }
        Ok(Stretch {
            sequence: info["delivered"]["stream_seq"].as_u64().unwrap_or(0) + 1,
            events: info["num_pending"].as_u64().unwrap_or(0),
        })
    }

    /// Goes on with that sequence of the stream, and counts deliveries anew. What was delivered before and is answered only now
    /// is answered in vain, unless it was delivered again meanwhile.
    ///
    /// # Errors
    /// When JetStream does not answer or says no; it says no to consumers that did not begin that early, and to those that begin
    /// with new events.
    pub async fn move_to(&self, api: &Api, sequence: u64) -> Result<(), ApiError> {
        api.reset_consumer(&self.stream, &self.name, sequence).await
    }

    /// Deletes it, and with it what it knows of settled and unsettled events.
    ///
    /// # Errors
    /// When JetStream does not answer or says no; one that is not there is no error.
    pub async fn delete(&self, api: &Api) -> Result<(), ApiError> {
        api.delete_consumer(&self.stream, &self.name).await
    }
}

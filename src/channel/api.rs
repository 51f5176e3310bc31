//! The JetStream API as JSON values.
//!
//! Configurations are read, changed and written back whole. The client's typed structs would drop every field that they do
//! not know, and a stream that we adopt must keep what others have set.

use async_nats::jetstream::{self, Context, response::Response};
use serde_json::{Value, json};

use super::connect::Connection;

/// Makes, reads and changes streams and consumers.
#[derive(Clone)]
pub struct Api {
    context: Context,
    connection: Connection,
}

/// Why a call of the API failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("NATS is not connected")]
    Disconnected,
    #[error("NATS does not permit us to publish to '{0}'")]
    Denied(String),
    #[error("JetStream does not answer: {0}")]
    NoAnswer(String),
    /// The stream or the consumer is not there.
    #[error("{0}")]
    NotFound(String),
    /// JetStream says no. The code is one of nats-server's `err_code`s.
    #[error("{description} (JetStream error {code})")]
    Refused { code: u64, description: String },
}

const API_PREFIX: &str = "$JS.API.";
const STREAM_NOT_FOUND: u64 = 10_059;
const CONSUMER_NOT_FOUND: u64 = 10_014;

impl Api {
    pub fn new(connection: Connection) -> Self {
        Self { context: jetstream::new(connection.client.clone()), connection }
    }

    /// Whether the server is of that version or newer.
    pub(super) fn knows(&self, major: i64, minor: i64) -> bool {
        self.connection.client.is_server_compatible(major, minor, 0)
    }

    /// The configuration of a stream, `None` when there is no such stream.
    pub(super) async fn stream_config(&self, stream: &str) -> Result<Option<Value>, ApiError> {
        let info = found(self.call(&format!("STREAM.INFO.{stream}"), &json!({})).await)?;
        Ok(info.map(|info| info["config"].clone()))
    }

    pub(super) async fn create_stream(&self, stream: &str, config: &Value) -> Result<Value, ApiError> {
        Ok(self.call(&format!("STREAM.CREATE.{stream}"), config).await?["config"].clone())
    }

    pub(super) async fn update_stream(&self, stream: &str, config: &Value) -> Result<Value, ApiError> {
        Ok(self.call(&format!("STREAM.UPDATE.{stream}"), config).await?["config"].clone())
    }

    /// Everything about a consumer, `None` when there is none of that name.
    pub(super) async fn consumer_info(&self, stream: &str, consumer: &str) -> Result<Option<Value>, ApiError> {
        found(self.call(&format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await)
    }

    /// Makes a consumer, or changes the one of that name.
    pub(super) async fn set_consumer(&self, stream: &str, consumer: &str, config: &Value) -> Result<Value, ApiError> {
        let request = json!({ "stream_name": stream, "config": config });
        self.call(&format!("CONSUMER.DURABLE.CREATE.{stream}.{consumer}"), &request).await
    }

    /// Holds a consumer back until a time (RFC 3339), or lets it go on. Known to nats-server from 2.11 on.
    pub(super) async fn pause_consumer(
        &self,
        stream: &str,
        consumer: &str,
        until: Option<&str>,
    ) -> Result<(), ApiError> {
        let request = until.map_or_else(|| json!({}), |until| json!({ "pause_until": until }));
        self.call(&format!("CONSUMER.PAUSE.{stream}.{consumer}"), &request).await?;
        Ok(())
    }

    pub(super) async fn unpin_consumer(&self, stream: &str, consumer: &str, group: &str) -> Result<(), ApiError> {
        self.call(&format!("CONSUMER.UNPIN.{stream}.{consumer}"), &json!({ "group": group })).await?;
        Ok(())
    }

    pub(super) async fn delete_consumer(&self, stream: &str, consumer: &str) -> Result<(), ApiError> {
        found(self.call(&format!("CONSUMER.DELETE.{stream}.{consumer}"), &json!({})).await)?;
        Ok(())
    }

    /// One page of the consumers of a stream, from `offset`, and how many there are in all.
    pub(super) async fn consumers(&self, stream: &str, offset: usize) -> Result<(Vec<Value>, usize), ApiError> {
        let page = self.call(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
        let total = page["total"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or(0);
        Ok((page["consumers"].as_array().cloned().unwrap_or_default(), total))
    }

    async fn call(&self, subject: &str, request: &Value) -> Result<Value, ApiError> {
        if !self.connection.is_connected() {
            return Err(ApiError::Disconnected);
        }
        // The context puts its prefix before the subject.
        let denied = format!("{API_PREFIX}{subject}");
        let denials = self.connection.denials(&denied);
        let response: Response<Value> = tokio::select! {
            answer = self.context.request(subject.to_owned(), request) => {
                answer.map_err(|error| ApiError::NoAnswer(error.to_string()))?
            }
            () = self.connection.denied(&denied, denials) => return Err(ApiError::Denied(denied)),
        };
        match response {
            Response::Ok(value) => Ok(value),
            Response::Err { error } => {
                let code = error.error_code().0;
                let description = error.to_string();
                Err(match code {
                    STREAM_NOT_FOUND | CONSUMER_NOT_FOUND => ApiError::NotFound(description),
                    code => ApiError::Refused { code, description },
                })
            }
        }
    }
}

fn found(answer: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ApiError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

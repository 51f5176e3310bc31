//! The JetStream API as JSON values.
//!
//! Configurations are read, changed and written back whole. The client's typed structs would drop every field that they do
//! not know, and a stream that we adopt must keep what others have set.

use async_nats::jetstream::{self, Context, response::Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::connect::{Connection, DEAF};

/// Makes, reads and changes streams and consumers.
#[derive(Clone)]
pub struct Api {
    context: Context,
    connection: Connection,
    #[cfg(test)]
    simulated: Option<std::sync::Arc<dyn SimulatedApi>>,
}

/// What answers in place of a JetStream.
#[cfg(test)]
pub(crate) trait SimulatedApi: Send + Sync {
    fn call(&self, subject: String, request: Value) -> futures_util::future::BoxFuture<'_, Result<Value, ApiError>>;
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

impl ApiError {
    /// Whether this says nothing about the stream or the consumer itself, only that nobody can be asked for now.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Disconnected | Self::Denied(_) | Self::NoAnswer(_) => true,
            Self::Refused { code, .. } => *code == TEMPORARILY_UNAVAILABLE,
            Self::NotFound(_) => false,
        }
    }
}

const API_PREFIX: &str = "$JS.API.";
/// A cluster has no leader for its JetStream.
const TEMPORARILY_UNAVAILABLE: u64 = 10_008;
const STREAM_NOT_FOUND: u64 = 10_059;
const CONSUMER_NOT_FOUND: u64 = 10_014;
const MESSAGE_NOT_FOUND: u64 = 10_037;

impl Api {
    pub fn new(connection: Connection) -> Self {
        Self {
            context: jetstream::new(connection.client.clone()),
            connection,
            #[cfg(test)]
            simulated: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn simulated(connection: Connection, answers: std::sync::Arc<dyn SimulatedApi>) -> Self {
        Self { simulated: Some(answers), ..Self::new(connection) }
    }

    /// Whether the server is of that version or newer.
    pub fn knows(&self, major: i64, minor: i64) -> bool {
        self.connection.client.is_server_compatible(major, minor, 0)
    }

    /// Everything about a stream, `None` when there is none of that name.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn stream_info(&self, stream: &str) -> Result<Option<Value>, ApiError> {
        found(self.call(&format!("STREAM.INFO.{stream}"), &json!({})).await)
    }

    /// How many messages a stream holds for each of its subjects that match, one page from `offset`, and how many such subjects
    /// there are.
    pub(super) async fn subject_counts(
        &self,
        stream: &str,
        subjects: &str,
        offset: usize,
    ) -> Result<(Vec<(String, u64)>, usize), ApiError> {
        let request = json!({ "subjects_filter": subjects, "offset": offset });
        let info = self.call(&format!("STREAM.INFO.{stream}"), &request).await?;
        let counts = info["state"]["subjects"].as_object().into_iter().flatten();
        let counts = counts.map(|(subject, count)| (subject.clone(), count.as_u64().unwrap_or(0))).collect();
        let total = info["total"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or(0);
        Ok((counts, total))
    }

    pub(super) async fn create_stream(&self, stream: &str, config: &Value) -> Result<Value, ApiError> {
        Ok(self.call(&format!("STREAM.CREATE.{stream}"), config).await?["config"].clone())
    }

    pub(super) async fn update_stream(&self, stream: &str, config: &Value) -> Result<Value, ApiError> {
        Ok(self.call(&format!("STREAM.UPDATE.{stream}"), config).await?["config"].clone())
    }

    /// Everything about a consumer, `None` when there is none of that name.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn consumer_info(&self, stream: &str, consumer: &str) -> Result<Option<Value>, ApiError> {
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
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn consumers(&self, stream: &str, offset: usize) -> Result<(Vec<Value>, usize), ApiError> {
        let page = self.call(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset })).await?;
        let total = page["total"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or(0);
        Ok((page["consumers"].as_array().cloned().unwrap_or_default(), total))
    }

    /// One page of all streams, from `offset`, and how many there are in all.
    pub(super) async fn streams(&self, offset: usize) -> Result<(Vec<Value>, usize), ApiError> {
        let page = self.call("STREAM.LIST", &json!({ "offset": offset })).await?;
        let total = page["total"].as_u64().and_then(|total| usize::try_from(total).ok()).unwrap_or(0);
        Ok((page["streams"].as_array().cloned().unwrap_or_default(), total))
    }

    /// Makes a consumer that JetStream deletes by itself when nobody uses it.
    pub(super) async fn create_ephemeral(&self, stream: &str, name: &str, config: &Value) -> Result<Value, ApiError> {
        let request = json!({ "stream_name": stream, "config": config });
        self.call(&format!("CONSUMER.CREATE.{stream}.{name}"), &request).await
    }

    /// Moves a consumer to a sequence of its stream, as if it were made anew there. Known to nats-server from 2.14 on.
    pub(super) async fn reset_consumer(&self, stream: &str, consumer: &str, sequence: u64) -> Result<(), ApiError> {
        self.call(&format!("CONSUMER.RESET.{stream}.{consumer}"), &json!({ "seq": sequence })).await?;
        Ok(())
    }

    /// A stored message with its header block as base64, so that headers which the client cannot parse can be looked at.
    pub(super) async fn message(&self, stream: &str, sequence: u64) -> Result<Option<Value>, ApiError> {
        let answer = found(self.call(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": sequence })).await)?;
        Ok(answer.map(|answer| answer["message"].clone()))
    }

    /// The first message from sequence `from` on whose subject matches; `None` when there is none. Its headers come as they
    /// are, readable or not.
    pub(super) async fn next_message(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let request = json!({ "seq": from, "next_by_subj": subject });
        let answer = found(self.call(&format!("STREAM.MSG.GET.{stream}"), &request).await)?;
        answer.map(|answer| StoredMessage::read(&answer["message"])).transpose()
    }

    /// The message at exactly that sequence; `None` when there is none. Its headers come as they are, readable or not.
    pub(super) async fn stored_message(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, ApiError> {
        let message = self.message(stream, sequence).await?;
        message.map(|message| StoredMessage::read(&message)).transpose()
    }

    pub(super) async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), ApiError> {
        let request = json!({ "seq": sequence, "no_erase": true });
        found(self.call(&format!("STREAM.MSG.DELETE.{stream}"), &request).await)?;
        Ok(())
    }

    pub(super) async fn call(&self, subject: &str, request: &Value) -> Result<Value, ApiError> {
        #[cfg(test)]
        if let Some(answers) = &self.simulated {
            return answers.call(subject.to_owned(), request.clone()).await;
        }
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
            () = self.connection.deaf() => return Err(ApiError::NoAnswer(DEAF.to_owned())),
        };
        match response {
            Response::Ok(value) => Ok(value),
            Response::Err { error } => {
                let code = error.error_code().0;
                let description = error.to_string();
                Err(match code {
                    STREAM_NOT_FOUND | CONSUMER_NOT_FOUND | MESSAGE_NOT_FOUND => ApiError::NotFound(description),
                    code => ApiError::Refused { code, description },
                })
            }
        }
    }
}

/// A message as a stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    pub sequence: u64,
    pub subject: String,
    pub stored_at: Timestamp,
    /// The header block as NATS sends it, empty when there is none.
    pub headers: Vec<u8>,
    pub payload: Bytes,
}

impl StoredMessage {
    pub(super) fn read(message: &Value) -> Result<Self, ApiError> {
        let unreadable = |what: &str| ApiError::NoAnswer(format!("a stored message came without a readable {what}"));
        let bytes = |field: &str| match message[field].as_str() {
            None => Ok(Vec::new()),
            Some(text) => STANDARD.decode(text).map_err(|_| unreadable(field)),
        };
        let time = message["time"].as_str().and_then(|time| time.parse().ok());
        Ok(Self {
            sequence: message["seq"].as_u64().ok_or_else(|| unreadable("seq"))?,
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            stored_at: time.ok_or_else(|| unreadable("time"))?,
            headers: bytes("hdrs")?,
            payload: bytes("data")?.into(),
        })
    }

    /// Names and values of the headers that can be read.
    pub fn header_pairs(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let text = std::str::from_utf8(&self.headers).unwrap_or_default();
        let lines = text.split("\r\n").skip(1).take_while(|line| !line.is_empty());
        lines.filter_map(|line| line.split_once(':').map(|(name, value)| (name, value.trim_matches(' '))))
    }
}

pub(super) fn found(answer: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ApiError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

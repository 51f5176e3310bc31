//! How bridges are spoken to over NATS itself: a question that one or all of them answer. Nothing of it is stored, so whoever
//! asks learns at once when nobody is there.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::connect::Connection;

/// Answers of one question to all bridges; more bridges than this do not share one NATS account.
const MAX_ANSWERS: usize = 1000;

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("NATS is not connected")]
    Disconnected,
    #[error("nobody answers on '{0}'")]
    NobodyThere(String),
    #[error("NATS does not permit us to publish to '{0}'")]
    Denied(String),
    #[error("no answer on '{subject}' within {limit:?}")]
    NoAnswer { subject: String, limit: Duration },
    #[error("the NATS client is closed")]
    Closed,
}

/// A question of somebody, to be answered once or in parts.
#[derive(Debug, Clone)]
pub struct Call {
    pub subject: String,
    pub payload: Bytes,
    reply: Option<Subject>,
    client: Client,
}

/// The questions that come in on one subject.
pub struct Calls {
    client: Client,
    subscriber: Subscriber,
}

/// The answers to one question, in parts.
pub struct Answers {
    connection: Connection,
    subject: String,
    denials: u64,
    subscriber: Subscriber,
}

impl Answers {
    /// The next part.
    ///
    /// # Errors
    /// [`CallError::NobodyThere`] at once when nobody listens, [`CallError::NoAnswer`] when there is not a word for `silence`.
    pub async fn next(&mut self, silence: Duration) -> Result<Bytes, CallError> {
        let Self { connection, subject, denials, subscriber } = self;
        tokio::select! {
            answer = tokio::time::timeout(silence, subscriber.next()) => match answer {
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    Err(CallError::NobodyThere(subject.clone()))
                }
                Ok(Some(message)) => Ok(message.payload),
                Ok(None) => Err(CallError::Closed),
                Err(_) => Err(CallError::NoAnswer { subject: subject.clone(), limit: silence }),
            },
            () = connection.denied(subject, *denials) => Err(CallError::Denied(subject.clone())),
        }
    }
}

impl Call {
    /// Answers. Whoever has asked may be gone; that is their affair.
    pub async fn answer(&self, payload: Vec<u8>) {
        if let Some(reply) = &self.reply {
            let _ = self.client.publish(reply.clone(), payload.into()).await;
        }
    }
}

impl Calls {
    /// The next question; `None` when the client is closed for good. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> Option<Call> {
        let message = self.subscriber.next().await?;
        Some(Call {
            subject: message.subject.to_string(),
            payload: message.payload,
            reply: message.reply,
            client: self.client.clone(),
        })
    }
}

impl Connection {
    /// Listens for questions on a subject, wildcards allowed. Of all who listen in the same group, one gets each question.
    ///
    /// # Errors
    /// When the client is closed for good.
    pub async fn listen(&self, subject: &str, group: Option<&str>) -> Result<Calls, CallError> {
        let client = self.client.clone();
        let subscriber = match group {
            Some(group) => client.queue_subscribe(subject.to_owned(), group.to_owned()).await,
            None => client.subscribe(subject.to_owned()).await,
        };
        Ok(Calls { client, subscriber: subscriber.map_err(|_| CallError::Closed)? })
    }

    /// Asks, and returns the first answer.
    ///
    /// # Errors
    /// [`CallError::NobodyThere`] at once when nobody listens.
    pub async fn ask(&self, subject: &str, payload: Vec<u8>, limit: Duration) -> Result<Bytes, CallError> {
        if !self.is_connected() {
            return Err(CallError::Disconnected);
        }
        let denials = self.denials(subject);
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(limit));
        tokio::select! {
            answer = self.client.send_request(subject.to_owned(), request) => match answer {
                Ok(message) => Ok(message.payload),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    Err(CallError::NobodyThere(subject.to_owned()))
                }
                Err(_) => Err(CallError::NoAnswer { subject: subject.to_owned(), limit }),
            },
            () = self.denied(subject, denials) => Err(CallError::Denied(subject.to_owned())),
        }
    }

    /// Asks somebody who answers in parts.
    ///
    /// # Errors
    /// When the question cannot be asked.
    pub async fn converse(&self, subject: &str, payload: Vec<u8>) -> Result<Answers, CallError> {
        if !self.is_connected() {
            return Err(CallError::Disconnected);
        }
        let denials = self.denials(subject);
        let inbox = self.client.new_inbox();
        let subscriber = self.client.subscribe(inbox.clone()).await.map_err(|_| CallError::Closed)?;
        let sent = self.client.publish_with_reply(subject.to_owned(), inbox, payload.into()).await;
        sent.map_err(|_| CallError::Closed)?;
        Ok(Answers { connection: self.clone(), subject: subject.to_owned(), denials, subscriber })
    }

    /// Asks everybody, and gives what has come within `limit`; nothing, and that at once, when nobody listens.
    ///
    /// # Errors
    /// When the question cannot be asked.
    pub async fn ask_all(&self, subject: &str, payload: Vec<u8>, limit: Duration) -> Result<Vec<Bytes>, CallError> {
        if !self.is_connected() {
            return Err(CallError::Disconnected);
        }
        let deadline = Instant::now() + limit;
        let denials = self.denials(subject);
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|_| CallError::Closed)?;
        let sent = self.client.publish_with_reply(subject.to_owned(), inbox, payload.into()).await;
        sent.map_err(|_| CallError::Closed)?;
        let mut found = Vec::new();
        while found.len() < MAX_ANSWERS {
            tokio::select! {
                answer = timeout_at(deadline, answers.next()) => match answer {
                    Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => break,
                    Ok(Some(message)) => found.push(message.payload),
                    Ok(None) | Err(_) => break,
                },
                () = self.denied(subject, denials) => return Err(CallError::Denied(subject.to_owned())),
            }
        }
        Ok(found)
    }

    /// Tells whoever listens, if anybody does.
    pub async fn tell(&self, subject: &str, payload: Vec<u8>) {
        if self.is_connected() {
            // Fails only when the client is closed for good.
            let _ = self.client.publish(subject.to_owned(), payload.into()).await;
        }
    }
}

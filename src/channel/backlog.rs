//! What waits in JetStream: for each subscription its events that are not settled, and its dead letters. Read only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::api::{Api, ApiError};
use super::consumer::owner;
use super::{dead_letter, name};
use crate::resource::Key;

/// Subjects of one consumer that are looked at for its oldest event; of more, everything in the stream is.
const MAX_SUBJECTS: usize = 8;

/// The events of one subscription that are not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    pub subscription: Key,
    /// Not delivered yet.
    pub undelivered: u64,
    /// Delivered, and not acknowledged.
    pub unsettled: u64,
    stream: String,
    subjects: Vec<String>,
    /// All up to this sequence are settled.
    settled_to: u64,
}

/// The backlogs of all subscriptions that have their consumer in this stream.
///
/// # Errors
/// When JetStream does not answer or says no; a stream that is not there has none.
pub async fn of_stream(api: &Api, stream: &str) -> Result<Vec<Backlog>, ApiError> {
    let mut found = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = match api.consumers(stream, offset).await {
            Err(ApiError::NotFound(_)) => return Ok(found),
            page => page?,
        };
        found.extend(page.iter().filter_map(|info| read(stream, info)));
        offset += page.len();
        if page.is_empty() || offset >= total {
            return Ok(found);
        }
    }
}

/// Kept dead letters by the subject that names their subscription.
///
/// # Errors
/// When JetStream does not answer or says no; a stream that is not there has none.
pub async fn dead_letters(api: &Api) -> Result<BTreeMap<String, u64>, ApiError> {
    let mut found = BTreeMap::new();
    loop {
        let (page, total) = match api.subject_counts(dead_letter::STREAM, dead_letter::SUBJECTS, found.len()).await {
            Err(ApiError::NotFound(_)) => return Ok(found),
            page => page?,
        };
        let before = found.len();
        found.extend(page);
        if found.len() == before || found.len() >= total {
            return Ok(found);
        }
    }
}

/// The subject of a subscription's dead letters.
pub fn dead_letter_subject(subscription: &Key) -> String {
    name::dead_letter_subject(subscription)
}

fn read(stream: &str, info: &Value) -> Option<Backlog> {
    let config = &info["config"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let many = config["filter_subjects"].as_array().into_iter().flatten();
    let subjects = many.chain([&config["filter_subject"]]).filter_map(Value::as_str).filter(|text| !text.is_empty());
    Some(Backlog {
        subscription: owner(config)?,
        undelivered: number(&info["num_pending"]),
        unsettled: number(&info["num_ack_pending"]),
        stream: stream.to_owned(),
        subjects: subjects.map(str::to_owned).collect(),
        settled_to: number(&info["ack_floor"]["stream_seq"]),
    })
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.undelivered == 0 && self.unsettled == 0
    }

    /// When its oldest event was stored; `None` when there is none any more.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn oldest(&self, api: &Api) -> Result<Option<Timestamp>, ApiError> {
        let everything = [">".to_owned()];
        let subjects = if (1..=MAX_SUBJECTS).contains(&self.subjects.len()) { &self.subjects[..] } else { &everything };
        let mut oldest = None;
        for subject in subjects {
            let message = api.next_message(&self.stream, subject, self.settled_to + 1).await?;
            oldest = oldest.into_iter().chain(message.map(|message| message.stored_at)).min();
        }
        Ok(oldest)
    }
}

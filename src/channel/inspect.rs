//! Questions to JetStream that change nothing: what the server says of itself, what an account may use, how many kept messages
//! something would touch.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::connect::Connection;
use super::name::covers;

/// Pages of a list that are read; nats-server gives 100,000 subjects or 256 and more names a page.
const MAX_PAGES: usize = 100;

/// What a server says of itself when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub name: String,
    pub version: String,
    /// Of the cluster that it is part of.
    pub cluster: Option<String>,
    /// Bytes of a message, headers included.
    pub max_payload: usize,
    pub jetstream: bool,
}

/// A number of messages, or the most that they can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub count: u64,
    pub exact: bool,
}

impl Connection {
    /// What the server at the other end says of itself; as it was when the connection was made.
    pub fn server(&self) -> ServerFacts {
        let info = self.client.server_info();
        ServerFacts {
            name: info.server_name,
            version: info.version,
            cluster: info.cluster,
            max_payload: info.max_payload,
            jetstream: info.jetstream,
        }
    }
}

impl Api {
    /// What the account uses and may use.
    ///
    /// # Errors
    /// When JetStream does not answer or says no, such as for an account that has no JetStream.
    pub async fn account(&self) -> Result<Value, ApiError> {
        self.call("INFO", &json!({})).await
    }

    /// The names of all streams, or of those that take messages of a subject.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn stream_names(&self, subject: Option<&str>) -> Result<Vec<String>, ApiError> {
        let mut names = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut request = json!({ "offset": names.len() });
            if let Some(subject) = subject {
                request["subject"] = json!(subject);
            }
            let page = self.call("STREAM.NAMES", &request).await?;
            let found = page["streams"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let before = names.len();
            names.extend(found.map(str::to_owned));
            if names.len() == before || number(&page["total"]) <= names.len() as u64 {
                break;
            }
        }
        Ok(names)
    }

    /// Everything about all consumers of a stream.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn all_consumers(&self, stream: &str) -> Result<Vec<Value>, ApiError> {
        let mut infos = Vec::new();
        loop {
            let (page, total) = self.consumers(stream, infos.len()).await?;
            let is_last = page.is_empty();
            infos.extend(page);
            if is_last || infos.len() >= total {
                return Ok(infos);
            }
        }
    }

    /// How many kept messages a consumer of this configuration would begin with; `info` is its stream's.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn count_from_start(&self, info: &Value, config: &Value) -> Result<Count, ApiError> {
        let state = &info["state"];
        let first = match config["deliver_policy"].as_str() {
            Some("new") => return Ok(Count { count: 0, exact: true }),
            Some("by_start_sequence") => number(&config["opt_start_seq"]),
            Some("by_start_time") => match time(&config["opt_start_time"]) {
                Some(time) => self.first_of(info, time).await?,
                None => 0,
            },
            _ => 0,
        };
        let since = since(state, first);
        let filters = filters(config);
        let selects = !filters.is_empty() && !filters.iter().any(|filter| filter == ">");
        let mut count = since;
        if selects && since.count > 0 {
            let selected = self.count_of_subjects(info, &filters).await?;
            let all_of_them = since.exact && since.count == number(&state["messages"]);
            let limit = selected.count.min(since.count);
            count = Count { count: limit, exact: limit == 0 || (all_of_them && selected.exact) };
        }
        if config["deliver_policy"] == json!("last") {
            count = Count { count: count.count.min(1), exact: true };
        }
        Ok(count)
    }

    /// How many kept messages would be removed at once when the stream of this `info` gets that configuration.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn count_removed(&self, info: &Value, config: &Value) -> Result<Count, ApiError> {
        let (state, before) = (&info["state"], &info["config"]);
        let (messages, bytes) = (number(&state["messages"]), number(&state["bytes"]));
        // A limit, where it is one and is lower than before.
        let lowered = |field: &str| {
            let limit = |config: &Value| {
                config[field].as_i64().and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
            };
            limit(config).filter(|new| limit(before).is_none_or(|old| *new < old))
        };
        let mut counts = Vec::new();
        // With discard new the server leaves what is there and refuses what comes.
        if config["discard"] != json!("new") {
            if let Some(limit) = lowered("max_msgs") {
                counts.push(Count { count: messages.saturating_sub(limit), exact: true });
            }
            if let Some(limit) = lowered("max_bytes") {
                let excess = bytes.saturating_sub(limit);
                let average = (bytes / messages.max(1)).max(1);
                counts.push(Count { count: excess.div_ceil(average).min(messages), exact: excess == 0 });
            }
        }
        if let Some(limit) = lowered("max_msgs_per_subject") {
            let (subjects, exact) = self.subjects(info, ">").await?;
            counts.push(Count { count: subjects.values().map(|kept| kept.saturating_sub(limit)).sum(), exact });
        }
        if let Some(limit) = lowered("max_age") {
            let oldest = Timestamp::now() - Duration::from_nanos(limit);
            let kept = since(state, self.first_of(info, oldest).await?);
            counts.push(Count { count: messages.saturating_sub(kept.count), exact: kept.exact });
        }
        counts.retain(|count| count.count > 0);
        // Several limits remove the same oldest messages for the most part.
        let exact = counts.len() < 2 && counts.iter().all(|count| count.exact);
        Ok(Count { count: counts.iter().map(|count| count.count).max().unwrap_or(0), exact })
    }

    async fn count_of_subjects(&self, info: &Value, filters: &[String]) -> Result<Count, ApiError> {
        let mut count = Count { count: 0, exact: true };
        let mut counted: Vec<&str> = Vec::new();
        for filter in filters {
            let (subjects, exact) = self.subjects(info, filter).await?;
            let new = subjects.iter().filter(|(subject, _)| !counted.iter().any(|pattern| covers(pattern, subject)));
            count.count += new.map(|(_, messages)| messages).sum::<u64>();
            count.exact &= exact;
            counted.push(filter);
        }
        Ok(count)
    }

    /// How many messages a stream holds by subject, and whether that is all of it.
    async fn subjects(&self, info: &Value, filter: &str) -> Result<(BTreeMap<String, u64>, bool), ApiError> {
        let stream = info["config"]["name"].as_str().unwrap_or_default();
        let mut subjects = BTreeMap::new();
        let mut offset = 0;
        for _ in 0..MAX_PAGES {
            let request = json!({ "subjects_filter": filter, "offset": offset });
            let page = self.call(&format!("STREAM.INFO.{stream}"), &request).await?;
            let Some(found) = page["state"]["subjects"].as_object() else { return Ok((subjects, true)) };
            offset += found.len() as u64;
            subjects.extend(found.iter().map(|(subject, count)| (subject.clone(), number(count))));
            if found.is_empty() || offset >= number(&page["total"]) {
                return Ok((subjects, true));
            }
        }
        Ok((subjects, false))
    }
    async fn first_of(&self, info: &Value, time: Timestamp) -> Result<u64, ApiError> {
        let stream = info["config"]["name"].as_str().unwrap_or_default();
        let state = &info["state"];
        self.first_since(stream, number(&state["first_seq"])..=number(&state["last_seq"]), time).await
    }
}

/// How many messages lie at or behind a sequence.
fn since(state: &Value, first: u64) -> Count {
    let messages = number(&state["messages"]);
    let (lowest, highest) = (number(&state["first_seq"]), number(&state["last_seq"]));
    if first <= lowest {
        return Count { count: messages, exact: true };
    }
    let range = (highest + 1).saturating_sub(first);
    Count { count: range.min(messages), exact: range == 0 || number(&state["num_deleted"]) == 0 }
}

fn filters(config: &Value) -> Vec<String> {
    let several = config["filter_subjects"].as_array().into_iter().flatten();
    let all = several.chain([&config["filter_subject"]]).filter_map(Value::as_str);
    all.filter(|filter| !filter.is_empty()).map(str::to_owned).collect()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_behind_a_sequence_are_counted_exactly_where_none_is_missing_between() {
        let state =
            |deleted: u64| json!({ "messages": 6 - deleted, "first_seq": 5, "last_seq": 10, "num_deleted": deleted });
        let check = |first, deleted, count, exact| assert_eq!(since(&state(deleted), first), Count { count, exact });
        check(0, 0, 6, true);
        check(5, 2, 4, true);
        check(8, 0, 3, true);
        check(8, 2, 3, false);
        check(11, 2, 0, true);
        check(99, 0, 0, true);
    }

    #[test]
    fn all_filters_of_a_consumer_count() {
        assert_eq!(filters(&json!({ "filter_subject": "a" })), ["a"]);
        assert_eq!(filters(&json!({ "filter_subjects": ["a", "b"], "filter_subject": "" })), ["a", "b"]);
        assert!(filters(&json!({})).is_empty());
    }
}

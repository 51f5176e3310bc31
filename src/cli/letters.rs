//! How commands are told which dead letters are meant, and what they have in common beside.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;

use super::duration;
use super::output::{Row, age, plain};
use crate::manage::dead_letters::{DeadLetter, Query};
use crate::resource::Key;

/// The longest text of others in a table, in characters.
const MAX_CELL: usize = 60;

/// What narrows the letters that are meant.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Filter {
    /// Of events with this id
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// Of events of this source
    #[arg(long, value_name = "SOURCE", value_parser = NonEmptyStringValueParser::new())]
    source: Option<String>,
    /// Of events of this type
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    kind: Option<String>,
    /// That failed with this code last; 500 also stands for no answer
    #[arg(long, value_name = "CODE")]
    code: Option<u16>,
    /// Kept for at least so long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    older_than: Option<Duration>,
    /// Kept for at most so long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    newer_than: Option<Duration>,
    /// The one with this sequence in KN_DEADLETTERS
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Filter {
    pub(super) fn query(&self, subscription: Option<&Key>) -> Query {
        let Self { id, source, kind, code, older_than, newer_than, seq, limit } = self.clone();
        let subscription = subscription.cloned();
        Query { subscription, id, source, kind, code, older_than, newer_than, sequence: seq, limit, ..Query::default() }
    }

    /// Whether one letter is named, and not whatever fits.
    pub(super) fn names_one(&self) -> bool {
        self.id.is_some() || self.seq.is_some()
    }
}

impl Row for DeadLetter {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("ID", false),
        ("SUBSCRIPTION", false),
        ("TYPE", false),
        ("SOURCE", true),
        ("CODE", false),
        ("AGE", false),
        ("SEQ", false),
        ("CHANNEL", true),
        ("BYTES", true),
        ("DEST", true),
        ("ERROR", false),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let text = |text: &Option<String>| text.as_deref().map(shortened).unwrap_or_default();
        vec![
            text(&self.id),
            format!("{}/{}", self.namespace, self.subscription),
            self.event_type.as_deref().map_or_else(|| "(no event)".to_owned(), shortened),
            text(&self.source),
            self.code.map(|code| code.to_string()).unwrap_or_default(),
            age(self.time, now),
            self.sequence.to_string(),
            text(&self.channel),
            self.data_bytes.to_string(),
            text(&self.dest),
            self.error.as_deref().or(self.reason.as_deref()).map(shortened).unwrap_or_default(),
        ]
    }
}

/// The beginning of a text, on one line.
pub(super) fn shortened(text: &str) -> String {
    let mut line: String = text.trim().chars().take(MAX_CELL).collect();
    if text.trim().chars().count() > MAX_CELL {
        line.push('…');
    }
    plain(&line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `1 dead letter`, `2 dead letters`.
pub(super) fn counted(count: u64) -> String {
    format!("{count} dead letter{}", if count == 1 { "" } else { "s" })
}

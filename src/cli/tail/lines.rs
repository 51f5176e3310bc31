//! How an event and a delivery are written.

use std::fmt::Write as _;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};

use super::Output;
use crate::channel::attempts::{Attempt, Next, Purpose};
use crate::cli::output::plain;
use crate::cli::view;
use crate::manage::tail::Item;

/// Columns, and how wide each is before anything wider has come.
const COLUMNS: [(&str, usize); 8] =
    [("TIME", 24), ("TYPE", 20), ("SOURCE", 16), ("ID", 12), ("SINK", 32), ("CODE", 6), ("DURATION", 8), ("THEN", 0)];
/// A column grows no wider; a longer cell moves its own line alone.
const WIDEST: usize = 60;

/// Writes items one after the other, in one shape.
pub(super) struct Lines {
    output: Output,
    widths: [usize; COLUMNS.len()],
    is_first: bool,
}

impl Lines {
    pub(super) fn new(output: Output) -> Self {
        Self { output, widths: COLUMNS.map(|(_, width)| width), is_first: true }
    }

    /// What comes before all items.
    pub(super) fn begin(&mut self) -> String {
        match self.output {
            Output::Table => self.line(COLUMNS.map(|(title, _)| title.to_owned())),
            Output::Json => "[".to_owned(),
            Output::Pretty | Output::Ndjson => String::new(),
        }
    }

    /// One event or delivery.
    pub(super) fn of(&mut self, item: &Item) -> anyhow::Result<String> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        Ok(match self.output {
            Output::Table => cells(item).map_or_else(String::new, |cells| self.line(cells)),
            Output::Pretty => pretty(item),
            Output::Json => format!("{}\n{}", if is_first { "" } else { "," }, json(item)?),
            Output::Ndjson => json(item)? + "\n",
        })
    }

    /// What comes after all items.
    pub(super) fn end(&self) -> String {
        match self.output {
            Output::Json => if self.is_first { "]\n" } else { "\n]\n" }.to_owned(),
            Output::Table | Output::Pretty | Output::Ndjson => String::new(),
        }
    }

    fn line(&mut self, cells: [String; COLUMNS.len()]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&mut self.widths) {
            *width = cell.chars().count().min(WIDEST).max(*width);
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ", width = *width);
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

fn json(item: &Item) -> anyhow::Result<String> {
    serde_json::to_string(item).context("cannot write JSON")
}

fn cells(item: &Item) -> Option<[String; COLUMNS.len()]> {
    Some(match item {
        Item::Event(stored) => [
            time(stored.time),
            plain(stored.event.kind()),
            plain(stored.event.source()),
            plain(stored.event.id()),
            plain(&stored.channel),
            "stored".to_owned(),
            "-".to_owned(),
            String::new(),
        ],
        Item::Delivery(attempt) => [
            time(attempt.time),
            plain(&attempt.kind),
            plain(&attempt.source),
            plain(&attempt.id),
            plain(&attempt.sink),
            code(attempt),
            took(attempt),
            then(attempt),
        ],
        Item::Note(_) => return None,
    })
}

fn pretty(item: &Item) -> String {
    match item {
        Item::Event(stored) => view::block(&stored.event),
        Item::Delivery(attempt) => {
            let mut block = "Delivery,\n".to_owned();
            for (name, value) in [
                ("time", time(attempt.time)),
                ("type", plain(&attempt.kind)),
                ("source", plain(&attempt.source)),
                ("id", plain(&attempt.id)),
                ("subscription", format!("{}/{}", attempt.namespace, attempt.subscription)),
                ("sink", plain(&attempt.sink)),
                ("code", code(attempt)),
                ("duration", took(attempt)),
                ("then", then(attempt)),
            ] {
                if !value.is_empty() {
                    let _ = writeln!(block, "  {name}: {value}");
                }
            }
            block
        }
        Item::Note(_) => String::new(),
    }
}

/// To the millisecond.
fn time(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// The status of the answer.
fn code(attempt: &Attempt) -> String {
    attempt.code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}

fn took(attempt: &Attempt) -> String {
    match attempt.duration_ms {
        short if short < 10.0 => format!("{short:.1}ms"),
        middle if middle < 10_000.0 => format!("{middle:.0}ms"),
        long => format!("{:.1}s", long / 1000.0),
    }
}

/// What follows, where it is not plainly the end; and which attempt it was, where not the first.
fn then(attempt: &Attempt) -> String {
    let purpose = match attempt.purpose {
        Purpose::Subscriber => None,
        Purpose::Reply => Some("reply".to_owned()),
        Purpose::DeadLetter => Some("dead letter".to_owned()),
    };
    let number = (attempt.attempt > 1).then(|| format!("attempt {}", attempt.attempt));
    let next = match attempt.next {
        Next::Settled => None,
        Next::Reply => Some("its reply is sent on".to_owned()),
        Next::Retry => Some(match attempt.retry_at.and_then(|at| wait(attempt, at)) {
            Some(wait) => format!("retry in {wait}"),
            None => "retry".to_owned(),
        }),
        Next::DeadLetterSink => Some("to its dead letter sink".to_owned()),
        Next::Kept => Some("kept in KN_DEADLETTERS".to_owned()),
    };
    [purpose, number, next].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// From the end of the attempt to its retry.
fn wait(attempt: &Attempt, retry_at: Timestamp) -> Option<String> {
    let took = SignedDuration::try_from_secs_f64(attempt.duration_ms / 1000.0).ok()?;
    let wait = retry_at.duration_since(attempt.time).checked_sub(took)?;
    Some(format!("{:.1}s", wait.as_secs_f64().max(0.0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::event::{Builder, SpecVersion};
    use crate::manage::tail::{Note, StoredEvent};

    fn items() -> [Item; 4] {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in
            [("id", "order-7"), ("source", "/shop"), ("type", "com.example.order"), ("datacontenttype", "text/plain")]
        {
            builder.attribute(name, value).unwrap();
        }
        builder.data(bytes::Bytes::from_static(b"hello"));
        let time: Timestamp = "2026-11-21T10:00:00.1234Z".parse().unwrap();
        let attempt = Attempt {
            time,
            namespace: "default".into(),
            subscription: "big-orders".into(),
            stream: "KN_DEFAULT__SHOP".into(),
            sequence: 7,
            id: "order-7".into(),
            source: "/shop".into(),
            kind: "com.example.order".into(),
            attempt: 2,
            purpose: Purpose::Subscriber,
            sink: "http://orders.default.svc.cluster.local".into(),
            duration_ms: 12.34,
            code: Some(503),
            error: Some("away".into()),
            next: Next::Retry,
            retry_at: Some("2026-11-21T10:00:00.5357Z".parse().unwrap()),
            redrive: false,
        };
        let reply = Attempt {
            attempt: 1,
            purpose: Purpose::Reply,
            duration_ms: 1.0,
            code: None,
            next: Next::Kept,
            ..attempt.clone()
        };
        let event = StoredEvent {
            time,
            channel: "default/shop".into(),
            stream: "KN_DEFAULT__SHOP".into(),
            sequence: 7,
            event: builder.build().unwrap(),
        };
        let note = Note { text: "x".into() };
        [
            Item::Event(Box::new(event)),
            Item::Delivery(Box::new(attempt)),
            Item::Delivery(Box::new(reply)),
            Item::Note(note),
        ]
    }

    fn written(output: Output, items: &[Item]) -> String {
        let mut lines = Lines::new(output);
        let mut text = lines.begin();
        for item in items {
            text.push_str(&lines.of(item).unwrap());
        }
        text + &lines.end()
    }

    #[test]
    fn lines_are_aligned_and_grow_with_what_comes() {
        insta::assert_snapshot!(written(Output::Table, &items()), @r"
        TIME                      TYPE                  SOURCE            ID            SINK                              CODE    DURATION  THEN
        2026-11-21T10:00:00.123Z  com.example.order     /shop             order-7       default/shop                      stored  -
        2026-11-21T10:00:00.123Z  com.example.order     /shop             order-7       http://orders.default.svc.cluster.local  503     12ms      attempt 2, retry in 0.4s
        2026-11-21T10:00:00.123Z  com.example.order     /shop             order-7       http://orders.default.svc.cluster.local  none    1.0ms     reply, kept in KN_DEADLETTERS
        ");
    }

    #[test]
    fn events_are_shown_as_event_display_shows_them() {
        insta::assert_snapshot!(written(Output::Pretty, &items()[..2]), @r"
        ☁️  cloudevents.Event
        Context Attributes,
          specversion: 1.0
          type: com.example.order
          source: /shop
          id: order-7
          datacontenttype: text/plain
        Data,
          hello
        Delivery,
          time: 2026-11-21T10:00:00.123Z
          type: com.example.order
          source: /shop
          id: order-7
          subscription: default/big-orders
          sink: http://orders.default.svc.cluster.local
          code: 503
          duration: 12ms
          then: attempt 2, retry in 0.4s
        ");
    }

    #[test]
    fn json_is_one_array_however_many_there_are() {
        for count in 0..=3 {
            let array: serde_json::Value = serde_json::from_str(&written(Output::Json, &items()[..count])).unwrap();
            assert_eq!(array.as_array().unwrap().len(), count);
        }
        let lines = written(Output::Ndjson, &items()[..2]);
        let values: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&values[0]["kind"], &values[1]["kind"]), (&"event".into(), &"delivery".into()));
        assert_eq!((&values[0]["event"]["data"], &values[0]["sequence"]), (&"hello".into(), &7.into()));
        assert_eq!((&values[1]["code"], &values[1]["type"]), (&503.into(), &"com.example.order".into()));
    }
}

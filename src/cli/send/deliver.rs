//! Requests on their way to the sink: a bounded number at once, each tried again while the sink may take it, and what was
//! accepted is told.

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::cli::progress::Progress;
use crate::cli::say;
use crate::cli::sender::{Backoff, Failure, Sender};
use crate::event::Event;

/// Where requests go, and what became of them so far.
pub(super) struct Delivery {
    pub(super) sender: Sender,
    /// Tries after the first one.
    pub(super) retries: u32,
    /// Requests under way at once; with one they leave in order.
    pub(super) in_flight: usize,
    pub(super) progress: Progress,
    /// Whether each accepted event gets a line.
    pub(super) tell_each: bool,
    pub(super) accepted: u64,
    /// Events under way right now: nobody knows whether they are accepted.
    pub(super) under_way: u64,
}

impl Delivery {
    /// Sends until there are no more requests. After a failure no further request is begun, and those under way come to
    /// their end.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn all(&mut self, mut requests: mpsc::Receiver<Vec<Event>>) -> anyhow::Result<()> {
        let mut under_way = FuturesUnordered::new();
        let mut result = Ok(());
        let mut open = true;
        while open || !under_way.is_empty() {
            tokio::select! {
                Some(ended) = under_way.next() => {
                    let told = self.record(ended);
                    if result.is_ok() && told.is_err() {
                        result = told;
                        requests.close();
                        open = false;
                    }
                }
                request = requests.recv(), if open && under_way.len() < self.in_flight => match request {
                    Some(events) => {
                        self.under_way += events.len() as u64;
                        under_way.push(deliver(self.sender.clone(), self.retries, events));
                    }
                    None => open = false,
                },
            }
        }
        self.progress.clear();
        result
    }

    fn record(&mut self, (events, ended): Ended) -> anyhow::Result<()> {
        self.under_way -= events.len() as u64;
        ended.with_context(|| match events.as_slice() {
            [event] => format!("event {} is not sent", event.id()),
            [first, ..] => format!("a batch of {} events from {} on is not sent", events.len(), first.id()),
            [] => String::new(),
        })?;
        self.accepted += events.len() as u64;
        self.progress.show(self.accepted);
        if !self.tell_each {
            return Ok(());
        }
        let lines: String = events.iter().map(|event| format!("accepted {}\n", event.id())).collect();
        say(&lines)
    }
}

/// The events of a request, and what became of it.
type Ended = (Vec<Event>, Result<(), Failure>);

async fn deliver(sender: Sender, retries: u32, events: Vec<Event>) -> Ended {
    let mut backoff = Backoff::new();
    let mut retried = 0;
    loop {
        let failure = match sender.attempt(&events).await {
            Ok(()) => return (events, Ok(())),
            Err(failure) if failure.is_passing() && retried < retries => failure,
            Err(failure) => return (events, Err(failure)),
        };
        retried += 1;
        let wait = backoff.after(&failure);
        tracing::warn!(retry = retried, of = retries, wait_ms = wait.as_millis() as u64, "{failure}");
        tokio::time::sleep(wait).await;
    }
}

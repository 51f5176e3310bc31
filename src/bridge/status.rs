//! Answers operators who ask over NATS how the subscriptions are doing here.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::channel::{Call, Connection};
use crate::dispatch::Health;
use crate::manage::bridges::{Answer, Doing, MAX_PER_ANSWER, Question, STATUS, Work};
use crate::resource::Key;

/// What the bridge makes of each declared subscription.
pub(super) type Board = Arc<BTreeMap<Key, Entry>>;

/// One subscription on the board.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) channel: Key,
    /// As it may be shown.
    pub(super) sink: String,
    pub(super) stream: String,
    pub(super) consumer: String,
    pub(super) standing: Standing,
}

#[derive(Clone)]
pub(super) enum Standing {
    Running(Health),
    Paused,
    Waiting(String),
}

/// Answers one question after the other until `shutdown`. Whoever may not listen there only cannot be asked.
pub(super) async fn respond(control: Connection, board: watch::Receiver<Board>, shutdown: CancellationToken) {
    // Fails only when the client is closed for good.
    let Ok(mut calls) = control.listen(STATUS, None).await else { return };
    let bridge = uuid::Uuid::new_v4().to_string();
    loop {
        let call = tokio::select! {
            () = shutdown.cancelled() => return,
            call = calls.next() => call,
        };
        let Some(call) = call else { return };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = answer(&call, &bridge, &board) => {}
        }
    }
}

async fn answer(call: &Call, bridge: &str, board: &watch::Receiver<Board>) {
    let asked: Question = match serde_json::from_slice(&call.payload) {
        Ok(question) => question,
        Err(_) if call.payload.is_empty() => Question::default(),
        // Whoever cannot ask is not answered.
        Err(_) => return,
    };
    let board = Arc::clone(&board.borrow());
    let is_asked = |key: &Key| asked.subscription.as_ref().is_none_or(|wanted| *wanted == key.to_string());
    let works: Vec<Work> = board.iter().filter(|(key, _)| is_asked(key)).map(|(key, entry)| work(key, entry)).collect();
    for part in works.chunks(MAX_PER_ANSWER) {
        let answer = Answer { bridge: bridge.to_owned(), subscriptions: part.to_vec() };
        // Texts, numbers and times always become JSON.
        call.answer(serde_json::to_vec(&answer).unwrap_or_default()).await;
    }
}

fn work(key: &Key, entry: &Entry) -> Work {
    let (doing, reason) = match &entry.standing {
        Standing::Running(health) => Doing::of(health.state()),
        Standing::Paused => (Doing::Paused, "paused by its annotation".to_owned()),
        Standing::Waiting(reason) => (Doing::Stalled, reason.clone()),
    };
    let standing = match &entry.standing {
        Standing::Running(health) => Some(health.standing()),
        Standing::Paused | Standing::Waiting(_) => None,
    };
    Work {
        subscription: key.to_string(),
        channel: entry.channel.to_string(),
        sink: entry.sink.clone(),
        stream: entry.stream.clone(),
        consumer: entry.consumer.clone(),
        doing,
        reason,
        in_flight: standing.as_ref().map_or(0, |standing| standing.in_flight),
        next_retry: standing.as_ref().and_then(|standing| standing.next_retry),
        held_until: standing.as_ref().and_then(|standing| standing.held_until),
        last_error: standing.and_then(|standing| standing.last_error),
    }
}

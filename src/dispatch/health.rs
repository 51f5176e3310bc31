//! How a subscription is doing: its state for readiness, and a book of its counts and its last failure for whoever asks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::returning::Returning;
use crate::event::Event;
use crate::sink::Failure;

/// The longest text of a failure that is kept, in characters.
const MAX_CHARS: usize = 200;

/// What a subscription worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It pulls; nothing speaks against it.
    Pulling,
    /// It wants no further events for now, and why.
    Held(String),
    /// It pulls, and JetStream holds everything back because somebody wants it so; who, and until when.
    Paused(String),
    /// It cannot pull although it should, and why.
    Stalled(String),
    /// Its consumer or stream is gone and must be made again.
    Gone(String),
}

/// The state of one worker, shared with whoever looks.
#[derive(Debug, Clone)]
pub struct Health {
    sender: watch::Sender<State>,
    nudge: Arc<Notify>,
    book: Arc<Book>,
}

/// What a worker notes down as it goes.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Events that are held.
    held: AtomicUsize,
    /// The events that JetStream delivers again.
    pub(super) returning: Mutex<Returning>,
    page: Mutex<Page>,
}

#[derive(Debug, Default)]
struct Page {
    last_error: Option<LastError>,
    /// While the sink cannot be reached: when another event is let through.
    probe: Option<Instant>,
}

/// The newest failure of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastError {
    /// The answer's status; 500 when there was none.
    pub code: u16,
    /// The beginning of the answer's body, or why there was no answer.
    pub message: String,
    pub time: Timestamp,
    pub event_id: String,
    pub event_source: String,
}

/// What a worker holds and waits for, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Events that are under way here, or wait here for their key, their batch or their sink.
    pub in_flight: u64,
    /// When the next event is delivered again that has failed here.
    pub next_retry: Option<Timestamp>,
    /// Until when no further event is let through to a sink that cannot be reached.
    pub held_until: Option<Timestamp>,
    pub last_error: Option<LastError>,
}

impl Health {
    /// Every change notifies `nudge`, which many workers may share.
    pub fn new(nudge: Arc<Notify>) -> Self {
        Self { sender: watch::Sender::new(State::Pulling), nudge, book: Arc::default() }
    }

    pub(super) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book)
    }

    /// What the worker holds and waits for right now.
    pub fn standing(&self) -> Standing {
        let next_retry = lock(&self.book.returning).next();
        let page = lock(&self.book.page);
        Standing {
            in_flight: u64::try_from(self.book.held.load(Ordering::Relaxed)).unwrap_or(u64::MAX),
            next_retry: next_retry.map(at),
            held_until: page.probe.map(at),
            last_error: page.last_error.clone(),
        }
    }

    pub fn state(&self) -> State {
        self.sender.borrow().clone()
    }

    /// Says that it wants no events yet, and why.
    pub fn hold(&self, reason: &str) {
        self.set(State::Held(reason.to_owned()));
    }

    /// Nothing speaks against it any more.
    pub fn go_on(&self) {
        self.set(State::Pulling);
    }

    pub(super) fn set(&self, state: State) {
        let changed = self.sender.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
        if changed {
            self.nudge.notify_one();
        }
    }
}

impl Book {
    pub(super) fn holds(&self, events: usize) {
        self.held.store(events, Ordering::Relaxed);
    }

    pub(super) fn probes(&self, at: Option<Instant>) {
        lock(&self.page).probe = at;
    }

    pub(super) fn failed(&self, event: &Event, failure: &Failure) {
        let cut = |text: &str| text.chars().take(MAX_CHARS).collect();
        lock(&self.page).last_error = Some(LastError {
            code: failure.code,
            message: cut(&String::from_utf8_lossy(&failure.body)),
            time: Timestamp::now(),
            event_id: cut(event.id()),
            event_source: cut(event.source()),
        });
    }
}

/// Nobody panics while holding one of these, and if so, what it holds is still as good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of day of a moment of the process's own clock.
fn at(moment: Instant) -> Timestamp {
    let wait = moment.saturating_duration_since(Instant::now());
    Timestamp::now()
        .checked_add(Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
        .unwrap_or(Timestamp::MAX)
}

//! How a subscription is doing, for readiness.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// What a subscription worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It pulls; nothing speaks against it.
    Pulling,
    /// It wants no further events for now, and why.
    Held(String),
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
}

impl Health {
    /// Every change notifies `nudge`, which many workers may share.
    pub fn new(nudge: Arc<Notify>) -> Self {
        Self { sender: watch::Sender::new(State::Pulling), nudge }
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

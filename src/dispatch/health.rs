//! How a subscription is doing, for readiness.

use tokio::sync::watch;

/// What a subscription worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It pulls; nothing speaks against it.
    Pulling,
    /// It cannot pull although it should, and why.
    Stalled(String),
    /// Its consumer or stream is gone and must be made again.
    Gone(String),
}

/// The state of one worker, shared with whoever looks.
#[derive(Debug, Clone)]
pub struct Health {
    sender: watch::Sender<State>,
}

impl Health {
    pub fn new() -> Self {
        Self { sender: watch::Sender::new(State::Pulling) }
    }

    pub fn watch(&self) -> watch::Receiver<State> {
        self.sender.subscribe()
    }

    pub(super) fn set(&self, state: State) {
        self.sender.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

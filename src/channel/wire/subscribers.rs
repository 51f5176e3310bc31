//! Who gets which messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;

use super::{Message, Wire};

/// Takes messages in. Called by the connection's own task, so it must not wait.
pub(in crate::channel) trait Subscriber: Send + Sync {
    fn receive(&self, message: Message);

    /// The connection was lost; what has not come will not come.
    fn lost(&self);

    /// The server has denied us to publish something, maybe something that an answer was expected to.
    fn denied(&self);
}

/// All subscriptions of a wire, by the number that the server gives with each message.
#[derive(Default)]
pub(super) struct Subscribers {
    last: u64,
    /// The numbers are our own, so no hash need be kept from anybody.
    by_sid: HashMap<u64, (String, Arc<dyn Subscriber>), FixedState>,
}

impl Subscribers {
    /// Gives the number of the subscription and the line that tells the server of it.
    pub(super) fn add(&mut self, subject: String, subscriber: Arc<dyn Subscriber>) -> (u64, String) {
        self.last += 1;
        let line = line(&subject, self.last);
        self.by_sid.insert(self.last, (subject, subscriber));
        (self.last, line)
    }

    pub(super) fn get(&self, sid: u64) -> Option<&dyn Subscriber> {
        self.by_sid.get(&sid).map(|(_, subscriber)| &**subscriber)
    }

    /// False when there is no such subscription any more.
    pub(super) fn remove(&mut self, sid: u64) -> bool {
        self.by_sid.remove(&sid).is_some()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &dyn Subscriber> {
        self.by_sid.values().map(|(_, subscriber)| &**subscriber)
    }

    /// The lines that tell a server of all.
    pub(super) fn lines(&self) -> String {
        let mut lines = String::new();
        for (sid, (subject, _)) in &self.by_sid {
            lines.push_str(&line(subject, *sid));
        }
        lines
    }
}

fn line(subject: &str, sid: u64) -> String {
    format!("SUB {subject} {sid}\r\n")
}

/// One subscription; ends when dropped.
pub(in crate::channel) struct Subscription {
    wire: Wire,
    sid: u64,
}

impl Subscription {
    pub(super) fn new(wire: Wire, sid: u64) -> Self {
        Self { wire, sid }
    }

    /// Ends it once everything is here that the server had sent before it knew, but no later than after `limit`.
    pub(in crate::channel) async fn drain(self, limit: Duration) {
        self.wire.say_unsubscribed(self.sid);
        self.wire.flush(limit).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.wire.unsubscribe(self.sid);
    }
}

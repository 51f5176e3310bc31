//! Who gets which messages.

use std::collections::{BTreeSet, HashMap};
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
    /// Those that the server does not know of, because it has said no to them.
    denied: BTreeSet<u64>,
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
        self.denied.remove(&sid);
        self.by_sid.remove(&sid).is_some()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &dyn Subscriber> {
        self.by_sid.values().map(|(_, subscriber)| &**subscriber)
    }

    /// The server has said no to those of a subject.
    pub(super) fn deny(&mut self, subject: &str) {
        let sids = self.by_sid.iter().filter(|(_, (known, _))| known == subject).map(|(sid, _)| *sid);
        self.denied.extend(sids);
    }

    pub(super) fn is_any_denied(&self) -> bool {
        !self.denied.is_empty()
    }

    /// The lines that tell the server of those once more to which it has said no.
    pub(super) fn denied_lines(&mut self) -> String {
        let denied = std::mem::take(&mut self.denied);
        denied.iter().filter_map(|sid| Some(line(&self.by_sid.get(sid)?.0, *sid))).collect()
    }

    /// The lines that tell a new server of all.
    pub(super) fn lines(&mut self) -> String {
        self.denied.clear();
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

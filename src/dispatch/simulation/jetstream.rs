//! A model of the part of JetStream that every event meets: one stream with one durable pull consumer, and streams that take
//! publishes. It keeps what nats-server keeps: pending deliveries with their times, a queue of redeliveries, delivery counts,
//! waiting pulls, the pin of a pinned consumer, and duplicate windows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How long a pinned client may be silent (the bridge's own consumers ask for the same).
const PIN_LASTS: Duration = Duration::from_secs(8);

/// A message of the stream that the consumer reads.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) headers: String,
    pub(super) payload: Vec<u8>,
}

/// A pull that waits.
#[derive(Debug, Clone)]
pub(super) struct Pull {
    pub(super) connection: usize,
    pub(super) reply: String,
    pub(super) left: u64,
    pub(super) expires: Instant,
    pub(super) heartbeat: Duration,
    pub(super) heard: Instant,
    /// Who the client says it is, when the consumer is pinned.
    pub(super) pin: Option<String>,
}

#[derive(Debug)]
struct Pending {
    due: Instant,
}

/// A delivery on its way to a client.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) pull: Pull,
    pub(super) sequence: u64,
    pub(super) count: u64,
    pub(super) consumer_sequence: u64,
    pub(super) pin: Option<String>,
}

/// Something that a waiting pull is told.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) pull: Pull,
    pub(super) status: &'static str,
}

/// The stream and its consumer.
#[derive(Debug)]
pub(super) struct JetStream {
    pub(super) messages: Vec<Stored>,
    pub(super) ack_wait: Duration,
    pub(super) max_ack_pending: usize,
    pub(super) pinned: bool,
    pulls: VecDeque<Pull>,
    /// The next message that was never delivered, from 1.
    next: u64,
    pub(super) deliveries: u64,
    pending: BTreeMap<u64, Pending>,
    again: VecDeque<u64>,
    counts: BTreeMap<u64, u64>,
    pin: Option<(String, Instant)>,
    pins: u64,
}

impl JetStream {
    pub(super) fn new(ack_wait: Duration, max_ack_pending: usize, pinned: bool) -> Self {
        Self {
            messages: Vec::new(),
            ack_wait,
            max_ack_pending,
            pinned,
            pulls: VecDeque::new(),
            next: 1,
            deliveries: 0,
            pending: BTreeMap::new(),
            again: VecDeque::new(),
            counts: BTreeMap::new(),
            pin: None,
            pins: 0,
        }
    }

    pub(super) fn store(&mut self, message: Stored) -> u64 {
        self.messages.push(message);
        self.messages.len() as u64
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pin.is_some()
    }

    pub(super) fn unpin(&mut self) {
        self.pin = None;
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn unseen(&self) -> u64 {
        self.messages.len() as u64 + 1 - self.next
    }

    /// The last sequence that was delivered, and the one up to which all is acknowledged.
    pub(super) fn places(&self) -> (u64, u64) {
        let floor = self.pending.keys().next().map_or(self.next - 1, |first| first - 1);
        (self.next - 1, floor)
    }

    /// Takes a pull in; false when its pin is not that of whom we have chosen.
    pub(super) fn pull(&mut self, pull: Pull, now: Instant) -> bool {
        let wanted = pull.pin.as_deref().unwrap_or_default();
        if self.pinned && !wanted.is_empty() {
            match &mut self.pin {
                Some((pin, until)) if pin == wanted => *until = now + PIN_LASTS,
                _ => return false,
            }
        }
        self.pulls.push_back(pull);
        true
    }

    /// The next message for a pull that waits, if there are both. `is_there` says whether somebody still listens.
    pub(super) fn next(&mut self, now: Instant, is_there: impl Fn(&Pull) -> bool) -> Option<Delivery> {
        self.pulls.retain(&is_there);
        while let Some(first) = self.again.front()
            && !self.pending.contains_key(first)
        {
            self.again.pop_front();
        }
        let is_new = self.again.is_empty();
        if is_new && (self.unseen() == 0 || self.pending.len() >= self.max_ack_pending) {
            return None;
        }
        let place = self.turn(now)?;
        let sequence = if is_new { self.next } else { self.again.pop_front()? };
        if is_new {
            self.next += 1;
        }
        self.deliveries += 1;
        let count = self.counts.entry(sequence).or_insert(0);
        *count += 1;
        self.pending.insert(sequence, Pending { due: now + self.ack_wait });
        let pull = &mut self.pulls[place];
        pull.left -= 1;
        pull.heard = now;
        let pull = pull.clone();
        if pull.left == 0 {
            self.pulls.remove(place);
        }
        let pin = self.pin.as_ref().map(|(pin, _)| pin.clone());
        Some(Delivery { pull, sequence, count: *count, consumer_sequence: self.deliveries, pin })
    }

    /// Whose turn it is.
    fn turn(&mut self, now: Instant) -> Option<usize> {
        if !self.pinned {
            return (!self.pulls.is_empty()).then_some(0);
        }
        if self.pin.is_none() {
            let place = self.pulls.iter().position(|pull| pull.pin.as_deref().unwrap_or_default().is_empty())?;
            self.pins += 1;
            let pin = format!("pin{}", self.pins);
            self.pulls[place].pin = Some(pin.clone());
            self.pin = Some((pin, now + PIN_LASTS));
            return Some(place);
        }
        let (pin, _) = self.pin.as_ref()?;
        self.pulls.iter().position(|pull| pull.pin.as_ref() == Some(pin))
    }

    /// Whether the message waits for an answer.
    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence)
    }

    /// Whether that delivery of a message is its last so far, and no other is due.
    pub(super) fn is_awaited(&self, sequence: u64, count: u64) -> bool {
        self.counts.get(&sequence) == Some(&count) && !self.again.contains(&sequence)
    }

    pub(super) fn acknowledge(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
        self.counts.remove(&sequence);
        self.again.retain(|again| *again != sequence);
    }

    pub(super) fn give_back(&mut self, sequence: u64, wait: Option<Duration>, now: Instant) {
        let Some(pending) = self.pending.get_mut(&sequence) else { return };
        match wait {
            Some(wait) => pending.due = now + wait,
            None if !self.again.contains(&sequence) => self.again.push_back(sequence),
            None => {}
        }
    }

    pub(super) fn in_progress(&mut self, sequence: u64, now: Instant) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.due = now + self.ack_wait;
        }
    }

    /// When something is due by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = |sequence: &u64| !self.again.contains(sequence);
        let pending = self.pending.iter().filter(|(sequence, _)| waiting(sequence)).map(|(_, pending)| pending.due);
        let pulls = self.pulls.iter().flat_map(|pull| [pull.expires, pull.heard + pull.heartbeat]);
        pending.chain(pulls).chain(self.pin.as_ref().map(|(_, until)| *until)).min()
    }

    /// Does what is due, and gives what pulls are told.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Word> {
        let mut words = Vec::new();
        if self.pin.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.pin = None;
        }
        for (sequence, pending) in &mut self.pending {
            if pending.due <= now && !self.again.contains(sequence) {
                self.again.push_back(*sequence);
                pending.due = now + self.ack_wait;
            }
        }
        self.pulls.retain_mut(|pull| {
            if pull.expires <= now {
                words.push(Word { pull: pull.clone(), status: "408 Request Timeout" });
                return false;
            }
            if pull.heard + pull.heartbeat <= now {
                pull.heard = now;
                words.push(Word { pull: pull.clone(), status: "100 Idle Heartbeat" });
            }
            true
        });
        words
    }

    /// Lets go of all pulls.
    pub(super) fn drop_pulls(&mut self, status: &'static str) -> Vec<Word> {
        self.pulls.drain(..).map(|pull| Word { pull, status }).collect()
    }
}

/// A stream that takes publishes, with its duplicate window.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What is left, by sequence: headers and payload, and when it came.
    pub(super) messages: BTreeMap<u64, (Vec<u8>, Vec<u8>, u64)>,
    pub(super) last: u64,
    ids: BTreeMap<String, (u64, u64)>,
}

impl Log {
    /// The sequence, and whether the message was there already.
    pub(super) fn store(&mut self, id: &str, headers: &[u8], payload: &[u8], now: u64, window: u64) -> (u64, bool) {
        if let Some((sequence, at)) = self.ids.get(id)
            && now - at < window
        {
            return (*sequence, true);
        }
        self.last += 1;
        self.ids.insert(id.to_owned(), (self.last, now));
        self.messages.insert(self.last, (headers.to_vec(), payload.to_vec(), now));
        (self.last, false)
    }
}

//! Streams that acknowledge nothing although JetStream answers for them: the disk of their server is full, say. Only those who
//! publish find out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A stream that acknowledges an event within so long after it has not acknowledged another is slow, and that is all.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it is believed after the last try: who is not ready may be sent no events, and would never know.
const BELIEVED: Duration = Duration::from_secs(15);

/// The streams that have left events without an acknowledgement, and have acknowledged none since.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Whether there is any. So a stream that is well costs a look at a flag for each event.
    any: AtomicBool,
    streams: Mutex<BTreeMap<String, Silence>>,
}

#[derive(Debug)]
struct Silence {
    first: Instant,
    last: Instant,
}

impl Unanswered {
    /// An event for this stream was not acknowledged in time.
    pub(super) fn add(&self, stream: &str) {
        let now = Instant::now();
        let mut streams = self.lock();
        streams.retain(|_, silence| now.duration_since(silence.last) < BELIEVED);
        streams
            .entry(stream.to_owned())
            .and_modify(|silence| silence.last = now)
            .or_insert(Silence { first: now, last: now });
        self.any.store(true, Ordering::Relaxed);
    }

    /// An event for this stream was acknowledged. True when it had been silent.
    pub(super) fn remove(&self, stream: &str) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut streams = self.lock();
        let was_silent = streams.remove(stream).is_some();
        self.any.store(!streams.is_empty(), Ordering::Relaxed);
        was_silent
    }

    /// Whether this stream is taken to acknowledge nothing.
    pub(super) fn contains(&self, stream: &str) -> bool {
        let is_silent = |silence: &Silence| silence.first.elapsed() >= PATIENCE && silence.last.elapsed() < BELIEVED;
        self.any.load(Ordering::Relaxed) && self.lock().get(stream).is_some_and(is_silent)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Silence>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if all that is noted had happened so much earlier.
    fn pass(unanswered: &Unanswered, time: Duration) {
        for silence in unanswered.lock().values_mut() {
            silence.first -= time;
            silence.last -= time;
        }
    }

    #[test]
    fn a_stream_is_silent_until_it_acknowledges_something_or_nobody_has_tried_for_long() {
        let unanswered = Unanswered::default();
        unanswered.add("S");
        assert!(!unanswered.contains("S"), "it may be slow");
        pass(&unanswered, PATIENCE);
        assert!(unanswered.contains("S") && !unanswered.contains("T"));
        assert!(unanswered.remove("S") && !unanswered.remove("S") && !unanswered.contains("S"));
        unanswered.add("S");
        pass(&unanswered, BELIEVED);
        assert!(!unanswered.contains("S"));
    }
}

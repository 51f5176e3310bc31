//! Senders as they should be: each sends its events one after the other, and one that is not taken it sends again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::http::{Event, event, post};
use super::{Bridge, Sink, eventually, until};

/// A sender waits for so long after each event, and after each refusal: the load is modest.
const PAUSE: Duration = Duration::from_millis(5);
/// What an answer may take beside the publish timeout, on a machine that does other things too.
const MARGIN: Duration = Duration::from_secs(3);
/// How soon everything must work again when a fault is over.
pub const RECOVERY: Duration = Duration::from_secs(10);

/// How events are sent.
pub struct Setup {
    url: String,
    round: String,
    senders: usize,
    shape: Arc<dyn Fn(Event) -> Event + Send + Sync>,
    bound: Duration,
}

/// Senders at work. Every answer must be 202, or 503 with `Retry-After`, and come in time; else the test fails at the end.
pub struct Load {
    progress: Arc<Progress>,
    senders: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    taken: AtomicUsize,
    refused: AtomicUsize,
    ids: Mutex<BTreeSet<String>>,
    /// When an event was taken last, and the longest time that none was.
    gap: Mutex<(Option<Instant>, Duration)>,
    slowest: Mutex<Duration>,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Sent {
    /// The events that were answered 202.
    pub ids: BTreeSet<String>,
    /// How often 503 was answered.
    pub refused: usize,
    /// The longest time in which no event was taken.
    pub outage: Duration,
    /// The answer that took longest.
    pub slowest: Duration,
}

impl Load {
    /// Begins to send to channel `default/foo` with one sender; the ids of its events begin with `round`. The bridge has a
    /// publish timeout of one second.
    pub fn start(bridge: &Bridge, round: &str) -> Self {
        Self::of(bridge, round).start()
    }

    pub fn of(bridge: &Bridge, round: &str) -> Setup {
        Setup {
            url: bridge.url("/default/foo"),
            round: round.to_owned(),
            senders: 1,
            shape: Arc::new(|event| event),
            bound: Duration::from_secs(1) + MARGIN,
        }
    }

    async fn more(&self, what: &str, counter: &AtomicUsize, count: usize) {
        let goal = counter.load(Ordering::Relaxed) + count;
        until(what, || async {
            assert!(!self.senders.iter().any(JoinHandle::is_finished), "a sender has given up");
            counter.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Waits until so many more events are taken.
    pub async fn more_taken(&self, count: usize) {
        self.more(&format!("{count} more events are taken"), &self.progress.taken, count).await;
    }

    /// Waits for so many more answers of 503.
    pub async fn more_refused(&self, count: usize) {
        self.more(&format!("{count} more answers of 503"), &self.progress.refused, count).await;
    }

    /// For when a fault has just ended: waits until so many more events are taken, and there is little time for it.
    pub async fn recovers(&self, count: usize) {
        let begun = Instant::now();
        self.more_taken(count).await;
        assert!(begun.elapsed() < RECOVERY, "took {:?}", begun.elapsed());
    }

    /// Ends when every event that was begun has been taken.
    pub async fn end(self) -> Sent {
        self.progress.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.unwrap();
        }
        let progress = &self.progress;
        Sent {
            ids: std::mem::take(&mut progress.ids.lock().unwrap()),
            refused: progress.refused.load(Ordering::Relaxed),
            outage: progress.gap.lock().unwrap().1,
            slowest: *progress.slowest.lock().unwrap(),
        }
    }
}

impl Setup {
    pub fn senders(self, senders: usize) -> Self {
        Self { senders, ..self }
    }

    /// Bytes of data of each event.
    pub fn size(self, size: usize) -> Self {
        self.shaped(move |event| event.data("text/plain", vec![b'x'; size]))
    }

    /// What else is to be done to each event.
    pub fn shaped(self, shape: impl Fn(Event) -> Event + Send + Sync + 'static) -> Self {
        Self { shape: Arc::new(shape), ..self }
    }

    pub fn start(self) -> Load {
        let progress = Arc::<Progress>::default();
        let setup = Arc::new(self);
        let senders = (0..setup.senders)
            .map(|sender| tokio::spawn(send(Arc::clone(&setup), sender, Arc::clone(&progress))))
            .collect();
        Load { progress, senders }
    }
}

async fn send(setup: Arc<Setup>, sender: usize, progress: Arc<Progress>) {
    for number in 0.. {
        if progress.stop.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("{}-{sender}-{number}", setup.round);
        let event = (setup.shape)(event(&id));
        eventually(&format!("event {id} is taken"), || post_once(&setup, &event, &progress)).await;
        progress.ids.lock().unwrap().insert(id);
        progress.taken.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Once; `None` when it is to be sent again.
async fn post_once(setup: &Setup, event: &Event, progress: &Progress) -> Option<()> {
    let asked = Instant::now();
    let answer = post(&setup.url).event(event).send().await;
    let took = asked.elapsed();
    assert!(took < setup.bound, "{:?} took {took:?}: {}", event.headers, answer.text());
    {
        let mut slowest = progress.slowest.lock().unwrap();
        *slowest = took.max(*slowest);
    }
    match answer.status() {
        202 => {
            let (last, longest) = &mut *progress.gap.lock().unwrap();
            *longest = last.map_or(Duration::ZERO, |last| last.elapsed()).max(*longest);
            *last = Some(Instant::now());
            Some(())
        }
        503 => {
            assert!(answer.header("retry-after").is_some(), "a 503 without Retry-After: {}", answer.text());
            progress.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            None
        }
        status => panic!("{status} {}", answer.text()),
    }
}

impl Sent {
    /// Takes in what another load sent.
    pub fn and(mut self, other: Self) -> Self {
        self.ids.extend(other.ids);
        self.refused += other.refused;
        self.outage = self.outage.max(other.outage);
        self.slowest = self.slowest.max(other.slowest);
        self
    }

    /// Waits until every event that was taken has come to a path of a sink.
    pub async fn all_delivered(&self, sink: &Sink, path: &str) {
        let missing = || async {
            let counts = sink.counts(path);
            self.ids.iter().filter(|id| !counts.contains_key(*id)).count()
        };
        until("every acknowledged event is delivered", || async { missing().await == 0 }).await;
    }

    /// Deliveries beyond the first of each event.
    pub fn duplicates(&self, sink: &Sink, path: &str) -> usize {
        let counts: BTreeMap<String, usize> = sink.counts(path);
        counts.iter().filter(|(id, _)| self.ids.contains(*id)).map(|(_, count)| count - 1).sum()
    }
}

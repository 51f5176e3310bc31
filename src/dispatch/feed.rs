//! Tells those who watch of deliveries. Demand-driven: while nobody watches, a delivery costs one look at a flag; while somebody
//! does, what cannot be told at once is left out and counted. No delivery ever waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::channel::watch::{Delivery, LEASE, Told, WATCH, Watch, Watched};
use crate::channel::{Call, Calls, Connection};

/// Deliveries on their way to those who watch, each with up to some 16 KiB.
const QUEUE: usize = 1024;
/// Those who may watch one bridge at a time: each costs a message for each delivery.
const MAX_WATCHERS: usize = 32;
/// Streams and subscriptions that one of them may name.
const MAX_WANTED: usize = 1000;

/// What the subscriptions of a bridge have in hand to tell of their deliveries. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    state: Arc<State>,
    queue: mpsc::Sender<Delivery>,
}

#[derive(Default)]
struct State {
    is_watched: AtomicBool,
    missed: AtomicU64,
}

impl Feed {
    /// The feed, and the work of telling, which ends when nobody holds the feed any more.
    pub fn new(connection: Connection) -> (Self, impl Future<Output = ()>) {
        let (queue, deliveries) = mpsc::channel(QUEUE);
        let state = Arc::<State>::default();
        let teller = Teller { connection, state: Arc::clone(&state), watchers: BTreeMap::new() };
        (Self { state, queue }, teller.run(deliveries))
    }

    pub(super) fn is_watched(&self) -> bool {
        // Relaxed: whoever begins to watch misses what happens in these nanoseconds anyway.
        self.state.is_watched.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, delivery: Delivery) {
        if self.queue.try_send(delivery).is_err() {
            self.state.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Keeps the list of those who watch, and tells them.
struct Teller {
    connection: Connection,
    state: Arc<State>,
    /// By where they are told.
    watchers: BTreeMap<String, (Watch, Instant)>,
}

impl Teller {
    async fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>) {
        // Refused only when the client is closed for good, and then nobody can be told anything.
        let Ok(mut calls) = self.connection.listen(WATCH, None).await else { return };
        loop {
            let first_end = self.watchers.values().map(|(_, until)| *until).min();
            tokio::select! {
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.tell(delivery).await,
                    None => return,
                },
                call = next(&mut calls) => self.answer(&call).await,
                () = sleep_until(first_end.unwrap_or_else(Instant::now)), if first_end.is_some() => {
                    self.watchers.retain(|_, (_, until)| *until > Instant::now());
                }
            }
            self.state.is_watched.store(!self.watchers.is_empty(), Ordering::Relaxed);
        }
    }

    async fn answer(&mut self, call: &Call) {
        let refused = self.take(&call.payload).err();
        if let Ok(answer) = serde_json::to_vec(&Watched { refused }) {
            call.answer(answer).await;
        }
    }

    /// Takes somebody onto the list, keeps them there for longer, or lets them go.
    fn take(&mut self, question: &[u8]) -> Result<(), String> {
        // What serde says would repeat what it was given.
        let watch: Watch = serde_json::from_slice(question).map_err(|_| "expected a JSON object with a token")?;
        let subject = watch.subject().ok_or("expected a token of at most 64 letters and digits")?;
        if watch.end {
            self.watchers.remove(&subject);
            return Ok(());
        }
        if watch.streams.len() + watch.subscriptions.len() > MAX_WANTED {
            return Err(format!("expected at most {MAX_WANTED} streams and subscriptions"));
        }
        if !self.watchers.contains_key(&subject) && self.watchers.len() >= MAX_WATCHERS {
            return Err(format!("{MAX_WATCHERS} watch already"));
        }
        self.watchers.insert(subject, (watch, Instant::now() + LEASE));
        Ok(())
    }

    async fn tell(&self, delivery: Delivery) {
        let wanting: Vec<&String> = self
            .watchers
            .iter()
            .filter(|(_, (watch, _))| watch.wants(&delivery.attempt))
            .map(|(subject, _)| subject)
            .collect();
        self.send(wanting.into_iter(), &Told::Delivery(Box::new(delivery))).await;
        let missed = self.state.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            self.send(self.watchers.keys(), &Told::Missed(missed)).await;
        }
    }

    async fn send(&self, subjects: impl Iterator<Item = &String>, told: &Told) {
        let Ok(payload) = serde_json::to_vec(told) else { return };
        for subject in subjects {
            self.connection.tell(subject, payload.clone()).await;
        }
    }
}

/// The next question; never, when the client is closed for good.
async fn next(calls: &mut Calls) -> Call {
    match calls.next().await {
        Some(call) => call,
        None => std::future::pending().await,
    }
}

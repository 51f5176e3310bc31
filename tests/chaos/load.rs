//! Senders as real sources are: they send again until they see a 202, to whichever bridge answers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::house::House;

/// Requests under way at once.
const SENDERS: u64 = 8;
/// A pause between two events of one sender, so that there is time for everything else on a small machine.
const PAUSE: Duration = Duration::from_millis(10);
/// Before an event is sent again.
const AGAIN: Duration = Duration::from_millis(100);
/// No answer may take longer; the publish timeout of the bridges is a second.
const LONGEST_ANSWER: Duration = Duration::from_secs(8);
/// How long an event may take to be taken, faults included.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of the load.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    /// Ids of the events that were answered with 202.
    pub acknowledged: BTreeSet<u64>,
    pub refused: u64,
    /// Requests without an answer: the bridge was killed under them.
    pub broken: u64,
    /// Answers that nobody may see.
    pub unexpected: Vec<String>,
    /// The longest time from the first refusal of an event to its 202.
    pub longest_refusal: Duration,
}

pub struct Load {
    shared: Arc<Shared>,
    senders: JoinSet<()>,
}

struct Shared {
    client: reqwest::Client,
    urls: [String; 2],
    next: AtomicU64,
    stop: AtomicBool,
    sent: Mutex<Sent>,
}

/// The answer to one request.
enum Answer {
    Taken,
    Refused,
    Broken,
}

impl Sent {
    /// All ids below `count` were acknowledged.
    pub fn all(count: u64) -> Self {
        Self { acknowledged: (0..count).collect(), ..Self::default() }
    }
}

impl Load {
    pub fn start(house: &House) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(LONGEST_ANSWER).build().unwrap();
        let urls = [0, 1].map(|which| house.bridges[which].url("/default/chaos"));
        let (next, stop, sent) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { client, urls, next, stop, sent });
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            senders.spawn(send_on(Arc::clone(&shared), number));
        }
        Self { shared, senders }
    }

    /// Waits until so many more events were taken.
    pub async fn more(&self, count: u64) {
        let taken = || self.shared.sent.lock().unwrap().acknowledged.len() as u64;
        let goal = taken() + count;
        crate::support::until("more events are taken", || async { taken() >= goal }).await;
    }

    /// Many connections at once, far more than the bridges take at a time. Every request is answered.
    pub async fn flood(&self, connections: usize, requests: usize) {
        let mut flood = JoinSet::new();
        for number in 0..connections {
            let shared = Arc::clone(&self.shared);
            flood.spawn(async move {
                for _ in 0..requests {
                    let id = shared.next.fetch_add(1, Ordering::Relaxed);
                    let answer = shared.send(id, number % 2).await;
                    assert!(!matches!(answer, Answer::Broken), "a request of the flood was not answered");
                }
            });
        }
        while let Some(ended) = flood.join_next().await {
            ended.unwrap();
        }
    }

    /// Lets the senders finish the events that they are at.
    pub async fn end(mut self) -> Sent {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.senders.join_next().await {
            ended.unwrap();
        }
        self.shared.sent.lock().unwrap().clone()
    }
}

async fn send_on(shared: Arc<Shared>, number: u64) {
    while !shared.stop.load(Ordering::Relaxed) {
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let (began, mut refused_at) = (Instant::now(), None);
        let mut which = number as usize;
        while !matches!(shared.send(id, which % 2).await, Answer::Taken) {
            refused_at.get_or_insert_with(Instant::now);
            assert!(began.elapsed() < PATIENCE, "event {id} is not taken");
            tokio::time::sleep(AGAIN).await;
            which += 1;
        }
        if let Some(refused_at) = refused_at {
            let mut sent = shared.sent.lock().unwrap();
            sent.longest_refusal = sent.longest_refusal.max(refused_at.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    async fn send(&self, id: u64, which: usize) -> Answer {
        let request = self.client.post(&self.urls[which]).body(id.to_string());
        let attributes = [("id", id.to_string().as_str()), ("source", "/chaos"), ("type", "t"), ("specversion", "1.0")]
            .map(|(name, value)| (format!("ce-{name}"), value.to_owned()));
        let request = attributes.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.header("content-type", "text/plain").send().await;
        let mut sent = self.sent.lock().unwrap();
        let Ok(answer) = answer else {
            sent.broken += 1;
            return Answer::Broken;
        };
        match answer.status().as_u16() {
            202 => {
                sent.acknowledged.insert(id);
                Answer::Taken
            }
            503 if answer.headers().contains_key("retry-after") => {
                sent.refused += 1;
                Answer::Refused
            }
            status => {
                sent.unexpected.push(format!("{id}: {status} {:?}", answer.headers()));
                Answer::Refused
            }
        }
    }
}

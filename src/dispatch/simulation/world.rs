//! All that is outside of the process: the NATS server with its streams, the sinks, what goes wrong with them, and the clock.
//! It outlives every process of a history.

mod server;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Sabotage;
use super::jetstream::{JetStream, Log, Stored};
use super::ledger::Ledger;
use super::process::{kept_at, letter_of};
use super::scenario::{Draft, Kind, Redrive, Scenario, What, When};
use crate::channel::kept::LetterId;
use crate::dispatch::Health;

/// Windows in which a stream takes a message once, in ms.
const LETTERS_WINDOW: u64 = 60 * 60 * 1000;
const CHANNEL_WINDOW: u64 = 2 * 60 * 1000;
/// When the virtual time began, in ms since the Unix epoch.
pub(super) const EPOCH: u64 = 1_800_000_000_000;

pub(super) struct World {
    state: Mutex<State>,
    /// Something may be due earlier than it was.
    pub(super) changed: Notify,
    /// Somebody has to look what is to be done with the process.
    pub(super) process: Notify,
}

pub(super) struct State {
    pub(super) scenario: Scenario,
    pub(super) sabotage: Sabotage,
    pub(super) rng: Rng,
    began: Instant,
    pub(super) ledger: Ledger,
    pub(super) jetstream: JetStream,
    pub(super) kept: Log,
    replies: Log,
    letters: Log,
    pub(super) connections: Vec<Connection>,
    /// Which process it is; what an earlier one still does is not seen.
    pub(super) process: u32,
    pub(super) demand: Option<Demand>,
    pub(super) health: Option<Health>,
    /// Workers so far.
    pub(super) workers: u32,
    pub(super) steps: u64,
    /// After so many moves the process is killed, whatever the scenario says.
    pub(super) crash_after: Option<u64>,
    down: u64,
    stalled: u64,
    leaderless: u64,
    loses_answers: u64,
    full: u64,
    loses_pub_acks: u64,
    pub(super) calm: bool,
    /// What was refused for good is taken now.
    pub(super) healed: bool,
}

/// What is to be done with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// It is gone, and another one comes after this (ms).
    Killed(u64),
    /// It is to end within this.
    Restart(u64),
}

/// One connection, as the server sees it.
pub(super) struct Connection {
    pub(super) alive: bool,
    pub(super) subscriptions: Vec<(u64, String)>,
    /// What is to be written to it.
    pub(super) out: Vec<u8>,
    pub(super) written: Arc<Notify>,
    pub(super) cut: Arc<Notify>,
}

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64, sabotage: Sabotage) -> Self {
        let jetstream = JetStream::new(scenario.ack_wait, scenario.max_ack_pending, scenario.is_by_key());
        let state = State {
            sabotage,
            rng: Rng::with_seed(seed ^ 0x5eed),
            began: Instant::now(),
            ledger: Ledger::new(scenario.clone()),
            jetstream,
            kept: Log::default(),
            replies: Log::default(),
            letters: Log::default(),
            connections: Vec::new(),
            process: 0,
            demand: None,
            health: None,
            workers: 0,
            steps: 0,
            crash_after: None,
            down: 0,
            stalled: 0,
            leaderless: 0,
            loses_answers: 0,
            full: 0,
            loses_pub_acks: 0,
            calm: false,
            healed: false,
            scenario: scenario.clone(),
        };
        Self { state: Mutex::new(state), changed: Notify::new(), process: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets time do its work, until the history ends.
    pub(super) async fn turn(&self) {
        let mut schedule: Vec<(u64, Happening)> = Vec::new();
        {
            let state = self.lock();
            schedule.extend(state.scenario.events.iter().map(|event| (event.at, Happening::Event(*event))));
            for fault in &state.scenario.faults {
                if let When::At(at) = fault.when {
                    schedule.push((at, Happening::Fault(fault.what)));
                }
            }
            schedule.push((state.scenario.calm_at, Happening::Calm));
        }
        schedule.sort_by_key(|(at, _)| *at);
        let mut schedule = schedule.into_iter().peekable();
        loop {
            let next = {
                let mut state = self.lock();
                let now = state.now();
                while let Some((_, happening)) = schedule.next_if(|(at, _)| *at <= now) {
                    match happening {
                        Happening::Event(draft) => state.store(draft),
                        Happening::Fault(what) => self.goes_wrong(&mut state, what),
                        Happening::Calm => {
                            state.calm = true;
                            state.ledger.at(now).note("calm", 0, 0);
                            self.process.notify_one();
                        }
                    }
                }
                state.advance();
                let scheduled = schedule.peek().map(|(at, _)| state.began + Duration::from_millis(*at));
                [scheduled, state.jetstream.due()].into_iter().flatten().min()
            };
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(far)) => {}
            }
        }
    }

    /// Something has happened that the history is counted by.
    pub(super) fn step(&self, state: &mut State) {
        state.steps += 1;
        let steps = state.steps;
        if state.crash_after.take_if(|after| *after <= steps).is_some() {
            self.goes_wrong(state, What::Crash(10));
        }
        if state.calm {
            return;
        }
        let due = |when: When| matches!(when, When::After(after) if after == steps);
        let now: Vec<What> =
            state.scenario.faults.iter().filter(|fault| due(fault.when)).map(|fault| fault.what).collect();
        for what in now {
            self.goes_wrong(state, what);
        }
    }

    fn goes_wrong(&self, state: &mut State, what: What) {
        let now = state.now();
        state.ledger.at(now).note("fault", fault_number(what), 0);
        match what {
            What::Cut => state.cut_all(),
            What::Down(lasts) => {
                state.down = now + lasts;
                state.cut_all();
            }
            What::Stall(lasts) => state.stalled = now + lasts,
            What::Leaderless(lasts) => state.leaderless = now + lasts,
            What::NewLeader => {
                let words = state.jetstream.drop_pulls("409 Leadership Change");
                state.say_all(words);
            }
            What::LosesAnswers(lasts) => state.loses_answers = now + lasts,
            What::Full(lasts) => state.full = now + lasts,
            What::LosesPubAcks(lasts) => state.loses_pub_acks = now + lasts,
            What::Crash(lasts) => {
                state.process += 1;
                state.cut_all();
                state.demand = Some(Demand::Killed(lasts));
                self.process.notify_one();
            }
            What::Restart(within) => {
                if state.demand.is_none() {
                    state.demand = Some(Demand::Restart(within));
                    self.process.notify_one();
                }
            }
        }
    }
}

enum Happening {
    Event(Draft),
    Fault(What),
    Calm,
}

fn fault_number(what: What) -> u64 {
    match what {
        What::Cut => 1,
        What::Down(_) => 2,
        What::Stall(_) => 3,
        What::Leaderless(_) => 4,
        What::NewLeader => 5,
        What::LosesAnswers(_) => 6,
        What::Full(_) => 7,
        What::LosesPubAcks(_) => 8,
        What::Crash(_) => 9,
        What::Restart(_) => 10,
    }
}

impl State {
    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    pub(super) fn ledger(&mut self) -> &mut Ledger {
        let now = self.now();
        self.ledger.at(now)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.rng.u64(..100) < percent
    }

    pub(super) fn is_down(&self) -> bool {
        self.now() < self.down
    }

    pub(super) fn is_leaderless(&self) -> bool {
        self.now() < self.leaderless
    }

    /// How long the server is not going to read or write, in ms.
    pub(super) fn stalled_for(&self) -> u64 {
        self.stalled.saturating_sub(self.now())
    }

    /// Whether all events are settled, and no more will come. What would go wrong later concerns none of them.
    pub(super) fn is_settled(&self) -> bool {
        self.jetstream.messages.len() == self.scenario.events.len() && self.ledger.all_settled()
    }

    fn store(&mut self, draft: Draft) {
        let sequence = self.jetstream.messages.len() as u64 + 1;
        let mut headers = "NATS/1.0\r\nce-specversion: 1.0\r\n".to_owned();
        if draft.kind != Kind::Poison {
            let kind = if draft.kind == Kind::Unwanted { "unwanted" } else { "wanted" };
            headers += &format!("ce-id: e{sequence}\r\nce-source: /simulation\r\nce-type: {kind}\r\n");
        }
        if let Some(key) = draft.key {
            headers += &format!("ce-partitionkey: k{key}\r\n");
        }
        headers += "ce-datacontenttype: text/plain\r\n\r\n";
        self.jetstream.store(Stored { headers, payload: b"data".to_vec() });
        self.ledger().stored(sequence, draft.key, draft.kind);
    }

    /// From now on kept dead letters are redriven, and all else is well.
    pub(super) fn begin_redrive(&mut self, redrive: Redrive) {
        self.calm = true;
        self.healed = redrive.healed;
        self.crash_after = redrive.crash_after.map(|moves| self.steps + moves);
        self.ledger().redriving();
    }

    /// The process has ended in good order.
    pub(super) fn leave(&mut self) {
        self.process += 1;
        self.cut_all();
    }

    /// The kept letters that are events.
    pub(super) fn letters_kept(&self) -> Vec<LetterId> {
        let events = self.kept.messages.iter().filter(|(_, (headers, ..))| letter_of(headers).is_some());
        events.map(|(sequence, (.., at))| LetterId { sequence: *sequence, kept_at: kept_at(*at) }).collect()
    }

    fn cut_all(&mut self) {
        for connection in self.connections.iter_mut().filter(|connection| connection.alive) {
            connection.alive = false;
            connection.cut.notify_one();
        }
    }
}

//! All that is outside of the process: the NATS server with its streams, the sinks, what goes wrong with them, and the clock.
//! It outlives every process of a history.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::jetstream::{JetStream, Log, Pull, Stored, Word};
use super::ledger::Ledger;
use super::process::{kept_at, letter_of};
use super::scenario::{Draft, Kind, Scenario, What, When};
use super::{CONSUMER, LETTER_SUBJECT, LETTERS, REPLIES, STREAM, SUBJECT, Sabotage};
use crate::channel::dead_letter;
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

    pub(super) fn steps_from_now(state: &mut State, steps: u64) {
        state.crash_after = Some(state.steps + steps);
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

    /// Does what is due, and hands out what can be.
    pub(super) fn advance(&mut self) {
        let words = self.jetstream.advance(Instant::now());
        self.say_all(words);
        self.hand_out();
    }

    fn say_all(&mut self, words: Vec<Word>) {
        for Word { pull, status } in words {
            self.say(&pull, status);
        }
    }

    fn say(&mut self, pull: &Pull, status: &str) {
        self.send(pull.connection, &pull.reply, &pull.reply, "", &format!("NATS/1.0 {status}\r\n\r\n"), b"");
    }

    fn hand_out(&mut self) {
        if self.is_leaderless() {
            return;
        }
        loop {
            let connections = &self.connections;
            let is_there = |pull: &Pull| connections[pull.connection].sid(&pull.reply).is_some();
            let Some(delivery) = self.jetstream.next(Instant::now(), is_there) else { return };
            let sequence = delivery.sequence;
            self.ledger().delivered(sequence, delivery.count);
            let reply = format!(
                "$JS.ACK.{STREAM}.{CONSUMER}.{}.{sequence}.{}.{}.0",
                delivery.count,
                delivery.consumer_sequence,
                EPOCH * 1_000_000
            );
            let stored = self.jetstream.messages[usize::try_from(sequence).unwrap() - 1].clone();
            let mut headers = stored.headers;
            if let Some(pin) = delivery.pin {
                headers.insert_str("NATS/1.0\r\n".len(), &format!("Nats-Pin-Id: {pin}\r\n"));
            }
            self.send(delivery.pull.connection, &delivery.pull.reply, SUBJECT, &reply, &headers, &stored.payload);
            if self.sabotage == Sabotage::AcksEarly && self.rng.u8(..4) == 0 {
                self.jetstream.acknowledge(sequence);
                self.ledger().acknowledged(sequence);
            }
        }
    }

    /// Sends a message to whoever is subscribed to `inbox`.
    fn send(&mut self, connection: usize, inbox: &str, subject: &str, reply: &str, headers: &str, payload: &[u8]) {
        let connection = &mut self.connections[connection];
        let Some(sid) = connection.sid(inbox) else { return };
        let total = headers.len() + payload.len();
        let line = match headers.is_empty() {
            true => format!("MSG {subject} {sid} {reply} {total}\r\n"),
            false => format!("HMSG {subject} {sid} {reply} {} {total}\r\n", headers.len()),
        };
        for part in [line.as_bytes(), headers.as_bytes(), payload, b"\r\n"] {
            connection.out.extend_from_slice(part);
        }
        connection.written.notify_one();
    }

    /// A client publishes.
    pub(super) fn published(&mut self, connection: usize, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        if let Some(rest) = subject.strip_prefix("$JS.ACK.") {
            self.answered(rest, &String::from_utf8_lossy(payload));
        } else if subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.") {
            self.pulled(connection, reply, payload);
        } else {
            self.appended(connection, subject, reply, headers, payload);
        }
        self.advance();
    }

    fn pulled(&mut self, connection: usize, reply: &str, request: &[u8]) {
        let request: Value = serde_json::from_slice(request).unwrap();
        let nanos = |name: &str| Duration::from_nanos(request[name].as_u64().unwrap());
        let (batch, now) = (request["batch"].as_u64().unwrap(), Instant::now());
        let held = self.health.as_ref().map_or(0, |health| health.standing().in_flight);
        self.ledger().pulled(batch, held);
        let pull = Pull {
            connection,
            reply: reply.to_owned(),
            left: batch,
            expires: now + nanos("expires"),
            heartbeat: nanos("idle_heartbeat"),
            heard: now,
            pin: request["id"].as_str().map(str::to_owned),
        };
        if self.is_leaderless() {
            self.say(&pull, "503");
        } else if !self.jetstream.pull(pull.clone(), now) {
            self.say(&pull, "423 Nats-Wrong-Pin-Id");
        }
    }

    /// A delivery is answered: `STREAM.CONSUMER.COUNT.SEQUENCE...`.
    fn answered(&mut self, place: &str, answer: &str) {
        let numbers: Vec<u64> = place.split('.').skip(2).map(|number| number.parse().unwrap()).collect();
        let (count, sequence) = (numbers[0], numbers[1]);
        let is_lost = self.is_leaderless() || (self.now() < self.loses_answers && self.chance(40));
        if is_lost || !self.jetstream.is_pending(sequence) {
            self.ledger().note("answer lost", sequence, 0);
            return;
        }
        let (now, in_time) = (Instant::now(), self.jetstream.is_awaited(sequence, count));
        match answer.split_once(' ').unwrap_or((answer, "")) {
            ("+ACK", _) => {
                self.jetstream.acknowledge(sequence);
                self.ledger().acknowledged(sequence);
            }
            ("+WPI", _) => {
                self.ledger().note("wpi", sequence, 0);
                self.jetstream.in_progress(sequence, now);
            }
            ("-NAK", "") => {
                self.jetstream.give_back(sequence, None, now);
                self.ledger().given_back(sequence, count, None, in_time);
            }
            ("-NAK", delay) => {
                let delay: Value = serde_json::from_str(delay).unwrap();
                let mut wait = Duration::from_nanos(delay["delay"].as_u64().unwrap());
                let millis = u64::try_from(wait.as_millis()).unwrap();
                self.ledger().given_back(sequence, count, Some(millis), in_time);
                if self.sabotage == Sabotage::HalvesWaits {
                    wait /= 2;
                }
                self.jetstream.give_back(sequence, Some(wait), now);
            }
            other => panic!("{other:?} answers a delivery"),
        }
    }

    /// Something is to be stored.
    fn appended(&mut self, connection: usize, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let text = String::from_utf8_lossy(headers).into_owned();
        let find = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let number = |id: &str| id[1..].parse::<u64>().unwrap();
        let sequence = match find("ce-id") {
            Some(id) => number(&id),
            None => find("Knats-Sequence").unwrap().parse().unwrap(),
        };
        let (now, id) = (self.now(), find("Nats-Msg-Id").unwrap());
        let (stream, window) = match subject {
            LETTER_SUBJECT => (dead_letter::STREAM, LETTERS_WINDOW),
            REPLIES => ("KN_REPLIES", CHANNEL_WINDOW),
            LETTERS => ("KN_LETTERS", CHANNEL_WINDOW),
            other => panic!("nobody expects anything on {other}"),
        };
        if subject == REPLIES {
            self.ledger().failed_elsewhere(sequence);
        }
        let refusal = if self.is_leaderless() {
            Some(("NATS/1.0 503\r\n\r\n", ""))
        } else if now < self.full {
            let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
            Some(("", full))
        } else {
            None
        };
        if let Some((headers, payload)) = refusal {
            if subject == LETTER_SUBJECT {
                self.ledger().keeping_failed(sequence);
            }
            return self.send(connection, reply, reply, "", headers, payload.as_bytes());
        }
        let log = match subject {
            LETTER_SUBJECT => &mut self.kept,
            REPLIES => &mut self.replies,
            _ => &mut self.letters,
        };
        let forgets = self.sabotage == Sabotage::ForgetsLetters && subject == LETTER_SUBJECT;
        let (at, duplicate) = match forgets {
            true => (1, false),
            false => log.store(&id, headers, payload, now, window),
        };
        let code = find("ce-knativeerrorcode").and_then(|code| code.parse().ok());
        match subject {
            _ if forgets => {}
            // One that was let go of since is not there.
            LETTER_SUBJECT if duplicate && !self.kept.messages.contains_key(&at) => {}
            _ if duplicate => self.ledger().is_safe("stored again", sequence),
            LETTER_SUBJECT => self.ledger().kept(sequence, code),
            REPLIES => self.ledger().is_safe("reply stored", sequence),
            _ => self.ledger().given_up("letter stored", sequence, code),
        }
        if now < self.loses_pub_acks && self.chance(60) {
            if subject == LETTER_SUBJECT {
                self.ledger().keeping_failed(sequence);
            }
            return;
        }
        let more = if duplicate { ",\"duplicate\":true" } else { "" };
        let answer = format!("{{\"stream\":\"{stream}\",\"seq\":{at}{more}}}");
        self.send(connection, reply, reply, "", "", answer.as_bytes());
    }
}

impl Connection {
    /// The number of the subscription that takes what is sent to `subject`, if the connection stands.
    fn sid(&self, subject: &str) -> Option<u64> {
        let takes = |pattern: &str| match pattern.strip_suffix(".*") {
            Some(prefix) => subject.rsplit_once('.').is_some_and(|(begin, _)| begin == prefix),
            None => pattern == subject,
        };
        let found = self.subscriptions.iter().find(|(_, pattern)| takes(pattern));
        found.filter(|_| self.alive).map(|(sid, _)| *sid)
    }
}

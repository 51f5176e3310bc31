//! What has happened to each event of a history, and the promises that hold whatever happens. Times are ms of virtual time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::scenario::{Kind, Scenario};
use crate::dispatch::slots::MAX_HELD;
use crate::resource::{BackoffPolicy, Breaker, Ordering};

/// The wait of an event whose dead letter could not be kept.
const NOT_KEPT: u64 = 2_000;
/// The breaker's numbers; times in ms. What an attempt has learnt reaches it when the event is given back or kept.
const CLOSES_AFTER: u32 = 5;
const PROBES_EVERY: u64 = 1_000;
const LEARNS_WITHIN: u64 = 60;

/// Who asks a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Subscriber,
    Reply,
    DeadLetter,
}

/// The failure of an attempt, as whoever made it knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) retry_after: Option<u64>,
    /// Nobody was there, or only somebody who said so.
    pub(super) unreachable: bool,
}

/// One event.
#[derive(Debug, Default)]
pub(super) struct Fate {
    key: Option<u8>,
    unwanted: bool,
    poison: bool,
    deliveries: u64,
    requests: u64,
    /// The workers that have a request of it under way.
    open: Vec<u32>,
    /// What became of it outlives us.
    durable: bool,
    acknowledged: bool,
    /// Its sink has said yes, and was heard.
    heard: bool,
    failure: Option<Failure>,
    retries: u64,
    /// How many requests there were when it was given back last.
    given_back_after: u64,
    /// No retry may begin before.
    not_before: Option<u64>,
    /// Copies in the stream of dead letters.
    copies: u64,
    keeping_failed: bool,
    /// What became of it since it is redriven outlives us.
    redriven: bool,
    redrive_requests: u64,
}

/// What the breaker must know: failures in a row that reached nobody, when the last of those came that close the way, and when
/// an event was let through last that had not been tried.
#[derive(Debug, Default)]
struct Silence {
    in_a_row: u32,
    since: u64,
    probed: u64,
}

/// The history so far.
pub(super) struct Ledger {
    scenario: Scenario,
    fates: BTreeMap<u64, Fate>,
    trace: Vec<(u64, &'static str, u64, u64)>,
    pub(super) violations: Vec<String>,
    /// Letters are redriven from here on.
    redriving: bool,
    silence: Silence,
    /// The most that were held when a pull was asked for.
    pub(super) most_held: u64,
    now: u64,
}

impl Ledger {
    pub(super) fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            fates: BTreeMap::new(),
            trace: Vec::new(),
            violations: Vec::new(),
            redriving: false,
            silence: Silence::default(),
            most_held: 0,
            now: 0,
        }
    }

    /// It is that late now.
    pub(super) fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }

    pub(super) fn note(&mut self, what: &'static str, sequence: u64, detail: u64) {
        self.trace.push((self.now, what, sequence, detail));
    }

    fn violated(&mut self, promise: &str, text: &str) {
        self.violations.push(format!("{promise}: {text} (at {} ms)", self.now));
    }

    /// The same for the same history, and hardly for another.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.trace.hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn last_lines(&self, count: usize) -> String {
        let lines = self.trace.iter().skip(self.trace.len().saturating_sub(count));
        lines.map(|(at, what, sequence, detail)| format!("{at:>8} {what} {sequence} {detail}\n")).collect()
    }

    fn fate(&mut self, sequence: u64) -> &mut Fate {
        self.fates.entry(sequence).or_default()
    }

    pub(super) fn stored(&mut self, sequence: u64, key: Option<u8>, kind: Kind) {
        let filtered = self.scenario.filtered;
        let fate = self.fate(sequence);
        fate.key = key;
        fate.poison = kind == Kind::Poison;
        fate.unwanted = filtered && kind == Kind::Unwanted;
        self.note("stored", sequence, 0);
    }

    pub(super) fn delivered(&mut self, sequence: u64, count: u64) {
        self.fate(sequence).deliveries += 1;
        self.note("delivered", sequence, count);
    }

    /// A pull asks for so many while so many are held.
    pub(super) fn pulled(&mut self, batch: u64, held: u64) {
        self.note("pull", batch, held);
        self.most_held = self.most_held.max(held + batch);
        let bound = u64::try_from(MAX_HELD).unwrap();
        // A pinned consumer is asked for one more now and then, and gives no more than may be pending.
        if held + batch > bound + u64::from(self.scenario.is_by_key()) {
            self.violated("bounded memory", &format!("{batch} events asked for while {held} are held"));
        }
    }

    /// A worker begins a request to a sink, for these events.
    pub(super) fn asks(&mut self, role: Role, sequences: &[u64], worker: u32, first: bool) {
        for sequence in sequences {
            self.note("ask", *sequence, role as u64);
            if !first {
                continue;
            }
            self.fate(*sequence).requests += 1;
            if !self.redriving {
                self.check_order(*sequence, worker);
                self.check_attempt(*sequence);
                self.check_breaker(*sequence);
            } else {
                self.check_redrive(*sequence);
            }
            self.fate(*sequence).open.push(worker);
        }
        let open: usize = if self.is_batched() {
            0
        } else {
            self.fates.values().map(|fate| fate.open.iter().filter(|one| **one == worker).count()).sum()
        };
        let limit = self.slots();
        if open > limit {
            self.violated("bounded concurrency", &format!("{open} requests under way, and {limit} may be"));
        }
    }

    fn is_batched(&self) -> bool {
        self.scenario.controls.batch.is_some()
    }

    fn slots(&self) -> usize {
        match (&self.scenario.controls.ordering, self.scenario.controls.max_in_flight) {
            (Ordering::Strict, _) => 1,
            (_, Some(limit)) => limit.get() as usize,
            (_, None) => 256,
        }
    }

    fn check_order(&mut self, sequence: u64, worker: u32) {
        let fate = &self.fates[&sequence];
        let strict = self.scenario.controls.ordering == Ordering::Strict;
        let by_key = self.scenario.is_by_key();
        let key = fate.key;
        if fate.open.contains(&worker) {
            self.violated("one request at a time", &format!("event {sequence} is sent twice at once by one worker"));
        }
        if self.fates[&sequence].unwanted || self.fates[&sequence].poison {
            self.violated("filter", &format!("event {sequence} is sent although nobody wants it"));
        }
        let is_ordered = strict || (by_key && key.is_some());
        if !is_ordered {
            return;
        }
        let mut before = self.fates.range(..sequence).filter(|(_, fate)| strict || fate.key == key);
        let waits = |fate: &Fate| !fate.durable && !fate.unwanted && !fate.poison;
        if let Some((other, _)) = before.rfind(|(_, fate)| waits(fate)) {
            let text = format!("event {sequence} is sent before {other} is settled");
            self.violated(if strict { "strict order" } else { "order by key" }, &text);
        }
        let beside = self.fates.iter().filter(|(other, fate)| **other != sequence && (strict || fate.key == key));
        if beside.into_iter().any(|(_, fate)| fate.open.contains(&worker)) {
            self.violated("order", &format!("event {sequence} is sent beside another of its key"));
        }
    }

    fn check_attempt(&mut self, sequence: u64) {
        let (now, clean) = (self.now, self.scenario.is_clean());
        let most = u64::from(self.scenario.delivery.retry) + 1;
        let fate = self.fate(sequence);
        let not_before = fate.not_before.take().unwrap_or(0);
        let (requests, deliveries, heard) = (fate.requests, fate.deliveries, fate.heard);
        if now < not_before {
            self.violated("wait before retry", &format!("event {sequence} was to come at {not_before} ms"));
        }
        if requests > deliveries {
            self.violated("attempts", &format!("event {sequence}: {requests} requests of {deliveries} deliveries"));
        }
        let keeping_failed = self.fates[&sequence].keeping_failed;
        if clean && requests > most && !keeping_failed {
            self.violated("attempts", &format!("event {sequence}: attempt {requests} of {most}"));
        }
        if clean && heard && !self.scenario.of_broker {
            self.violated("no needless repetition", &format!("event {sequence} was taken, and is sent again"));
        }
    }

    /// After five failures in a row that reached nobody, further events are let through one by one, a second apart at least. Told
    /// of where nothing else delays what the breaker learns.
    fn check_breaker(&mut self, sequence: u64) {
        let (scenario, now) = (&self.scenario, self.now);
        let nowhere = super::scenario::Way::None;
        let is_plain = scenario.is_clean() && scenario.reply == nowhere && scenario.dead_letter_sink == nowhere;
        let is_on = scenario.controls.breaker != Breaker::Off && scenario.controls.batch.is_none();
        let (is_fresh, since) = (self.fates[&sequence].requests == 1, self.silence.since.max(self.silence.probed));
        if !is_fresh || !is_plain || !is_on || self.silence.in_a_row < CLOSES_AFTER {
            return;
        }
        self.silence.probed = now;
        if (since + LEARNS_WITHIN..since + PROBES_EVERY).contains(&now) {
            self.violated("breaker", &format!("event {sequence} is sent although nobody is there since {since} ms"));
        }
    }

    fn check_redrive(&mut self, sequence: u64) {
        let most = u64::from(self.scenario.delivery.retry) + 1;
        let crashes = self.scenario.redrive.is_some_and(|redrive| redrive.crash_after.is_some());
        let fate = self.fate(sequence);
        fate.redrive_requests += 1;
        let requests = fate.redrive_requests;
        if requests > most && !crashes && self.scenario.is_clean() {
            self.violated("attempts", &format!("event {sequence}: attempt {requests} of {most} when redriven"));
        }
    }

    /// A request of a worker has ended, answered or not. `failure` is what the worker makes of it.
    pub(super) fn ended(&mut self, sequences: &[u64], worker: u32, first: bool, failure: Option<Failure>) {
        self.silence.in_a_row =
            if failure.is_some_and(|failure| failure.unreachable) { self.silence.in_a_row + 1 } else { 0 };
        if self.silence.in_a_row == CLOSES_AFTER {
            (self.silence.since, self.silence.probed) = (self.now, 0);
        }
        for sequence in sequences {
            let fate = self.fate(*sequence);
            if first {
                if let Some(at) = fate.open.iter().position(|open| *open == worker) {
                    fate.open.remove(at);
                }
                fate.heard |= failure.is_none();
            }
            fate.failure = failure;
            self.note("ended", *sequence, failure.map_or(0, |failure| failure.code.into()));
        }
    }

    /// The last failure is not one that a sink knows of.
    pub(super) fn failed_elsewhere(&mut self, sequence: u64) {
        self.fate(sequence).failure = None;
    }

    /// A sink has it, and nothing is left to be done.
    pub(super) fn is_safe(&mut self, what: &'static str, sequence: u64) {
        let redriving = self.redriving;
        let fate = self.fate(sequence);
        fate.durable = true;
        fate.redriven |= redriving;
        self.note(what, sequence, 0);
    }

    /// A dead letter is taken or kept that tells of this failure.
    pub(super) fn given_up(&mut self, what: &'static str, sequence: u64, code: Option<u16>) {
        self.is_safe(what, sequence);
        let most = u64::from(self.scenario.delivery.retry) + 1;
        let fate = &self.fates[&sequence];
        let Some(failure) = fate.failure.filter(|_| !fate.poison) else { return };
        if code != Some(failure.code) {
            self.violated("dead letters tell", &format!("event {sequence}: {code:?}, expected {}", failure.code));
        }
        let deliveries = self.fates[&sequence].deliveries;
        if is_retryable(failure.code)
            && !self.redriving
            && deliveries < most
            && self.scenario.reply == super::scenario::Way::None
        {
            let text = format!("event {sequence} is given up after {deliveries} of {most} attempts");
            self.violated("all attempts", &text);
        }
    }

    pub(super) fn kept(&mut self, sequence: u64, code: Option<u16>) {
        self.fate(sequence).copies += 1;
        self.given_up("kept", sequence, code);
    }

    pub(super) fn keeping_failed(&mut self, sequence: u64) {
        self.fate(sequence).keeping_failed = true;
        self.note("not kept", sequence, 0);
    }

    pub(super) fn copy_deleted(&mut self, sequence: u64) {
        let fate = self.fate(sequence);
        fate.copies -= 1;
        let safe = fate.redriven;
        self.note("copy deleted", sequence, 0);
        if !safe {
            self.violated(
                "no early delete",
                &format!("the kept copy of event {sequence} goes before its outcome is safe"),
            );
        }
    }

    pub(super) fn acknowledged(&mut self, sequence: u64) {
        let fate = self.fate(sequence);
        let early = !fate.durable && !fate.unwanted;
        fate.acknowledged = true;
        fate.not_before = None;
        self.note("ack", sequence, 0);
        if early {
            self.violated("no early ack", &format!("event {sequence} is acknowledged, and nobody has it"));
        }
    }

    /// An event is given back, to come again after a while (ms) or at once; `delivery` is the one that is answered. `in_time`
    /// when it has not come again already, or is about to.
    pub(super) fn given_back(&mut self, sequence: u64, delivery: u64, wait: Option<u64>, in_time: bool) {
        self.note("nak", sequence, wait.unwrap_or(0));
        let (by_key, clean, now) = (self.scenario.is_by_key(), self.scenario.is_clean(), self.now);
        let fate = self.fate(sequence);
        let Some(wait) = wait else {
            if fate.not_before.take().is_some_and(|due| now < due) && !by_key {
                self.violated("wait before retry", &format!("event {sequence} waits, and is asked for at once"));
            }
            return;
        };
        let (failure, retries) = (fate.failure, fate.retries);
        fate.not_before = in_time.then_some(now + wait);
        if !in_time && !clean {
            // The word for an attempt that others have followed since.
            return;
        }
        let fate = &self.fates[&sequence];
        if wait == NOT_KEPT && (fate.keeping_failed || fate.poison || !self.scenario.is_clean()) {
            return;
        }
        let fate = self.fate(sequence);
        if fate.given_back_after == fate.requests {
            // It has come twice for one attempt, and both deliveries are answered alike.
            return;
        }
        fate.given_back_after = fate.requests;
        fate.retries += 1;
        let most = u64::from(self.scenario.delivery.retry);
        if retries >= most || (clean && !by_key && delivery > most) {
            self.violated(
                "attempts",
                &format!("event {sequence}: retry {} after delivery {delivery}, of {most}", retries + 1),
            );
        }
        let Some(failure) = failure else { return };
        if !is_retryable(failure.code) {
            self.violated("attempts", &format!("event {sequence} is retried after {}", failure.code));
        }
        let (least, longest) = if clean && !by_key { (delivery, delivery) } else { (retries + 1, delivery) };
        let (least, longest) = (self.policy(least, failure), self.policy(longest, failure));
        if wait < least || wait > longest + longest / 10 + 1 {
            let text = format!("event {sequence} waits {wait} ms, expected {least} to {longest} and a tenth");
            self.violated("wait before retry", &text);
        }
    }

    /// The wait before that retry, in ms, without chance.
    fn policy(&self, retry: u64, failure: Failure) -> u64 {
        let delivery = &self.scenario.delivery;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
        let factor = match delivery.backoff_policy {
            BackoffPolicy::Linear => retry,
            BackoffPolicy::Exponential => 1 << (retry - 1).min(30),
        };
        let backoff = (millis(delivery.backoff_delay) * factor).min(millis(delivery.backoff_max));
        let counts = matches!(failure.code, 429 | 503);
        let asked = failure.retry_after.filter(|_| counts).unwrap_or(0);
        backoff.max(asked.min(delivery.retry_after_max.map_or(0, millis)))
    }

    pub(super) fn redriving(&mut self) {
        self.redriving = true;
        for fate in self.fates.values_mut() {
            fate.redriven = false;
        }
    }

    /// Whether every event that was stored is acknowledged.
    pub(super) fn all_settled(&self) -> bool {
        self.fates.values().all(|fate| fate.acknowledged)
    }

    /// What must be true when all is calm again and nothing moves.
    pub(super) fn close(&mut self) {
        let left: Vec<u64> = self.fates.iter().filter(|(_, fate)| !fate.acknowledged).map(|(one, _)| *one).collect();
        if !left.is_empty() {
            self.violated("nothing left", &format!("events {left:?} are pending although all is calm"));
        }
        let lost = |fate: &Fate| !fate.durable && !fate.unwanted;
        let lost: Vec<u64> = self.fates.iter().filter(|(_, fate)| lost(fate)).map(|(one, _)| *one).collect();
        if !lost.is_empty() {
            self.violated("no loss", &format!("nobody has events {lost:?}"));
        }
        let many: Vec<u64> = self.fates.iter().filter(|(_, fate)| fate.copies > 1).map(|(one, _)| *one).collect();
        let crashes = self.scenario.redrive.is_some_and(|redrive| redrive.crash_after.is_some());
        let may_be_many = self.redriving && (crashes || !self.scenario.is_clean());
        if !many.is_empty() && !may_be_many {
            self.violated("one copy", &format!("events {many:?} are kept more than once"));
        }
    }
}

pub(super) fn is_retryable(code: u16) -> bool {
    matches!(code, 404 | 408 | 409 | 429 | 500..)
}

//! The events that a subscription holds: which ones wait for which, how much room is left, and what came of each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Context;
use super::attempt::{self, Report, Work};
use super::batch::{self, Gathering};
use super::breaker::Breaker;
use super::lanes::{Entry, Lanes};
use super::returning::Returning;
use super::slots::{MAX_HELD, MAX_IN_FLIGHT};
use crate::channel::{Poison, Stored, Ticket, Unsettled};
use crate::filter::{Filter, Verdict};
use crate::resource::Ordering;

/// A pinned consumer takes a bridge that does not ask for gone. So it asks for one more from time to time although there is
/// no slot; what comes waits.
const KEEP_PIN: Duration = Duration::from_secs(2);

/// The desk of one subscription.
pub(super) struct Desk {
    context: Context,
    slots: Arc<Semaphore>,
    /// Tasks of their own, and not futures that the worker polls: those would stand still whenever the worker itself waits for
    /// the NATS client, and keep the places in its queue that it waits for.
    at_work: JoinSet<Vec<Report>>,
    /// The tickets of the events that are held, by their sequence in the stream, and when JetStream last heard of them.
    held: HashMap<u64, (Ticket, Instant)>,
    lanes: Option<Lanes<Work>>,
    gathering: Option<Gathering>,
    breaker: Breaker,
    returning: Returning,
    /// Events that had been asked for when the breaker closed the way. Nothing is spent on them while they wait.
    waiting: VecDeque<Stored>,
    /// While we take over from another bridge: what has come so far, in order, and nothing of it started.
    take_over: Option<TakeOver>,
    asked_at: Instant,
    /// The last stream sequence that reached us.
    received_to: u64,
}

#[derive(Default)]
struct TakeOver {
    /// Messages up to this sequence are waited for.
    last: u64,
    missing: u64,
    come: BTreeMap<u64, Stored>,
}

impl Desk {
    pub(super) fn new(context: Context) -> Self {
        let plan = &context.plan;
        let controls = &plan.controls;
        let slots = match (&controls.ordering, controls.max_in_flight) {
            (Ordering::Strict, _) => 1,
            (_, Some(limit)) => usize::try_from(limit.get()).unwrap_or(MAX_IN_FLIGHT),
            (_, None) => MAX_IN_FLIGHT,
        };
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            at_work: JoinSet::new(),
            held: HashMap::new(),
            lanes: matches!(controls.ordering, Ordering::Key(_)).then(Lanes::new),
            gathering: controls.batch.map(Gathering::new),
            breaker: Breaker::new(plan.has_breaker()),
            returning: Returning::default(),
            waiting: VecDeque::new(),
            take_over: None,
            asked_at: Instant::now(),
            received_to: 0,
            context,
        }
    }

    /// The last sequence of the stream that has come.
    pub(super) fn received_to(&self) -> u64 {
        self.received_to
    }

    pub(super) fn is_closed(&self) -> bool {
        self.breaker.is_open()
    }

    pub(super) fn holds(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
    }

    /// Starts nothing until all that is unsettled is here, and then in the order of the stream.
    pub(super) fn take_over(&mut self, unsettled: Unsettled) {
        let held = self.held.keys().filter(|sequence| **sequence <= unsettled.last).count();
        let missing = unsettled.count.saturating_sub(u64::try_from(held).unwrap_or(u64::MAX));
        if missing > 1 {
            tracing::info!(subscription = %self.context.plan.subscription, events = missing, "taking over from another bridge");
        }
        self.take_over = (missing > 0).then(|| TakeOver { last: unsettled.last, missing, ..TakeOver::default() });
    }

    /// No more of what is unsettled will come.
    pub(super) fn all_have_come(&mut self) {
        for stored in self.take_over.take().unwrap_or_default().come.into_values() {
            self.enter(stored);
        }
    }

    /// Lets an event wait while the way is closed. One that comes for another attempt is under way already.
    fn wait_or_enter(&mut self, stored: Stored) {
        let is_new = stored.ticket.place().delivered == 1;
        if self.breaker.is_open() && is_new && !self.may_probe(Instant::now()) {
            self.waiting.push_back(stored);
        } else {
            self.enter(stored);
        }
    }

    /// Counts a message of a take-over; keeps it until all have come.
    fn arrive(&mut self, sequence: u64, stored: Option<Stored>) {
        let Some(take_over) = &mut self.take_over else {
            return stored.into_iter().for_each(|stored| self.wait_or_enter(stored));
        };
        take_over.come.extend(stored.map(|stored| (sequence, stored)));
        if sequence <= take_over.last {
            take_over.missing = take_over.missing.saturating_sub(1);
        }
        if take_over.missing == 0 {
            self.all_have_come();
        }
    }

    /// Events whose way is not at its end.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.at_work.is_empty()
    }

    /// How many messages to ask for now.
    pub(super) fn room(&self) -> usize {
        let now = Instant::now();
        let keep_pin = self.context.plan.consumer.pinned && now.duration_since(self.asked_at) >= KEEP_PIN;
        self.wanted(now).max(usize::from(keep_pin))
    }

    fn wanted(&self, now: Instant) -> usize {
        let left = MAX_HELD.saturating_sub(self.held.len());
        if self.take_over.is_some() {
            return left;
        }
        if self.breaker.is_open() || left == 0 {
            return self.returning.due(now).max(usize::from(self.may_probe(now) && self.waiting.is_empty()));
        }
        let slots = self.slots.available_permits();
        let room = match &self.gathering {
            Some(gathering) => slots.saturating_mul(gathering.size()).saturating_sub(gathering.len()),
            None => slots,
        };
        room.min(left)
    }

    /// Notes that what was due has been asked for.
    pub(super) fn asked(&mut self) {
        let now = Instant::now();
        self.asked_at = now;
        self.returning.asked(now);
        if self.breaker.is_open() {
            self.breaker.probed(now);
        }
    }

    /// When there is something to do although nothing happens.
    pub(super) fn waking(&self) -> Option<Instant> {
        let closed = self.breaker.is_open() || self.held.len() >= MAX_HELD;
        let probe = closed.then(|| self.returning.next().or(self.breaker.next_probe())).flatten();
        let batch = self.gathering.as_ref().and_then(Gathering::due);
        let keep_pin = self.context.plan.consumer.pinned.then(|| self.asked_at + KEEP_PIN);
        let later = |due: &Instant| *due > Instant::now();
        [probe.filter(later), batch, keep_pin.filter(later)].into_iter().flatten().min()
    }

    /// Whether nothing is under way that would tell of the sink, and it is time to let one more event through.
    fn may_probe(&self, now: Instant) -> bool {
        let idle = self.held.len() == self.waiting.len() && self.returning.is_empty();
        idle && self.breaker.next_probe().is_some_and(|due| due <= now)
    }

    /// Does what is due.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        if self.may_probe(now)
            && let Some(stored) = self.waiting.pop_front()
        {
            self.breaker.probed(now);
            self.enter(stored);
        }
        if let Some(gathering) = &mut self.gathering
            && gathering.due().is_some_and(|due| due <= now)
        {
            let works = gathering.take();
            self.start_batch(works);
        }
    }

    /// Takes an event in, or acknowledges it when nobody wants it.
    pub(super) async fn take(&mut self, stored: Stored) {
        let sequence = stored.ticket.place().stream_sequence;
        if !self.wants(&stored) {
            stored.ticket.acknowledge().await;
            self.arrive(sequence, None);
        } else if self.hold(&stored.ticket).await {
            self.arrive(sequence, Some(stored));
        }
    }

    /// Takes a message that is no event.
    pub(super) async fn take_poison(&mut self, poison: Poison) {
        if self.hold(&poison.ticket).await {
            self.arrive(poison.message.sequence, None);
            let lost = vec![Report::lost(poison.message.sequence, None)];
            self.spawn(attempt::set_aside(Arc::clone(&self.context), poison).map(|report| vec![report]), lost);
        }
    }

    /// Goes on with the events at work until some have come to their end; `None` when there are none. Can be dropped at any
    /// time.
    pub(super) async fn work(&mut self) -> Option<Vec<Report>> {
        loop {
            if let Ok(reports) = self.at_work.join_next().await? {
                return Some(reports);
            }
        }
    }

    /// Puts something to work. Should it panic, its events are let go, and JetStream delivers them again after the ack wait.
    fn spawn(&mut self, work: impl Future<Output = Vec<Report>> + Send + 'static, lost: Vec<Report>) {
        self.at_work.spawn(async move {
            AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a delivery failed in the bridge itself; its events come again");
                lost
            })
        });
    }

    fn wants(&self, stored: &Stored) -> bool {
        let verdict = self.context.plan.filter.as_ref().map(|filter: &Filter| filter.evaluate(&stored.event));
        if verdict == Some(Verdict::Error)
            && let Some(count) = self.context.tallies.filter_errors.add()
        {
            tracing::warn!(
                subscription = %self.context.plan.subscription, id = stored.event.id(), source = stored.event.source(),
                count, "the filter cannot be evaluated on events, so they do not match"
            );
        }
        matches!(verdict, None | Some(Verdict::Match))
    }

    /// Holds an event. False when it is held already: then its ack wait ran out on the way, the delivery at hand is the same
    /// event again, and one attempt is enough.
    async fn hold(&mut self, ticket: &Ticket) -> bool {
        let sequence = ticket.place().stream_sequence;
        self.received_to = self.received_to.max(sequence);
        self.returning.returned(sequence);
        let now = Instant::now();
        if let Some((known, since)) = self.held.get_mut(&sequence) {
            ticket.in_progress().await;
            *known = ticket.clone();
            *since = now;
            return false;
        }
        self.held.insert(sequence, (ticket.clone(), now));
        true
    }

    /// Sends an event on its way: now, after those of its key, or with others.
    fn enter(&mut self, stored: Stored) {
        let sequence = stored.ticket.place().stream_sequence;
        let key = match &self.context.plan.controls.ordering {
            Ordering::Key(attribute) => stored.event.attribute(attribute).map(str::to_owned),
            Ordering::None | Ordering::Strict => None,
        };
        let work = Work::new(stored, key.clone());
        if let (Some(lanes), Some(key)) = (&mut self.lanes, &key) {
            match lanes.enter(key, sequence, work) {
                Entry::Start(work) => self.start(work),
                Entry::Queued => {}
            }
        } else if let Some(gathering) = &mut self.gathering {
            if let Some(works) = gathering.add(work, Instant::now()) {
                self.start_batch(works);
            }
        } else {
            self.start(work);
        }
    }

    fn start(&mut self, work: Work) {
        let lost = vec![work.lost()];
        let run = attempt::run(Arc::clone(&self.context), work, Arc::clone(&self.slots));
        self.spawn(run.map(|report| vec![report]), lost);
    }

    fn start_batch(&mut self, works: Vec<Work>) {
        if !works.is_empty() {
            let lost = works.iter().map(Work::lost).collect();
            self.spawn(batch::run(Arc::clone(&self.context), works, Arc::clone(&self.slots)), lost);
        }
    }

    /// Takes in what became of events. True when the way has been closed or opened by it.
    pub(super) fn done(&mut self, reports: Vec<Report>) -> bool {
        let now = Instant::now();
        let was_open = self.breaker.is_open();
        for report in reports {
            self.held.remove(&report.sequence);
            self.breaker.learn(report.contact, now);
            match (report.returns_in, &report.lane, &mut self.lanes) {
                (Some(wait), _, _) => self.returning.add(report.sequence, now + wait),
                (None, Some(lane), Some(lanes)) => {
                    if let Some(next) = lanes.leave(lane) {
                        self.start(next);
                    }
                }
                _ => {}
            }
        }
        if !self.breaker.is_open() {
            for stored in std::mem::take(&mut self.waiting) {
                self.enter(stored);
            }
        }
        was_open != self.breaker.is_open()
    }

    /// When to call [`Desk::sign_work`].
    pub(super) fn signs_of_work(&self) -> Interval {
        // Twice within a third of the ack wait, so that one lost sign does no harm.
        let every = (self.context.plan.consumer.ack_wait / 6).max(Duration::from_millis(50));
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Tells JetStream of the events that are held for longer than a third of the ack wait.
    pub(super) async fn sign_work(&mut self) {
        if !self.context.shared.pulls.is_connected() {
            return;
        }
        let old = self.context.plan.consumer.ack_wait / 3;
        let now = Instant::now();
        for (ticket, since) in self.held.values_mut() {
            if now.duration_since(*since) >= old {
                ticket.in_progress().await;
                *since = now;
            }
        }
    }

    /// Starts on what still gathers.
    pub(super) fn hurry(&mut self) {
        if let Some(gathering) = &mut self.gathering {
            let works = gathering.take();
            self.start_batch(works);
        }
    }

    /// Leaves all work where it is, and gives the events back to JetStream.
    pub(super) async fn clear(&mut self) {
        self.at_work.shutdown().await;
        for (ticket, _) in self.held.values() {
            ticket.give_back().await;
        }
    }
}

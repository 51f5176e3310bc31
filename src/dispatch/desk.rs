//! The events that a subscription holds: which ones wait for which, how much room is left, and what came of each.

mod take_over;

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use foldhash::fast::FixedState;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use smallvec::smallvec;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Context;
use super::attempt::{self, Report, Together, Work};
use super::batch::{self, Gathering};
use super::breaker::{Breaker, Contact};
use super::health::lock;
use super::lanes::{Entry, Lanes};
use super::returning::Returning;
use super::slots::{MAX_HELD, MAX_IN_FLIGHT, Slots};
use crate::channel::{Poison, Stored, Ticket};
use crate::fault_point::{Point, at};
use crate::filter::{Filter, Verdict};
use crate::resource::Ordering;
use crate::sink::Sink;
use take_over::TakeOver;

/// A pinned consumer takes a bridge that does not ask for gone. So it asks for one more from time to time although there is
/// no slot; what comes waits.
const KEEP_PIN: Duration = Duration::from_secs(2);

/// JetStream may be so late with what is due, before it counts as gone.
const LATE: Duration = Duration::from_secs(1);

/// A retry that is due sooner than this may be here again before its attempt is known to have ended.
const AT_ONCE: Duration = Duration::from_millis(50);

/// By sequence in the stream: JetStream's numbers, so no hash need be kept from anybody.
type BySequence<T> = std::collections::HashMap<u64, T, FixedState>;

/// The desk of one subscription.
pub(super) struct Desk {
    context: Context,
    slots: Slots,
    /// Tasks of their own, and not futures that the worker polls: those would stand still whenever the worker itself waits.
    at_work: JoinSet<Together<Report>>,
    /// The events that are held, by their sequence in the stream.
    held: BySequence<Held>,
    /// Events at work that have come again meanwhile.
    again: BySequence<Box<Stored>>,
    /// Deliveries of an event that led to no attempt, for those that we have let go of.
    unspent: BySequence<u64>,
    /// What waits for its turn among the requests under way: single events, or batches where those are gathered.
    ready: VecDeque<Together<Work>>,
    /// Events that wait, unspent, until their sink can be reached.
    parked: VecDeque<Work>,
    lanes: Option<Lanes<Work>>,
    /// Heads of lanes that are to come again: when they must be here at the latest, and their key.
    awaited: BTreeMap<u64, (Instant, String)>,
    gathering: Option<Gathering>,
    breaker: Breaker,
    /// While we take over from another bridge: what has come so far, in order, and nothing of it started.
    take_over: Option<TakeOver>,
    asked_at: Instant,
}

/// An event that is held.
struct Held {
    ticket: Ticket,
    /// When JetStream last heard of it.
    since: Instant,
    /// Whether it is at work; else it waits for something.
    started: bool,
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
        // A channel takes one event at a time.
        let batches = matches!(plan.subscriber.as_ref().or(plan.reply.as_ref()), Some(Sink::Http(_)));
        context.meter.concurrency_limit.set(slots as u64);
        Self {
            slots: Slots::new(slots, &plan.consumer.stream, &context.shared.budget),
            at_work: JoinSet::new(),
            held: BySequence::default(),
            again: BySequence::default(),
            unspent: BySequence::default(),
            ready: VecDeque::new(),
            parked: VecDeque::new(),
            lanes: matches!(controls.ordering, Ordering::Key(_)).then(Lanes::new),
            awaited: BTreeMap::new(),
            gathering: controls.batch.filter(|_| batches).map(Gathering::new),
            breaker: Breaker::new(plan.has_breaker()),
            take_over: None,
            asked_at: Instant::now(),
            context,
        }
    }

    /// What bounds the requests that are under way at once.
    pub(super) fn slots(&self) -> Slots {
        self.slots.clone()
    }

    /// Whether its subscriber takes batches.
    pub(super) fn gathers(&self) -> bool {
        self.gathering.is_some()
    }

    /// Shared with whoever asks how the subscription is doing.
    fn returning(&self) -> MutexGuard<'_, Returning> {
        lock(&self.context.book.returning)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.breaker.is_open()
    }

    pub(super) fn holds(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
    }

    /// Whether the event is here and has been begun.
    pub(super) fn is_at_work(&self, sequence: u64) -> bool {
        self.held.get(&sequence).is_some_and(|held| held.started)
    }

    /// Events whose way is not at its end.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.at_work.is_empty()
    }

    /// Whether something waits for its turn among the requests under way.
    pub(super) fn has_waiting(&self) -> bool {
        !self.ready.is_empty()
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
            let probe = self.held.is_empty() && self.breaker.is_due(now);
            return self.returning().due(now).max(usize::from(probe));
        }
        let slots = self.slots.room(self.ready.len());
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
        let mut returning = self.returning();
        returning.asked(now);
        self.context.meter.retry_scheduled.set(returning.len() as u64);
    }

    /// When there is something to do although nothing happens.
    pub(super) fn waking(&self) -> Option<Instant> {
        let later = |due: &Instant| *due > Instant::now();
        let closed = self.breaker.is_open() || self.held.len() >= MAX_HELD;
        let returning = closed.then(|| self.returning().next()).flatten();
        let probe = self.breaker.next_probe();
        let parked = probe.filter(|_| !self.parked.is_empty() && self.at_work.is_empty());
        let batch = self.gathering.as_ref().and_then(Gathering::due);
        let keep_pin = self.context.plan.consumer.pinned.then(|| self.asked_at + KEEP_PIN);
        let others = [returning, probe, keep_pin].map(|due| due.filter(later));
        others.into_iter().chain([parked, batch]).flatten().min()
    }

    /// Does what is due.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        if let Some(gathering) = &mut self.gathering
            && gathering.due().is_some_and(|due| due <= now)
        {
            let works = gathering.take();
            self.start(works);
        }
        if self.at_work.is_empty()
            && self.breaker.is_due(now)
            && let Some(probe) = self.parked.pop_front()
        {
            self.start(smallvec![probe]);
        }
    }

    /// Takes an event in, or acknowledges it when nobody wants it.
    pub(super) async fn take(&mut self, stored: Box<Stored>) {
        let sequence = stored.ticket.place().stream_sequence;
        if !self.wants(&stored) {
            self.context.meter.filtered.add(1);
            // The worker itself is here, and must not wait for a connection.
            at(Point::RefusedSettled, stored.ticket.decline()).await;
            self.arrive(sequence, None);
        } else if self.hold(&stored.ticket).await {
            self.arrive(sequence, Some(stored));
        } else {
            self.again.insert(sequence, stored);
        }
    }

    /// Takes a message that is no event.
    pub(super) async fn take_poison(&mut self, poison: Poison) {
        if self.hold(&poison.ticket).await {
            self.arrive(poison.message.sequence, None);
            self.mark_started(poison.message.sequence);
            let lost = smallvec![Report::lost(poison.message.sequence, None)];
            self.spawn(attempt::set_aside(Arc::clone(&self.context), poison).map(|report| smallvec![report]), lost);
        }
    }

    /// Goes on with the events at work until some have come to their end; `None` when there are none. Can be dropped at any
    /// time.
    pub(super) async fn work(&mut self) -> Option<Together<Report>> {
        loop {
            if let Ok(reports) = self.at_work.join_next().await? {
                return Some(reports);
            }
        }
    }

    /// What has come to its end already; `None` when there is nothing of it.
    pub(super) fn ready(&mut self) -> Option<Together<Report>> {
        loop {
            if let Ok(reports) = self.at_work.try_join_next()? {
                return Some(reports);
            }
        }
    }

    /// Puts something to work. Should it panic, its events are let go, and JetStream delivers them again after the ack wait.
    fn spawn(&mut self, work: impl Future<Output = Together<Report>> + Send + 'static, lost: Together<Report>) {
        let context = Arc::clone(&self.context);
        // Boxed, and no async block, which would have room for the work twice: a task is copied about as it is.
        let work: BoxFuture<'static, Together<Report>> = Box::pin(work);
        self.at_work.spawn(AssertUnwindSafe(work).catch_unwind().map(move |reports| {
            reports.unwrap_or_else(|_| {
                if let Some(count) = context.meter.panics.add() {
                    tracing::error!(
                        subscription = %context.plan.subscription, count,
                        "deliveries failed in the bridge itself; their events come again"
                    );
                }
                lost
            })
        }));
    }

    fn wants(&self, stored: &Stored) -> bool {
        let verdict = self.context.plan.filter.as_ref().map(|filter: &Filter| filter.evaluate(&stored.event));
        if verdict == Some(Verdict::Error)
            && let Some(count) = self.context.meter.filter_errors.add()
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
        self.returning().returned(sequence);
        self.awaited.remove(&sequence);
        let now = Instant::now();
        if let Some(held) = self.held.get_mut(&sequence) {
            ticket.in_progress().await;
            held.ticket = ticket.clone();
            held.since = now;
            return false;
        }
        self.held.insert(sequence, Held { ticket: ticket.clone(), since: now, started: false });
        self.context.book.holds(self.held.len());
        true
    }

    fn mark_started(&mut self, sequence: u64) {
        if let Some(held) = self.held.get_mut(&sequence) {
            held.started = true;
        }
    }

    /// Sends an event on its way: now, after those of its key, or with others.
    fn enter(&mut self, stored: Box<Stored>) {
        let sequence = stored.ticket.place().stream_sequence;
        let key = match &self.context.plan.controls.ordering {
            Ordering::Key(attribute) => stored.event.attribute(attribute).map(str::to_owned),
            Ordering::None | Ordering::Strict => None,
        };
        if stored.ticket.place().delivered == 1 {
            // A replay counts deliveries anew.
            self.unspent.remove(&sequence);
        }
        let unspent = self.unspent.get(&sequence).copied().unwrap_or(0);
        let work = Work::new(stored, key.clone(), unspent);
        if let (Some(lanes), Some(key)) = (&mut self.lanes, &key) {
            match lanes.enter(key, sequence, work) {
                Entry::Start(work) => self.start(smallvec![work]),
                Entry::Queued => {}
            }
        } else {
            self.gather(work);
        }
    }

    fn gather(&mut self, work: Work) {
        match &mut self.gathering {
            Some(gathering) => {
                if let Some(works) = gathering.add(work, Instant::now()) {
                    self.start(works);
                }
            }
            None => self.start(smallvec![work]),
        }
    }

    /// Puts events to work when it is their turn, together where they go in batches.
    fn start(&mut self, works: Together<Work>) {
        if !works.is_empty() {
            self.ready.push_back(works);
            self.take_turns();
        }
    }

    /// Puts to work what waits for its turn, when that has come.
    pub(super) fn take_turns(&mut self) {
        while self.slots.has_turn()
            && let Some(works) = self.ready.pop_front()
        {
            let works = self.park(works);
            if works.is_empty() {
                continue;
            }
            for work in &works {
                self.mark_started(work.sequence());
            }
            let lost = works.iter().map(Work::lost).collect();
            let (context, claim) = (Arc::clone(&self.context), self.slots.claim());
            if self.gathering.is_some() {
                self.spawn(batch::run(context, works, claim), lost);
            } else if let Some(work) = works.into_iter().next() {
                self.spawn(attempt::run(context, work, claim).map(|report| smallvec![report]), lost);
            }
        }
    }

    /// While the way is closed, keeps back what was never tried, but for one probe now and then; gives what may go.
    fn park(&mut self, works: Together<Work>) -> Together<Work> {
        if !self.breaker.is_open() {
            return works;
        }
        let now = Instant::now();
        let (mut under_way, fresh): (Together<Work>, Together<Work>) =
            works.into_iter().partition(|work| work.attempt() > 1);
        let mut fresh = fresh.into_iter();
        if under_way.is_empty() && self.at_work.is_empty() && self.breaker.is_due(now) {
            under_way.extend(fresh.next());
        }
        self.parked.extend(fresh);
        if !under_way.is_empty() {
            self.breaker.probed(now);
            self.context.book.probes(self.breaker.next_probe());
        }
        under_way
    }

    /// Takes in what became of the events of one request. True when the way has been closed or opened by it.
    pub(super) fn done(&mut self, reports: Together<Report>) -> bool {
        let now = Instant::now();
        let was_open = self.breaker.is_open();
        // One request has learnt one thing about the sink, however many events it had.
        let contact = reports.iter().map(|report| report.contact).find(|contact| *contact != Contact::None);
        if self.breaker.learn(contact.unwrap_or(Contact::None), now) {
            self.context.book.probes(self.breaker.next_probe());
        }
        for report in reports {
            self.end(report, now);
        }
        if was_open && !self.breaker.is_open() {
            for work in std::mem::take(&mut self.parked) {
                self.gather(work);
            }
        }
        self.take_turns();
        let meter = &self.context.meter;
        meter.retry_scheduled.set(self.returning().len() as u64);
        meter.breaker.set(u64::from(self.breaker.is_open()));
        was_open != self.breaker.is_open()
    }

    fn end(&mut self, report: Report, now: Instant) {
        if let (Some(held), None) = (self.held.remove(&report.sequence), report.returns_in()) {
            self.context.trail.settled(held.ticket.place());
        }
        let again = self.again.remove(&report.sequence);
        match (report.returns_in(), again) {
            (Some(wait), Some(stored)) if wait < AT_ONCE => {
                let held = Held { ticket: stored.ticket.clone(), since: now, started: false };
                self.held.insert(report.sequence, held);
                self.enter(stored);
            }
            (Some(wait), again) => {
                self.returning().add(report.sequence, now + wait);
                if let Some(lane) = report.lane {
                    // Even if the word that gives it back is lost, JetStream delivers it after the ack wait.
                    let due = now + wait.max(self.context.plan.consumer.ack_wait) + LATE;
                    self.awaited.insert(report.sequence, (due, lane));
                }
                if let Some(stored) = again {
                    // A replay counts deliveries anew: the answer to one from before may be none to this one.
                    self.at_work.spawn(async move {
                        stored.ticket.retry_after(wait).await;
                        Together::new()
                    });
                }
            }
            (None, _) => {
                self.unspent.remove(&report.sequence);
                let next = report.lane.and_then(|lane| self.lanes.as_mut()?.leave(&lane));
                self.start(next.into_iter().collect());
            }
        }
        self.context.book.holds(self.held.len());
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
        for held in self.held.values_mut() {
            // What could not be told is told next time.
            if now.duration_since(held.since) >= old && held.ticket.in_progress().await {
                held.since = now;
            }
        }
    }

    /// Starts on what still gathers.
    pub(super) fn hurry(&mut self) {
        if let Some(gathering) = &mut self.gathering {
            let works = gathering.take();
            self.start(works);
        }
    }

    /// Leaves all work where it is, and gives the events back to JetStream.
    pub(super) async fn clear(&mut self) {
        self.at_work.shutdown().await;
        for held in self.held.values() {
            at(Point::DrainGivenBack, held.ticket.give_back()).await;
        }
    }
}

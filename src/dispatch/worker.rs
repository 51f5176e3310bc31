//! The loop of one subscription: keeps its pull alive, its events at work, and JetStream told that they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Report, Work};
use super::batch::{self, Gathering};
use super::breaker::Breaker;
use super::health::{Health, State};
use super::lanes::{Entry, Lanes};
use super::pace::Pace;
use super::returning::Returning;
use super::slots::{MAX_HELD, MAX_IN_FLIGHT};
use super::{Context, Plan, Shared};
use crate::channel::connect::Link;
use crate::channel::{PullError, Pulled, Puller, Search, Stored, Ticket};
use crate::filter::{Filter, Verdict};
use crate::resource::Ordering;

/// The first and the longest wait before a broken pull is built anew.
const REBUILD_MIN: Duration = Duration::from_millis(50);
const REBUILD_MAX: Duration = Duration::from_secs(5);
/// What is given back at the end must leave within this.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Runs one subscription until it is stopped.
pub struct Worker {
    context: Context,
    health: Health,
    slots: Arc<Semaphore>,
    at_work: FuturesUnordered<BoxFuture<'static, Vec<Report>>>,
    /// The tickets of the events that are held, by their sequence in the stream.
    held: HashMap<u64, (Ticket, Instant)>,
    lanes: Option<Lanes<Work>>,
    gathering: Option<Gathering>,
    breaker: Breaker,
    returning: Returning,
    pace: Pace,
    search: Search,
    /// The last stream sequence that reached us.
    received_to: u64,
    losses: (u64, u64),
}

/// Why one pull came to its end.
enum End {
    Stop,
    Broken(PullError),
    /// The connection fell. The pull may live on, or be lost with what it had.
    Lost,
}

impl Worker {
    pub fn new(plan: Plan, shared: Shared, health: Health) -> Self {
        let losses = (shared.pulls.link().borrow().losses, shared.control.link().borrow().losses);
        let controls = &plan.controls;
        let slots = match (&controls.ordering, controls.max_in_flight) {
            (Ordering::Strict, _) => 1,
            (_, Some(limit)) => usize::try_from(limit.get()).unwrap_or(MAX_IN_FLIGHT),
            (_, None) => MAX_IN_FLIGHT,
        };
        Self {
            health,
            slots: Arc::new(Semaphore::new(slots)),
            at_work: FuturesUnordered::new(),
            held: HashMap::new(),
            lanes: matches!(controls.ordering, Ordering::Key(_)).then(Lanes::new),
            gathering: controls.batch.map(Gathering::new),
            breaker: Breaker::new(plan.has_breaker()),
            returning: Returning::default(),
            pace: Pace::new(controls.rate),
            search: Search::default(),
            received_to: 0,
            losses,
            context: Arc::new((plan, shared)),
        }
    }

    /// Works until `stop`, then lets the events at work finish until `deadline` is cancelled; what is not finished then goes
    /// back to JetStream.
    pub async fn run(mut self, stop: CancellationToken, deadline: CancellationToken) {
        let mut patience = REBUILD_MIN;
        while self.connected(&stop).await {
            let end = match Puller::start(&self.context.1.pulls, self.context.0.consumer.clone()).await {
                Ok(mut puller) => {
                    let end = self.pull(&mut puller, &stop, &mut patience).await;
                    for pulled in puller.stop().await {
                        self.accept(pulled).await;
                    }
                    end
                }
                Err(error) => End::Broken(error),
            };
            match end {
                End::Stop => break,
                End::Lost => self.recover().await,
                End::Broken(error) => {
                    self.report(&error);
                    self.wait(patience, &stop).await;
                    patience = (patience * 2).min(REBUILD_MAX);
                }
            }
        }
        self.finish(deadline).await;
    }

    /// Waits until there is a connection to pull over. False when there is to be no more pulling.
    async fn connected(&mut self, stop: &CancellationToken) -> bool {
        let mut link = self.context.1.pulls.link();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                Some(reports) = self.at_work.next() => {
                    self.done(reports);
                }
                standing = link.wait_for(|link| link.connected) => return standing.is_ok(),
            }
        }
    }

    /// One pull after the other over one inbox, until something ends it.
    async fn pull(&mut self, puller: &mut Puller, stop: &CancellationToken, patience: &mut Duration) -> End {
        let mut link = self.context.1.pulls.link();
        let mut signs_of_work = self.signs_of_work();
        loop {
            let room = if puller.is_asking() { 0 } else { self.room() };
            let waking = self.waking();
            tokio::select! {
                () = stop.cancelled() => return End::Stop,
                Some(reports) = self.at_work.next() => {
                    if self.done(reports) {
                        // The way is closed: what was asked for is not wanted any more.
                        match puller.withdraw().await {
                            Ok(left) => self.accept_all(left).await,
                            Err(error) => return End::Broken(error),
                        }
                    }
                }
                pulled = puller.next() => match pulled {
                    Ok(pulled) => {
                        *patience = REBUILD_MIN;
                        let stall = self.accept(pulled).await;
                        self.tell(stall);
                    }
                    Err(error) => return End::Broken(error),
                },
                granted = self.pace.grant(room), if room > 0 => {
                    self.asked();
                    if let Err(error) = puller.ask(granted).await {
                        return End::Broken(error);
                    }
                }
                () = sleep_until(waking.unwrap_or_else(Instant::now)), if waking.is_some() => self.wake(),
                _ = signs_of_work.tick() => self.sign_work().await,
                () = lost(&mut link, self.losses.0) => return End::Lost,
            }
        }
    }

    /// How many messages to ask for now.
    fn room(&self) -> usize {
        let now = Instant::now();
        let left = MAX_HELD.saturating_sub(self.held.len());
        if self.breaker.is_open() || left == 0 {
            let idle = self.held.is_empty() && self.returning.is_empty();
            let probe = idle && self.breaker.next_probe().is_some_and(|due| due <= now);
            return self.returning.due(now).max(usize::from(probe));
        }
        let slots = self.slots.available_permits();
        let room = match &self.gathering {
            Some(gathering) => slots.saturating_mul(gathering.size()).saturating_sub(gathering.len()),
            None => slots,
        };
        room.min(left)
    }

    /// Notes that what was due has been asked for.
    fn asked(&mut self) {
        let now = Instant::now();
        self.returning.asked(now);
        if self.breaker.is_open() {
            self.breaker.probed(now);
        }
    }

    /// When there is something to do although nothing happens.
    fn waking(&self) -> Option<Instant> {
        let closed = self.breaker.is_open() || self.held.len() >= MAX_HELD;
        let probe = closed.then(|| self.returning.next().or(self.breaker.next_probe())).flatten();
        let batch = self.gathering.as_ref().and_then(Gathering::due);
        [probe.filter(|due| *due > Instant::now()), batch].into_iter().flatten().min()
    }

    fn wake(&mut self) {
        let now = Instant::now();
        if let Some(gathering) = &mut self.gathering
            && gathering.due().is_some_and(|due| due <= now)
        {
            let works = gathering.take();
            self.start_batch(works);
        }
    }

    async fn accept_all(&mut self, pulled: Vec<Pulled>) {
        for pulled in pulled {
            self.accept(pulled).await;
        }
    }

    /// Starts on what a pull brought. Some text when the consumer has messages and yet brings none.
    async fn accept(&mut self, pulled: Pulled) -> Option<String> {
        match pulled {
            Pulled::Event(stored) => {
                if !self.wants(&stored) {
                    stored.ticket.acknowledge().await;
                } else if self.hold(&stored.ticket).await {
                    self.enter(*stored);
                }
                None
            }
            Pulled::Poison(poison) => {
                if self.hold(&poison.ticket).await {
                    let work = attempt::set_aside(Arc::clone(&self.context), *poison);
                    self.at_work.push(work.map(|report| vec![report]).boxed());
                }
                None
            }
            Pulled::Alive => None,
            Pulled::Idle => {
                let (plan, shared) = &*self.context;
                plan.consumer.waiting_in_vain(&shared.api).await
            }
        }
    }

    fn wants(&self, stored: &Stored) -> bool {
        let verdict = self.context.0.filter.as_ref().map(|filter: &Filter| filter.evaluate(&stored.event));
        if verdict == Some(Verdict::Error) {
            tracing::debug!(
                subscription = %self.context.0.subscription, id = stored.event.id(), source = stored.event.source(),
                "the filter cannot be evaluated on this event, so it does not match"
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
        let key = match &self.context.0.controls.ordering {
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
        let run = attempt::run(Arc::clone(&self.context), work, Arc::clone(&self.slots));
        self.at_work.push(run.map(|report| vec![report]).boxed());
    }

    fn start_batch(&mut self, works: Vec<Work>) {
        if !works.is_empty() {
            self.at_work.push(batch::run(Arc::clone(&self.context), works, Arc::clone(&self.slots)).boxed());
        }
    }

    /// Takes in what became of events. True when the breaker has just closed the way.
    fn done(&mut self, reports: Vec<Report>) -> bool {
        let now = Instant::now();
        let was_open = self.breaker.is_open();
        for report in reports {
            self.held.remove(&report.sequence);
            if self.breaker.learn(report.contact, now) {
                self.tell(None);
            }
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
        !was_open && self.breaker.is_open()
    }

    fn tell(&self, stall: Option<String>) {
        self.health.set(match stall {
            Some(stall) => State::Stalled(stall),
            None if self.breaker.is_open() => {
                State::Held("its sink cannot be reached; further events wait in JetStream until it answers".to_owned())
            }
            None => State::Pulling,
        });
    }

    fn signs_of_work(&self) -> tokio::time::Interval {
        // Twice within a third of the ack wait, so that one lost sign does no harm.
        let every = (self.context.0.consumer.ack_wait / 6).max(Duration::from_millis(50));
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Tells JetStream of the events that are held for longer than a third of the ack wait.
    async fn sign_work(&mut self) {
        if !self.context.1.pulls.is_connected() {
            return;
        }
        let old = self.context.0.consumer.ack_wait / 3;
        let now = Instant::now();
        for (ticket, since) in self.held.values_mut() {
            if now.duration_since(*since) >= old {
                ticket.in_progress().await;
                *since = now;
            }
        }
    }

    /// After the pull connection fell: if only that one did, a message that the client cannot read may be the cause.
    async fn recover(&mut self) {
        let (plan, shared) = &*self.context;
        let before = self.losses;
        self.losses = (shared.pulls.link().borrow().losses, shared.control.link().borrow().losses);
        if self.losses.1 != before.1 || !shared.control.is_connected() {
            return;
        }
        let (consumer, subscription) = (&plan.consumer, &plan.subscription);
        let search =
            self.search.run(&shared.api, &shared.pulls, &shared.dead_letters, consumer, subscription, self.received_to);
        if let Err(error) = search.await {
            tracing::warn!(%subscription, %error, "the search for an unreadable message was cut short");
        }
    }

    fn report(&self, error: &PullError) {
        let subscription = &self.context.0.subscription;
        let state = match error {
            PullError::Gone(reason) => State::Gone(reason.clone()),
            error => State::Stalled(error.to_string()),
        };
        tracing::warn!(%subscription, %error, "pull broken, it is built anew");
        self.health.set(state);
    }

    /// Goes on with the events at work for a while.
    async fn wait(&mut self, wait: Duration, stop: &CancellationToken) {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        let mut signs_of_work = self.signs_of_work();
        loop {
            tokio::select! {
                () = &mut over => return,
                () = stop.cancelled() => return,
                Some(reports) = self.at_work.next() => {
                    self.done(reports);
                }
                _ = signs_of_work.tick() => self.sign_work().await,
            }
        }
    }

    async fn finish(mut self, deadline: CancellationToken) {
        if let Some(gathering) = &mut self.gathering {
            let works = gathering.take();
            self.start_batch(works);
        }
        let mut signs_of_work = self.signs_of_work();
        while !self.at_work.is_empty() {
            tokio::select! {
                () = deadline.cancelled() => break,
                Some(reports) = self.at_work.next() => {
                    self.done(reports);
                }
                _ = signs_of_work.tick() => self.sign_work().await,
            }
        }
        self.at_work.clear();
        let left = self.held.len();
        for (ticket, _) in self.held.values() {
            ticket.give_back().await;
        }
        if left > 0 {
            tracing::info!(subscription = %self.context.0.subscription, events = left, "given back to JetStream");
        }
        self.context.1.pulls.flush(LAST_FLUSH).await;
    }
}

/// Ends when the connection was lost more often than `losses` times and stands again.
async fn lost(link: &mut watch::Receiver<Link>, losses: u64) {
    let lost = link.wait_for(|link| link.losses != losses && link.connected);
    if lost.await.is_err() {
        // The connection object is gone; the pull itself will say so.
        std::future::pending::<()>().await;
    }
}

//! The loop of one subscription: keeps its pull alive, its events at work, and JetStream told that they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::health::{Health, State};
use super::slots::{MAX_HELD, MAX_IN_FLIGHT};
use super::{Context, Plan, Shared, attempt};
use crate::channel::connect::Link;
use crate::channel::{PullError, Pulled, Puller, Search, Ticket};

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
    at_work: FuturesUnordered<BoxFuture<'static, u64>>,
    /// The tickets of the events at work, by their sequence in the stream.
    tickets: HashMap<u64, (Ticket, Instant)>,
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
        Self {
            context: Arc::new((plan, shared)),
            health,
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            at_work: FuturesUnordered::new(),
            tickets: HashMap::new(),
            search: Search::default(),
            received_to: 0,
            losses,
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
                    for ticket in puller.stop().await {
                        ticket.give_back().await;
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
                Some(done) = self.at_work.next() => self.done(done),
                standing = link.wait_for(|link| link.connected) => return standing.is_ok(),
            }
        }
    }

    /// One pull after the other over one inbox, until something ends it.
    async fn pull(&mut self, puller: &mut Puller, stop: &CancellationToken, patience: &mut Duration) -> End {
        let mut link = self.context.1.pulls.link();
        let mut signs_of_work = interval(self.sign_of_work_every());
        signs_of_work.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(error) = puller.ask(self.room()).await {
                return End::Broken(error);
            }
            tokio::select! {
                () = stop.cancelled() => return End::Stop,
                Some(done) = self.at_work.next() => self.done(done),
                pulled = puller.next() => match pulled {
                    Ok(pulled) => {
                        *patience = REBUILD_MIN;
                        if let Some(stall) = self.accept(pulled).await {
                            self.health.set(State::Stalled(stall));
                        } else {
                            self.health.set(State::Pulling);
                        }
                    }
                    Err(error) => return End::Broken(error),
                },
                _ = signs_of_work.tick() => self.sign_work().await,
                () = lost(&mut link, self.losses.0) => return End::Lost,
            }
        }
    }

    /// How many messages we could start on now.
    fn room(&self) -> usize {
        if self.at_work.len() >= MAX_HELD { 0 } else { self.slots.available_permits() }
    }

    /// Starts on what a pull brought. Some text when the consumer has messages and yet brings none.
    async fn accept(&mut self, pulled: Pulled) -> Option<String> {
        match pulled {
            Pulled::Event(stored) => {
                if self.start(&stored.ticket).await {
                    let context = Arc::clone(&self.context);
                    let slots = Arc::clone(&self.slots);
                    let sequence = stored.ticket.place().stream_sequence;
                    self.at_work.push(Box::pin(async move {
                        attempt::run(context, *stored, slots).await;
                        sequence
                    }));
                }
                None
            }
            Pulled::Poison(poison) => {
                if self.start(&poison.ticket).await {
                    let context = Arc::clone(&self.context);
                    let sequence = poison.ticket.place().stream_sequence;
                    self.at_work.push(Box::pin(async move {
                        attempt::set_aside(context, *poison).await;
                        sequence
                    }));
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

    /// Notes an event as being at work. False when it is so already: then its ack wait ran out on the way, the delivery at hand
    /// is the same event again, and one attempt is enough.
    async fn start(&mut self, ticket: &Ticket) -> bool {
        let sequence = ticket.place().stream_sequence;
        self.received_to = self.received_to.max(sequence);
        let now = Instant::now();
        if let Some((known, since)) = self.tickets.get_mut(&sequence) {
            ticket.in_progress().await;
            *known = ticket.clone();
            *since = now;
            return false;
        }
        self.tickets.insert(sequence, (ticket.clone(), now));
        true
    }

    fn done(&mut self, sequence: u64) {
        self.tickets.remove(&sequence);
    }

    fn sign_of_work_every(&self) -> Duration {
        // Twice within a third of the ack wait, so that one lost sign does no harm.
        (self.context.0.consumer.ack_wait / 6).max(Duration::from_millis(50))
    }

    /// Tells JetStream of the events that are at work for longer than a third of the ack wait.
    async fn sign_work(&mut self) {
        if !self.context.1.pulls.is_connected() {
            return;
        }
        let old = self.context.0.consumer.ack_wait / 3;
        let now = Instant::now();
        for (ticket, since) in self.tickets.values_mut() {
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
        let mut signs_of_work = interval(self.sign_of_work_every());
        loop {
            tokio::select! {
                () = &mut over => return,
                () = stop.cancelled() => return,
                Some(done) = self.at_work.next() => self.done(done),
                _ = signs_of_work.tick() => self.sign_work().await,
            }
        }
    }

    async fn finish(mut self, deadline: CancellationToken) {
        let mut signs_of_work = interval(self.sign_of_work_every());
        while !self.at_work.is_empty() {
            tokio::select! {
                () = deadline.cancelled() => break,
                Some(done) = self.at_work.next() => self.done(done),
                _ = signs_of_work.tick() => self.sign_work().await,
            }
        }
        let left = self.tickets.len();
        self.at_work.clear();
        for (ticket, _) in self.tickets.values() {
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

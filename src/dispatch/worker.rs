//! The loop of one subscription: keeps its pull alive and its desk supplied, and says how it is doing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::attempt::{Report, Together};
use super::desk::Desk;
use super::health::{Health, State};
use super::pace::Pace;
use super::redrive::Redriver;
use super::trail::Trail;
use super::{Context, Plan, Shared, Surroundings};
use crate::channel::connect::Link;
use crate::channel::{ApiError, PullError, Pulled, Puller, Silence};
use crate::fault_point::{Point, at};

/// The first and the longest wait before a broken pull is built anew.
const REBUILD_MIN: Duration = Duration::from_millis(50);
const REBUILD_MAX: Duration = Duration::from_secs(5);
/// How long a new connection waits for an answer to whether what is held can be settled over it: a question that came while the
/// consumer had no leader is asked once more. Later, whoever has an outcome to tell asks again.
const SURE_WITHIN: Duration = Duration::from_secs(12);
/// How long to wait for what JetStream has sent us already.
const OWN_DELIVERIES: Duration = Duration::from_secs(1);
/// What is given back at the end must leave within this.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Runs one subscription until it is stopped.
pub struct Worker {
    context: Context,
    health: Health,
    desk: Desk,
    pace: Pace,
    /// Why the consumer brings nothing, as long as it does so.
    silence: Option<Silence>,
    /// Why the consumer is not there any more.
    gone: Option<String>,
    /// Whether a pinned consumer has chosen us at some time.
    pinned: bool,
    /// Whether all that was unsettled then is known. Until it is, nothing of a pinned consumer is started: it might be out of
    /// its order.
    taken_over: bool,
    /// How often the connection was lost, as far as we have looked.
    losses: u64,
}

/// Why one pull came to its end.
enum End {
    Stop,
    Broken(PullError),
    /// The connection fell, and the pull with it.
    Lost,
}

impl Worker {
    pub fn new(plan: Plan, shared: Shared, health: Health) -> Self {
        let losses = shared.pulls.link().borrow().losses;
        let pace = Pace::new(plan.controls.rate);
        let meter = shared.metrics.subscription(&plan.subscription);
        let trail = Trail::new(&plan, &shared, Arc::clone(&meter));
        let context = Arc::new(Surroundings { plan, shared, meter, trail, book: health.book() });
        let desk = Desk::new(Arc::clone(&context));
        Self { health, desk, pace, silence: None, gone: None, pinned: false, taken_over: false, losses, context }
    }

    /// Works until `stop`, then lets the events at work finish until `deadline` is cancelled; what is not finished then goes
    /// back to JetStream.
    pub async fn run(self, stop: CancellationToken, deadline: CancellationToken) {
        let redriver = Redriver::new(&self.context, &self.desk);
        tokio::join!(redriver.run(stop.clone(), deadline.clone()), self.work(stop, deadline));
    }

    /// Redrives beside the worker, in a simulation.
    #[cfg(test)]
    pub(super) fn redriver(&self) -> Redriver {
        Redriver::new(&self.context, &self.desk)
    }

    async fn work(mut self, stop: CancellationToken, deadline: CancellationToken) {
        let mut patience = REBUILD_MIN;
        while self.connected(&stop).await {
            self.taken_over = false;
            let Surroundings { plan, shared, .. } = &*self.context;
            let mut puller = Puller::start(&shared.pulls, &shared.api, plan.consumer.clone());
            let end = self.pull(&mut puller, &stop, &mut patience).await;
            self.context.meter.pull_credits.set(0);
            // Boxed, like whatever else is rare here: an idle subscription would hold its room all the time.
            let left = Box::pin(puller.stop()).await;
            if self.taken_over || !self.context.plan.consumer.pinned {
                self.accept_all(left).await;
            }
            match end {
                End::Stop => break,
                End::Lost => {
                    self.losses = self.context.shared.pulls.link().borrow().losses;
                    if self.desk.len() > 0 || !self.desk.is_idle() {
                        Box::pin(self.make_sure(&stop)).await;
                    }
                }
                End::Broken(error) => {
                    self.report(&error);
                    if error == PullError::NoLeader {
                        Box::pin(self.look_closer(&stop)).await;
                    }
                    if self.gone.is_some() {
                        // Another worker comes, with a consumer that is looked for or made anew: what is said of the messages of
                        // this one may be meant for others.
                        self.meanwhile(std::future::pending::<()>(), &stop).await;
                        break;
                    }
                    self.meanwhile(tokio::time::sleep(patience), &stop).await;
                    patience = (patience * 2).min(REBUILD_MAX);
                }
            }
        }
        Box::pin(self.finish(deadline)).await;
    }

    /// Waits until there is a connection to pull over. False when there is to be no more pulling.
    async fn connected(&mut self, stop: &CancellationToken) -> bool {
        let mut link = self.context.shared.pulls.link();
        let connected = async { link.wait_for(|link| link.connected).await.is_ok() };
        self.meanwhile(connected, stop).await.unwrap_or(false)
    }

    /// One pull after the other over one inbox, until something ends it.
    async fn pull(&mut self, puller: &mut Puller, stop: &CancellationToken, patience: &mut Duration) -> End {
        let mut link = self.context.shared.pulls.link();
        let mut signs_of_work = self.desk.signs_of_work();
        let slots = self.desk.slots();
        loop {
            self.context.meter.pull_credits.set(puller.outstanding() as u64);
            let room = if puller.is_asking() { 0 } else { self.desk.room() };
            let waking = self.desk.waking();
            tokio::select! {
                // What is rare and may not be late goes first. What has come is bounded by what was asked for, and that by what
                // is held, so neither keeps the other waiting for ever.
                biased;
                () = stop.cancelled() => return End::Stop,
                () = lost(&mut link, self.losses) => return End::Lost,
                _ = signs_of_work.tick(), if self.desk.len() > 0 => self.desk.sign_work().await,
                () = sleep_until(waking.unwrap_or_else(Instant::now)), if waking.is_some() => self.desk.wake(),
                pulled = puller.next() => match at(Point::TakenIn, self.take_in(pulled, puller)).await {
                    Ok(()) => {
                        *patience = REBUILD_MIN;
                        self.tell();
                    }
                    Err(error) => return End::Broken(error),
                },
                Some(reports) = self.desk.work() => {
                    self.done(reports);
                }
                granted = self.pace.grant(room), if room > 0 => {
                    self.desk.asked();
                    at(Point::PullAsked, puller.ask(granted)).await;
                }
                () = slots.freed_elsewhere(), if room == 0 || self.desk.has_waiting() => self.desk.take_turns(),
            }
        }
    }

    /// Takes in what came and what has come behind it, so that the turns of this loop are few when there is much to do.
    async fn take_in(&mut self, first: Result<Pulled, PullError>, puller: &mut Puller) -> Result<(), PullError> {
        let mut next = Some(first?);
        while let Some(pulled) = next {
            match pulled {
                Pulled::TookOver(first) => self.take_over(puller, *first).await?,
                Pulled::Idle => self.look_around(puller.is_chosen()).await,
                pulled => self.accept(pulled).await,
            }
            next = puller.ready()?;
        }
        Ok(())
    }

    async fn accept_all(&mut self, pulled: Vec<Pulled>) {
        for pulled in pulled {
            self.accept(pulled).await;
        }
    }

    /// Starts on what a pull brought.
    async fn accept(&mut self, pulled: Pulled) {
        match pulled {
            Pulled::Event(stored) => {
                self.silence = None;
                self.desk.take(stored).await;
            }
            Pulled::Poison(poison) => {
                self.silence = None;
                self.desk.take_poison(*poison).await;
            }
            Pulled::Ended | Pulled::Idle | Pulled::TookOver(_) => {}
        }
    }

    /// A pull has brought less than there was room for, so JetStream has nothing for us. `chosen` when we are the one whom a
    /// pinned consumer gives its messages.
    async fn look_around(&mut self, chosen: bool) {
        let context = Arc::clone(&self.context);
        let Surroundings { plan, shared, .. } = &*context;
        if plan.consumer.pinned
            && let Err(error) = self.look_for_missing(chosen).await
        {
            tracing::debug!(subscription = %plan.subscription, %error, "cannot see what is missing");
        }
        self.silence = plan.consumer.silence(&shared.api).await;
    }

    /// Looks for what a pinned consumer should have given us, or would give to whoever takes over.
    async fn look_for_missing(&mut self, chosen: bool) -> Result<(), ApiError> {
        let context = Arc::clone(&self.context);
        let (consumer, shared) = (&context.plan.consumer, &context.shared);
        if !chosen {
            // What only waits here comes again in its order with all that is unsettled.
            return consumer.adopt_orphans(&shared.api, &shared.pulls, |held| self.desk.is_at_work(held)).await;
        }
        if self.desk.is_taking_over() {
            // Some of it was not asked for: the word for it was lost on its way.
            let unsettled = consumer.unsettled(&shared.api).await?;
            consumer.ask_again(&shared.pulls, unsettled, |sequence| self.desk.holds(sequence)).await;
            self.desk.take_over(unsettled);
        } else if self.desk.misses_heads() && consumer.gives(&shared.api).await? {
            self.desk.go_on_without_heads();
        }
        Ok(())
    }

    /// A pinned consumer has chosen us. Nothing starts before all that another bridge may have left is here. When that cannot be
    /// found out, what has come is left to come again.
    async fn take_over(&mut self, puller: &mut Puller, first: Pulled) -> Result<(), PullError> {
        self.pinned = true;
        self.taken_over = false;
        self.desk.forget_waiting();
        let Surroundings { plan, shared, .. } = &*self.context;
        let refused = |error: ApiError| PullError::Refused(error.to_string());
        let unsettled = plan.consumer.unsettled(&shared.api).await.map_err(refused)?;
        // Since we were chosen, all deliveries are ours: these are on their way.
        let begun = first.place().map_or(unsettled.deliveries, |place| place.consumer_sequence);
        let mut ours = vec![first];
        let coming = usize::try_from(unsettled.deliveries.saturating_sub(begun)).unwrap_or(usize::MAX);
        let deadline = Instant::now() + OWN_DELIVERIES;
        while ours.len() <= coming {
            match timeout_at(deadline, puller.next()).await {
                Ok(pulled) => ours.extend(Some(pulled?).filter(|pulled| pulled.place().is_some())),
                Err(_) => break,
            }
        }
        let sequences: HashSet<u64> =
            ours.iter().filter_map(Pulled::place).map(|place| place.stream_sequence).collect();
        let holds = |sequence| sequences.contains(&sequence) || self.desk.holds(sequence);
        plan.consumer.ask_again(&shared.pulls, unsettled, holds).await;
        self.desk.take_over(unsettled);
        self.taken_over = true;
        self.accept_all(ours).await;
        Ok(())
    }

    /// Takes in what became of one request, and of those that have ended beside it.
    fn done(&mut self, reports: Together<Report>) {
        let mut changed = self.desk.done(reports);
        while let Some(reports) = self.desk.ready() {
            changed |= self.desk.done(reports);
        }
        if changed {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(reason) = &self.gone {
            return self.health.set(State::Gone(reason.clone()));
        }
        self.health.set(match &self.silence {
            Some(Silence::Broken(reason)) => State::Stalled(reason.clone()),
            Some(Silence::Paused(reason)) => State::Paused(reason.clone()),
            None if self.desk.is_closed() => {
                State::Held("its sink cannot be reached; further events wait in JetStream until it answers".to_owned())
            }
            None => State::Pulling,
        });
    }

    fn report(&mut self, error: &PullError) {
        let subscription = &self.context.plan.subscription;
        let state = match error {
            PullError::Gone(reason) => {
                self.gone = Some(reason.clone());
                State::Gone(reason.clone())
            }
            error => State::Stalled(error.to_string()),
        };
        // Readiness tells of it when it lasts.
        tracing::debug!(%subscription, %error, "pull broken, it is built anew");
        self.health.set(state);
    }

    /// Tells a consumer that is gone from one that had no leader for a moment: of the latter, all that it has delivered is still
    /// to be settled.
    async fn look_closer(&mut self, stop: &CancellationToken) {
        let context = Arc::clone(&self.context);
        match self.meanwhile(context.plan.consumer.is_there(&context.shared.api, &context.shared.pulls), stop).await {
            Some(Ok(true)) => self.tell(),
            Some(Ok(false)) => self.report(&PullError::Gone("nobody answers for it".to_owned())),
            Some(Err(_)) | None => {}
        }
    }

    /// Finds out whether what is held since before the connection was lost can be settled over the new one. When it cannot, the
    /// next pull says that the consumer is gone.
    async fn make_sure(&mut self, stop: &CancellationToken) {
        let context = Arc::clone(&self.context);
        let Surroundings { plan, shared, .. } = &*context;
        let sure = plan.consumer.make_sure(&shared.api, &shared.pulls);
        self.meanwhile(timeout(SURE_WITHIN, sure), stop).await;
    }

    /// Goes on with the events at work until something else is done; `None` when all is to end before.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
        tokio::pin!(other);
        let mut signs_of_work = self.desk.signs_of_work();
        loop {
            tokio::select! {
                biased;
                done = &mut other => return Some(done),
                () = stop.cancelled() => return None,
                Some(reports) = self.desk.work() => {
                    self.done(reports);
                }
                _ = signs_of_work.tick(), if self.desk.len() > 0 => self.desk.sign_work().await,
            }
        }
    }

    async fn finish(mut self, deadline: CancellationToken) {
        self.desk.hurry();
        let mut signs_of_work = self.desk.signs_of_work();
        while !self.desk.is_idle() {
            tokio::select! {
                biased;
                () = deadline.cancelled() => break,
                _ = signs_of_work.tick() => self.desk.sign_work().await,
                Some(reports) = self.desk.work() => {
                    self.done(reports);
                }
            }
        }
        let left = self.desk.len();
        self.desk.clear().await;
        self.context.meter.rest();
        if left > 0 {
            tracing::info!(subscription = %self.context.plan.subscription, events = left, "given back to JetStream");
        }
        let Surroundings { plan, shared, .. } = &*self.context;
        at(Point::DrainFlushed, shared.pulls.flush(LAST_FLUSH)).await;
        if self.pinned
            && let Err(error) = plan.consumer.unpin(&shared.api).await
        {
            tracing::debug!(subscription = %plan.subscription, %error, "another bridge takes over only after a while");
        }
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

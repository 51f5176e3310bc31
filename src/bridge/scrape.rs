//! The metrics that nobody counts in passing: what the connections and the manifests have been through, and what waits in
//! JetStream. That is asked for when somebody scrapes, not oftener than it can have changed for a scraper, and never for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Resources;
use crate::channel::connect::Link;
use crate::channel::inventory::{self, ConsumerFacts};
use crate::channel::{Api, ApiError, dead_letter, name, stream::stream_name};
use crate::resource::Key;
use crate::telemetry::{Family, Kind, Source, subscription};

/// What JetStream said is told again for so long.
const FRESH: Duration = Duration::from_secs(10);
/// A scrape waits for JetStream no longer; scrapers themselves give up after ten seconds by default.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls of the JetStream API that are under way at once.
const PARALLEL: usize = 16;
/// Subscriptions with a backlog whose oldest event is looked for; that of the others is not told this time.
const MAX_LOOKUPS: usize = 500;
/// Under this name dead letters are told whose subscription is no longer declared.
const UNDECLARED: &str = "undeclared";

/// Asks and remembers.
pub(super) struct Scrape {
    api: Api,
    /// With the names that they have in metrics.
    links: Vec<(&'static str, watch::Receiver<Link>)>,
    resources: watch::Receiver<Resources>,
    /// Whether this process has to do with subscriptions.
    dispatcher: bool,
    /// Held while JetStream is asked, so that scrapes beside each other ask once.
    known: tokio::sync::Mutex<()>,
    last: Mutex<Option<(Instant, Arc<Vec<Family>>)>>,
}

impl Scrape {
    pub(super) fn new(
        api: Api,
        [control, events]: [watch::Receiver<Link>; 2],
        resources: watch::Receiver<Resources>,
        dispatcher: bool,
    ) -> Self {
        let links = vec![("control", control), ("events", events)];
        Self { api, links, resources, dispatcher, known: tokio::sync::Mutex::default(), last: Mutex::default() }
    }

    fn here(&self) -> [Family; 5] {
        let mut connected = Family::new("nats_connected", Kind::Gauge, "1 while the connection to NATS stands.");
        let mut reconnects = Family::new(
            "nats_reconnects_total",
            Kind::Counter,
            "How often a connection to NATS was lost and made anew.",
        );
        let mut slow = Family::new("slow_consumer_total", Kind::Counter, "How often the NATS client dropped messages.");
        for (name, link) in &self.links {
            let link = *link.borrow();
            let labels = || vec![("connection", (*name).into())];
            connected.add(labels(), u64::from(link.connected));
            // The loss that nobody has made good yet is no reconnect.
            reconnects.add(labels(), if link.connected { link.losses } else { link.losses.saturating_sub(1) });
            slow.add(labels(), link.drops);
        }
        let resources = self.resources.borrow();
        let refused = Family::new("manifests_refused_total", Kind::Counter, "Changes of manifests that were refused.");
        let faults =
            Family::new("manifest_faults", Kind::Gauge, "Faults of the newest manifests, which are not in force.");
        let faults = faults.with(vec![], resources.faults.len() as u64);
        [connected, reconnects, slow, refused.with(vec![], resources.refusals), faults]
    }

    /// What waits in JetStream; `None` when that cannot be known right now.
    async fn waiting(&self) -> Option<Arc<Vec<Family>>> {
        if !self.dispatcher || !self.links.iter().all(|(_, link)| link.borrow().connected) {
            return None;
        }
        let _asking = self.known.lock().await;
        if let Some(last) = self.last(FRESH) {
            return Some(last);
        }
        match self.ask().await {
            Ok(families) => {
                let families = Arc::new(families);
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), Arc::clone(&families)));
                Some(families)
            }
            Err(error) => {
                tracing::debug!(%error, "what waits in JetStream is not told");
                None
            }
        }
    }

    fn last(&self, age: Duration) -> Option<Arc<Vec<Family>>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(asked, _)| asked.elapsed() < age).map(|(_, families)| Arc::clone(families))
    }

    async fn ask(&self) -> Result<Vec<Family>, ApiError> {
        let (streams, subscriptions) = {
            let desired = &self.resources.borrow().desired;
            let streams: BTreeSet<String> = desired.channels.values().map(stream_name).collect();
            (streams, desired.subscriptions.keys().cloned().collect::<BTreeSet<Key>>())
        };
        let pages =
            stream::iter(streams).map(|stream| async move { inventory::consumers_of(&self.api, &stream).await });
        let consumers: Vec<ConsumerFacts> = pages.buffer_unordered(PARALLEL).try_concat().await?;
        let owned = consumers.into_iter().filter_map(|consumer| Some((consumer.subscription.clone()?, consumer)));
        let owned: Vec<_> = owned.filter(|(subscription, _)| subscriptions.contains(subscription)).collect();
        let dead_letters = dead_letter::depths(&self.api).await?;
        let mut families = counts(&owned);
        families.push(self.lags(owned).await?);
        families.push(depths(&subscriptions, dead_letters));
        Ok(families)
    }

    /// For how long the oldest event of each subscription has been waiting.
    async fn lags(&self, consumers: Vec<(Key, ConsumerFacts)>) -> Result<Family, ApiError> {
        let help = "Age of the oldest event that is not settled, 0 when there is none.";
        let mut family = Family::new("lag_seconds", Kind::Gauge, help);
        let (idle, behind): (Vec<_>, Vec<_>) = consumers.into_iter().partition(|(_, consumer)| consumer.lag() == 0);
        let now = Timestamp::now();
        let lookups = stream::iter(behind.into_iter().take(MAX_LOOKUPS))
            .map(|(key, consumer)| async move { Ok::<_, ApiError>((consumer.oldest(&self.api).await?, key)) });
        let looked: Vec<_> = lookups.buffer_unordered(PARALLEL).try_collect().await?;
        for (oldest, key) in idle.into_iter().map(|(key, _)| (None, key)).chain(looked) {
            let age = oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
            family.add(subscription(&key), age);
        }
        Ok(family)
    }
}

impl Source for Scrape {
    fn families(&self) -> BoxFuture<'_, Vec<Family>> {
        async move {
            let mut families = self.here().to_vec();
            // Late is as good as not at all: the next scrape may find it.
            if let Ok(Some(waiting)) = timeout(PATIENCE, self.waiting()).await {
                families.extend(waiting.iter().cloned());
            }
            families
        }
        .boxed()
    }
}

fn counts(consumers: &[(Key, ConsumerFacts)]) -> Vec<Family> {
    let mut pending =
        Family::new("consumer_pending", Kind::Gauge, "Events of a subscription that were not delivered yet.");
    let mut unsettled =
        Family::new("consumer_ack_pending", Kind::Gauge, "Events that were delivered and are not acknowledged.");
    for (key, consumer) in consumers {
        pending.add(subscription(key), consumer.undelivered);
        unsettled.add(subscription(key), consumer.unsettled);
    }
    vec![pending, unsettled]
}

fn depths(subscriptions: &BTreeSet<Key>, mut by_subject: BTreeMap<String, u64>) -> Family {
    let mut family = Family::new("dlq_depth", Kind::Gauge, "Dead letters that are kept in KN_DEADLETTERS.");
    for key in subscriptions {
        let depth = by_subject.remove(&name::dead_letter_subject(key)).unwrap_or(0);
        family.add(subscription(key), depth);
    }
    family.with(vec![("subscription", UNDECLARED.into())], by_subject.values().sum::<u64>())
}

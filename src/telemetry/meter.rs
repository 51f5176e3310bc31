//! The instruments of each channel and each subscription, and how they become families. Series come with a declared resource
//! and go with it, so there are never more of them than there are resources.

use std::array::from_fn;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connections::ConnectionMeter;
use super::family::{Family, Kind, Labels, Value};
use super::instrument::{Counter, Gauge, Histogram};
use super::labels::{Mode, Received, State};
use super::tally::Tally;
use crate::resource::Key;

/// Knative's, in microseconds (`latencyBounds` of its dispatchers).
const KNATIVE_BOUNDS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];
/// Those of Knative, with faster answers before them and slower ones after.
static DISPATCH_BOUNDS: [u64; 19] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    75_000,
    100_000,
    250_000,
    500_000,
    750_000,
    1_000_000,
    2_500_000,
    5_000_000,
    7_500_000,
    10_000_000,
    30_000_000,
    60_000_000,
    600_000_000,
];
/// A PubAck takes less than a millisecond, and no longer than the publish timeout.
static ACK_BOUNDS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000, 5_000_000];
/// From a millisecond to a week, which is how long a stream keeps events when nobody says otherwise.
static AGE_BOUNDS: [u64; 14] = [
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    300_000_000,
    1_800_000_000,
    10_800_000_000,
    86_400_000_000,
    604_800_000_000,
];

/// What one channel has taken in. Equal to itself alone.
#[derive(Debug)]
pub struct ChannelMeter {
    events: [[Counter; Received::NAMES.len()]; Mode::NAMES.len()],
    ack_seconds: Histogram,
    /// Requests that were refused.
    pub refused: Tally,
}

impl Default for ChannelMeter {
    fn default() -> Self {
        let events = from_fn(|_| from_fn(|_| Counter::default()));
        Self { events, ack_seconds: Histogram::new(&ACK_BOUNDS), refused: Tally::default() }
    }
}

impl PartialEq for ChannelMeter {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ChannelMeter {}

impl ChannelMeter {
    /// Counts the events of one request; `took` is how long it took until its answer.
    pub fn count(&self, mode: Mode, received: Received, events: u64, took: Duration) {
        self.events[mode as usize][received as usize].add(events);
        if received == Received::Accepted {
            self.ack_seconds.observe(took);
        }
    }
}

/// Requests to a sink, by their answers.
#[derive(Debug, Default)]
pub struct Attempts([[Counter; 2]; Attempts::CLASSES.len()]);

impl Attempts {
    const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

    /// Counts one; `code` is `None` when there was no answer, and `is_final` says that no further one follows of its kind.
    pub fn count(&self, code: Option<u16>, is_final: bool) {
        let class = match code {
            None => 0,
            Some(code) => usize::from(code / 100).clamp(1, Self::CLASSES.len() - 1),
        };
        self.0[class][usize::from(is_final)].add(1);
    }

    fn tell(&self, family: &mut Family, name: &Name) {
        for (class, counters) in Self::CLASSES.into_iter().zip(&self.0) {
            for (is_final, counter) in ["false", "true"].into_iter().zip(counters) {
                if counter.get() > 0 {
                    let labels = [("code_class", class.into()), ("final", is_final.into())];
                    family.add(name.labels().into_iter().chain(labels).collect(), counter.get());
                }
            }
        }
    }
}

/// What one subscription has done, and how it stands.
#[derive(Debug)]
pub struct SubscriptionMeter {
    /// Requests to the subscriber, or to where replies go when there is none.
    pub attempts: Attempts,
    pub replies: Attempts,
    pub dead_letters: Attempts,
    /// Requests that send kept dead letters again.
    pub redrives: Attempts,
    /// How long requests to the subscriber took.
    pub dispatch_seconds: Histogram,
    /// From the moment an event is stored to its acknowledgement.
    pub age_seconds: Histogram,
    /// Events that the filter did not want.
    pub filtered: Counter,
    /// Events on which the filter could not be evaluated.
    pub filter_errors: Tally,
    /// Events kept in the stream of dead letters.
    pub kept: Tally,
    /// Dead letters that their sink would not take.
    pub dead_letter_sink: Tally,
    /// Dead letters that could not even be kept.
    pub not_kept: Tally,
    /// Messages that are no events.
    pub poison: Tally,
    /// Deliveries that failed in the bridge itself.
    pub panics: Tally,
    /// Events that wait here for their next attempt.
    pub retry_scheduled: Gauge,
    /// Messages that the pull under way may still bring.
    pub pull_credits: Gauge,
    /// 1 while the sink cannot be reached and further events are held back.
    pub breaker: Gauge,
    /// Requests that may be under way at once.
    pub concurrency_limit: Gauge,
    state: AtomicU8,
}

impl Default for SubscriptionMeter {
    fn default() -> Self {
        Self {
            attempts: Attempts::default(),
            replies: Attempts::default(),
            dead_letters: Attempts::default(),
            redrives: Attempts::default(),
            dispatch_seconds: Histogram::new(&DISPATCH_BOUNDS),
            age_seconds: Histogram::new(&AGE_BOUNDS),
            filtered: Counter::default(),
            filter_errors: Tally::default(),
            kept: Tally::default(),
            dead_letter_sink: Tally::default(),
            not_kept: Tally::default(),
            poison: Tally::default(),
            panics: Tally::default(),
            retry_scheduled: Gauge::default(),
            pull_credits: Gauge::default(),
            breaker: Gauge::default(),
            concurrency_limit: Gauge::default(),
            state: AtomicU8::new(State::Waiting as u8),
        }
    }
}

impl SubscriptionMeter {
    /// Whether anything has happened so far.
    fn is_busy(&self) -> bool {
        let faults =
            [&self.filter_errors, &self.kept, &self.dead_letter_sink, &self.not_kept, &self.poison, &self.panics];
        self.dispatch_seconds.read().is_some()
            || self.filtered.get() > 0
            || faults.iter().any(|tally| tally.count() > 0)
    }

    /// Nothing is under way any more.
    pub fn rest(&self) {
        for gauge in [&self.retry_scheduled, &self.pull_credits, &self.breaker] {
            gauge.set(0);
        }
    }

    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn state(&self) -> &'static str {
        State::NAMES.get(usize::from(self.state.load(Ordering::Relaxed))).unwrap_or(&State::NAMES[0])
    }
}

/// The instruments of the whole bridge.
#[derive(Debug, Default)]
pub struct Metrics {
    channels: Mutex<BTreeMap<Key, Arc<ChannelMeter>>>,
    subscriptions: Mutex<BTreeMap<Key, Arc<SubscriptionMeter>>>,
    /// Requests that mean no declared channel.
    pub elsewhere: ChannelMeter,
    /// Shared by the doors of the ingress.
    pub connections: Arc<ConnectionMeter>,
    /// Records of attempts that were left out because the log was behind.
    attempt_log_drops: Arc<Counter>,
    /// What could not be handed to the collector, in spans.
    span_drops: Arc<Counter>,
    /// 1 when `/readyz` says so.
    pub ready: Gauge,
}

impl Metrics {
    /// The instruments of a channel; the same as long as it is declared.
    pub fn channel(&self, key: &Key) -> Arc<ChannelMeter> {
        Arc::clone(lock(&self.channels).entry(key.clone()).or_default())
    }

    /// The instruments of a subscription; the same as long as it is declared.
    pub fn subscription(&self, key: &Key) -> Arc<SubscriptionMeter> {
        Arc::clone(lock(&self.subscriptions).entry(key.clone()).or_default())
    }

    pub fn attempt_log_drops(&self) -> Arc<Counter> {
        Arc::clone(&self.attempt_log_drops)
    }

    pub fn span_drops(&self) -> Arc<Counter> {
        Arc::clone(&self.span_drops)
    }

    /// Forgets all that is no longer declared.
    pub fn retain(&self, is_channel: impl Fn(&Key) -> bool, is_subscription: impl Fn(&Key) -> bool) {
        lock(&self.channels).retain(|key, _| is_channel(key));
        lock(&self.subscriptions).retain(|key, _| is_subscription(key));
    }

    pub(super) fn families(&self) -> Vec<Family> {
        let (version, readiness) = (env!("CARGO_PKG_VERSION"), self.ready.get());
        let mut families = vec![
            gauge("knats_build_info", "Always 1; the label names the version.")
                .with(vec![("version", version.into())], 1_u64),
            gauge("ready", "1 when nothing is missing for the bridge to be as declared.").with(vec![], readiness),
            counter("attempt_log_drops_total", "Records of attempts left out because the log was behind.")
                .with(vec![], self.attempt_log_drops.get()),
            counter("span_drops_total", "Spans left out because the collector was away or behind.")
                .with(vec![], self.span_drops.get()),
        ];
        families.extend(self.connections.families());
        families.extend(self.ingress());
        families.extend(self.dispatch());
        families
    }

    fn ingress(&self) -> [Family; 2] {
        let mut events =
            counter("ingress_events_total", "Events by what became of them; a refused request counts as one.");
        let mut ack =
            histogram("ingress_ack_seconds", "From the head of a request to the 202 that follows JetStream's ack.");
        let mut tell = |meter: &ChannelMeter, name: &str| {
            let channel = || ("channel", Cow::Owned(name.to_owned()));
            for (mode, results) in Mode::NAMES.into_iter().zip(&meter.events) {
                for (result, counter) in
                    Received::NAMES.into_iter().zip(results).filter(|(_, counter)| counter.get() > 0)
                {
                    events.add(vec![channel(), ("mode", mode.into()), ("result", result.into())], counter.get());
                }
            }
            if let Some(observed) = meter.ack_seconds.read() {
                ack.add(vec![channel()], observed);
            }
        };
        tell(&self.elsewhere, "");
        for (key, meter) in lock(&self.channels).iter() {
            tell(meter, &key.to_string());
        }
        [events, ack]
    }

    fn dispatch(&self) -> Vec<Family> {
        let meters: Vec<(Name, Arc<SubscriptionMeter>)> =
            lock(&self.subscriptions).iter().map(|(key, meter)| (Name(key.to_string()), Arc::clone(meter))).collect();
        let attempts = |name, help, of: fn(&SubscriptionMeter) -> &Attempts| {
            let mut family = counter(name, help);
            meters.iter().for_each(|(name, meter)| of(meter).tell(&mut family, name));
            family
        };
        let each = |mut family: Family, of: fn(&SubscriptionMeter) -> Option<Value>| {
            for (name, meter) in &meters {
                if let Some(value) = of(meter) {
                    family.add(name.labels(), value);
                }
            }
            family
        };
        // A counter that begins at 1 hides its first fault from those who look at differences; but idle subscriptions are many.
        let busy = |mut family: Family, of: fn(&SubscriptionMeter) -> u64| {
            for (name, meter) in meters.iter().filter(|(_, meter)| meter.is_busy()) {
                family.add(name.labels(), of(meter));
            }
            family
        };
        let mut states = gauge("subscription_state", "1 for the state that a subscription is in.");
        for (name, meter) in &meters {
            states.add(name.labels().into_iter().chain([("state", meter.state().into())]).collect(), 1_u64);
        }
        vec![
            attempts("dispatch_attempts_total", "Requests to subscribers; final when no further one follows.", |m| {
                &m.attempts
            }),
            attempts("reply_attempts_total", "Requests that send replies on.", |m| &m.replies),
            attempts("dead_letter_attempts_total", "Requests to dead letter sinks.", |m| &m.dead_letters),
            attempts("redrive_attempts_total", "Requests that send kept dead letters again.", |m| &m.redrives),
            each(histogram("dispatch_seconds", "How long requests to subscribers take."), |m| {
                m.dispatch_seconds.read().map(Value::Histogram)
            }),
            each(histogram("kn_eventing_dispatch_duration_seconds", "The same under Knative's name."), |m| {
                m.dispatch_seconds.read_with(&KNATIVE_BOUNDS).map(Value::Histogram)
            }),
            each(histogram("event_age_seconds", "From the moment an event is stored to its acknowledgement."), |m| {
                m.age_seconds.read().map(Value::Histogram)
            }),
            busy(counter("filtered_events_total", "Events that a subscription's filter did not want."), |m| {
                m.filtered.get()
            }),
            busy(counter("filter_errors_total", "Events on which a filter could not be evaluated."), |m| {
                m.filter_errors.count()
            }),
            busy(counter("dead_letters_kept_total", "Events kept in KN_DEADLETTERS."), |m| m.kept.count()),
            busy(counter("dead_letter_sink_failures_total", "Dead letters that their sink would not take."), |m| {
                m.dead_letter_sink.count()
            }),
            busy(
                counter("dead_letters_not_kept_total", "Dead letters that could not be kept; their events come again."),
                |m| m.not_kept.count(),
            ),
            busy(counter("poison_messages_total", "Messages that claim to be events and are none."), |m| {
                m.poison.count()
            }),
            busy(counter("delivery_panics_total", "Deliveries that failed in the bridge itself."), |m| {
                m.panics.count()
            }),
            each(gauge("retry_scheduled", "Events that wait for their next attempt."), |m| {
                Some(m.retry_scheduled.get().into())
            }),
            each(gauge("pull_credits", "Messages that the pull under way may still bring."), |m| {
                Some(m.pull_credits.get().into())
            }),
            each(
                gauge("breaker_state", "1 while a sink cannot be reached and its events are held back, else 0."),
                |m| Some(m.breaker.get().into()),
            ),
            each(gauge("concurrency_limit", "Requests that may be under way at once."), |m| {
                Some(m.concurrency_limit.get()).filter(|limit| *limit > 0).map(Value::Whole)
            }),
            states,
        ]
    }
}

/// The label of a subscription.
pub fn subscription(key: &Key) -> Labels {
    Name(key.to_string()).labels()
}

/// `NAMESPACE/NAME`.
struct Name(String);

impl Name {
    fn labels(&self) -> Labels {
        vec![("subscription", Cow::Owned(self.0.clone()))]
    }
}

fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Counter, help)
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, help)
}

fn histogram(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Histogram, help)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name).unwrap()
    }

    fn points(metrics: &Metrics, name: &str) -> Vec<(String, Value)> {
        let families = metrics.families();
        let family = families.iter().find(|family| family.name == name).unwrap();
        let label = |(name, value): &(&str, Cow<'_, str>)| format!("{name}={value}");
        let labels = |labels: &Labels| labels.iter().map(label).collect::<Vec<_>>().join(",");
        family.points.iter().map(|point| (labels(&point.labels), point.value.clone())).collect()
    }

    #[test]
    fn attempts_are_told_by_class_and_whether_they_were_the_last() {
        let metrics = Metrics::default();
        let meter = metrics.subscription(&key("sub"));
        for (code, is_final) in
            [(Some(503), false), (Some(503), false), (Some(999), true), (None, true), (Some(204), true)]
        {
            meter.attempts.count(code, is_final);
        }
        let told = [("none,final=true", 1), ("2xx,final=true", 1), ("5xx,final=false", 2), ("5xx,final=true", 1)];
        let expected: Vec<(String, Value)> = told
            .into_iter()
            .map(|(labels, count)| (format!("subscription=default/sub,code_class={labels}"), Value::Whole(count)))
            .collect();
        assert_eq!(points(&metrics, "dispatch_attempts_total"), expected);
    }

    #[test]
    fn every_state_and_result_has_its_name() {
        let metrics = Metrics::default();
        let meter = metrics.subscription(&key("sub"));
        for (state, name) in [(State::Waiting, "waiting"), (State::Delivering, "delivering"), (State::Paused, "paused")]
        {
            meter.set_state(state);
            let expected = format!("subscription=default/sub,state={name}");
            assert_eq!(points(&metrics, "subscription_state"), [(expected, Value::Whole(1))]);
        }
        metrics.channel(&key("foo")).count(Mode::Batch, Received::Failed, 3, Duration::ZERO);
        metrics.elsewhere.count(Mode::Unknown, Received::NoSuchChannel, 1, Duration::ZERO);
        assert_eq!(
            points(&metrics, "ingress_events_total"),
            [
                ("channel=,mode=unknown,result=no_such_channel".to_owned(), Value::Whole(1)),
                ("channel=default/foo,mode=batch,result=failed".to_owned(), Value::Whole(3)),
            ]
        );
    }

    #[test]
    fn what_is_no_longer_declared_is_no_longer_told() {
        let metrics = Metrics::default();
        let held = metrics.subscription(&key("gone"));
        metrics.subscription(&key("stays"));
        metrics.channel(&key("gone"));
        metrics.retain(|_| false, |subscription| subscription.name() == "stays");
        held.pull_credits.set(1);
        assert_eq!(points(&metrics, "pull_credits"), [("subscription=default/stays".to_owned(), Value::Whole(0))]);
    }

    #[test]
    fn knative_s_bounds_are_among_ours() {
        assert!(KNATIVE_BOUNDS.iter().all(|bound| DISPATCH_BOUNDS.contains(bound)));
        for bounds in [DISPATCH_BOUNDS.as_slice(), &ACK_BOUNDS, &AGE_BOUNDS] {
            assert!(bounds.is_sorted());
        }
    }
}

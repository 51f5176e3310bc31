//! What a history begins with, all of it drawn from its seed: a subscription, its events, how its sinks behave, what goes wrong
//! and when.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;

use crate::resource::{BackoffPolicy, Batch, Breaker, Controls, Delivery, Format, Ordering};

/// When nothing is drawn to go wrong any more, in ms of virtual time; the last faults may go on for some seconds.
const FAULTS_UNTIL: u64 = 12_000;

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) delivery: Delivery,
    pub(super) controls: Controls,
    pub(super) filtered: bool,
    /// Whether there is a subscriber; without one the events go straight to where replies would go.
    pub(super) subscriber: bool,
    pub(super) reply: Way,
    pub(super) dead_letter_sink: Way,
    pub(super) of_broker: bool,
    pub(super) ack_wait: Duration,
    pub(super) max_ack_pending: usize,
    pub(super) request_timeout: Duration,
    pub(super) publish_timeout: Duration,
    pub(super) events: Vec<Draft>,
    /// Of the subscriber, the reply's sink, and the dead letter sink.
    pub(super) sinks: [Temper; 3],
    pub(super) faults: Vec<Fault>,
    /// From when on all that can be well is well, in ms.
    pub(super) calm_at: u64,
    /// Kept dead letters are redriven at the end, and the events that were refused for good are taken then, or not.
    pub(super) redrive: Option<Redrive>,
    /// The bridge has more to do than it keeps up with, so that events wait for their turn.
    pub(super) crowded: bool,
}

/// Where something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    None,
    Http,
    Channel,
}

/// An event to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft {
    pub(super) at: u64,
    pub(super) key: Option<u8>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    /// The filter does not want it, where there is one.
    Unwanted,
    /// Its sink answers with this code, whatever the weather.
    Cursed(u16),
    /// It claims to be an event and is none.
    Poison,
}

/// How a sink behaves until all is calm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Temper {
    /// Requests in a hundred that do not go well.
    pub(super) trouble: u64,
    /// From when to when nobody is there, in ms.
    pub(super) outage: (u64, u64),
    /// The longest answer that is on time, in ms.
    pub(super) slowness: u64,
    /// Answers in a hundred that hold a reply.
    pub(super) replies: u64,
    /// It refuses for good, calm or not.
    pub(super) broken: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Redrive {
    pub(super) healed: bool,
    /// So many things happen, and then the process is killed.
    pub(super) crash_after: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) when: When,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// Milliseconds from the beginning.
    At(u64),
    /// After so many things have happened.
    After(u64),
}

/// What goes wrong; numbers are milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// The connection falls, and what the server has not read is lost or not.
    Cut,
    /// Connections fall and cannot be made.
    Down(u64),
    /// The server neither reads nor writes.
    Stall(u64),
    /// Pulls and publishes have nobody to answer them, acknowledgements go nowhere.
    Leaderless(u64),
    /// The consumer lets go of all pulls.
    NewLeader,
    /// Of what settles, some is lost.
    LosesAnswers(u64),
    /// Streams take nothing.
    Full(u64),
    /// Some publishes are stored and not acknowledged.
    LosesPubAcks(u64),
    /// The process is killed, and another one begins after a while.
    Crash(u64),
    /// The process ends in good order with this much time for it, and another one begins.
    Restart(u64),
}

impl Scenario {
    pub(super) fn draw(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let ordering = match rng.u8(..10) {
            0..=2 => Ordering::Key("partitionkey".to_owned()),
            3..=4 => Ordering::Strict,
            _ => Ordering::None,
        };
        let unordered = ordering == Ordering::None;
        let controls = Controls {
            max_in_flight: chance(rng, 30).then(|| NonZeroU32::new(rng.u32(1..=4)).unwrap()),
            batch: (unordered && chance(rng, 30)).then(|| Batch {
                size: NonZeroU32::new(rng.u32(1..=6)).unwrap(),
                wait: Duration::from_millis(rng.u64(0..=2000)),
            }),
            breaker: *rng.choice(&[Breaker::Auto, Breaker::On, Breaker::Off]).unwrap(),
            ordering,
            ..Controls::default()
        };
        let ways = [Way::None, Way::None, Way::Http, Way::Channel];
        let (reply, dead_letter_sink) = (*rng.choice(&ways).unwrap(), *rng.choice(&ways).unwrap());
        let max_ack_pending = match &controls.ordering {
            Ordering::Strict => 1,
            Ordering::Key(_) => 1024,
            Ordering::None => controls.max_in_flight.map_or_else(|| rng.usize(3..=200), |limit| limit.get() as usize),
        };
        let faulty = chance(rng, 75);
        let mut scenario = Self {
            delivery: delivery(rng),
            filtered: chance(rng, 30),
            subscriber: reply == Way::None || chance(rng, 85),
            reply,
            dead_letter_sink,
            of_broker: chance(rng, 15),
            ack_wait: Duration::from_millis(*rng.choice(&[1_000, 3_000, 10_000, 30_000]).unwrap()),
            max_ack_pending,
            request_timeout: Duration::from_millis(rng.u64(200..=8_000)),
            publish_timeout: Duration::from_millis(rng.u64(500..=5_000)),
            events: events(rng),
            sinks: [temper(rng), temper(rng), temper(rng)],
            faults: if faulty { faults(rng) } else { Vec::new() },
            calm_at: FAULTS_UNTIL + 1_000,
            redrive: chance(rng, 40)
                .then(|| Redrive { healed: rng.bool(), crash_after: chance(rng, 40).then(|| rng.u64(1..30)) }),
            controls,
            crowded: false,
        };
        scenario.sinks[2].broken = chance(rng, 30);
        scenario.crowded = chance(rng, 50);
        scenario
    }

    /// More events at once than a desk holds: of few keys, or given up into a dead letter sink that takes none.
    pub(super) fn flood(by_key: bool) -> Self {
        let kind = if by_key { Kind::Good } else { Kind::Cursed(400) };
        let calm = Temper { trouble: 0, outage: (0, 0), slowness: 2, replies: 0, broken: false };
        let ordering = if by_key { Ordering::Key("partitionkey".to_owned()) } else { Ordering::None };
        Self {
            delivery: Delivery { retry: 2, backoff_delay: Duration::from_secs(5), ..Delivery::PROCESS_DEFAULT },
            controls: Controls { ordering, ..Controls::default() },
            filtered: false,
            subscriber: true,
            reply: Way::None,
            dead_letter_sink: if by_key { Way::None } else { Way::Http },
            of_broker: false,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: if by_key { 1024 } else { 20_000 },
            request_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(5),
            events: (0..1_300)
                .map(|number| {
                    // The first of each key keeps the others waiting.
                    let kind = if by_key && number < 3 { Kind::Cursed(500) } else { kind };
                    Draft { at: 0, key: Some((number % 3) as u8), kind }
                })
                .collect(),
            sinks: [calm, calm, Temper { broken: true, ..calm }],
            faults: Vec::new(),
            calm_at: 0,
            redrive: None,
            crowded: false,
        }
    }

    /// Whether NATS and the process are well all the time.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn is_by_key(&self) -> bool {
        matches!(self.controls.ordering, Ordering::Key(_))
    }
}

fn chance(rng: &mut Rng, percent: u64) -> bool {
    rng.u64(..100) < percent
}

fn delivery(rng: &mut Rng) -> Delivery {
    Delivery {
        retry: rng.u32(0..=4),
        backoff_policy: if rng.bool() { BackoffPolicy::Linear } else { BackoffPolicy::Exponential },
        backoff_delay: Duration::from_millis(*rng.choice(&[0, 10, 40, 200, 1_000, 4_000]).unwrap()),
        backoff_max: Duration::from_millis(rng.u64(500..=8_000)),
        timeout: chance(rng, 30).then(|| Duration::from_millis(rng.u64(100..=5_000))),
        retry_after_max: chance(rng, 50).then(|| Duration::from_secs(rng.u64(0..=6))),
        format: if rng.bool() { Format::Binary } else { Format::Json },
        dead_letter_sink: None,
    }
}

fn events(rng: &mut Rng) -> Vec<Draft> {
    let (count, keys) = (rng.usize(1..=18), rng.u8(1..=4));
    let spread = rng.u64(0..=6_000);
    let mut events: Vec<Draft> = (0..count)
        .map(|_| Draft {
            at: rng.u64(0..=spread),
            key: chance(rng, 85).then(|| rng.u8(..keys)),
            kind: match rng.u8(..20) {
                0 => Kind::Poison,
                1..=3 => Kind::Unwanted,
                4..=5 => Kind::Cursed(*rng.choice(&[400, 410, 422]).unwrap()),
                6..=7 => Kind::Cursed(*rng.choice(&[404, 429, 500, 503]).unwrap()),
                _ => Kind::Good,
            },
        })
        .collect();
    events.sort_by_key(|event| event.at);
    events
}

fn temper(rng: &mut Rng) -> Temper {
    let begin = rng.u64(0..8_000);
    let lasts = if chance(rng, 30) { rng.u64(500..12_000) } else { 0 };
    Temper {
        trouble: *rng.choice(&[0, 10, 40, 70]).unwrap(),
        outage: (begin, begin + lasts),
        slowness: *rng.choice(&[0, 5, 60, 900, 4_000]).unwrap(),
        replies: *rng.choice(&[0, 50, 90]).unwrap(),
        broken: false,
    }
}

fn faults(rng: &mut Rng) -> Vec<Fault> {
    let count = rng.usize(1..=6);
    let fault = |rng: &mut Rng| {
        let when = if rng.bool() { When::At(rng.u64(0..FAULTS_UNTIL)) } else { When::After(rng.u64(1..150)) };
        let what = match rng.u8(..13) {
            0..=1 => What::Cut,
            2 => What::Down(rng.u64(100..5_000)),
            3 => What::Stall(*rng.choice(&[500, 2_000, 6_000, 20_000]).unwrap()),
            4 => What::Leaderless(rng.u64(100..5_000)),
            5 => What::NewLeader,
            6 => What::LosesAnswers(rng.u64(500..8_000)),
            7 => What::Full(*rng.choice(&[800, 4_000, 40_000]).unwrap()),
            8 => What::LosesPubAcks(rng.u64(500..8_000)),
            9..=11 => What::Crash(rng.u64(0..4_000)),
            _ => What::Restart(rng.u64(0..4_000)),
        };
        Fault { when, what }
    };
    (0..count).map(|_| fault(rng)).collect()
}

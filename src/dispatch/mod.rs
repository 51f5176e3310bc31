//! A subscription at work: pull what there is room for, attempt, decide, settle last. It does not know where resources come
//! from.
//!
//! An event goes through these states; only the arrows to *settled* acknowledge it, and each of them follows something durable:
//!
//! ```text
//!            ┌─────────── NAK with the wait; JetStream counts ──────────┐
//!            ▼                                                          │
//!   pulled ─▶ attempt ── refused or no answer ──▶ retry left? ── yes ───┘
//!               │                                     │ no
//!               │ 2xx                                 ▼
//!               ▼                               dead letter sink ── 2xx ─────────▶ settled
//!          reply to send? ── no ─▶ settled            │ none, or it fails
//!               │ yes                                 ▼
//!               ▼                               KN_DEADLETTERS ── PubAck ────────▶ settled
//!          reply sink ── 2xx ────▶ settled            │ fails
//!               └── fails ──▶ dead letter sink        └──▶ NAK, comes again
//! ```

mod attempt;
mod batch;
mod breaker;
mod desk;
mod feed;
mod health;
mod lanes;
mod pace;
pub mod policy;
pub mod redrive;
mod returning;
#[cfg(test)]
mod simulation;
mod slots;
mod trail;
mod window;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::channel::attempts::AttemptLog;
use crate::channel::{Api, Connection, Consumer, DeadLetters, Wire};
use crate::filter::Filter;
use crate::resource::{Breaker, Controls, Delivery, Key};
use crate::sink::Sink;
use crate::telemetry::{Metrics, SubscriptionMeter, Tracer};

pub use feed::Feed;
pub use health::{Health, LastError, Standing, State};
pub use slots::Budget;
pub use worker::Worker;

/// Everything that a subscription needs to work.
#[derive(Clone)]
pub struct Plan {
    pub subscription: Key,
    pub consumer: Consumer,
    pub subscriber: Option<Sink>,
    pub reply: Option<Sink>,
    pub dead_letter_sink: Option<Sink>,
    pub delivery: Delivery,
    /// Which events it wants; all when there is none.
    pub filter: Option<Filter>,
    pub controls: Controls,
    /// Bounds one request where `delivery.timeout` is not set.
    pub request_timeout: Duration,
}

impl Plan {
    fn timeout(&self) -> Duration {
        self.delivery.timeout.unwrap_or(self.request_timeout)
    }

    /// Whether a sink that cannot be reached holds its events back. Holding beats a pile of kept dead letters; a dead letter
    /// sink is where its owner wants them.
    fn has_breaker(&self) -> bool {
        match self.controls.breaker {
            Breaker::Auto => self.dead_letter_sink.is_none(),
            Breaker::On => true,
            Breaker::Off => false,
        }
    }
}

/// What all subscriptions share.
#[derive(Clone)]
pub struct Shared {
    /// Every pull has it too.
    pub api: Arc<Api>,
    /// Events come over this connection, and their acknowledgements go over it.
    pub pulls: Wire,
    /// The JetStream API uses this one.
    pub control: Connection,
    pub dead_letters: DeadLetters,
    pub attempts: AttemptLog,
    pub feed: Feed,
    pub metrics: Arc<Metrics>,
    /// Requests that may be under way, of all subscriptions together.
    pub budget: Budget,
    /// `None` when nobody records traces.
    pub tracer: Option<Tracer>,
}

/// A plan and its surroundings, as the events at work see them.
type Context = Arc<Surroundings>;

/// A subscription's plan, what it shares with others, and what is told of it.
struct Surroundings {
    plan: Plan,
    shared: Shared,
    meter: Arc<SubscriptionMeter>,
    trail: trail::Trail,
    book: Arc<health::Book>,
}

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
mod health;
pub mod policy;
mod slots;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Api, Connection, Consumer, DeadLetters};
use crate::resource::{Delivery, Key};
use crate::sink::Sink;

pub use health::{Health, State};
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
    /// Bounds one request where `delivery.timeout` is not set.
    pub request_timeout: Duration,
}

/// What all subscriptions share.
#[derive(Clone)]
pub struct Shared {
    pub api: Api,
    /// Messages come over this connection, and their acknowledgements go over it.
    pub pulls: Connection,
    /// Dead letters and the JetStream API use this one.
    pub control: Connection,
    pub dead_letters: DeadLetters,
}

/// A plan and its surroundings, as the events at work see them.
type Context = Arc<(Plan, Shared)>;

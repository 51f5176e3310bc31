//! knats: a Knative-style CloudEvents bridge over NATS JetStream.
//!
//! The way of an event through the house, one direction:
//!
//! ```text
//!   source ──POST──▶ ingress ──▶ channel (JetStream) ──▶ dispatch ──POST──▶ sink
//! ```
//!
//! - [`fault_point`]: where tests make it fail, and what a crash there costs; nothing in a release build
//! - [`event`]: a CloudEvent that cannot be invalid, and its HTTP, NATS and JSON forms
//! - [`filter`]: which events a subscription wants
//! - [`resource`]: Knative's manifests as types, and what they ask the bridge to be
//! - [`telemetry`]: metrics, traces, and which faults are worth a line in the log
//! - [`channel`]: JetStream; the one room that speaks to NATS
//! - [`sink`]: one delivery to one destination, and its outcome
//! - [`server`]: the accept loop that HTTP servers share
//! - [`ingress`]: events in, over HTTP
//! - [`dispatch`]: a subscription at work: pull, attempt, decide, settle last
//! - [`manage`]: what operators ask and do, for the commands and the management API alike
//! - [`admin`]: health, readiness, the management API
//! - [`bridge`]: turns desired resources into running parts; the only room that knows everybody
//! - [`cli`]: one file a command
//!
//! A room may know those above it, never those below. `tests/` holds this to be true.

pub mod admin;
pub mod bridge;
pub mod channel;
pub mod cli;
pub mod dispatch;
pub mod event;
pub mod fault_point;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ingress;
pub mod manage;
pub mod resource;
pub mod server;
pub mod sink;
pub mod telemetry;

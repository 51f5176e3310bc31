//! JetStream: names, connections, streams, consumers, publishing with acknowledgement, pulling, dead letters. The one room
//! that speaks to NATS; it knows no HTTP.

mod api;
pub mod attempts;
mod awaited;
pub mod broker;
mod calls;
pub mod connect;
pub mod consumer;
pub mod context;
pub mod dead_letter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inbox;
mod inspect;
pub mod inventory;
pub mod kept;
mod label;
mod look;
pub mod name;
mod plan;
mod pub_ack;
mod publish;
mod pull;
mod renewal;
pub mod scan;
mod secret;
mod secrets;
pub mod steer;
pub mod stream;
mod take_over;
mod ticket;
mod unanswered;
pub mod watch;
pub mod whereabouts;
pub mod wire;

pub use api::{Api, ApiError, StoredMessage};
pub use calls::{Answers, Call, CallError, Calls};
pub use connect::Connection;
pub use consumer::{Consumer, Silence};
pub use dead_letter::DeadLetters;
pub use inspect::{Count, ServerFacts};
pub use look::{StreamState, channel_of};
pub use plan::{Change, Step};
pub use publish::{PublishError, Publisher, Target, Targets};
pub use pull::{Poison, PullError, Pulled, Puller, RawMessage, Stored};
pub use secret::Secret;
pub use stream::EnsureError;
pub use take_over::Unsettled;
pub use ticket::{Place, Ticket};
pub use whereabouts::Whereabouts;
pub use wire::Wire;

#[cfg(test)]
pub(crate) use api::SimulatedApi;

//! JetStream: names, connections, streams, consumers, publishing with acknowledgement, pulling, dead letters. The one room
//! that speaks to NATS; it knows no HTTP.

mod api;
mod awaited;
pub mod broker;
pub mod connect;
pub mod consumer;
pub mod dead_letter;
mod inbox;
pub mod name;
mod pub_ack;
mod publish;
mod pull;
mod secrets;
pub mod stream;
mod take_over;
mod ticket;
pub mod wire;

pub use api::{Api, ApiError};
pub use connect::Connection;
pub use consumer::Consumer;
pub use dead_letter::DeadLetters;
pub use publish::{PublishError, Publisher, Target, Targets};
pub use pull::{Poison, PullError, Pulled, Puller, RawMessage, Stored};
pub use stream::EnsureError;
pub use take_over::Unsettled;
pub use ticket::{Place, Ticket};
pub use wire::Wire;

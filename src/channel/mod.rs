//! JetStream: names, connections, streams, consumers, publishing with acknowledgement, pulling, dead letters. The one room
//! that speaks to NATS; it knows no HTTP.

mod api;
pub mod attempts;
pub mod backlog;
pub mod broker;
mod calls;
pub mod connect;
pub mod consumer;
pub mod dead_letter;
pub mod name;
mod publish;
mod pull;
pub mod stream;
mod take_over;
mod ticket;
mod unreadable;

pub use api::{Api, ApiError, StoredMessage};
pub use calls::{Call, CallError, Calls};
pub use connect::Connection;
pub use consumer::Consumer;
pub use dead_letter::DeadLetters;
pub use publish::{PublishError, Publisher, Target, Targets};
pub use pull::{Poison, PullError, Pulled, Puller, RawMessage, Stored};
pub use stream::EnsureError;
pub use take_over::Unsettled;
pub use ticket::{Place, Ticket};
pub use unreadable::Search;

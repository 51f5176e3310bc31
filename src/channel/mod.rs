//! JetStream: names, connections, streams, consumers, publishing with acknowledgement, dead letters. The one room that
//! speaks to NATS; it knows no HTTP.

mod publish;

pub use publish::{PublishError, Publisher, Target};

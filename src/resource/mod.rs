//! Knative's resources as types that cannot be invalid, and the set of channels and subscriptions that they ask for.
//!
//! Documents come in as JSON values ([`manifest`] reads them from YAML files; a Kubernetes watch can hand over the same
//! values), [`Desired::build`] makes them into one value that the bridge works towards. Every fault says in which file,
//! document and field it is and what was expected there.

mod delivery;
mod desired;
mod destination;
mod duration;
mod fault;
mod kinds;
pub mod manifest;
mod reader;

use std::fmt;

pub use delivery::{BackoffPolicy, Delivery, Format};
pub use desired::{
    Channel, ConsumerTemplate, DeliverPolicy, Desired, Discard, Placement, Retention, Source, Storage, StreamTemplate,
    Subscription,
};
pub use destination::{Destination, Resolver};
pub use fault::Fault;

/// The namespace and name of a resource, both as Kubernetes allows them (RFC 1123: lower-case letters, digits, `-`, and `.` in
/// a name), so neither can hold a NATS wildcard, a slash or a space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    namespace: String,
    name: String,
}

impl Key {
    /// `None` when one of the two is not a name that Kubernetes would take.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let _ = (namespace, name);
        todo!()
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for Key {
    type Err = String;

    /// Reads `NAMESPACE/NAME`.
    fn from_str(text: &str) -> Result<Self, String> {
        let _ = text;
        todo!()
    }
}

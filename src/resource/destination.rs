//! Where events go: Knative's Destination (`ref`, `uri` or both) resolved to a channel of ours or a URL.

use std::collections::BTreeMap;
use std::fmt;

use super::Key;

/// A resolved destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A channel (or broker) of ours: delivered straight into its subject, with no HTTP hop.
    Channel(Key),
    /// An absolute URL. It may have a scheme that nobody can deliver to; such a destination was accepted with a warning and
    /// its deliveries fail.
    Url(String),
}

impl fmt::Display for Destination {
    /// The URL, as `knativeerrordest` shows it; a channel's is that of its Knative service.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(key) => {
                write!(f, "http://{}-kn-channel.{}.svc.cluster.local", key.name(), key.namespace())
            }
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// What a `ref` to a Service means outside a cluster (`--resolve NS/NAME=URL`).
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    pub services: BTreeMap<Key, String>,
}

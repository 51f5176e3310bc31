//! What streams and consumers of ours say of themselves in their metadata, so that NATS alone can tell what they are.

/// Whose consumer this is. eventing-natss names its own `KN_SUB_...` too.
pub(super) const SUBSCRIPTION: &str = "knats.dev/subscription";
pub(super) const CHANNEL: &str = "knats.dev/channel";
pub(super) const KIND: &str = "knats.dev/kind";
/// The filter as it was declared, compact JSON: a list for Knative's `filters`, an object for its older attributes.
pub(super) const FILTER: &str = "knats.dev/filter";

pub(super) const BROKER: &str = "Broker";
pub(super) const TRIGGER: &str = "Trigger";

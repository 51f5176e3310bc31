//! What is missing until the bridge is what it should be, in words for `/readyz`.

use crate::admin::{Missing, Readiness};
use crate::channel::connect::DEAF;
use crate::resource::Key;

/// What is true until somebody has looked.
pub(super) fn starting() -> Readiness {
    Readiness { missing: vec![nats()], ..Readiness::default() }
}

pub(super) fn draining() -> Readiness {
    let reason = "draining, it takes no more events".to_owned();
    Readiness { missing: vec![Missing { kind: "bridge", name: None, reason }], ..Readiness::default() }
}

pub(super) fn nats() -> Missing {
    Missing { kind: "nats", name: None, reason: "not connected".to_owned() }
}

pub(super) fn deaf() -> Missing {
    Missing { kind: "nats", name: None, reason: DEAF.to_owned() }
}

pub(super) fn channel(key: &Key, reason: &str) -> Missing {
    Missing { kind: "channel", name: Some(key.to_string()), reason: reason.to_owned() }
}

pub(super) fn subscription(key: &Key, reason: &str) -> Missing {
    Missing { kind: "subscription", name: Some(key.to_string()), reason: reason.to_owned() }
}

//! What is missing until the bridge is what it should be, in words for `/readyz`.

use crate::admin::{Missing, Readiness};
use crate::dispatch::State;
use crate::resource::Key;

pub(super) fn starting() -> Readiness {
    unready("bridge", None, "starting")
}

pub(super) fn draining() -> Readiness {
    unready("bridge", None, "draining, it takes no more events")
}

fn unready(kind: &'static str, name: Option<String>, reason: &str) -> Readiness {
    Readiness { missing: vec![Missing { kind, name, reason: reason.to_owned() }], resource_faults: Vec::new() }
}

pub(super) fn nats() -> Missing {
    Missing { kind: "nats", name: None, reason: "not connected".to_owned() }
}

pub(super) fn channel(key: &Key, reason: &str) -> Missing {
    Missing { kind: "channel", name: Some(key.to_string()), reason: reason.to_owned() }
}

pub(super) fn subscription(key: &Key, reason: &str) -> Missing {
    Missing { kind: "subscription", name: Some(key.to_string()), reason: reason.to_owned() }
}

pub(super) fn worker(key: &Key, state: &State) -> Option<Missing> {
    match state {
        State::Pulling => None,
        State::Stalled(reason) | State::Gone(reason) => Some(subscription(key, reason)),
    }
}

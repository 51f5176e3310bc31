//! Knative's resources as types that cannot be invalid, and the set of channels and subscriptions that they ask for.
//!
//! Documents come in as JSON values ([`manifest`] reads them from YAML files; a Kubernetes watch can hand over the same
//! values), [`Desired::build`] makes them into one value that the bridge works towards. Every fault says in which file,
//! document and field it is and what was expected there.

mod address;
pub mod certificates;
mod controls;
mod delivery;
mod desired;
mod destination;
mod draft;
mod duration;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod kinds;
pub mod manifest;
mod reader;
mod subjects;

use std::fmt;

pub use address::{Address, shown_url, without_user};
pub use controls::{Batch, Breaker, Controls, Ordering};
pub use delivery::{BackoffPolicy, Delivery, Format};
pub use desired::{
    Channel, ChannelKind, ConsumerTemplate, DeliverPolicy, Desired, Discard, Placement, Retention, Source, Storage,
    StreamTemplate, Subscription, SubscriptionKind,
};
pub use destination::{Destination, Resolver, resolve_entry};
pub use fault::Fault;
pub use reader::closest;
pub use subjects::AllowedSubjects;

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
        Some(Self { namespace: self::namespace(namespace).ok()?, name: self::name(name).ok()? })
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
        let (namespace_text, name_text) =
            text.split_once('/').ok_or_else(|| format!("\"{text}\" is not NAMESPACE/NAME, as in default/foo"))?;
        let namespace = namespace(namespace_text)
            .map_err(|expected| format!("\"{namespace_text}\" is not a namespace, expected {expected}"))?;
        let name = name(name_text).map_err(|expected| format!("\"{name_text}\" is not a name, expected {expected}"))?;
        Ok(Self { namespace, name })
    }
}

/// A DNS label of RFC 1123, as Kubernetes demands of namespaces; the error says what that is.
fn namespace(text: &str) -> Result<String, &'static str> {
    if text.len() <= 63 && is_dns_word(text) {
        Ok(text.to_owned())
    } else {
        Err("at most 63 lower-case letters, digits and '-', with a letter or digit at both ends")
    }
}

/// A DNS subdomain of RFC 1123, as Kubernetes demands of names; the error says what that is.
fn name(text: &str) -> Result<String, &'static str> {
    if text.len() <= 253 && text.split('.').all(is_dns_word) {
        Ok(text.to_owned())
    } else {
        Err(
            "at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each '.'",
        )
    }
}

fn is_dns_word(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_takes_what_kubernetes_takes() {
        let label = "a".repeat(63);
        let name = "a".repeat(253);
        for (namespace, name) in
            [("default", "foo"), ("0", "9"), ("a-b", "a--b"), ("x", "a.b-c.d"), (&label, "n"), ("n", &name)]
        {
            let key = Key::new(namespace, name).unwrap();
            assert_eq!((key.namespace(), key.name()), (namespace, name));
            assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        }
    }

    #[test]
    fn a_key_takes_nothing_else() {
        let label = "a".repeat(64);
        let name = "a".repeat(254);
        for (namespace, name) in [
            ("", "a"),
            ("a", ""),
            ("A", "a"),
            ("a", "A"),
            ("a.b", "a"),
            ("-a", "a"),
            ("a-", "a"),
            ("a", ".a"),
            ("a", "a."),
            ("a", "a..b"),
            ("a", "a.-b"),
            ("a", "a_b"),
            ("a", "*"),
            ("a", ">"),
            ("a", "a b"),
            ("a", "a/b"),
            ("a", "ä"),
            ("a", "a\n"),
            (&label, "a"),
            ("a", &name),
        ] {
            assert_eq!(Key::new(namespace, name), None, "{namespace:?} {name:?}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_says_which_half_is_wrong() {
        for (text, part) in
            [("foo", "NAMESPACE/NAME"), ("A/foo", "\"A\" is not a namespace"), ("a/b/c", "\"b/c\" is not a name")]
        {
            assert!(text.parse::<Key>().unwrap_err().contains(part), "{text}");
        }
    }
}

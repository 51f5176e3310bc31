//! Where events go: Knative's Destination (`ref`, `uri` or both) resolved to a channel of ours or a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use url::Url;

use super::address::{Address, shown_url};
use super::kinds::CHANNEL_KINDS;
use super::reader::{At, Fields, shown};
use super::{Key, certificates};

pub(super) const BROKER_KIND: &str = "Broker";

const MESSAGING_GROUP: &str = "messaging.knative.dev";
const EVENTING_GROUP: &str = "eventing.knative.dev";
const SERVING_GROUP: &str = "serving.knative.dev";

/// Where Knative's shared broker ingress lives in a cluster.
const BROKER_INGRESS: &str = "http://broker-ingress.knative-eventing.svc.cluster.local";

/// A resolved destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A channel (or broker) of ours: delivered straight into its subject, with no HTTP hop.
    Channel(Key),
    Url(Address),
}

impl fmt::Display for Destination {
    /// The URL; a channel's is that of its Knative service.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(key) => {
                write!(f, "http://{}-kn-channel.{}.svc.cluster.local", key.name(), key.namespace())
            }
            Self::Url(address) => f.write_str(&address.url),
        }
    }
}

impl Destination {
    /// The address as it may be shown to anybody.
    pub fn shown(&self) -> String {
        match self {
            Self::Url(address) => shown_url(&address.url),
            Self::Channel(_) => self.to_string(),
        }
    }
}

/// What a `ref` to a Service means outside a cluster (`--resolve NS/NAME=URL`).
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    pub services: BTreeMap<Key, String>,
}

/// Reads `NS/NAME=URL`, as `--resolve` has it.
///
/// # Errors
/// What is wrong with it.
pub fn resolve_entry(text: &str) -> Result<(Key, String), String> {
    let (key, url) = text
        .split_once('=')
        .ok_or_else(|| "expected NAMESPACE/NAME=URL, as in default/viewer=http://127.0.0.1:8081".to_owned())?;
    let key = key.parse()?;
    let parsed = absolute_url(url).map_err(|expected| format!("\"{}\" is not {expected}", shown(url)))?;
    if !is_http(&parsed) {
        return Err(format!("\"{}\" has the scheme {}, expected http or https", shown(url), parsed.scheme()));
    }
    Ok((key, url.to_owned()))
}

/// What the references of all objects are resolved with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses<'a> {
    pub(super) resolver: &'a Resolver,
    /// The brokers that any document declares. Any other broker is somebody else's and has a URL.
    pub(super) brokers: &'a BTreeSet<Key>,
}

/// What a destination is resolved with: the namespace of the object that holds it, and what is known of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) namespace: &'a str,
    pub(super) addresses: Addresses<'a>,
}

impl Destination {
    /// Reads and resolves a Knative Destination: `ref`, absolute `uri`, or `ref` with a relative `uri`.
    pub(super) fn read(at: &At<'_>, context: &Context<'_>) -> Option<Self> {
        at.object(|fields| {
            if let Some(audience) = fields.take("audience") {
                audience.string();
                audience.has_no_effect();
            }
            let (reference, uri, ca_certs) = (fields.take("ref"), fields.take("uri"), fields.take("CACerts"));
            let destination = match (reference, uri) {
                (None, None) => {
                    fields.at().fault("names no destination, expected ref or uri");
                    None
                }
                (None, Some(uri)) => Self::from_uri(&uri),
                (Some(reference), None) => Self::from_reference(&reference, context),
                (Some(reference), Some(uri)) => Self::joined(&reference, &uri, context),
            };
            match ca_certs {
                Some(ca_certs) => destination.map(|destination| destination.trusting(&ca_certs)),
                None => destination,
            }
        })?
    }

    /// Takes over the certificate authorities of its manifest. Where there is no TLS they have no effect.
    fn trusting(mut self, at: &At<'_>) -> Self {
        let Some(pem) = at.string() else { return self };
        if let Err(fault) = certificates::authorities(pem.as_bytes()) {
            at.fault(fault);
        }
        let is_https = |url: &str| Url::parse(url).is_ok_and(|url| url.scheme() == "https");
        match &mut self {
            Self::Url(address) if is_https(&address.url) => address.ca_certs = Some(pem.into()),
            Self::Url(_) | Self::Channel(_) => at.has_no_effect(),
        }
        self
    }

    fn from_uri(at: &At<'_>) -> Option<Self> {
        let text = at.string()?;
        // The text is kept as it was written: `knativeerrordest` shows it so.
        let url = at.parsed(absolute_url)?;
        if !is_http(&url) {
            at.warn(format_args!("the scheme {} is neither http nor https: deliveries will fail", url.scheme()));
        }
        Some(Self::Url(text.into()))
    }

    fn from_reference(at: &At<'_>, context: &Context<'_>) -> Option<Self> {
        let reference = at.object(|fields| Reference::read(fields, context.namespace))??;
        let Key { namespace, name } = &reference.key;
        if reference.is_channel_of_ours() || reference.is_broker_of_ours(context.addresses.brokers) {
            return Some(Self::Channel(reference.key));
        }
        if let Some(url) = context.addresses.resolver.services.get(&reference.key) {
            return Some(Self::Url(url.clone().into()));
        }
        let url = match (reference.group.as_str(), reference.kind.as_str()) {
            ("" | SERVING_GROUP, "Service") => format!("http://{name}.{namespace}.svc.cluster.local"),
            (EVENTING_GROUP, BROKER_KIND) => format!("{BROKER_INGRESS}/{namespace}/{name}"),
            (MESSAGING_GROUP, kind) if kind.ends_with("Channel") => {
                format!("http://{name}-kn-channel.{namespace}.svc.cluster.local")
            }
            (_, kind) => {
                at.fault(format!(
                    "the address of a {} is not known here, expected a Service, Broker or channel, or the flag --resolve {}=URL",
                    shown(kind),
                    reference.key
                ));
                return None;
            }
        };
        Some(Self::Url(url.into()))
    }

    /// A relative `uri` is resolved against the URL of the `ref` as RFC 3986 says.
    fn joined(reference: &At<'_>, uri: &At<'_>, context: &Context<'_>) -> Option<Self> {
        let base = Self::from_reference(reference, context);
        let relative = uri.string()?;
        if Url::parse(relative) != Err(url::ParseError::RelativeUrlWithoutBase) || has_stray_characters(relative) {
            uri.fault(format!("found the string \"{}\", expected a relative URI beside ref", shown(relative)));
            return None;
        }
        match base? {
            Self::Channel(key) => {
                uri.fault(format!("{key} takes events without HTTP, expected no uri beside its ref"));
                None
            }
            Self::Url(base) => {
                let join = |relative: &str| Url::parse(&base.url).and_then(|base| base.join(relative));
                let url = uri.parsed(|relative| join(relative).map_err(|_| "a relative URI such as /path"))?;
                Some(Self::Url(url.to_string().into()))
            }
        }
    }
}

/// A Knative reference to an object.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) key: Key,
}

impl Reference {
    /// `None` when a fault was found.
    pub(super) fn read(fields: &mut Fields<'_>, default_namespace: &str) -> Option<Self> {
        if let Some(address) = fields.take("address") {
            address.string();
            address.has_no_effect();
        }
        let group = Self::read_group(fields);
        let kind = fields.require("kind", "a kind such as Service").and_then(|at| at.parsed(non_empty));
        let namespace = match fields.take("namespace") {
            Some(at) => at.parsed(super::namespace),
            None => Some(default_namespace.to_owned()),
        };
        let name = fields.require("name", "the name of an object").and_then(|at| at.parsed(super::name));
        Some(Self { group: group?, kind: kind?, key: Key { namespace: namespace?, name: name? } })
    }

    /// The API group, from `apiVersion` or from `group`; empty for the core group.
    fn read_group(fields: &mut Fields<'_>) -> Option<String> {
        let group = fields.take("group");
        let Some(api_version) = (match group {
            Some(_) => fields.take("apiVersion"),
            None => Some(fields.require("apiVersion", "an API version such as v1")?),
        }) else {
            return group?.parsed(non_empty);
        };
        let of_version = api_version.parsed(|text| non_empty(text).map(|text| group_of(&text).to_owned()))?;
        if let Some(group) = group
            && group.string()? != of_version
        {
            group.fault(format!("is not the group of apiVersion, expected \"{of_version}\" or no group"));
            return None;
        }
        Some(of_version)
    }

    fn is_channel_of_ours(&self) -> bool {
        self.group == MESSAGING_GROUP && CHANNEL_KINDS.contains(&self.kind.as_str())
    }

    fn is_broker_of_ours(&self, brokers: &BTreeSet<Key>) -> bool {
        self.group == EVENTING_GROUP && self.kind == BROKER_KIND && brokers.contains(&self.key)
    }
}

/// The group in an `apiVersion`; the core group is empty.
pub(super) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn non_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("a text that is not empty") } else { Ok(text.to_owned()) }
}

fn absolute_url(text: &str) -> Result<Url, &'static str> {
    const EXPECTED: &str = "an absolute URL with scheme and host, such as http://example.com/path";
    let other_scheme = Url::parse(text).ok().filter(|url| !is_http(url) && !has_stray_characters(text));
    if let Some(url) = other_scheme {
        // `localhost:8080` has a scheme by the letter, but nobody means it.
        let is_port = text.split_once(':').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
        return if is_port { Err(EXPECTED) } else { Ok(url) };
    }
    // The parser also makes a host of what follows in http:host, http:///host and http:\\host.
    let names_host = text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/'));
    if !names_host || has_stray_characters(text) {
        return Err(EXPECTED);
    }
    Url::parse(text).ok().filter(|url| url.host_str().is_some_and(|host| !host.is_empty())).ok_or(EXPECTED)
}

/// Characters that no URI has; the parser drops or replaces them.
fn has_stray_characters(text: &str) -> bool {
    text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

#[cfg(test)]
mod tests;

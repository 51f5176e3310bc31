//! Owns the tables of destinations and what each resolves to.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::resource::reader::Report;

/// The destination as it is shown, or its faults.
fn resolve(destination: &Value) -> Result<Destination, Vec<String>> {
    let services = [
        ("default/known", "http://127.0.0.1:8081/base/"),
        ("default/foo", "http://elsewhere"),
        ("default/ours", "http://elsewhere"),
    ];
    let resolver =
        Resolver { services: services.iter().map(|(key, url)| (key.parse().unwrap(), (*url).to_owned())).collect() };
    let report = Report::new("f", 1);
    let brokers = BTreeSet::from(["default/ours".parse().unwrap()]);
    let context = Context { namespace: "default", addresses: Addresses { resolver: &resolver, brokers: &brokers } };
    let resolved = Destination::read(&report.root(destination), &context);
    let faults: Vec<String> = report.finish().iter().map(ToString::to_string).collect();
    if faults.is_empty() { Ok(resolved.unwrap()) } else { Err(faults) }
}

fn reference(api_version: &str, kind: &str, name: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": name })
}

#[test]
fn a_reference_resolves_as_the_contract_says() {
    for (api_version, kind, name, expected) in [
        ("v1", "Service", "viewer", "http://viewer.default.svc.cluster.local"),
        ("serving.knative.dev/v1", "Service", "viewer", "http://viewer.default.svc.cluster.local"),
        ("v1", "Service", "known", "http://127.0.0.1:8081/base/"),
        ("apps/v1", "Deployment", "known", "http://127.0.0.1:8081/base/"),
        ("messaging.knative.dev/v1", "InMemoryChannel", "c", "http://c-kn-channel.default.svc.cluster.local"),
        ("messaging.knative.dev/v1", "KafkaChannel", "known", "http://127.0.0.1:8081/base/"),
        (
            "eventing.knative.dev/v1",
            "Broker",
            "b",
            "http://broker-ingress.knative-eventing.svc.cluster.local/default/b",
        ),
        ("eventing.knative.dev/v1", "Broker", "known", "http://127.0.0.1:8081/base/"),
        ("v1", "Service", "ours", "http://elsewhere"),
    ] {
        let resolved = resolve(&json!({ "ref": reference(api_version, kind, name) }));
        assert_eq!(resolved, Ok(Destination::Url(expected.into())), "{api_version} {kind}");
    }
}

#[test]
fn a_reference_to_a_channel_of_ours_is_that_channel_whatever_resolve_says() {
    for (api_version, kind) in [
        ("messaging.knative.dev/v1alpha1", "NatsJetStreamChannel"),
        ("messaging.knative.dev/v1", "Channel"),
        ("messaging.knative.dev/v1beta1", "NatssChannel"),
    ] {
        let resolved = resolve(&json!({ "ref": reference(api_version, kind, "foo") }));
        assert_eq!(resolved, Ok(Destination::Channel("default/foo".parse().unwrap())));
    }
    let elsewhere =
        json!({ "ref": { "group": "messaging.knative.dev", "kind": "Channel", "name": "c", "namespace": "ns" } });
    assert_eq!(resolve(&elsewhere), Ok(Destination::Channel("ns/c".parse().unwrap())));
    assert_eq!(resolve(&elsewhere).unwrap().to_string(), "http://c-kn-channel.ns.svc.cluster.local");
}

#[test]
fn a_reference_to_a_declared_broker_is_that_broker_whatever_resolve_says() {
    let broker = reference("eventing.knative.dev/v1", "Broker", "ours");
    assert_eq!(resolve(&json!({ "ref": broker })), Ok(Destination::Channel("default/ours".parse().unwrap())));
    let mut elsewhere = broker;
    elsewhere["namespace"] = "ns".into();
    let url = "http://broker-ingress.knative-eventing.svc.cluster.local/ns/ours";
    assert_eq!(resolve(&json!({ "ref": elsewhere })), Ok(Destination::Url(url.into())));
    assert_eq!(
        resolve(&json!({ "ref": elsewhere, "uri": "/x?y" })),
        Ok(Destination::Url("http://broker-ingress.knative-eventing.svc.cluster.local/x?y".into()))
    );
}

#[test]
fn an_absolute_uri_is_kept_as_it_was_written() {
    for uri in [
        "http://sink",
        "https://Sink.example:8443/a/../b?c=d",
        "http://[::1]:80/",
        "http://user:secret@host/",
        "ftp://host/x",
        "nats://host",
    ] {
        assert_eq!(resolve(&json!({ "uri": uri })), Ok(Destination::Url(uri.into())));
    }
}

#[test]
fn a_relative_uri_is_joined_onto_the_url_of_the_reference() {
    for (name, uri, expected) in [
        ("viewer", "/path?q", "http://viewer.default.svc.cluster.local/path?q"),
        ("viewer", "path", "http://viewer.default.svc.cluster.local/path"),
        ("known", "path", "http://127.0.0.1:8081/base/path"),
        ("known", "/path", "http://127.0.0.1:8081/path"),
        ("known", "../up", "http://127.0.0.1:8081/up"),
        ("known", "?q=1", "http://127.0.0.1:8081/base/?q=1"),
        ("known", "", "http://127.0.0.1:8081/base/"),
    ] {
        let resolved = resolve(&json!({ "ref": reference("v1", "Service", name), "uri": uri }));
        assert_eq!(resolved, Ok(Destination::Url(expected.into())), "{uri}");
    }
}

#[test]
fn what_names_no_destination_is_a_fault() {
    let service = reference("v1", "Service", "s");
    for (destination, expected) in [
        (json!({}), "names no destination, expected ref or uri"),
        (json!({ "ref": null, "uri": null }), "names no destination, expected ref or uri"),
        (json!({ "uri": "/relative" }), "expected an absolute URL"),
        (json!({ "uri": "" }), "expected an absolute URL"),
        (json!({ "uri": "host/path" }), "expected an absolute URL"),
        (json!({ "uri": "localhost:8080/path" }), "expected an absolute URL"),
        (json!({ "uri": "//host/path" }), "expected an absolute URL"),
        (json!({ "uri": "http://" }), "expected an absolute URL"),
        (json!({ "uri": "http:///path" }), "expected an absolute URL"),
        (json!({ "uri": "http:host" }), "expected an absolute URL"),
        (json!({ "uri": "http:\\\\host\\path" }), "expected an absolute URL"),
        (json!({ "uri": "http://?query" }), "expected an absolute URL"),
        (json!({ "uri": "http://a b/" }), "expected an absolute URL"),
        (json!({ "uri": "http://host:99999/" }), "expected an absolute URL"),
        (json!({ "uri": " http://host/" }), "expected an absolute URL"),
        (json!({ "uri": "http://host/\n" }), "expected an absolute URL"),
        (json!({ "uri": 1 }), "uri: found the number 1, expected a string"),
        (json!({ "url": "http://host" }), "unknown field, did you mean uri?"),
        (json!({ "ref": service, "uri": "http://host" }), "expected a relative URI beside ref"),
        (
            json!({ "ref": reference("messaging.knative.dev/v1", "Channel", "c"), "uri": "/x" }),
            "expected no uri beside its ref",
        ),
        (
            json!({ "ref": reference("eventing.knative.dev/v1", "Broker", "ours"), "uri": "/x" }),
            "uri: default/ours takes events without HTTP, expected no uri beside its ref",
        ),
        (json!({ "ref": reference("apps/v1", "Deployment", "d") }), "or the flag --resolve default/d=URL"),
        (json!({ "ref": { "apiVersion": "v1", "kind": "Service" } }), "ref.name: is missing"),
        (json!({ "ref": { "apiVersion": "v1", "name": "s" } }), "ref.kind: is missing"),
        (json!({ "ref": { "kind": "Service", "name": "s" } }), "ref.apiVersion: is missing"),
        (
            json!({ "ref": { "apiVersion": "", "kind": "Service", "name": "s" } }),
            "ref.apiVersion: found the string \"\"",
        ),
        (
            json!({ "ref": { "apiVersion": "v1", "group": "apps", "kind": "Service", "name": "s" } }),
            "ref.group: is not the group of apiVersion",
        ),
        (json!({ "ref": { "apiVersion": "v1", "kind": "Service", "name": "S" } }), "ref.name: found the string \"S\""),
        (
            json!({ "ref": { "apiVersion": "v1", "kind": "Service", "name": "s", "namespace": "a.b" } }),
            "ref.namespace: found",
        ),
        (
            json!({ "ref": { "apiVersion": "v1", "kind": "Service", "name": "s", "nmae": "s" } }),
            "ref.nmae: unknown field",
        ),
        (json!({ "uri": "http://host", "CACerts": 1 }), "CACerts: found the number 1"),
        (json!("http://host"), "expected an object"),
    ] {
        let faults = resolve(&destination).unwrap_err();
        assert!(
            faults.iter().any(|fault| fault.contains(expected))
                && (faults.len() == 1 || expected.contains("did you mean")),
            "{destination} {faults:#?}"
        );
    }
}

/// A certificate authority, made now.
fn authority() -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn certificate_authorities_are_those_of_an_https_destination_alone() {
    let pem = format!("{}{}", authority(), authority());
    for (url, kept) in [("https://host", true), ("HTTPS://host", true), ("http://host", false)] {
        let destination = json!({ "uri": url, "CACerts": pem, "audience": "a" });
        let ca_certs = kept.then(|| pem.as_str().into());
        assert_eq!(resolve(&destination), Ok(Destination::Url(Address { url: url.to_owned(), ca_certs })));
    }
    let joined = json!({ "ref": reference("v1", "Service", "s"), "uri": "https://host/x", "CACerts": pem });
    assert!(resolve(&joined).is_err());
}

#[test]
fn certificate_authorities_that_are_none_are_a_fault_that_shows_nothing_of_them() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let broken = authority().replacen("MII", "!!!", 1);
    let no_certificate = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for (pem, expected) in [
        ("PEM", "CACerts: holds no certificate, expected at least one in PEM"),
        ("", "CACerts: holds no certificate"),
        (key.as_str(), "CACerts: holds no certificate"),
        (broken.as_str(), "CACerts: is no PEM"),
        (no_certificate, "CACerts: holds no certificate authority in place 1"),
    ] {
        let faults = resolve(&json!({ "uri": "https://host", "CACerts": pem })).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains(expected), "{faults:#?}");
        assert!(!faults[0].contains("MI"), "{faults:#?}");
    }
}

#[test]
fn a_resolve_entry_is_a_key_and_an_http_url() {
    for (text, url) in [
        ("default/viewer=http://127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("default/viewer=https://host/a?b=c", "https://host/a?b=c"),
    ] {
        assert_eq!(resolve_entry(text), Ok(("default/viewer".parse().unwrap(), url.to_owned())));
    }
    for (text, part) in [
        ("", "expected NAMESPACE/NAME=URL"),
        ("default/viewer", "expected NAMESPACE/NAME=URL"),
        ("viewer=http://h", "\"viewer\" is not NAMESPACE/NAME"),
        ("default/Viewer=http://h", "is not a name"),
        ("default/viewer=", "is not an absolute URL"),
        ("default/viewer=/path", "is not an absolute URL"),
        ("default/viewer=ftp://h", "expected http or https"),
    ] {
        assert!(resolve_entry(text).unwrap_err().contains(part), "{text}");
    }
}

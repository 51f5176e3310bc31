//! TLS at the ingress: who is let in, and certificates that are renewed without a restart.

use std::os::unix::fs::symlink;

use reqwest::Version;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::bridge::Setup;
use crate::support::http::{Message, post};
use crate::support::metrics::scrape;
use crate::support::resources::channel;
use crate::support::tls::{Authority, Certified};
use crate::support::{Bridge, Nats, event, eventually, until};

const STREAM: &str = "KN_DEFAULT__FOO";

/// Files as a Secret in a pod has them: reached through a link that is swapped as one.
struct Secret(TempDir);

impl Secret {
    fn new(identity: &Certified) -> Self {
        let secret = Self(tempfile::tempdir().unwrap());
        secret.swap("first", identity);
        secret
    }

    /// Puts other files in their place.
    fn swap(&self, version: &str, identity: &Certified) {
        let folder = self.0.path().join(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &identity.pem).unwrap();
        std::fs::write(folder.join("tls.key"), &identity.key).unwrap();
        let aside = self.0.path().join("aside");
        symlink(&folder, &aside).unwrap();
        std::fs::rename(&aside, self.0.path().join("data")).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join("data").join(name).to_str().unwrap().to_owned()
    }

    fn given_to(&self, setup: Setup) -> Setup {
        setup.flag("--tls-cert-file", &self.path("tls.crt")).flag("--tls-key-file", &self.path("tls.key"))
    }
}

async fn world(authority: &Authority) -> (Nats, Bridge, Secret) {
    let (nats, secret) = (Nats::start().await, Secret::new(&authority.certify(&["127.0.0.1"])));
    let bridge = secret.given_to(Bridge::of(&nats, &[channel("foo")])).start().await;
    (nats, bridge, secret)
}

/// Sends an event over TLS.
async fn send(
    bridge: &Bridge,
    authority: &Authority,
    client: Option<&Certified>,
    id: &str,
) -> std::io::Result<Message> {
    let mut stream = authority.connect(bridge.tls_address(), client).await?;
    post(&bridge.url("/default/foo")).event(&event(id)).send_on(&mut stream).await
}

#[tokio::test]
async fn events_come_in_over_https_in_both_versions_of_http_and_over_plain_http() {
    let authority = Authority::new("a");
    let (nats, bridge, _secret) = world(&authority).await;
    assert_eq!(send(&bridge, &authority, None, "1").await.unwrap().status(), 202);
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let mut request = client.post(format!("https://{}/default/foo", bridge.tls_address()));
    for (name, value) in event("2").headers {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 202));
    bridge.send("foo", &event("3")).await;
    assert_eq!(nats.count(STREAM).await, 3);
}

#[tokio::test]
async fn with_tls_only_there_is_no_plain_http() {
    let authority = Authority::new("a");
    let (nats, secret) = (Nats::start().await, Secret::new(&authority.certify(&["127.0.0.1"])));
    let setup = secret.given_to(Bridge::of(&nats, &[channel("foo")])).switch("--tls-only");
    let bridge = setup.start().await;
    assert_eq!(send(&bridge, &authority, None, "1").await.unwrap().status(), 202);
    assert!(TcpStream::connect(bridge.address()).await.is_err());
}

#[tokio::test]
async fn plain_http_at_the_tls_port_has_no_answer_and_stores_nothing() {
    let authority = Authority::new("a");
    let (nats, bridge, _secret) = world(&authority).await;
    let url = format!("http://{}/default/foo", bridge.tls_address());
    if let Ok(answer) = post(&url).event(&event("1")).try_send().await {
        assert!(!answer.start.starts_with("HTTP"), "{}", answer.start);
    }
    assert_eq!(nats.count(STREAM).await, 0);
    let refused = [("reason", "tls_handshake")];
    let counted = || async { scrape(&bridge).await.value("ingress_connections_refused_total", &refused) == Some(1.0) };
    until("the failed handshake is counted", counted).await;
    assert_eq!(send(&bridge, &authority, None, "2").await.unwrap().status(), 202);
}

#[tokio::test]
async fn with_an_authority_for_clients_only_its_clients_are_let_in() {
    let (authority, stranger) = (Authority::new("a"), Authority::new("a"));
    let (nats, secret) = (Nats::start().await, Secret::new(&authority.certify(&["127.0.0.1"])));
    let ca = secret.0.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let setup = secret.given_to(Bridge::of(&nats, &[channel("foo")]));
    let bridge = setup.flag("--tls-client-ca-file", ca.to_str().unwrap()).start().await;
    assert!(send(&bridge, &authority, None, "1").await.is_err());
    assert!(send(&bridge, &authority, Some(&stranger.certify(&["127.0.0.1"])), "2").await.is_err());
    assert_eq!(nats.count(STREAM).await, 0);
    assert_eq!(send(&bridge, &authority, Some(&authority.certify(&["127.0.0.1"])), "3").await.unwrap().status(), 202);
}

/// Waits until the bridge shows this certificate.
async fn shows(bridge: &Bridge, authority: &Authority, identity: &Certified) {
    until("the certificate is in force", || async {
        identity.is_of(&authority.connect(bridge.tls_address(), None).await.unwrap())
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_counts_without_a_restart_and_connections_that_stand_go_on() {
    let authority = Authority::new("a");
    let (nats, bridge, secret) = world(&authority).await;
    let mut standing = authority.connect(bridge.tls_address(), None).await.unwrap();
    let first = post(&bridge.url("/default/foo")).event(&event("1")).send_on(&mut standing).await.unwrap();
    let renewed = authority.certify(&["127.0.0.1"]);
    secret.swap("second", &renewed);
    shows(&bridge, &authority, &renewed).await;
    let second = post(&bridge.url("/default/foo")).event(&event("2")).send_on(&mut standing).await.unwrap();
    assert_eq!((first.status(), second.status()), (202, 202));
    assert_eq!(nats.count(STREAM).await, 2);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_once_and_the_last_good_certificate_stays() {
    let authority = Authority::new("a");
    let (_nats, bridge, secret) = world(&authority).await;
    let (pem, key) = (authority.certify(&["127.0.0.1"]).pem, authority.certify(&["127.0.0.1"]).key);
    secret.swap("mixed", &Certified { pem, key });
    let failures =
        || async { scrape(&bridge).await.value("tls_reload_failures_total", &[]).filter(|count| *count > 0.0) };
    assert_eq!(eventually("the fault is counted", failures).await, 1.0);
    assert_eq!(send(&bridge, &authority, None, "1").await.unwrap().status(), 202);
    let renewed = authority.certify(&["127.0.0.1"]);
    secret.swap("good", &renewed);
    shows(&bridge, &authority, &renewed).await;
    let log = bridge.stderr();
    assert_eq!(log.matches("new TLS files refused").count(), 1, "{log}");
    assert!(log.contains(&secret.path("tls.key")), "{log}");
    assert_eq!(failures().await, Some(1.0));
}

#[tokio::test]
async fn a_fault_in_a_file_ends_the_start_with_2_and_names_it_with_what_was_expected() {
    let identity = Authority::new("a").certify(&["127.0.0.1"]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("good.crt", &identity.pem), file("good.key", &identity.key));
    let (nothing, broken) = (file("nothing.pem", ""), file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n"));
    let other = file("other.key", &Authority::new("a").certify(&["127.0.0.1"]).key);
    let missing = dir.path().join("missing").to_str().unwrap().to_owned();
    for (certificate, key, client_ca, named, expected) in [
        (&missing, &key, None, &missing, "expected PEM with the server's certificate"),
        (&nothing, &key, None, &nothing, "expected PEM with the server's certificate"),
        (&broken, &key, None, &broken, "expected PEM with the server's certificate"),
        (&certificate, &missing, None, &missing, "expected PEM with one private key"),
        (&certificate, &certificate, None, &certificate, "expected PEM with one private key"),
        (&certificate, &other, None, &other, "expected a certificate and its key"),
        (&certificate, &key, Some(&nothing), &nothing, "expected PEM with the certificates of the authorities"),
    ] {
        let setup = Bridge::at("nats://127.0.0.1:1").flag("--tls-cert-file", certificate).flag("--tls-key-file", key);
        let setup = match client_ca {
            Some(file) => setup.flag("--tls-client-ca-file", file),
            None => setup,
        };
        let ended = setup.ended().await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(named) && ended.stderr.contains(expected), "{named}: {}", ended.stderr);
        let secret = identity.key.lines().nth(1).unwrap();
        assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_and_tls_only_without_a_certificate_are_matters_of_usage() {
    for flag in ["--tls-cert-file", "--tls-key-file", "--tls-client-ca-file"] {
        let ended = Bridge::at("nats://127.0.0.1:1").flag(flag, "/nowhere").ended().await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("--tls-"), "{}", ended.stderr);
    }
    let ended = Bridge::at("nats://127.0.0.1:1").variable("KNATS_TLS_ONLY", "true").ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--tls-cert-file"), "{}", ended.stderr);
}

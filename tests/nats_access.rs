//! Who the bridge is at NATS, what happens when NATS does not agree, and what it says when a permission is missing.

use std::path::Path;

use serde_json::json;

use crate::support::http::Message;
use crate::support::resources::{channel, subscribe, to_yaml};
use crate::support::tls::Authority;
use crate::support::{Bridge, Nats, Sink, event, until};

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Ready, and an event goes through.
async fn works(bridge: &Bridge, sink: &Sink) {
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
}

fn documents(sink: &Sink) -> String {
    to_yaml(&[channel("foo"), subscribe("sub", "foo", &sink.url("/"))])
}

#[tokio::test]
async fn user_and_password_work_and_wrong_ones_are_told_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start_as("authorization { user: ann, password: secret }");
    let sink = Sink::start().await;
    let start = |password: &str| {
        let password = file(&dir, password, &format!("{password}\n"));
        let setup = Bridge::at(&nats.url()).file("resources.yaml", &documents(&sink));
        setup.flag("--nats-user", "ann").flag("--nats-password-file", &password).spawn()
    };
    works(&start("secret"), &sink).await;
    let mut wrong = start("guess");
    until("the log tells why", || async { wrong.stderr().to_lowercase().contains("authorization violation") }).await;
    let answer = wrong.wait_for_readyz("503", |answer| answer.status() == 503).await;
    assert!(answer.text().contains("nats"), "{}", answer.text());
    assert!(wrong.is_running());
    let log = wrong.stderr();
    assert!(log.lines().count() < 20 && !log.contains("guess\""), "{log}");
}

#[tokio::test]
async fn a_token_works() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start_as("authorization { token: s3cr3t }");
    let sink = Sink::start().await;
    let token = file(&dir, "token", "s3cr3t\n");
    let setup = Bridge::at(&nats.url()).file("resources.yaml", &documents(&sink));
    works(&setup.flag("--nats-token-file", &token).spawn(), &sink).await;
}

/// A published example of a key pair; it opens nothing but this test's server.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

#[tokio::test]
async fn an_nkey_works() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start_as(&format!("authorization {{ users: [{{ nkey: {PUBLIC} }}] }}"));
    let sink = Sink::start().await;
    let seed = file(&dir, "seed", &format!("{SEED}\n"));
    let setup = Bridge::at(&nats.url()).file("resources.yaml", &documents(&sink));
    works(&setup.flag("--nats-nkey-file", &seed).spawn(), &sink).await;
}

/// A certificate authority and certificates of it for a server and a client on 127.0.0.1, in files.
fn certificates(dir: &Path) {
    let authority = Authority::new("test-ca");
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        authority.certify(&["127.0.0.1"]).write(dir, name);
    }
}

#[tokio::test]
async fn tls_with_a_client_certificate_works_and_without_the_authority_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let nats = Nats::start_as(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    ));
    let sink = Sink::start().await;
    let setup = |url: &str| {
        let setup = Bridge::at(url).file("resources.yaml", &documents(&sink));
        setup.flag("--nats-cert", &path("client.pem")).flag("--nats-key", &path("client.key"))
    };
    // The second one hears from the server that it wants TLS.
    for url in [nats.url().replace("nats://", "tls://"), nats.url()] {
        works(&setup(&url).flag("--nats-ca", &path("ca.pem")).spawn(), &sink).await;
    }
    let mut stranger = setup(&nats.url()).spawn();
    until("the log tells why", || async { stranger.stderr().contains("cannot connect to NATS") }).await;
    assert!(stranger.is_running());
    assert_eq!(stranger.readyz().await.unwrap().status(), 503);
}

#[tokio::test]
async fn a_server_with_the_certificate_of_another_host_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let nats =
        Nats::start_as(&format!("tls {{ cert_file: {:?}, key_file: {:?} }}", path("server.pem"), path("server.key")));
    let url = nats.url().replace("127.0.0.1", "localhost");
    let mut bridge = Bridge::at(&url).flag("--nats-ca", &path("ca.pem")).spawn();
    until("the log tells why", || async { bridge.stderr().contains("not valid for name") }).await;
    assert!(bridge.is_running());
    assert_eq!(bridge.readyz().await.unwrap().status(), 503);
}

#[tokio::test]
async fn an_nkey_seed_or_credentials_that_are_none_are_named_with_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let broken = file(&dir, "broken", "nonsense\n");
    for flag in ["--nats-nkey-file", "--nats-creds"] {
        let ended = Bridge::at("nats://127.0.0.1:1").flag(flag, &broken).ended().await;
        assert_eq!(ended.code, Some(2));
        assert!(ended.stderr.contains(&broken) && ended.stderr.contains(flag), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_secret_file_that_is_not_there_is_named_with_exit_2() {
    let setup = Bridge::at("nats://127.0.0.1:1").flag("--nats-token-file", "/nowhere/token");
    let ended = setup.ended().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("/nowhere/token") && ended.stderr.contains("--nats-token-file"), "{}", ended.stderr);
}

/// A server that denies publishing to this subject.
async fn denying(subject: &str) -> Nats {
    Nats::start_with(&format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, \
         {{ user: some, password: p, permissions: {{ publish: {{ deny: [\"{subject}\"] }} }} }} ] }} }}\nno_auth_user: some"
    ))
    .await
}

#[tokio::test]
async fn a_channel_that_we_may_not_publish_to_is_503_and_says_so_at_once() {
    let nats = denying("foo.default").await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), channel("bar")]).await;
    for id in 0..20 {
        let begun = std::time::Instant::now();
        let answer = bridge.post("foo", &event(&id.to_string())).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.header("retry-after").is_some());
        let says = answer.text().contains("permit") && answer.text().contains("foo.default");
        assert!(says && begun.elapsed().as_secs() < 3, "{} after {:?}", answer.text(), begun.elapsed());
    }
    bridge.send("bar", &event("1")).await;
    let told = bridge.stderr().matches("ermissions Violation").count();
    assert_eq!(told, 1, "{}", bridge.stderr());
}

#[tokio::test]
async fn a_pull_that_is_denied_makes_the_subscription_unready_with_the_reason() {
    let nats = denying("$JS.API.CONSUMER.MSG.NEXT.KN_DEFAULT__FOO.*").await;
    let sink = Sink::start().await;
    let documents = [
        channel("foo"),
        channel("bar"),
        subscribe("sub", "foo", &sink.url("/foo")),
        subscribe("other", "bar", &sink.url("/bar")),
    ];
    let bridge = Bridge::of(&nats, &documents).spawn();
    let reason = |answer: &Message| {
        answer.status() == 503 && answer.text().contains("MSG.NEXT.KN_DEFAULT__FOO") && answer.text().contains("permit")
    };
    let answer = bridge.wait_for_readyz("503 with the subject", reason).await;
    let missing = answer.json()["missing"].clone();
    assert_eq!((missing.as_array().unwrap().len(), &missing[0]["name"]), (1, &json!("default/sub")));
    bridge.send("bar", &event("1")).await;
    sink.wait_for_id("/bar", "1").await;
}

#[tokio::test]
async fn an_api_call_that_is_denied_is_named_in_readyz() {
    let nats = denying("$JS.API.STREAM.CREATE.KN_DEFAULT__FOO").await;
    let bridge = Bridge::of(&nats, &[channel("foo"), channel("bar")]).spawn();
    let reason = |answer: &Message| answer.status() == 503 && answer.text().contains("STREAM.CREATE.KN_DEFAULT__FOO");
    bridge.wait_for_readyz("503 with the subject", reason).await;
    bridge.send("bar", &event("1")).await;
}

#[tokio::test]
async fn a_renewed_authority_of_nats_counts_from_the_next_connection_on() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut nats =
        Nats::start_as(&format!("tls {{ cert_file: {:?}, key_file: {:?} }}", path("server.pem"), path("server.key")));
    let sink = Sink::start().await;
    let bridge = Bridge::at(&nats.url()).file("resources.yaml", &documents(&sink)).flag("--nats-ca", &path("ca.pem"));
    let bridge = bridge.start().await;
    nats.kill9();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    certificates(dir.path());
    nats.spawn_again();
    works(&bridge, &sink).await;
}

//! Whom the bridge trusts over TLS, who it is to sinks, and that both are renewed without a restart.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::nats::header;
use crate::support::process::{Ended, Process, knats};
use crate::support::resources::{channel, subscribe, subscription, to_yaml};
use crate::support::tls::{Authority, Front};
use crate::support::{Answer, Bridge, Nats, Sink, event, until};

/// Files as Kubernetes mounts them: links through a link to a directory, which is swapped as one.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn write(&self, files: &[(&str, &str)]) {
        let version = tempfile::Builder::new().prefix("..").tempdir_in(self.0).unwrap().keep();
        for (name, text) in files {
            std::fs::write(version.join(name), text).unwrap();
            // There from the first time on.
            let _ = std::os::unix::fs::symlink(Path::new("..data").join(name), self.0.join(name));
        }
        std::os::unix::fs::symlink(&version, self.0.join("..new")).unwrap();
        std::fs::rename(self.0.join("..new"), self.0.join("..data")).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

/// What kept dead letters tell of why, by the ids of their events.
async fn reasons(nats: &Nats, count: usize) -> Vec<(String, String)> {
    let kept = nats.dead_letters(count).await;
    let told = |message| {
        let data = STANDARD.decode(header(message, "ce-knativeerrordata").unwrap()).unwrap();
        (header(message, "ce-id").unwrap().to_owned(), String::from_utf8(data).unwrap())
    };
    let mut all: Vec<_> = kept.iter().map(told).collect();
    all.sort();
    all
}

async fn log_has(bridge: &Bridge, text: &str, times: usize) {
    until(text, || async { bridge.stderr().matches(text).count() == times }).await;
}

#[tokio::test]
async fn authorities_of_a_file_are_trusted_and_read_again_when_it_changes_and_a_bad_file_changes_nothing() {
    let (nats, sink, dir) = (Nats::start().await, Sink::start().await, tempfile::tempdir().unwrap());
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let front = Front::before(&sink, &new).await;
    let files = Mounted(dir.path());
    files.write(&[("ca.pem", old.pem())]);
    let third = json!({"uri": front.url("/third"), "CACerts": Authority::new("third").pem()});
    let documents = [
        channel("foo"),
        subscribe("sub", "foo", &front.url("/")),
        subscription("besides", "foo", json!({"subscriber": third, "delivery": {"retry": 0}})),
    ];
    let bridge = Bridge::of(&nats, &documents).flag("--sink-ca-file", &files.path("ca.pem")).start().await;
    bridge.send("foo", &event("1")).await;
    let (_, reason) = reasons(&nats, 2).await.remove(0);
    assert!(
        reason.contains("not signed by an authority that is trusted") && reason.contains("--sink-ca-file"),
        "{reason}"
    );

    files.write(&[("ca.pem", &format!("{}{}", old.pem(), new.pem()))]);
    log_has(&bridge, "read anew", 1).await;
    bridge.send("foo", &event("2")).await;
    sink.wait_for_id("/", "2").await;
    sink.wait_for_id("/third", "2").await;

    files.write(&[("ca.pem", "nonsense")]);
    log_has(&bridge, "stay as they were", 1).await;
    assert!(bridge.stderr().contains(&files.path("ca.pem")), "{}", bridge.stderr());
    files.write(&[("ca.pem", old.pem())]);
    log_has(&bridge, "read anew", 2).await;
    // What stood with the old trust is used no more.
    bridge.send("foo", &event("3")).await;
    let ids: Vec<String> = reasons(&nats, 4).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["1", "1", "3", "3"]);
    assert_eq!(bridge.stderr().matches("stay as they were").count(), 1);
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_renewed_without_a_restart() {
    let (nats, sink, dir) = (Nats::start().await, Sink::start().await, tempfile::tempdir().unwrap());
    let (servers, clients, strangers) = (Authority::new("s"), Authority::new("c"), Authority::new("x"));
    let front = Front::that_asks(&sink, &servers, &clients).await;
    let files = Mounted(dir.path());
    let show = |authority: &Authority| {
        let us = authority.certify(&["us"]);
        files.write(&[("ca.pem", servers.pem()), ("us.pem", &us.pem), ("us.key", &us.key)]);
    };
    show(&strangers);
    let documents = [channel("foo"), subscribe("sub", "foo", &front.url("/"))];
    let setup = Bridge::of(&nats, &documents).flag("--sink-ca-file", &files.path("ca.pem"));
    let setup = setup.flag("--sink-client-cert-file", &files.path("us.pem"));
    let bridge = setup.flag("--sink-client-key-file", &files.path("us.key")).start().await;
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    until("the sink has refused it", || async { front.refused() > 0 }).await;
    show(&clients);
    log_has(&bridge, "read anew", 1).await;
    bridge.send("foo", &event("2")).await;
    sink.wait_for_id("/", "2").await;
    // A key that does not go with its certificate, as between two writes.
    std::fs::write(dir.path().join("..data/us.key"), &strangers.certify(&["us"]).key).unwrap();
    log_has(&bridge, "stay as they were", 1).await;
    bridge.send("foo", &event("3")).await;
    sink.wait_for_id("/", "3").await;
}

#[tokio::test]
async fn authorities_of_a_destination_are_trusted_there_and_nowhere_else() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/ask" => Answer::event("reply"),
        "/reply" => Answer::status(400),
        _ => Answer::status(200),
    })
    .await;
    let (one, other, third) = (Authority::new("1"), Authority::new("2"), Authority::new("3"));
    let first = Front::before(&sink, &one).await;
    let (second, last) = (Front::before(&sink, &other).await, Front::before(&sink, &third).await);
    let destination = |url: String, authority: &Authority| json!({"uri": url, "CACerts": authority.pem()});
    let whole = json!({
        "subscriber": destination(first.url("/ask"), &one),
        "reply": destination(second.url("/reply"), &other),
        "delivery": {"retry": 0, "deadLetterSink": destination(last.url("/dls"), &third)},
    });
    let wrong = json!({"subscriber": destination(first.url("/wrong"), &other), "delivery": {"retry": 0}});
    let documents = [
        channel("foo"),
        channel("bar"),
        subscription("whole", "foo", whole),
        subscription("wrong", "bar", wrong),
        subscribe("none", "bar", &first.url("/none")),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    assert_eq!(sink.wait_for_one("/reply").await.id(), "reply");
    let letter = sink.wait_for_one("/dls").await;
    assert_eq!((letter.id(), letter.header("ce-knativeerrorcode")), ("1", Some("400")));
    bridge.send("bar", &event("2")).await;
    for (_, reason) in reasons(&nats, 2).await {
        assert!(reason.contains("give the certificate of its authority as CACerts"), "{reason}");
    }
    assert!(sink.requests("/wrong").is_empty() && sink.requests("/none").is_empty());
}

#[tokio::test]
async fn a_destination_s_authorities_that_are_none_are_a_fault_that_names_the_field() {
    let spec = json!({"subscriber": {"uri": "https://127.0.0.1:1/", "CACerts": "nonsense"}});
    let documents = to_yaml(&[channel("foo"), subscription("sub", "foo", spec)]);
    let ended = Bridge::at("nats://127.0.0.1:1").file("resources.yaml", &documents).ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("document 2: spec.subscriber.CACerts: holds no certificate"), "{}", ended.stderr);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let files = Mounted(dir.path());
    let (us, other) = (Authority::new("a").certify(&["us"]), Authority::new("a").certify(&["us"]));
    files.write(&[("us.pem", &us.pem), ("us.key", &us.key), ("other.key", &other.key), ("bad", "nonsense")]);
    let path = |name: &str| files.path(name);
    let (ca, certificate, key) = ("--sink-ca-file", "--sink-client-cert-file", "--sink-client-key-file");
    for (flags, named) in [
        (vec![(ca, path("nowhere"))], vec![ca, "nowhere"]),
        (vec![(ca, path("bad"))], vec![ca, "bad", "holds no certificate"]),
        (vec![(ca, path("us.key"))], vec![ca, "us.key", "holds no certificate"]),
        (vec![(certificate, path("us.pem")), (key, path("bad"))], vec![key, "bad", "holds no private key"]),
        (vec![(certificate, path("us.key")), (key, path("us.key"))], vec![certificate, "us.key", "no certificate"]),
        (vec![(certificate, path("us.pem")), (key, path("other.key"))], vec![key, "other.key", "does not go with"]),
        (vec![(certificate, path("us.pem"))], vec![key]),
        (vec![(key, path("us.key"))], vec![certificate]),
    ] {
        let setup = Bridge::at("nats://127.0.0.1:1");
        let ended = flags.iter().fold(setup, |setup, (flag, value)| setup.flag(flag, value)).ended().await;
        assert_eq!(ended.code, Some(2), "{flags:?}: {}", ended.stderr);
        assert!(named.iter().all(|part| ended.stderr.contains(part)), "{flags:?}: {}", ended.stderr);
    }
}

/// `knats send` of one event to a URL with these authorities.
async fn send(url: &str, authorities: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let mut command = knats();
    command
        .args(["send", "--retries", "0", "--type", "t", "--data", "1"])
        .env("K_SINK", url)
        .env("K_CA_CERTS", authorities);
    Process::spawn(command, dir.path(), "knats").ended().await
}

#[tokio::test]
async fn sources_trust_k_ca_certs_and_say_what_to_do_about_an_unknown_authority() {
    let (sink, ours, other) = (Sink::start().await, Authority::new("ours"), Authority::new("other"));
    let front = Front::before(&sink, &ours).await;
    let by_name = format!("https://localhost:{}/name", front.port());
    for (url, path) in [(front.url("/address"), "/address"), (by_name, "/name")] {
        let ended = send(&url, ours.pem()).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(sink.requests(path).len(), 1);
    }
    for authorities in ["", other.pem()] {
        let ended = send(&front.url("/untrusted"), authorities).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("set K_CA_CERTS to the certificate of its authority"), "{}", ended.stderr);
    }
    let ended = send(&front.url("/untrusted"), "nonsense").await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("K_CA_CERTS") && ended.stderr.contains("holds no certificate"), "{}", ended.stderr);

    let elsewhere = Front::start(&sink, &ours.certify(&["sink.example"]), None).await;
    let ended = send(&elsewhere.url("/untrusted"), ours.pem()).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("not valid for name") && !ended.stderr.contains("K_CA_CERTS"), "{}", ended.stderr);
    assert!(sink.requests("/untrusted").is_empty());
}

#[tokio::test]
async fn poll_sends_over_tls_with_k_ca_certs() {
    let sink = Sink::answering(|request| match request.target() {
        "/api" => Answer::status(200).body(r#"{"v":1}"#),
        _ => Answer::status(202),
    })
    .await;
    let (ours, dir) = (Authority::new("ours"), tempfile::tempdir().unwrap());
    let front = Front::before(&sink, &ours).await;
    let mut command: Command = knats();
    command.args([
        "poll",
        "--url",
        &sink.url("/api"),
        "--every",
        "1s",
        "--pointer",
        "/v",
        "--type",
        "t",
        "--source",
        "/s",
    ]);
    command.env("K_SINK", front.url("/sink")).env("K_CA_CERTS", ours.pem());
    let _poll = Process::spawn(command, dir.path(), "knats");
    assert_eq!(sink.wait_for_one("/sink").await.body, b"1");
}

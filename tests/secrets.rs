//! Secrets stay where they were put: what the bridge writes, answers and keeps shows none of them, at any level of its log.

use serde_json::json;

use crate::support::http::{self, call};
use crate::support::metrics::scrape;
use crate::support::process::run;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::tls::Authority;
use crate::support::{Answer, Bridge, Nats, Sink, event, free_port, until};

const PASSWORD: &str = "hush-nats-password";
const SINK_PASSWORD: &str = "hush-sink-password";
const QUERY: &str = "hush-query-token";
const ADMIN: &str = "hush-admin-token-0123456789";
const WRONG_ADMIN: &str = "hush-wrong-admin-token";
const BEARER: &str = "hush-bearer-of-a-source";

/// Everything that was secret starts so.
const MARK: &str = "hush-";

fn assert_silent(where_: &str, text: &str) {
    let line = text.lines().find(|line| line.contains(MARK));
    assert_eq!(line, None, "{where_}");
}

/// A URL with a user and a query that nobody is to know.
fn secret_url(url: &str) -> String {
    format!("{}?token={QUERY}", url.replace("://", &format!("://user:{SINK_PASSWORD}@")))
}

#[tokio::test]
async fn no_secret_is_logged_answered_or_kept_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let us = Authority::new("a").certify(&["us"]);
    let nats = Nats::start_as(&format!("authorization {{ user: ann, password: {PASSWORD} }}"));
    let sink = Sink::answering(|request| match request.target().split('?').next().unwrap() {
        "/fails" | "/dls" => Answer::status(422),
        "/ask" => Answer::event("r"),
        _ => Answer::status(200),
    })
    .await;
    let dead = secret_url(&format!("http://127.0.0.1:{}/dead", free_port()));
    let whole = json!({
        "subscriber": {"uri": secret_url(&sink.url("/ask"))},
        "reply": {"uri": secret_url(&sink.url("/fails"))},
        "delivery": {"retry": 0, "deadLetterSink": {"uri": secret_url(&sink.url("/dls"))}},
    });
    let documents = [
        channel("foo"),
        subscription("whole", "foo", whole),
        subscribe("dead", "foo", &dead),
        subscribe("tls", "foo", &dead.replace("http://", "https://")),
        subscribe("plain", "foo", &format!("{}?token={QUERY}", sink.url("/fails"))),
        subscribe("other", "foo", &secret_url("ftp://127.0.0.1/")),
    ];
    let bridge = Bridge::of(&nats, &documents)
        .flag("--nats-user", "ann")
        .flag("--nats-password-file", &file("password", PASSWORD))
        .flag("--admin-token-file", &file("token", ADMIN))
        .flag("--sink-client-cert-file", &file("us.pem", &us.pem))
        .flag("--sink-client-key-file", &file("us.key", &us.key))
        .flag("--attempt-log", "all")
        .flag("--log", "trace")
        .start()
        .await;
    let post = http::post(&bridge.url("/default/foo")).event(&event("1"));
    let answer = post.header("authorization", format!("Bearer {BEARER}")).header("cookie", BEARER).send().await;
    assert_eq!(answer.status(), 202);
    let basic = sink.wait_for_one(&format!("/ask?token={QUERY}")).await;
    assert!(basic.header("authorization").is_some_and(|value| value.starts_with("Basic ")));
    until("all have failed", || async { kept(&bridge).await == 5.0 }).await;

    let wrong = call("POST", &bridge.admin_url("/api/v1/subscriptions/default/dead/pause"));
    let answer = wrong.header("authorization", format!("Bearer {WRONG_ADMIN}")).send().await;
    assert_eq!(answer.status(), 401);
    assert_silent("the answer to a wrong token", &answer.text());
    let whole = secret_url("http://h h/").replace("http", "https");
    bridge.write("faulty.yaml", &[channel("bar"), subscribe("faulty", "bar", &whole)]);
    let says_fault = |answer: &http::Message| answer.text().contains("faulty.yaml");
    assert_silent("/readyz", &bridge.wait_for_readyz("the fault", says_fault).await.text());

    for path in [
        "/metrics",
        "/readyz",
        "/api/v1/channels",
        "/api/v1/channels/default/foo",
        "/api/v1/subscriptions",
        "/api/v1/subscriptions/default/whole",
        "/api/v1/events/1/why",
        "/api/v1/doctor",
        "/api/v1/diff",
    ] {
        let answer = http::get(&bridge.admin_url(path)).send().await;
        assert_silent(path, &answer.text());
    }
    // The query is part of what a dead letter tells of where it could not go, as in Knative; the user is not.
    for path in ["/api/v1/deadletters", "/api/v1/deadletters/1"] {
        let answer = http::get(&bridge.admin_url(path)).send().await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_silent(path, &answer.text().replace(QUERY, ""));
    }
    let letter = sink.wait_for_one(&format!("/dls?token={QUERY}")).await;
    assert_eq!(letter.header("ce-knativeerrordest"), Some(&*format!("{}?token={QUERY}", sink.url("/fails"))));
    assert!(!format!("{:?}", letter.headers).replace(QUERY, "").contains(MARK));

    let log = bridge.stderr();
    assert!(log.contains("TRACE"), "the log is not that of the level asked for");
    assert_silent("the log", &log);
    let key: Vec<&str> = us.key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!log.contains(key[0]), "the key is in the log");
    assert_silent("the arguments", &bridge.arguments());
}

/// How many events have ended as kept dead letters so far.
async fn kept(bridge: &Bridge) -> f64 {
    scrape(bridge).await.series("dead_letters_kept_total").iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_secret_that_nats_does_not_take_is_not_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let nats = Nats::start_as(&format!("authorization {{ token: {PASSWORD} }}"));
    let file = dir.path().join("token");
    std::fs::write(&file, "hush-another").unwrap();
    let by_file = |setup: crate::support::bridge::Setup| setup.flag("--nats-token-file", file.to_str().unwrap());
    let by_url = nats.url().replace("://", "://ann:hush-another@");
    for setup in [by_file(Bridge::at(&nats.url())), Bridge::at(&by_url)] {
        let bridge = setup.flag("--log", "trace").spawn();
        let refused = || async { bridge.stderr().to_lowercase().matches("authorization violation").count() > 0 };
        until("NATS has refused it", refused).await;
        assert_silent("the log", &bridge.stderr());
        assert_silent("/readyz", &bridge.readyz().await.unwrap().text());
    }
}

#[tokio::test]
async fn a_secret_on_the_command_line_is_warned_of() {
    for (url, is_warned) in [("nats://ann:hush-word@127.0.0.1:1", true), ("nats://127.0.0.1:1", false)] {
        // Ends at once, without a server.
        let ended = run(&["get", "channels", "--nats-url", url, "--nats-ca", "/nowhere"]).await;
        assert_eq!(ended.code, Some(2));
        assert_silent("standard error", &ended.stderr);
        assert_eq!(ended.stderr.contains("in the list of processes"), is_warned, "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_flag_that_cannot_be_read_is_named_without_its_secrets() {
    let setup = Bridge::at("nats://127.0.0.1:1").flag("--resolve", "default/x=http://user:hush-word@h h/?t=hush-query");
    let ended = setup.ended().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--resolve") && ended.stderr.contains("***@h h/"), "{}", ended.stderr);
    assert_silent("standard error", &ended.stderr);
}

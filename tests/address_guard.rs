//! Where deliveries may not go: with `--sink-addresses public` nobody reaches the inside of a network through a manifest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::nats::header;
use crate::support::process::run;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::tls::{Authority, Front};
use crate::support::{Answer, Bridge, Nats, Sink, event};

fn guarded(nats: &Nats, documents: &[Value]) -> crate::support::bridge::Setup {
    Bridge::of(nats, documents).flag("--sink-addresses", "public")
}

/// The port of a sink.
fn port(sink: &Sink) -> String {
    sink.url("").rsplit(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn inner_addresses_are_refused_by_name_and_by_number_and_their_events_are_kept_with_the_reason() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    let authority = Authority::new("a");
    let front = Front::before(&sink, &authority).await;
    let (plain, secure) = (port(&sink), front.port());
    let urls = [
        format!("http://127.0.0.1:{plain}/"),
        format!("http://2130706433:{plain}/"),
        format!("http://[::ffff:127.0.0.1]:{plain}/"),
        format!("http://localhost:{plain}/"),
        format!("http://user:word@localhost:{plain}/"),
        format!("https://127.0.0.1:{secure}/"),
        format!("https://localhost:{secure}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data".to_owned(),
        "http://10.0.0.1/".to_owned(),
    ];
    let subscribed = |(number, url): (usize, &String)| {
        let spec = json!({"subscriber": {"uri": url, "CACerts": authority.pem()}, "delivery": {"retry": 1, "backoffDelay": "PT0.01S"}});
        subscription(&format!("s{number}"), "foo", spec)
    };
    let documents: Vec<Value> = [channel("foo")].into_iter().chain(urls.iter().enumerate().map(subscribed)).collect();
    let bridge = guarded(&nats, &documents).start().await;
    bridge.send("foo", &event("1")).await;
    for letter in nats.dead_letters(urls.len()).await {
        let data = STANDARD.decode(header(&letter, "ce-knativeerrordata").unwrap()).unwrap();
        let reason = String::from_utf8(data).unwrap();
        assert!(reason.contains("is no public address") && reason.contains("--sink-allow"), "{reason}");
    }
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!((sink.requests("/").len(), front.refused()), (0, 0));
}

#[tokio::test]
async fn replies_and_dead_letters_are_guarded_too_and_exceptions_are_let_through() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/ask" => Answer::event("reply"),
        _ => Answer::status(200),
    })
    .await;
    let inner = |path: &str| json!({"uri": format!("http://[::ffff:127.0.0.2]:{}{path}", port(&sink))});
    let documents = [
        channel("foo"),
        subscription(
            "sub",
            "foo",
            json!({
                "subscriber": {"uri": sink.url("/ask")},
                "reply": inner("/reply"),
                "delivery": {"retry": 0, "deadLetterSink": inner("/dls")},
            }),
        ),
        subscribe("name", "foo", &format!("http://localhost:{}/name", port(&sink))),
    ];
    let bridge = guarded(&nats, &documents).flag("--sink-allow", "127.0.0.1,::1/128").start().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/ask", "1").await;
    sink.wait_for_id("/name", "1").await;
    let kept = nats.dead_letters(1).await;
    assert!(header(&kept[0], "ce-knativeerrordest").unwrap().ends_with("/reply"));
    assert!(sink.requests("/reply").is_empty() && sink.requests("/dls").is_empty());
}

#[tokio::test]
async fn what_is_refused_stays_refused_when_it_is_redriven() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    let bridge = guarded(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).start().await;
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    let ended = run(&["redrive", "default/sub", "--nats-url", &nats.url()]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    nats.dead_letters_counted(1).await;
    assert!(sink.requests("/").is_empty());
}

#[tokio::test]
async fn a_proxy_may_be_anywhere_but_numbers_are_judged_all_the_same() {
    let (nats, proxy) = (Nats::start().await, Sink::start().await);
    let documents = [
        channel("foo"),
        subscribe("name", "foo", "http://sink.invalid/"),
        subscribe("number", "foo", "http://10.0.0.1/"),
    ];
    let bridge = guarded(&nats, &documents).variable("HTTP_PROXY", &proxy.url("")).start().await;
    bridge.send("foo", &event("1")).await;
    proxy.wait_for_id("http://sink.invalid/", "1").await;
    nats.dead_letters(1).await;
    assert!(proxy.requests("http://10.0.0.1/").is_empty());
}

#[tokio::test]
async fn exceptions_without_the_guard_or_that_are_no_network_are_exit_2() {
    for (flags, part) in [
        (vec![("--sink-allow", "10.0.0.0/8")], "--sink-addresses public"),
        (vec![("--sink-addresses", "public"), ("--sink-allow", "10.0.0.0/33")], "expected a network"),
        (vec![("--sink-addresses", "private")], "public"),
    ] {
        let setup = Bridge::at("nats://127.0.0.1:1");
        let ended = flags.iter().fold(setup, |setup, (flag, value)| setup.flag(flag, value)).ended().await;
        assert_eq!(ended.code, Some(2), "{flags:?}");
        assert!(ended.stderr.contains(part), "{flags:?}: {}", ended.stderr);
    }
}

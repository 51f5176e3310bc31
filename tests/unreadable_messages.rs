//! Stored messages that make NATS clients drop their connection: each is set aside once, and whatever lies beside them is
//! delivered soon, on this channel and on others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::process::run;
use crate::support::resources::{channel, subscribe};
use crate::support::{Bridge, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
/// Less than half of the ack wait, after which lost messages come by themselves.
const PROMPT: Duration = Duration::from_secs(12);
const POISON: [&[(&[u8], &[u8])]; 2] = [&[(b"bad", b"\xff\xfe")], &[(b"bad name", b"x")]];

/// Publishes good events 0 to `count` with a poison message before every fifth.
async fn mixed(nats: &Nats, count: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for number in 0..count {
        if number % 5 == 0 {
            nats.publish_raw("foo.default", POISON[number / 5 % 2], b"poison").await;
        }
        let id = format!("good-{number}");
        let headers = [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-id", &id)];
        nats.publish("foo.default", &headers, "x").await;
        ids.insert(id);
    }
    ids
}

fn ids(sink: &Sink, path: &str) -> BTreeSet<String> {
    sink.requests(path).iter().map(|request| request.id().to_owned()).collect()
}

#[tokio::test]
async fn many_between_good_ones_are_each_set_aside_once_and_the_good_ones_come_soon() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let good = mixed(&nats, 40).await;
    let begun = Instant::now();
    // All of them wait: they come in as few reads as can be.
    bridge
        .write("more.yaml", &[subscribe("one", "foo", &sink.url("/one")), subscribe("two", "foo", &sink.url("/two"))]);
    until("all good ones at both", || async { ids(&sink, "/one") == good && ids(&sink, "/two") == good }).await;
    assert!(begun.elapsed() < PROMPT, "took {:?}", begun.elapsed());
    nats.settled(STREAM).await;
    assert_eq!(nats.count("KN_DEADLETTERS").await, 8);
    // Once for each subscription at most.
    let told = bridge.stderr().matches("unreadable message set aside").count();
    assert!(told <= 16, "{told}");
}

#[tokio::test]
async fn two_bridges_and_two_channels_go_on_while_they_come() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [
        channel("foo"),
        channel("bar"),
        subscribe("one", "foo", &sink.url("/one")),
        subscribe("two", "foo", &sink.url("/two")),
        subscribe("other", "bar", &sink.url("/other")),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    let beside = Bridge::serve(&nats, &documents).await;
    let begun = Instant::now();
    let sending = async {
        for number in 0..60 {
            let bridge = if number % 2 == 0 { &bridge } else { &beside };
            bridge.send("bar", &event(&number.to_string())).await;
        }
    };
    let (good, ()) = tokio::join!(mixed(&nats, 25), sending);
    until("all good ones everywhere", || async {
        ids(&sink, "/one") == good && ids(&sink, "/two") == good && ids(&sink, "/other").len() == 60
    })
    .await;
    assert!(begun.elapsed() < PROMPT, "took {:?}", begun.elapsed());
    nats.settled(STREAM).await;
    nats.settled("KN_DEFAULT__BAR").await;
    assert_eq!(nats.count("KN_DEADLETTERS").await, 5);
    bridge.wait_until_ready().await;
    beside.wait_until_ready().await;
}

#[tokio::test]
async fn a_stream_that_lets_go_of_nothing_is_no_trap() {
    let nats = Nats::start().await;
    let config = r#"{"name":"KN_DEFAULT__FOO","subjects":["foo.default"],"deny_delete":true}"#;
    nats.client().await.request(format!("$JS.API.STREAM.CREATE.{STREAM}"), config.into()).await.unwrap();
    let sink = Sink::start().await;
    let good = mixed(&nats, 10).await;
    let documents = [channel("foo"), subscribe("one", "foo", &sink.url("/one"))];
    let _bridge = Bridge::serve(&nats, &documents).await;
    until("all good ones", || async { ids(&sink, "/one") == good }).await;
    nats.settled(STREAM).await;
    assert_eq!((nats.count("KN_DEADLETTERS").await, nats.count(STREAM).await), (2, 12));
}

#[tokio::test]
async fn a_replay_over_one_that_its_stream_does_not_let_go_of_comes_to_its_end() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let config = async_nats::jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["foo.default".to_owned()],
        deny_delete: true,
        ..Default::default()
    };
    nats.jetstream().await.create_stream(config).await.unwrap();
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let good = mixed(&nats, 5).await;
    until("all good ones", || async { ids(&sink, "/") == good }).await;
    nats.settled(STREAM).await;
    let ended = run(&["replay", "default/sub", "--from", "1", "--yes", "--nats-url", &nats.url()]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    until("the good ones once more", || async { sink.requests("/").len() >= 2 * good.len() }).await;
    nats.settled(STREAM).await;
}

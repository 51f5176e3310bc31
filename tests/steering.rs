//! `knats pause`, `resume`, `replay`, `prune`: what operators do to subscriptions while bridges run, and what they may not.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::process::{Ended, Process, command, run};
use crate::support::resources::{channel, channel_with, channel_with_stream, subscribe, subscription, to_yaml};
use crate::support::{Answer, Bridge, Gate, Nats, Sink, event, eventually, until};

const STREAM: &str = "KN_DEFAULT__FOO";

async fn knats(nats: &Nats, args: &[&str]) -> Ended {
    let url = nats.url();
    run(&[args, &["--nats-url", &url]].concat()).await
}

/// Runs a command that must end well; gives what it printed.
async fn done(nats: &Nats, args: &[&str]) -> String {
    let ended = knats(nats, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.stdout
}

/// Runs a command that must find a fault; gives what it told.
async fn fault(nats: &Nats, args: &[&str]) -> String {
    let ended = knats(nats, args).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{args:?}: {ended:?}");
    ended.stderr
}

async fn subscription_now(nats: &Nats) -> Value {
    let text = done(nats, &["get", "subscriptions", "default/sub", "-o", "json"]).await;
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// A subscription `default/sub` of `foo` with these annotations and delivery options.
fn declared(sink: &Sink, annotations: Value, delivery: Value) -> Value {
    let mut declared = subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery}));
    declared["metadata"]["annotations"] = annotations;
    declared
}

async fn consumer_now(nats: &Nats) -> consumer::Info {
    nats.consumers(STREAM).await.remove(0)
}

fn ids(sink: &Sink) -> Vec<String> {
    sink.requests("/").iter().map(|request| request.id().to_owned()).collect()
}

#[tokio::test]
async fn a_pause_holds_for_all_bridges_shows_everywhere_and_ends_with_resume() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    assert_eq!(
        done(&nats, &["pause", "default/sub"]).await,
        "default/sub is paused until 'knats resume default/sub'\n"
    );
    bridge.send("foo", &event("2")).await;
    let paused = subscription_now(&nats).await;
    assert_eq!((&paused["state"], &paused["reason"]), (&json!("paused"), &json!("by an operator until it is resumed")));
    assert_eq!((&paused["lag"], &paused["paused_until"]), (&json!(1), &Value::Null));
    let noted = bridge
        .wait_for_readyz("ready, with a note", |answer| answer.status() == 200 && answer.text().contains("paused"))
        .await;
    let note =
        json!({"kind": "subscription", "name": "default/sub", "reason": "paused by an operator until it is resumed"});
    assert_eq!(noted.json()["notes"], json!([note]));
    assert_eq!(sink.requests("/").len(), 1);
    assert_eq!(done(&nats, &["resume", "default/sub"]).await, "default/sub goes on\n");
    sink.wait_for_id("/", "2").await;
    bridge.wait_for_readyz("no note", |answer| answer.json()["notes"] == json!([])).await;
    assert_eq!(done(&nats, &["resume", "default/sub"]).await, "default/sub was not paused\n");
}

#[tokio::test]
async fn a_pause_with_an_end_ends_by_itself() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    done(&nats, &["pause", "default/sub", "--for", "1h"]).await;
    let paused = subscription_now(&nats).await;
    let until: jiff::Timestamp = paused["paused_until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3540..=3600).contains(&left), "{left}");
    assert!(paused["reason"].as_str().unwrap().starts_with("by an operator until 2"), "{paused:#}");
    bridge.send("foo", &event("1")).await;
    done(&nats, &["pause", "default/sub", "--for", "1s"]).await;
    sink.wait_for_id("/", "1").await;
    let far = fault(&nats, &["pause", "default/sub", "--for", "99999999h"]).await;
    assert!(far.contains("longer than there are dates"), "{far}");
}

#[tokio::test]
async fn a_subscription_that_its_manifest_pauses_is_its_manifest_s() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let paused = declared(&sink, json!({"knats.dev/paused": "true"}), json!({"retry": 0}));
    let bridge = Bridge::serve(&nats, &[channel("foo"), paused]).await;
    let told = fault(&nats, &["resume", "default/sub"]).await;
    assert!(told.contains("its manifest decides"), "{told}");
    let told = fault(&nats, &["pause", "default/sub"]).await;
    assert!(told.contains("by its annotation knats.dev/paused already"), "{told}");
    let shown = subscription_now(&nats).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("paused"), &json!("by its annotation")));
    bridge.write_text("resources.yaml", &to_yaml(&[channel("foo"), declared(&sink, json!({}), json!({"retry": 0}))]));
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
}

#[tokio::test]
async fn unknown_subscriptions_are_told_with_near_names() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    drop(Bridge::serve(&nats, &[channel("foo"), subscribe("orders", "foo", &sink.url("/"))]).await);
    for args in
        [&["pause", "default/order"][..], &["resume", "default/order"], &["replay", "default/order", "--from", "1"]]
    {
        let told = fault(&nats, args).await;
        assert!(told.contains("there is no subscription default/order; did you mean default/orders?"), "{told}");
    }
    for args in [&["pause"][..], &["pause", "x"], &["replay", "a/b"], &["replay", "a/b", "--from", "seq:0"], &["prune"]]
    {
        assert_eq!(knats(&nats, args).await.code, Some(2), "{args:?}");
    }
}

/// A port behind which the server says that it is of that version.
async fn pretending(nats: &Nats, version: &'static str) -> u16 {
    let port = nats.port();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
            tokio::spawn(async move {
                let mut info = String::new();
                server.read_line(&mut info).await.unwrap();
                let at = info.find("\"version\":\"").unwrap() + 11;
                let end = at + info[at..].find('"').unwrap();
                info.replace_range(at..end, version);
                client.write_all(info.as_bytes()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    own
}

#[tokio::test]
async fn an_older_server_is_told_which_version_has_it() {
    let nats = Nats::start().await;
    let url = format!("nats://127.0.0.1:{}", pretending(&nats, "2.10.29").await);
    for (args, version) in [
        (&["pause", "default/sub"][..], "2.11"),
        (&["resume", "default/sub"], "2.11"),
        (&["replay", "default/sub", "--from", "1h", "--yes"], "2.14"),
    ] {
        let ended = run(&[args, &["--nats-url", &url]].concat()).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&format!("needs nats-server {version} or newer")), "{ended:?}");
    }
}

#[tokio::test]
async fn a_replay_counts_first_and_delivers_again_from_a_sequence_or_a_time() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let one_type = json!({"knats.dev/filters": "[{exact: {type: wanted}}]"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), declared(&sink, one_type, json!({"retry": 0}))]).await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id).attribute("type", "wanted")).await;
    }
    sink.wait_for("/", 3).await;
    nats.settled(STREAM).await;
    let third = nats.message(STREAM, 3).await.time;
    let after_two = jiff::Timestamp::from_nanosecond(third.unix_timestamp_nanos()).unwrap().to_string();
    let told = done(&nats, &["replay", "default/sub", "--from", "seq:2", "--dry-run"]).await;
    assert_eq!(told, "2 events of KN_DEFAULT__FOO from sequence 2 on will be delivered again to default/sub\n");
    let told = done(&nats, &["replay", "default/sub", "--from", &after_two, "--dry-run"]).await;
    assert!(told.starts_with("1 event of KN_DEFAULT__FOO from sequence 3 on"), "{told}");
    let told = done(&nats, &["replay", "default/sub", "--from", "2h", "--dry-run"]).await;
    assert!(told.starts_with("3 events of KN_DEFAULT__FOO from sequence 1 on"), "{told}");
    assert_eq!(nats.consumers(STREAM).await.len(), 1, "nothing is left of the count");

    let asked = knats(&nats, &["replay", "default/sub", "--from", "2"]).await;
    assert_eq!(asked.code, Some(2), "{asked:?}");
    assert!(asked.stderr.contains("--yes") && asked.stderr.contains("no terminal"), "{asked:?}");
    assert_eq!(sink.requests("/").len(), 3, "nothing has happened yet");

    let told = done(&nats, &["replay", "default/sub", "--from", "2", "--yes"]).await;
    assert!(told.ends_with("default/sub goes on from sequence 2\n"), "{told}");
    sink.wait_for("/", 5).await;
    nats.settled(STREAM).await;
    let mut again = ids(&sink).split_off(3);
    again.sort();
    assert_eq!(again, ["2", "3"]);

    for beyond in ["seq:4", "18446744073709551615", "0s"] {
        let told = done(&nats, &["replay", "default/sub", "--from", beyond, "--yes"]).await;
        assert_eq!(told, "default/sub has had no event from there on, nothing is to be replayed\n", "{beyond}");
    }
    let told = fault(&nats, &["replay", "default/sub", "--from", "2998-01-01T00:00:00Z", "--yes"]).await;
    assert!(told.contains("is still to come"), "{told}");
    let told = done(&nats, &["replay", "default/sub", "--from", "0001-01-01T00:00:00Z", "--dry-run"]).await;
    assert!(told.starts_with("3 events of KN_DEFAULT__FOO from sequence 1 on"), "{told}");
    bridge.send("foo", &event("4").attribute("type", "wanted")).await;
    sink.wait_for_id("/", "4").await;
    assert_eq!(sink.requests("/").len(), 6);
}

#[tokio::test]
async fn a_replay_while_events_flow_loses_nothing() {
    const EVENTS: usize = 300;
    let nats = Nats::start().await;
    let turn = Arc::new(AtomicU16::new(0));
    let sink = Sink::answering(move |_| {
        let fails = turn.fetch_add(1, Ordering::Relaxed) % 7 == 3;
        Answer::status(if fails { 500 } else { 200 }).after(Duration::from_millis(10))
    })
    .await;
    let delivery = json!({"retry": 20, "backoffPolicy": "linear", "backoffDelay": "PT0.05S"});
    let documents = [channel("foo"), declared(&sink, json!({"knats.dev/max-in-flight": "8"}), delivery)];
    let (bridge, _other) = (Bridge::serve(&nats, &documents).await, Bridge::serve(&nats, &documents).await);
    let sending = async {
        for id in 0..EVENTS {
            bridge.send("foo", &event(&id.to_string())).await;
        }
    };
    let replaying = async {
        let settled =
            || async { Some(consumer_now(&nats).await.ack_floor.stream_sequence).filter(|floor| *floor >= 60) };
        let floor = eventually("a good part is settled", settled).await;
        done(&nats, &["replay", "default/sub", "--from", "seq:1", "--yes"]).await;
        floor
    };
    let ((), floor) = tokio::join!(sending, replaying);
    until("all of them are there", || async { nats.count(STREAM).await == EVENTS as u64 }).await;
    nats.settled(STREAM).await;
    let mut accepted = std::collections::HashMap::<String, usize>::new();
    for id in ids(&sink) {
        *accepted.entry(id).or_default() += 1;
    }
    for id in 0..EVENTS {
        let least = if (id as u64) < floor { 2 } else { 1 };
        let times = accepted.get(&id.to_string()).copied().unwrap_or(0);
        assert!(times >= least, "event {id} came {times} times, at least {least} expected ({floor} were settled)");
    }
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn an_event_that_is_under_way_during_a_replay_keeps_its_retry() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let (behind, first) = (gate.clone(), Arc::new(AtomicU16::new(0)));
    let sink = Sink::answering(move |_| match first.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::status(200),
        1 => Answer::status(500).behind(&behind),
        _ => Answer::status(200),
    })
    .await;
    let delivery = json!({"retry": 5, "backoffPolicy": "linear", "backoffDelay": "PT0.3S"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), declared(&sink, json!({}), delivery)]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.settled(STREAM).await;
    bridge.send("foo", &event("2")).await;
    sink.wait_for("/", 2).await;
    done(&nats, &["replay", "default/sub", "--from", "seq:2", "--yes"]).await;
    until("it is delivered again", || async { consumer_now(&nats).await.num_ack_pending == 1 }).await;
    gate.open();
    // Sooner than the ack wait of 30 s, which is what is left when its answer was not understood.
    sink.wait_for("/", 3).await;
    nats.settled(STREAM).await;
    assert_eq!(ids(&sink), ["1", "2", "2"]);
}

#[tokio::test]
async fn a_replay_never_jumps_over_what_is_not_settled() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.id() == "2" { 500 } else { 200 })).await;
    let delivery = json!({"retry": 9, "backoffPolicy": "linear", "backoffDelay": "PT60S"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), declared(&sink, json!({}), delivery)]).await;
    for id in ["1", "2", "3", "4"] {
        bridge.send("foo", &event(id)).await;
    }
    sink.wait_for("/", 4).await;
    until("one is left", || async { consumer_now(&nats).await.num_ack_pending == 1 }).await;
    let told = fault(&nats, &["replay", "default/sub", "--from", "seq:3", "--yes"]).await;
    assert!(told.contains("not all events before sequence 3 are settled") && told.contains("--from seq:2"), "{told}");
    done(&nats, &["replay", "default/sub", "--from", "seq:2", "--yes"]).await;
    sink.wait_for("/", 7).await;
}

#[tokio::test]
async fn a_strict_subscription_is_replayed_in_order_and_only_when_nothing_is_under_way() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.id() == "stuck" { 500 } else { 200 })).await;
    let delivery = json!({"retry": 9, "backoffPolicy": "linear", "backoffDelay": "PT60S"});
    let documents = [channel("foo"), declared(&sink, json!({"knats.dev/ordering": "strict"}), delivery)];
    let (bridge, _other) = (Bridge::serve(&nats, &documents).await, Bridge::serve(&nats, &documents).await);
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event(id)).await;
    }
    sink.wait_for("/", 3).await;
    nats.settled(STREAM).await;
    done(&nats, &["replay", "default/sub", "--from", "1", "--yes"]).await;
    sink.wait_for("/", 6).await;
    assert_eq!(ids(&sink), ["1", "2", "3", "1", "2", "3"]);
    assert!(!consumer_now(&nats).await.paused);
    bridge.send("foo", &event("stuck")).await;
    sink.wait_for_id("/", "stuck").await;
    let ended = knats(&nats, &["replay", "default/sub", "--from", "1", "--yes"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("is ordered, and 1 of its events"), "{ended:?}");
    assert!(!consumer_now(&nats).await.paused, "it goes on");
    assert_eq!(sink.requests("/").len(), 7);
}

#[tokio::test]
async fn a_subscription_ordered_by_key_is_replayed_in_the_order_of_its_keys() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_millis(5))).await;
    let documents = [channel("foo"), declared(&sink, json!({"knats.dev/ordering": "key"}), json!({"retry": 3}))];
    let (bridge, _other) = (Bridge::serve(&nats, &documents).await, Bridge::serve(&nats, &documents).await);
    for id in 0..12 {
        bridge.send("foo", &event(&id.to_string()).attribute("partitionkey", ["a", "b", "c"][id % 3])).await;
    }
    sink.wait_for("/", 12).await;
    nats.settled(STREAM).await;
    let told = done(&nats, &["replay", "default/sub", "--from", "1", "--yes"]).await;
    assert!(told.starts_with("12 events"), "{told}");
    sink.wait_for("/", 24).await;
    nats.settled(STREAM).await;
    let again = ids(&sink).split_off(12);
    for key in 0..3 {
        let of_key: Vec<usize> = again.iter().map(|id| id.parse().unwrap()).filter(|id| id % 3 == key).collect();
        assert_eq!(of_key, [key, key + 3, key + 6, key + 9], "{again:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let interest = channel_with_stream("bar", json!({"retention": "Interest"}));
    let new = channel_with("foo", json!({"consumerConfigTemplate": {"deliverPolicy": "New"}}));
    let documents = [new, interest, subscribe("sub", "foo", &sink.url("/")), subscribe("other", "bar", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.settled(STREAM).await;
    let told = fault(&nats, &["replay", "default/other", "--from", "1h", "--yes"]).await;
    assert!(told.contains("retention interest") && told.contains("nothing to replay"), "{told}");
    let ended = knats(&nats, &["replay", "default/sub", "--from", "1", "--yes"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("cannot replay subscription default/sub") && ended.stderr.contains("not allowed"),
        "{ended:?}"
    );
}

/// Answers the question of a command on a terminal.
async fn on_a_terminal(nats: &Nats, args: &str, answer: &str) -> Option<Ended> {
    let line = format!("{} {args} --nats-url {}", env!("CARGO_BIN_EXE_knats"), nats.url());
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("input");
    std::fs::write(&input, answer).unwrap();
    let mut script = command("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::from(std::fs::File::open(&input).unwrap()));
    if script.get_program().is_empty() || command("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        return None;
    }
    Some(Process::spawn(script, dir.path(), "script").ended().await)
}

#[tokio::test]
async fn a_terminal_is_asked() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.settled(STREAM).await;
    let Some(ended) = on_a_terminal(&nats, "replay default/sub --from 1", "no\n").await else { return };
    assert!(ended.stdout.contains("Replay default/sub? [y/N]") && ended.stdout.contains("not replayed"), "{ended:?}");
    assert_eq!((ended.code, sink.requests("/").len()), (Some(0), 1), "{ended:?}");
    let Some(ended) = on_a_terminal(&nats, "replay default/sub --from 1", "y\n").await else { return };
    assert!(ended.stdout.contains("goes on from sequence 1"), "{ended:?}");
    sink.wait_for("/", 2).await;
}

#[tokio::test]
async fn prune_deletes_what_nobody_declares_and_leaves_everybody_else_s() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(500)).await;
    let retried = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 9, "backoffDelay": "PT60S"}});
    let kept = subscription("kept", "foo", retried.clone());
    let documents = [
        channel("foo"),
        channel("gone"),
        kept.clone(),
        subscription("left", "foo", retried.clone()),
        subscription("alone", "gone", retried),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for("/", 2).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("now.yaml");
    std::fs::write(&path, to_yaml(&[channel("foo"), kept])).unwrap();
    let path = path.to_str().unwrap();
    let used = knats(&nats, &["prune", "-f", path, "--yes"]).await;
    assert_eq!(used.code, Some(0), "{used:?}");
    assert!(used.stderr.contains("default/left is left alone: a bridge works on it"), "{used:?}");
    drop(bridge);

    let theirs = consumer::pull::Config { durable_name: Some("KN_SUB_THEIRS__X".into()), ..Default::default() };
    nats.stream(STREAM).await.create_consumer(theirs).await.unwrap();
    let foreign = stream::Config { name: "OTHER".into(), subjects: vec!["other".into()], ..Default::default() };
    let foreign = nats.jetstream().await.create_stream(foreign).await.unwrap();
    foreign
        .create_consumer(consumer::pull::Config { durable_name: Some("c".into()), ..Default::default() })
        .await
        .unwrap();

    let json_of = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let list = || async { json_of(done(&nats, &["prune", "-f", path, "--dry-run", "-o", "json"]).await) };
    until("nobody pulls any more", || async {
        list().await.as_array().unwrap().iter().all(|one| one["in_use"] == false)
    })
    .await;
    let expected = json!([
        {"namespace": "default", "name": "alone", "stream": "KN_DEFAULT__GONE", "consumer": "KN_SUB_DEFAULT__ALONE", "lag": 0, "in_use": false},
        {"namespace": "default", "name": "left", "stream": STREAM, "consumer": "KN_SUB_DEFAULT__LEFT", "lag": 1, "in_use": false},
    ]);
    assert_eq!(list().await, expected);
    assert_eq!(done(&nats, &["prune", "-f", path, "-n", "elsewhere", "--yes", "-o", "json"]).await, "[]\n");
    let asked = knats(&nats, &["prune", "-f", path]).await;
    assert_eq!(asked.code, Some(2), "{asked:?}");
    insta::assert_snapshot!(asked.stdout, @r"
    NAME           STREAM            CONSUMER               UNSETTLED  IN USE
    default/alone  KN_DEFAULT__GONE  KN_SUB_DEFAULT__ALONE  0          no
    default/left   KN_DEFAULT__FOO   KN_SUB_DEFAULT__LEFT   1          no
    ");
    done(&nats, &["prune", "-f", path, "--yes"]).await;
    let mut left: Vec<String> = nats.consumers(STREAM).await.into_iter().map(|consumer| consumer.name).collect();
    left.sort();
    assert_eq!(left, ["KN_SUB_DEFAULT__KEPT", "KN_SUB_THEIRS__X"]);
    assert_eq!((nats.consumers("KN_DEFAULT__GONE").await.len(), nats.consumers("OTHER").await.len()), (0, 1));
    assert_eq!(list().await, json!([]));
}

#[tokio::test]
async fn prune_deletes_nothing_where_the_manifests_are_not_to_be_trusted() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    drop(Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await);
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.yaml");
    std::fs::write(&broken, "a: [\n").unwrap();
    let (broken, empty) = (broken.to_str().unwrap().to_owned(), tempfile::tempdir().unwrap());
    let told = fault(&nats, &["prune", "-f", &broken, "--yes"]).await;
    assert!(told.contains("nothing is deleted") && told.contains("broken.yaml"), "{told}");
    let told = fault(&nats, &["prune", "-f", empty.path().to_str().unwrap(), "--yes"]).await;
    assert!(told.contains("declare nothing at all"), "{told}");
    assert_eq!(nats.consumers(STREAM).await.len(), 1);
}

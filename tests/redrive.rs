//! Kept dead letters go to their subscription again: to that one only, at least once, and a letter is let go of last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::nats::header;
use crate::support::process::{self, Ended, Process, run};
use crate::support::resources::{broker, channel, subscribe, subscription, trigger};
use crate::support::{Answer, Bridge, Gate, Nats, Request, Sink, event, eventually, until};

const STREAM: &str = "KN_DEADLETTERS";

/// A status that a test changes while the sink answers with it.
#[derive(Clone)]
struct Status(Arc<AtomicU16>);

impl Status {
    fn new(status: u16) -> Self {
        Self(Arc::new(AtomicU16::new(status)))
    }

    fn set(&self, status: u16) {
        self.0.store(status, Ordering::SeqCst);
    }

    fn get(&self) -> u16 {
        self.0.load(Ordering::SeqCst)
    }

    /// A sink that answers with it.
    async fn sink(&self) -> Sink {
        let status = self.clone();
        Sink::answering(move |_| Answer::status(status.get())).await
    }
}

async fn redrive(nats: &Nats, args: &[&str]) -> Ended {
    let url = nats.url();
    run(&[&["redrive"], args, &["--nats-url", &url]].concat()).await
}

/// Its summary, whatever the exit code.
async fn summary(nats: &Nats, args: &[&str]) -> (Option<i32>, Value) {
    let ended = redrive(nats, &[args, &["-o", "json"]].concat()).await;
    let summary = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.code, summary)
}

/// The counters of a summary that are not zero.
fn counts(summary: &Value) -> Vec<(&str, u64)> {
    let counters = summary.as_object().unwrap().iter();
    counters
        .filter_map(|(name, value)| Some((name.as_str(), value.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Runs the command in the background.
fn spawn(nats: &Nats, dir: &tempfile::TempDir, args: &[&str]) -> Process {
    let mut command = process::knats();
    command.arg("redrive").args(args).args(["--nats-url", &nats.url()]);
    Process::spawn(command, dir.path(), "redrive")
}

/// Puts so many letters of `default/sub` into the stream of a bridge.
async fn keep_many(nats: &Nats, count: usize) {
    for n in 0..count {
        let id = n.to_string();
        let headers = [("ce-specversion", "1.0"), ("ce-id", id.as_str()), ("ce-source", "/test"), ("ce-type", "test")];
        nats.publish("knats.deadletter.default.sub", &headers, "x").await;
    }
}

fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|request| request.id().to_owned()).collect()
}

fn all(count: usize) -> BTreeSet<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_redriven_event_goes_to_its_subscription_only_as_it_was_and_is_no_longer_kept() {
    let nats = Nats::start().await;
    let status = Status::new(400);
    let sink = status.sink().await;
    let documents =
        [channel("foo"), subscribe("one", "foo", &sink.url("/one")), subscribe("two", "foo", &sink.url("/two"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    let sent = event("1").attribute("ext", "v").data("application/json", r#"{ "a": 1.0 }"#);
    bridge.send("foo", &sent).await;
    nats.dead_letters(2).await;
    status.set(200);
    let (code, told) = summary(&nats, &["default/one"]).await;
    assert_eq!((code, counts(&told)), (Some(0), vec![("delivered", 1), ("matched", 1)]), "{told}");
    let requests = sink.requests("/one");
    assert_eq!((requests.len(), sink.requests("/two").len()), (2, 1));
    assert_eq!(requests[1].attributes(), requests[0].attributes());
    assert_eq!((requests[1].text(), requests[1].header("prefer")), (requests[0].text(), Some("reply")));
    let left = nats.messages(STREAM).await;
    assert_eq!((left.len(), left[0].subject.as_str()), (1, "knats.deadletter.default.two"));
    let again = redrive(&nats, &["default/one"]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "0 delivered of 0 dead letters to default/one\n"));
}

#[tokio::test]
async fn an_event_that_fails_again_is_kept_once_with_its_newest_failure() {
    let nats = Nats::start().await;
    let status = Status::new(400);
    let sink = status.sink().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    for newest in [410, 422] {
        status.set(newest);
        let (code, told) = summary(&nats, &["default/sub"]).await;
        assert_eq!((code, counts(&told)), (Some(1), vec![("kept", 1), ("matched", 1)]), "{told}");
        let kept = nats.messages(STREAM).await;
        assert_eq!(kept.len(), 1);
        assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some(newest.to_string().as_str()));
        let origin = [header(&kept[0], "Knats-Stream"), header(&kept[0], "Knats-Sequence")];
        assert_eq!(origin, [Some("KN_DEFAULT__FOO"), Some("1")], "where it was first");
    }
    assert_eq!(sink.requests("/").len(), 3);
}

#[tokio::test]
async fn a_redrive_retries_replies_and_dead_letters_as_any_delivery() {
    let nats = Nats::start().await;
    let status = Status::new(400);
    let now = status.clone();
    let sink = Sink::answering(move |request| match (request.target(), request.id(), now.get()) {
        ("/", _, 400) => Answer::status(400),
        ("/", "answered", _) if request.attempt < 4 => Answer::status(503),
        ("/", "answered", _) => Answer::event("reply"),
        ("/", _, _) => Answer::status(418),
        ("/dls", _, 400) => Answer::status(400),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 2, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in ["answered", "refused"] {
        bridge.send("foo", &event(id)).await;
    }
    nats.dead_letters(2).await;
    status.set(200);
    let (code, told) = summary(&nats, &["default/sub"]).await;
    let expected = vec![("dead_letter_sink", 1), ("delivered", 1), ("matched", 2)];
    assert_eq!((code, counts(&told)), (Some(1), expected), "{told}");
    assert_eq!(sink.wait_for_one("/reply").await.id(), "reply");
    let last = sink.requests("/dls").pop().unwrap();
    assert_eq!((last.id(), last.header("ce-knativeerrorcode")), ("refused", Some("418")));
    assert_eq!(nats.count(STREAM).await, 0);
    let redriven = eventually("the attempts of the redrive in the log", || async {
        let records = nats.messages("KN_ATTEMPTS").await;
        let records = records.iter().map(|record| serde_json::from_slice::<Value>(&record.payload).unwrap());
        let redriven: Vec<Value> =
            records.filter(|record| record["redrive"] == true && record["id"] == "answered").collect();
        (redriven.len() >= 4).then_some(redriven)
    })
    .await;
    let told: Vec<(u64, &str, u64)> = redriven
        .iter()
        .map(|record| {
            let purpose = record["purpose"].as_str().unwrap();
            (record["attempt"].as_u64().unwrap(), purpose, record["sequence"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(told, [(1, "subscriber", 1), (2, "subscriber", 1), (3, "subscriber", 1), (1, "reply", 1)]);
}

#[tokio::test]
async fn a_dry_run_lists_and_sends_nothing() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 3).await;
    let dry = redrive(&nats, &["default/sub", "--dry-run"]).await;
    assert_eq!((dry.code, dry.stdout.lines().count()), (Some(0), 5), "{dry:?}");
    assert!(dry.stdout.ends_with("\n3 dead letters would be redriven to default/sub\n"), "{}", dry.stdout);
    let (_, listed) = summary(&nats, &["default/sub", "--dry-run", "--id", "1"]).await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &json!("1")));
    assert_eq!((sink.requests("/").len(), nats.count(STREAM).await), (0, 3));
}

#[tokio::test]
async fn one_letter_is_named_by_id_and_source_and_what_is_not_there_is_a_fault() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 3).await;
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/other"), ("ce-type", "test")];
    nats.publish("knats.deadletter.default.sub", &headers, "x").await;
    let ambiguous = redrive(&nats, &["default/sub", "--id", "1"]).await;
    assert_eq!(ambiguous.code, Some(1));
    assert!(ambiguous.stderr.contains("--source '/other' or --source '/test'"), "{}", ambiguous.stderr);
    assert_eq!(sink.requests("/").len(), 0);
    let narrowed = redrive(&nats, &["default/sub", "--id", "1", "--source", "/other"]).await;
    assert_eq!((narrowed.code, narrowed.stdout.as_str()), (Some(0), "1 delivered of 1 dead letter to default/sub\n"));
    assert_eq!(redrive(&nats, &["default/sub", "--id", "2"]).await.code, Some(0));
    assert_eq!(ids(&sink.requests("/")), BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    assert_eq!(nats.count(STREAM).await, 2);
    let unknown = redrive(&nats, &["default/sub", "--id", "9"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no dead letter of default/sub with id '9'"), "{}", unknown.stderr);
}

#[tokio::test]
async fn poison_is_not_redriven_and_says_so() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "no id")], "junk").await;
    keep_many(&nats, 1).await;
    let both = redrive(&nats, &["default/sub"]).await;
    let expected = "1 delivered of 1 dead letter to default/sub; 1 message is no event and stays kept\n";
    assert_eq!((both.code, both.stdout.as_str()), (Some(0), expected));
    let named = redrive(&nats, &["default/sub", "--seq", "1"]).await;
    assert_eq!(named.code, Some(1));
    assert!(named.stdout.contains("no event and stays kept"), "{}", named.stdout);
    assert_eq!((ids(&sink.requests("/")), nats.count(STREAM).await), (all(1), 1));
}

#[tokio::test]
async fn without_a_bridge_that_delivers_it_nothing_is_sent_and_the_error_says_what_to_do() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    keep_many(&nats, 2).await;
    let mut paused = documents.clone();
    paused[1]["metadata"]["annotations"] = json!({"knats.dev/paused": "true"});
    bridge.write("resources.yaml", &paused);
    bridge.wait_for_readyz("paused", |answer| answer.text().contains("paused")).await;
    let ended = redrive(&nats, &["default/sub"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no bridge delivers default/sub") && ended.stderr.contains("paused"), "{ended:?}");
    assert!(ended.stdout.contains("2 left"), "{}", ended.stdout);
    assert_eq!((sink.requests("/").len(), nats.count(STREAM).await), (0, 2));
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_by_its_subject() {
    let nats = Nats::start_with(
        "accounts { A { jetstream: enabled, users: [ { user: all, password: p }, { user: some, password: p, \
         permissions: { publish: { deny: [\"knats.bridge.redrive.>\"] } } } ] } }\nno_auth_user: all",
    )
    .await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "p").unwrap();
    let user = ["--nats-user", "some", "--nats-password-file", password.to_str().unwrap()];
    let ended = redrive(&nats, &[&["default/sub"], &user[..]].concat()).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("'knats.bridge.redrive.default.sub'"), "{}", ended.stderr);
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn a_bridge_killed_before_it_lets_go_of_a_letter_leaves_it_and_a_repeat_delivers_it() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::answering(move |request| match request.target() {
        "/" => Answer::event(request.id()).behind(&held),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "reply": {"uri": sink.url("/reply")}});
    let mut bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    keep_many(&nats, 3).await;
    let dir = tempfile::tempdir().unwrap();
    let mut first = spawn(&nats, &dir, &["default/sub"]);
    sink.wait_for("/", 3).await;
    // From here on nothing can be deleted.
    nats.stop().await;
    gate.open();
    sink.wait_for("/reply", 3).await;
    bridge.kill9();
    first.kill9();
    nats.cont();
    assert_eq!(nats.count(STREAM).await, 3, "delivered, and still kept");
    bridge.start_again().await;
    let (code, told) = summary(&nats, &["default/sub"]).await;
    assert_eq!((code, counts(&told)), (Some(0), vec![("delivered", 3), ("matched", 3)]), "{told}");
    let replies = sink.requests("/reply");
    assert_eq!((ids(&sink.requests("/")), ids(&replies), replies.len()), (all(3), all(3), 6));
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_bridge_killed_between_the_new_copy_and_the_old_one_ends_with_one_copy() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(400 + request.attempt as u16)).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    let old = nats.dead_letters(1).await.remove(0);
    // What such a kill leaves behind: the old copy, and the new one under the id that this redrive gives it.
    assert_eq!(redrive(&nats, &["default/sub"]).await.code, Some(1));
    let new = nats.messages(STREAM).await.remove(0);
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    bridge.write("more.yaml", &[channel("more")]);
    until("the stream is there again", || async { nats.jetstream().await.get_stream(STREAM).await.is_ok() }).await;
    for copy in [&old, &new] {
        let headers: Vec<(String, String)> = copy
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())))
            .collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        nats.publish(copy.subject.as_str(), &headers, "").await;
    }
    assert_eq!(nats.count(STREAM).await, 2);
    let (code, told) = summary(&nats, &["default/sub"]).await;
    assert_eq!((code, counts(&told)), (Some(1), vec![("kept", 2), ("matched", 2)]), "{told}");
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn a_subscription_that_changes_while_a_redrive_waits_for_its_retry_delivers_it_as_it_is_now() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.target() == "/old" { 503 } else { 200 })).await;
    let spec = |path: &str| {
        let delivery = json!({"retry": 5, "backoffDelay": "PT10M"});
        json!({"subscriber": {"uri": sink.url(path)}, "delivery": delivery})
    };
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec("/old"))]).await;
    keep_many(&nats, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let waiting = spawn(&nats, &dir, &["default/sub"]);
    sink.wait_for("/old", 1).await;
    bridge.write("resources.yaml", &[channel("foo"), subscription("sub", "foo", spec("/new"))]);
    let ended = waiting.ended().await;
    assert_eq!((ended.code, sink.requests("/new").len()), (Some(0), 1), "{ended:?}");
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_command_that_is_stopped_or_killed_is_repeated_until_nothing_is_left() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 60).await;
    let dir = tempfile::tempdir().unwrap();
    let mut killed = spawn(&nats, &dir, &["default/sub", "--rate", "20"]);
    sink.wait_for("/", 5).await;
    killed.kill9();
    let interrupted = spawn(&nats, &dir, &["default/sub", "--rate", "20"]);
    let before = sink.requests("/").len();
    sink.wait_for("/", before + 5).await;
    interrupted.signal("INT");
    let ended = interrupted.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains(" left\ninterrupted"), "{}", ended.stdout);
    assert!(nats.count(STREAM).await > 0, "it was stopped in the middle");
    assert_eq!(redrive(&nats, &["default/sub"]).await.code, Some(0));
    assert_eq!((ids(&sink.requests("/")), nats.count(STREAM).await), (all(60), 0));
}

#[tokio::test]
async fn two_commands_at_once_deliver_each_event_once_through_one_bridge() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200).after(Duration::from_millis(20))).await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 40).await;
    let (one, other) = tokio::join!(redrive(&nats, &["default/sub"]), redrive(&nats, &["default/sub"]));
    assert_eq!((one.code, other.code), (Some(0), Some(0)), "{one:?} {other:?}");
    let requests = sink.requests("/");
    assert_eq!((requests.len(), ids(&requests)), (40, all(40)));
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn a_thousand_letters_are_redriven() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let client = nats.client().await;
    for n in 0..1000 {
        let mut headers = async_nats::HeaderMap::new();
        let attributes = [("ce-specversion", "1.0"), ("ce-source", "/test"), ("ce-type", "test")];
        attributes.into_iter().for_each(|(name, value)| headers.insert(name, value));
        headers.insert("ce-id", n.to_string());
        client.publish_with_headers("knats.deadletter.default.sub", headers, "x".into()).await.unwrap();
    }
    nats.dead_letters_counted(1000).await;
    let (code, told) = summary(&nats, &["default/sub", "--rate", "2000"]).await;
    assert_eq!((code, counts(&told)), (Some(0), vec![("delivered", 1000), ("matched", 1000)]), "{told}");
    assert_eq!((ids(&sink.requests("/")), nats.count(STREAM).await), (all(1000), 0));
}

#[tokio::test]
async fn no_more_than_the_rate_is_sent() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    keep_many(&nats, 6).await;
    assert_eq!(redrive(&nats, &["default/sub", "--rate", "10"]).await.code, Some(0));
    let requests = sink.requests("/");
    let spread = requests[5].at - requests[0].at;
    assert!(spread >= Duration::from_millis(350), "{spread:?} for the five that follow the first");
}

#[tokio::test]
async fn an_ordered_subscription_gets_one_at_a_time() {
    let nats = Nats::start().await;
    const TAKES: Duration = Duration::from_millis(30);
    let sink = Sink::answering(|_| Answer::status(200).after(TAKES)).await;
    let mut sub = subscribe("sub", "foo", &sink.url("/"));
    sub["metadata"]["annotations"] = json!({"knats.dev/ordering": "strict"});
    let _bridge = Bridge::serve(&nats, &[channel("foo"), sub]).await;
    keep_many(&nats, 20).await;
    assert_eq!(redrive(&nats, &["default/sub"]).await.code, Some(0));
    let requests = sink.requests("/");
    assert_eq!((requests.len(), ids(&requests)), (20, all(20)));
    assert!(requests.windows(2).all(|pair| pair[1].at - pair[0].at >= TAKES));
}

#[tokio::test]
async fn a_redrive_that_holds_the_only_slot_gives_it_back_to_the_events_of_the_channel() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let behind = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&behind)).await;
    let mut sub = subscribe("sub", "foo", &sink.url("/"));
    sub["metadata"]["annotations"] = json!({"knats.dev/ordering": "strict"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), sub]).await;
    keep_many(&nats, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let _redrive = spawn(&nats, &dir, &["default/sub"]);
    sink.wait_for("/", 1).await;
    until("nothing is asked for", || async { nats.consumers("KN_DEFAULT__FOO").await[0].num_waiting == 0 }).await;
    gate.open();
    bridge.send("foo", &event("second")).await;
    sink.wait_for_id("/", "second").await;
}

#[tokio::test]
async fn a_trigger_and_a_subscriber_of_batches_get_theirs_in_their_own_form() {
    let nats = Nats::start().await;
    let status = Status::new(400);
    let sink = status.sink().await;
    let spec = json!({"subscriber": {"uri": sink.url("/trigger")}, "delivery": {"retry": 0}});
    let mut batched = subscribe("batched", "foo", &sink.url("/batch"));
    batched["metadata"]["annotations"] = json!({"knats.dev/batch": "10/10ms"});
    let documents = [broker("shop"), trigger("t", "shop", spec), channel("foo"), batched];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("shop", &event("1")).await;
    bridge.send("foo", &event("2")).await;
    nats.dead_letters(2).await;
    status.set(200);
    for subscription in ["default/t", "default/batched"] {
        let ended = redrive(&nats, &[subscription]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let requests = sink.requests("/trigger");
    assert_eq!(requests[1].attributes(), requests[0].attributes(), "without what guards against loops, too");
    let batch = sink.requests("/batch").pop().unwrap();
    assert_eq!(batch.header("content-type"), Some("application/cloudevents-batch+json"));
    assert_eq!((batch.json().as_array().unwrap().len(), &batch.json()[0]["id"]), (1, &json!("2")));
    assert_eq!(nats.count(STREAM).await, 0);
}

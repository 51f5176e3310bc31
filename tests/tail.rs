//! `knats tail`: events and deliveries as they happen, filtered, with nothing left behind and nobody disturbed.

use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{Ended, Process, knats, run};
use crate::support::resources::{broker, channel, subscribe, subscription, trigger};
use crate::support::{Answer, Bridge, Event, Nats, Sink, event, eventually, until, within};

/// A running `knats tail -o ndjson`.
struct Tail {
    process: Process,
    _dir: TempDir,
}

impl Tail {
    fn spawn(nats: &Nats, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = knats();
        command.args(["tail", "--nats-url", &nats.url(), "-o", "ndjson"]).args(args);
        Self { process: Process::spawn(command, dir.path(), "tail"), _dir: dir }
    }

    /// Started, and sure to see the deliveries of one bridge from now on.
    async fn start(nats: &Nats, args: &[&str]) -> Self {
        let tail = Self::spawn(nats, args);
        tail.wait_for_note("deliveries of 1 bridge are shown").await;
        tail
    }

    async fn wait_for_note(&self, text: &str) {
        until(&format!("a note: {text}"), || async { self.process.stderr().contains(text) }).await;
    }

    fn items(&self) -> Vec<Value> {
        // The last line may not be whole yet.
        self.process.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn of(&self, kind: &str) -> Vec<Value> {
        self.items().into_iter().filter(|item| item["kind"] == kind).collect()
    }

    async fn wait_for(&self, kind: &str, count: usize) -> Vec<Value> {
        let enough = || async { Some(self.of(kind)).filter(|items| items.len() >= count) };
        eventually(&format!("{count} of kind {kind}"), enough).await
    }

    async fn interrupt(self) -> Ended {
        self.process.signal("INT");
        self.process.ended().await
    }
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["event"]["id"].as_str().or(item["id"].as_str()).unwrap()).collect()
}

fn event_of(kind: &str, id: &str) -> Event {
    event(id).attribute("type", kind)
}

/// A tail over the command line that ends by itself.
async fn tail(nats: &Nats, args: &[&str]) -> Ended {
    run(&[&["tail", "--nats-url", &nats.url()], args].concat()).await
}

async fn publish(nats: &Nats, subject: &str, id: &str) {
    nats.publish(subject, &[("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-id", id)], "x")
        .await;
}

#[tokio::test]
async fn events_and_their_deliveries_are_shown_with_code_and_duration() {
    let nats = Nats::start().await;
    let first = AtomicBool::new(true);
    let sink = Sink::answering(move |_| Answer::status(if first.swap(false, Relaxed) { 503 } else { 200 })).await;
    let retried = subscription(
        "sub",
        "foo",
        json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffDelay": "PT0.1S"}}),
    );
    let bridge = Bridge::serve(&nats, &[channel("foo"), retried]).await;
    let tail = Tail::start(&nats, &[]).await;
    bridge.send("foo", &event("1").data("text/plain", "hello")).await;

    let deliveries = tail.wait_for("delivery", 2).await;
    let items = tail.items();
    assert_eq!(items[0]["kind"], "event", "the event comes before its deliveries: {items:?}");
    let shown = &items[0];
    assert_eq!((&shown["channel"], &shown["stream"]), (&json!("default/foo"), &json!("KN_DEFAULT__FOO")));
    assert_eq!((&shown["sequence"], &shown["event"]["id"]), (&json!(1), &json!("1")));
    assert_eq!(shown["event"]["data"], "hello");

    let codes: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["code"]).collect();
    assert_eq!(codes, [&json!(503), &json!(200)]);
    let nexts: Vec<&Value> = deliveries.iter().map(|delivery| &delivery["next"]).collect();
    assert_eq!(nexts, [&json!("retry"), &json!("settled")]);
    for (number, delivery) in deliveries.iter().enumerate() {
        assert_eq!((&delivery["id"], &delivery["subscription"]), (&json!("1"), &json!("sub")));
        assert_eq!((&delivery["sink"], &delivery["attempt"]), (&json!(sink.url("/")), &json!(number + 1)));
        assert!(delivery["duration_ms"].as_f64().unwrap() > 0.0, "{delivery}");
    }
    let ended = tail.interrupt().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_table_has_one_aligned_line_each() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for id in ["1", "2", "3"] {
        bridge.send("foo", &event_of("com.example.order", id)).await;
    }
    let ended = tail(&nats, &["default/foo", "--last", "2", "--limit", "2", "--only", "events"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ended.stdout);
    let columns = ["TIME", "TYPE", "SOURCE", "ID", "SINK", "CODE", "DURATION", "THEN"];
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), columns);
    for (line, id) in lines[1..].iter().zip(["2", "3"]) {
        let cell = |title: &str| line[lines[0].find(title).unwrap()..].split_whitespace().next().unwrap();
        assert_eq!((cell("TYPE"), cell("ID"), cell("SINK")), ("com.example.order", id, "default/foo"), "{line}");
        assert_eq!((cell("CODE"), cell("DURATION")), ("stored", "-"), "{line}");
    }
    let pretty = tail(&nats, &["--last", "1", "--limit", "1", "--only", "events", "-o", "pretty"]).await;
    assert!(
        pretty.stdout.contains("Context Attributes,\n  specversion: 1.0\n  type: com.example.order\n"),
        "{pretty:?}"
    );
    let json = tail(&nats, &["--since", "1h", "--limit", "3", "--only", "events", "-o", "json"]).await;
    let array: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(ids(&array), ["1", "2", "3"]);
}

#[tokio::test]
async fn filters_are_those_of_subscriptions_and_hold_for_deliveries_too() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [broker("shop"), trigger("all", "shop", json!({"subscriber": {"uri": sink.url("/")}}))];
    let bridge = Bridge::serve(&nats, &documents).await;
    let by_expression = Tail::start(&nats, &["--filter", "amount > 1000 AND type LIKE 'com.%'"]).await;
    let by_id = Tail::start(&nats, &["default/shop", "--id", "b", "--type", "com.order", "--source", "/other"]).await;
    let deliveries = Tail::start(&nats, &["default/all", "--only", "deliveries"]).await;
    for (id, kind, source, amount) in [
        ("a", "com.order", "/s", "5"),
        ("b", "com.order", "/s", "5000"),
        ("b", "com.order", "/other", "5"),
        ("c", "org.order", "/s", "5000"),
    ] {
        let event = event_of(kind, id).attribute("source", source).attribute("amount", amount);
        bridge.send("shop", &event).await;
    }
    let shown = |tail: &Tail, kind: &str| {
        let items = tail.of(kind);
        let sources = items.iter().map(|item| item["event"]["source"].as_str().or(item["source"].as_str()).unwrap());
        ids(&items).into_iter().zip(sources).map(|(id, source)| format!("{id} {source}")).collect::<Vec<_>>()
    };
    deliveries.wait_for("delivery", 4).await;
    by_expression.wait_for("delivery", 1).await;
    by_id.wait_for("delivery", 1).await;
    for kind in ["event", "delivery"] {
        assert_eq!(shown(&by_expression, kind), ["b /s"]);
        assert_eq!(shown(&by_id, kind), ["b /other"]);
    }
    assert_eq!(deliveries.of("event"), Vec::<Value>::new());
}

#[tokio::test]
async fn nothing_is_left_behind_and_nobody_is_disturbed() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), channel("bar"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let before = nats.stream_names().await;
    let tail = Tail::start(&nats, &["--last", "5"]).await;
    bridge.send("foo", &event("1")).await;
    bridge.send("bar", &event("2")).await;
    tail.wait_for("event", 2).await;
    assert_eq!(nats.consumers("KN_DEFAULT__BAR").await.len(), 0, "not even while it runs");
    let ended = tail.interrupt().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(nats.consumers("KN_DEFAULT__BAR").await.len(), 0);
    assert_eq!(nats.consumers("KN_DEFAULT__FOO").await.len(), 1);
    assert_eq!(nats.stream_names().await, before);
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.requests("/").len(), 1);
}

#[tokio::test]
async fn without_a_bridge_events_are_shown_and_a_note_says_that_deliveries_are_not() {
    let nats = Nats::start().await;
    drop(Bridge::serve(&nats, &[channel("foo")]).await);
    let tail = Tail::spawn(&nats, &["default/foo"]);
    tail.wait_for_note("deliveries cannot be seen: no bridge").await;
    publish(&nats, "foo.default", "1").await;
    assert_eq!(ids(&tail.wait_for("event", 1).await), ["1"]);
    assert_eq!(tail.process.stderr().matches("deliveries").count(), 1, "{}", tail.process.stderr());
}

#[tokio::test]
async fn without_permission_to_ask_bridges_the_subject_is_named() {
    let nats = Nats::start_with(
        "accounts { A { jetstream: enabled, users: [ { user: some, password: p, permissions: { publish: { deny: [\"knats.bridge.watch\"] } } } ] } }\n\
         no_auth_user: some",
    )
    .await;
    drop(Bridge::serve(&nats, &[channel("foo")]).await);
    let tail = Tail::spawn(&nats, &[]);
    tail.wait_for_note("deliveries cannot be seen: NATS does not permit us to publish to 'knats.bridge.watch'").await;
    publish(&nats, "foo.default", "1").await;
    tail.wait_for("event", 1).await;
}

#[tokio::test]
async fn the_permissions_in_the_docs_are_all_it_needs() {
    let api = ["STREAM.LIST", "STREAM.NAMES", "STREAM.INFO.*", "STREAM.MSG.GET.*", "CONSUMER.LIST.*"];
    let publish: Vec<String> = api.iter().map(|subject| format!("\"$JS.API.{subject}\"")).collect();
    let nats = Nats::start_with(&format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, {{ user: tail, password: p, permissions: {{ \
         publish: [{}, \"knats.bridge.watch\"], subscribe: [\"_INBOX.>\", \"knats.bridge.feed.*\"] }} }} ] }} }}\nno_auth_user: tail",
        publish.join(", ")
    ))
    .await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "p").unwrap();
    let sink = Sink::start().await;
    let setup = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]);
    let bridge =
        setup.flag("--nats-user", "all").flag("--nats-password-file", password.to_str().unwrap()).start().await;
    bridge.send("foo", &event("1")).await;
    for args in [&["--since", "1h"][..], &["default/foo", "default/sub", "--last", "9"]] {
        let tail = Tail::start(&nats, args).await;
        bridge.send("foo", &event("2").attribute("source", &format!("/{}", args.len()))).await;
        tail.wait_for("event", 2).await;
        tail.wait_for("delivery", 1).await;
        let ended = tail.interrupt().await;
        assert!(!ended.stderr.to_lowercase().contains("permi"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_bridge_tells_only_those_who_ask_properly_and_only_below_its_own_subject() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let client = nats.client().await;
    let ask = |question: String| async {
        let answer = client.request("knats.bridge.watch", question.into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let many = json!({"token": "a", "streams": vec!["S"; 1001]}).to_string();
    for question in ["", "nonsense", "[]", "{}", r#"{"token": "foo.default"}"#, r#"{"token": ">"}"#, many.as_str()] {
        let answer = ask(question.to_owned()).await;
        assert!(answer["refused"].as_str().unwrap().contains("expected"), "{question}: {answer}");
    }
    for token in 0..32 {
        assert_eq!(ask(json!({"token": format!("t{token}")}).to_string()).await, json!({}), "{token}");
    }
    assert_eq!(ask(json!({"token": "more"}).to_string()).await, json!({"refused": "32 watch already"}));
    let tail = Tail::spawn(&nats, &[]);
    tail.wait_for_note("one will not tell: 32 watch already").await;
    for token in 0..31 {
        ask(json!({"token": format!("t{token}"), "end": true}).to_string()).await;
    }
    let mut told = client.subscribe("knats.bridge.feed.*").await.unwrap();
    client.flush().await.unwrap();
    tail.wait_for_note("deliveries of 1 bridge are shown\n").await;
    bridge.send("foo", &event("1")).await;
    tail.wait_for("delivery", 1).await;
    let subject = within("a word to the other", told.next()).await.unwrap().subject;
    assert!(subject.starts_with("knats.bridge.feed."), "{subject}");
}

#[tokio::test]
async fn names_that_are_unknown_or_stand_for_two_things_are_refused() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("foo", "foo", &sink.url("/"))]).await;
    for (args, code, says) in [
        (&["default/bar"][..], 1, "neither a channel nor a subscription default/bar"),
        (&["default/foo"], 1, "say --channel or --subscription"),
        (&["default/bar", "--channel"], 1, "no channel default/bar"),
        (&["nonsense"], 2, "NAMESPACE/NAME"),
        (&["--filter", "amount >"], 2, "CloudEvents SQL"),
        (&["--last", "10001"], 2, "10001"),
        (&["--last", "1", "--since", "1h"], 2, "--since"),
        (&["--limit", "0"], 2, "--limit"),
    ] {
        let ended = tail(&nats, args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
    publish(&nats, "foo.default", "1").await;
    for flag in ["--channel", "--subscription"] {
        let ended = tail(&nats, &["default/foo", flag, "--since", "1h", "--limit", "1"]).await;
        assert_eq!(ended.code, Some(0), "{flag}: {ended:?}");
    }
    let nobody = run(&["tail", "--nats-url", "nats://127.0.0.1:1"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("nats://127.0.0.1:1"), "{}", nobody.stderr);
}

#[tokio::test]
async fn messages_that_break_nats_clients_are_told_of_and_do_not_stop_it() {
    let nats = Nats::start().await;
    drop(Bridge::serve(&nats, &[channel("foo")]).await);
    nats.publish_raw("foo.default", &[(b"bad", b"\xff\xfe")], b"x").await;
    nats.publish("foo.default", &[("ce-specversion", "1.0")], "no event").await;
    publish(&nats, "foo.default", "1").await;
    let tail = Tail::spawn(&nats, &["--since", "1h"]);
    tail.wait_for("event", 1).await;
    nats.publish_raw("foo.default", &[(b"bad name", b"x")], b"x").await;
    publish(&nats, "foo.default", "2").await;
    assert_eq!(ids(&tail.wait_for("event", 2).await), ["1", "2"]);
    assert!(tail.process.stderr().contains("cannot be shown"), "{}", tail.process.stderr());
}

#[tokio::test]
async fn it_goes_on_where_it_was_after_a_restart_of_nats() {
    let mut nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let tail = Tail::start(&nats, &[]).await;
    bridge.send("foo", &event("1")).await;
    tail.wait_for("delivery", 1).await;
    nats.kill9();
    tail.wait_for_note("not connected").await;
    nats.start_again().await;
    publish(&nats, "foo.default", "2").await;
    assert_eq!(ids(&tail.wait_for("event", 2).await), ["1", "2"]);
    bridge.wait_until_ready().await;
    // The bridge may have lost its watchers' word with the connection; they ask again.
    eventually("a delivery after the restart", || async {
        let id = format!("after-{}", tail.of("event").len());
        bridge.send("foo", &event(&id)).await;
        Some(()).filter(|()| tail.of("delivery").iter().any(|delivery| delivery["id"] != "1"))
    })
    .await;
    let events = tail.of("event");
    let sequences: Vec<u64> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "none twice, none left out: {sequences:?}");
}

#[tokio::test]
async fn a_reader_that_does_not_keep_up_costs_no_memory_and_is_told_what_it_missed() {
    const EVENTS: usize = 40_000;
    let nats = Nats::start().await;
    drop(Bridge::serve(&nats, &[channel("foo")]).await);
    let dir = tempfile::tempdir().unwrap();
    let mut command = knats();
    command.args(["tail", "default/foo", "--nats-url", &nats.url(), "-o", "ndjson"]);
    let (mut process, input) = Process::spawn_piped(command, dir.path(), "tail");
    until("it looks on", || async { process.stderr().contains("deliveries cannot be seen") }).await;
    let before = process.resident_kib();

    let jetstream = nats.jetstream().await;
    let payload = "x".repeat(1000);
    for batch in 0..EVENTS / 500 {
        let mut acks = Vec::new();
        for number in 0..500 {
            let mut headers = async_nats::HeaderMap::new();
            for (name, value) in [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s")] {
                headers.insert(name, value);
            }
            headers.insert("ce-id", format!("{batch}-{number}"));
            let publish = jetstream.publish_with_headers("foo.default", headers, payload.clone().into());
            acks.push(publish.await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }
    let grown = process.resident_kib().saturating_sub(before);
    assert!(grown < 30_000, "grew by {grown} KiB while {EVENTS} KB waited");

    // Now somebody reads, and the newest comes.
    let newest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&newest);
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(input).lines().map_while(Result::ok) {
            seen.fetch_add(usize::from(line.contains("\"id\":\"79-499\"")), Relaxed);
        }
    });
    until("the newest event is shown", || async { newest.load(Relaxed) > 0 }).await;
    assert!(process.stderr().contains("too slow to follow: skipped"), "{}", process.stderr());
    process.signal("INT");
    assert_eq!(process.wait().await.code(), Some(0));
    reading.join().unwrap();
    assert_eq!(newest.load(Relaxed), 1);
}

//! What an earlier version has written, this one reads: manifests, streams, consumers, events, dead letters, the log of attempts.
//! `tests/golden/VERSION/` is what that version left in JetStream and answered, sink addresses and times replaced. A generation
//! is never changed once its version is out; docs/operating.md, "Upgrading", says when and how one is added.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::assets::{self, Stream};
use crate::support::http::post;
use crate::support::process::run;
use crate::support::{Answer, Bridge, Nats, Request, Sink, event, until};

/// Stands for the address of the sink in the files.
const SINK: &str = "http://sink.golden";
const TIME: &str = "2026-01-01T00:00:00Z";
const STREAM: &str = "KN_DEFAULT__ORDERS";
const LOG: &str = "KN_ATTEMPTS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The versions of which there is a set, the newest last.
fn generations() -> Vec<String> {
    let names = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let number = |name: &String| name.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>();
    let mut generations: Vec<String> = names.filter(|name| number(name).is_some()).collect();
    generations.sort_by_key(number);
    generations
}

/// A file of a set, with the address of a real sink.
fn file(generation: &str, name: &str, sink: &Sink) -> String {
    let path = folder().join(generation).join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.replace(SINK, &sink.url(""))
}

fn streams(generation: &str, sink: &Sink) -> Vec<Stream> {
    serde_json::from_str(&file(generation, "jetstream.json", sink)).unwrap()
}

async fn bridge(nats: &Nats, resources: &str, sink: &Sink) -> Bridge {
    let setup = Bridge::at(&nats.url()).file("resources.yaml", resources);
    setup.flag("--resolve", &format!("default/some={}", sink.url(""))).flag("--attempt-log", "all").start().await
}

/// What a command answers, as JSON.
async fn answer(nats: &Nats, args: &[&str]) -> Value {
    let ended = run(&[args, &["--nats-url", &nats.url(), "-o", "json"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

/// The answers that scripts read.
async fn answers(nats: &Nats) -> Value {
    json!({
        "get channels": answer(nats, &["get", "channels"]).await,
        "get subscriptions": answer(nats, &["get", "subscriptions"]).await,
        "get deadletters": answer(nats, &["get", "deadletters"]).await,
        "why refused": answer(nats, &["why", "refused"]).await,
    })
}

/// The same text whenever and wherever it was written.
fn steady(text: &str, sink: &Sink) -> String {
    let text = text.replace(&sink.url(""), SINK);
    let shape = "0000-00-00T00:00:00";
    let is_time = |at: usize| {
        let found = text.as_bytes().get(at..at + shape.len());
        found.is_some_and(|found| {
            found.iter().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => *byte == wanted,
            })
        })
    };
    let (mut out, mut rest) = (String::new(), 0);
    while let Some(at) = (rest..text.len()).find(|at| is_time(*at)) {
        out.push_str(&text[rest..at]);
        out.push_str(TIME);
        let behind = &text[at + shape.len()..];
        let fraction = behind.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(behind.len());
        rest = at + shape.len() + fraction + usize::from(behind[fraction..].starts_with('Z'));
    }
    out + &text[rest..]
}

/// The log has no order of its own, and how long a request took is its own affair.
fn settle(streams: &mut [Stream]) {
    for stream in streams.iter_mut().filter(|stream| stream.config["name"] == LOG) {
        for message in &mut stream.messages {
            let mut record: Value = serde_json::from_str(message.payload.as_str().unwrap()).unwrap();
            record["duration_ms"] = json!(1.5);
            message.payload = json!(record.to_string());
        }
        stream.messages.sort_by_key(|message| (message.subject.clone(), message.payload.to_string()));
    }
}

/// Runs a bridge through everything that is kept, and gives what is in JetStream then, with the answers of commands.
async fn written() -> (Vec<Stream>, Value) {
    let nats = Nats::start().await;
    let sink = Sink::answering(script).await;
    let latest = generations().pop().unwrap();
    let bridge = bridge(&nats, &file(&latest, "resources.yaml", &sink), &sink).await;
    until("the log is there", || async { nats.stream_names().await.contains(&LOG.to_owned()) }).await;
    fill(&nats, &bridge, &sink).await;
    let answers = answers(&nats).await;
    drop(bridge);
    let steadied = steady(&serde_json::to_string(&assets::read(&nats).await).unwrap(), &sink);
    let mut streams: Vec<Stream> = serde_json::from_str(&steadied).unwrap();
    settle(&mut streams);
    (streams, serde_json::from_str(&steady(&answers.to_string(), &sink)).unwrap())
}

fn script(request: &Request) -> Answer {
    match (request.target(), request.id()) {
        ("/all", "refused") => Answer::status(400).body("no such order"),
        ("/all", "waiting") => Answer::status(503),
        ("/some", _) => Answer::event("reply"),
        _ => Answer::status(200),
    }
}

/// One thing after the other, so that the places in the streams are always the same.
async fn fill(nats: &Nats, bridge: &Bridge, sink: &Sink) {
    let order = |id: &str| {
        event(id).without("type").attribute("type", "com.example.order").attribute("subject", "Euro%20%E2%82%AC")
    };
    let traced = order("fine")
        .attribute("time", "2020-03-21T12:34:56.78Z")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "r 1")
        .data("application/json", r#"{ "a": 1.10 }"#);
    bridge.send("orders", &traced).await;
    sink.wait_for_id("/all", "fine").await;
    until("the reply is stored", || async { nats.count("KN_DEFAULT__REPLIES").await == 1 }).await;
    // Where there is one subscription, or either of two might be first to set it aside.
    nats.publish("plain.default", &[], r#"{"specversion":"1.0","id":"poison","type":"t"}"#).await;
    nats.dead_letters_counted(1).await;
    bridge.send("orders", &event("refused").data("text/plain", "four")).await;
    nats.dead_letters_counted(2).await;
    nats.publish("orders.raw", &[("Content-Type", "text/plain")], "hello").await;
    sink.wait_for("/all", 3).await;
    let old = post(&bridge.url("/default/orders")).headers(&[
        ("ce-specversion", "0.3"),
        ("ce-id", "old"),
        ("ce-source", "/a%20b"),
        ("ce-type", "t"),
        ("ce-datacontentencoding", "base64"),
        ("content-type", "application/json"),
    ]);
    assert_eq!(old.body("eyJhIjoxfQ==").send().await.status(), 202);
    sink.wait_for_id("/all", "old").await;
    bridge.send("orders", &event("waiting")).await;
    sink.wait_for_id("/all", "waiting").await;
    bridge.send("plain", &event("bytes").data("application/octet-stream", b"\xff\x00\xfe")).await;
    sink.wait_for("/gathered", 1).await;
    bridge.send("shop", &order("bought")).await;
    sink.wait_for_id("/mail", "bought").await;
    sink.wait_for_id("/bill", "bought").await;
    for stream in ["KN_DEFAULT__PLAIN", "KN_DEFAULT__SHOP"] {
        nats.settled(stream).await;
    }
    until("all attempts are in the log", || async { nats.count(LOG).await == 10 }).await;
    until("all but one are acknowledged", || async {
        let floors: Vec<u64> = nats.consumers(STREAM).await.iter().map(|info| info.ack_floor.stream_sequence).collect();
        floors == [4, 5] || floors == [5, 4]
    })
    .await;
}

/// What is written differs from the newest set only if somebody wants it so.
#[tokio::test]
async fn what_this_version_writes_is_what_its_golden_set_holds() {
    let (streams, answers) = written().await;
    if let Ok(version) = std::env::var("KNATS_GOLDEN") {
        let (target, latest) = (folder().join(&version), folder().join(generations().pop().unwrap()));
        std::fs::create_dir_all(&target).unwrap();
        if target != latest {
            std::fs::copy(latest.join("resources.yaml"), target.join("resources.yaml")).unwrap();
        }
        for (name, text) in [
            ("jetstream.json", serde_json::to_string_pretty(&streams).unwrap()),
            ("answers.json", serde_json::to_string_pretty(&answers).unwrap()),
        ] {
            std::fs::write(target.join(name), text + "\n").unwrap();
        }
    }
    let latest = generations().pop().unwrap();
    let text = std::fs::read_to_string(folder().join(&latest).join("jetstream.json")).unwrap();
    let golden: Vec<Stream> = serde_json::from_str(&text).unwrap();
    assert_eq!(streams.len(), golden.len());
    for (now, then) in streams.iter().zip(&golden) {
        // What the server adds to a configuration changes with the server.
        for field in ["name", "subjects", "metadata"] {
            assert_eq!(now.config[field], then.config[field], "{field} of a stream of {latest}");
        }
        assert_eq!(now.messages, then.messages, "messages of {} of {latest}", then.config["name"]);
        let consumers = |stream: &Stream| -> Vec<Value> {
            let facts = |config: &Value| json!([config["name"], config["metadata"], config["filter_subject"]]);
            stream.consumers.iter().map(|consumer| facts(&consumer.config)).collect()
        };
        assert_eq!(consumers(now), consumers(then), "consumers of {} of {latest}", then.config["name"]);
    }
}

#[tokio::test]
async fn what_every_earlier_version_has_written_is_taken_over_as_it_is() {
    for generation in generations() {
        let (nats, sink) = (Nats::start().await, Sink::start().await);
        let streams = streams(&generation, &sink);
        assets::write(&nats, &streams).await;
        let (resources, before) = (file(&generation, "resources.yaml", &sink), assets::looks(&nats, &streams).await);
        let bridge = bridge(&nats, &resources, &sink).await;
        assert_eq!(assets::looks(&nats, &streams).await, before, "{generation}: something was made anew or changed");

        // What was settled stays settled, what was not is delivered, and what comes now goes the same way.
        let waiting = sink.wait_for_id("/all", "waiting").await;
        assert_eq!(waiting.header("ce-source"), Some("/test"));
        bridge.send("orders", &event("new")).await;
        sink.wait_for_id("/all", "new").await;
        let ids: Vec<String> = sink.requests("/all").iter().map(|request| request.id().to_owned()).collect();
        assert_eq!(ids, ["waiting", "new"], "{generation}");

        let then: Value = serde_json::from_str(&file(&generation, "answers.json", &sink)).unwrap();
        let now = answers(&nats).await;
        is_told(&then, &now, &generation);
        assert_eq!(attempts(&now), attempts(&then), "{generation}");
        redrives(&nats, &sink, &generation).await;
    }
}

fn attempts(answers: &Value) -> Vec<Value> {
    let chapters = answers["why refused"]["subscriptions"].as_array().unwrap().iter();
    let mut attempts: Vec<Value> =
        chapters.flat_map(|chapter| chapter["attempts"].as_array().unwrap().clone()).collect();
    for attempt in &mut attempts {
        // The answers have it as it was, the log of the set does not.
        attempt["duration_ms"] = Value::Null;
    }
    attempts
}

/// Every field of then is there now, and of the same kind.
fn is_told(then: &Value, now: &Value, place: &str) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, value) in then {
                let told = now.get(name).unwrap_or_else(|| panic!("{place}: no '{name}' any more"));
                // What a value says depends on what has happened since.
                if !value.is_null() && !told.is_null() {
                    is_told(value, told, &format!("{place}: {name}"));
                }
            }
        }
        (Value::Array(then), Value::Array(now)) => {
            assert_eq!(then.len(), now.len(), "{place}");
            then.iter().zip(now).for_each(|(then, now)| is_told(then, now, place));
        }
        _ => assert_eq!(std::mem::discriminant(then), std::mem::discriminant(now), "{place}: {then} and {now}"),
    }
}

async fn redrives(nats: &Nats, sink: &Sink, generation: &str) {
    let summary = answer(nats, &["redrive", "default/all", "--id", "refused"]).await;
    assert_eq!(summary["delivered"], 1, "{generation}: {summary}");
    let redriven = sink.wait_for_id("/all", "refused").await;
    assert_eq!((redriven.text().as_str(), redriven.header("content-type")), ("four", Some("text/plain")));
    assert!(redriven.header("ce-knativeerrorcode").is_none());
    let left = answer(nats, &["get", "deadletters"]).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{generation}: {left}");
    assert!(left[0]["reason"].as_str().unwrap().contains("'source' is missing"), "{generation}: {left}");
}

#[tokio::test]
async fn what_eventing_natss_has_written_is_adopted() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    assets::write(&nats, &streams("eventing-natss", &sink)).await;
    let consumers = nats.consumers("KN_DEFAULT__FOO").await;
    let bridge = bridge(&nats, &file("eventing-natss", "resources.yaml", &sink), &sink).await;

    let theirs = sink.wait_for_id("/all", "theirs").await;
    assert_eq!(theirs.header("content-type"), Some("application/json"));
    assert_eq!(theirs.text(), r#"{"a": 1.10}"#);
    // Theirs are empty where no span was, and that is no trace.
    assert_eq!((theirs.header("ce-traceparent"), theirs.header("traceparent")), (Some(""), None));
    assert_eq!(sink.wait_for_id("/all", "text").await.text(), "hällo");
    bridge.send("foo", &event("ours")).await;
    sink.wait_for_id("/all", "ours").await;

    let now = nats.consumers("KN_DEFAULT__FOO").await;
    assert_eq!(now.len(), consumers.len() + 1, "theirs stays beside ours");
    assert!(now.iter().any(|info| info.config == consumers[0].config && info.created == consumers[0].created));
    let mut subjects = nats.stream("KN_DEFAULT__FOO").await.get_info().await.unwrap().config.subjects;
    subjects.sort();
    assert_eq!(subjects, ["default.foo._knative", "foo.default"]);
}

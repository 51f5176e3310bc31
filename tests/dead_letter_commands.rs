//! Kept dead letters are listed, told of in full and thrown away straight from JetStream, without a bridge.

use serde_json::{Value, json};

use crate::support::nats::header;
use crate::support::process::{Ended, run};
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event};

async fn knats(nats: &Nats, args: &[&str]) -> Ended {
    let url = nats.url();
    run(&[args, &["--nats-url", &url]].concat()).await
}

async fn json(nats: &Nats, args: &[&str]) -> Value {
    let ended = knats(nats, &[args, &["-o", "json"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

/// A letter as a bridge keeps it.
async fn keep(nats: &Nats, subscription: &str, id: &str, more: &[(&str, &str)]) {
    let own = [("ce-specversion", "1.0"), ("ce-id", id)];
    let defaults = [("ce-source", "/test"), ("ce-type", "test"), ("ce-knativeerrorcode", "503")];
    let defaults = defaults.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    let headers: Vec<(&str, &str)> = own.into_iter().chain(defaults).chain(more.iter().copied()).collect();
    nats.publish(&format!("knats.deadletter.{subscription}"), &headers, "x").await;
}

/// A server with a stream of dead letters and nothing else.
async fn keeper() -> Nats {
    let nats = Nats::start().await;
    let stream = async_nats::jetstream::stream::Config {
        name: "KN_DEADLETTERS".into(),
        subjects: vec!["knats.deadletter.>".into()],
        ..Default::default()
    };
    nats.jetstream().await.create_stream(stream).await.unwrap();
    nats
}

fn ids(letters: &Value) -> Vec<&str> {
    letters.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn what_a_bridge_keeps_is_listed_with_all_that_is_known_of_it() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(422).body("no such order")).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("my.sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1").data("application/json", r#"{"a": 1}"#)).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "Knats-Channel"), Some("default/foo"));
    drop(bridge);
    let mut letters = json(&nats, &["get", "deadletters"]).await;
    let time = letters[0]["time"].take();
    assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
    let expected = json!([{
        "id": "1", "source": "/test", "type": "test", "namespace": "default", "subscription": "my.sub", "code": 422,
        "dest": sink.url("/"), "time": null, "kind": "event", "error": "no such order", "reason": null,
        "channel": "default/foo", "stream": "KN_DEFAULT__FOO", "stream_sequence": 1, "sequence": 1, "data_bytes": 8,
    }]);
    assert_eq!(letters, expected);
    assert_eq!(json(&nats, &["get", "deadletters", "default/my.sub"]).await.as_array().unwrap().len(), 1);
    assert_eq!(json(&nats, &["get", "deadletters", "default/my"]).await, json!([]));
}

#[tokio::test]
async fn letters_are_narrowed_by_everything_that_is_told_of_them() {
    let nats = keeper().await;
    keep(&nats, "default.one", "1", &[("Knats-Channel", "default/foo")]).await;
    keep(&nats, "default.one", "2", &[("ce-source", "/other"), ("ce-knativeerrorcode", "400")]).await;
    keep(&nats, "default.two", "3", &[("ce-type", "odd")]).await;
    keep(&nats, "other.one", "4", &[]).await;
    for (flags, expected) in [
        (&[][..], &["1", "2", "3", "4"][..]),
        (&["default/one"], &["1", "2"]),
        (&["--subscription", "other/one"], &["4"]),
        (&["--channel", "default/foo"], &["1"]),
        (&["--source", "/other"], &["2"]),
        (&["--type", "odd"], &["3"]),
        (&["--code", "400"], &["2"]),
        (&["--id", "4"], &["4"]),
        (&["--seq", "3"], &["3"]),
        (&["default/one", "--seq", "3"], &[]),
        (&["--limit", "2"], &["1", "2"]),
        (&["--older-than", "1h"], &[]),
        (&["--newer-than", "1h", "--type", "test"], &["1", "2", "4"]),
    ] {
        let letters = json(&nats, &[&["get", "deadletters"], flags].concat()).await;
        assert_eq!(ids(&letters), expected, "{flags:?}");
    }
}

#[tokio::test]
async fn every_format_has_the_same_letters() {
    let nats = keeper().await;
    keep(&nats, "default.sub", "1", &[("ce-knativeerrordest", "http://sink/"), ("ce-knativeerrordata", "bm8bWzJK")])
        .await;
    keep(&nats, "default.sub", "2", &[]).await;
    nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "it has no source")], "junk").await;
    let table = knats(&nats, &["get", "deadletters"]).await;
    let shown = table.stdout.lines().map(without_age).collect::<Vec<_>>().join("\n");
    let expected = "\
ID SUBSCRIPTION TYPE CODE AGE SEQ ERROR
1 default/sub test 503 AGE 1 no\u{fffd}[2J
2 default/sub test 503 AGE 2 -
- default/sub (no event) - AGE 3 it has no source";
    assert_eq!(shown, expected);
    let footer = table.stderr.lines().last().unwrap_or_default();
    assert!(
        footer.starts_with("KN_DEADLETTERS: 3 dead letters, ") && footer.contains("kept for ever, no limit"),
        "{footer}"
    );
    let wide = knats(&nats, &["get", "deadletters", "-o", "wide"]).await.stdout;
    assert!(wide.lines().nth(1).unwrap().contains("http://sink/"), "{wide}");
    let lines = knats(&nats, &["get", "deadletters", "-o", "ndjson"]).await.stdout;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), json(&nats, &["get", "deadletters"]).await);
    let yaml = knats(&nats, &["get", "deadletters", "-o", "yaml"]).await.stdout;
    assert!(yaml.contains("kind: poison") && yaml.contains("it has no source"), "{yaml}");
}

/// Columns apart by one space, and no age.
fn without_age(line: &str) -> String {
    let is_age = |word: &&str| word.len() > 1 && word.ends_with('s') && word[..word.len() - 1].parse::<u64>().is_ok();
    let words = line.split_whitespace().map(|word| if is_age(&word) { "AGE" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn without_a_stream_nothing_is_kept() {
    let nats = Nats::start().await;
    assert_eq!(json(&nats, &["get", "deadletters"]).await, json!([]));
    let one = knats(&nats, &["get", "deadletter", "1"]).await;
    assert_eq!(one.code, Some(1));
    assert!(one.stderr.contains("no dead letter with id '1'"), "{}", one.stderr);
}

#[tokio::test]
async fn messages_whose_headers_nobody_can_read_hide_no_others() {
    let nats = keeper().await;
    keep(&nats, "default.sub", "1", &[]).await;
    nats.publish_raw("knats.deadletter.default.sub", &[(b"bad name", b"x"), (b"ce-id", b"\xff")], b"junk").await;
    keep(&nats, "default.sub", "3", &[]).await;
    let letters = json(&nats, &["get", "deadletters"]).await;
    assert_eq!(ids(&letters), ["1", "-", "3"]);
    assert_eq!(letters[1]["kind"], "poison");
}

#[tokio::test]
async fn letters_far_apart_and_close_together_are_all_found() {
    let nats = keeper().await;
    let mine = |n: usize| n.is_multiple_of(70) || (200..300).contains(&n);
    for n in 0..400 {
        let subscription = if mine(n) { "default.mine" } else { "default.other" };
        keep(&nats, subscription, &n.to_string(), &[]).await;
    }
    let letters = json(&nats, &["get", "deadletters", "default/mine"]).await;
    let expected: Vec<String> = (0..400).filter(|n| mine(*n)).map(|n| n.to_string()).collect();
    assert_eq!(ids(&letters), expected);
}

#[tokio::test]
async fn one_letter_is_told_of_with_its_event_and_every_attempt() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(500 + request.attempt as u16).body("down\u{7}")).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 2, "backoffDelay": "PT0.02S"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("a b").data("application/json", r#"{"a":1}"#)).await;
    nats.dead_letters(1).await;
    let story = crate::support::eventually("three attempts in the log", || async {
        let story = json(&nats, &["get", "deadletter", "a b"]).await;
        (story["attempts"].as_array().unwrap().len() == 3).then_some(story)
    })
    .await;
    drop(bridge);
    assert_eq!((&story["id"], &story["code"], &story["sequence"]), (&json!("a b"), &json!(503), &json!(1)));
    let event = &story["event"];
    assert_eq!((&event["id"], &event["data"], &event["type"]), (&json!("a b"), &json!({"a": 1}), &json!("test")));
    assert_eq!(event.get("knativeerrorcode"), None, "the event as a redrive sends it");
    let attempts = story["attempts"].as_array().unwrap();
    let told: Vec<(u64, u64, &str, &str)> = attempts
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap();
            (one["attempt"].as_u64().unwrap(), one["code"].as_u64().unwrap(), text("error"), text("next"))
        })
        .collect();
    assert_eq!(told, [(1, 501, "down\u{7}", "retry"), (2, 502, "down\u{7}", "retry"), (3, 503, "down\u{7}", "kept")]);
    let text = knats(&nats, &["get", "deadletter", "a b"]).await.stdout;
    for part in [
        "Event\n",
        "  id: a b\n",
        "Data\n  {\n    \"a\": 1\n  }\n",
        "  code: 503\n",
        "Answer\n  down\u{fffd}\n",
        "for default/sub, sequence 1",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(text.lines().filter(|line| line.contains("subscriber")).count(), 3, "{text}");
}

#[tokio::test]
async fn an_id_that_several_letters_have_is_ambiguous_until_it_is_narrowed() {
    let nats = keeper().await;
    keep(&nats, "default.one", "1", &[("ce-source", "/a")]).await;
    keep(&nats, "default.one", "1", &[("ce-source", "/b")]).await;
    keep(&nats, "default.two", "1", &[("ce-source", "/b")]).await;
    let ended = knats(&nats, &["get", "deadletter", "1"]).await;
    assert_eq!(ended.code, Some(1));
    for part in ["--source '/a' --subscription default/one", "--source '/b' --subscription default/two", "--seq 3"] {
        assert!(ended.stderr.contains(part), "{part} is not in {}", ended.stderr);
    }
    assert_eq!(json(&nats, &["get", "deadletter", "1", "--source", "/a"]).await["sequence"], 1);
    let narrowed = ["get", "deadletter", "1", "--source", "/b", "--subscription", "default/two"];
    assert_eq!(json(&nats, &narrowed).await["sequence"], 3);
    assert_eq!(json(&nats, &["get", "deadletter", "--seq", "2"]).await["source"], "/b");
    assert_eq!(knats(&nats, &["get", "deadletter"]).await.code, Some(2));
}

#[tokio::test]
async fn poison_is_told_of_with_its_bytes() {
    let nats = keeper().await;
    nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "no id")], "text").await;
    nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "no id")], vec![0xff_u8, 0]).await;
    let text = json(&nats, &["get", "deadletter", "--seq", "1"]).await;
    assert_eq!((&text["event"], &text["reason"], &text["payload"]), (&Value::Null, &json!("no id"), &json!("text")));
    assert_eq!(json(&nats, &["get", "deadletter", "--seq", "2"]).await["payload_base64"], "/wA=");
    let shown = knats(&nats, &["get", "deadletter", "--seq", "1"]).await.stdout;
    assert!(shown.starts_with("No event\n  no id\nPayload\n  text\n"), "{shown}");
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_by_its_subject() {
    let nats = Nats::start_with(
        "accounts { A { jetstream: enabled, users: [ { user: some, password: p, \
         permissions: { publish: { deny: [\"$JS.API.STREAM.MSG.GET.KN_DEADLETTERS\"] } } } ] } }\nno_auth_user: some",
    )
    .await;
    let ended = knats(&nats, &["get", "deadletters", "--seq", "1"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("$JS.API.STREAM.MSG.GET.KN_DEADLETTERS"), "{}", ended.stderr);
}

#[tokio::test]
async fn nats_that_is_away_is_told_within_seconds() {
    let ended = run(&["get", "deadletters", "--nats-url", "nats://127.0.0.1:1"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("cannot connect to NATS at nats://127.0.0.1:1"), "{}", ended.stderr);
}

#[tokio::test]
async fn what_is_discarded_is_gone_and_nothing_else() {
    let nats = keeper().await;
    for id in ["1", "2"] {
        keep(&nats, "default.sub", id, &[]).await;
    }
    nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "no id")], "text").await;
    keep(&nats, "default.other", "1", &[]).await;
    let dry = knats(&nats, &["discard", "default/sub", "--dry-run"]).await;
    assert!(dry.stdout.ends_with("3 dead letters of default/sub would be thrown away\n"), "{dry:?}");
    let unasked = knats(&nats, &["discard", "default/sub"]).await;
    assert_eq!((unasked.code, nats.count("KN_DEADLETTERS").await), (Some(2), 4), "{}", unasked.stderr);
    let one = knats(&nats, &["discard", "default/sub", "--id", "1", "--yes"]).await;
    assert_eq!((one.code, one.stdout.as_str()), (Some(0), "1 dead letter of default/sub thrown away\n"));
    assert_eq!(ids(&json(&nats, &["get", "deadletters"]).await), ["2", "-", "1"]);
    assert_eq!(knats(&nats, &["discard", "default/sub", "--yes"]).await.code, Some(0));
    assert_eq!(json(&nats, &["get", "deadletters"]).await[0]["subscription"], "other");
    assert_eq!(knats(&nats, &["discard", "default/sub", "--id", "1", "--yes"]).await.code, Some(1));
}

#[tokio::test]
async fn retention_is_set_by_the_bridge_that_is_asked_to_and_left_alone_by_others() {
    let nats = Nats::start().await;
    let retention = || async {
        let config = nats.stream("KN_DEADLETTERS").await.get_info().await.unwrap().config;
        (config.max_age.as_secs(), config.max_bytes, config.discard)
    };
    use async_nats::jetstream::stream::DiscardPolicy::{New, Old};
    let plain = Bridge::serve(&nats, &[channel("foo")]).await;
    assert_eq!(retention().await, (0, -1, Old));
    let asked = Bridge::of(&nats, &[channel("bar")]).flag("--dead-letter-max-age", "30m");
    let asked = asked.flag("--dead-letter-max-bytes", "1MiB").start().await;
    assert_eq!(retention().await, (1800, 1 << 20, New), "{}", asked.stderr());
    assert!(asked.stderr().contains("max_bytes is declared 1048576"), "{}", asked.stderr());
    let shown = knats(&nats, &["get", "deadletters"]).await.stderr;
    assert!(shown.contains("kept for 30m, at most 1 MiB, replicas 1"), "{shown}");
    // Both look at the stream again and again; a change of a manifest makes the first look now.
    plain.write("more.yaml", &[channel("more")]);
    crate::support::until("its stream is there", || async {
        nats.messages("KN_DEFAULT__MORE").await.is_empty()
            && nats.jetstream().await.get_stream("KN_DEFAULT__MORE").await.is_ok()
    })
    .await;
    assert_eq!(retention().await, (1800, 1 << 20, New));
    let lifted = Bridge::of(&nats, &[channel("baz")]).flag("--dead-letter-max-age", "0s");
    lifted.flag("--dead-letter-max-bytes", "0").start().await;
    assert_eq!(retention().await, (0, -1, Old));
}

#[tokio::test]
async fn a_full_stream_of_dead_letters_holds_events_back_and_drops_none() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let setup = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]);
    let bridge = setup.flag("--dead-letter-max-bytes", "2KiB").start().await;
    let data = "x".repeat(1000);
    for id in ["1", "2"] {
        bridge.send("foo", &event(id).data("text/plain", data.as_str())).await;
        sink.wait_for_id("/", id).await;
    }
    nats.dead_letters(1).await;
    crate::support::until("the log says that it is full", || async {
        let unsettled = nats.consumers("KN_DEFAULT__FOO").await[0].num_ack_pending;
        unsettled == 1 && nats.count("KN_DEADLETTERS").await == 1
    })
    .await;
    let kept = json(&nats, &["get", "deadletters"]).await[0]["sequence"].to_string();
    assert_eq!(knats(&nats, &["discard", "default/sub", "--seq", &kept, "--yes"]).await.code, Some(0));
    nats.dead_letters(1).await;
    nats.settled("KN_DEFAULT__FOO").await;
}

//! `knats why` tells the story of every event, whatever became of it, from what JetStream keeps.

use serde_json::{Value, json};

use crate::support::process::{Ended, run};
use crate::support::resources::{broker, channel, channel_ref, subscribe, subscription, to_yaml, trigger};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event, eventually, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const LOG: &str = "KN_ATTEMPTS";

async fn ask(nats: &Nats, args: &[&str]) -> Ended {
    let url = nats.url();
    run(&[&["why", "--nats-url", url.as_str()], args].concat()).await
}

/// The story as JSON; it must be found.
async fn story(nats: &Nats, args: &[&str]) -> Value {
    let ended = ask(nats, &[&["-o", "json"], args].concat()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// The story of an event at its only subscription, once that is in this state.
async fn chapter_in(nats: &Nats, args: &[&str], state: &str) -> Value {
    let look = || async {
        let ended = ask(nats, &[&["-o", "json"], args].concat()).await;
        let story: Value = serde_json::from_str(&ended.stdout).ok()?;
        let chapter = story["subscriptions"][0].clone();
        (chapter["state"] == state).then_some(chapter)
    };
    eventually(&format!("{args:?} is {state}"), look).await
}

/// A channel with one subscription `sub`, whose sink answers by a script.
async fn world(
    delivery: Value,
    level: &str,
    script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Nats, Sink, Bridge) {
    let nats = Nats::start().await;
    let sink = Sink::answering(script).await;
    let mut delivery = delivery;
    if delivery.get("deadLetterSink").is_some() {
        delivery["deadLetterSink"] = json!({"uri": sink.url("/dls")});
    }
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let documents = [channel("foo"), subscription("sub", "foo", spec)];
    let bridge = Bridge::of(&nats, &documents).flag("--attempt-log", level).start().await;
    if level != "off" {
        // The bridge is ready without it.
        until("the log is there", || async { nats.stream_names().await.contains(&LOG.to_owned()) }).await;
    }
    (nats, sink, bridge)
}

fn detail(chapter: &Value) -> &str {
    chapter["detail"].as_str().unwrap()
}

/// Purpose, number, code and what follows, of each attempt.
fn attempts(chapter: &Value) -> Vec<String> {
    let line = |attempt: &Value| {
        let text = |field: &str| attempt[field].as_str().unwrap_or_default().to_owned();
        format!("{} {} {} {}", text("purpose"), attempt["attempt"], attempt["code"], text("next"))
    };
    chapter["attempts"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn an_event_that_was_delivered_at_once_is_settled_and_what_is_not_known_is_said() {
    let (nats, sink, bridge) = world(json!({}), "failures", |_| Answer::status(200)).await;
    bridge.send("foo", &event("1").attribute("subject", "s").data("text/plain", "four")).await;
    sink.wait_for_one("/").await;
    nats.settled(STREAM).await;
    let story = story(&nats, &["1"]).await;
    for (field, value) in [
        ("id", json!("1")),
        ("source", json!("/test")),
        ("type", json!("test")),
        ("channel", json!("default/foo")),
        ("stream", json!(STREAM)),
        ("sequence", json!(1)),
        ("stored", json!(true)),
        ("data_bytes", json!(4)),
        ("attributes", json!({"subject": "s", "datacontenttype": "text/plain"})),
    ] {
        assert_eq!(story[field], value, "{field}");
    }
    assert!(story["received_at"].is_string() && story["attempt_log_from"].is_string());
    let chapter = &story["subscriptions"][0];
    assert_eq!((&chapter["subscription"], &chapter["state"]), (&json!("default/sub"), &json!("settled")));
    assert!(detail(chapter).contains("no failures recorded"), "{chapter}");
    assert!(detail(chapter).contains("--attempt-log all"), "{chapter}");
    assert_eq!(attempts(chapter), [""; 0]);
}

#[tokio::test]
async fn with_the_full_log_a_smooth_delivery_has_its_attempt() {
    let (nats, sink, bridge) = world(json!({}), "all", |_| Answer::status(202)).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    until("it is in the log", || async { nats.messages(LOG).await.len() == 1 }).await;
    let chapter = chapter_in(&nats, &["1"], "settled").await;
    assert_eq!(attempts(&chapter), ["subscriber 1 202 settled"]);
    assert_eq!(detail(&chapter), "settled: delivered by attempt 1");
    assert_eq!(chapter["attempts"][0]["sink"], sink.url("/"));
}

#[tokio::test]
async fn without_a_log_that_is_said() {
    let (nats, sink, bridge) = world(json!({}), "off", |_| Answer::status(200)).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    nats.settled(STREAM).await;
    let story = story(&nats, &["1"]).await;
    assert_eq!(story["attempt_log_from"], Value::Null);
    assert!(detail(&story["subscriptions"][0]).contains("there is no log of attempts"), "{story}");
}

#[tokio::test]
async fn every_try_is_told_until_one_succeeds() {
    let (nats, _sink, bridge) = world(json!({"retry": 3, "backoffDelay": "PT0.02S"}), "failures", |request| {
        if request.attempt < 3 { Answer::status(503).body("not \u{1b}[31m now") } else { Answer::status(200) }
    })
    .await;
    bridge.send("foo", &event("1")).await;
    let chapter = chapter_in(&nats, &["1"], "settled").await;
    assert_eq!(attempts(&chapter), ["subscriber 1 503 retry", "subscriber 2 503 retry", "subscriber 3 200 settled"]);
    assert_eq!(detail(&chapter), "settled: delivered by attempt 3");
    assert!(chapter["attempts"][0]["retry_at"].is_string());
    assert_eq!(chapter["attempts"][0]["error"], "not \u{1b}[31m now");
    let shown = ask(&nats, &["1"]).await.stdout;
    assert!(shown.contains("503 after ") && shown.contains("not \u{fffd}[31m now"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[tokio::test]
async fn an_event_that_waits_says_until_when() {
    let (nats, sink, bridge) =
        world(json!({"retry": 3, "backoffDelay": "PT60S"}), "failures", |_| Answer::status(503)).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    let chapter = chapter_in(&nats, &["1"], "awaiting_retry").await;
    assert_eq!(attempts(&chapter), ["subscriber 1 503 retry"]);
    assert_eq!(chapter["retry_at"], chapter["attempts"][0]["retry_at"]);
    assert!(detail(&chapter).starts_with("waiting for its retry until "), "{chapter}");
}

#[tokio::test]
async fn an_event_under_way_is_delivered_and_not_acknowledged() {
    let (nats, sink, bridge) = world(json!({}), "failures", |_| Answer::hang()).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    let chapter = chapter_in(&nats, &["1"], "in_delivery").await;
    assert!(detail(&chapter).starts_with("delivered, waiting for its acknowledgement"), "{chapter}");
}

#[tokio::test]
async fn a_dead_letter_is_followed_to_its_sink() {
    let script = |request: &Request| match request.target() {
        "/" => Answer::status(400).body("no"),
        _ => Answer::status(204),
    };
    let (nats, sink, bridge) = world(json!({"retry": 0, "deadLetterSink": true}), "failures", script).await;
    bridge.send("foo", &event("1")).await;
    let chapter = chapter_in(&nats, &["1"], "settled").await;
    assert_eq!(attempts(&chapter), ["subscriber 1 400 dead_letter_sink", "dead_letter 1 204 settled"]);
    assert_eq!(detail(&chapter), format!("settled: given up, its dead letter went to {}", sink.url("/dls")));
    assert_eq!(chapter["dead_letters"], json!([]));
}

#[tokio::test]
async fn a_kept_dead_letter_is_named_by_its_place_and_outlives_the_event() {
    let (nats, sink, bridge) = world(json!({"retry": 0}), "failures", |request| match request.id() {
        "1" | "2" => Answer::status(400),
        _ => Answer::status(200),
    })
    .await;
    for id in ["1", "2"] {
        bridge.send("foo", &event(id)).await;
    }
    nats.dead_letters(2).await;
    nats.settled(STREAM).await;
    let sequence = 1 + nats
        .dead_letters(2)
        .await
        .iter()
        .position(|letter| crate::support::nats::header(letter, "ce-id") == Some("2"))
        .unwrap();
    let chapter = chapter_in(&nats, &["2"], "settled").await;
    assert_eq!(attempts(&chapter), ["subscriber 1 400 kept"]);
    assert_eq!(chapter["dead_letters"].as_array().unwrap().len(), 1);
    let letter = &chapter["dead_letters"][0];
    assert_eq!((&letter["sequence"], &letter["code"]), (&json!(sequence), &json!("400")));
    assert_eq!(letter["destination"], sink.url("/"));
    assert_eq!(detail(&chapter), format!("settled: given up, kept in KN_DEADLETTERS at sequence {sequence}"));

    // Gone from its stream: the log tells, and the dead letter has the attributes.
    nats.stream(STREAM).await.purge().await.unwrap();
    let gone = story(&nats, &["2"]).await;
    assert_eq!((&gone["stored"], &gone["stream"], &gone["type"]), (&json!(false), &json!(STREAM), &json!("test")));
    assert_eq!(gone["subscriptions"][0]["dead_letters"][0], *letter);
    // Without the log, the dead letter alone.
    drop(bridge);
    nats.jetstream().await.delete_stream(LOG).await.unwrap();
    let letter_alone = story(&nats, &["2"]).await;
    assert_eq!((&letter_alone["stored"], &letter_alone["sequence"]), (&json!(false), &Value::Null));
    assert_eq!(letter_alone["channel"], "default/foo");
    assert_eq!(letter_alone["subscriptions"][0]["dead_letters"][0], *letter);
}

#[tokio::test]
async fn an_event_that_is_gone_from_its_stream_is_told_from_the_log() {
    let (nats, sink, bridge) = world(json!({}), "all", |_| Answer::status(200)).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    until("it is in the log", || async { nats.messages(LOG).await.len() == 1 }).await;
    nats.settled(STREAM).await;
    nats.stream(STREAM).await.purge().await.unwrap();
    let story = story(&nats, &["1"]).await;
    assert_eq!((&story["stored"], &story["sequence"], &story["source"]), (&json!(false), &json!(1), &json!("/test")));
    assert_eq!(attempts(&story["subscriptions"][0]), ["subscriber 1 200 settled"]);
    let shown = ask(&nats, &["1"]).await.stdout;
    assert!(shown.contains("it is gone from there"), "{shown}");
}

#[tokio::test]
async fn a_reply_is_followed_to_where_it_went() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::event("answer"),
        _ => Answer::status(202),
    })
    .await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "reply": {"ref": channel_ref("bar")}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), channel("bar"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let chapter = chapter_in(&nats, &["1"], "settled").await;
    let told = attempts(&chapter);
    assert_eq!(told[0], "subscriber 1 200 reply");
    assert!(told[1].starts_with("reply 1 ") && told[1].ends_with(" settled"), "{told:?}");
    assert!(detail(&chapter).starts_with("settled: delivered, its reply went to "), "{chapter}");
    let reply = story(&nats, &["answer"]).await;
    assert_eq!((&reply["channel"], &reply["subscriptions"]), (&json!("default/bar"), &json!([])));
}

#[tokio::test]
async fn what_did_not_match_is_told_with_its_clause() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let to = |filters: Value| json!({"subscriber": {"uri": sink.url("/")}, "filters": filters});
    let documents = [
        broker("shop"),
        trigger("all", "shop", json!({"subscriber": {"uri": sink.url("/all")}})),
        trigger("cesql", "shop", to(json!([{"exact": {"source": "/test"}}, {"cesql": "amount > 1000"}]))),
        trigger("exact", "shop", to(json!([{"exact": {"type": "other"}}]))),
        trigger(
            "older",
            "shop",
            json!({"subscriber": {"uri": sink.url("/")}, "filter": {"attributes": {"type": "x"}}}),
        ),
        trigger("yes", "shop", to(json!([{"prefix": {"type": "te"}}]))),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("shop", &event("1").attribute("amount", "5")).await;
    sink.wait_for_one("/").await;
    sink.wait_for_one("/all").await;
    nats.settled("KN_DEFAULT__SHOP").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifests.yaml");
    std::fs::write(&file, to_yaml(&documents)).unwrap();
    let story = story(&nats, &["1", "-f", file.to_str().unwrap()]).await;
    let told: Vec<(&str, &str, &str, &str)> = story["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chapter| {
            let text = |value: &'_ Value| value.as_str().unwrap().to_owned().leak() as &str;
            let filter = &chapter["filter"];
            (
                text(&chapter["subscription"]),
                text(&filter["verdict"]),
                text(&filter["because"]),
                text(&chapter["state"]),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("default/all", "match", "it has no filter", "settled"),
            (
                "default/cesql",
                "no_match",
                r#"filters[1].cesql: amount > 1000 is false where amount is "5""#,
                "not_wanted"
            ),
            ("default/exact", "no_match", r#"filters[0].exact.type: "test" is not "other""#, "not_wanted"),
            ("default/older", "no_match", r#"filter.attributes.type: "test" is not "x""#, "not_wanted"),
            ("default/yes", "match", r#"filters[0].prefix.type: "test" begins with "te""#, "settled"),
        ]
    );
    assert_eq!(story["subscriptions"][1]["filter"]["clauses"][0]["path"], "filters[1].cesql");
}

/// Makes the consumer of `default/sub` as a bridge would, without one.
async fn make_consumer(nats: &Nats, stream: &str, metadata: Value, settings: Value) {
    let mut config = json!({
        "durable_name": "KN_SUB_DEFAULT__SUB", "ack_policy": "explicit", "metadata": metadata, "deliver_policy": "all",
    });
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let request = json!({"stream_name": stream, "config": config});
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.KN_SUB_DEFAULT__SUB");
    let answer = nats.client().await.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn before_its_delivery_it_waits_and_the_consumer_tells_the_filter() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for id in ["1", "2"] {
        bridge.send("foo", &event(id)).await;
    }
    drop(bridge);
    let metadata = json!({"knats.dev/subscription": "default/sub"});
    make_consumer(&nats, STREAM, metadata.clone(), json!({})).await;
    let chapter = chapter_in(&nats, &["1"], "not_delivered").await;
    assert!(detail(&chapter).contains("2 events wait; nobody asks for them"), "{chapter}");
    assert_eq!(chapter["filter"]["verdict"], Value::Null);
    assert!(chapter["filter"]["because"].as_str().unwrap().contains("-f PATH"), "{chapter}");

    let mut metadata = metadata;
    metadata["knats.dev/channel"] = json!("default/foo");
    make_consumer(&nats, STREAM, metadata.clone(), json!({})).await;
    let chapter = chapter_in(&nats, &["1"], "not_delivered").await;
    assert_eq!(chapter["filter"]["because"], "it has no filter");

    metadata["knats.dev/filter"] = json!(r#"[{"exact":{"id":"2"}}]"#);
    make_consumer(&nats, STREAM, metadata.clone(), json!({})).await;
    let chapter = chapter_in(&nats, &["1"], "not_wanted").await;
    assert_eq!(chapter["filter"]["because"], r#"filters[0].exact.id: "1" is not "2""#);
    chapter_in(&nats, &["2"], "not_delivered").await;
}

#[tokio::test]
async fn what_was_stored_before_a_subscription_began_is_told_so() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    bridge.send("foo", &event("1")).await;
    drop(bridge);
    make_consumer(&nats, STREAM, json!({"knats.dev/subscription": "default/sub"}), json!({"deliver_policy": "new"}))
        .await;
    chapter_in(&nats, &["1"], "before_start").await;
}

#[tokio::test]
async fn a_paused_consumer_is_told_so() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut paused = subscribe("sub", "foo", &sink.url("/"));
    paused["metadata"]["annotations"] = json!({"knats.dev/paused": "true"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), paused]).await;
    bridge.send("foo", &event("1")).await;
    let chapter = chapter_in(&nats, &["1"], "not_delivered").await;
    assert!(detail(&chapter).ends_with("1 event waits; its consumer is paused"), "{chapter}");
    assert_eq!(sink.requests("/").len(), 0);
}

#[tokio::test]
async fn an_unknown_id_is_told_with_where_it_was_looked_for() {
    let nats = Nats::start().await;
    let none = ask(&nats, &["nobody"]).await;
    assert_eq!(none.code, Some(1), "{}", none.stderr);
    let bridge = Bridge::serve(&nats, &[channel("foo"), channel("bar")]).await;
    bridge.send("foo", &event("1")).await;
    let ended = ask(&nats, &["nobody", "--source", "/x", "--channel", "default/foo"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr);
    let told = r#""nobody" from "/x" in channel default/foo is not known: it is not in the log of attempts, and not in all 1 messages"#;
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    let ended = ask(&nats, &["nobody", "--since", "1h"]).await;
    assert!(ended.stderr.contains("a longer --since looks further back"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_ambiguous_id_names_the_sources_and_channels_that_have_it() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let documents = [channel("foo"), channel("bar"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("bar", &event("1")).await;
    bridge.send("bar", &event("1").attribute("source", "/other")).await;
    let ended = ask(&nats, &["1"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    for source in ["/test", "/other"] {
        let line = format!("--source \"{source}\" --channel default/bar");
        assert!(ended.stderr.contains(&line), "{}", ended.stderr);
    }
    assert_eq!(story(&nats, &["1", "--source", "/other"]).await["sequence"], 2);
    // One that failed is in the log, which is asked first; the others are found when the streams are looked through.
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    until("it is in the log", || async { nats.messages(LOG).await.len() == 1 }).await;
    assert_eq!(story(&nats, &["1"]).await["channel"], "default/foo");
    assert_eq!(ask(&nats, &["1", "--since", "1h"]).await.code, Some(1));
    let narrowed = ["1", "--since", "1h", "--source", "/test", "--channel", "default/foo"];
    assert_eq!(story(&nats, &narrowed).await["channel"], "default/foo");
    // What the log names is another one than was asked for.
    assert_eq!(story(&nats, &["1", "--source", "/test", "--channel", "default/bar"]).await["sequence"], 1);
}

#[tokio::test]
async fn the_same_event_stored_again_is_one_story_with_both_places() {
    let nats = Nats::start().await;
    let _bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let headers = [("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s"), ("ce-id", "1")];
    for _ in 0..2 {
        nats.publish("foo.default", &headers, "x").await;
    }
    let story = story(&nats, &["1"]).await;
    assert_eq!((&story["sequence"], &story["also_at"]), (&json!(2), &json!([1])));
}

#[tokio::test]
async fn ids_of_any_form_are_found() {
    let (nats, _sink, bridge) = world(json!({"retry": 0}), "failures", |_| Answer::status(400)).await;
    let ids = ["a b", "*", ">", "ü \u{1f600}", "say \"hi\"", "100%", "../x", "-dash", &"long".repeat(600)];
    for (index, id) in ids.iter().enumerate() {
        bridge.send("foo", &event(id)).await;
        nats.dead_letters(index + 1).await;
    }
    until("all are in the log", || async { nats.messages(LOG).await.len() == ids.len() }).await;
    for (index, id) in ids.iter().enumerate() {
        let from_log = story(&nats, &["--", id]).await;
        assert_eq!((&from_log["id"], &from_log["sequence"]), (&json!(id), &json!(index + 1)));
        assert_eq!(from_log["subscriptions"][0]["dead_letters"][0]["sequence"], index + 1, "{id}");
        let looked = story(&nats, &["--since", "1h", "--", id]).await;
        assert_eq!(looked["sequence"], index + 1, "{id}");
    }
}

#[tokio::test]
async fn a_source_too_long_for_the_log_is_found_all_the_same() {
    let (nats, _sink, bridge) = world(json!({"retry": 0}), "failures", |_| Answer::status(400)).await;
    let source = format!("/{}", "long".repeat(600));
    bridge.send("foo", &event("1").attribute("source", &source)).await;
    nats.dead_letters(1).await;
    until("it is in the log", || async { nats.messages(LOG).await.len() == 1 }).await;
    for args in [&["1"][..], &["1", "--since", "1h"], &["1", "--source", &source]] {
        let story = story(&nats, args).await;
        assert_eq!((&story["source"], &story["stored"]), (&json!(source), &json!(true)));
        assert_eq!(attempts(&story["subscriptions"][0]), ["subscriber 1 400 kept"]);
    }
}

#[tokio::test]
async fn messages_that_clients_cannot_read_are_no_obstacle() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for number in 0..600 {
        match number % 3 {
            0 => nats.publish_raw("foo.default", &[(b"bad", b"\xff\xfe")], b"{}").await,
            1 => nats.publish_raw("foo.default", &[(b"bad name", b"x")], b"{}").await,
            _ => bridge.send("foo", &event(&format!("e{number}"))).await,
        }
    }
    assert_eq!(story(&nats, &["e2"]).await["sequence"], 3);
    assert_eq!(story(&nats, &["e599"]).await["sequence"], 600);
}

#[tokio::test]
async fn how_far_back_it_looks_can_be_said() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    bridge.send("foo", &event("old")).await;
    bridge.send("foo", &event("new")).await;
    // It is found for as long as it is not a second old.
    let ended = eventually("a second does not reach back to it", || async {
        let ended = ask(&nats, &["old", "--since", "1s"]).await;
        (ended.code == Some(1)).then_some(ended)
    })
    .await;
    assert!(ended.stderr.contains("--since"), "{}", ended.stderr);
    assert_eq!(story(&nats, &["old", "--since", "1h"]).await["sequence"], 1);
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let nats = Nats::start().await;
    for args in [&[][..], &["1", "--channel", "foo"], &["1", "--since", "0s"], &["1", "-f", "/nonexistent"]] {
        let ended = ask(&nats, args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_full_log_costs_records_and_no_delivery() {
    let nats = Nats::start().await;
    let full =
        json!({"name": LOG, "subjects": ["knats.attempt.>"], "max_bytes": 400, "discard": "new", "storage": "file"});
    make_stream(&nats, full).await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 3 { 503 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffDelay": "PT0.02S"}});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 60).await;
    nats.settled(STREAM).await;
    assert!(nats.count(LOG).await <= 1);
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
    assert_eq!(story(&nats, &["7"]).await["subscriptions"][0]["state"], "settled");
}

#[tokio::test]
async fn a_log_that_is_deleted_costs_records_and_no_delivery() {
    let (nats, sink, bridge) = world(json!({"retry": 5, "backoffDelay": "PT0.02S"}), "failures", |request| {
        Answer::status(if request.attempt < 3 { 503 } else { 200 })
    })
    .await;
    nats.jetstream().await.delete_stream(LOG).await.unwrap();
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 60).await;
    nats.settled(STREAM).await;
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
    assert!(!bridge.stderr().contains(LOG), "{}", bridge.stderr());
}

#[tokio::test]
async fn what_an_operator_has_set_since_stays_when_the_log_is_looked_at_again() {
    let delivery = json!({"retry": 5, "backoffDelay": "PT0.02S"});
    let (mut nats, sink, bridge) =
        world(delivery, "failures", |request| Answer::status(if request.attempt < 2 { 503 } else { 200 })).await;
    let hour = std::time::Duration::from_secs(60 * 60);
    let mut config = nats.stream(LOG).await.get_info().await.unwrap().config;
    assert_ne!(config.max_age, hour);
    config.max_age = hour;
    nats.jetstream().await.update_stream(config).await.unwrap();
    // Another connection is a reason to look.
    nats.kill9();
    nats.start_again().await;
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for("/", 2).await;
    until("the failure is in the log", || async { nats.count(LOG).await > 0 }).await;
    assert_eq!(nats.stream(LOG).await.get_info().await.unwrap().config.max_age, hour);
}

#[tokio::test]
async fn a_stream_of_that_name_that_keeps_something_else_is_left_alone_with_one_warning() {
    let nats = Nats::start().await;
    let theirs = json!({"name": LOG, "subjects": ["theirs.>"], "max_age": 0, "storage": "file"});
    make_stream(&nats, theirs).await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 2 { 503 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffDelay": "PT0.02S"}});
    let documents = [channel("foo"), subscription("sub", "foo", spec)];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for("/", 2).await;
    nats.settled(STREAM).await;
    // Every change of the manifests looks again.
    bridge.write("more.yaml", &[channel("bar")]);
    until("the second channel is there", || async {
        nats.stream_names().await.contains(&"KN_DEFAULT__BAR".to_owned())
    })
    .await;
    assert_eq!(bridge.stderr().matches("there is no log of attempts").count(), 1, "{}", bridge.stderr());
    let config = nats.stream(LOG).await.get_info().await.unwrap().config;
    assert_eq!((config.subjects, config.max_age.as_secs()), (vec!["theirs.>".to_owned()], 0));
    assert!(detail(&story(&nats, &["1"]).await["subscriptions"][0]).contains("there is no log of attempts"));
}

async fn make_stream(nats: &Nats, config: Value) {
    let subject = format!("$JS.API.STREAM.CREATE.{LOG}");
    let answer = nats.client().await.request(subject, config.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

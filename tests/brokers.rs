//! Brokers and Triggers: a channel with broker rules, and filtered subscriptions of it.

use serde_json::{Value, json};

use crate::support::nats::header;
use crate::support::resources::{broker, channel, subscribe, subscription, trigger};
use crate::support::{Answer, Bridge, Nats, Sink, event};

const STREAM: &str = "KN_DEFAULT__B";

fn to(sink: &Sink, path: &str) -> Value {
    json!({"uri": sink.url(path)})
}

#[tokio::test]
async fn a_trigger_gets_the_events_of_its_broker_without_the_loop_guard() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", json!({"subscriber": to(&sink, "/")}))]).await;
    bridge.send("b", &event("1")).await;
    let got = sink.wait_for_one("/").await;
    assert_eq!(got.header("ce-knativebrokerttl"), None);
    assert!(got.header("ce-knativearrivaltime").is_some());
    let stored = nats.message(STREAM, 1).await;
    assert_eq!(header(&stored, "ce-knativebrokerttl"), Some("255"));
}

#[tokio::test]
async fn filters_select_and_what_they_refuse_is_settled_without_a_request() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [
        broker("b"),
        trigger("exact", "b", json!({"subscriber": to(&sink, "/exact"), "filters": [{"exact": {"type": "a"}}]})),
        trigger("sql", "b", json!({"subscriber": to(&sink, "/sql"), "filters": [{"cesql": "n > 1 AND type = 'b'"}]})),
        trigger("old", "b", json!({"subscriber": to(&sink, "/old"), "filter": {"attributes": {"type": "b", "n": ""}}})),
        trigger(
            "not",
            "b",
            json!({"subscriber": to(&sink, "/not"), "filters": [{"not": {"any": [{"prefix": {"type": "a"}}, {"suffix": {"n": "2"}}]}}]}),
        ),
        trigger("all", "b", json!({"subscriber": to(&sink, "/all")})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    for (id, kind, n) in [("1", "a", None), ("2", "b", Some("1")), ("3", "b", Some("2")), ("4", "b", None)] {
        let mut one = event(id).without("type").attribute("type", kind);
        if let Some(n) = n {
            one = one.attribute("n", n);
        }
        bridge.send("b", &one).await;
    }
    sink.wait_for("/all", 4).await;
    nats.settled(STREAM).await;
    let ids = |path: &str| {
        let mut ids: Vec<String> = sink.requests(path).iter().map(|request| request.id().to_owned()).collect();
        ids.sort();
        ids.join(",")
    };
    assert_eq!(ids("/exact"), "1");
    assert_eq!(ids("/sql"), "3");
    assert_eq!(ids("/old"), "2,3");
    assert_eq!(ids("/not"), "2,4");
    assert_eq!(ids("/all"), "1,2,3,4");
}

#[tokio::test]
async fn a_trigger_of_one_type_in_a_hundred_is_delivered_a_hundredth() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let one_type = json!({"subscriber": to(&sink, "/"), "filters": [{"exact": {"type": "type.7"}}]});
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", one_type)]).await;
    for number in 0..300 {
        let kind = format!("type.{}", number % 100);
        bridge.send("b", &event(&number.to_string()).without("type").attribute("type", &kind)).await;
    }
    sink.wait_for("/", 3).await;
    nats.settled(STREAM).await;
    let consumer = &nats.consumers(STREAM).await[0];
    assert_eq!(consumer.delivered.consumer_sequence, 3, "JetStream itself has selected");
    assert_eq!(sink.requests("/").len(), 3);
}

#[tokio::test]
async fn what_others_put_on_the_brokers_subject_reaches_typed_triggers_too() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let typed = json!({"subscriber": to(&sink, "/"), "filters": [{"exact": {"type": "t"}}]});
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", typed)]).await;
    let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;
    nats.publish("b.default", &[], json).await;
    assert_eq!(sink.wait_for_one("/").await.id(), "1");
    assert_eq!(bridge.readyz().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reply_re_enters_the_broker_and_counts_down() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/ask" => Answer::event("reply").header("ce-exreply", "yes"),
        _ => Answer::status(200),
    })
    .await;
    let documents = [
        broker("b"),
        trigger(
            "ask",
            "b",
            json!({"subscriber": to(&sink, "/ask"), "filters": [{"exact": {"type": "com.example.event"}}]}),
        ),
        trigger("hear", "b", json!({"subscriber": to(&sink, "/hear"), "filters": [{"exact": {"type": "reply"}}]})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("b", &event("1").without("type").attribute("type", "com.example.event")).await;
    let heard = sink.wait_for_one("/hear").await;
    assert_eq!((heard.id(), heard.header("ce-exreply")), ("reply", Some("yes")));
    let stored = nats.messages(STREAM).await;
    let ttls: Vec<_> = stored.iter().map(|message| header(message, "ce-knativebrokerttl").unwrap()).collect();
    assert_eq!(ttls, ["255", "254"]);
}

#[tokio::test]
async fn a_reply_that_cannot_be_stored_fails_the_delivery_and_the_subscriber_is_asked_again() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::event(&format!("{}x", request.id()))).await;
    // It has room for the event and none for its reply.
    let full = async_nats::jetstream::stream::Config {
        name: STREAM.into(),
        subjects: vec!["b.default".into(), "b.default._type.*".into()],
        max_messages: 1,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    nats.jetstream().await.create_stream(full).await.unwrap();
    let spec = json!({"subscriber": to(&sink, "/"), "delivery": {"retry": 2, "backoffDelay": "PT0.02S"}});
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", spec)]).await;
    bridge.send("b", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("503"));
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 3, "the whole delivery is repeated");
}

#[tokio::test]
async fn a_reply_with_the_id_of_its_event_is_stored_all_the_same() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/ask" => Answer::status(200)
            .header("ce-specversion", "1.0")
            .header("ce-id", request.id())
            .header("ce-source", request.header("ce-source").unwrap())
            .header("ce-type", "reply"),
        _ => Answer::status(200),
    })
    .await;
    let documents = [
        broker("b"),
        trigger(
            "ask",
            "b",
            json!({"subscriber": to(&sink, "/ask"), "filters": [{"not": {"exact": {"type": "reply"}}}]}),
        ),
        trigger("hear", "b", json!({"subscriber": to(&sink, "/hear"), "filters": [{"exact": {"type": "reply"}}]})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("b", &event("1")).await;
    assert_eq!(sink.wait_for_one("/hear").await.id(), "1");
}

#[tokio::test]
async fn a_loop_ends_when_the_ttl_is_used_up_and_its_event_is_kept() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::event(&format!("{}x", request.id()))).await;
    let spec = json!({"subscriber": to(&sink, "/"), "delivery": {"retry": 0}});
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", spec)]).await;
    bridge.send("b", &event("1").attribute("knativebrokerttl", "6")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("400"));
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 5, "5, 4, 3, 2, 1");
}

#[tokio::test]
async fn a_channel_that_is_no_broker_leaves_the_loop_guard_of_an_event_alone() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1").attribute("knativebrokerttl", "7")).await;
    let got = sink.wait_for_one("/").await;
    assert_eq!((got.header("ce-knativebrokerttl"), got.header("ce-knativearrivaltime")), (Some("7"), None));
}

#[tokio::test]
async fn a_request_whose_ttl_is_used_up_gets_400() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[broker("b")]).await;
    for (ttl, status) in [("1", 400), ("0", 400), ("-1", 400), ("2", 202), ("nonsense", 202)] {
        let answer = bridge.post("b", &event(ttl).attribute("knativebrokerttl", ttl)).await;
        assert_eq!(answer.status(), status, "{ttl}: {}", answer.text());
    }
    assert_eq!(nats.count(STREAM).await, 2);
}

#[tokio::test]
async fn a_body_that_is_no_event_is_a_failed_delivery() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::status(200).body("thanks"),
        _ => Answer::status(200),
    })
    .await;
    let spec = json!({
        "subscriber": to(&sink, "/"),
        "delivery": {"retry": 1, "backoffDelay": "PT0.05S", "deadLetterSink": to(&sink, "/dls")},
    });
    let bridge = Bridge::serve(&nats, &[broker("b"), trigger("t", "b", spec)]).await;
    bridge.send("b", &event("1")).await;
    let letter = sink.wait_for_one("/dls").await;
    assert_eq!(letter.header("ce-knativeerrorcode"), Some("502"));
    assert_eq!(sink.requests("/").len(), 2);
}

#[tokio::test]
async fn a_trigger_of_a_broker_that_is_not_declared_waits_visibly() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::of(&nats, &[trigger("t", "b", json!({"subscriber": to(&sink, "/")}))]).spawn();
    let answer = bridge.wait_for_readyz("503", |answer| answer.text().contains("default/b")).await;
    assert_eq!(answer.status(), 503);
    bridge.write("broker.yaml", &[broker("b")]);
    bridge.wait_until_ready().await;
    bridge.send("b", &event("1")).await;
    sink.wait_for_one("/").await;
}

#[tokio::test]
async fn delivery_options_of_a_trigger_replace_the_brokers_and_its_dead_letter_sink_is_the_fallback() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.target() == "/dls" { 200 } else { 500 })).await;
    let mut with_delivery = broker("b");
    with_delivery["spec"] =
        json!({"delivery": {"retry": 3, "backoffDelay": "PT0.02S", "deadLetterSink": to(&sink, "/dls")}});
    let documents = [
        with_delivery,
        trigger(
            "own",
            "b",
            json!({"subscriber": to(&sink, "/own"), "delivery": {"retry": 1, "backoffDelay": "PT0.02S"}}),
        ),
        trigger("brokers", "b", json!({"subscriber": to(&sink, "/brokers")})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("b", &event("1")).await;
    sink.wait_for("/dls", 2).await;
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/own").len(), sink.requests("/brokers").len()), (2, 4));
}

#[tokio::test]
async fn a_subscription_can_send_into_a_broker() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let broker_ref = json!({"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": "b"}});
    let documents = [
        channel("foo"),
        broker("b"),
        subscription("bridge", "foo", json!({"subscriber": broker_ref})),
        trigger("t", "b", json!({"subscriber": to(&sink, "/")})),
    ];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    assert_eq!(sink.wait_for_one("/").await.id(), "1");
}

#[tokio::test]
async fn a_filter_on_a_subscription_is_an_annotation() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut filtered = subscribe("sub", "foo", &sink.url("/"));
    filtered["metadata"]["annotations"] = json!({"knats.dev/filters": "- prefix: {type: a.}\n- cesql: \"EXISTS n\"\n"});
    let bridge = Bridge::serve(&nats, &[channel("foo"), filtered]).await;
    for (id, kind) in [("1", "b.x"), ("2", "a.x")] {
        bridge.send("foo", &event(id).without("type").attribute("type", kind).attribute("n", "1")).await;
    }
    bridge.send("foo", &event("3").without("type").attribute("type", "a.x")).await;
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.wait_for_one("/").await.id(), "2");
}

#[tokio::test]
async fn a_loop_by_way_of_two_brokers_ends_as_well() {
    let nats = Nats::start().await;
    let to_broker = |name: &str| json!({"subscriber": {"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": name}}, "delivery": {"retry": 0}});
    let documents =
        [broker("b"), broker("c"), trigger("to-c", "b", to_broker("c")), trigger("to-b", "c", to_broker("b"))];
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("b", &event("1").attribute("knativebrokerttl", "6")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(header(&kept[0], "ce-knativeerrorcode"), Some("400"));
    nats.settled(STREAM).await;
    assert_eq!((nats.count(STREAM).await, nats.count("KN_DEFAULT__C").await), (3, 2), "5, 4, 3, 2, 1");
}

#[tokio::test]
async fn a_trigger_that_changes_its_types_gets_what_is_stored_from_then_on() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[broker("b")]).await;
    let steps = [(Some("a"), 2), (Some("x"), 2), (None, 1), (Some("a"), 2)];
    for (step, (kind, subjects)) in steps.into_iter().enumerate() {
        let path = format!("/{step}");
        let mut spec = json!({"subscriber": to(&sink, &path)});
        if let Some(kind) = kind {
            spec["filters"] = json!([{"exact": {"type": kind}}]);
        }
        bridge.write("t.yaml", &[trigger("t", "b", spec)]);
        crate::support::until("JetStream selects", || async {
            let consumers = nats.consumers(STREAM).await;
            let wanted = kind.map(|kind| format!("b.default._type.{kind}"));
            consumers.first().is_some_and(|consumer| {
                let there = &consumer.config.filter_subjects;
                there.len() == subjects && wanted.is_none_or(|wanted| there.contains(&wanted))
            })
        })
        .await;
        bridge.wait_until_ready().await;
        for kind in ["a", "x"] {
            bridge.send("b", &event(&format!("{step}{kind}")).without("type").attribute("type", kind)).await;
        }
        nats.settled(STREAM).await;
    }
    let mut ids: Vec<String> =
        (0..4).flat_map(|step| sink.requests(&format!("/{step}"))).map(|request| request.id().to_owned()).collect();
    ids.sort();
    // What was stored before and nobody had selected may come when it is selected.
    ids.retain(|id| id != "0x");
    assert_eq!(ids, ["0a", "1x", "2a", "2x", "3a"]);
}

//! Streams and consumers that are deleted, paused or taken by others under the bridge's feet: it says so, mends what it can,
//! and goes on with the rest.

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::chaos::ChaosProxy;
use crate::support::http::Message;
use crate::support::metrics::scrape;
use crate::support::resources::{channel, channel_with_stream, subscribe, subscription, to_yaml};
use crate::support::{Answer, Bridge, Gate, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const CONSUMER: &str = "KN_SUB_DEFAULT__SUB";

async fn world() -> (Nats, Sink, Bridge) {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    (nats, sink, bridge)
}

/// Posts until the event is taken; whatever is not 202 must be 503 with `Retry-After`.
async fn send_stubbornly(bridge: &Bridge, id: &str) {
    until("the event is taken", || async {
        let answer = bridge.post("foo", &event(id)).await;
        assert!(matches!(answer.status(), 202 | 503), "{}", answer.text());
        assert!(answer.status() == 202 || answer.header("retry-after").is_some());
        answer.status() == 202
    })
    .await;
}

/// One call of the JetStream API, as an operator makes it.
async fn operate(nats: &Nats, subject: &str, request: Value) -> Value {
    let answer = nats.client().await.request(subject.to_owned(), request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

async fn pause(nats: &Nats, until: &str) {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{STREAM}.{CONSUMER}");
    operate(nats, &subject, json!({ "pause_until": until })).await;
}

fn says(answer: &Message, status: u16, words: &[&str]) -> bool {
    answer.status() == status && words.iter().all(|word| answer.text().contains(word))
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_made_again_and_events_flow() {
    let (nats, sink, bridge) = world().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    for id in ["2", "3"] {
        nats.jetstream().await.delete_stream(STREAM).await.unwrap();
        send_stubbornly(&bridge, id).await;
        sink.wait_for_id("/", id).await;
        bridge.wait_until_ready().await;
    }
    nats.settled(STREAM).await;
}

/// A sink that holds back its answer to the event `old`, and refuses any other once.
struct Held {
    sink: Sink,
    gate: Gate,
    bridge: Bridge,
}

impl Held {
    async fn start(nats: &Nats) -> Self {
        let gate = Gate::new();
        let closed = gate.clone();
        let sink = Sink::answering(move |request| match (request.id(), request.attempt) {
            ("old", _) => Answer::status(200).behind(&closed),
            (_, 1) => Answer::status(500),
            _ => Answer::status(200),
        })
        .await;
        let delivery = json!({"retry": 3, "backoffDelay": "PT2S"});
        let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
        let bridge = Bridge::serve(nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
        bridge.send("foo", &event("old")).await;
        sink.wait_for_id("/", "old").await;
        Self { sink, gate, bridge }
    }

    /// The answer comes when another event, the first message of its stream too, has been delivered once.
    async fn settles_nothing_new(&self, nats: &Nats) {
        send_stubbornly(&self.bridge, "new").await;
        self.sink.wait_for_id("/", "new").await;
        self.gate.open();
        self.sink.wait_for("/", 3).await;
        nats.settled(STREAM).await;
    }
}

#[tokio::test]
async fn an_answer_for_an_event_of_a_deleted_stream_settles_nothing_in_the_new_one() {
    let nats = Nats::start().await;
    let held = Held::start(&nats).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    held.settles_nothing_new(&nats).await;
}

#[tokio::test]
async fn an_outcome_that_waits_for_a_nats_which_comes_back_with_an_empty_store_settles_nothing_there() {
    let mut nats = Nats::start().await;
    let held = Held::start(&nats).await;
    nats.kill9();
    nats.forget();
    nats.start_again().await;
    held.settles_nothing_new(&nats).await;
}

/// Deletes the stream with its consumer and makes both as they were, and counts anew.
async fn make_anew(nats: &Nats) {
    let stream = nats.stream(STREAM).await;
    let config = stream.get_info().await.unwrap().config;
    let consumer = nats.consumers(STREAM).await.remove(0).config;
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream(STREAM).await.unwrap();
    jetstream.create_stream(config).await.unwrap().create_consumer(consumer).await.unwrap();
}

#[tokio::test]
async fn an_outcome_that_waits_for_nats_settles_nothing_in_a_stream_that_was_made_anew_meanwhile() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |request| match request.id() {
        "old" => Answer::status(200).behind(&closed),
        _ => Answer::status(200),
    })
    .await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::at(&proxy.nats_url()).file("resources.yaml", &to_yaml(&documents)).start().await;
    bridge.send("foo", &event("old")).await;
    sink.wait_for_id("/", "old").await;
    proxy.cut();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    make_anew(&nats).await;
    let new = event("new");
    let headers: Vec<(&str, &str)> = new.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    nats.publish("foo.default", &headers, "").await;
    // Another bridge is at it, and both are the first message of their stream.
    let consumer: PullConsumer = nats.stream(STREAM).await.get_consumer(CONSUMER).await.unwrap();
    let mut messages = consumer.batch().max_messages(1).messages().await.unwrap();
    let taken = messages.next().await.unwrap().unwrap();
    gate.open();
    proxy.heal();
    until("the old one has come to its end", || async {
        scrape(&bridge).await.of_sub("event_age_seconds_count") == Some(1.0)
    })
    .await;
    bridge.wait_until_ready().await;
    // That one does not come to an end with it.
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    sink.wait_for_id("/", "new").await;
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn a_stream_of_dead_letters_that_lacks_our_subject_gets_it() {
    let nats = Nats::start().await;
    let config = json!({"name": "KN_DEADLETTERS", "subjects": ["other"]});
    operate(&nats, "$JS.API.STREAM.CREATE.KN_DEADLETTERS", config).await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn a_stream_that_acknowledges_nothing_is_not_ready() {
    let nats = Nats::start().await;
    let stream = json!({"name": STREAM, "subjects": ["foo.default"], "no_ack": true});
    operate(&nats, &format!("$JS.API.STREAM.CREATE.{STREAM}"), stream).await;
    let bridge = Bridge::of(&nats, &[channel("foo"), channel("bar")]).spawn();
    bridge.wait_for_readyz("503", |answer| says(answer, 503, &["default/foo", "no_ack"])).await;
    bridge.send("bar", &event("1")).await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_is_made_again() {
    let (nats, sink, bridge) = world().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.stream(STREAM).await.delete_consumer(CONSUMER).await.unwrap();
    bridge.send("foo", &event("2")).await;
    sink.wait_for_id("/", "2").await;
    bridge.wait_until_ready().await;
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn the_stream_of_dead_letters_is_made_again_when_it_is_needed() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    nats.jetstream().await.delete_stream("KN_DEADLETTERS").await.unwrap();
    bridge.send("foo", &event("1")).await;
    nats.dead_letters(1).await;
    nats.settled(STREAM).await;
    assert_eq!(nats.count("KN_DEADLETTERS").await, 1);
}

#[tokio::test]
async fn a_stream_that_nobody_uses_is_missed_too_when_it_is_deleted() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    until("the stream is there again or readyz says that it is not", || async {
        nats.stream_names().await.contains(&STREAM.to_owned())
            || bridge.readyz().await.is_ok_and(|answer| answer.status() == 503)
    })
    .await;
}

#[tokio::test]
async fn a_nats_that_comes_back_with_an_empty_store_gets_all_it_needs() {
    let mut nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    nats.kill9();
    nats.forget();
    nats.start_again().await;
    send_stubbornly(&bridge, "2").await;
    sink.wait_for_id("/", "2").await;
    bridge.wait_until_ready().await;
    // The log of attempts comes back by itself, and nobody waits for it.
    let needed: Vec<String> = nats.stream_names().await.into_iter().filter(|name| name != "KN_ATTEMPTS").collect();
    assert_eq!(needed, ["KN_DEADLETTERS", STREAM]);
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn a_consumer_that_somebody_has_paused_is_no_fault_and_is_told_of() {
    let (nats, sink, bridge) = world().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    pause(&nats, "2099-01-01T00:00:00Z").await;
    bridge.send("foo", &event("2")).await;
    let until = "paused by an operator until 2099-01-01T00:00:00Z";
    bridge.wait_for_readyz("200, paused", |answer| says(answer, 200, &["default/sub", until])).await;
    pause(&nats, "0001-01-01T00:00:00Z").await;
    sink.wait_for_id("/", "2").await;
    bridge.wait_until_ready().await;
}

#[tokio::test]
async fn a_full_stream_that_refuses_is_503_and_takes_events_again_when_there_is_room() {
    let nats = Nats::start().await;
    let documents = [channel_with_stream("foo", json!({"maxMsgs": 2, "discard": "New"}))];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in ["1", "2"] {
        bridge.send("foo", &event(id)).await;
    }
    let full = bridge.post("foo", &event("3")).await;
    assert_eq!(full.status(), 503, "{}", full.text());
    assert!(full.header("retry-after").is_some() && full.text().contains("maximum messages"), "{}", full.text());
    nats.stream(STREAM).await.purge().await.unwrap();
    send_stubbornly(&bridge, "3").await;
    assert_eq!(nats.count(STREAM).await, 1);
}

#[tokio::test]
async fn a_foreign_stream_on_the_subject_keeps_its_channel_unready_and_no_other() {
    let nats = Nats::start().await;
    let foreign = json!({"name": "FOREIGN", "subjects": ["foo.*"]});
    operate(&nats, "$JS.API.STREAM.CREATE.FOREIGN", foreign).await;
    let sink = Sink::start().await;
    let documents = [channel("foo"), channel("bar"), subscribe("sub", "bar", &sink.url("/"))];
    let bridge = Bridge::of(&nats, &documents).spawn();
    let reason = |answer: &Message| says(answer, 503, &["default/foo", "overlap"]) && !answer.text().contains("/bar");
    bridge.wait_for_readyz("503, overlap", reason).await;
    bridge.send("bar", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    assert_eq!(bridge.post("foo", &event("1")).await.status(), 503);
    nats.jetstream().await.delete_stream("FOREIGN").await.unwrap();
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("1")).await;
}

#[tokio::test]
async fn a_foreign_stream_that_takes_over_the_subject_gets_no_202() {
    let nats = Nats::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo")]).flag("--role", "ingress").start().await;
    bridge.send("foo", &event("1")).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    operate(&nats, "$JS.API.STREAM.CREATE.FOREIGN", json!({"name": "FOREIGN", "subjects": ["foo.default"]})).await;
    let answer = bridge.post("foo", &event("2")).await;
    assert_eq!(answer.status(), 503, "{}", answer.text());
    bridge.wait_for_readyz("503", |answer| says(answer, 503, &["default/foo", "overlap"])).await;
}

/// A consumer of our name that others have made, with these settings.
async fn world_with_consumer(settings: Value) -> (Nats, Sink, Bridge) {
    let nats = Nats::start().await;
    let stream = json!({"name": STREAM, "subjects": ["foo.default"]});
    operate(&nats, &format!("$JS.API.STREAM.CREATE.{STREAM}"), stream).await;
    let mut config = json!({"durable_name": CONSUMER, "ack_policy": "explicit"});
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let request = json!({"stream_name": STREAM, "config": config});
    operate(&nats, &format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}"), request).await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt < 3 { 500 } else { 200 })).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffDelay": "PT0.05S"}});
    let documents = [channel("foo"), channel("bar"), subscription("sub", "foo", spec)];
    let bridge = Bridge::of(&nats, &documents).spawn();
    (nats, sink, bridge)
}

#[tokio::test]
async fn a_consumer_that_cannot_be_worked_with_keeps_its_subscription_unready_with_the_reason() {
    for (settings, word) in [
        (json!({"deliver_subject": "somewhere"}), "deliver_subject"),
        (json!({"ack_policy": "none"}), "ack_policy"),
        (json!({"ack_policy": "all"}), "ack_policy"),
    ] {
        let (_nats, _sink, bridge) = world_with_consumer(settings).await;
        bridge.wait_for_readyz("503", |answer| says(answer, 503, &["default/sub", CONSUMER, word])).await;
        bridge.send("bar", &event("1")).await;
    }
}

#[tokio::test]
async fn a_consumer_that_would_drop_events_is_changed_so_that_it_does_not() {
    for settings in [
        json!({"max_deliver": 2}),
        json!({"headers_only": true}),
        json!({"max_deliver": 3, "backoff": [50_000_000, 60_000_000]}),
    ] {
        let (nats, sink, bridge) = world_with_consumer(settings).await;
        bridge.wait_until_ready().await;
        bridge.send("foo", &event("1").data("text/plain", "x")).await;
        let requests = sink.wait_for("/", 3).await;
        assert_eq!(requests[2].text(), "x");
        nats.settled(STREAM).await;
    }
}

#[tokio::test]
async fn only_jetstream_can_acknowledge_an_event() {
    let (nats, sink, bridge) = world().await;
    let client = nats.client().await;
    // Somebody who answers whatever is published, as `nats reply` does; before the stream does or after it.
    let mut echo = client.subscribe("foo.default").await.unwrap();
    client.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        use futures_util::StreamExt as _;
        while let Some(message) = echo.next().await {
            if let Some(reply) = message.reply {
                client.publish(reply, "{}".into()).await.unwrap();
            }
        }
    });
    bridge.send("foo", &event("1")).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    let answer = bridge.post("foo", &event("2")).await;
    assert!(answer.status() == 503 || nats.count(STREAM).await == 1, "{}", answer.text());
    answering.abort();
    sink.wait_for_id("/", "1").await;
}

#[tokio::test]
async fn dead_letters_of_a_stream_that_was_made_anew_are_not_taken_for_those_of_the_old_one() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(400)).await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    send_stubbornly(&bridge, "before").await;
    nats.publish("foo.default", &[("ce-specversion", "1.0")], "poison before").await;
    nats.dead_letters(2).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    send_stubbornly(&bridge, "after").await;
    nats.publish("foo.default", &[("ce-specversion", "1.0")], "poison after").await;
    nats.dead_letters(4).await;
}

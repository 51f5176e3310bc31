//! A network and a NATS that hang, break in the middle of a frame, or come and go: 503 in time, nothing acknowledged is lost,
//! everything works again within seconds, and the bridge ends when it is told to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::json;

use crate::support::chaos::ChaosProxy;
use crate::support::http::post;
use crate::support::load::Sent;
use crate::support::resources::{channel, channel_with, subscribe, subscription, to_yaml};
use crate::support::{Answer, Bridge, Gate, Load, Nats, Sink, event, until, within};

const STREAM: &str = "KN_DEFAULT__FOO";

/// One channel, one subscription, a short ack wait.
fn documents(url: &str) -> Vec<serde_json::Value> {
    let template = json!({"consumerConfigTemplate": {"ackWait": "3s"}});
    let spec = json!({"subscriber": {"uri": url}, "delivery": {"retry": 5, "backoffDelay": "PT0.05S"}});
    vec![channel_with("foo", template), subscription("sub", "foo", spec)]
}

async fn taken_again(bridge: &Bridge, id: &str) {
    until("events are taken again", || async { bridge.post("foo", &event(id)).await.status() == 202 }).await;
}

#[tokio::test]
async fn cut_and_stalled_in_the_middle_of_frames_it_loses_no_acknowledged_event() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let sink = Sink::start().await;
    let setup = Bridge::at(&proxy.nats_url()).file("resources.yaml", &to_yaml(&documents(&sink.url("/"))));
    let bridge = setup.flag("--publish-timeout", "1s").start().await;
    let mut sent = Sent::default();
    // Events are larger than what a read takes, so that frames are cut somewhere in the middle.
    for (round, stalls) in [("cut", false), ("stall", true), ("again", false)] {
        let load = Load::of(&bridge, round).size(200_000).start();
        for _ in 0..3 {
            load.more_taken(5).await;
            if stalls {
                proxy.stall()
            } else {
                proxy.cut()
            }
            load.more_refused(1).await;
            proxy.heal();
        }
        load.more_taken(5).await;
        sent = sent.and(load.end().await);
    }
    sent.all_delivered(&sink, "/").await;
    nats.settled(STREAM).await;
    bridge.wait_until_ready().await;
}

#[tokio::test]
async fn a_nats_that_is_taken_out_of_service_under_load_costs_no_acknowledged_event() {
    let mut nats = Nats::start_with("lame_duck_duration: 30s\nlame_duck_grace_period: 1s").await;
    let sink = Sink::start().await;
    let bridge = Bridge::of(&nats, &documents(&sink.url("/"))).flag("--publish-timeout", "1s").start().await;
    let load = Load::start(&bridge, "retired");
    load.more_taken(20).await;
    nats.lame_duck().await;
    load.more_refused(1).await;
    nats.start_again().await;
    load.more_taken(20).await;
    load.end().await.all_delivered(&sink, "/").await;
    nats.settled(STREAM).await;
    bridge.wait_until_ready().await;
}

#[tokio::test]
async fn answers_that_come_while_nats_is_away_are_settled_when_it_is_back() {
    let mut nats = Nats::start().await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&closed)).await;
    let bridge = Bridge::of(&nats, &documents(&sink.url("/"))).start().await;
    for id in 0..40 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 40).await;
    nats.kill9();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    gate.open();
    nats.start_again().await;
    bridge.wait_until_ready().await;
    nats.settled(STREAM).await;
    taken_again(&bridge, "end").await;
    sink.wait_for_id("/", "end").await;
}

#[tokio::test]
async fn a_connection_that_is_back_makes_sure_of_consumers_with_events_at_work_and_asks_for_no_others() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&closed)).await;
    let mut documents = documents(&sink.url("/"));
    documents.push(channel("bar"));
    documents.extend((0..5).map(|number| subscribe(&format!("idle{number}"), "bar", &sink.url("/"))));
    let bridge = Bridge::at(&proxy.nats_url()).file("resources.yaml", &to_yaml(&documents)).start().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    proxy.cut();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    let client = nats.client().await;
    let mut said = client.subscribe("$JS.>").await.unwrap();
    client.flush().await.unwrap();
    proxy.heal();
    // By consumer: what was asked first. Whoever makes sure does so before the next pull.
    let mut first = BTreeMap::new();
    let mut signs = 0;
    while first.len() < 6 || signs < 2 {
        let message = within("the next word", said.next()).await.unwrap();
        if let Some(call) = message.subject.strip_prefix("$JS.API.CONSUMER.") {
            let consumer = call.rsplit('.').next().unwrap().to_owned();
            first.entry(consumer).or_insert(call.starts_with("INFO."));
        }
        signs += usize::from(message.payload == "+WPI");
    }
    let asked: Vec<String> = first.into_iter().filter_map(|(consumer, asked)| asked.then_some(consumer)).collect();
    assert_eq!(asked, ["KN_SUB_DEFAULT__SUB"]);
    gate.open();
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
}

/// Ends within the drain timeout of a second and the little that the last words take.
async fn ends_in_time(bridge: &mut Bridge) {
    let begun = Instant::now();
    bridge.term();
    assert_eq!(bridge.wait().await.code(), Some(0), "{}", bridge.stderr());
    assert!(begun.elapsed() < Duration::from_millis(5500), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn it_ends_in_time_with_hanging_deliveries_whether_nats_works_hangs_or_is_gone() {
    for nats_state in ["works", "hangs", "is gone"] {
        let mut nats = Nats::start().await;
        let sink = Sink::answering(|_| Answer::hang()).await;
        let setup = Bridge::of(&nats, &documents(&sink.url("/"))).flag("--drain-timeout", "1s");
        let mut bridge = setup.start().await;
        for id in 0..40 {
            bridge.send("foo", &event(&id.to_string())).await;
        }
        sink.wait_for("/", 40).await;
        match nats_state {
            "works" => {}
            "hangs" => nats.stop().await,
            _ => {
                nats.kill9();
                bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
            }
        }
        ends_in_time(&mut bridge).await;
        nats.cont_if_running();
    }
}

#[tokio::test]
async fn it_ends_in_time_while_requests_wait_for_a_nats_that_hangs() {
    let nats = Nats::start().await;
    let setup = Bridge::of(&nats, &[channel("foo")]).flag("--drain-timeout", "1s").flag("--publish-timeout", "60s");
    let mut bridge = setup.start().await;
    nats.stop().await;
    let url = bridge.url("/default/foo");
    let waiting = tokio::spawn(async move { post(&url).event(&event("1")).try_send().await });
    ends_in_time(&mut bridge).await;
    nats.cont();
    drop(waiting);
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::hang()).await;
    let mut bridge = Bridge::of(&nats, &documents(&sink.url("/"))).flag("--drain-timeout", "60s").start().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    bridge.term();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    let begun = Instant::now();
    bridge.term();
    bridge.wait().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn two_bridges_share_the_events_and_the_end_of_one_loses_none() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = documents(&sink.url("/"));
    let mut first = Bridge::serve(&nats, &documents).await;
    let second = Bridge::serve(&nats, &documents).await;
    for number in 0..100 {
        let bridge = if number % 2 == 0 { &first } else { &second };
        bridge.send("foo", &event(&number.to_string())).await;
    }
    nats.settled(STREAM).await;
    assert_eq!((sink.counts("/").len(), sink.requests("/").len()), (100, 100), "each event once");
    let load = Load::start(&second, "more");
    load.more_taken(50).await;
    first.kill9();
    load.more_taken(50).await;
    load.end().await.all_delivered(&sink, "/").await;
    nats.settled(STREAM).await;
}

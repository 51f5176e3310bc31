//! Start, loss of NATS, drain, and kill -9 between any two steps: the bridge tells the truth about itself and loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::chaos::ChaosProxy;
use crate::support::http::{get, post};
use crate::support::resources::{channel, channel_with, subscribe, subscription};
use crate::support::{Answer, Bridge, Gate, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";

#[tokio::test]
async fn healthz_is_200_while_the_process_lives() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    assert_eq!(get(&bridge.admin_url("/healthz")).send().await.status(), 200);
}

#[tokio::test]
async fn without_nats_at_start_it_stays_unready_and_connects_when_it_can() {
    let mut nats = Nats::start().await;
    nats.kill9();
    let sink = Sink::start().await;
    let mut bridge = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).spawn();
    let answer = bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    assert!(answer.text().to_lowercase().contains("nats"), "{}", answer.text());
    assert!(answer.json().is_object());
    let refused = bridge.post("foo", &event("1")).await;
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(get(&bridge.admin_url("/healthz")).send().await.status(), 200);
    assert!(bridge.is_running());
    nats.start_again().await;
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
}

#[tokio::test]
async fn nats_killed_and_restarted_under_load_loses_no_acknowledged_event() {
    let mut nats = Nats::start().await;
    let sink = Sink::start().await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 5, "backoffDelay": "PT0.05S"}});
    let documents = [channel_with("foo", template), subscription("sub", "foo", spec)];
    let mut bridge = Bridge::of(&nats, &documents).flag("--publish-timeout", "1s").start().await;
    let done = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut senders = Vec::new();
    for sender in 0..4 {
        let (url, done, sent) = (bridge.url("/default/foo"), done.clone(), sent.clone());
        senders.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{sender}-{number}");
                match post(&url).event(&event(&id)).send().await.status() {
                    202 => acknowledged.push(id),
                    503 => {}
                    status => panic!("{id}: {status}"),
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        }));
    }
    let more = |count: usize| {
        let goal = sent.load(Ordering::Relaxed) + count;
        let sent = &sent;
        until("events are sent", move || async move { sent.load(Ordering::Relaxed) >= goal })
    };
    for _ in 0..2 {
        more(60).await;
        nats.kill9();
        more(8).await;
        nats.start_again().await;
        bridge.wait_until_ready().await;
        more(60).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeSet::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    until("every acknowledged event is delivered", || async {
        let delivered: BTreeSet<String> = sink.requests("/").iter().map(|request| request.id().to_owned()).collect();
        acknowledged.is_subset(&delivered)
    })
    .await;
    nats.settled(STREAM).await;
    assert!(bridge.is_running());
}

#[tokio::test]
async fn a_cut_connection_is_mended_and_readyz_tells_the_truth_meanwhile() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let sink = Sink::start().await;
    let bridge = Bridge::at(&proxy.nats_url())
        .file(
            "resources.yaml",
            &crate::support::resources::to_yaml(&[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]),
        )
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    for round in ["2", "3"] {
        proxy.cut();
        bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
        proxy.heal();
        bridge.wait_until_ready().await;
        bridge.send("foo", &event(round)).await;
        sink.wait_for_id("/", round).await;
    }
}

#[tokio::test]
async fn a_stalled_connection_is_refused_in_time_and_goes_on_when_it_flows_again() {
    let nats = Nats::start().await;
    let proxy = ChaosProxy::to(nats.port()).await;
    let sink = Sink::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::at(&proxy.nats_url())
        .file("resources.yaml", &crate::support::resources::to_yaml(&documents))
        .flag("--publish-timeout", "1s")
        .start()
        .await;
    proxy.stall();
    assert_eq!(bridge.post("foo", &event("lost or not")).await.status(), 503);
    proxy.heal();
    until("events are taken again", || async { bridge.post("foo", &event("again")).await.status() == 202 }).await;
    sink.wait_for_id("/", "again").await;
}

#[tokio::test]
async fn sigterm_drains_unready_at_once_and_the_delivery_in_flight_finishes() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let closed = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&closed)).await;
    let mut bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    bridge.term();
    let answer = bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    assert!(answer.json().is_object());
    assert!(bridge.is_running(), "a delivery is in flight");
    gate.open();
    assert_eq!(bridge.wait().await.code(), Some(0));
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 1);
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn an_idle_bridge_ends_at_once_with_0() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    let start = std::time::Instant::now();
    bridge.term();
    assert_eq!(bridge.wait().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[tokio::test]
async fn without_nats_it_ends_on_sigterm_too() {
    let mut nats = Nats::start().await;
    let mut bridge = Bridge::of(&nats, &[channel("foo")]).flag("--drain-timeout", "2s").start().await;
    nats.kill9();
    bridge.wait_for_readyz("503", |answer| answer.status() == 503).await;
    bridge.term();
    assert_eq!(bridge.wait().await.code(), Some(0));
}

#[tokio::test]
async fn what_does_not_finish_within_the_drain_timeout_is_given_back() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| if request.attempt == 1 { Answer::hang() } else { Answer::status(200) }).await;
    let documents = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let mut bridge = Bridge::of(&nats, &documents).flag("--drain-timeout", "1s").start().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    bridge.term();
    assert_eq!(bridge.wait().await.code(), Some(0));
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
    // Given back, not left to the ack wait of 30 s, which is longer than this test waits.
    bridge.start_again().await;
    sink.wait_for("/", 2).await;
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn events_taken_before_a_kill_are_delivered_after_it() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for id in 0..20 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    bridge.kill9();
    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/"))]);
    bridge.start_again().await;
    sink.wait_for("/", 20).await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 20);
}

#[tokio::test]
async fn a_kill_while_the_sink_works_makes_the_event_come_again() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| if request.attempt == 1 { Answer::hang() } else { Answer::status(200) }).await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 3, "backoffDelay": "PT0.05S"}});
    let mut bridge = Bridge::serve(&nats, &[channel_with("foo", template), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    bridge.kill9();
    bridge.start_again().await;
    sink.wait_for("/", 2).await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), 2);
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn attempts_are_counted_over_a_kill_and_neither_forgotten_nor_repeated() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match request.target() {
        "/" => Answer::status(500),
        _ => Answer::status(200),
    })
    .await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {
            "retry": 4, "backoffPolicy": "linear", "backoffDelay": "PT0.5S", "deadLetterSink": {"uri": sink.url("/dls")},
        },
    });
    let mut bridge = Bridge::serve(&nats, &[channel_with("foo", template), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    // The second retry is a second away: killed while the event waits, with nothing in flight.
    sink.wait_for("/", 2).await;
    until("the failed attempt is given back", || async { waits_for_its_retry(&nats).await }).await;
    bridge.kill9();
    bridge.start_again().await;
    let dead = sink.wait_for_one("/dls").await;
    assert_eq!(dead.header("ce-knativeerrorcode"), Some("500"));
    nats.settled(STREAM).await;
    assert_eq!((sink.requests("/").len(), sink.requests("/dls").len()), (5, 1));
}

/// The second delivery has been made and its answer is a moment old: what is left to do is to wait.
async fn waits_for_its_retry(nats: &Nats) -> bool {
    let info = nats.consumers(STREAM).await.remove(0);
    info.delivered.consumer_sequence >= 2 && info.num_ack_pending == 1
}

#[tokio::test]
async fn a_kill_between_the_last_failure_and_its_dead_letter_loses_nothing() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match (request.target(), request.attempt) {
        ("/", _) => Answer::status(400),
        (_, 1) => Answer::hang(),
        _ => Answer::status(200),
    })
    .await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "delivery": {"retry": 1, "backoffDelay": "PT0.05S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let mut bridge = Bridge::serve(&nats, &[channel_with("foo", template), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/dls").await;
    bridge.kill9();
    bridge.start_again().await;
    let dead = sink.wait_for("/dls", 2).await.remove(1);
    assert_eq!((dead.id(), dead.header("ce-knativeerrorcode")), ("1", Some("400")));
    nats.settled(STREAM).await;
}

#[tokio::test]
async fn a_kill_between_the_answer_and_its_reply_loses_nothing() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| match (request.target(), request.attempt) {
        ("/", _) => Answer::event("answer"),
        (_, 1) => Answer::hang(),
        _ => Answer::status(200),
    })
    .await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 3, "backoffDelay": "PT0.05S"},
    });
    let mut bridge = Bridge::serve(&nats, &[channel_with("foo", template), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/reply").await;
    bridge.kill9();
    bridge.start_again().await;
    assert_eq!(sink.wait_for("/reply", 2).await[1].id(), "answer");
    nats.settled(STREAM).await;
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn killed_again_and_again_under_load_it_delivers_every_acknowledged_event() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt == 1 { 503 } else { 200 })).await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "2s"}});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"retry": 20, "backoffPolicy": "linear", "backoffDelay": "PT0.02S"}});
    let mut bridge = Bridge::serve(&nats, &[channel_with("foo", template), subscription("sub", "foo", spec)]).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..4 {
        for number in 0..15 {
            let id = format!("{round}-{number}");
            bridge.send("foo", &event(&id)).await;
            acknowledged.insert(id);
        }
        // Somewhere in the middle of the deliveries.
        sink.wait_for("/", round * 20 + 5).await;
        bridge.kill9();
        bridge.start_again().await;
    }
    until("every event was answered with 200", || async {
        let succeeded = sink.requests("/").into_iter().filter(|request| request.attempt > 1);
        succeeded.map(|request| request.id().to_owned()).collect::<BTreeSet<_>>() == acknowledged
    })
    .await;
    nats.settled(STREAM).await;
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let nats = Nats::start().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = crate::support::process::knats();
    command.args(["serve", "--nats-url", &nats.url(), "--listen", &address, "--admin-listen", "127.0.0.1:0"]);
    let dir = tempfile::tempdir().unwrap();
    let ended = crate::support::process::Process::spawn(command, dir.path(), "knats").ended().await;
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    assert!(ended.stderr.contains(&address), "{ended:?}");
}

#[tokio::test]
async fn it_opens_as_many_files_as_the_system_lets_it() {
    let nats = Nats::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo")]).descriptors(300).start().await;
    let metrics = get(&bridge.admin_url("/metrics")).send().await.text();
    let most = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds ")).unwrap().parse::<f64>().unwrap();
    assert!(most > 300.0, "{most}");
}

//! Two bridges are replaced one after the other under load: nothing acknowledged is lost or doubled, and whoever sends to either of
//! them is refused by one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::post;
use crate::support::resources::{channel_with, subscription};
use crate::support::{Answer, Bridge, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const SENDERS: usize = 3;

/// Sends one event after the other, to the other bridge when one does not take it, until it is stopped.
async fn send(name: usize, urls: [String; 2], taken: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut ids = Vec::new();
    let mut at = name % 2;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{name}-{number}");
        let mut refusals = Vec::new();
        loop {
            match post(&urls[at]).event(&event(&id)).try_send().await {
                Ok(answer) if answer.status() == 202 => break,
                Ok(answer) => refusals.push(format!("{} {}", answer.status(), answer.text())),
                Err(error) => refusals.push(error.to_string()),
            }
            assert!(refusals.len() < 2, "both bridges refuse {id}: {refusals:?}");
            at = 1 - at;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        ids.push(id);
    }
    ids
}

#[tokio::test]
async fn two_bridges_replaced_one_after_the_other_under_load_lose_and_double_nothing() {
    let nats = Nats::start().await;
    // Some are on their way for a while, and some wait for a retry when their bridge ends.
    let sink = Sink::answering(|request| match request.attempt {
        1 if request.id().ends_with(['3', '7']) => Answer::status(500),
        _ => Answer::status(200).after(Duration::from_millis(30)),
    })
    .await;
    let template = json!({"consumerConfigTemplate": {"ackWait": "5s"}});
    let delivery = json!({"retry": 5, "backoffPolicy": "linear", "backoffDelay": "PT0.3S"});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let documents = [channel_with("foo", template), subscription("sub", "foo", spec)];
    let serve = || Bridge::of(&nats, &documents).flag("--drain-timeout", "10s").start();
    let mut bridges = [serve().await, serve().await];
    let urls = || [bridges[0].url("/default/foo"), bridges[1].url("/default/foo")];
    let (taken, stop) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
    let senders: Vec<_> =
        (0..SENDERS).map(|name| tokio::spawn(send(name, urls(), taken.clone(), stop.clone()))).collect();
    let more_taken = |count: usize| {
        let goal = taken.load(Ordering::Relaxed) + count;
        let (taken, senders) = (&taken, &senders);
        async move {
            let is_over = || senders.iter().any(tokio::task::JoinHandle::is_finished);
            until("events are taken", || async { is_over() || taken.load(Ordering::Relaxed) >= goal }).await;
        }
    };
    more_taken(50).await;
    for _ in 0..2 {
        for bridge in &mut bridges {
            let told = Instant::now();
            bridge.term();
            assert_eq!(bridge.wait().await.code(), Some(0));
            assert!(told.elapsed() < DRAIN_TIMEOUT, "{:?}", told.elapsed());
            more_taken(20).await;
            bridge.start_again().await;
            more_taken(20).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap().into_iter().map(|id| (id, 1)));
    }
    nats.settled(STREAM).await;
    let mut delivered = BTreeMap::new();
    for request in sink.requests("/") {
        let is_refused = request.attempt == 1 && request.id().ends_with(['3', '7']);
        *delivered.entry(request.id().to_owned()).or_insert(0) += usize::from(!is_refused);
    }
    assert_eq!(delivered, acknowledged);
}

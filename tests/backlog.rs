//! Many more events than are worked on at once.

use serde_json::json;

use crate::support::http::post;
use crate::support::resources::{channel, subscribe};
use crate::support::{Bridge, Nats, Sink};

const STREAM: &str = "KN_DEFAULT__FOO";

/// Sends events with the ids of the range, in batches.
async fn send(bridge: &Bridge, ids: std::ops::Range<usize>) {
    let ids: Vec<usize> = ids.collect();
    for some in ids.chunks(500) {
        let batch: Vec<_> = some
            .iter()
            .map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "data": "x"}))
            .collect();
        let answer = post(&bridge.url("/default/foo"))
            .header("content-type", "application/cloudevents-batch+json")
            .body(json!(batch).to_string())
            .send()
            .await;
        assert_eq!(answer.status(), 202, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_backlog_is_delivered_whole_and_each_event_once() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    send(&bridge, 0..3000).await;
    bridge.write("sub.yaml", &[subscribe("sub", "foo", &sink.url("/"))]);
    sink.wait_for("/", 3000).await;
    nats.settled(STREAM).await;
    let mut ids: Vec<usize> = sink.requests("/").iter().map(|request| request.id().parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..3000).collect::<Vec<_>>());
}

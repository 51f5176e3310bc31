//! What `/metrics` says after traffic that is known, and that it never stands still.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::metrics::{Metrics, OPEN_METRICS, PROMETHEUS, scrape, scrape_as};
use crate::support::resources::{broker, channel, subscribe, subscription};
use crate::support::sink::Gate;
use crate::support::{Answer, Bridge, Nats, Sink, event, free_port, http, until};

const STREAM: &str = "KN_DEFAULT__FOO";

fn annotated(mut subscription: Value, annotations: Value) -> Value {
    subscription["metadata"]["annotations"] = annotations;
    subscription
}

/// Scrapes until it is as told; what JetStream knows is asked for once in ten seconds.
async fn scraped(bridge: &Bridge, what: &str, is: impl Fn(&Metrics) -> bool) -> Metrics {
    crate::support::eventually(what, || async { Some(scrape(bridge).await).filter(&is) }).await
}

#[tokio::test]
async fn both_formats_are_served_to_those_who_ask_for_them() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let open = scrape_as(&bridge, scraper, OPEN_METRICS).await;
    let plain = scrape_as(&bridge, "*/*", PROMETHEUS).await;
    assert_eq!(open.names(), plain.names());
    assert!(open.names().contains("dispatch_seconds_bucket"), "{:?}", open.names());
    let url = bridge.admin_url("/metrics");
    let post = http::post(&url).send().await;
    assert_eq!((post.status(), post.header("allow")), (405, Some("GET,HEAD")));
}

#[tokio::test]
async fn events_are_counted_by_channel_mode_and_what_became_of_them() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), channel("bar"), broker("shop")]).await;
    let post = |path: &str, content_type: &str, body: &str| {
        http::post(&bridge.url(path)).header("content-type", content_type).body(body)
    };
    bridge.send("foo", &event("1")).await;
    bridge.send("foo", &event("2")).await;
    bridge.send("bar", &event("3")).await;
    let one = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"});
    let structured = post("/default/foo", "application/cloudevents+json", &one("4").to_string());
    let batch = json!([one("5"), one("6"), one("7")]).to_string();
    let batch = post("/default/foo", "application/cloudevents-batch+json", &batch);
    let invalid = http::post(&bridge.url("/default/foo")).event(&event("8").attribute("specversion", "9"));
    let format = post("/default/foo", "application/cloudevents+avro", "x");
    let large = http::post(&bridge.url("/default/foo")).event(&event("9").data("text/plain", vec![b'x'; 2_000_000]));
    let elsewhere = http::post(&bridge.url("/default/none")).event(&event("10"));
    let method = http::get(&bridge.url("/default/foo"));
    let spent = http::post(&bridge.url("/default/shop")).event(&event("11").attribute("knativebrokerttl", "1"));
    for (call, status) in [
        (structured, 202),
        (batch, 202),
        (invalid, 400),
        (format, 415),
        (large, 413),
        (elsewhere, 404),
        (method, 405),
        (spent, 400),
    ] {
        assert_eq!(call.send().await.status(), status);
    }
    let metrics = scrape(&bridge).await;
    let told: BTreeSet<(String, u64)> = metrics
        .series("ingress_events_total")
        .iter()
        .map(|(labels, count)| (labels.values().cloned().collect::<Vec<_>>().join(" "), *count as u64))
        .collect();
    let expected = [
        ("default/foo binary accepted", 2),
        ("default/bar binary accepted", 1),
        ("default/foo structured accepted", 1),
        ("default/foo batch accepted", 3),
        ("default/foo binary invalid", 1),
        ("default/foo unknown unsupported_format", 1),
        ("default/foo binary too_large", 1),
        ("default/shop binary ttl_used_up", 1),
        (" unknown no_such_channel", 1),
        (" unknown method_not_allowed", 1),
    ];
    assert_eq!(told, expected.into_iter().map(|(labels, count)| (labels.to_owned(), count)).collect());
    let acks = |channel| metrics.value("ingress_ack_seconds_count", &[("channel", channel)]);
    assert_eq!((acks("default/foo"), acks("default/bar"), acks("default/shop")), (Some(4.0), Some(1.0), None));
}

/// `/` refuses `retried` once and `dead` and `kept` for good; the dead letter sink refuses `kept`.
async fn scripted() -> Sink {
    Sink::answering(|request| match (request.target(), request.id()) {
        ("/", "retried") if request.attempt == 1 => Answer::status(503),
        ("/", "dead" | "kept") => Answer::status(400),
        ("/", "reply") => Answer::event("answer"),
        ("/dls", "kept") => Answer::status(410),
        _ => Answer::status(204),
    })
    .await
}

#[tokio::test]
async fn deliveries_are_counted_by_their_answers_and_what_followed() {
    let (nats, sink) = (Nats::start().await, scripted().await);
    let spec = json!({
        "subscriber": {"uri": sink.url("/")},
        "reply": {"uri": sink.url("/reply")},
        "delivery": {"retry": 2, "backoffDelay": "PT0.02S", "deadLetterSink": {"uri": sink.url("/dls")}},
    });
    let filters = json!({"knats.dev/filters": "- cesql: \"type = 'test'\"", "knats.dev/max-in-flight": "7"});
    let documents = [channel("foo"), annotated(subscription("sub", "foo", spec), filters)];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in ["fine", "retried", "dead", "kept", "reply"] {
        bridge.send("foo", &event(id)).await;
    }
    bridge.send("foo", &event("unwanted").attribute("type", "other")).await;
    nats.dead_letters(1).await;
    nats.settled(STREAM).await;
    let metrics =
        scraped(&bridge, "five events are settled", |metrics| metrics.of_sub("event_age_seconds_count") == Some(5.0))
            .await;
    let attempts = |name: &str, class: &str, last: &str| {
        metrics.value(name, &[("subscription", "default/sub"), ("code_class", class), ("final", last)])
    };
    assert_eq!(attempts("dispatch_attempts_total", "2xx", "true"), Some(3.0), "fine, retried, reply");
    assert_eq!(attempts("dispatch_attempts_total", "5xx", "false"), Some(1.0), "retried");
    assert_eq!(attempts("dispatch_attempts_total", "4xx", "true"), Some(2.0), "dead, kept");
    assert_eq!(metrics.series("dispatch_attempts_total").len(), 3);
    assert_eq!(attempts("reply_attempts_total", "2xx", "true"), Some(1.0));
    assert_eq!(attempts("dead_letter_attempts_total", "2xx", "true"), Some(1.0));
    assert_eq!(attempts("dead_letter_attempts_total", "4xx", "true"), Some(1.0));
    assert_eq!(metrics.of_sub("dispatch_seconds_count"), Some(6.0));
    assert_eq!(metrics.of_sub("kn_eventing_dispatch_duration_seconds_count"), Some(6.0));
    let bounds = metrics.series("kn_eventing_dispatch_duration_seconds_bucket").iter();
    let bounds: Vec<f64> = bounds.map(|(labels, _)| labels["le"].parse().unwrap()).collect();
    let knative = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, f64::INFINITY];
    assert_eq!(bounds, knative);
    assert_eq!(metrics.of_sub("filtered_events_total"), Some(1.0));
    assert_eq!(metrics.of_sub("dead_letters_kept_total"), Some(1.0));
    assert_eq!(metrics.of_sub("dead_letter_sink_failures_total"), Some(1.0));
    assert_eq!(metrics.of_sub("concurrency_limit"), Some(7.0));
    assert_eq!(
        metrics.value("subscription_state", &[("subscription", "default/sub"), ("state", "delivering")]),
        Some(1.0)
    );
    assert_eq!((metrics.value("ready", &[]), metrics.value("manifests_refused_total", &[])), (Some(1.0), Some(0.0)));
    assert_eq!(metrics.value("knats_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    let waiting =
        scraped(&bridge, "the dead letter is counted", |metrics| metrics.of_sub("dlq_depth") == Some(1.0)).await;
    assert_eq!((waiting.of_sub("consumer_pending"), waiting.of_sub("lag_seconds")), (Some(0.0), Some(0.0)));
}

#[tokio::test]
async fn what_waits_is_told_as_count_and_as_seconds() {
    let nats = Nats::start().await;
    let gate = Gate::new();
    let held = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(200).behind(&held)).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}});
    let limited = json!({"knats.dev/max-in-flight": "2"});
    let documents = [channel("foo"), annotated(subscription("sub", "foo", spec), limited)];
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in 0..5 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    sink.wait_for("/", 2).await;
    let oldest = Instant::now();
    let metrics = scraped(&bridge, "three wait and two are under way", |metrics| {
        metrics.of_sub("consumer_pending") == Some(3.0) && metrics.of_sub("consumer_ack_pending") == Some(2.0)
    })
    .await;
    let lag = metrics.of_sub("lag_seconds").unwrap();
    assert!(lag > 0.0 && lag < oldest.elapsed().as_secs_f64() + 5.0, "{lag}");
    gate.open();
    nats.settled(STREAM).await;
    scraped(&bridge, "nothing waits", |metrics| {
        ["consumer_pending", "consumer_ack_pending", "lag_seconds"].iter().all(|name| metrics.of_sub(name) == Some(0.0))
    })
    .await;
}

#[tokio::test]
async fn a_sink_that_is_away_shows_as_retries_and_as_an_open_breaker() {
    let nats = Nats::start().await;
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let spec = json!({
        "subscriber": {"uri": nobody},
        "delivery": {"retry": 10, "backoffPolicy": "linear", "backoffDelay": "PT20S"},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    let before = scrape(&bridge).await;
    assert_eq!((before.of_sub("breaker_state"), before.of_sub("retry_scheduled")), (Some(0.0), Some(0.0)));
    for id in 0..5 {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    let after = scraped(&bridge, "the breaker is open", |metrics| metrics.of_sub("breaker_state") == Some(1.0)).await;
    assert_eq!(after.of_sub("retry_scheduled"), Some(5.0));
    let none = [("subscription", "default/sub"), ("code_class", "none"), ("final", "false")];
    assert_eq!(after.value("dispatch_attempts_total", &none), Some(5.0));
    let held = [("subscription", "default/sub"), ("state", "held")];
    scraped(&bridge, "its state", |metrics| metrics.value("subscription_state", &held) == Some(1.0)).await;
}

#[tokio::test]
async fn series_come_and_go_with_what_is_declared() {
    let (nats, sink) = (Nats::start().await, Sink::start().await);
    let stays = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let goes = [channel("bar"), subscribe("gone", "bar", &sink.url("/gone"))];
    let bridge = Bridge::at(&nats.url())
        .file("stays.yaml", &crate::support::resources::to_yaml(&stays))
        .file("goes.yaml", &crate::support::resources::to_yaml(&goes))
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    bridge.send("bar", &event("2")).await;
    sink.wait_for_one("/").await;
    sink.wait_for_one("/gone").await;
    let both =
        scraped(&bridge, "both are told of", |metrics| metrics.series("event_age_seconds_count").len() == 2).await;
    assert_eq!(both.label_values("subscription"), BTreeSet::from(["default/gone", "default/sub", "undeclared"]));
    assert_eq!(both.label_values("channel"), BTreeSet::from(["default/bar", "default/foo"]));
    bridge.remove("goes.yaml");
    let one = BTreeSet::from(["default/sub", "undeclared"]);
    let left = scraped(&bridge, "one is left", |metrics| metrics.label_values("subscription") == one).await;
    assert_eq!(left.label_values("channel"), BTreeSet::from(["default/foo"]));
    let kept = [("subscription", "default/sub"), ("code_class", "2xx"), ("final", "true")];
    assert_eq!(left.value("dispatch_attempts_total", &kept), Some(1.0), "the others count on");
}

#[tokio::test]
async fn manifests_that_are_refused_are_counted() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    bridge.write_text("resources.yaml", "kind: [");
    let refused = scraped(&bridge, "refused", |metrics| metrics.value("manifest_faults", &[]) == Some(1.0)).await;
    assert!(refused.value("manifests_refused_total", &[]) >= Some(1.0));
    bridge.write("resources.yaml", &[channel("foo")]);
    let mended = scraped(&bridge, "mended", |metrics| metrics.value("manifest_faults", &[]) == Some(0.0)).await;
    assert!(mended.value("manifests_refused_total", &[]) >= Some(1.0), "a counter");
}

#[tokio::test]
async fn without_nats_the_rest_is_told_and_nobody_waits() {
    let (mut nats, sink) = (Nats::start().await, Sink::start().await);
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    let connected = |metrics: &Metrics, is: f64| {
        ["control", "events"].iter().all(|name| metrics.value("nats_connected", &[("connection", name)]) == Some(is))
    };
    let before = scrape(&bridge).await;
    assert!(connected(&before, 1.0) && before.of_sub("consumer_pending").is_some());
    nats.kill9();
    let away = scraped(&bridge, "NATS is away", |metrics| connected(metrics, 0.0)).await;
    for name in ["consumer_pending", "consumer_ack_pending", "lag_seconds", "dlq_depth"] {
        assert_eq!(away.series(name), [], "{name}");
    }
    assert_eq!(away.value("nats_reconnects_total", &[("connection", "control")]), Some(0.0));
    let taken = [("channel", "default/foo"), ("mode", "binary"), ("result", "accepted")];
    assert_eq!(away.value("ingress_events_total", &taken), Some(1.0));
    assert_eq!(bridge.post("foo", &event("2")).await.status(), 503);
    let refused = [("channel", "default/foo"), ("mode", "unknown"), ("result", "unavailable")];
    assert_eq!(scrape(&bridge).await.value("ingress_events_total", &refused), Some(1.0));
    nats.start_again().await;
    scraped(&bridge, "NATS is back", |metrics| {
        metrics.value("nats_reconnects_total", &[("connection", "control")]) == Some(1.0)
            && metrics.of_sub("consumer_pending").is_some()
    })
    .await;
}

#[tokio::test]
async fn a_nats_that_hangs_does_not_hold_a_scrape_up() {
    let (mut nats, sink) = (Nats::start().await, Sink::start().await);
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    nats.stop().await;
    let begun = Instant::now();
    let metrics = scrape(&bridge).await;
    assert!(begun.elapsed() < Duration::from_secs(9), "a scraper would have given up");
    assert_eq!(metrics.series("consumer_pending"), []);
    assert!(metrics.value("process_resident_memory_bytes", &[]) > Some(0.0));
    nats.cont_if_running();
    until("it is told again", || async { scrape(&bridge).await.of_sub("consumer_pending").is_some() }).await;
}

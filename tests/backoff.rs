//! How long a retry waits.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::resources::{channel, channel_with, subscription};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event};

/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_millis(1500);

/// Runs one event through `delivery` until `attempts` have come, and gives the waits between them.
async fn waits(
    delivery: Value,
    attempts: usize,
    script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Vec<Duration> {
    let nats = Nats::start().await;
    let sink = Sink::answering(script).await;
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    let requests = sink.wait_for("/", attempts).await;
    requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

/// Waits are as long as told, at most a tenth longer, plus what the machine takes.
#[track_caller]
fn assert_waits(waits: &[Duration], expected_millis: &[u64]) {
    assert_eq!(waits.len(), expected_millis.len());
    for (wait, expected) in waits.iter().zip(expected_millis) {
        let expected = Duration::from_millis(*expected);
        assert!(*wait >= expected, "{waits:?}, expected at least {expected_millis:?} ms");
        assert!(*wait <= expected.mul_f64(1.1) + SLACK, "{waits:?}, expected about {expected_millis:?} ms");
    }
}

fn always_500(_: &Request) -> Answer {
    Answer::status(500)
}

#[tokio::test]
async fn linear_backoff_grows_by_the_delay() {
    let delivery = json!({"retry": 4, "backoffPolicy": "linear", "backoffDelay": "PT0.2S"});
    assert_waits(&waits(delivery, 5, always_500).await, &[200, 400, 600, 800]);
}

#[tokio::test]
async fn exponential_backoff_doubles() {
    let delivery = json!({"retry": 4, "backoffPolicy": "exponential", "backoffDelay": "PT0.1S"});
    assert_waits(&waits(delivery, 5, always_500).await, &[100, 200, 400, 800]);
}

#[tokio::test]
async fn an_unset_policy_is_exponential_and_an_unset_delay_a_fifth_of_a_second() {
    assert_waits(&waits(json!({"retry": 3}), 4, always_500).await, &[200, 400, 800]);
}

#[tokio::test]
async fn backoff_max_caps_the_wait() {
    let delivery =
        json!({"retry": 4, "backoffPolicy": "exponential", "backoffDelay": "PT0.1S", "backoffMax": "PT0.2S"});
    let waits = waits(delivery, 5, always_500).await;
    assert_waits(&waits, &[100, 200, 200, 200]);
    assert!(waits[3] < Duration::from_millis(800), "{waits:?}");
}

#[tokio::test]
async fn retry_after_counts_when_its_maximum_is_set() {
    for status in [429, 503] {
        let delivery = json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT10S"});
        let waits = waits(delivery, 2, move |_| Answer::status(status).header("retry-after", "1")).await;
        assert_waits(&waits, &[1000]);
    }
}

#[tokio::test]
async fn retry_after_as_a_date_counts_too() {
    let delivery = json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT10S"});
    let waits = waits(delivery, 2, |_| Answer::status(503).header("retry-after", http_date(3))).await;
    // The date has whole seconds: between two and three are left.
    assert!(waits[0] >= Duration::from_millis(1900), "{waits:?}");
}

#[tokio::test]
async fn retry_after_is_cut_at_its_maximum() {
    let delivery = json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT0.5S"});
    assert_waits(&waits(delivery, 2, |_| Answer::status(429).header("retry-after", "3600")).await, &[500]);
}

#[tokio::test]
async fn the_larger_of_backoff_and_retry_after_is_waited() {
    let delivery = json!({"retry": 1, "backoffPolicy": "linear", "backoffDelay": "PT1.5S", "retryAfterMax": "PT10S"});
    assert_waits(&waits(delivery, 2, |_| Answer::status(429).header("retry-after", "1")).await, &[1500]);
}

#[tokio::test]
async fn retry_after_does_not_count_without_a_maximum_nor_on_other_statuses_nor_when_it_is_nonsense() {
    let answers: [(Value, u16, &str); 4] = [
        (json!({"retry": 1, "backoffDelay": "PT0.05S"}), 429, "20"),
        (json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT0S"}), 503, "20"),
        (json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT30S"}), 500, "20"),
        (json!({"retry": 1, "backoffDelay": "PT0.05S", "retryAfterMax": "PT30S"}), 503, "soon"),
    ];
    for (delivery, status, value) in answers {
        let waits = waits(delivery, 2, move |_| Answer::status(status).header("retry-after", value)).await;
        assert_waits(&waits, &[50]);
    }
}

#[tokio::test]
async fn a_request_is_given_up_after_its_timeout_and_tried_again() {
    let delivery = json!({"retry": 1, "backoffDelay": "PT0.05S", "timeout": "PT0.3S"});
    let waits = waits(delivery, 2, |_| Answer::hang()).await;
    // The time runs from before the connection stands, so the sink sees a little less of it.
    assert_waits(&waits, &[320]);
}

#[tokio::test]
async fn a_subscription_without_options_uses_those_of_its_channel() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.target() == "/" { 500 } else { 200 })).await;
    let spec = json!({"delivery": {
        "retry": 1, "backoffPolicy": "linear", "backoffDelay": "PT0.05S", "deadLetterSink": {"uri": sink.url("/dls")},
    }});
    let plain = subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/")}}));
    let bridge = Bridge::serve(&nats, &[channel_with("foo", spec), plain]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/dls").await;
    assert_eq!(sink.requests("/").len(), 2);
}

#[tokio::test]
async fn a_subscription_with_an_option_of_its_own_keeps_only_the_dead_letter_sink_of_its_channel() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.target() == "/" { 500 } else { 200 })).await;
    let spec =
        json!({"delivery": {"retry": 5, "backoffDelay": "PT0.01S", "deadLetterSink": {"uri": sink.url("/dls")}}});
    // An unset `retry` in a delivery that is there is 0.
    let own = json!({"subscriber": {"uri": sink.url("/")}, "delivery": {"backoffDelay": "PT0.02S"}});
    let bridge = Bridge::serve(&nats, &[channel_with("foo", spec), subscription("sub", "foo", own)]).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/dls").await;
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.requests("/").len(), 1);
}

/// An HTTP date so many seconds from now (RFC 9110, section 5.6.7).
fn http_date(seconds_from_now: u64) -> String {
    let at = SystemTime::now() + Duration::from_secs(seconds_from_now);
    let at = jiff::Timestamp::try_from(at).unwrap();
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

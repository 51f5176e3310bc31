//! The proxy of the environment: what goes through it, what goes past it.

use crate::support::resources::{channel, subscribe};
use crate::support::{Bridge, Nats, Sink, event};

#[tokio::test]
async fn a_sink_elsewhere_is_reached_through_the_proxy_and_one_on_this_machine_past_it() {
    let nats = Nats::start().await;
    let (proxy, near) = (Sink::start().await, Sink::start().await);
    let documents = [
        channel("foo"),
        subscribe("far", "foo", "http://sink.invalid/far?x=y"),
        subscribe("near", "foo", &near.url("/near")),
    ];
    let bridge = Bridge::of(&nats, &documents).variable("HTTP_PROXY", &proxy.url("")).start().await;
    bridge.send("foo", &event("1")).await;
    let got = proxy.wait_for_one("http://sink.invalid/far?x=y").await;
    assert_eq!((got.method(), got.header("host"), got.id()), ("POST", Some("sink.invalid"), "1"));
    near.wait_for_id("/near", "1").await;
    assert_eq!(proxy.requests("/near").len(), 0);
}

#[tokio::test]
async fn what_no_proxy_names_goes_past_the_proxy() {
    let nats = Nats::start().await;
    let proxy = Sink::start().await;
    let documents = [
        channel("foo"),
        subscribe("direct", "foo", "http://a.direct.invalid/"),
        subscribe("other", "foo", "http://b.invalid/"),
    ];
    let setup =
        Bridge::of(&nats, &documents).variable("http_proxy", &proxy.url("")).variable("NO_PROXY", ".direct.invalid");
    let bridge = setup.start().await;
    bridge.send("foo", &event("1")).await;
    proxy.wait_for_id("http://b.invalid/", "1").await;
    // Nobody has that name, so its event is kept; the proxy would have taken it.
    nats.dead_letters(1).await;
    assert_eq!(proxy.requests("http://a.direct.invalid/").len(), 0);
}

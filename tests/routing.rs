//! Which channel a request means: by path, by Host, by default.

use crate::support::http::{call, post};
use crate::support::resources::{channel, in_namespace};
use crate::support::{Bridge, Nats, event};

#[tokio::test]
async fn the_path_names_namespace_and_channel() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), in_namespace("other", channel("foo"))]).await;
    let answer = post(&bridge.url("/other/foo")).event(&event("1")).send().await;
    assert_eq!(answer.status(), 202);
    assert_eq!((nats.count("KN_OTHER__FOO").await, nats.count("KN_DEFAULT__FOO").await), (1, 0));
}

#[tokio::test]
async fn the_host_of_a_channel_s_service_names_it() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), in_namespace("other", channel("foo"))]).await;
    let hosts = [
        "foo-kn-channel.default.svc",
        "foo-kn-channel.default.svc:8080",
        "foo-kn-channel.default.svc.cluster.local",
        "foo-kn-channel.default.svc.cluster.local:80",
        "foo-kn-jsm-channel.default.svc.cluster.local",
        "foo-kn-jsm-channel.default.svc",
        "foo-kn-channel.default.svc.my.own.domain:1234",
    ];
    for (stored, host) in (1..).zip(hosts) {
        let answer = post(&bridge.url("/")).host(host).event(&event(host)).send().await;
        assert_eq!(answer.status(), 202, "{host}: {}", answer.text());
        assert_eq!(nats.count("KN_DEFAULT__FOO").await, stored, "{host}");
    }
    let other = post(&bridge.url("/")).host("foo-kn-channel.other.svc").event(&event("1")).send().await;
    assert_eq!((other.status(), nats.count("KN_OTHER__FOO").await), (202, 1));
}

#[tokio::test]
async fn a_host_that_names_no_channel_is_404_without_a_default() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    for host in ["localhost", "foo.default.svc.cluster.local", "foo-kn-channel", "bar-kn-channel.default.svc"] {
        let answer = post(&bridge.url("/")).host(host).event(&event("1")).send().await;
        assert_eq!(answer.status(), 404, "{host:?}: {}", answer.text());
    }
    assert_eq!(nats.count("KN_DEFAULT__FOO").await, 0);
}

#[tokio::test]
async fn the_default_channel_takes_what_no_host_names() {
    let nats = Nats::start().await;
    let bridge =
        Bridge::of(&nats, &[channel("foo"), channel("bar")]).flag("--default-channel", "default/bar").start().await;
    assert_eq!(post(&bridge.url("/")).event(&event("1")).send().await.status(), 202);
    let named = post(&bridge.url("/")).host("foo-kn-channel.default.svc").event(&event("2")).send().await;
    assert_eq!(named.status(), 202);
    assert_eq!((nats.count("KN_DEFAULT__BAR").await, nats.count("KN_DEFAULT__FOO").await), (1, 1));
}

#[tokio::test]
async fn options_is_answered_on_a_channel_s_host_too() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    let answer = call("OPTIONS", &bridge.url("/")).host("foo-kn-channel.default.svc").send().await;
    assert_eq!((answer.status(), answer.header("allow")), (200, Some("POST, OPTIONS")));
}

#[tokio::test]
async fn a_bridge_with_the_role_of_a_dispatcher_takes_no_events_in() {
    let nats = Nats::start().await;
    let sink = crate::support::Sink::start().await;
    let documents = [channel("foo"), crate::support::resources::subscribe("sub", "foo", &sink.url("/"))];
    let dispatcher = Bridge::of(&nats, &documents).flag("--role", "dispatcher").start().await;
    let ingress = Bridge::of(&nats, &documents).flag("--role", "ingress").start().await;
    assert!(
        post(&dispatcher.url("/default/foo"))
            .event(&event("0"))
            .try_send()
            .await
            .map_or(true, |answer| answer.status() != 202)
    );
    ingress.send("foo", &event("1")).await;
    assert_eq!(sink.wait_for_one("/").await.id(), "1");
    nats.settled("KN_DEFAULT__FOO").await;
    assert_eq!(sink.requests("/").len(), 1);
}

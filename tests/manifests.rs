//! Manifests: what is understood, what is a fault and where, and changes that apply without a restart.

use serde_json::{Value, json};

use crate::support::process::{Ended, run};
use crate::support::resources::{channel, channel_ref, channel_with, in_namespace, subscribe, subscription, to_yaml};
use crate::support::{Bridge, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";

const TUTORIAL: &str = r"
# Everything of the tutorial in one file.
apiVersion: messaging.knative.dev/v1beta1
kind: NatssChannel
metadata:
  name: foo
---
apiVersion: messaging.knative.dev/v1
kind: Subscription
metadata:
  name: foo-sub
  labels: {app: demo}
spec:
  channel:
    apiVersion: messaging.knative.dev/v1beta1
    kind: NatssChannel
    name: foo
  subscriber:
    ref:
      apiVersion: v1
      kind: Service
      name: event-display
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: event-display
spec:
  replicas: 1
---
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata:
  name: bind
spec: {}
";

/// Runs `knats validate` on one file of this text.
async fn validate(text: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.yaml");
    std::fs::write(&file, text).unwrap();
    run(&["validate", "-f", file.to_str().unwrap()]).await
}

#[tokio::test]
async fn one_flag_takes_several_files_as_a_shell_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| {
        let path = dir.path().join(name);
        std::fs::write(&path, to_yaml(&[channel(name)])).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let ended = run(&["validate", "-f", &paths[0], &paths[1]]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("2 channels"), "{ended:?}");
}

#[tokio::test]
async fn good_manifests_are_valid_and_other_kinds_are_skipped() {
    let ended = validate(TUTORIAL).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let generic = json!({
        "apiVersion": "messaging.knative.dev/v1",
        "kind": "Channel",
        "metadata": {"name": "generic", "namespace": "default"},
        "spec": {
            "channelTemplate": {
                "apiVersion": "messaging.knative.dev/v1alpha1",
                "kind": "NatsJetStreamChannel",
                "spec": {"stream": {"config": {"maxMsgs": 5}}},
            },
            "delivery": {"retry": 3, "backoffPolicy": "linear", "backoffDelay": "PT1S", "timeout": "PT10S"},
        },
    });
    let ended = validate(&to_yaml(&[generic, channel("foo")])).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_fault_names_file_document_and_field() {
    let sub = |spec: Value| subscription("sub", "foo", spec);
    let url = "http://localhost/";
    // The document at fault, and what the text must hold.
    let cases: Vec<(Value, &str)> = vec![
        (sub(json!({"subscriber": {"uri": url}, "delivry": {}})), "delivry"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"retries": 3}})), "spec.delivery.retries"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"retry": -1}})), "spec.delivery.retry"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"retry": "three"}})), "spec.delivery.retry"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"retry": 1.5}})), "spec.delivery.retry"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"retry": 5_000_000_000_u64}})), "spec.delivery.retry"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"backoffDelay": "1s"}})), "spec.delivery.backoffDelay"),
        (
            sub(json!({"subscriber": {"uri": url}, "delivery": {"backoffPolicy": "cubic"}})),
            "spec.delivery.backoffPolicy",
        ),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"timeout": "PT0S"}})), "spec.delivery.timeout"),
        (sub(json!({"subscriber": {"uri": url}, "delivery": {"format": "xml"}})), "spec.delivery.format"),
        (sub(json!({"subscriber": {"uri": "relative/path"}})), "spec.subscriber"),
        (sub(json!({"subscriber": {}})), "spec.subscriber"),
        (sub(json!({"subscriber": "http://localhost/"})), "spec.subscriber"),
        (sub(json!({})), "spec"),
        (channel_with("bar", json!({"stream": {"config": {"storage": "Paper"}}})), "spec.stream.config.storage"),
        (channel_with("bar", json!({"stream": {"config": {"maxMsgs": "many"}}})), "spec.stream.config.maxMsgs"),
        (channel_with("bar", json!({"stream": {"config": {"maxMessages": 1}}})), "spec.stream.config.maxMessages"),
        (channel_with("bar", json!({"stream": {"config": {"maxAge": "long"}}})), "spec.stream.config.maxAge"),
        (
            channel_with("bar", json!({"consumerConfigTemplate": {"ackWait": 30}})),
            "spec.consumerConfigTemplate.ackWait",
        ),
        (channel("Not A Name"), "metadata.name"),
    ];
    for (document, field) in cases {
        let ended = validate(&to_yaml(&[channel("foo"), document.clone()])).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(1), "{document}: {said}");
        for part in ["some.yaml", "document 2", field] {
            assert!(said.contains(part), "{document}: no {part:?} in {said}");
        }
    }
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let bad =
        |name: &str| subscription(name, "foo", json!({"subscriber": {"uri": "http://x/"}, "delivery": {"retry": -1}}));
    let ended = validate(&to_yaml(&[channel("foo"), bad("one"), bad("two")])).await;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(1), "{said}");
    assert!(said.contains("document 2") && said.contains("document 3"), "{said}");
}

#[tokio::test]
async fn broken_yaml_and_missing_files_are_faults() {
    let ended = validate("kind: [unclosed\n").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(format!("{}{}", ended.stdout, ended.stderr).contains("some.yaml"));
    let ended = run(&["validate", "-f", "/nowhere/at-all.yaml"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(format!("{}{}", ended.stdout, ended.stderr).contains("/nowhere/at-all.yaml"));
}

#[tokio::test]
async fn another_scheme_than_http_is_a_warning_and_its_deliveries_fail() {
    let nats = Nats::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", "mailto:somebody@example.com")];
    assert_eq!(validate(&to_yaml(&documents)).await.code, Some(0));
    let bridge = Bridge::serve(&nats, &documents).await;
    bridge.send("foo", &event("1")).await;
    let kept = nats.dead_letters(1).await;
    assert_eq!(kept[0].subject.as_str(), "knats.deadletter.default.sub");
}

#[tokio::test]
async fn a_bad_manifest_at_start_is_exit_2_before_anything_is_created() {
    let nats = Nats::start().await;
    let bad = subscription("sub", "foo", json!({"subscriber": {"uri": "http://x/"}, "delivery": {"retry": -1}}));
    let ended = Bridge::of(&nats, &[channel("foo"), bad]).ended().await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(format!("{}{}", ended.stdout, ended.stderr).contains("spec.delivery.retry"), "{ended:?}");
    assert_eq!(nats.stream_names().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_tutorial_s_files_run_as_they_are() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::at(&nats.url())
        .file("tutorial.yaml", TUTORIAL)
        .flag("--resolve", &format!("default/event-display={}", sink.url("/display")))
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    assert_eq!(sink.wait_for_one("/display").await.id(), "1");
    assert!(bridge.stderr().contains("SinkBinding"), "skipped with a log line");
}

#[tokio::test]
async fn a_generic_channel_s_template_is_read() {
    let nats = Nats::start().await;
    let generic = json!({
        "apiVersion": "messaging.knative.dev/v1",
        "kind": "Channel",
        "metadata": {"name": "foo", "namespace": "default"},
        "spec": {"channelTemplate": {
            "apiVersion": "messaging.knative.dev/v1alpha1",
            "kind": "NatsJetStreamChannel",
            "spec": {"stream": {"config": {"maxMsgs": 5}}},
        }},
    });
    let _bridge = Bridge::serve(&nats, &[generic]).await;
    assert_eq!(nats.stream(STREAM).await.get_info().await.unwrap().config.max_messages, 5);
}

#[tokio::test]
async fn several_files_and_directories_make_one_set() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let more = tempfile::tempdir().unwrap();
    std::fs::write(more.path().join("two.yml"), to_yaml(&[subscribe("two", "foo", &sink.url("/two"))])).unwrap();
    let single = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(single.path(), to_yaml(&[subscribe("three", "foo", &sink.url("/three"))])).unwrap();
    let bridge = Bridge::at(&nats.url())
        .file("a.yaml", &to_yaml(&[channel("foo")]))
        .file("b.yaml", &to_yaml(&[subscribe("one", "foo", &sink.url("/one"))]))
        .flag("-f", more.path().to_str().unwrap())
        .flag("-f", single.path().to_str().unwrap())
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    for path in ["/one", "/two", "/three"] {
        sink.wait_for_one(path).await;
    }
}

#[tokio::test]
async fn a_subscription_can_be_added_changed_and_removed_without_a_restart() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("keep", "foo", &sink.url("/keep"))]).await;
    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/old"))]);
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/old", "1").await;
    nats.settled(STREAM).await;

    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/new"))]);
    // Until the change is in force, events still go to the old address.
    let mut sent = 1;
    until("events go to the new address", || {
        sent += 1;
        let id = sent.to_string();
        let (bridge, sink, nats) = (&bridge, &sink, &nats);
        async move {
            bridge.send("foo", &event(&id)).await;
            nats.settled(STREAM).await;
            sink.requests("/new").iter().any(|request| request.id() == id)
        }
    })
    .await;
    assert!(!sink.requests("/new").iter().any(|request| request.id() == "1"), "what was done is not done again");
    assert_eq!(sink.requests("/old").len() + sink.requests("/new").len(), sent);

    bridge.remove("more.yaml");
    let to_sub = || sink.requests("/old").len() + sink.requests("/new").len();
    until("a removed subscription pulls no more", || async {
        let consumers = nats.consumers(STREAM).await;
        consumers.iter().any(|consumer| consumer.name == "KN_SUB_DEFAULT__SUB" && consumer.num_waiting == 0)
    })
    .await;
    let before = to_sub();
    for _ in 0..10 {
        sent += 1;
        bridge.send("foo", &event(&sent.to_string())).await;
        sink.wait_for_id("/keep", &sent.to_string()).await;
    }
    assert_eq!(to_sub(), before);
    assert_eq!(nats.consumers(STREAM).await.len(), 2, "the consumer is kept");
    assert_eq!(sink.requests("/keep").len(), sent);
    assert_eq!(bridge.readyz().await.unwrap().status(), 200);
}

#[tokio::test]
async fn with_prune_the_consumer_of_a_removed_subscription_goes() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let setup = Bridge::of(&nats, &[channel("foo"), subscribe("keep", "foo", &sink.url("/keep"))]);
    let bridge = setup
        .file("more.yaml", &to_yaml(&[subscribe("sub", "foo", &sink.url("/sub"))]))
        .switch("--prune")
        .start()
        .await;
    assert_eq!(nats.consumers(STREAM).await.len(), 2);
    bridge.remove("more.yaml");
    until("one consumer is left", || async { nats.consumers(STREAM).await.len() == 1 }).await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/keep").await;
}

#[tokio::test]
async fn a_subscription_that_comes_back_goes_on_where_it_was() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo"), subscribe("keep", "foo", &sink.url("/keep"))])
        .file("more.yaml", &to_yaml(&[subscribe("sub", "foo", &sink.url("/sub"))]))
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    nats.settled(STREAM).await;
    bridge.remove("more.yaml");
    until("it pulls no more", || async { nats.consumers(STREAM).await.iter().any(|info| info.num_waiting == 0) }).await;
    bridge.send("foo", &event("2")).await;
    sink.wait_for_id("/keep", "2").await;
    bridge.write("more.yaml", &[subscribe("sub", "foo", &sink.url("/sub"))]);
    sink.wait_for_id("/sub", "2").await;
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/sub").iter().filter(|request| request.id() == "1").count(), 1);
}

#[tokio::test]
async fn a_bad_reload_leaves_the_last_good_set_in_force_and_is_shown() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let good = [channel("foo"), subscribe("sub", "foo", &sink.url("/"))];
    let bridge = Bridge::serve(&nats, &good).await;
    let bad = subscription("sub", "foo", json!({"subscriber": {"uri": sink.url("/bad")}, "delivery": {"retry": -1}}));
    bridge.write("resources.yaml", &[channel("foo"), channel("bar"), bad]);
    let shown = bridge.wait_for_readyz("the fault", |answer| answer.text().contains("spec.delivery.retry")).await;
    assert_eq!(shown.status(), 200, "{}", shown.text());
    assert!(bridge.stderr().contains("spec.delivery.retry"), "logged");
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/").await;
    assert_eq!(bridge.post("bar", &event("1")).await.status(), 404);
    assert_eq!(sink.requests("/bad").len(), 0);

    bridge.write("resources.yaml", &[channel("foo"), channel("bar"), subscribe("sub", "foo", &sink.url("/mended"))]);
    until("the mended set is in force", || async { bridge.post("bar", &event("2")).await.status() == 202 }).await;
    let mended = bridge.wait_for_readyz("no fault", |answer| !answer.text().contains("spec.delivery.retry")).await;
    assert_eq!(mended.status(), 200);
    bridge.send("foo", &event("2")).await;
    sink.wait_for_id("/mended", "2").await;
}

#[tokio::test]
async fn a_channel_can_be_added_without_a_restart() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    assert_eq!(bridge.post("bar", &event("1")).await.status(), 404);
    bridge.write("more.yaml", &[channel("bar")]);
    until("the new channel takes events", || async { bridge.post("bar", &event("1")).await.status() == 202 }).await;
    assert_eq!(nats.count("KN_DEFAULT__BAR").await, 1);
}

#[tokio::test]
async fn a_ref_to_a_channel_is_delivered_straight_into_its_subject() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let documents = [
        channel("foo"),
        channel("bar"),
        subscription("sub", "foo", json!({"subscriber": {"ref": channel_ref("bar")}})),
        subscribe("bar", "bar", &sink.url("/")),
    ];
    // A role without an ingress: no HTTP hop is possible.
    let bridge = Bridge::of(&nats, &documents).flag("--role", "dispatcher").start().await;
    nats.publish(
        "foo.default",
        &[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")],
        "payload",
    )
    .await;
    let got = sink.wait_for_one("/").await;
    assert_eq!((got.id(), got.text()), ("1", "payload".to_owned()));
    assert_eq!(nats.message("KN_DEFAULT__BAR", 1).await.subject.as_str(), "bar.default");
    assert_eq!(bridge.readyz().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_relative_uri_is_joined_to_what_its_ref_means() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "svc", "namespace": "other"});
    let spec = json!({"subscriber": {"ref": service, "uri": "/in/box"}});
    let bridge = Bridge::of(&nats, &[channel("foo"), subscription("sub", "foo", spec)])
        .flag("--resolve", &format!("other/svc={}", sink.url("")))
        .start()
        .await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_one("/in/box").await;
}

#[tokio::test]
async fn an_unresolved_service_is_its_name_in_the_cluster() {
    let nats = Nats::start().await;
    let service = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "svc"});
    let spec = json!({"subscriber": {"ref": service}, "delivery": {"retry": 0, "timeout": "PT2S"}});
    let documents = [in_namespace("ns", channel("foo")), in_namespace("ns", subscription("sub", "foo", spec))];
    let bridge = Bridge::serve(&nats, &documents).await;
    let answer = crate::support::http::post(&bridge.url("/ns/foo")).event(&event("1")).send().await;
    assert_eq!(answer.status(), 202);
    let kept = nats.dead_letters(1).await;
    let dest = crate::support::nats::header(&kept[0], "ce-knativeerrordest").unwrap();
    assert_eq!(dest.trim_end_matches('/'), "http://svc.ns.svc.cluster.local");
}

#[tokio::test]
async fn a_subscription_of_a_channel_that_is_not_there_keeps_the_bridge_unready_by_name() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "nowhere", &sink.url("/"))]).spawn();
    let answer = bridge
        .wait_for_readyz("503 over the subscription", |answer| {
            answer.status() == 503 && answer.text().contains("sub") && answer.text().contains("nowhere")
        })
        .await;
    assert!(answer.json().is_object(), "{}", answer.text());
    bridge.write("more.yaml", &[channel("nowhere")]);
    bridge.wait_until_ready().await;
}

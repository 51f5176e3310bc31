//! `knats doctor` says what is wrong with a NATS server, what a 202 means on it, and leaves it as it was.

use async_nats::jetstream::stream::{Config, StorageType};
use serde_json::{Value, json};

use crate::support::process::{Ended, run};
use crate::support::resources::{broker, channel, channel_with_stream, subscribe, to_yaml, trigger};
use crate::support::{Bridge, Nats, eventually, free_port};

const STREAM: &str = "KN_DEFAULT__FOO";
const NOWHERE: &str = "http://127.0.0.1:1/";

async fn doctor(url: &str, documents: &[Value], flags: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.yaml");
    std::fs::write(&file, to_yaml(documents)).unwrap();
    let manifests: &[&str] = if documents.is_empty() { &[] } else { &["-f", file.to_str().unwrap()] };
    run(&[&["doctor", "--nats-url", url], manifests, flags].concat()).await
}

/// The report, and that the exit code tells whether anything has failed.
async fn report(nats: &Nats, documents: &[Value], flags: &[&str]) -> Value {
    let ended = doctor(&nats.url(), documents, &[flags, &["-o", "json"]].concat()).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let has_failed = report["checks"].as_array().unwrap().iter().any(|check| check["status"] == "fail");
    assert_eq!(ended.code, Some(i32::from(has_failed)), "{ended:?}");
    report
}

/// The findings of one kind of check with that status.
fn findings(report: &Value, status: &str, check: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    let wanted = checks.filter(|found| found["status"] == status && found["check"] == check);
    wanted.map(|found| found["finding"].as_str().unwrap().to_owned()).collect()
}

/// The numbers before `ms` are another ones each time.
fn without_times(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_time = |at: usize| words.get(at + 1).is_some_and(|next| *next == "ms");
    let kept: Vec<&str> = words.iter().enumerate().map(|(at, word)| if is_time(at) { "N" } else { word }).collect();
    kept.join(" ")
}

#[tokio::test]
async fn a_server_that_works_is_told_of_line_by_line_and_what_a_202_means_on_it() {
    let nats = Nats::start_with("server_name: one").await;
    // The stream of its log comes when it comes.
    let documents = [channel("foo"), subscribe("sub", "foo", NOWHERE)];
    Bridge::of(&nats, &documents).flag("--attempt-log", "off").start().await;
    let shown = doctor(&nats.url(), &[], &[]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let version = nats.client().await.server_info().version;
    insta::assert_snapshot!(without_times(&shown.stdout).replace(&version, "VERSION"), @"
    ok    reachable               connected to server one, account $G
    ok    version                 VERSION
    warn  cluster                 a single server: what it holds is on one machine; run three servers as a cluster and set replicas: 3 for what may not be lost
    ok    max_payload             max_payload 1.0 MiB; an event above it gets 413
    ok    jetstream               enabled for this account
    ok    round_trip              N ms to JetStream and back
    ok    account                 2 streams, 0 bytes of storage; no limit is near
    ok    clock                   the server's is N ms from ours
    ok    stream KN_DEADLETTERS   file, 1 replica, messages: 0
    ok    stream KN_DEFAULT__FOO  file, 1 replica, messages: 0
    warn  sync_interval           cannot be seen from here, only the monitoring port and the system account show it; the default is 2m: acknowledged events that are younger may be lost in a power cut; name the monitoring port by --monitor; set jetstream { sync_interval: always } where no event may be lost in a power cut
    ok    permissions             may publish to all 14 subjects that are needed
    A 202 here means: stored on 1 of 1 server, file, synced to disk within 2m unless sync_interval is set otherwise (KN_DEFAULT__FOO)
    ");
}

#[tokio::test]
async fn a_fresh_server_is_judged_by_what_would_be_made() {
    let nats = Nats::start().await;
    let documents =
        [channel_with_stream("foo", json!({"storage": "Memory"})), channel("bar"), subscribe("sub", "foo", NOWHERE)];
    let report = report(&nats, &documents, &[]).await;
    assert_eq!(findings(&report, "ok", "stream"), ["not there yet; the bridge makes it"; 3]);
    let meanings = report["meanings"].as_array().unwrap();
    let of = |streams: Value| meanings.iter().find(|meaning| meaning["streams"] == streams).unwrap();
    assert_eq!(of(json!(["KN_DEFAULT__BAR"]))["storage"], "file");
    let memory = of(json!([STREAM]));
    assert_eq!(
        (&memory["storage"], &memory["stored_on"], &memory["servers"]),
        (&json!("memory"), &json!(1), &json!(1))
    );
    assert_eq!(nats.stream_names().await, Vec::<String>::new(), "nothing is made by looking");
}

#[tokio::test]
async fn the_monitoring_port_tells_how_soon_an_event_is_on_disk() {
    let port = free_port();
    let mut nats = Nats::start_with(&format!("http: 127.0.0.1:{port}")).await;
    let url = format!("http://127.0.0.1:{port}");
    let told = report(&nats, &[], &["--monitor", &url]).await;
    assert!(findings(&told, "warn", "sync_interval")[0].starts_with("2m:"), "{told:#}");
    assert_eq!(told["meanings"][0]["synced_within_seconds"], 120.0);
    let hidden = report(&nats, &[], &[]).await;
    assert!(findings(&hidden, "warn", "sync_interval")[0].starts_with("cannot be seen from here"), "{hidden:#}");
    assert!(hidden["meanings"][0]["synced_within_seconds"].is_null());
    let gone = report(&nats, &[], &["--monitor", "http://127.0.0.1:1/"]).await;
    assert!(findings(&gone, "warn", "sync_interval")[0].contains("cannot connect"), "{gone:#}");

    nats.kill9();
    nats.reconfigure("max_memory_store: 64MB", "max_memory_store: 64MB, sync_interval: always");
    nats.start_again().await;
    let told = report(&nats, &[], &["--monitor", &url]).await;
    assert_eq!(findings(&told, "ok", "sync_interval"), ["always: on disk before it is acknowledged"]);
    let sentence = "A 202 here means: stored on 1 of 1 server, file, synced to disk before it is answered (a channel with defaults)";
    assert_eq!(told["meanings"][0]["sentence"], sentence);
}

#[tokio::test]
async fn what_may_lose_events_is_told_by_stream_and_consumer() {
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    let stream =
        |name: &str| Config { name: format!("KN_{name}"), subjects: vec![name.to_lowercase()], ..Config::default() };
    let configs = [
        Config { storage: StorageType::Memory, ..stream("MEMORY") },
        Config { max_messages: 10, ..stream("OLD") },
        Config { max_messages: 10, discard: async_nats::jetstream::stream::DiscardPolicy::New, ..stream("FULL") },
        Config { no_ack: true, ..stream("DEAF") },
        stream("GIVING_UP"),
    ];
    for config in configs {
        jetstream.create_stream(config).await.unwrap();
    }
    // The client's own struct does not know this field.
    let hasty = json!({"name": "KN_HASTY", "subjects": ["hasty"], "persist_mode": "async"});
    nats.client().await.request("$JS.API.STREAM.CREATE.KN_HASTY", hasty.to_string().into()).await.unwrap();
    for _ in 0..9 {
        nats.publish("full", &[], "x").await;
    }
    let mut consumer = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("tired".into()),
        max_deliver: 3,
        ..Default::default()
    };
    nats.stream("KN_GIVING_UP").await.create_consumer(consumer.clone()).await.unwrap();
    consumer.durable_name = Some("careless".into());
    consumer.max_deliver = -1;
    consumer.ack_policy = async_nats::jetstream::consumer::AckPolicy::None;
    nats.stream("KN_GIVING_UP").await.create_consumer(consumer).await.unwrap();

    let report = report(&nats, &[], &[]).await;
    let about = |status: &str, check: &str| {
        let checks = report["checks"].as_array().unwrap().iter();
        let found = checks.filter(|found| found["status"] == status && found["check"] == check);
        found.map(|found| found["about"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(about("warn", "storage"), ["KN_MEMORY"]);
    assert_eq!(about("warn", "discard"), ["KN_OLD"]);
    assert_eq!(about("warn", "limits"), ["KN_FULL"]);
    assert_eq!(about("fail", "acknowledgement"), ["KN_DEAF"]);
    assert_eq!(about("fail", "persist_mode"), ["KN_HASTY"]);
    assert_eq!(about("warn", "max_deliver"), ["tired of KN_GIVING_UP"]);
    assert_eq!(about("warn", "ack_policy"), ["careless of KN_GIVING_UP"]);
}

#[tokio::test]
async fn an_account_that_is_nearly_full_is_warned_of() {
    let nats = Nats::start_with(
        "accounts { A { jetstream { max_store: 1MB, max_streams: 1 }, users: [ { user: some, password: p } ] } }\n\
         no_auth_user: some",
    )
    .await;
    nats.jetstream().await.create_stream(Config { name: "ONE".into(), ..Config::default() }).await.unwrap();
    let report = report(&nats, &[], &[]).await;
    assert_eq!(findings(&report, "warn", "account"), ["streams: 1 of 1 (100 %)"]);
}

/// A server whose one user may not publish to these subjects.
async fn denying(subjects: &[&str]) -> Nats {
    let subjects: Vec<String> = subjects.iter().map(|subject| format!("{subject:?}")).collect();
    Nats::start_with(&format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: all, password: p }}, {{ user: some, password: p, \
         permissions: {{ publish: {{ deny: [{}] }} }} }} ] }} }}\nno_auth_user: some",
        subjects.join(", ")
    ))
    .await
}

#[tokio::test]
async fn each_subject_that_we_may_not_publish_to_is_named() {
    let nats = denying(&[
        "foo.default",
        "$JS.API.CONSUMER.MSG.NEXT.>",
        "$JS.ACK.>",
        "shop.default._type.*",
        "$JS.API.STREAM.UPDATE.*",
    ])
    .await;
    let documents = [
        channel("foo"),
        broker("shop"),
        subscribe("sub", "foo", NOWHERE),
        trigger("t", "shop", json!({"subscriber": {"uri": NOWHERE}})),
    ];
    let report = report(&nats, &documents, &[]).await;
    let failed = findings(&report, "fail", "permissions");
    let expected = [
        "may not publish to foo.default",
        "may not publish to $JS.API.CONSUMER.MSG.NEXT.KN_DEFAULT__FOO.KN_SUB_DEFAULT__SUB",
        "may not publish to $JS.ACK.KN_DEFAULT__FOO.KN_SUB_DEFAULT__SUB.1.1.1.1.1",
        "may not publish to shop.default._type.x",
        "may not publish to $JS.API.CONSUMER.MSG.NEXT.KN_DEFAULT__SHOP.KN_SUB_DEFAULT__T",
        "may not publish to $JS.ACK.KN_DEFAULT__SHOP.KN_SUB_DEFAULT__T.1.1.1.1.1",
    ];
    assert_eq!(failed, expected);
    assert_eq!(findings(&report, "warn", "permissions").len(), 3, "{report:#}");
}

#[tokio::test]
async fn where_the_server_does_not_say_what_we_may_calls_that_cannot_succeed_tell() {
    let nats = denying(&["$SYS.>", "$JS.API.CONSUMER.DURABLE.CREATE.>"]).await;
    let admin = async_nats::ConnectOptions::with_user_and_password("all".into(), "p".into());
    let admin = async_nats::jetstream::new(admin.connect(nats.url()).await.unwrap());
    let config = Config { name: STREAM.into(), subjects: vec!["foo.default".into()], ..Config::default() };
    let stream = admin.create_stream(config).await.unwrap();
    let consumer = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("KN_SUB_DEFAULT__SUB".into()),
        ..Default::default()
    };
    stream.create_consumer(consumer).await.unwrap();
    nats.publish("foo.default", &[], "kept").await;

    let report = report(&nats, &[channel("foo"), subscribe("sub", "foo", NOWHERE)], &[]).await;
    let denied = "may not publish to $JS.API.CONSUMER.DURABLE.CREATE.KN_DEFAULT__FOO.KN_SUB_DEFAULT__SUB";
    let told = [findings(&report, "fail", "permissions"), findings(&report, "warn", "permissions")].concat();
    let unknown = "cannot be seen for 3 subjects that events and acknowledgements go to";
    assert_eq!(told, [denied, unknown], "{report:#}");
    let consumer = &nats.consumers(STREAM).await[0];
    assert_eq!((consumer.delivered.consumer_sequence, consumer.num_pending, consumer.num_waiting), (0, 1, 0));
    assert_eq!((nats.count(STREAM).await, nats.stream_names().await.len()), (1, 1));
}

#[tokio::test]
async fn a_stream_that_may_not_be_looked_at_is_named_and_the_rest_is_looked_at() {
    let nats = denying(&["$JS.API.STREAM.INFO.KN_DEFAULT__FOO", "$JS.API.STREAM.NAMES", "$JS.API.INFO"]).await;
    let report = report(&nats, &[channel("foo"), channel("bar")], &[]).await;
    assert_eq!(findings(&report, "fail", "permissions"), ["may not publish to $JS.API.STREAM.INFO.KN_DEFAULT__FOO"]);
    assert!(findings(&report, "warn", "account")[0].contains("$JS.API.INFO"), "{report:#}");
    let streams = findings(&report, "warn", "stream");
    assert!(streams.iter().any(|finding| finding.contains("$JS.API.STREAM.NAMES")), "{streams:?}");
    assert_eq!(findings(&report, "ok", "stream").len(), 2, "{report:#}");
}

#[tokio::test]
async fn an_account_without_jetstream_fails() {
    let nats = Nats::start_with("accounts { A { users: [ { user: some, password: p } ] } }\nno_auth_user: some").await;
    let report = report(&nats, &[], &[]).await;
    assert_eq!(findings(&report, "fail", "jetstream").len(), 1, "{report:#}");
    assert_eq!(report["meanings"], json!([]));
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_and_faulty_manifests_are_wrong_usage() {
    let away = doctor("nats://127.0.0.1:1", &[], &["-o", "json"]).await;
    assert_eq!(away.code, Some(1), "{away:?}");
    let report: Value = serde_json::from_str(&away.stdout).unwrap();
    assert_eq!(report["checks"][0]["check"], "reachable");
    assert_eq!(report["checks"][0]["status"], "fail");
    let faulty = doctor("nats://127.0.0.1:1", &[json!({"kind": "x"})], &[]).await;
    assert_eq!(faulty.code, Some(2), "{faulty:?}");
}

/// Three servers of one cluster.
fn cluster() -> Vec<Nats> {
    let ports = [free_port(), free_port(), free_port()];
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let start = |(at, port): (usize, &u16)| {
        Nats::start_as(&format!(
            "server_name: n{at}\ncluster {{ name: three, listen: 127.0.0.1:{port}, routes: [{}] }}",
            routes.join(", ")
        ))
    };
    ports.iter().enumerate().map(start).collect()
}

#[tokio::test]
async fn in_a_cluster_a_202_is_stored_by_a_majority_and_a_replica_that_is_gone_is_named() {
    let mut servers = cluster();
    let documents =
        [channel_with_stream("foo", json!({"replicas": 3})), channel("bar"), subscribe("sub", "foo", NOWHERE)];
    let bridge = Bridge::of(&servers[0], &documents).start().await;
    drop(bridge);
    let whole = report(&servers[0], &[], &[]).await;
    assert_eq!(findings(&whole, "ok", "cluster"), ["part of cluster three"]);
    assert_eq!(findings(&whole, "ok", "stream"), ["file, 3 replicas, messages: 0"]);
    assert_eq!(findings(&whole, "warn", "replicas").len(), 2, "two streams of one replica: {whole:#}");
    let sentences: Vec<&str> =
        whole["meanings"].as_array().unwrap().iter().map(|one| one["sentence"].as_str().unwrap()).collect();
    assert!(sentences[0].starts_with("A 202 here means: stored on 1 of 1 server, file"), "{sentences:?}");
    assert!(sentences[1].starts_with("A 202 here means: stored on at least 2 of 3 servers, file"), "{sentences:?}");

    servers[2].kill9();
    let is_told = || async {
        let report = report(&servers[0], &[channel_with_stream("foo", json!({"replicas": 3}))], &[]).await;
        let found = findings(&report, "warn", "replicas");
        Some(()).filter(|()| found.iter().any(|finding| finding.starts_with("replica on n2 is")))
    };
    eventually("the replica that is gone is named", is_told).await;
}

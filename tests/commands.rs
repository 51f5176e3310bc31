//! The commands that people and scripts type: what they send, print, leave behind and exit with.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::{get, post};
use crate::support::nats::executable;
use crate::support::process::{Ended, Process, descendants, is_alive, knats, run};
use crate::support::resources::{channel, subscribe, to_yaml};
use crate::support::{Answer, Gate, Sink, event, eventually, free_port, until};

/// Every command.
const COMMANDS: [&str; 20] = [
    "serve",
    "dev",
    "demo",
    "send",
    "poll",
    "view",
    "validate",
    "get",
    "redrive",
    "discard",
    "pause",
    "resume",
    "replay",
    "prune",
    "tail",
    "why",
    "diff",
    "doctor",
    "completion",
    "man",
];

/// A command, and the directory that holds its output.
struct Running {
    process: Process,
    _dir: TempDir,
}

fn start(mut command: Command, args: &[&str]) -> Running {
    let dir = tempfile::tempdir().unwrap();
    command.args(args);
    Running { process: Process::spawn(command, dir.path(), "knats"), _dir: dir }
}

/// Runs `knats send` with these environment variables and arguments, and `input` on its standard input.
async fn send(env: &[(&str, &str)], args: &[&str], input: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    std::fs::write(&file, input).unwrap();
    let mut command = knats();
    command.arg("send").args(args).envs(env.iter().copied()).stdin(Stdio::from(File::open(&file).unwrap()));
    Process::spawn(command, dir.path(), "knats").ended().await
}

#[tokio::test]
async fn every_command_s_help_shows_an_example() {
    for command in COMMANDS {
        let ended = run(&[command, "--help"]).await;
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
        let shown = ended.stdout.matches(&format!("knats {command}")).count();
        assert!(shown >= 2, "{command}: usage and an example in\n{}", ended.stdout);
    }
}

#[tokio::test]
async fn completions_know_commands_flags_and_values() {
    for (shell, parts) in [
        ("bash", ["complete -F _knats", "--nats-password-file", "pretty"]),
        ("zsh", ["#compdef knats", "--nats-password-file", "pretty"]),
        ("fish", ["complete -c knats", "-l nats-password-file", "pretty"]),
    ] {
        let ended = run(&["completion", shell]).await;
        assert_eq!(ended.code, Some(0), "{shell}: {}", ended.stderr);
        for part in parts {
            assert!(ended.stdout.contains(part), "{shell} does not know {part}");
        }
    }
    assert_eq!(run(&["completion", "teletype"]).await.code, Some(2));
}

#[tokio::test]
async fn the_manual_has_a_page_for_each_command_with_flags_variables_and_exit_codes() {
    let first = run(&["man"]).await;
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stdout.contains(".TH knats 1") && first.stdout.contains("knats\\-tail(1)"), "{}", first.stdout);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    let all = run(&["man", "--dir", folder.to_str().unwrap()]).await;
    assert_eq!((all.code, all.stdout.as_str()), (Some(0), ""), "{}", all.stderr);
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.join(format!("knats-{command}.1"))).unwrap();
        assert!(page.contains("EXIT STATUS") && page.contains("2 usage or configuration"), "{command}");
    }
    let tail = std::fs::read_to_string(folder.join("knats-tail.1")).unwrap();
    assert!(tail.contains("KNATS_NATS_URL") && tail.contains("\\-\\-filter"), "{tail}");
    let nowhere = run(&["man", "--dir", "/proc/none"]).await;
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("/proc/none"), "{nowhere:?}");
}

#[tokio::test]
async fn wrong_usage_is_exit_2() {
    for args in [
        &["no-such-command"][..],
        &["serve", "--no-such-flag"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--role", "king"],
        &["view", "--listen", "8080"],
        &["view", "--listen", "192.0.2.1:8080"],
        &["demo", "--listen", "localhost"],
        &["serve", "--default-channel", "no-slash"],
        &["serve", "--resolve", "nonsense"],
        &["serve", "--max-in-flight", "many"],
        &["send", "--type", "t", "--source", "/s", "--data", "1"],
        &["validate"],
        &["diff"],
        &["doctor", "--monitor", "nowhere"],
    ] {
        let ended = run(args).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{args:?} says nothing");
    }
}

#[tokio::test]
async fn environment_values_are_checked_like_flags() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("KNATS_LISTEN", "nowhere"),
        ("KNATS_MAX_IN_FLIGHT", "-1"),
        ("KNATS_MAX_IN_FLIGHT", "0"),
        ("KNATS_PUBLISH_TIMEOUT", "soon"),
        ("KNATS_NATS_URL", ","),
        // Taken for a yes, it would delete consumers.
        ("KNATS_PRUNE", "maybe"),
    ] {
        let mut command = knats();
        command.arg("serve").env(name, value);
        let ended = Process::spawn(command, dir.path(), name).ended().await;
        assert_eq!(ended.code, Some(2), "{name}: {ended:?}");
    }
}

#[tokio::test]
async fn send_makes_an_event_of_its_flags() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let args = [
        "--to",
        &url,
        "--type",
        "t",
        "--source",
        "/s",
        "--id",
        "1",
        "--subject",
        "sub",
        "--data",
        r#"{"rate": 1.10}"#,
        "--ext",
        "one=1",
        "--ext",
        "two=a=b",
    ];
    let ended = send(&[], &args, "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let got = sink.wait_for_one("/").await;
    for (name, value) in [
        ("specversion", "1.0"),
        ("type", "t"),
        ("source", "/s"),
        ("id", "1"),
        ("subject", "sub"),
        ("one", "1"),
        ("two", "a=b"),
    ] {
        assert_eq!(got.header(&format!("ce-{name}")), Some(value), "{name}");
    }
    assert_eq!((got.header("content-type"), got.text()), (Some("application/json"), r#"{"rate": 1.10}"#.to_owned()));
}

#[tokio::test]
async fn send_s_data_is_json_unless_the_content_type_says_otherwise() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let base = ["--to", &url, "--type", "t", "--source", "/s"];
    let ended = send(&[], &[&base[..], &["--data", "hello", "--content-type", "text/plain"]].concat(), "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let got = sink.wait_for_one("/").await;
    assert_eq!((got.header("content-type"), got.text()), (Some("text/plain"), "hello".to_owned()));
    let ended = send(&[], &[&base[..], &["--data", "{ no json"]].concat(), "").await;
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert_eq!(sink.requests("/").len(), 1);
}

#[tokio::test]
async fn send_gives_every_event_an_id_of_its_own() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    for _ in 0..3 {
        let ended = send(&[], &["--to", &url, "--type", "t", "--source", "/s", "--data", "1"], "").await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let mut ids: Vec<String> = sink.requests("/").iter().map(|request| request.id().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn send_takes_events_line_by_line_from_standard_input_and_files() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let line =
        |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": {"n": id}}).to_string();
    let ended =
        send(&[], &["--to", &url, "--file", "-"], &format!("{}\n{}\n{}\n", line("1"), line("2"), line("3"))).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let requests = sink.requests("/");
    let ids: Vec<&str> = requests.iter().map(|request| request.id()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(requests[0].text(), r#"{"n":"1"}"#);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), line("4")).unwrap();
    let ended = send(&[], &["--to", &url, "--file", file.path().to_str().unwrap()], "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    sink.wait_for_id("/", "4").await;
}

#[tokio::test]
async fn send_honours_k_sink_and_k_ce_overrides() {
    let sink = Sink::start().await;
    let overrides = r#"{"extensions":{"team":"blue","one":"override"}}"#;
    let env = [("K_SINK", sink.url("/sink")), ("K_CE_OVERRIDES", overrides.to_owned())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let args = ["--type", "t", "--source", "/s", "--data", "1", "--ext", "one=flag"];
    let ended = send(&env, &args, "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let got = sink.wait_for_one("/sink").await;
    assert_eq!((got.header("ce-team"), got.header("ce-one")), (Some("blue"), Some("override")));

    let other = sink.url("/to");
    let ended = send(&env, &[&args[..], &["--to", &other]].concat(), "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    sink.wait_for_one("/to").await;
    let empty = [("K_SINK", env[0].1), ("K_CE_OVERRIDES", "")];
    assert_eq!(send(&empty, &args, "").await.code, Some(0), "an empty K_CE_OVERRIDES is none");
}

#[tokio::test]
async fn send_exits_1_when_the_event_is_refused_or_the_file_cannot_be_read() {
    let sink = Sink::answering(|_| Answer::status(400).body("attribute 'x' is bad")).await;
    let url = sink.url("/");
    let ended = send(&[], &["--to", &url, "--type", "t", "--source", "/s", "--data", "1"], "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("400"), "{ended:?}");
    let ended = send(&[], &["--to", &url, "--file", "/nowhere/at-all"], "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("/nowhere/at-all"), "{ended:?}");
    let ended = send(&[], &["--to", &url, "--file", "-"], "{ no json\n").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[tokio::test]
async fn send_fills_in_what_differs_from_event_to_event() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let data = r#"{"n":{{n}},"at":"{{time}}","amount":{{random 10 100}}}"#;
    let args = [
        "--to",
        &url,
        "--count",
        "3",
        "--id",
        "order-{{n}}",
        "--source",
        "/shop/{{n}}",
        "--type",
        "t{{n}}",
        "--subject",
        "{{uuid}}",
        "--ext",
        "part=p{{n}}",
        "--data",
        data,
    ];
    let ended = send(&[], &args, "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.starts_with("accepted order-1\naccepted order-2\naccepted order-3\n3 events accepted by "),
        "{ended:?}"
    );
    let requests = sink.requests("/");
    let ids: Vec<&str> = requests.iter().map(|request| request.id()).collect();
    assert_eq!(ids, ["order-1", "order-2", "order-3"]);
    let last = &requests[2];
    for (name, value) in [("source", "/shop/3"), ("type", "t3"), ("part", "p3")] {
        assert_eq!(last.header(&format!("ce-{name}")), Some(value), "{name}");
    }
    assert_ne!(last.header("ce-subject"), requests[1].header("ce-subject"));
    let data: Value = serde_json::from_str(&last.text()).unwrap();
    assert_eq!((data["n"].as_u64(), data["at"].as_str()), (Some(3), last.header("ce-time")));
    assert!((10..=100).contains(&data["amount"].as_u64().unwrap()), "{data}");
}

#[tokio::test]
async fn send_s_help_shows_templates_as_they_are_typed() {
    let help = run(&["send", "--help"]).await.stdout;
    for template in ["'order-{{ n }}'", "{{ time }}", "{{ uuid }}", "{{ random LOW HIGH }}"] {
        assert!(help.contains(template), "no {template} in\n{help}");
    }
}

#[tokio::test]
async fn send_refuses_templates_and_numbers_that_it_cannot_use() {
    for args in [
        &["--data", "{{number}}"][..],
        &["--data", "{{n"],
        &["--id", "{{random 10 1}}"],
        &["--ext", "part={{x}}"],
        &["--data", r#"{"at":{{time}}}"#],
        &["--count", "0"],
        &["--rate", "0"],
        &["--rate", "fast"],
        &["--mode", "bulk"],
        &["--batch-size", "0"],
        &["--in-flight", "0"],
        &["--file", "-", "--data", "1"],
    ] {
        let sink = Sink::start().await;
        let ended = send(&[], &[&["--to", &sink.url("/")], args].concat(), "").await;
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(sink.requests("/").is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn send_speaks_all_three_modes() {
    let sink = Sink::start().await;
    for (mode, content_type, requests) in [
        ("binary", "application/json", 5),
        ("structured", "application/cloudevents+json", 5),
        ("batch", "application/cloudevents-batch+json", 3),
    ] {
        let path = format!("/{mode}");
        let url = sink.url(&path);
        let args = ["--to", &url, "--mode", mode, "--count", "5", "--batch-size", "2", "--data", "{{n}}"];
        let ended = send(&[], &args, "").await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("\n5 events accepted by "), "{ended:?}");
        let got = sink.requests(&path);
        assert_eq!(got.len(), requests, "{mode}");
        assert!(got.iter().all(|request| request.header("content-type") == Some(content_type)), "{mode}");
    }
}

#[tokio::test]
async fn send_mixes_no_versions_in_one_batch() {
    let sink = Sink::start().await;
    let line =
        |id: &str, version: &str| json!({"specversion": version, "id": id, "source": "/s", "type": "t"}).to_string();
    let input = [line("a", "1.0"), line("b", "1.0"), line("c", "0.3"), line("d", "1.0")].join("\n");
    let ended = send(&[], &["--to", &sink.url("/"), "--file", "-", "--mode", "batch"], &input).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let sizes: Vec<usize> = sink.requests("/").iter().map(|request| request.json().as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 1, 1]);
}

#[tokio::test]
async fn send_sends_a_long_run_many_at_once_and_each_event_once() {
    let gate = Gate::new();
    let behind = gate.clone();
    let sink = Sink::answering(move |_| Answer::status(202).behind(&behind)).await;
    let url = sink.url("/");
    let args = ["--to", &url, "--count", "1000", "--id", "{{n}}"];
    let many = async {
        // Nobody has an answer yet: one after the other there would be one.
        sink.wait_for("/", 8).await;
        gate.open();
    };
    let (ended, ()) = tokio::join!(send(&[], &args, ""), many);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("\n1000 events accepted by "));
    let mut ids: Vec<u32> = sink.requests("/").iter().map(|request| request.id().parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn send_keeps_to_its_rate() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let start = std::time::Instant::now();
    let ended = send(&[], &["--to", &url, "--count", "21", "--rate", "40"], "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn send_tells_what_was_accepted_before_a_failure() {
    let sink = Sink::answering(|request| {
        Answer::status(if request.header("ce-id") == Some("3") { 400 } else { 202 }).body("no")
    })
    .await;
    let url = sink.url("/");
    let ended = send(&[], &["--to", &url, "--count", "5", "--id", "{{n}}"], "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("accepted 1\naccepted 2\n2 events accepted by "), "{ended:?}");
    assert!(ended.stderr.contains("event 3 is not sent") && ended.stderr.contains("400"), "{ended:?}");

    let line = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"}).to_string();
    let input = format!("{}\n{}\nno event\n{}\n", line("a"), line("b"), line("c"));
    let ended = send(&[], &["--to", &url, "--file", "-", "--mode", "batch"], &input).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.starts_with("accepted a\naccepted b\n2 events accepted by "), "{ended:?}");
    assert!(ended.stderr.contains("standard input: line 3"), "{ended:?}");
}

#[tokio::test]
async fn send_takes_no_more_of_a_file_than_asked_for() {
    let sink = Sink::start().await;
    let url = sink.url("/");
    let line =
        |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": "{{n}}"}).to_string();
    let input = format!("{}\n{}\nnever read\n", line("a"), line("b"));
    let ended = send(&[], &["--to", &url, "--file", "-", "--count", "2", "--ext", "part={{n}}"], &input).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let requests = sink.requests("/");
    let parts: Vec<_> = requests.iter().map(|request| request.header("ce-part").unwrap()).collect();
    assert_eq!(parts, ["1", "2"]);
    assert_eq!(requests[0].text(), r#""{{n}}""#, "the data of a file is sent as it is");
}

#[tokio::test]
async fn poll_sends_the_value_that_the_pointer_picks_as_it_stands() {
    let sink = Sink::answering(|request| match (request.target(), request.attempt) {
        // The first answer is a failure: the next one counts.
        ("/api", 1) => Answer::status(500),
        ("/api", _) => Answer::status(200)
            .header("content-type", "application/json")
            .body(r#"{"Realtime Currency Exchange Rate": {"5. Exchange Rate": "106.53"}}"#),
        _ => Answer::status(202),
    })
    .await;
    let mut command = knats();
    command.env("K_SINK", sink.url("/sink")).env("K_CE_OVERRIDES", r#"{"extensions":{"team":"blue"}}"#);
    let url = sink.url("/api");
    let args = [
        "poll",
        "--url",
        &url,
        "--every",
        "1s",
        "--pointer",
        "/Realtime Currency Exchange Rate/5. Exchange Rate",
        "--type",
        "rate",
        "--source",
        "/alpha",
        "--subject",
        "USD/JPY",
    ];
    let _poll = start(command, &args);
    let requests = sink.wait_for("/sink", 2).await;
    assert_ne!(requests[0].id(), requests[1].id());
    for got in &requests {
        assert_eq!(got.text(), "\"106.53\"");
        for (name, value) in [
            ("ce-type", "rate"),
            ("ce-source", "/alpha"),
            ("ce-subject", "USD/JPY"),
            ("ce-team", "blue"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(got.header(name), Some(value), "{name}");
        }
    }
}

#[tokio::test]
async fn poll_keeps_the_id_when_it_sends_an_event_again() {
    let sink = Sink::answering(|request| match request.target() {
        "/api" => Answer::status(200).body(r#"{"v": 1.50}"#),
        _ => Answer::status(if request.attempt == 1 { 503 } else { 202 }),
    })
    .await;
    let mut command = knats();
    command.env("K_SINK", sink.url("/sink"));
    let url = sink.url("/api");
    let _poll =
        start(command, &["poll", "--url", &url, "--every", "1s", "--pointer", "/v", "--type", "t", "--source", "/s"]);
    let again = || async { sink.requests("/sink").into_iter().find(|request| request.attempt == 2) };
    assert_eq!(eventually("the event comes again", again).await.text(), "1.50");
}

#[tokio::test]
async fn view_prints_events_in_knative_s_layout() {
    let listen = format!("127.0.0.1:{}", free_port());
    let view = start(knats(), &["view", "--listen", &listen]);
    let sent = event("1")
        .attribute("subject", "USD/JPY")
        .attribute("time", "2020-03-21T12:34:56.780Z")
        .attribute("team", "blue")
        .data("application/json", r#"{"a":1}"#);
    let url = format!("http://{listen}/");
    let answer = eventually("the viewer answers", || async { post(&url).event(&sent).try_send().await.ok() }).await;
    assert!((200..300).contains(&answer.status()), "{}", answer.status());
    let end = "Data,\n  {\n    \"a\": 1\n  }\n";
    until("the event is printed", || async { view.process.stdout().contains(end) }).await;
    let printed = view.process.stdout();
    let lines: Vec<&str> = printed.lines().collect();
    let place =
        |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("no line {line:?} in\n{printed}"));
    let places: Vec<usize> = [
        "☁️  cloudevents.Event",
        "Context Attributes,",
        "  specversion: 1.0",
        "  type: test",
        "  source: /test",
        "  subject: USD/JPY",
        "  id: 1",
        "  time: 2020-03-21T12:34:56.780Z",
        "  datacontenttype: application/json",
        "Extensions,",
        "  team: blue",
        "Data,",
    ]
    .map(place)
    .to_vec();
    assert!(places.is_sorted(), "{printed}");
    assert!(!printed.contains("Validation"), "{printed}");
}

#[tokio::test]
async fn view_fails_as_often_as_told_and_then_no_more() {
    let listen = format!("127.0.0.1:{}", free_port());
    let _view = start(knats(), &["view", "--listen", &listen, "--fail-first", "2"]);
    let url = format!("http://{listen}/");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let post = || async { post(&url).event(&event("1")).try_send().await.ok() };
        statuses.push(eventually("the viewer answers", post).await.status());
    }
    let succeeded: Vec<bool> = statuses.iter().map(|status| (200..300).contains(status)).collect();
    assert_eq!(succeeded, [false, false, true, true], "{statuses:?}");
}

#[tokio::test]
async fn dev_needs_nothing_but_the_program_and_leaves_nothing_behind() {
    let sink = Sink::start().await;
    let manifests = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(manifests.path(), to_yaml(&[channel("foo"), subscribe("sub", "foo", &sink.url("/"))])).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let server = executable();
    let args = [
        "dev",
        "-f",
        manifests.path().to_str().unwrap(),
        "--listen",
        &listen,
        "--admin-listen",
        &admin,
        "--nats-server",
        server.to_str().unwrap(),
    ];
    let mut dev = start(knats(), &args);
    let url = format!("http://{listen}/default/foo");
    let ready = format!("http://{admin}/readyz");
    until("dev is ready", || async { get(&ready).try_send().await.is_ok_and(|answer| answer.status() == 200) }).await;
    assert_eq!(post(&url).event(&event("1")).send().await.status(), 202);
    sink.wait_for_one("/").await;
    until("the addresses and a curl are shown", || async {
        let shown = dev.process.stdout();
        shown.contains("curl") && shown.contains(&listen)
    })
    .await;
    ends_and_leaves_nothing(&mut dev, "TERM").await;
}

#[tokio::test]
async fn dev_without_a_nats_server_says_how_to_get_one() {
    let mut command = knats();
    // Neither on PATH nor where the set-up command puts it.
    command.env("PATH", "/nowhere");
    let empty = tempfile::tempdir().unwrap();
    command.current_dir(empty.path());
    let any = "127.0.0.1:0";
    let args = ["dev", "--nats-server", "/nowhere/nats-server", "--listen", any, "--admin-listen", any];
    let mut dev = start(command, &args);
    let status = dev.process.wait().await;
    assert!(matches!(status.code(), Some(1 | 2)), "{status}");
    assert!(dev.process.stderr().contains("nats-server"), "{}", dev.process.stderr());
}

#[tokio::test]
async fn the_demo_shows_rates_and_leaves_nothing_behind() {
    let mut command = knats();
    let address = || format!("127.0.0.1:{}", free_port());
    command.env("KNATS_NATS_SERVER", executable());
    command.env("KNATS_LISTEN", address()).env("KNATS_ADMIN_LISTEN", address());
    let mut demo = start(command, &["demo"]);
    until("three rates are shown", || async { rates(&demo.process.stdout()).len() >= 3 }).await;
    let printed = demo.process.stdout();
    assert!(printed.contains("☁️  cloudevents.Event"), "{printed}");
    assert!(rates(&printed).iter().all(|rate| (50.0..300.0).contains(rate)), "{:?}", rates(&printed));
    ends_and_leaves_nothing(&mut demo, "INT").await;
}

/// The values printed as data of events.
fn rates(printed: &str) -> Vec<f64> {
    let lines: Vec<&str> = printed.lines().collect();
    let data = lines.windows(2).filter(|pair| pair[0] == "Data,");
    data.filter_map(|pair| pair[1].trim().trim_matches('"').parse().ok()).collect()
}

/// Ends with 0 on the signal, and every process that it had started is gone.
async fn ends_and_leaves_nothing(running: &mut Running, signal: &str) {
    let children = descendants(running.process.id());
    assert!(!children.is_empty(), "a nats-server at least");
    running.process.signal(signal);
    let status = running.process.wait().await;
    assert_eq!(status.code(), Some(0), "{}", running.process.stderr());
    until("its children are gone", || async { !children.iter().any(|id| is_alive(*id)) }).await;
    assert!(!running.process.stderr().contains("panicked at"), "{}", running.process.stderr());
}

#[tokio::test]
async fn a_slow_viewer_can_be_asked_for() {
    let listen = format!("127.0.0.1:{}", free_port());
    let _view = start(knats(), &["view", "--listen", &listen, "--delay", "500ms"]);
    let url = format!("http://{listen}/");
    let timed = || async {
        let start = std::time::Instant::now();
        post(&url).event(&event("1")).try_send().await.ok().map(|_| start.elapsed())
    };
    let took = eventually("the viewer answers", timed).await;
    assert!(took >= Duration::from_millis(500), "{took:?}");
}

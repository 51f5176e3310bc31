//! Contexts of the NATS CLI: which one counts for whom, and what is said of one that cannot be used. No secret is ever shown.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{Ended, Process, command, knats};
use crate::support::resources::channel;
use crate::support::{Bridge, Nats, until};

/// A person's configuration.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(home.path().join("nats/context")).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn context(&self, name: &str, content: &Value) {
        self.text(name, &content.to_string());
    }

    fn text(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(format!("nats/context/{name}.json")), content).unwrap();
    }

    fn select(&self, name: &str) {
        std::fs::write(self.path().join("nats/context.txt"), format!("{name}\n")).unwrap();
    }

    /// Runs `knats` as this person.
    async fn run(&self, env: &[(&str, &str)], args: &[&str]) -> Ended {
        let mut command = knats();
        command.env("XDG_CONFIG_HOME", self.path()).env("HOME", self.path()).envs(env.iter().copied()).args(args);
        let dir = tempfile::tempdir().unwrap();
        Process::spawn(command, dir.path(), "knats").ended().await
    }
}

/// A server that only lets ann in, with a channel `default/foo` that holds one event.
async fn closed_server(dir: &TempDir) -> Nats {
    let nats = Nats::start_as("authorization { user: ann, password: \"s3cret\" }");
    let password = dir.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let file = crate::support::resources::to_yaml(&[channel("foo")]);
    let setup = Bridge::at(&nats.url()).file("resources.yaml", &file).flag("--nats-user", "ann");
    let bridge = setup.flag("--nats-password-file", password.to_str().unwrap()).start().await;
    bridge.send("foo", &crate::support::event("1")).await;
    nats
}

const LOOK: [&str; 6] = ["tail", "default/foo", "--last", "1", "--limit", "1"];

fn shows_the_event(ended: &Ended) -> bool {
    ended.code == Some(0) && ended.stdout.contains("stored")
}

#[tokio::test]
async fn flags_come_before_a_named_context_before_the_selected_one() {
    let dir = tempfile::tempdir().unwrap();
    let nats = closed_server(&dir).await;
    let home = Home::new();
    let nowhere = "nats://127.0.0.1:1";
    home.context(
        "good",
        &json!({"url": nats.url(), "user": "ann", "password": "s3cret", "creds": "", "jetstream_domain": ""}),
    );
    home.context("elsewhere", &json!({"url": nowhere, "user": "ann", "password": "s3cret"}));

    home.select("good");
    assert!(shows_the_event(&home.run(&[], &LOOK).await), "the selected one");
    let named = home.run(&[], &[&LOOK[..], &["--context", "elsewhere"]].concat()).await;
    assert!(named.code == Some(1) && named.stderr.contains(nowhere), "a named one comes first: {named:?}");

    home.select("elsewhere");
    assert!(shows_the_event(&home.run(&[("KNATS_CONTEXT", "good")], &LOOK).await), "the variable names one too");
    let url = nats.url();
    let moved = home.run(&[], &[&LOOK[..], &["--context", "elsewhere", "--nats-url", &url]].concat()).await;
    assert!(shows_the_event(&moved), "a flag takes the place of a field of a named one: {moved:?}");

    let stranger = home.run(&[], &[&LOOK[..], &["--nats-url", &url]].concat()).await;
    assert_eq!(stranger.code, Some(1), "the secrets of a selected one go nowhere else: {stranger:?}");
    assert!(stranger.stderr.to_lowercase().contains("authorization violation"), "{}", stranger.stderr);

    let file = dir.path().join("password");
    let flags = ["--nats-url", &url, "--nats-user", "ann", "--nats-password-file", file.to_str().unwrap()];
    assert!(shows_the_event(&home.run(&[], &[&LOOK[..], &flags].concat()).await), "flags alone");
}

#[tokio::test]
async fn a_url_may_say_who_we_are() {
    let dir = tempfile::tempdir().unwrap();
    let nats = closed_server(&dir).await;
    let home = Home::new();
    home.context("url", &json!({"url": nats.url().replace("nats://", "nats://ann:s3cret@")}));
    let ended = home.run(&[], &[&LOOK[..], &["--context", "url", "--log", "trace"]].concat()).await;
    assert!(shows_the_event(&ended), "{ended:?}");
    assert!(!(ended.stderr + &ended.stdout).contains("s3cret"), "its secret is shown");
}

#[tokio::test]
async fn home_is_where_contexts_are_without_xdg() {
    let dir = tempfile::tempdir().unwrap();
    let nats = closed_server(&dir).await;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/nats/context");
    std::fs::create_dir_all(&folder).unwrap();
    let context = json!({"url": nats.url(), "user": "ann", "password": "s3cret"});
    std::fs::write(folder.join("mine.json"), context.to_string()).unwrap();
    let mut command = knats();
    command.env("HOME", home.path()).args(LOOK).args(["--context", "mine"]);
    let ended = Process::spawn(command, dir.path(), "knats").ended().await;
    assert!(shows_the_event(&ended), "{ended:?}");
}

#[tokio::test]
async fn a_bridge_takes_a_context_only_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let nats = closed_server(&dir).await;
    let home = Home::new();
    home.context("good", &json!({"url": nats.url(), "user": "ann", "password": "s3cret"}));
    home.select("good");
    let serve = |args: &[&str], name: &str| {
        let mut command = knats();
        command.env("XDG_CONFIG_HOME", home.path());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log", "debug"])
            .args(args);
        Process::spawn(command, dir.path(), name)
    };
    let named = serve(&["--context", "good"], "named");
    until("it is ready", || async { named.stderr().contains("ready") }).await;
    let silent = serve(&["--nats-url", "nats://127.0.0.1:1"], "silent");
    until("it looks where it was told", || async { silent.stderr().contains("cannot connect to NATS") }).await;
    let connections = |process: &Process| sockets_to(process, nats.port());
    assert!(connections(&named) > 0 && connections(&silent) == 0);
    let unknown = home.run(&[], &["serve", "--context", "nope"]).await;
    assert!(unknown.code == Some(2) && unknown.stderr.contains("known: good"), "{unknown:?}");
}

/// How many connections a process has to that port of this machine.
fn sockets_to(process: &Process, port: u16) -> usize {
    let listed = command("ls").arg("-l").arg(format!("/proc/{}/fd", process.id())).output().unwrap();
    let own = String::from_utf8_lossy(&listed.stdout).into_owned();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let inodes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&remote).then(|| fields[9].to_owned())
    });
    inodes.filter(|inode| own.contains(&format!("socket:[{inode}]"))).count()
}

#[tokio::test]
async fn what_cannot_be_used_is_exit_2_and_says_why_without_a_secret() {
    let home = Home::new();
    home.context("one", &json!({}));
    home.context("two", &json!({"jetstream_domain": "hub", "password": "s3cret", "user": "u"}));
    home.text("broken", "{\n  \"password\": \"s3cret\"\n  \"user\": \"ann\"\n}");
    home.context("wrong", &json!({"password": ["s3cret"]}));
    home.context("file", &json!({"creds": "/nowhere/s.creds"}));
    for (name, says) in [
        ("nope", &["no NATS context 'nope'", "known: broken, file, one, two, wrong"][..]),
        ("two", &["two.json", "jetstream_domain"]),
        ("broken", &["broken.json", "line 3 column 3"]),
        ("wrong", &["wrong.json", "'password'", "expected text"]),
        ("file", &["file.json", "'creds'", "/nowhere/s.creds"]),
        ("../one", &["'../one' is no name"]),
    ] {
        home.select(name);
        for ended in [home.run(&[], &["tail", "--context", name]).await, home.run(&[], &["tail"]).await] {
            assert_eq!(ended.code, Some(2), "{name}: {ended:?}");
            assert!(says.iter().all(|part| ended.stderr.contains(part)), "{name}: {}", ended.stderr);
            assert!(!ended.stderr.contains("s3cret"), "{name}: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_refused_password_is_not_shown_however_much_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let nats = closed_server(&dir).await;
    let home = Home::new();
    let url = nats.url().replace("nats://", "nats://ann:wr0ng@");
    home.context("url", &json!({"url": url}));
    home.context("fields", &json!({"url": nats.url(), "user": "ann", "password": "wr0ng"}));
    home.context("token", &json!({"url": nats.url(), "token": "wr0ng"}));
    for name in ["url", "fields", "token"] {
        let ended = home.run(&[], &[&LOOK[..], &["--context", name, "--log", "trace"]].concat()).await;
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.stderr.to_lowercase().contains("authorization violation"), "{name}: {}", ended.stderr);
        assert!(!(ended.stderr + &ended.stdout).contains("wr0ng"), "{name} shows its secret");
    }
}

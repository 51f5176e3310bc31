//! Owns the checks of the nats-server child: found, started, restarted, and never left behind.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn kill(signal: &str, pid: u32) {
    Command::new("kill").args([signal, &pid.to_string()]).status().await.unwrap();
}

fn runs(pid: u32) -> bool {
    // A process that has ended and was not waited for yet is a zombie.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.is_ok() && &greeting == b"INFO"
}

async fn start(data: Option<&Path>) -> NatsServer {
    NatsServer::start(find(None).await.unwrap(), data).await.unwrap()
}

#[tokio::test]
async fn stopping_leaves_no_server_and_no_temporary_directory() {
    let server = start(None).await;
    let (pid, port, directory) = (server.pid(), server.port, server.directory().to_owned());
    assert!(runs(pid) && greets(port).await && directory.is_dir());
    server.stop().await;
    assert!(!runs(pid));
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_killed_server_is_started_again_on_the_same_port_and_store() {
    let server = start(None).await;
    let (first, port) = (server.pid(), server.port);
    let marker = server.directory().join("marker");
    std::fs::write(&marker, "").unwrap();
    kill("-9", first).await;
    eventually("another server", async || server.pid() != first).await;
    assert!(greets(port).await && marker.exists());
    let second = server.pid();
    server.stop().await;
    assert!(!runs(second) && !marker.exists());
}

#[tokio::test]
async fn a_killed_guard_leaves_no_server_behind() {
    let server = start(None).await;
    let first = server.pid();
    let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
    let guard: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    kill("-9", guard).await;
    eventually("another server", async || server.pid() != first).await;
    assert!(!runs(first));
    server.stop().await;
}

#[tokio::test]
async fn a_data_directory_is_kept_and_used_by_one_at_a_time() {
    let data = tempfile::tempdir().unwrap();
    let server = start(Some(data.path())).await;
    assert!(matches!(File::open(data.path().join(LOCK_FILE)).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
    server.stop().await;
    assert!(data.path().join("jetstream").is_dir());
    File::open(data.path().join(LOCK_FILE)).unwrap().try_lock().unwrap();
}

/// The pipe closes in whatever way the process that holds it ends.
#[tokio::test]
async fn the_end_of_the_process_that_started_it_ends_the_server() {
    let directory = temporary_directory().unwrap();
    let lock = lock(&directory).await.unwrap();
    let launch = Launch {
        binary: find(None).await.unwrap(),
        directory: directory.clone(),
        temporary: true,
        port: crate::cli::free_port().unwrap(),
        lock,
    };
    let running = launch.start().await.unwrap();
    let pid = running.pid();
    assert!(runs(pid));
    // Neither `stop` nor any other word to the guard: only the pipe goes.
    drop(running);
    eventually("no server", async || !runs(pid)).await;
    eventually("no directory", async || !directory.exists()).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let data = tempfile::tempdir().unwrap();
    let script = data.path().join("nats-server");
    std::fs::write(&script, "#!/bin/sh\necho 'nats-server: v2.15.1'\necho 'no luck' >&2\n").unwrap();
    Command::new("chmod").args(["+x", script.to_str().unwrap()]).stdin(Stdio::null()).status().await.unwrap();
    let error = NatsServer::start(script, Some(data.path())).await.unwrap_err();
    assert!(format!("{error:#}").contains("no luck"), "{error:#}");
}

//! Owns the programs under test: started, measured through /proc, ended with the bench.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks a second in /proc/PID/stat, on every Linux of today.
const TICKS: u64 = 100;
const START: Duration = Duration::from_secs(20);
/// How often somebody who starts is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A child process.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(program: &Path, arguments: &[String]) -> Self {
        let log = std::env::var_os("BENCH_LOG").map(|path| std::fs::File::create(path).unwrap());
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_or_else(Stdio::null, Stdio::from))
            .spawn();
        Self { child: child.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display())) }
    }

    /// The processor time that it has used so far.
    pub fn cpu(&self) -> Duration {
        cpu(&self.child.id().to_string())
    }

    /// The processor time of this very process.
    pub fn own_cpu() -> Duration {
        cpu("self")
    }

    /// Resident memory in KiB: now, and at most so far.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// User and system time of a process so far; nothing of one that is gone.
fn cpu(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before may hold spaces; the fields after it do not.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / TICKS)
}

/// How long the processors of the whole machine have worked and rested, in ticks of all of them together.
pub fn machine() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice already.
    let ticks: Vec<u64> = first.split_ascii_whitespace().skip(1).take(8).map(|field| field.parse().unwrap()).collect();
    let all: u64 = ticks.iter().sum();
    let rested: u64 = ticks.iter().skip(3).take(2).sum();
    (all - rested, rested)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody listens.
pub fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until the bridge with this admin address says that nothing is missing.
pub fn wait_until_ready(admin: SocketAddr, limit: Duration) {
    let deadline = Instant::now() + limit;
    while !is_ready(admin).unwrap_or(false) {
        assert!(Instant::now() < deadline, "the bridge is not ready within {limit:?}");
        std::thread::sleep(LOOK);
    }
}

fn is_ready(admin: SocketAddr) -> std::io::Result<bool> {
    const READY: &[u8] = b"HTTP/1.1 200";
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; READY.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer == READY)
}

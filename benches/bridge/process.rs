//! Owns the programs under test: started, measured through /proc, ended with the bench.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks a second in /proc/PID/stat, on every Linux of today.
const TICKS: u64 = 100;
const START: Duration = Duration::from_secs(20);

/// A child process.
pub struct Process {
    child: Child,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub cpu: Duration,
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

    pub fn used(&self) -> Used {
        Used { cpu: cpu(&self.child.id().to_string()) }
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `nats-server` that `make tools` has fetched, else the one on PATH.
pub fn nats_server() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nats-server");
    if fetched.is_file() { fetched } else { PathBuf::from("nats-server") }
}

/// A NATS server with a store of its own.
pub struct Nats {
    pub process: Process,
    pub port: u16,
    _store: tempfile::TempDir,
}

impl Nats {
    pub fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let port = free_port();
        let arguments = ["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd", &store.path().display().to_string()]
            .map(str::to_owned);
        let process = Process::start(&nats_server(), &arguments);
        wait_for(SocketAddr::from(([127, 0, 0, 1], port)));
        Self { process, port, _store: store }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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
        std::thread::sleep(Duration::from_millis(20));
    }
}

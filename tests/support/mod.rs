//! What the tests stand on: real servers on loopback and free ports, and waiting for conditions instead of sleeping.

pub mod assets;
pub mod bridge;
pub mod chaos;
pub mod cluster;
pub mod collector;
pub mod http;
pub mod load;
pub mod metrics;
pub mod nats;
pub mod process;
pub mod resources;
pub mod sink;
pub mod tls;
pub mod tokens;

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use bridge::Bridge;
pub use http::{Event, event};
pub use load::Load;
pub use nats::Nats;
pub use sink::{Answer, Gate, Request, Sink};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(15);

/// Asks again and again until there is an answer.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Asks again and again until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    eventually(what, || {
        let probed = probe();
        async { probed.await.then_some(()) }
    })
    .await;
}

/// Fails the test when `work` takes longer than the deadline.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// A port that nothing listens on. It lies below the range from which the system picks ports for outgoing connections, so
/// that nobody takes it between now and its use; the process id keeps test runs beside each other apart.
pub fn free_port() -> u16 {
    const FIRST: u16 = 16_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..COUNT {
        let seed = (std::process::id() % 97) as u16 * 163;
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(seed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

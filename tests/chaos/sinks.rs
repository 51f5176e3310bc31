//! The sinks: they count what they accept, by id, and can all fall ill at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One in so many events is refused by the sinks that refuse some.
const REFUSED: u64 = 20;
/// Longer than the subscriptions wait for an answer.
const HANG: Duration = Duration::from_secs(4);

/// How all sinks are at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// 503 to all.
    Refuses,
    /// No answer before the bridge has lost its patience.
    Hangs,
    /// Accepts the connection and closes it in the middle of the answer.
    Resets,
}

/// How often each id was accepted.
pub type Accepted = HashMap<u64, u32>;

pub struct Sinks {
    address: String,
    shared: Arc<Shared>,
    /// Ends the server.
    _end: tokio_util::sync::DropGuard,
}

struct Shared {
    health: Mutex<Health>,
    accepted: Mutex<HashMap<String, Accepted>>,
}

impl Sinks {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared { health: Mutex::new(Health::Well), accepted: Mutex::default() });
        let router = Router::new().route("/{name}", post(receive)).with_state(Arc::clone(&shared));
        let end = CancellationToken::new();
        tokio::spawn(knats::server::serve(listener, router, end.clone(), Duration::ZERO));
        Self { address, shared, _end: end.drop_guard() }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn be(&self, health: Health) {
        *self.shared.health.lock().unwrap() = health;
    }

    /// What the sink of that name has accepted.
    pub fn accepted(&self, name: &str) -> Accepted {
        self.shared.accepted.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// How many events the sink has accepted that never refuses one.
    pub fn steady(&self) -> u64 {
        self.shared.accepted.lock().unwrap().get("steady").map_or(0, |accepted| accepted.len() as u64)
    }
}

/// The answer that the sink of this name gives while all is well. It depends on the event alone, or on chance.
fn verdict(name: &str, id: u64) -> StatusCode {
    match name {
        "flaky" if fastrand::u32(..10) == 0 => StatusCode::SERVICE_UNAVAILABLE,
        "picky" if id.is_multiple_of(REFUSED) => StatusCode::UNPROCESSABLE_ENTITY,
        "picky" if id % REFUSED == 1 => StatusCode::INTERNAL_SERVER_ERROR,
        "unforgiving" if id % REFUSED == 2 => StatusCode::BAD_REQUEST,
        _ => StatusCode::NO_CONTENT,
    }
}

async fn receive(State(shared): State<Arc<Shared>>, Path(name): Path<String>, headers: HeaderMap) -> StatusCode {
    let id: u64 = headers["ce-id"].to_str().unwrap().parse().unwrap();
    let health = *shared.health.lock().unwrap();
    match health {
        Health::Well => {}
        Health::Refuses => return StatusCode::SERVICE_UNAVAILABLE,
        Health::Hangs => {
            tokio::time::sleep(HANG).await;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        // The task ends here, and its connection with it.
        Health::Resets => std::panic::resume_unwind(Box::new("the connection is closed")),
    }
    let status = verdict(&name, id);
    if status.is_success() {
        *shared.accepted.lock().unwrap().entry(name).or_default().entry(id).or_default() += 1;
    }
    status
}

//! What the bridge tells of itself while it runs: metrics for Prometheus and OTLP, traces, and which faults are worth a line in
//! the log. It only looks on; nothing that an event's way depends on is decided here.
//!
//! The instruments are plain atomics. Whoever counts holds them from the start, one set a channel and one a subscription, so
//! that an event costs a few additions and neither a lookup nor a lock. They become families, with names and labels, only when
//! somebody asks.

mod connections;
mod family;
mod instrument;
mod labels;
mod meter;
pub mod otlp;
mod process;
mod tally;
pub mod text;
pub mod trace;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use connections::ConnectionMeter;
pub use family::{Family, Kind, Observed, Point, Value};
pub use instrument::{Counter, Gauge, Histogram};
pub use labels::{Mode, Received, State};
pub use meter::{Attempts, ChannelMeter, Metrics, SubscriptionMeter, subscription};
pub use tally::Tally;
pub use trace::Tracer;

/// Somebody who knows further metrics when asked. It answers soon, with what it knows.
pub trait Source: Send + Sync {
    fn families(&self) -> BoxFuture<'_, Vec<Family>>;
}

/// All that can be told, gathered when asked for.
pub struct Exposition {
    metrics: Arc<Metrics>,
    sources: Vec<Box<dyn Source>>,
}

impl Exposition {
    pub fn new(metrics: Arc<Metrics>, sources: Vec<Box<dyn Source>>) -> Self {
        Self { metrics, sources }
    }

    /// Every family that has something to tell, by name.
    pub async fn gather(&self) -> Vec<Family> {
        let mut families = self.metrics.families();
        families.extend(process::families());
        for source in &self.sources {
            families.extend(source.families().await);
        }
        families.retain(|family| !family.points.is_empty());
        families.sort_by_key(|family| family.name);
        families
    }
}

//! How much a subscription works on at once. An event that waits (for the retry of a reply or of a dead letter) gives its
//! slot to others, but stays counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests under way at once, for each subscription.
pub(super) const MAX_IN_FLIGHT: usize = 256;
/// Events under way or waiting in memory, for each subscription. When there are more, nothing new is pulled.
pub(super) const MAX_HELD: usize = 1024;

/// A permit to have a request under way.
pub(super) struct Slot {
    slots: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub(super) async fn take(slots: Arc<Semaphore>) -> Self {
        // The semaphore is never closed.
        let permit = Arc::clone(&slots).acquire_owned().await.ok();
        Self { slots, permit }
    }

    /// Waits without holding the slot.
    pub(super) async fn sleep(&mut self, wait: Duration) {
        self.permit = None;
        tokio::time::sleep(wait).await;
        self.permit = Arc::clone(&self.slots).acquire_owned().await.ok();
    }
}

//! What the log of attempts knows of an event.

use super::{Error, Manager, while_doing};
use crate::channel::attempts::{self, Attempt};

impl Manager {
    /// The attempts of all events with this id, or of the one that has this source too, oldest first.
    ///
    /// # Errors
    /// When JetStream does not answer or says no; that there is no log is no attempts.
    pub async fn attempts_of(&self, id: &str, source: Option<&str>) -> Result<Vec<Attempt>, Error> {
        let found = attempts::of_id(&self.api, id, source).await;
        found.map_err(while_doing(format!("cannot read the log of attempts ({})", attempts::STREAM)))
    }
}

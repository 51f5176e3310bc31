//! Deleting what subscriptions leave behind that nobody declares any more.

use serde::Serialize;

use super::{Error, Manager, while_doing};
use crate::channel::inventory::{self, ConsumerFacts};
use crate::resource::Desired;

/// A consumer of ours whose subscription is not declared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Orphan {
    pub namespace: String,
    pub name: String,
    pub stream: String,
    pub consumer: String,
    /// Events that it has not settled. Who declares the subscription again gets all that its stream keeps.
    pub lag: u64,
    /// Whether a bridge works on it; then it is left alone, since the bridge would make it anew and deliver everything again.
    pub in_use: bool,
    #[serde(skip)]
    facts: ConsumerFacts,
}

impl Manager {
    /// The consumers of ours, in any stream, whose subscriptions are not declared.
    ///
    /// # Errors
    /// When JetStream does not answer or does not permit the question.
    pub async fn orphans(&self, desired: &Desired) -> Result<Vec<Orphan>, Error> {
        let (inventory, said) = tokio::join!(self.inventory(), self.ask_bridges(None));
        let ((_, consumers), said) = (inventory?, said?);
        let orphans = inventory::orphans(&consumers, desired).map(|(key, consumer)| Orphan {
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            stream: consumer.stream.clone(),
            consumer: consumer.name.clone(),
            lag: consumer.lag(),
            in_use: consumer.pulls > 0 || !said.of(&consumer.stream, &consumer.name).is_empty(),
            facts: consumer.clone(),
        });
        let mut orphans: Vec<Orphan> = orphans.collect();
        orphans.sort_by(|a, b| (&a.namespace, &a.name, &a.stream).cmp(&(&b.namespace, &b.name, &b.stream)));
        Ok(orphans)
    }

    /// Deletes one.
    ///
    /// # Errors
    /// When JetStream does not answer or says no.
    pub async fn delete_orphan(&self, orphan: &Orphan) -> Result<(), Error> {
        let doing = format!("cannot delete consumer {} of stream {}", orphan.consumer, orphan.stream);
        orphan.facts.delete(&self.api).await.map_err(while_doing(doing))
    }
}

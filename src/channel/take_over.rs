//! How a bridge takes a pinned consumer over from another one, with all that is unsettled in it.

use serde_json::Value;

use super::api::{Api, ApiError};
use super::consumer::{Consumer, is_pinned};
use super::ticket;
use super::wire::Wire;

/// The deliveries of a consumer that nobody has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsettled {
    pub count: u64,
    /// No stream sequence among them is lower.
    pub first: u64,
    /// No stream sequence among them is higher.
    pub last: u64,
    /// Deliveries so far, to whomever.
    pub deliveries: u64,
}

impl Consumer {
    /// # Errors
    /// When JetStream does not answer.
    pub async fn unsettled(&self, api: &Api) -> Result<Unsettled, ApiError> {
        let info = api.consumer_info(&self.stream, &self.name).await?;
        Ok(info.as_ref().map(unsettled).unwrap_or_default())
    }

    /// Makes JetStream deliver again at once what is unsettled, but for what this bridge `holds`.
    pub async fn ask_again(&self, wire: &Wire, unsettled: Unsettled, holds: impl Fn(u64) -> bool) {
        for sequence in (unsettled.first..=unsettled.last).filter(|sequence| !holds(*sequence)) {
            ticket::ask_again(wire, self, sequence, unsettled.deliveries).await;
        }
    }

    /// When no bridge is the pinned one although messages are unsettled, whoever was it is gone: asks for them again, but for
    /// what this bridge `holds`, so that JetStream chooses another one now and not after the ack wait.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn adopt_orphans(&self, api: &Api, wire: &Wire, holds: impl Fn(u64) -> bool) -> Result<(), ApiError> {
        let info = api.consumer_info(&self.stream, &self.name).await?;
        if let Some(info) = info.filter(|info| self.pinned && !is_pinned(info)) {
            let orphans = unsettled(&info);
            if orphans.count > 0 {
                self.ask_again(wire, orphans, holds).await;
            }
        }
        Ok(())
    }
}

fn unsettled(info: &Value) -> Unsettled {
    let number = |field: &Value| field.as_u64().unwrap_or(0);
    Unsettled {
        count: number(&info["num_ack_pending"]),
        first: number(&info["ack_floor"]["stream_seq"]) + 1,
        last: number(&info["delivered"]["stream_seq"]),
        deliveries: number(&info["delivered"]["consumer_seq"]),
    }
}

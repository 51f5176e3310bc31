//! Deliveries as bridges tell of them, and the asking that keeps them telling.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Item;
use crate::channel::watch::{LEASE, Told, WATCH, Watch, Watched};
use crate::channel::{CallError, Calls, Connection};

/// How often bridges are asked to go on: within their lease, two questions in a row may be lost.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const _: () = assert!(ASK_AGAIN.as_secs() * 3 < LEASE.as_secs());
/// How long the answers of bridges may take. One that answers later tells all the same.
const ANSWERS: Duration = Duration::from_secs(1);

/// Hands on what bridges tell. What comes while nobody takes it is counted.
pub(super) async fn listen(mut calls: Calls, deliveries: mpsc::Sender<Told>) {
    let mut missed = 0;
    while let Some(call) = calls.next().await {
        // Whatever else somebody sends here is of no account.
        let Ok(told) = serde_json::from_slice::<Told>(&call.payload) else { continue };
        if missed > 0 && deliveries.try_send(Told::Missed(missed)).is_ok() {
            missed = 0;
        }
        match deliveries.try_send(told) {
            Ok(()) => {}
            Err(TrySendError::Full(Told::Delivery(_))) => missed += 1,
            Err(TrySendError::Full(Told::Missed(more))) => missed += more,
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

/// Asks bridges to tell, and says when that changes how many of them do.
pub(super) async fn keep_asking(connection: Connection, watch: Watch, items: mpsc::Sender<Item>) {
    let Ok(question) = serde_json::to_vec(&watch) else { return };
    let mut known = None;
    loop {
        let answers = connection.ask_all(WATCH, question.clone(), ANSWERS).await;
        let telling = match answers {
            // When it is back, so are we.
            Err(CallError::Disconnected) => known.clone(),
            answers => Some(answers.map(|answers| count(&answers))),
        };
        if telling != known {
            if let Some(telling) = &telling
                && items.send(Item::note(say(telling))).await.is_err()
            {
                return;
            }
            known = telling;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// How many bridges tell, and why one does not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    telling: usize,
    refusal: Option<String>,
}

fn count(answers: &[impl AsRef<[u8]>]) -> Answers {
    let answers = answers.iter().filter_map(|answer| serde_json::from_slice::<Watched>(answer.as_ref()).ok());
    let (telling, refusing): (Vec<Watched>, Vec<Watched>) = answers.partition(|answer| answer.refused.is_none());
    Answers { telling: telling.len(), refusal: refusing.into_iter().find_map(|answer| answer.refused) }
}

fn say(answers: &Result<Answers, CallError>) -> String {
    match answers {
        Ok(Answers { telling: 0, refusal: None }) => {
            "deliveries cannot be seen: no bridge that delivers answers here".to_owned()
        }
        Ok(Answers { telling, refusal: Some(reason) }) => {
            format!("deliveries of {} are shown; one will not tell: {reason}", bridges(*telling))
        }
        Ok(Answers { telling, refusal: None }) => format!("deliveries of {} are shown", bridges(*telling)),
        Err(error) => format!("deliveries cannot be seen: {error}"),
    }
}

fn bridges(count: usize) -> String {
    super::counted(count as u64, "bridge", "bridges")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_are_counted_by_what_they_answer() {
        let counted = count(&["{}", r#"{"refused":"32 watch already"}"#, "nonsense", "{}"]);
        assert_eq!(say(&Ok(counted)), "deliveries of 2 bridges are shown; one will not tell: 32 watch already");
        assert_eq!(say(&Ok(count(&["{}"]))), "deliveries of 1 bridge are shown");
        let none: [&str; 0] = [];
        assert!(say(&Ok(count(&none))).contains("no bridge"));
        assert!(say(&Err(CallError::Denied("knats.bridge.watch".into()))).contains("'knats.bridge.watch'"));
    }
}

//! What came out of a run, as a table for people and as what the tests assert.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::faults::Fault;
use super::house::House;
use super::load::Sent;

#[derive(Debug, Default)]
pub struct Summary {
    struck: BTreeMap<Fault, u64>,
    acknowledged: u64,
    refused: u64,
    broken: u64,
    longest_refusal: Duration,
    /// One line for each subscription.
    ends: Vec<Ends>,
    /// Acknowledged events that ended nowhere, as `SUBSCRIPTION ID`.
    pub lost: Vec<String>,
    pub memory_peak_kib: u64,
}

/// How the events of a subscription ended.
#[derive(Debug)]
struct Ends {
    subscription: &'static str,
    delivered: usize,
    dead_lettered: usize,
    kept: usize,
    /// Accepted more than once, or ended in two ways.
    duplicates: u64,
}

impl Summary {
    pub fn struck(&mut self, fault: Fault) {
        *self.struck.entry(fault).or_default() += 1;
    }

    pub fn faults(&self) -> u64 {
        self.struck.values().sum()
    }

    /// Looks where every acknowledged event ended.
    pub async fn events(&mut self, sent: &Sent, house: &House) {
        self.acknowledged = sent.acknowledged.len() as u64;
        (self.refused, self.broken) = (sent.refused, sent.broken);
        self.longest_refusal = sent.longest_refusal;
        for subscription in ["steady", "flaky", "picky", "unforgiving"] {
            let delivered = house.sinks.accepted(subscription);
            let dead_lettered =
                if subscription == "picky" { house.sinks.accepted("letters") } else { Default::default() };
            let kept: Vec<u64> = house.kept(subscription).await;
            let times: u64 = delivered.values().chain(dead_lettered.values()).map(|count| u64::from(*count)).sum();
            let ended: BTreeSet<u64> = delivered.keys().chain(dead_lettered.keys()).chain(&kept).copied().collect();
            self.ends.push(Ends {
                subscription,
                delivered: delivered.len(),
                dead_lettered: dead_lettered.len(),
                kept: kept.len(),
                duplicates: times + kept.len() as u64 - ended.len() as u64,
            });
            let missing = sent.acknowledged.difference(&ended);
            self.lost.extend(missing.map(|id| format!("{subscription} {id}")));
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, times) in &self.struck {
            writeln!(f, "{:<18} {times:>6} times", format!("{fault:?}"))?;
        }
        writeln!(f, "{:<18} {:>9} {:>9} {:>9} {:>9}", "subscription", "delivered", "letters", "kept", "twice")?;
        for Ends { subscription, delivered, dead_lettered, kept, duplicates } in &self.ends {
            writeln!(f, "{subscription:<18} {delivered:>9} {dead_lettered:>9} {kept:>9} {duplicates:>9}")?;
        }
        writeln!(f, "acknowledged       {:>9}", self.acknowledged)?;
        writeln!(f, "refused, broken    {:>9} {:>9}", self.refused, self.broken)?;
        writeln!(f, "lost               {:>9}", self.lost.len())?;
        writeln!(f, "longest 503 window {:>9.1} s", self.longest_refusal.as_secs_f64())?;
        write!(f, "memory peak        {:>9.1} MiB", self.memory_peak_kib as f64 / 1024.0)
    }
}

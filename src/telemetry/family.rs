//! A metric as it is told: its name, what it means, and a value for each set of labels.

use std::borrow::Cow;

/// All values of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// As in Prometheus' text format: that of a counter ends in `_total`, and the unit is a suffix.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub labels: Labels,
    pub value: Value,
}

/// Names and values. The values are of closed sets, or names of declared resources.
pub(super) type Labels = Vec<(&'static str, Cow<'static, str>)>;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
    Histogram(Observed),
}

/// A histogram as it stood at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Upper bounds in seconds, ascending; one more bucket has none.
    pub bounds: Vec<f64>,
    /// Observations in each bucket alone, that without bound at the end.
    pub counts: Vec<u64>,
    /// In seconds.
    pub sum: f64,
}

impl Family {
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, points: Vec::new() }
    }

    /// With one more value.
    #[must_use]
    pub fn with(mut self, labels: Labels, value: impl Into<Value>) -> Self {
        self.add(labels, value);
        self
    }

    pub fn add(&mut self, labels: Labels, value: impl Into<Value>) {
        self.points.push(Point { labels, value: value.into() });
    }
}

impl Observed {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Observed> for Value {
    fn from(value: Observed) -> Self {
        Self::Histogram(value)
    }
}

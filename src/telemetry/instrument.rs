//! The instruments: atomics that are added to in passing, and read when somebody asks. Nothing is ordered by them, so all of it
//! is relaxed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::family::Observed;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Says how things stand.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many observations fell between which bounds, and their sum.
#[derive(Debug)]
pub struct Histogram {
    /// In microseconds, ascending.
    bounds: &'static [u64],
    counts: Box<[Counter]>,
    sum_nanos: Counter,
}

impl Histogram {
    /// `bounds` are upper bounds in microseconds, ascending.
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, counts, sum_nanos: Counter::default() }
    }

    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        self.counts[bucket].add(1);
        self.sum_nanos.add(nanos);
    }

    /// `None` as long as nothing was observed.
    pub(super) fn read(&self) -> Option<Observed> {
        let counts: Vec<u64> = self.counts.iter().map(Counter::get).collect();
        let bounds = self.bounds.iter().map(|micros| *micros as f64 / 1e6).collect();
        let sum = self.sum_nanos.get() as f64 / 1e9;
        counts.iter().any(|count| *count > 0).then_some(Observed { bounds, counts, sum })
    }

    /// The same with some of the bounds only, which must be among ours.
    pub(super) fn read_with(&self, bounds: &[u64]) -> Option<Observed> {
        let all = self.read()?;
        let mut counts = Vec::with_capacity(bounds.len() + 1);
        let mut from = 0;
        for bound in bounds {
            let to = self.bounds.partition_point(|own| own <= bound);
            counts.push(all.counts[from..to].iter().sum());
            from = to;
        }
        counts.push(all.counts[from..].iter().sum());
        Some(Observed { bounds: bounds.iter().map(|micros| *micros as f64 / 1e6).collect(), counts, sum: all.sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [u64; 3] = [5_000, 10_000, 1_000_000];

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&BOUNDS);
        assert_eq!(histogram.read(), None);
        for micros in [0, 5_000, 5_001, 10_000, 999_999, 1_000_001, u64::MAX / 2_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let observed = histogram.read().unwrap();
        assert_eq!((observed.counts.as_slice(), observed.count()), ([2, 2, 1, 2].as_slice(), 7));
        assert_eq!(observed.bounds, [0.005, 0.01, 1.0]);
    }

    #[test]
    fn fewer_bounds_tell_of_the_same_observations() {
        let histogram = Histogram::new(&BOUNDS);
        for micros in [1, 7_000, 7_000, 20_000, 2_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let fewer = histogram.read_with(&[10_000]).unwrap();
        assert_eq!((fewer.counts, fewer.bounds), (vec![3, 2], vec![0.01]));
        assert_eq!(Some(fewer.sum), histogram.read().map(|all| all.sum));
    }
}

//! Latencies, in a histogram with a precision of three digits (HdrHistogram).

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Microseconds, up to an hour.
const US_MAX: u64 = 3_600_000_000;

/// A histogram of latencies.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        match Histogram::new_with_bounds(1, US_MAX, 3) {
            Ok(histogram) => Self(histogram),
            Err(error) => unreachable!("the bounds are constants: {error}"),
        }
    }
}

impl Latencies {
    /// Adds a latency in microseconds.
    #[inline]
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    /// Adds the latencies of another histogram.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// The summary; none if the histogram is empty.
    pub fn summary(&self) -> Option<Summary> {
        let ms = |us: u64| us as f64 / 1000.0;
        (!self.0.is_empty()).then(|| Summary {
            mean_ms: self.0.mean() / 1000.0,
            p50_ms: ms(self.0.value_at_quantile(0.5)),
            p99_ms: ms(self.0.value_at_quantile(0.99)),
            p999_ms: ms(self.0.value_at_quantile(0.999)),
            max_ms: ms(self.0.max()),
        })
    }
}

/// A summary of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_all_of_them() {
        assert_eq!(Latencies::default().summary(), None);
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        (1..=500).for_each(|ms| one.record(ms * 1000));
        (501..=1000).for_each(|ms| other.record(ms * 1000));
        one.add(&other);
        let summary = one.summary().expect("a summary");
        for (found, expected) in [
            (summary.mean_ms, 500.5),
            (summary.p50_ms, 500.0),
            (summary.p99_ms, 990.0),
            (summary.p999_ms, 999.0),
            (summary.max_ms, 1000.0),
        ] {
            assert!((found - expected).abs() / expected < 0.002, "{found} for {expected}");
        }
    }
}

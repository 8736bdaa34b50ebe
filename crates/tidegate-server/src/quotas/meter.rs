//! One rate of one org: a token bucket, and how much is used.

use std::time::{Duration, Instant};

/// Over about this time the use is averaged: long enough that a burst is not taken for a rate, and short enough for
/// somebody who looks at what an org does now.
const AVERAGED_OVER: Duration = Duration::from_secs(10);

/// A token bucket that holds what may be used in one second. What was not known before it was used may leave it
/// below zero; then it has to fill up first.
#[derive(Debug)]
pub(super) struct Meter {
    tokens: f64,
    filled: Instant,
    /// The use per second, averaged exponentially.
    rate: f64,
    used: Instant,
}

impl Meter {
    /// A full bucket of which nothing was used.
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: f64::INFINITY, filled: now, rate: 0.0, used: now }
    }

    /// What the bucket holds, if `quota` is used in a second. Without a quota it holds anything.
    fn fill(&mut self, quota: Option<f64>, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = match quota {
            Some(quota) => (self.tokens + since * quota).min(quota),
            None => f64::INFINITY,
        };
        self.tokens
    }

    /// Whether `wanted` may be used now, or when it may. More than the bucket can ever hold may be used once it is
    /// full.
    pub(super) fn check(&mut self, wanted: f64, quota: Option<f64>, now: Instant) -> Result<(), Duration> {
        let held = self.fill(quota, now);
        let Some(quota) = quota else { return Ok(()) };
        let missing = wanted.min(quota) - held;
        if missing <= 0.0 { Ok(()) } else { Err(Duration::from_secs_f64(missing / quota)) }
    }

    /// What is left; less than zero if too much was used.
    pub(super) fn left(&mut self, quota: Option<f64>, now: Instant) -> f64 {
        self.fill(quota, now)
    }

    /// Notes what was used.
    pub(super) fn add(&mut self, used: f64, quota: Option<f64>, now: Instant) {
        self.fill(quota, now);
        self.tokens -= used;
        self.rate = self.rate(now) + used / AVERAGED_OVER.as_secs_f64();
        self.used = now;
    }

    /// How much is used per second.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.used);
        self.rate * (-since.as_secs_f64() / AVERAGED_OVER.as_secs_f64()).exp()
    }

    /// Whether nothing would be lost with it: it is full, and its rate is about zero.
    pub(super) fn is_rested(&mut self, quota: Option<f64>, now: Instant) -> bool {
        let is_full = quota.is_none_or(|quota| self.fill(Some(quota), now) >= quota);
        is_full && now.saturating_duration_since(self.used) > 6 * AVERAGED_OVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn p5_a_second_comes_at_once_and_one_request_even_if_it_is_more() {
        let begin = Instant::now();
        let mut meter = Meter::new(begin);
        let quota = Some(10.0);
        assert_eq!(meter.check(4.0, quota, begin), Ok(()));
        meter.add(4.0, quota, begin);
        assert_eq!(meter.check(7.0, quota, begin), Err(100 * MS), "six are left");
        assert_eq!(meter.check(6.0, quota, begin), Ok(()), "what was refused took nothing");
        assert_eq!(meter.check(25.0, quota, begin), Err(400 * MS), "it waits for a full bucket");
        let later = begin + 400 * MS;
        assert_eq!(meter.check(25.0, quota, later), Ok(()));
        meter.add(25.0, quota, later);
        assert_eq!(meter.check(1.0, quota, later), Err(1600 * MS), "and the rate holds over time");
    }

    #[test]
    fn another_quota_holds_from_then_on() {
        let begin = Instant::now();
        let mut meter = Meter::new(begin);
        meter.add(1000.0, None, begin);
        assert_eq!(meter.check(10.0, Some(10.0), begin), Ok(()), "nothing was counted without one");
        meter.add(10.0, Some(10.0), begin);
        assert_eq!(meter.check(1.0, Some(10.0), begin), Err(100 * MS));
        assert_eq!(meter.check(1.0, Some(1000.0), begin + MS), Ok(()), "it fills faster");
        assert_eq!(meter.check(1e9, None, begin), Ok(()));
    }

    #[test]
    fn the_use_is_a_rate_that_is_forgotten() {
        let begin = Instant::now();
        let mut meter = Meter::new(begin);
        for step in 0..600 {
            meter.add(10.0, None, begin + 100 * MS * step);
        }
        let end = begin + Duration::from_secs(60);
        assert!((95.0..=105.0).contains(&meter.rate(end)), "{}", meter.rate(end));
        assert!(!meter.is_rested(None, end));
        let later = end + Duration::from_secs(70);
        assert!(meter.rate(later) < 1.0 && meter.is_rested(None, later));
    }
}

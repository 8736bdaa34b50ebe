//! How often: token buckets for handshakes and for each API key's publishes.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tidegate_core::{Code, Refusal};

/// A token bucket that holds one second's worth.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(per_second: usize, now: Instant) -> Self {
        Self { tokens: per_second as f64, filled: now }
    }

    /// Takes one, or says in how many milliseconds there will be one.
    pub fn take(&mut self, per_second: usize, now: Instant) -> Result<(), u64> {
        let rate = per_second as f64;
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(rate);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(((1.0 - self.tokens) / rate * 1000.0).ceil() as u64)
    }
}

/// How often each API key may publish. Keys are known ones, so there are as many entries as keys that
/// have published lately.
#[derive(Debug)]
pub struct PublishRates {
    per_second: AtomicUsize,
    keys: Mutex<HashMap<String, Bucket>>,
}

/// From how many keys on those that have rested are forgotten.
const KEYS_KEPT: usize = 1024;

impl PublishRates {
    /// Each key may publish `per_second` requests a second, and a second's worth at once.
    pub fn new(per_second: usize) -> Self {
        Self { per_second: per_second.into(), keys: Mutex::default() }
    }

    /// Sets another rate, from now on.
    pub fn set_limit(&self, per_second: usize) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Takes a request of `key` into account.
    pub fn take(&self, key: &str) -> Result<(), Refusal> {
        let now = Instant::now();
        let per_second = self.per_second.load(Ordering::Relaxed);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match keys.get_mut(key) {
            Some(bucket) => bucket.take(per_second, now),
            None => {
                if keys.len() >= KEYS_KEPT {
                    // A bucket that nobody has touched for a second is full again.
                    keys.retain(|_, bucket| now.saturating_duration_since(bucket.filled).as_secs() < 1);
                }
                let mut bucket = Bucket::full(per_second, now);
                let taken = bucket.take(per_second, now);
                keys.insert(key.to_owned(), bucket);
                taken
            }
        };
        drop(keys);
        taken.map_err(|retry| {
            let limit = "limits.publishes_per_second";
            let message = format!("this API key publishes more than {per_second} requests a second");
            Refusal::new(Code::RateLimited, message).limited_by(limit).retry_in(retry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_that_publishes_too_often_does_not_hinder_another() {
        let rates = PublishRates::new(2);
        for _ in 0..2 {
            rates.take("a").expect("within the rate");
        }
        let refusal = (0..1000).find_map(|_| rates.take("a").err()).expect("over the rate");
        assert_eq!((refusal.code, refusal.limit), (Code::RateLimited, Some("limits.publishes_per_second")));
        assert!(refusal.retry_in_ms.is_some_and(|millis| (1..=500).contains(&millis)), "{refusal:?}");
        rates.take("b").expect("another key");
    }

    #[test]
    fn a_rate_that_is_set_holds_from_then_on() {
        let rates = PublishRates::new(1_000_000);
        rates.take("a").expect("within the rate");
        rates.set_limit(1);
        let refusal = (0..1000).find_map(|_| rates.take("a").err()).expect("over the new rate");
        assert!(refusal.message.contains("more than 1 requests"), "{refusal:?}");
    }
}

//! How often: token buckets for handshakes, for each API key's publishes, and for the bad credentials
//! of each address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tidegate_protocol::{Code, Refusal};

use super::counted_as;
use crate::{config::config_key, refusals::LimitedBy as _};

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
        self.look(per_second, now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// Whether there is one to take, or in how many milliseconds there will be.
    fn look(&mut self, per_second: usize, now: Instant) -> Result<(), u64> {
        let rate = per_second as f64;
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(rate);
        self.filled = now;
        if self.tokens >= 1.0 { Ok(()) } else { Err(((1.0 - self.tokens) / rate * 1000.0).ceil() as u64) }
    }

    /// Whether nobody has touched it for a second: then it is full again, like one that is new.
    fn has_rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.filled).as_secs() >= 1
    }
}

/// When those who are refused for a rate are to come back: as many at a time as the rate lets in, one
/// behind the other, so that a storm that comes as one does not come back as one.
#[derive(Debug)]
pub(super) struct Line {
    /// How many have been told a time that is not over yet.
    told: f64,
    looked: Instant,
}

/// The latest that anybody is told.
const LINE_MAX_MS: f64 = 60_000.0;

/// Beside its place in the line each gets a little of its own, for clocks and networks differ.
const JITTER_MS: u64 = 250;

impl Line {
    /// Nobody stands in it.
    pub fn new(now: Instant) -> Self {
        Self { told: 0.0, looked: now }
    }

    /// In how many milliseconds the next one is to come.
    pub fn next(&mut self, per_second: usize, now: Instant, random: u64) -> u64 {
        let rate = per_second as f64;
        let since = now.saturating_duration_since(self.looked).as_secs_f64();
        self.told = (self.told - since * rate).max(0.0) + 1.0;
        self.looked = now;
        let place_ms = (self.told / rate * 1000.0).ceil();
        if place_ms > LINE_MAX_MS {
            // Whoever comes now comes back among the others.
            self.told -= 1.0;
            return random % LINE_MAX_MS as u64 + 1;
        }
        place_ms as u64 + random % JITTER_MS
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
                    keys.retain(|_, bucket| !bucket.has_rested(now));
                }
                let mut bucket = Bucket::full(per_second, now);
                let taken = bucket.take(per_second, now);
                keys.insert(key.to_owned(), bucket);
                taken
            }
        };
        drop(keys);
        taken.map_err(|retry| {
            let limit = config_key!(limits.publishes_per_second);
            let message = format!("this API key publishes more than {per_second} requests a second");
            Refusal::new(Code::RateLimited, message).limited_by(limit).retry_in(retry)
        })
    }
}

/// From how many addresses on those that are new share one bucket.
const ADDRESSES_KEPT: usize = 16_384;

/// How often each address may bring bad credentials, where a try costs no handshake. Good ones cost
/// nothing, but wait with the rest: whether they are good is what must not be looked at.
#[derive(Debug)]
pub struct FailedAuths(Mutex<Failing>);

#[derive(Debug)]
struct Failing {
    /// Those that have failed lately.
    addresses: HashMap<IpAddr, Bucket>,
    /// All others, while there is no room for more.
    others: Bucket,
    swept: Instant,
}

impl FailedAuths {
    /// Nobody has failed yet.
    pub fn new(per_second: usize) -> Self {
        let now = Instant::now();
        let (addresses, others) = (HashMap::new(), Bucket::full(per_second, now));
        Self(Mutex::new(Failing { addresses, others, swept: now }))
    }

    /// Whether credentials from `address` may be looked at now.
    pub fn check(&self, address: IpAddr, per_second: usize) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = failing.addresses.len() >= ADDRESSES_KEPT;
        let looked = match failing.addresses.get_mut(&counted_as(address)) {
            Some(bucket) => bucket.look(per_second, now),
            None if is_full => failing.others.look(per_second, now),
            None => return Ok(()),
        };
        drop(failing);
        looked.map_err(|retry| {
            let message =
                format!("this address brings bad credentials more than {per_second} times a second");
            let refusal = Refusal::new(Code::RateLimited, message);
            refusal.limited_by(config_key!(limits.failed_auths_per_second)).retry_in(retry)
        })
    }

    /// Takes into account that credentials from `address` were bad.
    pub fn add(&self, address: IpAddr, per_second: usize) {
        let now = Instant::now();
        let address = counted_as(address);
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = &mut *failing;
        if failing.addresses.len() >= ADDRESSES_KEPT {
            failing.sweep(now);
        }
        let is_full = failing.addresses.len() >= ADDRESSES_KEPT;
        let bucket = match failing.addresses.entry(address) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => &mut failing.others,
            Entry::Vacant(entry) => entry.insert(Bucket::full(per_second, now)),
        };
        // Where several failed at once there is none left to take, and the next one waits.
        let _ = bucket.take(per_second, now);
    }

    /// Forgets those that have rested.
    pub fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sweep(Instant::now());
    }
}

impl Failing {
    /// At most once a second, for it looks at all.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept).as_secs() >= 1 {
            self.swept = now;
            self.addresses.retain(|_, bucket| !bucket.has_rested(now));
            self.addresses.shrink_to(ADDRESSES_KEPT / 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn bad_credentials_of_one_address_do_not_hinder_another() {
        let failed = FailedAuths::new(2);
        (0..1000).for_each(|_| failed.check(v4(1), 2).expect("good ones cost nothing"));
        (0..1000).for_each(|_| failed.add(v4(1), 2));
        let refusal = failed.check(v4(1), 2).expect_err("over the rate");
        assert_eq!(
            (refusal.code, refusal.limit),
            (Code::RateLimited, Some("limits.failed_auths_per_second"))
        );
        assert!(refusal.retry_in_ms.is_some_and(|millis| (1..=500).contains(&millis)), "{refusal:?}");
        failed.check(v4(2), 2).expect("another address");
        // An address of IPv6 is a whole /64.
        let v6 = |network, host| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host));
        (0..1000).for_each(|host| failed.add(v6(1, host), 2));
        failed.check(v6(1, 5000), 2).expect_err("of the same network");
        failed.check(v6(2, 1), 2).expect("another network");
    }

    #[test]
    fn more_addresses_than_are_kept_share_a_rate() {
        let failed = FailedAuths::new(2);
        let many = 3 * ADDRESSES_KEPT as u32;
        (0..many).for_each(|number| failed.add(v4(number), 2));
        failed.check(v4(many), 2).expect_err("there is no room for a new one");
        failed.check(v4(0), 2).expect("who has a bucket of its own");
        let kept = || failed.0.lock().expect("a lock").addresses.len();
        assert_eq!(kept(), ADDRESSES_KEPT);
        let later = Instant::now() + std::time::Duration::from_secs(10);
        failed.0.lock().expect("a lock").sweep(later);
        assert_eq!(kept(), 0);
        failed.check(v4(many), 2).expect("there is room again");
    }

    #[test]
    fn those_who_are_refused_come_back_as_the_rate_lets_them_in() {
        let start = Instant::now();
        let mut line = Line::new(start);
        let told: Vec<u64> = (0..8000).map(|number| line.next(2000, start, number * 7919)).collect();
        let in_second = |second: u64| told.iter().filter(|millis| *millis / 1000 == second).count();
        for second in 0..4 {
            assert!((1600..=2400).contains(&in_second(second)), "{second}: {}", in_second(second));
        }
        // Those who were told have come; the line is as if it were new.
        let later = start + std::time::Duration::from_secs(4);
        assert!(line.next(2000, later, 0) <= 1);
        // Nobody is sent away for longer than a minute, and not all for as long.
        let many: Vec<u64> = (0..10_000).map(|number| line.next(10, later, number * 7919)).collect();
        assert!(many.iter().all(|millis| (1..=60_250).contains(millis)));
        assert!(many[9000..].iter().filter(|millis| **millis < 30_000).count() > 300);
    }

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

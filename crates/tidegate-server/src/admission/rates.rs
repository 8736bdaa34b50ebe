//! Rates: token buckets for handshakes, for the publishes of each API key to each org, and for the bad
//! credentials of each address.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tidegate_protocol::{Code, OrgId, Refusal};

use super::{
    counted_as,
    recent::{ADDRESSES_KEPT, Counts},
};
use crate::{config::config_key, refusals::LimitedBy as _};

/// A token bucket that holds one second of its rate.
#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(per_second: usize, now: Instant) -> Self {
        Self { tokens: per_second as f64, filled: now }
    }

    /// Takes a token, or returns in how many milliseconds there will be one.
    pub fn take(&mut self, per_second: usize, now: Instant) -> Result<(), u64> {
        self.check_token(per_second, now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// Whether there is a token, or in how many milliseconds there will be one.
    pub fn check_token(&mut self, per_second: usize, now: Instant) -> Result<(), u64> {
        let rate = per_second as f64;
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(rate);
        self.filled = now;
        if self.tokens >= 1.0 { Ok(()) } else { Err(((1.0 - self.tokens) / rate * 1000.0).ceil() as u64) }
    }

    /// Takes tokens for something that was done, as many as it took, also if there are fewer. It owes what is
    /// missing, but no more than comes in a second.
    pub fn pay(&mut self, tokens: usize, per_second: usize, now: Instant) {
        // The result is ignored: this only adds what has come since.
        let _ = self.check_token(per_second, now);
        self.tokens = (self.tokens - tokens as f64).max(-(per_second as f64));
    }

    /// Whether it has been untouched for so long that it is full, like a new one: it may have owed a second's
    /// worth.
    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.filled).as_secs() >= 2
    }
}

/// The rate of handshakes, which all addresses share by dynamic thresholds
/// ([`shares`](tidegate_core::shares)): an address may take a token as long as it has not taken more than there
/// are left. What it took counts less as time passes: 37 % of it after a second. If one address takes all that it
/// gets, it has the whole rate. If `k` addresses do, each has a `k`th of it, and about as much of a second's tokens
/// is left for an address that comes.
#[derive(Debug)]
pub(super) struct Handshakes {
    all: TokenBucket,
    taken: Counts,
}

impl Handshakes {
    /// No address has taken anything.
    pub fn new(per_second: usize, now: Instant) -> Self {
        Self { all: TokenBucket::full(per_second, now), taken: Counts::new(now) }
    }

    /// Takes a token for an address. Returns whether there was one for it.
    pub fn take(&mut self, address: IpAddr, per_second: usize, now: Instant) -> bool {
        if self.all.check_token(per_second, now).is_err() {
            return false;
        }
        let taken = self.taken.of(address, now);
        let may = taken.recent(now) <= self.all.tokens;
        if may {
            self.all.tokens -= 1.0;
            taken.add(now);
        }
        may
    }
}

/// Tells clients that are over a rate when to retry: one after the other, as many per second as the rate
/// admits. Otherwise they would all come back at once.
#[derive(Debug)]
pub(super) struct RetryQueue {
    /// How many clients have been given a time that has not come yet.
    given: f64,
    checked: Instant,
}

/// The longest time that is given.
const RETRY_MAX_MS: f64 = 60_000.0;

/// Each time is varied by this much, because clocks and networks differ.
const JITTER_MS: u64 = 250;

impl RetryQueue {
    /// An empty queue.
    pub fn new(now: Instant) -> Self {
        Self { given: 0.0, checked: now }
    }

    /// In how many milliseconds the next client should retry.
    pub fn next(&mut self, per_second: usize, now: Instant, random: u64) -> u64 {
        let rate = per_second as f64;
        let since = now.saturating_duration_since(self.checked).as_secs_f64();
        self.given = (self.given - since * rate).max(0.0) + 1.0;
        self.checked = now;
        let turn_ms = (self.given / rate * 1000.0).ceil();
        if turn_ms > RETRY_MAX_MS {
            // The queue is full: a random time among the others.
            self.given -= 1.0;
            return random % RETRY_MAX_MS as u64 + 1;
        }
        turn_ms as u64 + random % JITTER_MS
    }
}

/// Token buckets by key, at most a number of them: if there are more keys, new ones share one bucket.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    /// Those that were used recently.
    kept: HashMap<K, TokenBucket>,
    kept_max: usize,
    /// One bucket for all other keys, used while there is no room for more.
    others: TokenBucket,
    swept: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Buckets of `kept_max` keys at most.
    pub fn new(kept_max: usize, per_second: usize) -> Self {
        let now = Instant::now();
        Self { kept: HashMap::new(), kept_max, others: TokenBucket::full(per_second, now), swept: now }
    }

    fn is_full(&self) -> bool {
        self.kept.len() >= self.kept_max
    }

    /// The bucket of `key`, which is full if it is new.
    pub fn of(&mut self, key: K, per_second: usize, now: Instant) -> &mut TokenBucket {
        if self.is_full() {
            self.sweep(now);
        }
        let is_full = self.is_full();
        match self.kept.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => &mut self.others,
            Entry::Vacant(entry) => entry.insert(TokenBucket::full(per_second, now)),
        }
    }

    /// Removes idle buckets; at most once a second, because it visits every entry.
    pub fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept).as_secs() >= 1 {
            self.swept = now;
            self.kept.retain(|_, bucket| !bucket.is_idle(now));
            self.kept.shrink_to(self.kept_max / 16);
        }
    }
}

/// If there are more pairs of an API key and an org than this, new ones share one bucket.
const PUBLISHERS_KEPT: usize = 32_768;

/// How often each API key may publish to each org. It counts by both, so that one org's storm through a key for
/// many orgs does not use up what the others have. Only known keys and orgs that they cover get here.
///
/// A request for orgs that its body names counts for those orgs once its body is read. If it is refused before
/// that, it counts for its key alone: otherwise a key could have as many bodies read as it likes.
///
/// It keeps a copy of its rate, which `Node::reconfigure` has to renew. [`FailedAuths`] is given its rate
/// with each call, so there is no copy to renew: do the same with a new rate.
#[derive(Debug)]
pub struct PublishRates {
    per_second: AtomicUsize,
    publishers: Mutex<Buckets<(Arc<str>, OrgId)>>,
    refused: Mutex<Buckets<Arc<str>>>,
}

impl PublishRates {
    /// Each key may send `per_second` publish requests a second to each org, with a burst of one second.
    pub fn new(per_second: usize) -> Self {
        let publishers = Mutex::new(Buckets::new(PUBLISHERS_KEPT, per_second));
        let refused = Mutex::new(Buckets::new(PUBLISHERS_KEPT, per_second));
        Self { per_second: per_second.into(), publishers, refused }
    }

    /// Changes the rate.
    pub fn set_limit(&self, per_second: usize) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Counts a request of the API key `key_id` to `org`.
    pub fn take(&self, key_id: &Arc<str>, org: &OrgId) -> Result<(), Refusal> {
        let now = Instant::now();
        let per_second = self.per_second.load(Ordering::Relaxed);
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = publishers.of((key_id.clone(), org.clone()), per_second, now).take(per_second, now);
        drop(publishers);
        taken.map_err(|retry| {
            let limit = config_key!(limits.publishes_per_second);
            let message =
                format!("this API key publishes more than {per_second} requests a second to this org");
            Refusal::new(Code::RateLimited, message).limited_by(limit).retry_in(retry)
        })
    }

    /// Lets in a request of the API key `key_id` whose orgs are not known yet, unless too many such requests
    /// of this key were refused.
    pub fn candidate(&self, key_id: &Arc<str>) -> Result<Candidate<'_>, Refusal> {
        let now = Instant::now();
        let per_second = self.per_second.load(Ordering::Relaxed);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = refused.of(key_id.clone(), per_second, now).check_token(per_second, now);
        drop(refused);
        match checked {
            Ok(()) => Ok(Candidate { rates: self, key_id: key_id.clone(), is_admitted: false }),
            Err(retry) => {
                let message =
                    format!("more than {per_second} requests a second of this API key were refused");
                let limit = config_key!(limits.publishes_per_second);
                Err(Refusal::new(Code::RateLimited, message).limited_by(limit).retry_in(retry))
            }
        }
    }

    /// Removes idle buckets.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }
}

/// A publish request whose orgs are not known yet. If it is dropped before it is admitted, it was refused, and
/// counts for its API key.
#[derive(Debug)]
pub struct Candidate<'r> {
    rates: &'r PublishRates,
    key_id: Arc<str>,
    is_admitted: bool,
}

impl Candidate<'_> {
    /// From here on the request counts for its orgs.
    pub fn admit(mut self) {
        self.is_admitted = true;
    }
}

impl Drop for Candidate<'_> {
    fn drop(&mut self) {
        if !self.is_admitted {
            let now = Instant::now();
            let per_second = self.rates.per_second.load(Ordering::Relaxed);
            let mut refused = self.rates.refused.lock().unwrap_or_else(PoisonError::into_inner);
            // If there is no token left, other requests took them since this one was let in.
            let _ = refused.of(self.key_id.clone(), per_second, now).take(per_second, now);
        }
    }
}

/// How often each address may send bad credentials in requests that do not count for the rate of handshakes.
/// Good credentials are not counted, but an address over its rate is refused before they are checked.
#[derive(Debug)]
pub struct FailedAuths(Mutex<Buckets<IpAddr>>);

impl FailedAuths {
    /// No address has failed yet.
    pub fn new(per_second: usize) -> Self {
        Self(Mutex::new(Buckets::new(ADDRESSES_KEPT, per_second)))
    }

    /// Checks that credentials from `address` may be verified now.
    pub fn check(&self, address: IpAddr, per_second: usize) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = failing.is_full();
        let checked = match failing.kept.get_mut(&counted_as(address)) {
            Some(bucket) => bucket.check_token(per_second, now),
            None if is_full => failing.others.check_token(per_second, now),
            None => return Ok(()),
        };
        drop(failing);
        checked.map_err(|retry| {
            let message =
                format!("this address brings bad credentials more than {per_second} times a second");
            let refusal = Refusal::new(Code::RateLimited, message);
            refusal.limited_by(config_key!(limits.failed_auths_per_second)).retry_in(retry)
        })
    }

    /// Counts bad credentials from `address`.
    pub fn add(&self, address: IpAddr, per_second: usize) {
        let now = Instant::now();
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If several failed at once the bucket may be empty already; the next check then refuses.
        let _ = failing.of(counted_as(address), per_second, now).take(per_second, now);
    }

    /// Removes idle buckets.
    pub fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sweep(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

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
        // An IPv6 address counts as its /64.
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
        let kept = || failed.0.lock().expect("a lock").kept.len();
        assert_eq!(kept(), ADDRESSES_KEPT);
        let later = Instant::now() + Duration::from_secs(10);
        failed.0.lock().expect("a lock").sweep(later);
        assert_eq!(kept(), 0);
        failed.check(v4(many), 2).expect("there is room again");
    }

    #[test]
    fn p5_addresses_that_come_as_fast_as_they_can_leave_handshakes_to_others() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        for greedy in [1, 2, 10] {
            let mut handshakes = Handshakes::new(1000, start);
            for millis in 0..5000 {
                for number in (0..greedy).cycle().take(40) {
                    handshakes.take(v4(number), 1000, at(millis));
                }
                if millis % 20 == 0 {
                    let newcomer = v4(1000 + millis as u32);
                    assert!(
                        handshakes.take(newcomer, 1000, at(millis)),
                        "beside {greedy}, after {millis} ms"
                    );
                }
            }
        }
    }

    #[test]
    fn an_address_that_is_alone_gets_the_whole_rate_of_handshakes() {
        let start = Instant::now();
        let mut handshakes = Handshakes::new(1000, start);
        let mut taken = [0; 10];
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            let got = (0..40).filter(|_| handshakes.take(v4(1), 1000, now)).count();
            taken[millis as usize / 1000] += got;
        }
        assert!(taken[0] >= 500, "{taken:?}");
        assert!(taken[9] >= 950, "{taken:?}");
    }

    #[test]
    fn more_addresses_than_are_kept_share_one_count_of_handshakes() {
        let start = Instant::now();
        let rate = 4 * ADDRESSES_KEPT;
        let mut handshakes = Handshakes::new(rate, start);
        let taken = (0..rate as u32).filter(|number| handshakes.take(v4(*number), rate, start)).count();
        assert_eq!(handshakes.taken.kept.len(), ADDRESSES_KEPT);
        assert!(taken > ADDRESSES_KEPT && taken < rate, "{taken}");
        let later = start + Duration::from_secs(60);
        assert!(handshakes.take(v4(u32::MAX), rate, later));
        assert_eq!(handshakes.taken.kept.len(), 1, "idle ones make room");
    }

    #[test]
    fn those_who_are_refused_come_back_as_the_rate_lets_them_in() {
        let start = Instant::now();
        let mut queue = RetryQueue::new(start);
        let given: Vec<u64> = (0..8000).map(|number| queue.next(2000, start, number * 7919)).collect();
        let in_second = |second: u64| given.iter().filter(|millis| *millis / 1000 == second).count();
        for second in 0..4 {
            assert!((1600..=2400).contains(&in_second(second)), "{second}: {}", in_second(second));
        }
        // All those times have come, and the queue is empty again.
        let later = start + Duration::from_secs(4);
        assert!(queue.next(2000, later, 0) <= 1);
        // Nobody waits longer than a minute, and the waits differ.
        let many: Vec<u64> = (0..10_000).map(|number| queue.next(10, later, number * 7919)).collect();
        assert!(many.iter().all(|millis| (1..=60_250).contains(millis)));
        assert!(many[9000..].iter().filter(|millis| **millis < 30_000).count() > 300);
    }

    fn publisher(key: &str, org: &str) -> (Arc<str>, OrgId) {
        (key.into(), OrgId::parse(org).expect("a name"))
    }

    #[test]
    fn one_key_that_publishes_too_often_does_not_hinder_another() {
        let rates = PublishRates::new(2);
        let take = |key, org| {
            let (key, org) = publisher(key, org);
            rates.take(&key, &org)
        };
        for _ in 0..2 {
            take("a", "storm").expect("within the rate");
        }
        let refusal = (0..1000).find_map(|_| take("a", "storm").err()).expect("over the rate");
        assert_eq!((refusal.code, refusal.limit), (Code::RateLimited, Some("limits.publishes_per_second")));
        assert!(refusal.retry_in_ms.is_some_and(|millis| (1..=500).contains(&millis)), "{refusal:?}");
        take("b", "storm").expect("another key");
        take("a", "other").expect("another org of the same key");
    }

    #[test]
    fn more_keys_than_are_kept_share_a_bucket_until_there_is_room() {
        let mut buckets = Buckets::new(4, 2);
        let now = Instant::now();
        let mut take = |key: u32, now| buckets.of(key, 2, now).take(2, now).is_ok();
        assert!((0..4).all(|key| take(key, now)));
        let shared: Vec<bool> = (4..8).map(|key| take(key, now)).collect();
        assert_eq!(shared, [true, true, false, false]);
        assert!(take(0, now), "who has a bucket keeps it");
        let later = now + Duration::from_secs(10);
        assert!((4..8).all(|key| take(key, later)), "idle ones make room");
        assert_eq!(buckets.kept.len(), 4);
    }

    #[test]
    fn a_rate_that_is_set_holds_from_then_on() {
        let rates = PublishRates::new(1_000_000);
        let (key, org) = publisher("a", "acme");
        rates.take(&key, &org).expect("within the rate");
        rates.set_limit(1);
        let refusal = (0..1000).find_map(|_| rates.take(&key, &org).err()).expect("over the new rate");
        assert!(refusal.message.contains("more than 1 requests"), "{refusal:?}");
    }
}

//! How much of the log is looked through for each user of an org: a token bucket in bytes
//! (`limits.scan_bytes_per_second`).
//!
//! How many bytes a search meets is not known before. So it begins if its user owes nothing, and pays for what it
//! has looked through, page by page.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tidegate_protocol::{Code, OrgId, Refusal, UserId};

use super::rates::Buckets;
use crate::{config::config_key, refusals::LimitedBy as _};

/// If there are more users than this, new ones share one bucket.
const USERS_KEPT: usize = 32_768;

/// The buckets of all users. The rate is given with each call, because an operator may change it.
#[derive(Debug)]
pub struct Scans(Mutex<Buckets<(OrgId, UserId)>>);

impl Scans {
    /// Nothing was looked through yet.
    pub fn new(per_second: usize) -> Self {
        Self(Mutex::new(Buckets::new(USERS_KEPT, per_second)))
    }

    /// Checks that a search for this user may begin, or go on.
    pub fn check(&self, org: &OrgId, user: &UserId, per_second: usize) -> Result<(), Refusal> {
        self.missing(org, user, per_second).map_err(|wait| {
            let key = config_key!(limits.scan_bytes_per_second);
            let message = format!("more of the log is looked through for this user than {key} allows");
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            Refusal::new(Code::RateLimited, message).limited_by(key).retry_in(millis.max(1))
        })
    }

    /// `Err` says in what time a search for this user may go on.
    pub fn missing(&self, org: &OrgId, user: &UserId, per_second: usize) -> Result<(), Duration> {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.of((org.clone(), user.clone()), per_second, now);
        bucket.check_token(per_second, now).map_err(Duration::from_millis)
    }

    /// Pays for `bytes` that were looked through.
    pub fn pay(&self, org: &OrgId, user: &UserId, bytes: usize, per_second: usize) {
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.of((org.clone(), user.clone()), per_second, now).pay(bytes, per_second, now);
    }

    /// Removes idle buckets.
    pub fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sweep(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_who_has_had_much_looked_through_waits_and_others_do_not() {
        const RATE: usize = 1000;
        let scans = Scans::new(RATE);
        let [acme, other] = ["acme", "other"].map(|name| OrgId::parse(name).expect("a name"));
        let [ann, bob] = ["ann", "bob"].map(|name| UserId::parse(name).expect("a name"));
        scans.check(&acme, &ann, RATE).expect("nothing is owed");
        scans.pay(&acme, &ann, 1_000_000, RATE);
        let refusal = scans.check(&acme, &ann, RATE).expect_err("too much");
        assert_eq!((refusal.code, refusal.limit), (Code::RateLimited, Some("limits.scan_bytes_per_second")));
        // A second's worth is owed at most.
        assert!(refusal.retry_in_ms.is_some_and(|millis| (1..=1001).contains(&millis)), "{refusal:?}");
        scans.check(&acme, &bob, RATE).expect("another user");
        scans.check(&other, &ann, RATE).expect("another org's user");
    }
}

//! Who gets a connection: counters per node, org, user and address, and a rate of handshakes. And how
//! often each API key may publish.
//!
//! A connection that is let in holds a [`Slot`]; dropping it gives the places back, whatever way the
//! connection ended. Counters that reach zero are forgotten.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tidegate_core::{Code, OrgId, Refusal, UserId};

/// The bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// Of one org.
    pub per_org: usize,
    /// Of one user of an org.
    pub per_user: usize,
    /// From one address.
    pub per_address: usize,
    /// New ones per second.
    pub handshakes_per_second: usize,
}

/// The counters of a node.
#[derive(Debug)]
pub struct Admission {
    limits: ArcSwap<ConnectionLimits>,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    sockets: usize,
    addresses: HashMap<IpAddr, usize>,
    orgs: HashMap<OrgId, usize>,
    users: HashMap<(OrgId, UserId), usize>,
    handshakes: Bucket,
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, per_second: usize, now: Instant) -> Result<(), u64> {
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

/// How long a client is asked to stay away where a count is full: it falls when somebody leaves,
/// which nobody can foretell.
const FULL_RETRY_MS: u64 = 5_000;

impl Admission {
    /// No connections yet.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        let handshakes = Bucket { tokens: limits.handshakes_per_second as f64, filled: Instant::now() };
        let counts = Counts {
            sockets: 0,
            addresses: HashMap::new(),
            orgs: HashMap::new(),
            users: HashMap::new(),
            handshakes,
        };
        Arc::new(Self { limits: ArcSwap::from_pointee(limits), counts: Mutex::new(counts) })
    }

    /// Bounds what comes from here on; who is in stays.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.limits.store(Arc::new(limits));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a stream knock: counts it in all and by its address, before anybody knows who it is.
    pub fn knock(self: &Arc<Self>, address: IpAddr) -> Result<Slot, Refusal> {
        let limits = self.limits.load();
        let mut counts = self.lock();
        if let Err(retry) = counts.handshakes.take(limits.handshakes_per_second, Instant::now()) {
            let message = "the gateway takes no more new connections this second";
            return Err(
                Self::over("limits.handshakes_per_second", Code::RateLimited, message).retry_in(retry)
            );
        }
        if counts.sockets >= limits.total {
            let message = "the gateway has as many connections as it may";
            return Err(Self::over("limits.connections", Code::Overloaded, message));
        }
        if !raise(&mut counts.addresses, address, limits.per_address) {
            let message = "this address has as many connections as it may";
            return Err(Self::over("limits.connections_per_address", Code::TooManyConnections, message));
        }
        counts.sockets += 1;
        Ok(Slot { admission: self.clone(), address, member: None })
    }

    fn over(limit: &'static str, code: Code, message: &str) -> Refusal {
        Refusal::new(code, message).limited_by(limit).retry_in(FULL_RETRY_MS)
    }

    /// Whether every counter is at zero.
    pub fn is_idle(&self) -> bool {
        let counts = self.lock();
        counts.sockets == 0
            && counts.addresses.is_empty()
            && counts.orgs.is_empty()
            && counts.users.is_empty()
    }
}

fn raise<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    let count = counts.entry(key).or_default();
    if *count >= max {
        return false;
    }
    *count += 1;
    true
}

fn lower<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The place of one connection in the counters.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    address: IpAddr,
    member: Option<(OrgId, UserId)>,
}

impl Slot {
    /// Counts the connection by who it turned out to be.
    pub fn enter(&mut self, org: &OrgId, user: &UserId) -> Result<(), Refusal> {
        let (admission, limits) = (&self.admission, self.admission.limits.load());
        let mut counts = admission.lock();
        if !raise(&mut counts.orgs, org.clone(), limits.per_org) {
            let message = "this org has as many connections as it may";
            return Err(Admission::over("limits.connections_per_org", Code::TooManyConnections, message));
        }
        if !raise(&mut counts.users, (org.clone(), user.clone()), limits.per_user) {
            lower(&mut counts.orgs, org);
            let message =
                format!("this user has {} connections, which is as many as allowed", limits.per_user);
            return Err(Admission::over("limits.connections_per_user", Code::TooManyConnections, &message));
        }
        drop(counts);
        self.member = Some((org.clone(), user.clone()));
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.sockets -= 1;
        lower(&mut counts.addresses, &self.address);
        if let Some(member) = &self.member {
            lower(&mut counts.orgs, &member.0);
            lower(&mut counts.users, member);
        }
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
        Self { per_second: AtomicUsize::new(per_second), keys: Mutex::default() }
    }

    /// Bounds what comes from here on.
    pub fn set_rate(&self, per_second: usize) {
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
                let mut bucket = Bucket { tokens: per_second as f64, filled: now };
                let taken = bucket.take(per_second, now);
                keys.insert(key.to_owned(), bucket);
                taken
            }
        };
        drop(keys);
        taken.map_err(|retry| {
            let limit = "limits.publishes_per_second";
            let message = format!("this API key publishes more than {} requests a second", per_second);
            Refusal::new(Code::RateLimited, message).limited_by(limit).retry_in(retry)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn admission(limits: ConnectionLimits) -> Arc<Admission> {
        Admission::new(limits)
    }

    const WIDE: ConnectionLimits = ConnectionLimits {
        total: 1 << 20,
        per_org: 1 << 20,
        per_user: 1 << 20,
        per_address: 1 << 20,
        handshakes_per_second: 1 << 30,
    };

    fn who(user: &str) -> (OrgId, UserId) {
        (OrgId::parse("acme").expect("a name"), UserId::parse(user).expect("a user"))
    }

    #[test]
    fn each_bound_refuses_by_its_name_and_gives_places_back() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for (limits, name) in [
            (ConnectionLimits { total: 2, ..WIDE }, "limits.connections"),
            (ConnectionLimits { per_address: 2, ..WIDE }, "limits.connections_per_address"),
            (ConnectionLimits { per_org: 2, ..WIDE }, "limits.connections_per_org"),
            (ConnectionLimits { per_user: 2, ..WIDE }, "limits.connections_per_user"),
            (ConnectionLimits { handshakes_per_second: 2, ..WIDE }, "limits.handshakes_per_second"),
        ] {
            let admission = admission(limits);
            let (org, user) = who("u");
            let enter = || {
                let mut slot = admission.knock(here)?;
                slot.enter(&org, &user).map(|()| slot)
            };
            let slots = (enter().expect("first"), enter().expect("second"));
            let refusal = enter().expect_err(name);
            assert_eq!(refusal.limit, Some(name));
            assert!(refusal.retry_in_ms.is_some_and(|millis| millis > 0), "{refusal:?}");
            drop(slots);
            assert!(admission.is_idle(), "{name}");
            if name != "limits.handshakes_per_second" {
                assert!(enter().is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn a_hundred_thousand_aborted_connections_leave_nothing_behind() {
        let admission = admission(ConnectionLimits { per_user: 3, ..WIDE });
        for round in 0..100_000_u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(round % 1000));
            let mut slot = admission.knock(address).expect("room");
            if round % 3 != 0 {
                let (org, user) = who(&format!("u{}", round % 7));
                slot.enter(&org, &user).expect("room");
            }
        }
        assert!(admission.is_idle());
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
}

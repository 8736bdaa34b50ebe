//! How often addresses did something of late, and which of them flood.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::counted_as;

/// If there are more addresses than this, new ones share what is kept of each.
pub(super) const ADDRESSES_KEPT: usize = 16_384;

/// How often addresses did something of late.
#[derive(Debug)]
pub struct Counts {
    pub(super) kept: HashMap<IpAddr, Count>,
    /// Of all addresses for which there is no room in `kept`.
    others: Count,
    swept: Instant,
}

/// How often something was done; each time counts less as time passes.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    count: f64,
    at: Instant,
}

/// When a count has shrunk to this, it is forgotten.
const COUNT_MIN: f64 = 0.01;

impl Counts {
    /// None.
    pub fn new(now: Instant) -> Self {
        Self { kept: HashMap::new(), others: Count::none(now), swept: now }
    }

    /// The count of an address, and a place for it.
    pub fn of(&mut self, address: IpAddr, now: Instant) -> &mut Count {
        if self.kept.len() >= ADDRESSES_KEPT {
            self.sweep(now);
        }
        let is_full = self.kept.len() >= ADDRESSES_KEPT;
        match self.kept.entry(counted_as(address)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => &mut self.others,
            Entry::Vacant(entry) => entry.insert(Count::none(now)),
        }
    }

    /// The count of an address, without a place for it.
    fn get(&self, address: IpAddr) -> Option<&Count> {
        let is_full = self.kept.len() >= ADDRESSES_KEPT;
        self.kept.get(&counted_as(address)).or(is_full.then_some(&self.others))
    }

    /// Forgets old counts; at most once a second, because it visits every entry.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept).as_secs() >= 1 {
            self.swept = now;
            self.kept.retain(|_, count| count.recent(now) >= COUNT_MIN);
            self.kept.shrink_to(ADDRESSES_KEPT / 16);
        }
    }
}

impl Count {
    fn none(now: Instant) -> Self {
        Self { count: 0.0, at: now }
    }

    /// How often of late.
    pub fn recent(&self, now: Instant) -> f64 {
        self.count * (-now.saturating_duration_since(self.at).as_secs_f64()).exp()
    }

    /// It was done once more.
    pub fn add(&mut self, now: Instant) {
        *self = Self { count: self.recent(now) + 1.0, at: now };
    }
}

/// How often connections over HTTP/2 of each address were ended because they flooded.
///
/// What one of them costs until it ends is bounded, but an address may come back at once. So its next connections
/// wait before they are served, longer the more of them have flooded in the last second or so. They are not
/// refused: others may have the same address.
#[derive(Debug)]
pub struct Floods(Mutex<Counts>);

/// How long a connection waits for each of the floods before it: four clients that come back at once then flood 14
/// times a second.
const WAIT_PER_FLOOD: Duration = Duration::from_millis(20);

/// The longest wait: less than the timeouts of most clients.
const WAIT_MAX: Duration = Duration::from_secs(2);

impl Default for Floods {
    fn default() -> Self {
        Self(Mutex::new(Counts::new(Instant::now())))
    }
}

impl Floods {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection from `address` was ended because it flooded.
    pub fn add(&self, address: IpAddr, now: Instant) {
        self.lock().of(address, now).add(now);
    }

    /// How long a new connection from `address` waits; `None` if not at all.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let floods = self.lock().get(address)?.recent(now);
        Some(WAIT_PER_FLOOD.mul_f64(floods).min(WAIT_MAX)).filter(|wait| *wait >= Duration::from_millis(1))
    }

    /// Forgets old floods.
    pub fn sweep(&self) {
        self.lock().sweep(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    #[test]
    fn p5_an_address_whose_connections_flood_waits_for_a_while_and_no_other_does() {
        let (floods, start) = (Floods::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        floods.add(v4(1), start);
        assert_eq!(floods.wait(v4(1), start), Some(WAIT_PER_FLOOD));
        assert_eq!(floods.wait(v4(1), at(5000)), None, "it is over");
        // A thousand clients that come back as fast as they may, each of which takes a tenth of a millisecond.
        let at = |micros: u64| start + Duration::from_micros(micros);
        let (mut now, mut count) = (0, 0);
        while now < 20_000_000 {
            now += floods.wait(v4(1), at(now)).map_or(0, |wait| wait.as_micros() as u64 / 1000) + 100;
            floods.add(v4(1), at(now));
            count += 1;
        }
        assert!(count < 12_000, "{count}");
        assert_eq!(floods.wait(v4(1), at(now)), Some(WAIT_MAX));
        assert_eq!(floods.wait(v4(2), at(now)), None, "another address");
        assert_eq!(floods.wait(v4(1), at(now + 15_000_000)), None);
        floods.lock().sweep(at(now + 60_000_000));
        assert!(floods.lock().kept.is_empty());
    }
}

//! How many readers that come back may wait for their replay, over all orgs and workers.
//!
//! A reader waits from its knock until a turn has brought it level or filled its socket: then it waits for
//! its own client, and costs the gateway nothing. So what is bounded is what the gateway owes, not how
//! many clients are slow.

use prometheus_client::metrics::gauge::Gauge;
use tidegate_protocol::{Code, OrgId, Refusal};

use super::shares::{OrgShare, OrgShares};
use crate::{config::config_key, refusals::LimitedBy as _};

/// The soonest that one is told to come back, and over how long those that are refused are spread: a
/// storm that comes back as one is refused as one.
const RETRY_MS: u64 = 1000;
const SPREAD_MS: u64 = 4000;

/// Those that wait.
#[derive(Debug, Default)]
pub struct Replays {
    waiting: Gauge,
    shares: OrgShares,
}

impl Replays {
    /// Nobody waits; `waiting` shows how many do.
    pub fn new(waiting: Gauge) -> Self {
        Self { waiting, shares: OrgShares::default() }
    }

    /// Takes a place for a reader of `org`, if fewer than `max` are taken, and half of them by the org.
    /// `random` bits say when one that is refused is to come back.
    pub fn enter(&self, org: &OrgId, max: usize, random: u64) -> Result<ReplayPlace, Refusal> {
        let before = self.waiting.inc();
        let is_free = usize::try_from(before).is_ok_and(|before| before < max);
        let share = if is_free { self.shares.take(org, max) } else { None };
        let is_of_org = is_free && share.is_none();
        let place = ReplayPlace(Box::new(Place { waiting: self.waiting.clone(), share }));
        if place.0.share.is_some() {
            return Ok(place);
        }
        let message = match is_of_org {
            true => "as many readers of this org wait for what they missed as may",
            false => "as many readers wait for what they missed as may",
        };
        let refusal = Refusal::new(Code::Overloaded, message).limited_by(config_key!(limits.replays_waiting));
        Err(refusal.retry_in(RETRY_MS + random % SPREAD_MS))
    }
}

/// The place of a reader among those that wait for their replay; given back when dropped.
#[derive(Debug)]
pub struct ReplayPlace(Box<Place>);

/// On the heap, for most readers wait for nothing.
#[derive(Debug)]
struct Place {
    waiting: Gauge,
    share: Option<OrgShare>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn places_are_bounded_given_back_and_those_refused_are_spread() {
        let replays = Replays::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| OrgId::parse(name).expect("a name"));
        let (first, second) = (replays.enter(&a, 2, 0), replays.enter(&b, 2, 0));
        assert!(first.is_ok() && second.is_ok());
        let retries: BTreeSet<u64> = (0..1000)
            .map(|random| {
                let refusal = replays.enter(&c, 2, random * 7919).expect_err("no place");
                assert_eq!((refusal.code, refusal.limit), (Code::Overloaded, Some("limits.replays_waiting")));
                refusal.retry_in_ms.expect("when to come back")
            })
            .collect();
        assert!(retries.len() > 500 && retries.first() < Some(&1100) && retries.last() > Some(&4800));
        drop(first);
        let refusal = replays.enter(&b, 2, 0).expect_err("its half is taken");
        assert!(refusal.to_string().contains("of this org"), "{refusal}");
        assert!(replays.enter(&a, 2, 0).is_ok(), "the place is given back, and those refused hold none");
        drop(second);
        assert_eq!(replays.waiting.get(), 0);
    }
}

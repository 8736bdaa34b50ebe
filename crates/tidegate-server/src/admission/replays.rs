//! How many returning readers may wait for their replay, over all orgs and workers.
//!
//! A reader waits from its admission until the gateway has served it up to the head or until its socket is
//! full. After that it waits for its own client, and costs the gateway nothing. So this bounds the work that
//! the gateway owes, not the number of slow clients.

use prometheus_client::metrics::gauge::Gauge;
use tidegate_core::shares::{Pool, Refused, Share};
use tidegate_protocol::{Code, OrgId, Refusal};

use crate::{config::config_key, refusals::LimitedBy as _};

/// The shortest retry delay, and the range over which refused readers are spread. Without the range, a storm
/// that comes back all at once would be refused all at once again.
const RETRY_MS: u64 = 1000;
const SPREAD_MS: u64 = 4000;

/// The readers that wait.
#[derive(Debug, Default)]
pub struct Replays {
    waiting: Gauge,
    pool: Pool<OrgId>,
}

impl Replays {
    /// An empty count; the gauge `waiting` shows it.
    pub fn new(waiting: Gauge) -> Self {
        Self { waiting, pool: Pool::default() }
    }

    /// Takes a slot of `max` for a reader of `org`, in the share of the org. `random` bits vary the retry time
    /// of a refused reader.
    pub fn enter(&self, org: &OrgId, max: usize, random: u64) -> Result<ReplaySlot, Refusal> {
        let message = match self.pool.take(org, 1, max) {
            Ok(share) => {
                self.waiting.inc();
                let held = Held { waiting: self.waiting.clone(), _share: share };
                return Ok(ReplaySlot { _held: Box::new(held) });
            }
            Err(Refused::Share) => "too many readers of this org are waiting for their replay",
            Err(Refused::Pool) => "too many readers are waiting for their replay",
        };
        let refusal = Refusal::new(Code::Overloaded, message).limited_by(config_key!(limits.replays_waiting));
        Err(refusal.retry_in(RETRY_MS + random % SPREAD_MS))
    }
}

/// The slot of a reader that waits for its replay; dropping it releases it.
#[derive(Debug)]
pub struct ReplaySlot {
    _held: Box<Held>,
}

/// On the heap, because most readers wait for nothing.
#[derive(Debug)]
struct Held {
    waiting: Gauge,
    _share: Share<OrgId>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn slots_are_bounded_and_released_and_the_refused_are_spread() {
        let replays = Replays::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| OrgId::parse(name).expect("a name"));
        let (first, second) = (replays.enter(&a, 2, 0), replays.enter(&b, 2, 0));
        assert!(first.is_ok() && second.is_ok());
        let retries: BTreeSet<u64> = (0..1000)
            .map(|random| {
                let refusal = replays.enter(&c, 2, random * 7919).expect_err("no slot");
                assert_eq!((refusal.code, refusal.limit), (Code::Overloaded, Some("limits.replays_waiting")));
                refusal.retry_in_ms.expect("when to come back")
            })
            .collect();
        assert!(retries.len() > 500 && retries.first() < Some(&1100) && retries.last() > Some(&4800));
        drop(first);
        let refusal = replays.enter(&b, 2, 0).expect_err("its half is taken");
        assert!(refusal.to_string().contains("of this org"), "{refusal}");
        assert!(replays.enter(&a, 2, 0).is_ok(), "the slot is given back, and those refused hold none");
        drop(second);
        assert_eq!(replays.waiting.get(), 0);
    }
}

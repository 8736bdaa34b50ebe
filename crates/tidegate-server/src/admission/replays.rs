//! How many readers that come back may wait for their replay, over all orgs and workers.
//!
//! A reader waits from its knock until a turn has brought it level or filled its socket: then it waits for
//! its own client, and costs the gateway nothing. So what is bounded is what the gateway owes, not how
//! many clients are slow.

use prometheus_client::metrics::gauge::Gauge;
use tidegate_core::{Code, Refusal};

/// The soonest that one is told to come back, and over how long those that are refused are spread: a
/// storm that comes back as one is refused as one.
const RETRY_MS: u64 = 1000;
const SPREAD_MS: u64 = 4000;

/// Those that wait.
#[derive(Debug, Default)]
pub struct Replays {
    waiting: Gauge,
}

impl Replays {
    /// Nobody waits; `waiting` shows how many do.
    pub fn new(waiting: Gauge) -> Self {
        Self { waiting }
    }

    /// Takes a place, if fewer than `max` are taken. `random` bits say when one that is refused is to come
    /// back.
    pub fn enter(&self, max: usize, random: u64) -> Result<ReplayPlace, Refusal> {
        let before = self.waiting.inc();
        let place = ReplayPlace(self.waiting.clone());
        if usize::try_from(before).is_ok_and(|before| before < max) {
            return Ok(place);
        }
        let message = "as many readers wait for what they missed as may";
        let refusal = Refusal::new(Code::Overloaded, message).limited_by("limits.replays_waiting");
        Err(refusal.retry_in(RETRY_MS + random % SPREAD_MS))
    }
}

/// The place of a reader among those that wait for their replay; given back when dropped.
#[derive(Debug)]
pub struct ReplayPlace(Gauge);

impl Drop for ReplayPlace {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn places_are_bounded_given_back_and_those_refused_are_spread() {
        let replays = Replays::default();
        let (first, second) = (replays.enter(2, 0), replays.enter(2, 0));
        assert!(first.is_ok() && second.is_ok());
        let retries: BTreeSet<u64> = (0..1000)
            .map(|random| {
                let refusal = replays.enter(2, random * 7919).expect_err("no place");
                assert_eq!((refusal.code, refusal.limit), (Code::Overloaded, Some("limits.replays_waiting")));
                refusal.retry_in_ms.expect("when to come back")
            })
            .collect();
        assert!(retries.len() > 500 && retries.first() < Some(&1100) && retries.last() > Some(&4800));
        drop(first);
        assert!(replays.enter(2, 0).is_ok(), "the place is given back, and those refused hold none");
        drop(second);
        assert_eq!(replays.waiting.get(), 0);
    }
}

//! The epochs of a log in the local engines (R10, R11). These engines begin a new epoch at each start of
//! the process, for each log that is touched: with a parent, the seq at which the parent ended, and
//! whether acknowledged events may have been lost at the boundary between the two.
//!
//! A start of the process is one numbered record. A log gets its epoch of the new start by its first
//! append or open, in the same atomic write. Until then its chain is as an earlier start left it, and
//! the numbers of the two starts tell whether any boundary between them was lossy.

use tidegate_core::{Ancestor, LogState};
use tidegate_protocol::{Epoch, Seq, UnixMillis};

/// The most ancestors that a chain remembers of those that ended longer ago than [`ANCESTORS_FOR_MILLIS`].
/// A client that was away for more restarts than this gets a gap.
pub const ANCESTORS_MAX: usize = 64;
/// All ancestors that ended within this time are remembered, so that a client finds the epoch of its cursor
/// however often the node has crashed since. It is 12 times the longest delay of a client (300 s).
pub const ANCESTORS_FOR_MILLIS: u64 = 3_600_000;
/// The most ancestors in all. It is more than one start a second for that time, on average, and a start
/// takes longer.
const ANCESTORS_BOUND: usize = 4_096;

/// A start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Its number, from 1.
    pub number: u64,
    /// The last start that began with a lossy boundary; 0 for none.
    pub last_lossy: u64,
    /// Whether it has ended by `close`.
    pub clean: bool,
    /// Whether its commits were synced before they were acknowledged.
    pub sync_always: bool,
}

/// An ancestor, and when its time ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The ancestor.
    pub ancestor: Ancestor,
    /// When the next epoch began, by the commit clock. Until then a client may have got this one's name.
    pub at: UnixMillis,
}

/// The epochs of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The present epoch.
    pub epoch: Epoch,
    /// The number of the start that this epoch began in.
    pub start: u64,
    /// The epochs before it, oldest first.
    pub ancestors: Vec<Ended>,
    /// Whether older ones were dropped from the list.
    pub trimmed: bool,
}

impl Chain {
    /// A log that begins empty.
    pub fn fresh(epoch: Epoch, start: &Start) -> Self {
        Self { epoch, start: start.number, ancestors: Vec::new(), trimmed: false }
    }

    /// The chain of a log that ended at `head` when `start` found it, with a new epoch that begins at `at`.
    pub fn next_incarnation(mut self, epoch: Epoch, start: &Start, head: Seq, at: UnixMillis) -> Self {
        let lossy = start.last_lossy > self.start;
        let ancestor = Ancestor { epoch: self.epoch, end: head, lossy };
        self.ancestors.push(Ended { ancestor, at });
        // In the order in which they ended, because the commit clock never falls.
        let old = self.ancestors.partition_point(|ended| ended.at.saturating_add(ANCESTORS_FOR_MILLIS) <= at);
        let mut surplus = old.saturating_sub(ANCESTORS_MAX);
        if self.ancestors.len() - surplus > ANCESTORS_BOUND {
            surplus = self.ancestors.len() - ANCESTORS_BOUND;
            tracing::warn!(
                kept = ANCESTORS_BOUND,
                "a log has had more epochs within an hour than are kept; clients that come back to older ones \
                 get a gap"
            );
        }
        self.ancestors.drain(..surplus);
        Self { epoch, start: start.number, trimmed: self.trimmed || surplus > 0, ..self }
    }

    /// The state that readers get.
    pub fn state(&self, head: Seq, floor: Seq) -> LogState {
        LogState {
            epoch: self.epoch.clone(),
            // A log with ancestors may hold events that were seen under an epoch that is in no list: a
            // directory restored from a snapshot has lost the epochs that came after it.
            born_empty: self.ancestors.is_empty() && !self.trimmed,
            ancestors: self.ancestors.iter().map(|ended| ended.ancestor.clone()).collect(),
            head,
            floor,
        }
    }
}

/// Draws epochs: a keyed hash over a counter, with a key from the system's randomness, so that drawing
/// one cannot fail while a publisher waits for it.
pub struct Epochs {
    key: [u8; 32],
    drawn: u64,
}

impl Epochs {
    /// Takes a key from the system.
    pub fn from_system() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key, drawn: 0 })
    }

    /// The next epoch.
    pub fn draw(&mut self) -> Epoch {
        self.drawn += 1;
        let hash = blake3::keyed_hash(&self.key, &self.drawn.to_le_bytes());
        let mut bits = [0; 8];
        bits.copy_from_slice(&hash.as_bytes()[..8]);
        Epoch::from_random(u64::from_le_bytes(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: u64, last_lossy: u64) -> Start {
        Start { number, last_lossy, clean: false, sync_always: true }
    }

    #[test]
    fn r11_a_boundary_is_lossy_if_any_start_between_was() {
        let mut epochs = Epochs::from_system().expect("randomness");
        let first = Chain::fresh(epochs.draw(), &start(3, 3));
        assert!(first.state(0, 0).born_empty, "a lossy start before the log was created does not matter");
        let quiet = first.clone().next_incarnation(epochs.draw(), &start(9, 3), 7, 0);
        let state = quiet.state(7, 0);
        assert_eq!(state.ancestors, [Ancestor { epoch: first.epoch.clone(), end: 7, lossy: false }]);
        assert!(!state.born_empty);
        // It was not touched in starts 10 and 11; 11 was lossy.
        let later = quiet.clone().next_incarnation(epochs.draw(), &start(12, 11), 9, 0).state(9, 0);
        assert!(later.ancestors[1].lossy);
        assert!(!later.ancestors[0].lossy);
    }

    #[test]
    fn r11_chains_are_bounded_and_say_that_they_were_cut() {
        let mut epochs = Epochs::from_system().expect("randomness");
        let mut chain = Chain::fresh(epochs.draw(), &start(1, 0));
        let last = u64::try_from(ANCESTORS_MAX).expect("small") + 2;
        for number in 2..=last {
            chain = chain.next_incarnation(epochs.draw(), &start(number, 0), number, number);
        }
        assert_eq!(chain.ancestors.len(), ANCESTORS_MAX + 1, "all of the last hour");
        assert!(!chain.trimmed);
        let later = |number| number + ANCESTORS_FOR_MILLIS;
        chain = chain.next_incarnation(epochs.draw(), &start(last + 1, 0), last + 1, later(3));
        assert_eq!(chain.ancestors.len(), ANCESTORS_MAX + 2, "two are older, and may stay");
        chain = chain.next_incarnation(epochs.draw(), &start(last + 2, 0), last + 2, later(last));
        assert_eq!(chain.ancestors.len(), ANCESTORS_MAX + 2, "64 and those of the last hour");
        assert!(chain.trimmed);
        assert_eq!(chain.ancestors[0].ancestor.end, 3, "the oldest fell out");
        assert!(!chain.state(9, 0).born_empty);
    }

    #[test]
    fn r11_a_crash_loop_that_never_ends_has_a_bound_too() {
        let mut epochs = Epochs::from_system().expect("randomness");
        let mut chain = Chain::fresh(epochs.draw(), &start(1, 0));
        for number in 2..5_000 {
            chain = chain.next_incarnation(epochs.draw(), &start(number, 0), number, 1);
        }
        assert_eq!((chain.ancestors.len(), chain.trimmed), (ANCESTORS_BOUND, true));
        assert_eq!(chain.ancestors[ANCESTORS_BOUND - 1].ancestor.end, 4_999, "the newest are kept");
    }
}

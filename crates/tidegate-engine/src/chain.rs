//! The lives of a log (R10, R11): each start of the node is a new epoch for each log that it
//! touches, with a parent, the parent's end, and whether acknowledged events may have been lost.
//!
//! A node start is one numbered record. A log is drawn into the new start by its first append or
//! open, in the same atomic write; until then its chain stands as an earlier start left it, and
//! the numbers of the two starts tell whether any border between them was lossy.

use tidegate_core::{Ancestor, LogState};
use tidegate_protocol::{Epoch, Seq};

/// Ancestors that a chain remembers. A client that was away for longer than this many restarts is
/// told of a gap.
pub const ANCESTORS_MAX: usize = 64;

/// A start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Its number, from 1.
    pub number: u64,
    /// The last start whose beginning was a lossy border; 0 for none.
    pub last_lossy: u64,
    /// Whether it has ended by `close`.
    pub clean: bool,
    /// Whether its commits were synced before they were acknowledged.
    pub sync_always: bool,
}

/// The epochs of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The epoch of this life.
    pub epoch: Epoch,
    /// The number of the start that it began in.
    pub start: u64,
    /// Earlier lives, oldest first.
    pub ancestors: Vec<Ancestor>,
    /// Whether older ones fell out.
    pub trimmed: bool,
}

impl Chain {
    /// A log that begins empty.
    pub fn fresh(epoch: Epoch, start: &Start) -> Self {
        Self { epoch, start: start.number, ancestors: Vec::new(), trimmed: false }
    }

    /// The next life of a log that stood at `head` when `start` found it.
    pub fn next_life(mut self, epoch: Epoch, start: &Start, head: Seq) -> Self {
        let lossy = start.last_lossy > self.start;
        self.ancestors.push(Ancestor { epoch: self.epoch, end: head, lossy });
        let surplus = self.ancestors.len().saturating_sub(ANCESTORS_MAX);
        self.ancestors.drain(..surplus);
        Self { epoch, start: start.number, trimmed: self.trimmed || surplus > 0, ..self }
    }

    /// What readers are told of it.
    pub fn state(&self, head: Seq, floor: Seq) -> LogState {
        LogState {
            epoch: self.epoch.clone(),
            // A log with ancestors may hold what was seen under an epoch that nobody remembers: a
            // directory restored from a snapshot has lost the lives that came after it.
            born_empty: self.ancestors.is_empty() && !self.trimmed,
            ancestors: self.ancestors.clone(),
            head,
            floor,
        }
    }
}

/// Draws epochs: a keyed hash over a count, the key from the system's randomness, so that drawing
/// one cannot fail at a time when a publisher waits for it.
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
    fn r11_a_border_is_lossy_if_any_start_between_was() {
        let mut epochs = Epochs::from_system().expect("randomness");
        let first = Chain::fresh(epochs.draw(), &start(3, 3));
        assert!(first.state(0, 0).born_empty, "a lossy start before its birth is none of its business");
        let quiet = first.clone().next_life(epochs.draw(), &start(9, 3), 7);
        assert_eq!(quiet.ancestors, [Ancestor { epoch: first.epoch.clone(), end: 7, lossy: false }]);
        assert!(!quiet.state(7, 0).born_empty);
        // It slept through starts 10 to 12; 11 was lossy.
        let slept = quiet.clone().next_life(epochs.draw(), &start(12, 11), 9);
        assert!(slept.ancestors[1].lossy);
        assert!(!slept.ancestors[0].lossy);
    }

    #[test]
    fn r11_chains_are_bounded_and_say_that_they_were_cut() {
        let mut epochs = Epochs::from_system().expect("randomness");
        let mut chain = Chain::fresh(epochs.draw(), &start(1, 0));
        for number in 2..=u64::try_from(ANCESTORS_MAX).expect("small") + 2 {
            chain = chain.next_life(epochs.draw(), &start(number, 0), number);
        }
        assert_eq!(chain.ancestors.len(), ANCESTORS_MAX);
        assert!(chain.trimmed);
        assert_eq!(chain.ancestors[0].end, 3, "the oldest fell out");
    }
}

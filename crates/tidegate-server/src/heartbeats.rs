//! Whether each worker's thread makes progress: when its loop last began a turn. A worker that waits for
//! something, or computes without end, serves none of its readers.
//!
//! Workers write it; `/healthz` and the service manager's watchdog read it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// From when on a worker counts as hanging. It turns several times a second, and no single piece of its work
/// takes a second.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The last turn of each worker.
#[derive(Debug)]
pub struct Heartbeats {
    began: Instant,
    /// In milliseconds after `began`.
    turns: Box<[AtomicU64]>,
}

/// A worker that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// Its number.
    pub worker: usize,
    /// How long ago its last turn was.
    pub since: Duration,
}

impl Heartbeats {
    /// Of `workers` workers that begin now.
    pub fn new(workers: usize) -> Self {
        Self { began: Instant::now(), turns: (0..workers).map(|_| AtomicU64::default()).collect() }
    }

    /// Worker `worker` begins a turn.
    pub fn beat(&self, worker: usize) {
        self.beat_at(worker, Instant::now());
    }

    fn beat_at(&self, worker: usize, now: Instant) {
        let millis = now.saturating_duration_since(self.began).as_millis();
        self.turns[worker].store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When each worker began its last turn: numbers that rise several times a second.
    pub fn turns(&self) -> Vec<u64> {
        self.turns.iter().map(|turn| turn.load(Ordering::Relaxed)).collect()
    }

    /// The worker that hangs for the longest time, if one does.
    pub fn stalled(&self) -> Option<Stalled> {
        self.stalled_at(Instant::now())
    }

    fn stalled_at(&self, now: Instant) -> Option<Stalled> {
        let (worker, last) = self.turns().into_iter().enumerate().min_by_key(|(_, last)| *last)?;
        let since = now.saturating_duration_since(self.began + Duration::from_millis(last));
        (since >= STALLED_AFTER).then_some(Stalled { worker, since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_without_a_turn_for_ten_seconds_hangs_until_its_next_turn() {
        let beats = Heartbeats::new(3);
        let at = |seconds| beats.began + Duration::from_secs(seconds);
        assert_eq!(beats.stalled_at(at(9)), None, "they have only begun");
        for worker in [0, 2] {
            beats.beat_at(worker, at(9));
        }
        let stalled = Stalled { worker: 1, since: Duration::from_secs(10) };
        assert_eq!(beats.stalled_at(at(10)), Some(stalled));
        assert_eq!(beats.turns(), [9000, 0, 9000]);
        beats.beat_at(1, at(10));
        assert_eq!(beats.stalled_at(at(18)), None);
        assert_eq!(beats.stalled_at(at(19)).map(|stalled| stalled.worker), Some(0));
    }
}

//! The dedup window: the ids that publishers gave lately, each with the hash of its content (R12).
//!
//! It is an index over the log, rebuilt from the log at open, and never ahead of it: an id enters with
//! the group that writes its event. It is not a cache: no id within the window is dropped to make
//! room; a publish that needs the room is refused.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use tidegate_core::{ContentHash, DedupKey, shares::may_take};
use tidegate_protocol::{Seq, UnixMillis};

use super::{AppendError, store::LogIndex};

/// The room for ids that an idle window keeps.
const IDLE_ROOM: usize = 1024;

/// The first use of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The seq of its event.
    pub seq: Seq,
    /// The hash of its content.
    pub content: ContentHash,
}

/// The most ids that are remembered.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// `dedup.max_entries`: of all logs together.
    pub total: usize,
    /// `dedup.max_entries_per_org`: of one log. If it is less than `total`, the logs also share the window
    /// ([`tidegate_core::shares`]), so that a few orgs cannot take the room of all others (P5).
    pub per_log: usize,
}

/// The ids given within the last `window` milliseconds.
#[derive(Debug)]
pub struct Window {
    window: u64,
    limits: WindowLimits,
    known: HashMap<DedupKey, Known>,
    /// In the order in which they expire: the time at which an id was given, the id, its log.
    order: VecDeque<(u64, DedupKey, LogIndex)>,
    /// How many of them each log has; a log with none has no entry.
    by_log: HashMap<LogIndex, usize>,
    /// The time of this window. It is that of the commit clock without its steps ahead, which would expire
    /// ids early (R30).
    elapsed: u64,
    passed: u64,
    /// The commit clock's time at the start, to which the times of ids found in the log are compared.
    opened: UnixMillis,
}

impl Window {
    /// An empty window.
    pub fn new(window: u64, limits: WindowLimits, opened: UnixMillis, passed: u64) -> Self {
        let (known, order, by_log) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { window, limits, known, order, by_log, elapsed: window, passed, opened }
    }

    /// Moves the time on to `passed` and drops the ids that are older than the window.
    pub fn advance(&mut self, passed: u64) {
        self.elapsed += passed.saturating_sub(self.passed);
        self.passed = passed;
        while let Some(&(at, key, log)) = self.order.front() {
            if at + self.window > self.elapsed {
                break;
            }
            self.order.pop_front();
            self.known.remove(&key);
            self.lower(log);
        }
        // A burst may have grown it to its bound. It gives the memory back while its ids expire: the room is
        // halved when a quarter of it is used, which costs each id that leaves a constant.
        let kept = (2 * self.known.len()).max(IDLE_ROOM);
        if self.known.capacity() > 2 * kept {
            self.known.shrink_to(kept);
            self.order.shrink_to(kept);
            self.by_log.shrink_to(IDLE_ROOM);
        }
    }

    /// The first use of `key`, if it is in the window.
    pub fn get(&self, key: &DedupKey) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// Whether there is room for `more` ids of `log`; `None` is a log that does not exist yet.
    pub fn check_room(&self, log: Option<LogIndex>, more: usize) -> Result<(), AppendError> {
        // A restart may find more ids than the bound allows; batches that need no room still come in.
        let is_over = |held: usize, max: usize| more > 0 && held + more > max;
        let WindowLimits { total, per_log } = self.limits;
        if is_over(self.known.len(), total) {
            return Err(AppendError::DedupFull);
        }
        let held = log.and_then(|log| self.by_log.get(&log)).copied().unwrap_or(0);
        if is_over(held, per_log) {
            return Err(AppendError::OrgDedupFull);
        }
        let free = total.saturating_sub(self.known.len());
        if per_log < total && !may_take(held, more, free) {
            return Err(AppendError::DedupFull);
        }
        Ok(())
    }

    /// Adds an id that the group being written gives in `log`.
    pub fn insert(&mut self, log: LogIndex, key: DedupKey, known: Known) {
        self.known.insert(key, known);
        self.order.push_back((self.elapsed, key, log));
        *self.by_log.entry(log).or_default() += 1;
    }

    /// A mark to which [`roll_back`](Self::roll_back) returns.
    pub fn mark(&self) -> usize {
        self.order.len()
    }

    /// Takes back the ids that were inserted since `mark`: their group was not written.
    pub fn roll_back(&mut self, mark: usize) {
        while self.order.len() > mark {
            let Some((_, key, log)) = self.order.pop_back() else { break };
            self.known.remove(&key);
            self.lower(log);
        }
    }

    /// Drops the ids of a log that was deleted: they may be used anew.
    pub fn forget(&mut self, log: LogIndex) {
        let (known, by_log) = (&mut self.known, &mut self.by_log);
        self.order.retain(|(_, key, of)| {
            if *of == log {
                known.remove(key);
            }
            *of != log
        });
        by_log.remove(&log);
    }

    fn lower(&mut self, log: LogIndex) {
        if let Some(count) = self.by_log.get_mut(&log) {
            *count -= 1;
            if *count == 0 {
                self.by_log.remove(&log);
            }
        }
    }

    /// Adds an id that was found in the log, given at `at`; to be called newest first. Of an id that was given
    /// more than once, the last use counts. An id whose time lies ahead of the clock counts as given now.
    pub fn restore(&mut self, at: UnixMillis, log: LogIndex, key: DedupKey, known: Known) {
        let age = self.opened.saturating_sub(at);
        if age >= self.window {
            return;
        }
        // `elapsed` began at `window`, so this does not fall below zero.
        let at = (self.elapsed - age).min(self.order.front().map_or(u64::MAX, |&(at, ..)| at));
        if let Entry::Vacant(place) = self.known.entry(key) {
            place.insert(known);
            self.order.push_front((at, key, log));
            *self.by_log.entry(log).or_default() += 1;
        }
    }

    /// The bytes that it takes in memory, about. A hash table has a byte beside each entry, and one entry in
    /// eight is never used.
    pub fn memory(&self) -> usize {
        let known = self.known.capacity() / 7 * 8 * (size_of::<(DedupKey, Known)>() + 1);
        known + self.order.capacity() * size_of::<(u64, DedupKey, LogIndex)>()
    }

    /// How many ids it holds.
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> DedupKey {
        DedupKey([n; 16])
    }

    fn known(seq: Seq) -> Known {
        Known { seq, content: ContentHash([0; 16]) }
    }

    const LOG: LogIndex = 16;

    fn window(total: usize, at: u64) -> Window {
        Window::new(300, WindowLimits { total, per_log: total }, at, at)
    }

    #[test]
    fn p5_one_log_leaves_room_for_the_others_and_gets_its_own_back() {
        let mut window = Window::new(300, WindowLimits { total: 5, per_log: 3 }, 1_000, 1_000);
        assert_eq!(window.check_room(None, 4), Err(AppendError::OrgDedupFull), "a log to be made");
        for n in 0..3 {
            window.check_room(Some(LOG), 1).expect("room");
            window.insert(LOG, key(n), known(1));
        }
        assert_eq!(window.check_room(Some(LOG), 1), Err(AppendError::OrgDedupFull));
        assert_eq!(window.check_room(Some(LOG), 0), Ok(()), "duplicates and drawn ids need none");
        assert_eq!(window.check_room(None, 2), Ok(()));
        window.insert(LOG + 1, key(8), known(1));
        window.insert(LOG + 1, key(9), known(2));
        assert_eq!(window.check_room(Some(LOG + 1), 1), Err(AppendError::DedupFull));
        window.advance(1_300);
        assert_eq!(window.check_room(Some(LOG), 3), Ok(()));
        assert!(window.by_log.is_empty(), "{:?}", window.by_log);
    }

    #[test]
    fn p5_logs_that_take_all_they_get_leave_some_for_another() {
        let mut window = Window::new(300, WindowLimits { total: 60, per_log: 50 }, 1_000, 1_000);
        let mut next = 0;
        let mut fill = |window: &mut Window, log| {
            while window.check_room(Some(log), 1).is_ok() {
                next += 1;
                window.insert(log, key(next), known(1));
            }
            window.by_log[&log]
        };
        assert_eq!([LOG, LOG + 1, LOG + 2].map(|log| fill(&mut window, log)), [30, 15, 8]);
        assert_eq!(window.check_room(Some(LOG), 1), Err(AppendError::DedupFull));
        assert_eq!(window.check_room(None, 7), Ok(()), "all that is left");
        assert_eq!(window.check_room(None, 8), Err(AppendError::DedupFull));
        // One org may have all if the operator says so.
        let mut window = Window::new(300, WindowLimits { total: 60, per_log: 60 }, 1_000, 1_000);
        assert_eq!(fill(&mut window, LOG), 60);
    }

    #[test]
    fn p5_what_was_restored_counts_for_its_log_once() {
        let mut window = Window::new(300, WindowLimits { total: 9, per_log: 2 }, 10_000, 10_000);
        window.restore(9_950, LOG, key(1), known(2));
        window.restore(9_900, LOG, key(1), known(1));
        assert_eq!(window.check_room(Some(LOG), 1), Ok(()));
        window.restore(9_900, LOG, key(2), known(2));
        assert_eq!(window.check_room(Some(LOG), 1), Err(AppendError::OrgDedupFull));
        window.advance(10_249);
        assert_eq!((window.get(&key(1)), window.len()), (Some(known(2)), 1), "the last use");
        window.advance(10_250);
        assert!(window.by_log.is_empty(), "{:?}", window.by_log);
    }

    #[test]
    fn what_a_burst_took_is_given_back_while_ids_still_come() {
        let mut window = Window::new(300, WindowLimits { total: 200_000, per_log: 200_000 }, 1_000, 1_000);
        let id = |n: u64| DedupKey(u128::from(n).to_be_bytes());
        (0..100_000).for_each(|n| window.insert(LOG, id(n), known(n)));
        let full = window.memory();
        window.advance(1_200);
        (0..1_000).for_each(|n| window.insert(LOG, id(100_000 + n), known(n)));
        assert_eq!(window.memory(), full);
        window.advance(1_300);
        assert_eq!(window.len(), 1_000);
        assert!(window.memory() < full / 20, "{} of {full}", window.memory());
        assert!((100_000..101_000).all(|n| window.get(&id(n)).is_some()));
    }

    #[test]
    fn r12_an_id_leaves_exactly_at_the_end_of_the_window() {
        let mut window = window(2, 1_000);
        window.insert(LOG, key(1), known(1));
        window.advance(1_299);
        assert_eq!(window.get(&key(1)), Some(known(1)));
        assert!(window.check_room(Some(LOG), 1).is_ok() && window.check_room(Some(LOG), 2).is_err());
        window.advance(1_300);
        assert_eq!(window.get(&key(1)), None);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn r12_a_clock_that_steps_back_neither_forgets_nor_pins() {
        let mut window = window(9, 10_000);
        window.insert(LOG, key(1), known(1));
        window.advance(5_000);
        assert!(window.get(&key(1)).is_some());
        window.insert(LOG, key(2), known(2));
        window.advance(5_300);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn r12_what_the_log_held_is_known_again_for_the_rest_of_its_time() {
        let mut window = window(9, 10_000);
        window.restore(99_999, LOG, key(3), known(3));
        window.restore(9_701, LOG, key(2), known(2));
        window.restore(9_700, LOG, key(1), known(1));
        assert_eq!(window.get(&key(1)), None, "its time was up");
        assert!(window.get(&key(2)).is_some());
        window.advance(10_001);
        assert_eq!(window.get(&key(2)), None);
        assert!(window.get(&key(3)).is_some());
        window.advance(10_300);
        assert_eq!(window.get(&key(3)), None);
    }
}

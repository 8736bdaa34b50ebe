//! The dedup window: which ids were given lately, and for what (R12).
//!
//! It is an index over the log, rebuilt from it at open, and never ahead of it: an id enters with
//! the group that writes its event. It is no cache either: an id within the window is never
//! forgotten for want of room, the publish that would need the room is refused.

use std::collections::{HashMap, VecDeque};

use tidegate_core::{ContentHash, DedupKey, Seq, UnixMillis};

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Where it stands.
    pub seq: Seq,
    /// What it was used for.
    pub content: ContentHash,
}

/// The ids given within the last `window` milliseconds.
#[derive(Debug)]
pub struct Window {
    window: u64,
    max: usize,
    known: HashMap<DedupKey, Known>,
    /// In the order in which they fall out.
    order: VecDeque<(u64, DedupKey)>,
    /// Time passed, as this window counts it: by a clock that does not step, for a step of the wall
    /// clock would forget ids early or pin them.
    elapsed: u64,
    steady: u64,
    /// The wall clock's time at the start, to which what the log held is compared.
    opened: UnixMillis,
}

impl Window {
    /// An empty window.
    pub fn new(window: u64, max: usize, opened: UnixMillis, steady: u64) -> Self {
        let (known, order) = (HashMap::new(), VecDeque::new());
        Self { window, max, known, order, elapsed: window, steady, opened }
    }

    /// Moves to `steady` and lets go of what is older than the window.
    pub fn advance(&mut self, steady: u64) {
        self.elapsed += steady.saturating_sub(self.steady);
        self.steady = steady;
        while let Some(&(at, key)) = self.order.front() {
            if at + self.window > self.elapsed {
                break;
            }
            self.order.pop_front();
            self.known.remove(&key);
        }
        if self.known.is_empty() {
            // A burst may have grown it to the bound; idle, it takes nothing.
            self.known.shrink_to(1024);
            self.order.shrink_to(1024);
        }
    }

    /// What is known of `key`.
    pub fn get(&self, key: &DedupKey) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// Whether `more` ids find room.
    pub fn has_room(&self, more: usize) -> bool {
        self.known.len() + more <= self.max
    }

    /// Notes an id that the group being written holds.
    pub fn insert(&mut self, key: DedupKey, known: Known) {
        self.known.insert(key, known);
        self.order.push_back((self.elapsed, key));
    }

    /// Notes an id that the log was found to hold, given at `at`; oldest first. One whose time
    /// lies ahead of the clock counts as given now.
    pub fn restore(&mut self, at: UnixMillis, key: DedupKey, known: Known) {
        let age = self.opened.saturating_sub(at);
        if age >= self.window {
            return;
        }
        // `elapsed` began at `window`, so this does not fall below zero.
        let at = (self.elapsed - age).max(self.order.back().map_or(0, |&(at, _)| at));
        if self.known.insert(key, known).is_some() {
            self.order.retain(|(_, other)| *other != key);
        }
        self.order.push_back((at, key));
    }

    /// How many ids it holds.
    #[cfg(test)]
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

    #[test]
    fn r12_an_id_leaves_exactly_at_the_end_of_the_window() {
        let mut window = Window::new(300, 2, 1_000, 1_000);
        window.insert(key(1), known(1));
        window.advance(1_299);
        assert_eq!(window.get(&key(1)), Some(known(1)));
        assert!(window.has_room(1) && !window.has_room(2));
        window.advance(1_300);
        assert_eq!(window.get(&key(1)), None);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn r12_a_clock_that_steps_back_neither_forgets_nor_pins() {
        let mut window = Window::new(300, 9, 10_000, 10_000);
        window.insert(key(1), known(1));
        window.advance(5_000);
        assert!(window.get(&key(1)).is_some());
        window.insert(key(2), known(2));
        window.advance(5_300);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn r12_what_the_log_held_is_known_again_for_the_rest_of_its_time() {
        let mut window = Window::new(300, 9, 10_000, 10_000);
        window.restore(9_700, key(1), known(1));
        window.restore(9_701, key(2), known(2));
        window.restore(99_999, key(3), known(3));
        assert_eq!(window.get(&key(1)), None, "its time was up");
        assert!(window.get(&key(2)).is_some());
        window.advance(10_001);
        assert_eq!(window.get(&key(2)), None);
        assert!(window.get(&key(3)).is_some());
        window.advance(10_300);
        assert_eq!(window.get(&key(3)), None);
    }
}

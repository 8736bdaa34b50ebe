//! What a worker does next: a round of live events, or a turn of readers that catch up; and of those,
//! whose turn it is.
//!
//! Live delivery goes first: readers that catch up are served between rounds, for a short slice of time.
//! Orgs take turns, each as long as the other: a thousand readers that come back to one do not keep away
//! the one that comes back to another. A turn that took too long is made up for.
//!
//! Sans-IO, like [`crate::pace`], which says when rounds are due.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::pace::Rounds;

/// How long the readers of one org are served before it is a round's turn again, or another org's.
pub const SLICE: Duration = Duration::from_micros(500);

/// So many slices of rounds may pass over those who wait to catch up: live goes first, but a worker whose
/// rounds take all of its time owes them theirs.
const PASSED_OVER_MAX: u32 = 8;

/// The most that an org is held to make up for.
const DEBT_MAX: Duration = Duration::from_millis(5);

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<K> {
    /// A slice of the round of this org, see [`Rounds::poll_round`].
    Round(K),
    /// A turn of the readers of this org that catch up, see [`Turns::handle_turn`].
    Replay(K),
}

/// The readers of one worker that catch up, by org.
#[derive(Debug)]
pub struct Turns<K, R> {
    orgs: BTreeMap<K, Waiting<R>>,
    /// Orgs with readers that wait, in turn; one whose turn it is stands in none.
    order: VecDeque<K>,
    passed_over: u32,
}

#[derive(Debug)]
struct Waiting<R> {
    readers: VecDeque<R>,
    /// By how much its turns were longer than a slice.
    debt: Duration,
}

impl<K: Clone + Ord, R> Default for Turns<K, R> {
    fn default() -> Self {
        Self { orgs: BTreeMap::new(), order: VecDeque::new(), passed_over: 0 }
    }
}

impl<K: Clone + Ord, R> Turns<K, R> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// `reader` waits to be served, behind the others of its org.
    pub fn handle_waiting(&mut self, org: K, reader: R) {
        self.of(org).push_back(reader);
    }

    /// `reader` waits to be served, before the others of its org: one that was live a moment ago, and will
    /// be again with little.
    pub fn handle_first(&mut self, org: K, reader: R) {
        self.of(org).push_front(reader);
    }

    fn of(&mut self, org: K) -> &mut VecDeque<R> {
        let order = &mut self.order;
        let waiting = self.orgs.entry(org).or_insert_with_key(|org| {
            order.push_back(org.clone());
            Waiting { readers: VecDeque::new(), debt: Duration::ZERO }
        });
        &mut waiting.readers
    }

    /// What is to be done at `now`; `None` where nothing is.
    pub fn poll_work(&mut self, now: Duration, rounds: &mut Rounds<K>) -> Option<Work<K>> {
        if self.is_empty() {
            self.passed_over = 0;
            return rounds.poll_round(now).map(Work::Round);
        }
        if self.passed_over < PASSED_OVER_MAX
            && let Some(org) = rounds.poll_round(now)
        {
            self.passed_over += 1;
            return Some(Work::Round(org));
        }
        self.passed_over = 0;
        self.next_org().map(Work::Replay)
    }

    fn next_org(&mut self) -> Option<K> {
        // Each pass pays a slice of every debt in the way, so this ends.
        loop {
            let org = self.order.pop_front()?;
            let Some(waiting) = self.orgs.get_mut(&org) else { continue };
            if waiting.debt < SLICE || self.order.is_empty() {
                return Some(org);
            }
            waiting.debt -= SLICE;
            self.order.push_back(org);
        }
    }

    /// The reader of `org`, whose turn it is, that has waited longest.
    pub fn next_reader(&mut self, org: &K) -> Option<R> {
        self.orgs.get_mut(org)?.readers.pop_front()
    }

    /// The turn of `org` is over; it took this long.
    pub fn handle_turn(&mut self, org: K, took: Duration) {
        let Some(waiting) = self.orgs.get_mut(&org) else { return };
        if waiting.readers.is_empty() {
            self.orgs.remove(&org);
            return;
        }
        waiting.debt = (waiting.debt + took).saturating_sub(SLICE).min(DEBT_MAX);
        self.order.push_back(org);
    }

    /// Lets go of everybody who waits.
    pub fn clear(&mut self) {
        (self.orgs, self.order) = (BTreeMap::new(), VecDeque::new());
    }
}

//! What a worker does next: a fan-out pass, or a turn of readers that catch up; and which readers.
//!
//! Live delivery goes first: readers that catch up are served between passes, for a short slice of time.
//! Orgs take turns by deficit round robin (Shreedhar and Varghese, 1995): a thousand readers that come
//! back to one org do not keep away the one that comes back to another. What a turn costs is known only
//! when it is over, so a turn may be longer than a slice, and its org makes up for it later.
//!
//! Sans-IO, like [`crate::pace`], which decides when passes are due.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use crate::pace::{Paced, Passes};

/// How long the readers of one org are served before a pass goes, or another org: half as long as a slice
/// of a pass, for live delivery waits for it.
pub const SLICE: Duration = Duration::from_micros(500);

/// How many slices of passes may go before those who wait to catch up. Live goes first, but a worker whose
/// passes take all of its time leaves one slice in nine to them.
const PASSED_OVER_MAX: u32 = 8;

/// The most that an org has to make up for: ten slices. One page that was slow to compress must not shut
/// its org out for long.
const DEBT_MAX: Duration = Duration::from_millis(5);

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<O> {
    /// A slice of the pass of this org, see [`Passes::poll_pass`].
    Pass(O),
    /// A turn of the readers of this org that catch up, see [`Turns::handle_turn`].
    Replay(O),
}

/// The readers `R` of one worker that wait for a turn to catch up, by org.
#[derive(Debug)]
pub struct Turns<O, R> {
    orgs: BTreeMap<Rc<O>, Waiting<R>>,
    /// Orgs with readers that wait, in turn. The org whose turn it is is not among them.
    order: VecDeque<Rc<O>>,
    /// Orgs with readers that wait and get no turn before a time, sorted by that time.
    held: BTreeSet<(Duration, Rc<O>)>,
    passed_over: u32,
}

#[derive(Debug)]
struct Waiting<R> {
    readers: VecDeque<R>,
    /// By how much its turns were longer than a slice.
    debt: Duration,
    /// Whether it is among those that are held.
    is_held: bool,
}

impl<O: Paced, R> Default for Turns<O, R> {
    fn default() -> Self {
        Self { orgs: BTreeMap::new(), order: VecDeque::new(), held: BTreeSet::new(), passed_over: 0 }
    }
}

impl<O: Paced, R> Turns<O, R> {
    /// Whether no org is in line for a turn. Those that are held are not.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// When an org is in line for a turn, as far as is known now.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.is_empty() {
            false => Some(Duration::ZERO),
            true => self.held.first().map(|(until, _)| *until),
        }
    }

    /// Whether `org` is held.
    pub fn is_held(&self, org: &O) -> bool {
        self.orgs.get(org).is_some_and(|waiting| waiting.is_held)
    }

    /// The org whose turn it is gets none before `until`: its readers have got all that they may get for now.
    /// Returns its readers that wait.
    pub fn handle_hold(&mut self, org: Rc<O>, until: Duration) -> impl Iterator<Item = &mut R> {
        let readers = match self.orgs.get_mut(&org) {
            Some(waiting) => {
                waiting.is_held = true;
                self.held.insert((until, org));
                Some(&mut waiting.readers)
            }
            None => None,
        };
        readers.into_iter().flatten()
    }

    /// `reader` waits to be served, after the others of its org.
    pub fn handle_waiting(&mut self, org: &Rc<O>, reader: R) {
        self.readers(org).push_back(reader);
    }

    /// `reader` waits to be served, before the others of its org: it has been live before, so it has missed
    /// little and is done soon.
    pub fn handle_first(&mut self, org: &Rc<O>, reader: R) {
        self.readers(org).push_front(reader);
    }

    fn readers(&mut self, org: &Rc<O>) -> &mut VecDeque<R> {
        let order = &mut self.order;
        let waiting = self.orgs.entry(org.clone()).or_insert_with_key(|org| {
            order.push_back(org.clone());
            Waiting { readers: VecDeque::new(), debt: Duration::ZERO, is_held: false }
        });
        &mut waiting.readers
    }

    /// What is to be done at `now`; `None` if nothing is.
    pub fn poll_work(&mut self, now: Duration, passes: &mut Passes<O>) -> Option<Work<Rc<O>>> {
        self.release(now);
        if self.is_empty() {
            self.passed_over = 0;
            return passes.poll_pass(now).map(Work::Pass);
        }
        if self.passed_over < PASSED_OVER_MAX
            && let Some(org) = passes.poll_pass(now)
        {
            self.passed_over += 1;
            return Some(Work::Pass(org));
        }
        self.passed_over = 0;
        self.next_org().map(Work::Replay)
    }

    /// Puts those in line whose hold is over.
    fn release(&mut self, now: Duration) {
        while self.held.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, org)) = self.held.pop_first() else { break };
            if let Some(waiting) = self.orgs.get_mut(&org) {
                waiting.is_held = false;
                self.order.push_back(org);
            }
        }
    }

    fn next_org(&mut self) -> Option<Rc<O>> {
        // Each time round, every org in the way makes up for one slice, so this ends.
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

    /// The reader that has waited longest, of the org whose turn it is.
    pub fn next_reader(&mut self, org: &O) -> Option<R> {
        self.orgs.get_mut(org)?.readers.pop_front()
    }

    /// The turn of `org` is over; it took this long.
    pub fn handle_turn(&mut self, org: Rc<O>, took: Duration) {
        let Some(waiting) = self.orgs.get_mut(&org) else { return };
        if waiting.readers.is_empty() {
            self.orgs.remove(&org);
            return;
        }
        waiting.debt = (waiting.debt + took).saturating_sub(SLICE).min(DEBT_MAX);
        self.order.push_back(org);
    }

    /// Drops everybody who waits.
    pub fn clear(&mut self) {
        (self.orgs, self.order, self.held) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new());
    }
}

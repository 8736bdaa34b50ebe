//! The live loop of one worker: its readers that stand at the head of their logs, by org and by
//! what they see.
//!
//! Everything here belongs to one thread. A walk hands each reader what was sealed since its own
//! place, as bytes shared with everybody who sees the same, by one non-blocking vectored write.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{Batch, OrgId, Seq, View, ViewKey};

use super::reader::{Offer, Reader};
use crate::{hub::Org, node::Node};

/// What one worker owns.
pub struct Local {
    /// Its number.
    pub id: usize,
    /// The node.
    pub node: Arc<Node>,
    groups: RefCell<HashMap<OrgId, Vec<Rc<Group>>>>,
    /// Every reader of this worker, level or not, for the clock.
    readers: RefCell<Vec<Rc<Reader>>>,
    is_halt_told: Cell<bool>,
}

/// The readers at the head of one org that see the same.
pub struct Group {
    key: ViewKey,
    /// The border up to which this group has been walked; no reader in it stands before.
    position: Cell<Seq>,
    /// The earliest border that the next frame may follow on, see [`Batch::view`].
    chain: Cell<Seq>,
    readers: RefCell<Vec<Rc<Reader>>>,
}

/// Where a level reader stands, so that it can leave at once.
pub struct Membership {
    group: Rc<Group>,
    index: Cell<usize>,
}

impl Local {
    /// A worker without readers.
    pub fn new(id: usize, node: Arc<Node>) -> Self {
        Self {
            id,
            node,
            groups: RefCell::default(),
            readers: RefCell::default(),
            is_halt_told: Cell::new(false),
        }
    }

    /// How often the clock looks at every reader: often enough for the shortest of the timeouts.
    pub fn tick(&self) -> Duration {
        let config = self.node.config();
        let shortest = config.ping.timeout.min(config.limits.write_timeout).min(config.ping.interval);
        (shortest / 10).clamp(Duration::from_millis(20), Duration::from_millis(250))
    }

    /// Takes a level reader into the live loop. It has made sure that the tail holds nothing behind
    /// its place, with its org called for this worker already.
    pub fn join(&self, reader: &Rc<Reader>) {
        let (key, at) = reader.with_session(|session| (session.view_key(), session.scanned()));
        let mut groups = self.groups.borrow_mut();
        let groups = groups.entry(reader.org().id.clone()).or_default();
        let group = match groups.iter().find(|group| group.key == key) {
            Some(group) => group.clone(),
            None => {
                let group = Rc::new(Group {
                    key,
                    position: Cell::new(at),
                    chain: Cell::new(at),
                    readers: RefCell::default(),
                });
                groups.push(group.clone());
                group
            }
        };
        if group.position.get() > at {
            // The others came when the log was committed further than the tail was sealed. What the
            // tail gets next is new to this one; they pass over it.
            group.position.set(at);
            group.chain.set(at);
        }
        let mut readers = group.readers.borrow_mut();
        let index = Cell::new(readers.len());
        readers.push(reader.clone());
        drop(readers);
        reader.set_membership(Membership { group, index });
    }

    /// Takes a reader out of the live loop, where it is in it.
    pub fn leave(&self, reader: &Reader) {
        let Some(Membership { group, index }) = reader.take_membership() else { return };
        let mut readers = group.readers.borrow_mut();
        readers.swap_remove(index.get());
        if let Some(moved) = readers.get(index.get()) {
            moved.set_index(index.get());
        }
        if !readers.is_empty() {
            return;
        }
        drop(readers);
        let mut orgs = self.groups.borrow_mut();
        if let Some(groups) = orgs.get_mut(&reader.org().id) {
            groups.retain(|other| !Rc::ptr_eq(other, &group));
            if groups.is_empty() {
                orgs.remove(&reader.org().id);
            }
        }
    }

    /// One round of an org: everything sealed since the last goes to its readers at the head.
    pub fn walk(&self, org: &Arc<Org>) {
        // A walk may end readers and so change the lists; it goes over its own copy of each.
        let groups = self.groups.borrow().get(&org.id).cloned().unwrap_or_default();
        let Some(from) = groups.iter().map(|group| group.position.get()).min() else { return };
        let (batches, head) = {
            let tail = org.tail();
            (tail.since(from), tail.head())
        };
        let mut delivered = 0;
        for group in groups {
            delivered += self.walk_group(org, &group, &batches, head);
        }
        self.node.metrics.delivered.inc_by(delivered as u64);
    }

    fn walk_group(&self, org: &Org, group: &Group, batches: &[Arc<Batch>], head: Seq) -> usize {
        let position = group.position.get();
        let batches = &batches[batches.partition_point(|batch| batch.seq <= position)..];
        let Some(last) = batches.last() else {
            if position < head {
                // What was sealed has fallen out of the tail already: it stands in the log alone.
                self.park_all(group);
            }
            return 0;
        };
        let (mut chain, mut border) = (group.chain.get(), position);
        let round: Vec<(&Batch, View)> = batches
            .iter()
            .map(|batch| {
                if batch.prev != border {
                    // The tail was shortened past the border: what lay between is not known here.
                    chain = batch.prev;
                }
                border = batch.seq;
                let view = batch.view(&org.id, &group.key, chain);
                if !matches!(view, View::Empty { targeted: false }) {
                    chain = batch.seq;
                }
                (&**batch, view)
            })
            .collect();
        group.chain.set(chain);
        group.position.set(last.seq);
        let now = self.node.now();
        let mut delivered = 0;
        let mut frames: Vec<Bytes> = Vec::new();
        // Indices, for a reader that leaves is replaced by the last one.
        let mut index = 0;
        loop {
            let Some(reader) = group.readers.borrow().get(index).cloned() else { break };
            // A broken invariant ends the one stream, not the worker and everybody on it.
            let offered = guard(|| reader.offer(&round, now, &mut frames)).unwrap_or_else(|| {
                frames = Vec::new();
                reader.fail();
                Offer::Parked(0)
            });
            match offered {
                Offer::Taken(events) => {
                    delivered += events;
                    index += 1;
                }
                Offer::Parked(events) => {
                    delivered += events;
                    self.leave(&reader);
                    self.node.metrics.parked.inc();
                    reader.call();
                }
            }
        }
        delivered
    }

    fn park_all(&self, group: &Group) {
        loop {
            let Some(reader) = group.readers.borrow().last().cloned() else { break };
            self.leave(&reader);
            self.node.metrics.parked.inc();
            reader.call();
        }
    }

    /// Registers a reader with the clock.
    pub fn add(&self, reader: &Rc<Reader>) {
        self.readers.borrow_mut().push(reader.clone());
    }

    /// Forgets a reader.
    pub fn remove(&self, reader: &Rc<Reader>) {
        self.leave(reader);
        self.readers.borrow_mut().retain(|other| !Rc::ptr_eq(other, reader));
    }

    /// Looks at the clock of every reader.
    pub fn tick_all(&self, now: Instant) {
        let config = self.node.config();
        let readers = self.readers.borrow().clone();
        let draining = *self.node.draining.borrow();
        if !self.is_halt_told.get() && self.node.engine.halted().is_some() {
            self.is_halt_told.set(true);
            readers.iter().for_each(|reader| reader.tell_halted());
        }
        for reader in readers {
            if guard(|| reader.tick(&config, now, draining)).is_none() {
                reader.fail();
            }
        }
    }
}

impl Membership {
    /// Moves with the list.
    pub fn set_index(&self, index: usize) {
        self.index.set(index);
    }
}

/// Runs something for one reader; `None` where it panicked, which the panic hook has logged.
fn guard<T>(act: impl FnOnce() -> T) -> Option<T> {
    // What the reader holds may be half changed: it is ended, and nothing of it is used again but to
    // close its socket.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).ok()
}

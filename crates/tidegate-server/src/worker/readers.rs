//! The registry of a worker's readers, caught up or not, and the ticks, each of which looks at the timers of
//! all of them.
//!
//! [`super::timers`] decides what is due for one reader.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use tidegate_engine::Health;

use super::{Reader, guard, timers::Tick};
use crate::node::Node;

/// How many readers are served between two looks at the clock: some tens of microseconds.
pub const READERS_BETWEEN_LOOKS: u32 = 8;

/// How long a tick looks at readers before other work of the worker has its turn.
const TICK_SLICE: Duration = Duration::from_micros(500);

/// All readers of one worker.
#[derive(Default)]
pub struct Readers {
    list: RefCell<Vec<Rc<Reader>>>,
    /// The present tick goes through `list` from the last to the first. This many are still to come.
    unlooked: Cell<usize>,
    /// The health of the log as the readers here know it.
    reported_health: RefCell<Health>,
}

impl Readers {
    /// Registers a reader.
    pub fn add(&self, reader: &Rc<Reader>) {
        let mut list = self.list.borrow_mut();
        reader.set_registry_slot(list.len());
        list.push(reader.clone());
    }

    /// Forgets a reader. Costs the same however many there are: ten thousand may go at once.
    pub fn remove(&self, reader: &Rc<Reader>) {
        let mut list = self.list.borrow_mut();
        let slot = reader.registry_slot();
        if !list.get(slot).is_some_and(|other| Rc::ptr_eq(other, reader)) {
            return;
        }
        // The last reader moves to its index. Ticks go from the last to the first, so they skip nobody; at
        // most they look at that one twice.
        list.swap_remove(slot);
        if let Some(moved) = list.get(slot) {
            moved.set_registry_slot(slot);
        }
    }

    /// Begins to look at the timers of every reader.
    pub fn begin_tick(&self, node: &Node) {
        self.unlooked.set(self.list.borrow().len());
        self.report_health(node);
    }

    /// Reports a change of the log's health to every reader. Returns the health that they know now.
    pub fn report_health(&self, node: &Node) -> Health {
        let health = node.engine.health().borrow().clone();
        if *self.reported_health.borrow() != health {
            self.reported_health.replace(health.clone());
            let readers = self.list.borrow().clone();
            readers.iter().for_each(|reader| reader.report_health(&health));
        }
        health
    }

    /// Whether the tick has not come to every reader yet.
    pub fn is_ticking(&self) -> bool {
        self.unlooked.get() > 0
    }

    /// Looks at the timers of readers for a slice of time. All at once, ten thousand would hold up a pass.
    pub fn tick_slice(&self, node: &Node) {
        let config = node.config();
        let now = Instant::now();
        let tick = Tick { now, wall: node.now(), draining: *node.draining.borrow() };
        for turn in 1.. {
            let reader = {
                let list = self.list.borrow();
                let Some(slot) = self.unlooked.get().min(list.len()).checked_sub(1) else { break };
                self.unlooked.set(slot);
                list[slot].clone()
            };
            if guard(|| reader.tick(&config, tick)).is_none() {
                reader.fail();
            }
            if turn % READERS_BETWEEN_LOOKS == 0 && now.elapsed() >= TICK_SLICE {
                return;
            }
        }
        self.unlooked.set(0);
    }
}

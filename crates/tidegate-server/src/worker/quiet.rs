//! The connections of a worker that wait for a request. When few open files are left, the one that has waited
//! longest makes room for a new one: connections that ask for nothing must not lock out publishers.
//!
//! A stream is not quiet, nor is a request that is being answered.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use tokio::sync::Notify;

use super::Worker;

/// All of one worker, those first that have never sent a request.
#[derive(Debug, Default)]
pub struct QuietConnections {
    waiting: RefCell<BTreeMap<Place, Rc<Notify>>>,
    next: Cell<u64>,
}

/// Whether it has sent a request before, and its number.
type Place = (bool, u64);

impl QuietConnections {
    /// Asks the one that has waited longest to close. Returns whether there was one.
    pub fn close_oldest(&self) -> bool {
        let oldest = self.waiting.borrow_mut().pop_first();
        oldest.is_some_and(|(_, close)| {
            close.notify_one();
            true
        })
    }
}

/// A connection that can be quiet; dropping it takes it from the list.
pub struct Quiet {
    worker: Rc<Worker>,
    place: Cell<Option<Place>>,
    close: Rc<Notify>,
}

impl Quiet {
    /// A connection that has just come, and is quiet.
    pub fn new(worker: Rc<Worker>) -> Self {
        let quiet = Self { worker, place: Cell::new(None), close: Rc::default() };
        quiet.enter(false);
        quiet
    }

    /// A request has come.
    pub fn asked(&self) {
        if let Some(place) = self.place.take() {
            self.worker.quiet.waiting.borrow_mut().remove(&place);
        }
    }

    /// Every request that has come is answered.
    pub fn answered(&self) {
        self.enter(true);
    }

    /// Returns when it is asked to close. A request that came at the same moment is served.
    pub async fn closing(&self) {
        loop {
            self.close.notified().await;
            if self.place.get().is_some() {
                return;
            }
        }
    }

    fn enter(&self, has_asked: bool) {
        self.asked();
        let quiet = &self.worker.quiet;
        let place = (has_asked, quiet.next.replace(quiet.next.get() + 1));
        quiet.waiting.borrow_mut().insert(place, self.close.clone());
        self.place.set(Some(place));
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.asked();
    }
}

//! Tests of what is special to the local engines; what every engine has to do is in
//! [`conformance`](crate::conformance), run by `tests/conformance.rs`.
//!
//! Time is moved by hand and nothing sleeps. A [`World`] outlives the engines opened in it, like the
//! directory and the clock of a machine outlive its processes.

#![allow(clippy::unwrap_used)]

mod check;
mod crash;
mod disk;
mod faults;
mod model;
mod queue;
mod retention;
mod sparse;
mod starts;
mod stored;

use std::{path::Path, sync::Arc, time::Duration};

use tidegate_core::{Event, LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::*;
pub use crate::conformance::{DAWN, ManualClock, RecordingFeed, event, event_with, has_id, org};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Disk,
}

/// A machine: what outlives an engine.
pub struct World {
    pub kind: Kind,
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub feed: Arc<RecordingFeed>,
    pub local: LocalOptions,
    pub window: Duration,
    pub max_bytes: u64,
    pub sync_always: bool,
    pub bucket: Option<Duration>,
    runtime: tokio::runtime::Runtime,
}

pub const MINUTE: u64 = 60_000;

impl World {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(DAWN)),
            feed: Arc::default(),
            local: LocalOptions::for_tests(),
            window: Duration::from_secs(600),
            max_bytes: 256 << 20,
            sync_always: true,
            bucket: None,
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        }
    }

    pub fn hooks(&self) -> Hooks {
        Hooks { feed: self.feed.clone(), clock: self.clock.clone(), observer: Arc::new(()) }
    }

    pub fn disk_options(&self, dir: &Path) -> DiskOptions {
        DiskOptions {
            local: self.local.clone(),
            sync_always: self.sync_always,
            retention: self.window,
            max_bytes: self.max_bytes,
            bucket: self.bucket,
            forget_after: self.window,
            ..DiskOptions::for_tests(dir)
        }
    }

    /// Starts the engine anew. Nobody's tail outlives that.
    pub fn open(&self) -> Node<'_> {
        self.try_open(self.dir.path()).unwrap()
    }

    pub fn try_open(&self, dir: &Path) -> Result<Node<'_>, store::StoreError> {
        self.feed.clear();
        let engine: Box<dyn Counted> = match self.kind {
            Kind::Memory => {
                let (local, window, max_bytes) = (self.local.clone(), self.window, self.max_bytes);
                Box::new(LocalEngine::memory(MemoryOptions { local, window, max_bytes }, self.hooks())?)
            }
            Kind::Disk => Box::new(LocalEngine::disk(self.disk_options(dir), self.hooks())?),
        };
        Ok(Node { world: self, engine })
    }

    pub fn pass(&self, millis: u64) {
        self.clock.pass(millis);
    }

    pub fn step_ahead(&self, millis: u64) {
        self.clock.step_ahead(millis);
    }

    pub fn step_back(&self, millis: u64) {
        self.clock.step_back(millis);
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// An engine that says what it holds.
pub trait Counted: Engine {
    fn bytes(&self) -> u64;
    fn orgs(&self) -> usize;
    fn clock_ahead(&self) -> Duration;
}

impl<S: store::Store> Counted for LocalEngine<S> {
    fn bytes(&self) -> u64 {
        LocalEngine::bytes(self)
    }
    fn orgs(&self) -> usize {
        LocalEngine::orgs(self)
    }
    fn clock_ahead(&self) -> Duration {
        LocalEngine::clock_ahead(self)
    }
}

/// A running engine. Dropped without `close`, it has crashed.
pub struct Node<'a> {
    pub world: &'a World,
    pub engine: Box<dyn Counted>,
}

impl Node<'_> {
    pub fn append(&self, org: &str, events: Vec<NewEvent>) -> Result<Appended, AppendError> {
        self.world.block_on(self.engine.append(&self::org(org), events))
    }

    /// Appends `ids`, each a new event, and returns their seqs.
    pub fn put(&self, org: &str, ids: &[&str]) -> Vec<(Seq, bool)> {
        let events = ids.iter().map(|id| event(org, id)).collect();
        seqs(&self.append(org, events).unwrap())
    }

    pub fn state(&self, org: &str) -> LogState {
        self.world.block_on(self.engine.open(&self::org(org))).unwrap()
    }

    pub fn page(&self, org: &str, after: Seq, events: usize, bytes: usize, to: Seq) -> Page {
        let limit = PageLimit { events, bytes, to };
        self.world.block_on(self.engine.read(&self::org(org), after, limit)).unwrap()
    }

    /// All that is in the log after `after`, read in small pages.
    pub fn all(&self, org: &str, after: Seq) -> Vec<Arc<Event>> {
        let mut found: Vec<Arc<Event>> = Vec::new();
        let mut after = after;
        loop {
            let page = self.page(org, after, 7, 10_000, SEQ_END);
            if page.to == after && page.events.is_empty() {
                return found;
            }
            assert!(page.to >= page.after);
            assert!(page.events.iter().all(|event| event.seq > page.after && event.seq <= page.to));
            after = page.to;
            found.extend(page.events);
        }
    }

    /// The seqs that are in the log, and those that the pages say are missing.
    pub fn seqs_and_holes(&self, org: &str) -> (Vec<Seq>, Vec<Seq>) {
        let (mut seqs, mut holes, mut after) = (Vec::new(), Vec::new(), 0);
        loop {
            let page = self.page(org, after, 2, 10_000, SEQ_END);
            holes.extend(after + 1..=page.after);
            seqs.extend(page.events.iter().map(|event| event.seq));
            if page.to == after {
                return (seqs, holes);
            }
            after = page.to;
        }
    }

    pub fn seqs(&self, org: &str) -> Vec<Seq> {
        self.all(org, 0).iter().map(|event| event.seq).collect()
    }
}

pub const SEQ_END: Seq = tidegate_protocol::SEQ_MAX;

/// The seq of each event of a batch, and whether it is a duplicate.
pub fn seqs(appended: &Appended) -> Vec<(Seq, bool)> {
    appended.stored.iter().map(|stored| (stored.seq, stored.duplicate)).collect()
}

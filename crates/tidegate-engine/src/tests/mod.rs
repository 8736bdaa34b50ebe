//! What every engine must do, run over each of them; and what only a disk can get wrong.
//!
//! Time is moved by hand and nothing sleeps. A [`World`] outlives the engines opened in it, like the
//! directory and the clock of a machine outlive its processes.

#![allow(clippy::unwrap_used)]

mod conformance;
mod crash;
mod disk;
mod faults;
mod model;
mod retention;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tidegate_core::{ContentHash, DedupKey, Event, LogState, NewEvent};
use tidegate_protocol::{EventId, OrgId, Seq, ServiceName, UnixMillis};

use super::*;

/// A clock that stands still until it is moved.
pub struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.0.load(Ordering::SeqCst)
    }
}

/// Keeps what it is fed, and checks that it follows on.
#[derive(Default)]
pub struct Record {
    pub fed: Mutex<HashMap<OrgId, Vec<Arc<Event>>>>,
    pub readers: Mutex<HashSet<OrgId>>,
}

impl Feed for Record {
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        let mut fed = self.fed.lock().unwrap();
        let fed = fed.entry(org.clone()).or_default();
        let mut last = fed.last().map_or(prev, |event| event.seq);
        assert_eq!(last, prev, "r13: the feed follows on");
        for event in events {
            assert!(event.seq > last, "r13: the feed rises");
            last = event.seq;
        }
        fed.extend_from_slice(events);
    }

    fn has_readers(&self, org: &OrgId) -> bool {
        self.readers.lock().unwrap().contains(org)
    }
}

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
    pub feed: Arc<Record>,
    pub local: LocalOptions,
    pub window: Duration,
    pub max_bytes: u64,
    pub sync_always: bool,
    pub bucket: Option<Duration>,
    runtime: tokio::runtime::Runtime,
}

/// Where the clock begins.
pub const DAWN: UnixMillis = 1_795_512_600_000;
pub const MINUTE: u64 = 60_000;

impl World {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock(AtomicU64::new(DAWN))),
            feed: Arc::default(),
            local: LocalOptions::default(),
            window: Duration::from_secs(600),
            max_bytes: 256 << 20,
            sync_always: true,
            bucket: None,
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        }
    }

    pub fn around(&self) -> Hooks {
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
            ..DiskOptions::new(dir)
        }
    }

    /// Starts the engine anew. Nobody's tail outlives that.
    pub fn open(&self) -> Node<'_> {
        self.try_open(self.dir.path()).unwrap()
    }

    pub fn try_open(&self, dir: &Path) -> Result<Node<'_>, store::StoreError> {
        self.feed.fed.lock().unwrap().clear();
        let engine: Box<dyn Counted> = match self.kind {
            Kind::Memory => {
                let (local, window, max_bytes) = (self.local.clone(), self.window, self.max_bytes);
                Box::new(LocalEngine::memory(MemoryOptions { local, window, max_bytes }, self.around())?)
            }
            Kind::Disk => Box::new(LocalEngine::disk(self.disk_options(dir), self.around())?),
        };
        Ok(Node { world: self, engine })
    }

    pub fn pass(&self, millis: u64) {
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }

    pub fn step_back(&self, millis: u64) {
        self.clock.0.fetch_sub(millis, Ordering::SeqCst);
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// An engine that says what it holds.
pub trait Counted: Engine {
    fn bytes(&self) -> u64;
    fn orgs(&self) -> usize;
}

impl<S: store::Store> Counted for LocalEngine<S> {
    fn bytes(&self) -> u64 {
        LocalEngine::bytes(self)
    }
    fn orgs(&self) -> usize {
        LocalEngine::orgs(self)
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

    /// Appends `ids`, each a new event, and returns the places.
    pub fn put(&self, org: &str, ids: &[&str]) -> Vec<(Seq, bool)> {
        let events = ids.iter().map(|id| event(org, id)).collect();
        places(&self.append(org, events).unwrap())
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

    pub fn seqs(&self, org: &str) -> Vec<Seq> {
        self.all(org, 0).iter().map(|event| event.seq).collect()
    }
}

pub const SEQ_END: Seq = tidegate_protocol::SEQ_MAX;

pub fn org(name: &str) -> OrgId {
    OrgId::parse(name).unwrap()
}

pub fn places(appended: &Appended) -> Vec<(Seq, bool)> {
    appended.stored.iter().map(|place| (place.seq, place.duplicate)).collect()
}

/// An event whose publisher gave `id`; its content is its id.
pub fn event(org: &str, id: &str) -> NewEvent {
    event_with(org, id, id)
}

pub fn event_with(org: &str, id: &str, content: &str) -> NewEvent {
    let hash = |text: &str| {
        let mut bits = [0; 16];
        bits.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        bits
    };
    NewEvent {
        service: ServiceName::parse("finance").unwrap(),
        id: EventId::parse(id).unwrap(),
        dedup: Some(DedupKey(hash(&format!("{}:{org}{id}", org.len())))),
        content: ContentHash(hash(content)),
        users: None,
        body: Bytes::from(format!("\"service\":\"finance\",\"id\":\"{id}\",\"data\":\"{content}\"")),
    }
}

/// Whether the fragment of `event` carries `id`.
pub fn has_id(event: &Event, id: &str) -> bool {
    let text = String::from_utf8(event.fragment.to_vec()).unwrap();
    text.contains(&format!("\"id\":\"{id}\""))
}

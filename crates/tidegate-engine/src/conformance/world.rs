//! What cases are written with: a clock that is moved by hand, a feed that checks what it gets, and an
//! engine whose events are counted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tidegate_core::{Event, LogState, NewEvent};
use tidegate_protocol::{OrgId, SEQ_MAX, Seq, UnixMillis};

use super::{Bounds, Capabilities, Harness, event, org};
use crate::{AppendError, Appended, Clock, Feed, Hooks, Page, PageLimit};

/// When the clock of a [`World`] begins: 2026-11-24T09:30:00Z.
pub const DAWN: UnixMillis = 1_795_512_600_000;

/// The two clocks of a machine, which stand still until they are moved.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl ManualClock {
    /// A wall clock at `now`.
    pub fn new(now: UnixMillis) -> Self {
        Self { wall: AtomicU64::new(now), steady: AtomicU64::new(0) }
    }

    /// Lets milliseconds pass.
    pub fn pass(&self, millis: u64) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.steady.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock ahead by milliseconds.
    pub fn step_ahead(&self, millis: u64) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock back by milliseconds.
    pub fn step_back(&self, millis: u64) {
        self.wall.fetch_sub(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.wall.load(Ordering::SeqCst)
    }

    fn steady(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

/// A feed that keeps what it gets, and checks that each call follows on the one before it.
#[derive(Debug, Default)]
pub struct RecordingFeed(Mutex<HashMap<OrgId, Vec<Arc<Event>>>>);

impl RecordingFeed {
    fn all(&self) -> MutexGuard<'_, HashMap<OrgId, Vec<Arc<Event>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events of `org`, in the order in which they came.
    pub fn of(&self, org: &OrgId) -> Vec<Arc<Event>> {
        self.all().get(org).cloned().unwrap_or_default()
    }

    /// How many events came, of all orgs.
    pub fn count(&self) -> usize {
        self.all().values().map(Vec::len).sum()
    }

    /// Forgets all of it, as the end of a process does.
    pub fn clear(&self) {
        self.all().clear();
    }
}

impl Feed for RecordingFeed {
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        let mut fed = self.all();
        let fed = fed.entry(org.clone()).or_default();
        let mut last = fed.last().map_or(prev, |event| event.seq);
        assert_eq!(last, prev, "r13: the feed follows on");
        assert!(!events.is_empty(), "the feed is called with events");
        for event in events {
            assert!(event.seq > last, "r13: the feed rises");
            last = event.seq;
        }
        fed.extend_from_slice(events);
    }
}

/// Everything that outlives an engine: its storage, the clock, and the tests' own account of the log.
pub struct World<H> {
    /// Opens the engines.
    pub harness: H,
    /// Settings for the next engine that is opened.
    pub bounds: Bounds,
    /// The clock of all engines.
    pub clock: Arc<ManualClock>,
    /// Gets what the engine commits.
    pub feed: Arc<RecordingFeed>,
    /// The seqs of each log, in order.
    seqs: Mutex<HashMap<OrgId, Vec<Seq>>>,
    runtime: tokio::runtime::Runtime,
}

impl<H: Harness> World<H> {
    /// A world in which no engine has been opened yet.
    pub fn new(harness: H) -> Self {
        Self {
            harness,
            bounds: Bounds::for_tests(),
            clock: Arc::new(ManualClock::new(DAWN)),
            feed: Arc::default(),
            seqs: Mutex::default(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        }
    }

    /// Whether the engine has these capabilities. If it has not, the case that asks is to return.
    pub fn has(&self, wanted: impl Fn(&Capabilities) -> bool) -> bool {
        let has = wanted(&self.harness.capabilities());
        if !has {
            println!("not run: the harness does not state the capability");
        }
        has
    }

    /// Starts an engine. The feed of the one before is forgotten, and so is its log if that does not
    /// survive.
    pub fn open(&self) -> Node<'_, H> {
        self.feed.clear();
        if !self.harness.capabilities().survives_restart {
            self.forget();
        }
        let hooks = Hooks { feed: self.feed.clone(), clock: self.clock.clone(), observer: Arc::new(()) };
        Node { world: self, engine: self.harness.open(&self.bounds, hooks) }
    }

    /// Forgets which events were appended: the log is expected to begin anew.
    pub fn forget(&self) {
        self.seqs().clear();
    }

    /// Lets milliseconds pass.
    pub fn pass(&self, millis: u64) {
        self.clock.pass(millis);
    }

    /// Waits for an answer of the engine.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn seqs(&self) -> MutexGuard<'_, HashMap<OrgId, Vec<Seq>>> {
        self.seqs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running engine. Dropped without [`Engine::close`](crate::Engine::close), it has crashed.
pub struct Node<'a, H: Harness> {
    /// The world it runs in.
    pub world: &'a World<H>,
    /// The engine.
    pub engine: Box<H::Engine>,
}

impl<H: Harness> Node<'_, H> {
    /// Ends the engine without a clean stop.
    pub fn crash(self) {
        self.world.harness.crash(self.engine);
    }

    /// Appends one batch and notes the seqs of its events.
    pub fn append(&self, name: &str, events: Vec<NewEvent>) -> Result<Appended, AppendError> {
        use crate::Engine as _;
        let appended = self.world.block_on(self.engine.append(&org(name), events))?;
        self.note(name, &appended);
        Ok(appended)
    }

    /// Notes the seqs of a batch that was appended past [`Node::append`].
    pub fn note(&self, name: &str, appended: &Appended) {
        let is_dense = self.world.harness.capabilities().dense_seqs;
        let mut seqs = self.world.seqs();
        let seqs = seqs.entry(org(name)).or_default();
        for stored in appended.stored.iter().filter(|stored| !stored.duplicate) {
            // Concurrent batches may be noted in another order than that of their seqs.
            let at = seqs.partition_point(|seq| *seq < stored.seq);
            assert_ne!(seqs.get(at), Some(&stored.seq), "a seq is given once");
            assert!(stored.seq <= SEQ_MAX, "a seq is below 2^53");
            seqs.insert(at, stored.seq);
        }
        assert!(!is_dense || seqs.last().is_none_or(|last| *last >= seqs.len() as u64), "{seqs:?}");
    }

    /// Appends events with these ids as one batch. Gives the number of each in its log, from 1, and
    /// whether it is a duplicate.
    pub fn put(&self, name: &str, ids: &[&str]) -> Vec<(u64, bool)> {
        let events = ids.iter().map(|id| event(name, id)).collect();
        let appended = self.append(name, events).expect("appended");
        appended.stored.iter().map(|stored| (self.number(name, stored.seq), stored.duplicate)).collect()
    }

    /// The seq of the event with this number; 0 for 0.
    pub fn seq(&self, name: &str, number: u64) -> Seq {
        let index = usize::try_from(number).expect("a number").checked_sub(1);
        index.map_or(0, |index| self.world.seqs()[&org(name)][index])
    }

    /// How many events of the log have been appended up to `seq`: the number of the event that has it.
    pub fn number(&self, name: &str, seq: Seq) -> u64 {
        let is_dense = self.world.harness.capabilities().dense_seqs;
        let seqs = self.world.seqs();
        let seqs = seqs.get(&org(name)).map_or(&[][..], Vec::as_slice);
        let number = seqs.partition_point(|other| *other <= seq) as u64;
        if is_dense {
            assert_eq!(number, seq.min(seqs.len() as u64), "seqs are dense");
        }
        number
    }

    /// Opens the log.
    pub fn state(&self, name: &str) -> LogState {
        use crate::Engine as _;
        let state = self.world.block_on(self.engine.open(&org(name))).expect("opened");
        assert!(state.floor <= state.head, "{state:?}");
        state
    }

    /// The numbers of the head and of the floor.
    pub fn bounds(&self, name: &str, state: &LogState) -> (u64, u64) {
        let head = self.number(name, state.head);
        assert_eq!(self.seq(name, head), state.head, "the head is the seq of an event");
        (head, self.number(name, state.floor))
    }

    /// Reads a page and checks what is true of every page.
    pub fn page(&self, name: &str, after: Seq, events: usize, bytes: usize, to: Seq) -> Page {
        use crate::Engine as _;
        let limit = PageLimit { events, bytes, to };
        let page = self.world.block_on(self.engine.read(&org(name), after, limit)).expect("a page");
        assert!(page.after >= after && page.to >= page.after, "{page:?}");
        let mut last = page.after;
        for event in &page.events {
            assert!(event.seq > last && event.seq <= page.to, "{page:?}");
            last = event.seq;
        }
        assert!(page.events.len() <= events.max(1), "{page:?}");
        let read: usize = page.events.iter().map(|event| event.fragment.len()).sum();
        assert!(page.events.len() <= 1 || read <= bytes, "{page:?}");
        page
    }

    /// All that is in the log after `after`, read in small pages.
    pub fn all(&self, name: &str, after: Seq) -> Vec<Arc<Event>> {
        let mut found: Vec<Arc<Event>> = Vec::new();
        let mut after = after;
        loop {
            let page = self.page(name, after, 7, 10_000, SEQ_MAX);
            if page.to == after && page.events.is_empty() {
                return found;
            }
            after = page.to;
            found.extend(page.events);
        }
    }

    /// The numbers of all events in the log.
    pub fn numbers(&self, name: &str) -> Vec<u64> {
        self.all(name, 0).iter().map(|event| self.number(name, event.seq)).collect()
    }
}

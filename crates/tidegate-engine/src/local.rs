//! The engine of a node that keeps its logs itself, in memory or on its own disk.
//!
//! All that decides (places, epochs, dedup, retention) happens on one thread, the committer; this
//! file is the side of it that callers see: the bounded way in, and reads that pass it by.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use tidegate_core::{LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq, UnixMillis};
use tokio::sync::{Semaphore, oneshot};

use super::{
    AppendError, Appended, Durability, Engine, Feed, Page, PageLimit, ReadError,
    chain::{Chain, Epochs},
    committer::Committer,
    memory::MemoryStore,
    queue::{Queue, Refused, Request},
    store::{Found, LogIndex, Store, StoreError},
};

/// Cuts in one sweep at most.
const CUTS_MAX: usize = 64;

/// Tells the time. Places are given by what the committer reads of it, once per group.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> UnixMillis;

    /// Milliseconds since some moment, by a clock that never steps.
    fn steady(&self) -> u64 {
        self.now()
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // A clock before 1970 reads as 1970; timestamps then stand still, they do not fall.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn steady(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Is told how long syncs take and how many events each one carried.
pub trait SyncObserver: Send + Sync + 'static {
    /// One group of `events` events was written and synced in `took`.
    fn on_sync(&self, took: Duration, events: usize);
}

/// Observes nothing.
impl SyncObserver for () {
    fn on_sync(&self, _: Duration, _: usize) {}
}

/// What an engine needs of the node around it.
#[derive(Clone)]
pub struct Hooks {
    /// Takes what is committed.
    pub feed: Arc<dyn Feed>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Watches the syncs.
    pub observer: Arc<dyn SyncObserver>,
}

/// What both local engines are told.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// `dedup.window`: how long an id is known.
    pub dedup_window: Duration,
    /// `dedup.max_entries`: how many ids are known at most.
    pub dedup_max_entries: usize,
    /// `dedup.max_entries_per_org`: how many of them one org may have.
    pub dedup_max_entries_per_org: usize,
    /// `limits.orgs`: how many orgs the node holds at most.
    pub orgs_max: usize,
    /// Appends and opens that may wait for the log.
    pub queue_requests_max: usize,
    /// Bytes of events that may wait for the log; at least one whole request.
    pub queue_bytes_max: usize,
    /// Events that one group takes at most (a larger batch is a group of its own).
    pub group_events_max: usize,
    /// Reads from disk at once.
    pub reads_max: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            dedup_window: Duration::from_secs(5 * 60),
            dedup_max_entries: 1_000_000,
            dedup_max_entries_per_org: usize::MAX,
            orgs_max: 100_000,
            queue_requests_max: 10_000,
            queue_bytes_max: 64 << 20,
            group_events_max: 10_000,
            reads_max: 8,
        }
    }
}

/// What the memory engine is told.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// What both local engines are told.
    pub local: LocalOptions,
    /// `tail.window`: how long events are kept, and idle orgs remembered.
    pub window: Duration,
    /// `log.max_bytes`: what the events of the node may take.
    pub max_bytes: u64,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { local: LocalOptions::default(), window: Duration::from_secs(10 * 60), max_bytes: 256 << 20 }
    }
}

/// Milliseconds of a duration, as the engine counts time.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// One org's log as the node knows it.
pub(super) struct Log {
    pub index: LogIndex,
    pub now: RwLock<LogNow>,
    /// When it was last written to or opened, by the node's time.
    pub touched: AtomicU64,
}

/// Where a log stands. Written by the committer alone, after the sync.
pub(super) struct LogNow {
    /// Its epochs; `None` until this start has touched it.
    pub chain: Option<Chain>,
    pub head: Seq,
    pub floor: Seq,
    pub last_timestamp: UnixMillis,
}

impl Log {
    pub fn state(&self) -> Option<LogState> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.chain.as_ref().map(|chain| chain.state(now.head, now.floor))
    }

    pub fn bounds(&self) -> (Seq, Seq) {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        (now.floor, now.head)
    }
}

/// What the committer and the callers share.
pub(super) struct Shared<S> {
    pub store: S,
    pub options: LocalOptions,
    pub forget_after: u64,
    pub durability: Durability,
    pub logs: RwLock<HashMap<OrgId, Arc<Log>>>,
    pub queue: Queue,
    pub around: Hooks,
    pub halted: OnceLock<Arc<str>>,
}

impl<S: Store> Shared<S> {
    pub fn log(&self, org: &OrgId) -> Option<Arc<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).get(org).cloned()
    }

    fn refusal(&self, refused: Refused) -> AppendError {
        match refused {
            Refused::Requests => AppendError::TooManyWaiting,
            Refused::Bytes => AppendError::TooMuchWaiting,
            Refused::Closed => AppendError::Halted,
        }
    }

    fn page(&self, log: &Log, after: Seq, limit: PageLimit) -> Result<Page, ReadError> {
        let (floor, head) = log.bounds();
        let bound = limit.to.min(head);
        let from = after.max(floor);
        let mut events = if from < bound {
            self.store
                .read(log.index, from, bound, limit.events.max(1), limit.bytes)
                .map_err(|error| ReadError::Store(error.0))?
        } else {
            Vec::new()
        };
        // Seqs are dense, so a read that stops short of the bound stopped at a limit.
        let to = events.last().map_or(bound, |event| event.seq);
        // Retention raises the floor before it removes: what went missing during the read is
        // covered by the floor as it is now.
        let (floor, _) = log.bounds();
        let after = after.max(floor);
        events.retain(|event| event.seq > after);
        Ok(Page { after, to: to.max(after), events })
    }
}

/// An engine over a store of this process.
pub struct LocalEngine<S: Store> {
    shared: Arc<Shared<S>>,
    reads: Arc<Semaphore>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl LocalEngine<MemoryStore> {
    /// An engine that keeps the window of missed events in memory.
    pub fn memory(options: MemoryOptions, around: Hooks) -> Result<Self, StoreError> {
        let window = millis(options.window);
        let store = MemoryStore::new(window, options.max_bytes);
        // A log is not forgotten while the dedup window may still name places in it.
        // And later than the hub forgets its tail, by more than a sweep: a tail that outlives its log
        // would pass over what the next life of the log brings.
        let forget_after = window.max(millis(options.local.dedup_window)) + 2 * 60_000;
        let found =
            Found { start: super::chain::Start { number: 1, ..Default::default() }, ..Found::default() };
        Self::over(store, found, options.local, forget_after, Durability::Memory, around)
    }
}

impl<S: Store> LocalEngine<S> {
    /// An engine over `store`, which was found to hold `found`. Logs that were not touched for
    /// `forget_after` milliseconds, and hold no events, are forgotten.
    pub fn over(
        store: S,
        found: Found,
        options: LocalOptions,
        forget_after: u64,
        durability: Durability,
        around: Hooks,
    ) -> Result<Self, StoreError> {
        let epochs = Epochs::from_system().map_err(|error| StoreError::new("draw an epoch", error))?;
        let logs = found.logs.iter().map(|log| {
            let now =
                LogNow { chain: None, head: log.head, floor: log.floor, last_timestamp: log.last_timestamp };
            let entry = Log { index: log.index, now: RwLock::new(now), touched: AtomicU64::new(log.touched) };
            (log.org.clone(), Arc::new(entry))
        });
        let shared = Arc::new(Shared {
            store,
            forget_after,
            durability,
            logs: RwLock::new(logs.collect()),
            queue: Queue::new(options.queue_requests_max, options.queue_bytes_max),
            around,
            halted: OnceLock::new(),
            options,
        });
        let reads = Arc::new(Semaphore::new(shared.options.reads_max.max(1)));
        let committer = Committer::begin(shared.clone(), found, epochs)?;
        let thread = std::thread::Builder::new()
            .name("tidegate-log".into())
            .spawn(move || committer.run())
            .map_err(|error| StoreError::new("start the log's thread", error))?;
        Ok(Self { shared, reads, committer: Mutex::new(Some(thread)) })
    }

    /// What the events kept take, in the store's own measure.
    pub fn bytes(&self) -> u64 {
        self.shared.store.bytes()
    }

    /// How many orgs the node holds.
    pub fn orgs(&self) -> usize {
        self.shared.logs.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn stop(&self, clean: bool) {
        self.shared.queue.close(clean);
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's thread panicked");
        }
    }

    /// The state of a log that this start has already drawn in, marking it as in use.
    fn opened(&self, org: &OrgId) -> Option<LogState> {
        let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
        let log = logs.get(org)?;
        let state = log.state()?;
        // Under the lock: the committer forgets a log under the write lock, and looks here first.
        log.touched.fetch_max(self.shared.around.clock.now(), Ordering::Relaxed);
        Some(state)
    }
}

impl<S: Store> Engine for LocalEngine<S> {
    fn append(
        &self,
        org: &OrgId,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let taken = self.shared.queue.push(Request::Append { org: org.clone(), events, answer });
        let refused = taken.err().map(|refused| self.shared.refusal(refused));
        Box::pin(async move {
            match refused {
                Some(error) => Err(error),
                None => answered.await.unwrap_or(Err(AppendError::Unknown)),
            }
        })
    }

    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>> {
        if let Some(state) = self.opened(org) {
            return Box::pin(std::future::ready(Ok(state)));
        }
        let (answer, answered) = oneshot::channel();
        let taken = self.shared.queue.push(Request::Open { org: org.clone(), answer });
        let refused = taken.err().map(|refused| self.shared.refusal(refused));
        Box::pin(async move {
            match refused {
                Some(error) => Err(error),
                None => answered.await.unwrap_or(Err(AppendError::Unknown)),
            }
        })
    }

    fn head(&self, org: &OrgId) -> Option<LogState> {
        self.shared.log(org)?.state()
    }

    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        let Some(log) = self.shared.log(org) else {
            return Box::pin(std::future::ready(Err(ReadError::NoLog)));
        };
        let (_, head) = log.bounds();
        if !self.shared.store.blocks() || after >= head {
            return Box::pin(std::future::ready(self.shared.page(&log, after, limit)));
        }
        let (shared, reads) = (self.shared.clone(), self.reads.clone());
        Box::pin(async move {
            let stopped = |what: &str| ReadError::Store(format!("read stopped: {what}").into());
            let permit = reads.acquire_owned().await.map_err(|_| stopped("the engine is gone"))?;
            let read = tokio::task::spawn_blocking(move || {
                let page = shared.page(&log, after, limit);
                drop(permit);
                page
            });
            read.await.map_err(|error| stopped(&error.to_string()))?
        })
    }

    fn sweep(&self) {
        let now = self.shared.around.clock.now();
        for round in 0..CUTS_MAX {
            // Planned here, for it may look through much; the committer only writes floors down.
            let cut = self.shared.store.plan_cut(now, round).unwrap_or_else(|error| {
                tracing::error!(%error, "plan retention");
                None
            });
            let last = cut.is_none();
            let (done, wait) = mpsc::sync_channel(1);
            let asked = self.shared.queue.push(Request::Sweep { cut, done });
            // An error means that the committer has stopped, and it says so itself.
            if asked.is_err() || wait.recv().is_err() || last {
                break;
            }
        }
    }

    fn halted(&self) -> Option<Arc<str>> {
        self.shared.halted.get().cloned()
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn close(&self) {
        self.stop(true);
    }
}

impl<S: Store> Drop for LocalEngine<S> {
    /// Without `close` before it, this is an unclean stop: what waits is dropped unanswered.
    fn drop(&mut self) {
        self.stop(false);
    }
}

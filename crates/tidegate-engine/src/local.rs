//! The engine of a node that keeps its logs itself, in memory or on its own disk.
//!
//! Everything is decided (seqs, epochs, dedup, retention) on one thread, the committer. This file is
//! what callers use: appends, opens and sweeps go through a bounded queue to that thread; reads go
//! straight to the store.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tidegate_core::{LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq, UnixMillis, time};
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    AppendError, Appended, DeleteError, Durability, Engine, Health, Hooks, OrgLog, Page, PageLimit,
    ReadError,
    chain::{Chain, Epochs, Start},
    clock::capped_millis,
    commit_clock::{CommitClock, News, Time},
    committer::Committer,
    memory::MemoryStore,
    queue::{Queue, Refused, Request},
    quotas::StoredQuotas,
    store::{Found, LogIndex, Recovery, Store, StoreError, Stretch, Usage},
    watched::Watched,
};

/// The most cuts of retention in one sweep, so that a sweep ends.
const CUTS_MAX: usize = 64;
/// How long the cutter waits after it has found nothing to remove. A stop of the engine may wait that long.
const CUT_AGAIN: Duration = Duration::from_millis(100);
/// How long after an error the cutter looks again for what earlier cuts have left.
const FINISH_AGAIN: Duration = Duration::from_secs(10);
/// The most reads that wait for a disk at a time; further ones wait for their turn. A few keep a disk
/// busy, and each takes a thread.
const READS_MAX: usize = 8;
/// The memory engine remembers an idle org for this much longer than the node keeps its tail. It is more
/// than the minute between two sweeps, so the node drops the tail before the engine forgets the log.
/// Otherwise the org's next log, whose seqs begin at 1 again, would be fed to the old tail, and that
/// would skip the first events as if it had them already.
const FORGET_LATER_MILLIS: u64 = 2 * 60_000;

/// What a log takes in memory beside what its store keeps of it, about: it is in two maps, and has a name and
/// an epoch with a few ancestors.
const LOG_MEMORY: usize = 2 * size_of::<(OrgId, Arc<Log>)>() + size_of::<Log>() + 256;

/// A log that is found at a start is remembered for at least this long, so that its readers can come back.
const GRACE_MILLIS: u64 = 3_600_000;

/// The settings that both local engines have. There are no defaults here: those of a node stand in
/// its configuration.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// `dedup.window`: how long an id is known.
    pub dedup_window: Duration,
    /// `dedup.max_entries`: the most ids that are known at a time.
    pub dedup_max_entries: usize,
    /// `dedup.max_entries_per_org`: the most of them that one org may have.
    pub dedup_max_entries_per_org: usize,
    /// `limits.orgs`: the most orgs that the node holds.
    pub orgs_max: usize,
    /// The most appends and opens that wait for the log.
    pub queue_requests_max: usize,
    /// The most bytes of events that wait for the log; has to hold one whole request.
    pub queue_bytes_max: usize,
}

/// The settings of the memory engine.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// The settings that both local engines have.
    pub local: LocalOptions,
    /// `tail.window`: how long events are kept. Idle orgs are remembered for somewhat longer.
    pub window: Duration,
    /// `log.max_bytes`: the most bytes of events that the node keeps.
    pub max_bytes: u64,
}

/// One org's log as the node knows it.
pub(super) struct Log {
    pub index: LogIndex,
    pub now: RwLock<LogNow>,
    /// When it was last written to, opened, or left by a reader, as [`Time::passed`]: the log is not
    /// forgotten early because the clock was set ahead.
    pub touched: AtomicU64,
}

/// The state of a log. Written by the committer alone, after the sync.
pub(super) struct LogNow {
    /// Its epochs; `None` until it is touched for the first time since this start.
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

    /// The floor and the head.
    pub fn bounds(&self) -> (Seq, Seq) {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        (now.floor, now.head)
    }
}

/// The state that the committer and the callers share.
pub(super) struct Shared<S> {
    pub store: S,
    pub options: LocalOptions,
    pub forget_after: u64,
    pub durability: Durability,
    pub logs: RwLock<HashMap<OrgId, Arc<Log>>>,
    pub queue: Queue,
    pub hooks: Hooks,
    pub clock: Mutex<CommitClock>,
    pub watched: Watched,
    pub health: watch::Sender<Health>,
    /// How many ids the dedup window holds, and the bytes that they take, as the committer last said.
    pub ids: [AtomicU64; 2],
}

impl<S: Store> Shared<S> {
    pub fn log(&self, org: &OrgId) -> Option<Arc<Log>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).get(org).cloned()
    }

    /// What the commit clock says, which is the time of all that this engine does (R30).
    pub fn time(&self) -> Time {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = self.hooks.clock.now();
        let (time, news) = clock.read(wall, self.hooks.clock.steady());
        drop(clock);
        let (clock, log) = (Utc(wall), Utc(time.now));
        match news {
            None => {}
            Some(News::Leapt) => {
                tracing::warn!(%clock, %log, "the clock leapt ahead, and the log does not follow it yet");
            }
            Some(News::CameBack) => tracing::info!(%clock, %log, "the clock came back from its leap"),
            Some(News::Followed) => {
                tracing::warn!(%clock, %log, "the clock is still where it leapt to, and the log follows it now");
            }
            Some(News::Ahead) => {
                let seconds = time.ahead.as_secs();
                tracing::warn!(%clock, %log, seconds, "the time of the log is ahead of the clock");
            }
        }
        time
    }

    /// The state of a log for reading, if the engine has halted. It begins no epoch, because it cannot write one: a
    /// log that was not used since the start goes on in its last one, which ends at its head, and which the next
    /// start knows. A log that does not exist cannot be created.
    pub fn open_halted(&self, org: &OrgId) -> Result<LogState, AppendError> {
        // An engine that was closed may still write what it has taken. After a halt nothing changes the log.
        if !matches!(*self.health.borrow(), Health::Halted(_)) {
            return Err(AppendError::Halted);
        }
        let log = self.log(org).ok_or(AppendError::Halted)?;
        if let Some(state) = log.state() {
            return Ok(state);
        }
        let chain = self.store.chain(log.index).ok_or(AppendError::Halted)?;
        let mut now = log.now.write().unwrap_or_else(PoisonError::into_inner);
        let (head, floor) = (now.head, now.floor);
        Ok(now.chain.get_or_insert(chain).state(head, floor))
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
        let Stretch { after: begin, mut events, to } = if from < bound {
            self.store
                .read(log.index, from, bound, limit.events.max(1), limit.bytes)
                .map_err(|error| ReadError::Store(error.0))?
        } else {
            Stretch { after: from, events: Vec::new(), to: bound }
        };
        // Retention may have removed events during the read. It raises the floor before it removes them,
        // so what it removed is not above the floor as it is now.
        let (floor, _) = log.bounds();
        let after = after.max(begin).max(floor);
        events.retain(|event| event.seq > after);
        Ok(Page { after, to: to.max(after), events })
    }
}

/// The cutter: removes events of logs that hold more than their share, each time the committer wakes it because the
/// store is larger than it may be, and after each sweep. It ends with the committer.
fn cut_by_share<S: Store>(shared: &Shared<S>, woken: &mpsc::Receiver<()>) {
    // When to look for what earlier cuts have left: at first for those that the last stop has interrupted.
    let mut finish_at = Some(Instant::now());
    while woken.recv().is_ok() {
        if finish_at.is_some_and(|at| at <= Instant::now()) {
            finish_at = match shared.store.finish_share_cuts(&|| !shared.queue.is_closed()) {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, "events of orgs that store more than their share are not removed yet");
                    Some(Instant::now() + FINISH_AGAIN)
                }
            };
        }
        loop {
            match cut_once(shared) {
                Ok(true) => {}
                // The committer wakes it with each commit until there is room, and not each finds something to remove.
                Ok(false) => break std::thread::sleep(CUT_AGAIN),
                Err(error) => {
                    tracing::warn!(%error, "events of orgs that store more than their share are not removed yet");
                    finish_at.get_or_insert_with(|| Instant::now() + FINISH_AGAIN);
                    break std::thread::sleep(CUT_AGAIN);
                }
            }
        }
    }
}

/// Says whether there was something to remove.
fn cut_once<S: Store>(shared: &Shared<S>) -> Result<bool, StoreError> {
    let Some(cut) = shared.store.plan_share_cut(shared.time().now)? else { return Ok(false) };
    let (done, wait) = mpsc::sync_channel(1);
    let asked = shared.queue.push(Request::Cut { cut: cut.clone(), done });
    // An error means that the committer has stopped.
    if asked.is_err() || !wait.recv().unwrap_or(false) {
        return Ok(false);
    }
    shared.store.apply_share_cut(&cut, &|| !shared.queue.is_closed())?;
    Ok(true)
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| StoreError::new("start a thread of the log", error))
}

/// A time as log lines have it.
struct Utc(UnixMillis);

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = BytesMut::new();
        time::write_rfc3339(&mut text, self.0);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// An engine over a store of this process.
pub struct LocalEngine<S: Store> {
    shared: Arc<Shared<S>>,
    reads: Arc<Semaphore>,
    /// The committer and the cutter, in the order in which they end.
    threads: Mutex<Vec<JoinHandle<()>>>,
    recovery: Recovery,
}

impl LocalEngine<MemoryStore> {
    /// An engine that keeps the events of the last minutes in memory.
    pub fn memory(options: MemoryOptions, hooks: Hooks) -> Result<Self, StoreError> {
        let window = capped_millis(options.window);
        let store = MemoryStore::new(window, options.max_bytes);
        // A log is not forgotten while the dedup window may still name seqs of it.
        let forget_after = window.max(capped_millis(options.local.dedup_window)) + FORGET_LATER_MILLIS;
        let found = Found { start: Start { number: 1, ..Start::default() }, ..Found::default() };
        Self::over(store, found, options.local, forget_after, Durability::Memory, hooks)
    }
}

impl<S: Store> LocalEngine<S> {
    /// An engine over `store`, which holds `found`. Logs that hold no events and were not touched for
    /// `forget_after` milliseconds are forgotten.
    pub fn over(
        store: S,
        found: Found,
        options: LocalOptions,
        forget_after: u64,
        durability: Durability,
        hooks: Hooks,
    ) -> Result<Self, StoreError> {
        let epochs = Epochs::from_system().map_err(|error| StoreError::new("draw an epoch", error))?;
        let recovery = found.recovery();
        let clock = CommitClock::begin(found.clock, hooks.clock.now(), hooks.clock.steady());
        let began = clock.now();
        let grace = began - forget_after.saturating_sub(GRACE_MILLIS).min(began);
        let logs = found.logs.iter().map(|log| {
            let now =
                LogNow { chain: None, head: log.head, floor: log.floor, last_timestamp: log.last_timestamp };
            let entry = Log {
                index: log.index,
                now: RwLock::new(now),
                touched: AtomicU64::new(log.touched.clamp(grace, began)),
            };
            (log.org.clone(), Arc::new(entry))
        });
        let shared = Arc::new(Shared {
            store,
            forget_after,
            durability,
            logs: RwLock::new(logs.collect()),
            queue: Queue::new(options.queue_requests_max, options.queue_bytes_max),
            clock: Mutex::new(clock),
            hooks,
            watched: Watched::default(),
            health: watch::Sender::new(Health::Ok),
            ids: Default::default(),
            options,
        });
        let reads = Arc::new(Semaphore::new(READS_MAX));
        let (wake, woken) = mpsc::sync_channel(1);
        let committer = Committer::begin(shared.clone(), found, epochs, wake)?;
        let mut threads = vec![start_thread("tidegate-log", move || committer.run())?];
        if shared.store.blocks() {
            let shared = shared.clone();
            threads.push(start_thread("tidegate-cut", move || cut_by_share(&shared, &woken))?);
        }
        Ok(Self { shared, reads, threads: Mutex::new(threads), recovery })
    }

    /// What was found when the log was opened.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The bytes of the events that are kept, in the store's own measure.
    pub fn bytes(&self) -> u64 {
        self.shared.store.bytes()
    }

    /// How far the commit clock is ahead of the wall clock. If that is more than a moment, the wall clock was
    /// set back, or it was wrong for more than 10 minutes (R30).
    pub fn clock_ahead(&self) -> Duration {
        self.shared.time().ahead
    }

    /// How many orgs the node holds.
    pub fn orgs(&self) -> usize {
        self.shared.logs.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn stop(&self, clean: bool) {
        self.shared.queue.close(clean);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }

    fn delete(&self, org: &OrgId, seqs: Option<Vec<Seq>>) -> BoxFuture<'static, Result<(), DeleteError>> {
        let (answer, answered) = oneshot::channel();
        let taken = self.shared.queue.push(Request::Delete { org: org.clone(), seqs, answer });
        Box::pin(async move {
            match taken {
                Ok(()) => answered.await.unwrap_or(Err(DeleteError::Unknown)),
                Err(_) => Err(DeleteError::Halted),
            }
        })
    }

    /// Carries out the erasures that wait. If that fails, the next sweep tries again.
    fn erase(&self) {
        let erasures = self.shared.store.erasures();
        if erasures.is_empty() {
            return;
        }
        match self.shared.store.erase(&erasures) {
            Ok(()) => drop(self.shared.queue.push(Request::Erased { erasures })),
            Err(error) => tracing::warn!(%error, "content that was deleted is still in a file of the log"),
        }
    }

    /// The state of a log that has an epoch of this start already; marks it as in use.
    fn opened(&self, org: &OrgId) -> Option<LogState> {
        let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
        let log = logs.get(org)?;
        let state = log.state()?;
        // While the lock is held: the committer takes the write lock, looks at this time again, and only
        // then forgets a log.
        log.touched.fetch_max(self.shared.time().passed, Ordering::Relaxed);
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
        let refused = match self.shared.queue.push(Request::Open { org: org.clone(), answer }) {
            Ok(()) => return Box::pin(async move { answered.await.unwrap_or(Err(AppendError::Unknown)) }),
            Err(Refused::Closed) => self.shared.open_halted(org),
            Err(refused) => Err(self.shared.refusal(refused)),
        };
        Box::pin(std::future::ready(refused))
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

    fn watch(&self, org: &OrgId) {
        self.shared.watched.add(org);
    }

    fn unwatch(&self, org: &OrgId) {
        // Before the count falls, so that no sweep finds the log unwatched and not used for long.
        if let Some(log) = self.shared.log(org) {
            log.touched.fetch_max(self.shared.time().passed, Ordering::Relaxed);
        }
        self.shared.watched.remove(org);
    }

    fn sweep(&self) {
        // The commit clock: to a store the time never falls, and no leap ahead is seen before it is believed.
        let now = self.shared.time().now;
        for round in 0..CUTS_MAX {
            // Planned on this thread, because planning may read a lot. The committer makes the cut.
            let cut = self.shared.store.plan_cut(now, round).unwrap_or_else(|error| {
                tracing::error!(%error, "plan retention");
                None
            });
            let last = cut.is_none();
            let (done, wait) = mpsc::sync_channel(1);
            let asked = self.shared.queue.push(Request::Sweep { cut, done });
            // An error means that the committer has stopped; it has logged why.
            if asked.is_err() || wait.recv().is_err() {
                return;
            }
            if last {
                break;
            }
        }
        // Last, because the store makes itself ready for it when the committer sweeps, and retention may have removed
        // much of it.
        self.erase();
    }

    fn list_orgs(&self) -> BoxFuture<'static, Vec<OrgLog>> {
        let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
        let orgs = logs.iter().map(|(org, log)| {
            let now = log.now.read().unwrap_or_else(PoisonError::into_inner);
            OrgLog {
                org: org.clone(),
                floor: now.floor,
                head: now.head,
                last_timestamp: now.last_timestamp,
                stored_bytes: self.shared.store.held(log.index),
            }
        });
        let mut orgs: Vec<OrgLog> = orgs.collect();
        orgs.sort_unstable_by(|a, b| a.org.cmp(&b.org));
        Box::pin(std::future::ready(orgs))
    }

    fn delete_org(&self, org: &OrgId) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.delete(org, None)
    }

    fn delete_events(&self, org: &OrgId, seqs: Vec<Seq>) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.delete(org, Some(seqs))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    fn usage(&self) -> Usage {
        let of_store = self.shared.store.usage();
        let [ids, ids_bytes] = [0, 1].map(|at: usize| self.shared.ids[at].load(Ordering::Relaxed));
        Usage {
            memory_bytes: of_store.memory_bytes + (self.orgs() * LOG_MEMORY) as u64,
            ids,
            ids_bytes,
            queue_bytes: self.shared.queue.bytes() as u64,
            clock_ahead: self.clock_ahead(),
            ..of_store
        }
    }

    fn set_stored_quotas(&self, quotas: StoredQuotas) {
        self.shared.store.set_quotas(quotas);
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn close(&self) {
        self.stop(true);
    }
}

impl<S: Store> Drop for LocalEngine<S> {
    /// Without `close` before it, this is an unclean stop: requests that wait are dropped unanswered.
    fn drop(&mut self) {
        self.stop(false);
    }
}

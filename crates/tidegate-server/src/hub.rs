//! The tails of a node's orgs: what an engine commits goes from here to the workers that have readers.
//!
//! The engine feeds it in seq order (R13). A commit notifies each worker that has readers of the org. Further
//! commits do not notify that worker again until it has taken its notifications. Full batches are sealed
//! here, others by the fan-out pass that serves them. The hub sends nothing itself.
//!
//! It also keeps what workers share to compress batches over WebSocket (R18): for each org its *generations*,
//! which are streams of deflate, one for each set of readers that see the same. Each generation has a
//! compressor of about 260 KiB, called a *context*; [`Contexts`] counts those of all orgs and bounds them
//! (`compression.max_contexts`).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate_core::{
    BatchLimits, Budget, Event, Tail,
    deflate::{Contexts, Generations},
};
use tidegate_engine::{Clock, Feed};
use tidegate_protocol::{OrgId, Seq, time::millis};
use tokio::sync::Notify;

/// One org: its tail, and which workers have readers of it.
#[derive(Debug)]
pub struct Org {
    /// Its name.
    pub id: OrgId,
    tail: Mutex<Tail>,
    generations: Mutex<Generations>,
    workers: Box<[OnWorker]>,
}

/// One org as one worker has it; `Org::workers` has one for each worker, by the worker's number.
#[derive(Debug, Default)]
struct OnWorker {
    /// How many readers of the org it has.
    readers: AtomicUsize,
    /// Whether the org is among the notifications that it has not taken yet.
    is_notified: AtomicBool,
}

impl Org {
    /// Its tail.
    pub fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its generations, see the head of this file. Do not hold this lock and that of the tail together.
    pub fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reader on `worker`. From now on every commit to the org notifies that worker. First call
    /// this, then check that the tail has nothing more for the reader. In the other order, a commit in
    /// between would notify nobody.
    pub fn arrive(&self, worker: usize) {
        self.workers[worker].readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Undoes one call of [`Org::arrive`].
    pub fn leave(&self, worker: usize) {
        self.workers[worker].readers.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_readers(&self) -> bool {
        self.workers.iter().any(|worker| worker.readers.load(Ordering::SeqCst) > 0)
    }
}

/// The orgs that have new events for one worker.
#[derive(Debug, Default)]
pub struct Notifications {
    orgs: Mutex<Vec<Arc<Org>>>,
    has_orgs: Notify,
}

impl Notifications {
    fn notify(&self, worker: usize, org: &Arc<Org>) {
        // If the org is queued already, the worker has not looked yet and will find these events, too.
        if !org.workers[worker].is_notified.swap(true, Ordering::SeqCst) {
            self.orgs.lock().unwrap_or_else(PoisonError::into_inner).push(org.clone());
            self.has_orgs.notify_one();
        }
    }

    /// Takes the orgs that have new events, each once.
    pub fn take(&self, worker: usize) -> Vec<Arc<Org>> {
        let orgs = std::mem::take(&mut *self.orgs.lock().unwrap_or_else(PoisonError::into_inner));
        for org in &orgs {
            // Before the worker looks at the tail: a commit after that look has to notify again.
            org.workers[worker].is_notified.store(false, Ordering::SeqCst);
        }
        orgs
    }

    /// Waits until an org has new events.
    pub async fn notified(&self) {
        self.has_orgs.notified().await;
    }
}

/// Bounds of the tails.
#[derive(Debug, Clone, Copy)]
pub struct HubLimits {
    /// How long batches stay.
    pub window: Duration,
    /// The most bytes of all tails together.
    pub bytes: usize,
    /// The most bytes of one tail.
    pub org_bytes: usize,
    /// When a batch is full.
    pub batch: BatchLimits,
    /// The most contexts (compressors) at a time, over all orgs.
    pub contexts: usize,
}

/// All tails of a node.
pub struct Hub {
    orgs: Mutex<HashMap<OrgId, Arc<Org>>>,
    budget: Arc<Budget>,
    limits: HubLimits,
    /// Batches age by its steady time. By the wall clock, a tail could outlive its log after the clock was set
    /// back, and take the events of the org's next log for seen.
    clock: Arc<dyn Clock>,
    notifications: Vec<Arc<Notifications>>,
    /// Notified when the tails together are over their budget.
    over: Notify,
    contexts: Arc<Contexts>,
}

impl Hub {
    /// A hub for `workers` workers.
    pub fn new(workers: usize, limits: HubLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            orgs: Mutex::default(),
            budget: Arc::default(),
            limits,
            clock,
            notifications: (0..workers).map(|_| Arc::default()).collect(),
            over: Notify::new(),
            contexts: Arc::new(Contexts::new(limits.contexts)),
        }
    }

    /// Counts the bytes of all tails.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Counts the compressors of all orgs.
    pub fn contexts(&self) -> &Arc<Contexts> {
        &self.contexts
    }

    /// The notifications for `worker`.
    pub fn notifications(&self, worker: usize) -> Arc<Notifications> {
        self.notifications[worker].clone()
    }

    /// How many orgs have a tail.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no org has a tail.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrgId, Arc<Org>>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The org; if the hub does not have it, it gets an empty tail that begins after `head`. If the log has
    /// grown past `head` meanwhile, the tail begins anew at the next commit; what is in between is read from
    /// the log.
    pub fn org(&self, id: &OrgId, head: Seq) -> Arc<Org> {
        match self.lock().entry(id.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry
                .insert(Arc::new(Org {
                    id: id.clone(),
                    tail: Mutex::new(Tail::new(head, self.budget.clone())),
                    generations: Mutex::new(Generations::new(self.contexts.clone())),
                    workers: self.notifications.iter().map(|_| OnWorker::default()).collect(),
                }))
                .clone(),
        }
    }

    /// Drops what is older than the window, forgets orgs that have neither batches nor readers, and brings
    /// all tails under the budget.
    pub fn sweep(&self) {
        let oldest_kept = self.clock.steady().saturating_sub(millis(self.limits.window));
        self.lock().retain(|_, org| {
            org.generations().sweep();
            let is_empty = {
                let mut tail = org.tail();
                // Events that came before the last reader left may still be in the open batch, and no pass
                // will seal it now.
                tail.seal(self.clock.steady());
                tail.drop_before(oldest_kept);
                tail.is_empty()
            };
            // If the count is 1, only this map holds the org. Others can get it only from the map, which is
            // locked.
            !is_empty || Arc::strong_count(org) > 1
        });
        self.shrink();
    }

    /// Waits until the tails together are over their budget.
    pub async fn over_budget(&self) {
        self.over.notified().await;
    }

    /// Brings all tails under nine tenths of the budget, the largest first.
    fn shrink(&self) {
        if self.budget.used() <= self.limits.bytes {
            return;
        }
        let mut orgs: Vec<_> = self.lock().values().map(|org| (org.tail().memory(), org.clone())).collect();
        orgs.sort_by_key(|(bytes, org)| (std::cmp::Reverse(*bytes), org.id.clone()));
        let goal = self.limits.bytes / 10 * 9;
        for (_, org) in orgs {
            let mut tail = org.tail();
            let half = tail.memory() / 2;
            while self.budget.used() > goal && tail.memory() > half && !tail.is_empty() {
                tail.drop_oldest();
            }
        }
    }
}

impl Feed for Hub {
    fn committed(&self, id: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        let org = self.org(id, prev);
        {
            let now = self.clock.steady();
            let mut tail = org.tail();
            tail.push(prev, events, now, self.limits.batch);
            if !org.has_readers() {
                // Without readers no pass will come to seal these events. (A reader that is still catching up
                // counts as a reader: the events stay open, and once it has caught up, it asks for a pass.)
                tail.seal(now);
            }
            tail.drop_before(now.saturating_sub(millis(self.limits.window)));
            let is_over = || self.budget.used() > self.limits.bytes;
            while !tail.is_empty() && (tail.memory() > self.limits.org_bytes || is_over()) {
                tail.drop_oldest();
            }
            if is_over() {
                // Other tails hold the memory. They are shortened on another thread, because this one is the
                // log's.
                self.over.notify_one();
            }
        }
        for (worker, notifications) in self.notifications.iter().enumerate() {
            if org.workers[worker].readers.load(Ordering::SeqCst) > 0 {
                notifications.notify(worker, &org);
            }
        }
    }
}

//! The tails of a node's orgs: what an engine commits goes from here to the workers that have readers.
//!
//! The engine feeds it in seq order (R13); it notifies each worker that has readers of the org, once.
//! Full batches are sealed here, others by the fan-out pass that serves them. It sends nothing itself.

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
    workers: Box<[Presence]>,
}

#[derive(Debug, Default)]
struct Presence {
    readers: AtomicUsize,
    is_notified: AtomicBool,
}

impl Org {
    /// Its tail.
    pub fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its compressors. The tail must not be locked meanwhile.
    pub fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reader on `worker`, which is notified from now on. Call this before the final look at the
    /// tail, or a commit in between is missed.
    pub fn arrive(&self, worker: usize) {
        self.workers[worker].readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes that back.
    pub fn leave(&self, worker: usize) {
        self.workers[worker].readers.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_readers(&self) -> bool {
        self.workers.iter().any(|presence| presence.readers.load(Ordering::SeqCst) > 0)
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
        // If it is queued already, the next pass takes these events along.
        if !org.workers[worker].is_notified.swap(true, Ordering::SeqCst) {
            self.orgs.lock().unwrap_or_else(PoisonError::into_inner).push(org.clone());
            self.has_orgs.notify_one();
        }
    }

    /// Takes the orgs that have new events, each once.
    pub fn take(&self, worker: usize) -> Vec<Arc<Org>> {
        let orgs = std::mem::take(&mut *self.orgs.lock().unwrap_or_else(PoisonError::into_inner));
        for org in &orgs {
            // Before the worker looks at the tail, so that a later commit notifies again.
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
    /// Bytes of all tails.
    pub bytes: usize,
    /// Bytes of one.
    pub org_bytes: usize,
    /// When a batch is full.
    pub batch: BatchLimits,
    /// Compressors at the same time, over all orgs.
    pub contexts: usize,
}

/// All tails of a node.
pub struct Hub {
    orgs: Mutex<HashMap<OrgId, Arc<Org>>>,
    budget: Arc<Budget>,
    limits: HubLimits,
    clock: Arc<dyn Clock>,
    notifications: Vec<Arc<Notifications>>,
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

    /// What all tails are charged to.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The compressors of all orgs.
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

    /// Whether no org has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrgId, Arc<Org>>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The org, with an empty tail at `head` if it has none. If `head` is out of date by then, the next
    /// commit corrects it.
    pub fn org(&self, id: &OrgId, head: Seq) -> Arc<Org> {
        match self.lock().entry(id.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry
                .insert(Arc::new(Org {
                    id: id.clone(),
                    tail: Mutex::new(Tail::new(head, self.budget.clone())),
                    generations: Mutex::new(Generations::new(self.contexts.clone())),
                    workers: self.notifications.iter().map(|_| Presence::default()).collect(),
                }))
                .clone(),
        }
    }

    /// Drops what is older than the window, forgets orgs that have neither batches nor readers, and brings
    /// all tails under the budget.
    pub fn sweep(&self) {
        let oldest_kept = self.clock.now().saturating_sub(millis(self.limits.window));
        self.lock().retain(|_, org| {
            org.generations().sweep();
            let is_empty = {
                let mut tail = org.tail();
                // The last reader that went may have left events open.
                tail.seal(self.clock.now());
                tail.drop_before(oldest_kept);
                tail.is_empty()
            };
            // Everybody who holds the org got it from this map, and with the map locked nobody can.
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
            let now = self.clock.now();
            let mut tail = org.tail();
            tail.push(prev, events, now, self.limits.batch);
            if !org.has_readers() {
                // No pass will come. A reader that comes meanwhile has what is open served by a pass.
                tail.seal(now);
            }
            tail.drop_before(now.saturating_sub(millis(self.limits.window)));
            let is_over = || self.budget.used() > self.limits.bytes;
            while !tail.is_empty() && (tail.memory() > self.limits.org_bytes || is_over()) {
                tail.drop_oldest();
            }
            if is_over() {
                // Other tails hold the memory. They are shortened on another thread than the log's.
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

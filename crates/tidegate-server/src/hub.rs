//! The tails of a node's orgs: what an engine commits goes from here to the workers that have readers.
//!
//! The engine feeds it in seq order (R13). A commit notifies each worker that has readers of the org. Further
//! commits do not notify that worker again until it has taken its notifications. Full batches are sealed
//! here, others by the fan-out pass that serves them. The hub sends nothing itself.
//!
//! The engine also tells it what was deleted. A tail that holds deleted events is emptied. A deleted log
//! takes its [`Org`] with it: its readers keep that until they have ended, and the org's next log gets
//! another one, so they cannot see its events.
//!
//! It also keeps what workers share to compress batches over WebSocket (R18): for each org its *generations*,
//! which are streams of deflate, one for each set of readers that see the same. Each generation has a
//! compressor of about 260 KiB, called a *context*; [`Contexts`] counts those of all orgs and bounds them
//! (`compression.max_contexts`).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
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

/// One org, or rather one log of it: its tail, and which workers have readers of it.
#[derive(Debug)]
pub struct Org {
    /// Its name.
    pub id: OrgId,
    /// Tells it from others with its name, whose logs were deleted.
    pub number: u64,
    tail: Mutex<Tail>,
    generations: Generations,
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

    /// Its generations, see the head of this file.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Counts a reader on `worker`. From now on every commit to the org notifies that worker. First call
    /// this, then check that the tail has nothing more for the reader. In the other order, a commit in
    /// between would notify nobody.
    pub fn arrive(&self, worker: usize) {
        self.workers[worker].readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Undoes one call of [`Org::arrive`]. The last reader leaves the compressors to other orgs.
    pub fn leave(&self, worker: usize) {
        self.workers[worker].readers.fetch_sub(1, Ordering::SeqCst);
        if !self.has_readers() {
            self.generations.clear();
        }
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
    /// How many orgs it has had.
    orgs_made: AtomicU64,
    deletions: AtomicU64,
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
            orgs_made: AtomicU64::default(),
            deletions: AtomicU64::default(),
            budget: Arc::new(Budget::within(limits.bytes)),
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

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.notifications.len()
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
        self.entry(&mut self.lock(), id, head)
    }

    /// The org, for a reader that has opened its log. `head` gives the present head of that log, `None` if it
    /// was deleted. It is called while no deletion can reach the hub, so the org that is returned is that of
    /// this log.
    pub fn open(&self, id: &OrgId, head: impl FnOnce() -> Option<Seq>) -> Option<Arc<Org>> {
        let mut orgs = self.lock();
        let head = head()?;
        Some(self.entry(&mut orgs, id, head))
    }

    fn entry(&self, orgs: &mut HashMap<OrgId, Arc<Org>>, id: &OrgId, head: Seq) -> Arc<Org> {
        match orgs.entry(id.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry
                .insert(Arc::new(Org {
                    id: id.clone(),
                    number: self.orgs_made.fetch_add(1, Ordering::Relaxed),
                    tail: Mutex::new(Tail::within(self.limits.org_bytes, head, self.budget.clone())),
                    generations: Generations::new(self.contexts.clone(), id.clone()),
                    workers: self.notifications.iter().map(|_| OnWorker::default()).collect(),
                }))
                .clone(),
        }
    }

    /// How many deletions there were. What was read of a log before the latest may hold deleted events.
    pub fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::SeqCst)
    }

    /// Notifies the workers that have readers of `org`.
    fn notify(&self, org: &Arc<Org>) {
        for (worker, notifications) in self.notifications.iter().enumerate() {
            if org.workers[worker].readers.load(Ordering::SeqCst) > 0 {
                notifications.notify(worker, org);
            }
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
            while self.budget.used() > goal && tail.memory() > half && tail.has_batches() {
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
            while tail.has_batches() && (tail.memory() > self.limits.org_bytes || is_over()) {
                tail.drop_oldest();
            }
            if is_over() {
                // Other tails hold the memory. They are shortened on another thread, because this one is the
                // log's.
                self.over.notify_one();
            }
        }
        self.notify(&org);
    }

    fn org_deleted(&self, id: &OrgId) {
        self.deletions.fetch_add(1, Ordering::SeqCst);
        let org = self.lock().remove(id);
        if let Some(org) = org {
            org.tail().forget();
        }
    }

    fn events_deleted(&self, id: &OrgId, seqs: &[Seq]) {
        self.deletions.fetch_add(1, Ordering::SeqCst);
        let org = self.lock().get(id).cloned();
        let Some(org) = org else { return };
        {
            let mut tail = org.tail();
            if seqs.iter().all(|seq| *seq <= tail.start()) {
                return;
            }
            tail.forget();
        }
        // Readers that do not have all of it get the rest from the log.
        self.notify(&org);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_core::Batch;
    use tidegate_engine::SystemClock;
    use tidegate_protocol::ServiceName;

    use super::*;

    fn acme() -> OrgId {
        OrgId::parse("acme").expect("a name")
    }

    fn hub() -> Hub {
        hub_of(1 << 20)
    }

    fn hub_of(bytes: usize) -> Hub {
        let batch = BatchLimits { events: 100, bytes: 64 << 10 };
        let window = Duration::from_secs(600);
        let limits = HubLimits { window, bytes, org_bytes: bytes, batch, contexts: 1 };
        Hub::new(1, limits, Arc::new(SystemClock))
    }

    fn event(seq: Seq) -> Arc<Event> {
        let service = ServiceName::parse("s").expect("a name");
        Arc::new(Event { seq, timestamp: 1, service, users: None, fragment: Bytes::from("\"seq\":1") })
    }

    fn commit(hub: &Hub, seqs: std::ops::RangeInclusive<Seq>) {
        hub.committed(&acme(), seqs.start() - 1, &seqs.map(event).collect::<Vec<_>>());
    }

    /// The head of a tail, and whether it is empty.
    fn held(org: &Org) -> (Seq, bool) {
        let tail = org.tail();
        (tail.head(), tail.is_empty())
    }

    /// The thread of the log must come back, though nothing that this tail can drop makes room.
    #[test]
    fn p6_a_commit_ends_if_others_hold_all_the_memory_and_its_events_wait_for_a_pass() {
        let hub = hub_of(1);
        let elsewhere = Batch::new(0, 1, 1, vec![event(1)], &hub.budget);
        assert!(hub.budget.used() > 1, "over its bound");
        let org = hub.org(&acme(), 0);
        org.arrive(0);
        commit(&hub, 1..=1);
        assert_eq!(held(&org), (0, false), "they are open, so they are in no batch");
        hub.shrink();
        drop(elsewhere);
    }

    #[test]
    fn p7_the_log_after_a_deleted_one_has_an_org_of_its_own() {
        let hub = hub();
        commit(&hub, 1..=5);
        let old = hub.open(&acme(), || Some(5)).expect("an org");
        assert!(Arc::ptr_eq(&old, &hub.org(&acme(), 9)));
        hub.org_deleted(&acme());
        assert_eq!((hub.len(), hub.deletions(), hub.budget().used()), (0, 1, 0));
        assert!(hub.open(&acme(), || None).is_none(), "its log is gone");
        assert_eq!(hub.len(), 0);
        commit(&hub, 1..=2);
        let new = hub.open(&acme(), || Some(2)).expect("an org");
        assert!(!Arc::ptr_eq(&old, &new) && old.number != new.number);
        assert_eq!(held(&old), (5, true), "its readers see nothing of it");
        assert_eq!(held(&new), (2, false));
    }

    #[test]
    fn p7_a_tail_without_the_deleted_events_stays_as_it_is() {
        let hub = hub();
        commit(&hub, 4..=6);
        let org = hub.org(&acme(), 6);
        hub.events_deleted(&acme(), &[1, 3]);
        assert_eq!((hub.deletions(), held(&org)), (1, (6, false)), "only pages are concerned");
        org.arrive(0);
        hub.events_deleted(&acme(), &[3, 5]);
        assert_eq!((hub.deletions(), held(&org)), (2, (6, true)));
        assert_eq!(hub.notifications(0).take(0).len(), 1, "readers that lack some of it are to look");
    }
}

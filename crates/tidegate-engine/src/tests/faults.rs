//! Faults of the store, injected: nothing is promised before the sync, and a sync that failed is never
//! taken for one that worked.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use futures_util::FutureExt;
use tidegate_core::Event;

use super::{
    store::{Cut, Found, LogIndex, NoRoom, Store, StoreError, Stretch, WriteGroup},
    *,
};

/// When a test that has failed ends.
const FAILSAFE: std::time::Duration = std::time::Duration::from_secs(20);

/// What was called, in order.
type Calls = Arc<Mutex<Vec<&'static str>>>;

/// A store that stops at each commit of events until the test says how the commit goes.
struct Gated<S = MemoryStore> {
    inner: S,
    entered: mpsc::Sender<usize>,
    verdicts: Mutex<mpsc::Receiver<Verdict>>,
    acknowledges: AtomicUsize,
    fail_acknowledge: usize,
    calls: Calls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Fail,
    Panic,
}

impl<S: Store> Store for Gated<S> {
    fn chain(&self, index: LogIndex) -> Option<Chain> {
        self.inner.chain(index)
    }
    fn commit(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError> {
        if group.logs.is_empty() {
            return self.inner.commit(group);
        }
        self.entered.send(group.events()).unwrap();
        // A commit that no test asked for (a retry) must not wait for ever either.
        let verdict = self.verdicts.lock().unwrap().recv_timeout(FAILSAFE).unwrap();
        self.calls.lock().unwrap().push("sync");
        match verdict {
            Verdict::Keep => self.inner.commit(group),
            Verdict::Fail => Err(StoreError("sync the log: input/output error".into())),
            Verdict::Panic => panic!("a planned panic"),
        }
    }
    fn acknowledge(&self) -> Result<(), StoreError> {
        self.calls.lock().unwrap().push("head file");
        if self.acknowledges.fetch_add(1, Ordering::SeqCst) == self.fail_acknowledge {
            return Err(StoreError("write the head file: no space".into()));
        }
        Ok(())
    }
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError> {
        self.inner.read(index, after, to, events, bytes)
    }
    fn blocks(&self) -> bool {
        false
    }
    fn plan_cut(&self, now: UnixMillis, round: usize) -> Result<Option<Cut>, StoreError> {
        self.inner.plan_cut(now, round)
    }
    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError> {
        self.inner.apply_cut(cut)
    }
    fn cuts_on_write(&self) -> bool {
        true
    }
    fn tick(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.inner.tick(now)
    }
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}

/// Notes when the feed is called.
struct Noting(Arc<RecordingFeed>, Calls);

impl Feed for Noting {
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        self.1.lock().unwrap().push("feed");
        self.0.committed(org, prev, events);
    }

    fn org_deleted(&self, org: &OrgId) {
        self.0.org_deleted(org);
    }

    fn events_deleted(&self, org: &OrgId, seqs: &[Seq]) {
        self.0.events_deleted(org, seqs);
    }
}

struct Bench<S: Store = MemoryStore> {
    // Goes first: a committer that waits for a verdict then panics, and the engine's end does not
    // wait for it for ever when a test has failed.
    verdicts: mpsc::Sender<Verdict>,
    world: World,
    engine: LocalEngine<Gated<S>>,
    entered: mpsc::Receiver<usize>,
    calls: Calls,
}

fn bench(local: LocalOptions, fail_acknowledge: usize) -> Bench {
    let found = Found { start: Start { number: 1, ..Start::default() }, ..Found::default() };
    let store = MemoryStore::new(1_000_000, 1 << 20);
    bench_over(World::new(Kind::Memory), (store, found), local, fail_acknowledge)
}

fn bench_over<S: Store>(
    world: World,
    (inner, found): (S, Found),
    local: LocalOptions,
    fail_acknowledge: usize,
) -> Bench<S> {
    let (enter, entered) = mpsc::channel();
    let (verdicts, receive) = mpsc::channel();
    let calls = Calls::default();
    let store = Gated {
        inner,
        entered: enter,
        verdicts: Mutex::new(receive),
        acknowledges: AtomicUsize::new(0),
        fail_acknowledge,
        calls: calls.clone(),
    };
    let hooks = Hooks { feed: Arc::new(Noting(world.feed.clone(), calls.clone())), ..world.hooks() };
    let engine = LocalEngine::over(store, found, local, 1_000_000, Durability::Always, hooks).unwrap();
    calls.lock().unwrap().clear();
    Bench { world, engine, entered, verdicts, calls }
}

impl<S: Store> Bench<S> {
    fn send(&self, ids: &[&str]) -> futures_util::future::BoxFuture<'static, Result<Appended, AppendError>> {
        self.engine.append(&org("acme"), ids.iter().map(|id| event("acme", id)).collect())
    }

    /// Waits for a commit to begin; how many events it holds. The time is for tests that fail: a log
    /// that has halted begins no commit.
    fn enter(&self) -> usize {
        self.entered.recv_timeout(FAILSAFE).unwrap()
    }

    fn health(&self) -> Health {
        self.engine.health().borrow().clone()
    }

    fn fed(&self) -> usize {
        self.world.feed.count()
    }
}

#[test]
fn p3_nothing_is_answered_fed_or_readable_before_the_sync() {
    let bench = bench(LocalOptions::for_tests(), usize::MAX);
    let mut first = bench.send(&["a"]);
    assert_eq!(bench.enter(), 1);
    assert!((&mut first).now_or_never().is_none(), "answered before the sync");
    assert_eq!(bench.fed(), 0, "fed before the sync");
    assert!(bench.engine.head(&org("acme")).is_none());
    bench.verdicts.send(Verdict::Keep).unwrap();
    assert_eq!(seqs(&bench.world.block_on(first).unwrap()), [(1, false)]);
    assert_eq!(*bench.calls.lock().unwrap(), ["sync", "head file", "feed"]);

    let mut second = bench.send(&["b"]);
    assert_eq!(bench.enter(), 1);
    assert!((&mut second).now_or_never().is_none());
    assert_eq!(bench.engine.head(&org("acme")).unwrap().head, 1);
    let limit = PageLimit { events: 9, bytes: 9_999, to: SEQ_END };
    assert_eq!(bench.world.block_on(bench.engine.read(&org("acme"), 0, limit)).unwrap().to, 1);
    bench.verdicts.send(Verdict::Keep).unwrap();
    bench.world.block_on(second).unwrap();
}

#[test]
fn group_commit_takes_all_that_waits_and_r12_a_pending_duplicate_waits_with_it() {
    for verdict in [Verdict::Keep, Verdict::Fail] {
        let bench = bench(LocalOptions::for_tests(), usize::MAX);
        let first = bench.send(&["a"]);
        assert_eq!(bench.enter(), 1);
        let waiting = [bench.send(&["b", "c"]), bench.send(&["c", "d"]), bench.send(&["b"])];
        bench.verdicts.send(Verdict::Keep).unwrap();
        assert_eq!(bench.enter(), 3, "one group: b, c, d");
        let mut waiting = waiting;
        for sent in &mut waiting {
            assert!(sent.now_or_never().is_none(), "a duplicate of a pending id is pending");
        }
        bench.verdicts.send(verdict).unwrap();
        let answers = waiting.into_iter().map(|sent| bench.world.block_on(sent));
        let answers: Vec<_> = answers.map(|answer| answer.map(|appended| seqs(&appended))).collect();
        bench.world.block_on(first).unwrap();
        if verdict == Verdict::Keep {
            let stored = [vec![(2, false), (3, false)], vec![(3, true), (4, false)], vec![(2, true)]];
            assert_eq!(answers, stored.map(Ok));
            assert_eq!(bench.fed(), 4);
        } else {
            assert_eq!(answers, [const { Err(AppendError::Unknown) }; 3]);
        }
    }
}

#[test]
fn a_failed_sync_halts_the_log_and_is_never_retried() {
    let bench = bench(LocalOptions::for_tests(), usize::MAX);
    bench.verdicts.send(Verdict::Keep).unwrap();
    bench.world.block_on(bench.send(&["a"])).unwrap();
    let mut health = bench.engine.health();
    assert_eq!(*health.borrow_and_update(), Health::Ok);
    let failing = bench.send(&["b"]);
    assert_eq!([bench.enter(), bench.enter()], [1, 1]);
    let behind = bench.send(&["c"]);
    bench.verdicts.send(Verdict::Fail).unwrap();
    assert_eq!(bench.world.block_on(failing).unwrap_err(), AppendError::Unknown);
    assert_eq!(bench.world.block_on(behind).unwrap_err(), AppendError::Halted, "certainly not stored");
    assert_eq!(bench.world.block_on(bench.send(&["b"])).unwrap_err(), AppendError::Halted);
    assert!(health.has_changed().unwrap(), "who follows the health is woken");
    assert_eq!(bench.health(), Health::Halted("sync the log: input/output error".into()));
    assert_eq!((bench.fed(), bench.engine.head(&org("acme")).unwrap().head), (1, 1));
    assert!(bench.engine.open(&org("acme")).now_or_never().unwrap().is_ok(), "readers go on");
    bench.engine.sweep();
    bench.engine.close();
    assert!(bench.entered.try_recv().is_err(), "no commit after the one that failed");
}

#[test]
fn r32_a_halted_log_opens_every_org_that_it_holds() {
    let world = World::new(Kind::Disk);
    let node = world.open();
    for org in ["acme", "other"] {
        node.put(org, &["a", "b"]);
    }
    let epochs = ["acme", "other"].map(|org| node.state(org).epoch);
    node.engine.close();
    drop(node);
    let opened = DiskStore::open(&world.disk_options(world.dir.path()), DAWN).unwrap();
    let bench = bench_over(world, opened, LocalOptions::for_tests(), usize::MAX);
    let (failing, beside) = (bench.send(&["c"]), bench.engine.open(&org("other")));
    bench.enter();
    let waits = bench.engine.open(&org("acme"));
    bench.verdicts.send(Verdict::Fail).unwrap();
    assert_eq!(bench.world.block_on(failing).unwrap_err(), AppendError::Unknown);
    // One waited for the log, one may be in the group that failed, and one comes later.
    let states =
        [waits, beside, bench.engine.open(&org("other"))].map(|open| bench.world.block_on(open).unwrap());
    assert_eq!(states.clone().map(|state| state.head), [2, 2, 2]);
    assert_eq!(bench.engine.head(&org("acme")), Some(states[0].clone()));
    assert_eq!([&states[0].epoch, &states[1].epoch], [&epochs[0], &epochs[1]], "those of the start before");
    let limit = PageLimit { events: 9, bytes: 9_999, to: SEQ_END };
    let page = bench.world.block_on(bench.engine.read(&org("acme"), 0, limit)).unwrap();
    assert_eq!((page.after, page.to, page.events.len()), (0, 2, 2));
    let nobody = bench.engine.open(&org("nobody")).now_or_never().unwrap();
    assert_eq!(nobody.unwrap_err(), AppendError::Halted, "a new log cannot be created");
    let Bench { world, engine, .. } = bench;
    drop(engine);
    let state = world.open().state("acme");
    assert_eq!(state.ancestors, [tidegate_core::Ancestor { epoch: epochs[0].clone(), end: 2, lossy: false }]);
}

#[test]
fn a_head_file_that_cannot_be_written_halts_the_log_too() {
    // The first acknowledgement is that of the start.
    let bench = bench(LocalOptions::for_tests(), 1);
    bench.verdicts.send(Verdict::Keep).unwrap();
    assert_eq!(bench.world.block_on(bench.send(&["a"])).unwrap_err(), AppendError::Unknown);
    assert_eq!(bench.fed(), 0);
    assert!(matches!(bench.health(), Health::Halted(_)));
}

#[test]
fn a_panic_in_the_store_halts_the_log() {
    let bench = bench(LocalOptions::for_tests(), usize::MAX);
    bench.verdicts.send(Verdict::Panic).unwrap();
    assert_eq!(bench.world.block_on(bench.send(&["a"])).unwrap_err(), AppendError::Unknown);
    bench.engine.close();
    assert!(matches!(bench.health(), Health::Halted(_)));
    assert_eq!(bench.world.block_on(bench.send(&["a"])).unwrap_err(), AppendError::Halted);
}

#[test]
fn p6_the_queue_is_bounded_by_requests() {
    let bench = bench(LocalOptions { queue_requests_max: 2, ..LocalOptions::for_tests() }, usize::MAX);
    let writing = bench.send(&["a"]);
    assert_eq!(bench.enter(), 1);
    let waiting = [bench.send(&["b"]), bench.send(&["c"])];
    assert_eq!(bench.send(&["d"]).now_or_never().unwrap().unwrap_err(), AppendError::TooManyWaiting);
    bench.verdicts.send(Verdict::Keep).unwrap();
    bench.verdicts.send(Verdict::Keep).unwrap();
    bench.world.block_on(writing).unwrap();
    for sent in waiting {
        bench.world.block_on(sent).unwrap();
    }
    bench.verdicts.send(Verdict::Keep).unwrap();
    assert_eq!(seqs(&bench.world.block_on(bench.send(&["d"])).unwrap()), [(4, false)]);
}

#[test]
fn a_publisher_that_stops_waiting_does_not_disturb() {
    let bench = bench(LocalOptions::for_tests(), usize::MAX);
    drop(bench.send(&["a"]));
    bench.verdicts.send(Verdict::Keep).unwrap();
    bench.verdicts.send(Verdict::Keep).unwrap();
    let stored = seqs(&bench.world.block_on(bench.send(&["a", "b"])).unwrap());
    assert_eq!(stored, [(1, true), (2, false)]);
}

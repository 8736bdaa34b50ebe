//! The cost of the engines: `cargo bench -p tidegate-engine --bench engine`.
//!
//! `publish` appends events of 300 B: in batches of 100 from one publisher, and one by one from 64
//! publishers at once (the events per sync are printed). `read` takes the 20 events of one of
//! 10,000 orgs. `sweep` drops a bucket. Numbers from one machine stand in docs/.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_core::{ContentHash, DedupKey, Event, NewEvent};
use tidegate_engine::{
    Clock, DiskOptions, Engine, Feed, Hooks, LocalEngine, LocalOptions, MemoryOptions, PageLimit,
    SyncObserver, SystemClock,
};
use tidegate_protocol::{EventId, OrgId, Seq, ServiceName};

struct NoReaders;

impl Feed for NoReaders {
    fn committed(&self, _: &OrgId, _: Seq, _: &[Arc<Event>]) {}
    fn org_deleted(&self, _: &OrgId) {}
    fn events_deleted(&self, _: &OrgId, _: &[Seq]) {}
}

#[derive(Default)]
struct Syncs {
    count: AtomicUsize,
    events: AtomicUsize,
}

impl SyncObserver for Syncs {
    fn on_sync(&self, _: Duration, events: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
    }
}

/// The system's clock, some time ahead.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> u64 {
        SystemClock.now() + self.0.load(Ordering::Relaxed)
    }
}

struct Bench {
    engine: Arc<dyn Engine>,
    syncs: Arc<Syncs>,
    clock: Arc<Ahead>,
    _dir: Option<tempfile::TempDir>,
}

fn local() -> LocalOptions {
    // As many ids as a run gives; the window is not what is measured.
    LocalOptions {
        dedup_max_entries: 50_000_000,
        dedup_window: Duration::from_secs(10),
        ..LocalOptions::for_tests()
    }
}

fn open(kind: &str) -> Bench {
    let (syncs, clock) = (Arc::new(Syncs::default()), Arc::new(Ahead::default()));
    let hooks = Hooks { feed: Arc::new(NoReaders), clock: clock.clone(), observer: syncs.clone() };
    if kind == "memory" {
        let options = MemoryOptions { local: local(), ..MemoryOptions::for_tests() };
        let engine = Arc::new(LocalEngine::memory(options, hooks).expect("open"));
        return Bench { engine, syncs, clock, _dir: None };
    }
    // In target/, for /tmp may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let options = DiskOptions { local: local(), ..DiskOptions::for_tests(dir.path()) };
    let engine = Arc::new(LocalEngine::disk(options, hooks).expect("open"));
    Bench { engine, syncs, clock, _dir: Some(dir) }
}

fn event(n: u64) -> NewEvent {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let filler = "x".repeat(210);
    NewEvent {
        service: ServiceName::parse("finance").expect("name"),
        id: EventId::parse("evt_0123456789").expect("id"),
        dedup: Some(DedupKey(key)),
        content: ContentHash(key),
        request: None,
        users: None,
        body: Bytes::from(format!("\"service\":\"finance\",\"id\":\"{n:016}\",\"data\":\"{filler}\"")),
    }
}

fn org(n: u64) -> OrgId {
    OrgId::parse(&format!("org-{n}")).expect("name")
}

fn publish(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut group = criterion.benchmark_group("publish");
    for kind in ["memory", "disk"] {
        let bench = open(kind);
        let mut n = 0;
        group.throughput(Throughput::Elements(100));
        group.bench_function(format!("{kind}/batch of 100"), |b| {
            b.iter_batched(
                || {
                    n += 100;
                    (n..n + 100).map(event).collect::<Vec<_>>()
                },
                |events| runtime.block_on(bench.engine.append(&org(0), events)).expect("append"),
                BatchSize::SmallInput,
            );
        });

        let bench = open(kind);
        let next = AtomicU64::new(0);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{kind}/64 publishers of single events"), |b| {
            b.iter_custom(|iterations| {
                let each = iterations.div_ceil(64);
                let began = Instant::now();
                // One thread, as the connections of one worker are.
                runtime.block_on(futures_util::future::join_all((0..64).map(|publisher| {
                    let (bench, next) = (&bench, &next);
                    async move {
                        for _ in 0..each {
                            let events = vec![event(next.fetch_add(1, Ordering::Relaxed))];
                            bench.engine.append(&org(publisher % 8), events).await.expect("append");
                        }
                    }
                })));
                began.elapsed().mul_f64(iterations as f64 / (each * 64) as f64)
            });
        });
        let (events, syncs) = (&bench.syncs.events, &bench.syncs.count);
        let (events, syncs) = (events.load(Ordering::Relaxed), syncs.load(Ordering::Relaxed));
        // With a filter on the command line the benchmark may not have run.
        if syncs > 0 {
            println!("publish/{kind}/64 publishers: {:.1} events per sync", events as f64 / syncs as f64);
        }
    }
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut group = criterion.benchmark_group("read");
    for kind in ["memory", "disk"] {
        let bench = open(kind);
        for n in 0..10_000 {
            let events = (n * 20..n * 20 + 20).map(event).collect();
            runtime.block_on(bench.engine.append(&org(n), events)).expect("append");
        }
        let mut n = 0;
        group.throughput(Throughput::Elements(20));
        group.bench_function(format!("{kind}/20 events of one of 10,000 orgs"), |b| {
            b.iter(|| {
                n = (n + 7919) % 10_000;
                let limit = PageLimit { events: 100, bytes: 1 << 20, to: Seq::MAX };
                let page = runtime.block_on(bench.engine.read(&org(n), 0, limit)).expect("read");
                assert_eq!(page.events.len(), 20);
            });
        });
    }
    group.finish();
}

fn sweep(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut group = criterion.benchmark_group("sweep");
    group.sample_size(10);
    let bench = open("disk");
    let mut n = 0;
    // Each call writes a bucket of 10,000 events over 1,000 orgs, an hour after the last, and drops
    // the one from a day before.
    let mut fill = || {
        for at in 0..1_000 {
            n += 10;
            let events = (n..n + 10).map(event).collect();
            runtime.block_on(bench.engine.append(&org(at), events)).expect("append");
        }
        bench.clock.0.fetch_add(3_600_000, Ordering::Relaxed);
    };
    for _ in 0..26 {
        fill();
        bench.engine.sweep();
    }
    group.bench_function("drop a bucket of 1,000 orgs", |b| {
        b.iter_batched(&mut fill, |()| bench.engine.sweep(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, publish, read, sweep);
criterion_main!(benches);

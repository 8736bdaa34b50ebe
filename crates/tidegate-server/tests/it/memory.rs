//! Memory is freed: ten thousand orgs are filled, the window passes by a clock that the test moves, and the
//! accounting ends at zero.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidegate_core::{
    BatchLimits, ContentHash, Framing, NewEvent, ViewKey,
    publish::{BodyForm, PublishLimits, read_body},
};
use tidegate_engine::{Clock, Engine as _, Hooks, LocalEngine, LocalOptions, MemoryOptions, MemoryStore};
use tidegate_protocol::{EventId, Filter, OrgId, ServiceName, UnixMillis};
use tidegate_server::hub::{Hub, HubLimits};

const ORGS: usize = 10_000;

const WINDOW: Duration = Duration::from_secs(10 * 60);

/// Clocks that only the test moves: milliseconds that have passed, and by how many the wall clock is set back.
#[derive(Default)]
struct Manual {
    passed: AtomicU64,
    set_back: AtomicU64,
}

impl Clock for Manual {
    fn now(&self) -> UnixMillis {
        1_795_512_600_000 + self.steady() - self.set_back.load(Ordering::SeqCst)
    }

    fn steady(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

fn node(clock: &Arc<Manual>) -> (Arc<Hub>, LocalEngine<MemoryStore>) {
    let local = LocalOptions {
        dedup_window: Duration::from_secs(5 * 60),
        dedup_max_entries: 10 * ORGS,
        dedup_max_entries_per_org: ORGS,
        orgs_max: ORGS,
        queue_requests_max: 1,
        queue_bytes_max: 1 << 20,
    };
    let options = MemoryOptions { local, window: WINDOW, max_bytes: 256 << 20 };
    let limits = HubLimits {
        window: options.window,
        bytes: 1 << 30,
        org_bytes: 32 << 20,
        batch: BatchLimits { events: 100, bytes: 64 << 10 },
        contexts: 1,
    };
    let hub = Arc::new(Hub::new(1, limits, clock.clone()));
    let hooks = Hooks { feed: hub.clone(), clock: clock.clone(), observer: Arc::new(()) };
    (hub, LocalEngine::memory(options, hooks).expect("an engine"))
}

#[test]
fn ten_thousand_orgs_are_filled_and_forgotten() {
    let clock = Arc::new(Manual::default());
    let (hub, engine) = node(&clock);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let body = br#"[{"service":"s","event":"e","id":"a","data":1},{"service":"t","event":"e","data":"two"}]"#;
    let org_of = |index: usize| OrgId::parse(&format!("org-{index}")).expect("a name");
    let append = |index: usize| {
        let mut drawn = |_| (tidegate_protocol::EventId::parse("drawn").expect("an id"), false);
        let limits = PublishLimits { event_bytes: 1 << 10, events: 2, orgs: 1, depth: 1, users: 1 };
        let events = read_body(&org_of(index), BodyForm::Json, body, &limits, &mut drawn);
        runtime.block_on(engine.append(&org_of(index), events.expect("events"))).expect("appended")
    };
    for index in 0..ORGS {
        append(index);
    }
    // Encoded views of readers are charged too.
    let before = hub.budget().used();
    for index in 0..ORGS {
        let state = engine.head(&org_of(index)).expect("a log");
        let org = hub.org(&org_of(index), state.head);
        let key = ViewKey { epoch: state.epoch, filter: Filter::all(), framing: Framing::WebSocket };
        let batches = org.tail().since(0);
        assert_eq!(batches.iter().map(|batch| batch.events.len()).sum::<usize>(), 2);
        batches.iter().for_each(|batch| drop(batch.view(&org.id, &key, batch.prev)));
    }
    assert!(hub.budget().used() > before && before > 0);
    assert_eq!((hub.len(), engine.orgs()), (ORGS, ORGS));
    assert!(engine.bytes() > 0);

    let pass = |millis: u64| {
        clock.passed.fetch_add(millis, Ordering::SeqCst);
        hub.sweep();
        engine.sweep();
    };
    let window = u64::try_from(WINDOW.as_millis()).expect("minutes");
    pass(window / 2);
    assert_eq!((hub.len(), engine.orgs()), (ORGS, ORGS), "nothing goes before its time");
    // One of them has a reader: its log must not be forgotten, or it would return as another one (R10).
    let held = hub.org(&org_of(7), 2);
    held.arrive(0);
    engine.watch(&org_of(7));
    let epoch = engine.head(&org_of(7)).expect("a log").epoch;
    pass(window / 2 + 1);
    assert_eq!((hub.budget().used(), engine.bytes()), (0, 0), "all bytes are given back");
    pass(window);
    pass(window);
    assert_eq!((hub.len(), engine.orgs()), (1, 1), "all but the one that is read");
    assert_eq!(engine.head(&org_of(7)).expect("a log").epoch, epoch);

    held.leave(0);
    engine.unwatch(&org_of(7));
    drop(held);
    pass(window);
    pass(window);
    assert_eq!((hub.len(), engine.orgs(), hub.budget().used(), engine.bytes()), (0, 0, 0, 0));
    // An org that was forgotten starts again, under another epoch.
    let again = append(7);
    assert_eq!((again.stored[0].seq, again.stored[0].duplicate), (1, false));
    assert_ne!(again.epoch, epoch);
}

/// By a clock that was set back, the tail would be kept for longer than the log, and take the first events of
/// the org's next log for events that it has.
#[test]
fn r30_no_tail_outlives_its_log_because_the_clock_was_set_back() {
    let clock = Arc::new(Manual::default());
    let (hub, engine) = node(&clock);
    let acme = OrgId::parse("acme").expect("a name");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let put = || {
        let event = NewEvent {
            service: ServiceName::parse("s").expect("a name"),
            id: EventId::parse("a").expect("an id"),
            dedup: None,
            content: ContentHash([0; 16]),
            request: None,
            users: None,
            body: r#""service":"s","event":"e","id":"a","data":1"#.into(),
        };
        runtime.block_on(engine.append(&acme, vec![event])).expect("appended")
    };
    let epoch = put().epoch;
    clock.set_back.store(3_600_000, Ordering::SeqCst);
    for _ in 0..15 {
        clock.passed.fetch_add(60_000, Ordering::SeqCst);
        engine.sweep();
        hub.sweep();
    }
    assert_eq!((hub.len(), engine.orgs()), (0, 0));
    assert_ne!(put().epoch, epoch);
    assert_eq!(hub.org(&acme, 0).tail().since(0).len(), 1, "the first event of the new log");
}

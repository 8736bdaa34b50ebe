//! Watched orgs (R10, R13).

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Harness, Node, World, event, org};
use crate::Engine as _;

const MINUTE: u64 = 60_000;

/// Lets 40 minutes pass, with a sweep in each.
fn idle<H: Harness>(node: &Node<'_, H>) {
    for _ in 0..40 {
        node.world.pass(MINUTE);
        node.engine.sweep();
    }
}

pub fn r10_a_watched_org_is_not_forgotten<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock && can.forgets_idle_orgs) {
        return;
    }
    let node = world.open();
    let acme = org("acme");
    node.put("acme", &["a"]);
    let before = node.state("acme");
    node.engine.watch(&acme);
    idle(&node);
    let after = node.engine.head(&acme).expect("held");
    assert_eq!(after.epoch, before.epoch);
    assert_eq!(node.bounds("acme", &after), (1, 1));
    // Its last reader leaves: the time begins to run, and has not run out long ago.
    node.engine.unwatch(&acme);
    node.engine.sweep();
    assert!(node.engine.head(&acme).is_some());
    idle(&node);
    assert!(node.engine.head(&acme).is_none());
}

pub fn r10_watches_are_counted<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock && can.forgets_idle_orgs) {
        return;
    }
    let node = world.open();
    let acme = org("acme");
    let epoch = node.state("acme").epoch;
    node.engine.watch(&acme);
    node.engine.watch(&acme);
    node.engine.unwatch(&acme);
    idle(&node);
    assert_eq!(node.engine.head(&acme).expect("held").epoch, epoch);
    node.engine.watch(&acme);
    node.engine.unwatch(&acme);
    node.engine.unwatch(&acme);
    idle(&node);
    assert!(node.engine.head(&acme).is_none());
}

pub fn r10_a_sweep_between_watch_and_open_does_not_forget<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock && can.forgets_idle_orgs) {
        return;
    }
    let node = world.open();
    let acme = org("acme");
    let epoch = node.state("acme").epoch;
    node.engine.watch(&acme);
    idle(&node);
    assert_eq!(node.state("acme").epoch, epoch);
    idle(&node);
    assert_eq!(node.engine.head(&acme).expect("held").epoch, epoch);
    node.engine.unwatch(&acme);
    // One that has no log yet: it is safe as soon as it has one.
    let other = org("other");
    node.engine.watch(&other);
    let epoch = node.state("other").epoch;
    idle(&node);
    assert_eq!(node.engine.head(&other).expect("held").epoch, epoch);
    node.engine.unwatch(&other);
}

pub fn r10_no_sweep_falls_between_a_reader_and_its_log<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock && can.forgets_idle_orgs) {
        return;
    }
    let node = world.open();
    let acme = org("acme");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (engine, clock, done, acme) = (&node.engine, &world.clock, &done, &acme);
        // Every sweep finds that the log has been idle for long.
        let sweeper = scope.spawn(move || {
            let mut sweeps = 0;
            while !done.load(Ordering::SeqCst) {
                clock.pass(60 * MINUTE);
                engine.sweep();
                sweeps += 1;
            }
            sweeps
        });
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime");
                    for _ in 0..200 {
                        engine.watch(acme);
                        let opened = runtime.block_on(engine.open(acme)).expect("opened");
                        std::thread::yield_now();
                        let held = engine.head(acme).expect("a watched log is held");
                        assert_eq!(held.epoch, opened.epoch, "a watched log was forgotten");
                        engine.unwatch(acme);
                    }
                })
            })
            .collect();
        let readers: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(sweeper.join().expect("the sweeper") > 0);
        readers.into_iter().for_each(|reader| reader.expect("a reader"));
    });
}

pub fn r13_a_watched_org_is_fed<H: Harness>(world: World<H>) {
    let node = world.open();
    let acme = org("acme");
    node.put("acme", &["a"]);
    node.engine.watch(&acme);
    let head = node.state("acme").head;
    node.append("acme", vec![event("acme", "b"), event("acme", "c")]).expect("appended");
    node.put("acme", &["d"]);
    let fed = world.feed.of(&acme);
    let after: Vec<_> = fed.into_iter().filter(|event| event.seq > head).collect();
    assert_eq!(after, node.all("acme", head));
    assert_eq!(after.len(), 3);
    node.engine.unwatch(&acme);
}

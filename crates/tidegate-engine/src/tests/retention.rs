//! Retention: which events and logs are removed, and which stay because something else needs them.

use std::time::Duration;

use super::*;

#[test]
fn ten_thousand_orgs_leave_nothing_behind_once_the_window_has_passed() {
    let world = World::new(Kind::Memory);
    let node = world.open();
    for n in 0..10_000 {
        let name = format!("org-{n}");
        let mut events = vec![event(&name, "a"), event(&name, "b")];
        events.truncate(1 + n % 2);
        node.append(&name, events).unwrap();
    }
    assert_eq!(node.engine.orgs(), 10_000);
    assert!(node.engine.bytes() > 10_000 * 100);
    world.pass(9 * MINUTE);
    node.engine.sweep();
    assert_eq!(node.engine.orgs(), 10_000);
    world.pass(MINUTE);
    node.engine.sweep();
    assert_eq!((node.engine.orgs(), node.engine.bytes()), (10_000, 0), "the tails go first, then the logs");
    world.pass(2 * MINUTE);
    node.engine.sweep();
    assert_eq!((node.engine.orgs(), node.engine.bytes()), (0, 0));
}

#[test]
fn memory_drops_on_write_too_and_keeps_to_its_budget() {
    let mut world = World::new(Kind::Memory);
    world.max_bytes = 2_000;
    let node = world.open();
    for n in 0..100 {
        node.put("acme", &[&format!("id{n}")]);
        assert!(node.engine.bytes() <= 2_000);
    }
    let state = node.state("acme");
    assert_eq!(state.head, 100);
    assert!(state.floor > 80 && state.floor < 100, "{state:?}");
    assert_eq!(node.seqs("acme"), (state.floor + 1..=100).collect::<Vec<_>>());
    assert_eq!(node.put("acme", &["id0"]), [(1, true)], "the dedup window does not shrink with the budget");
    world.pass(10 * MINUTE);
    node.put("acme", &["late"]);
    assert_eq!(node.seqs("acme"), [101]);
}

#[test]
fn r9_disk_retention_by_age_removes_buckets_and_seq_goes_on() {
    let mut world = World::new(Kind::Disk);
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    let epoch = node.state("acme").epoch;
    for minute in 0..30 {
        node.put("acme", &[&format!("id{minute}")]);
        if minute == 0 {
            node.put("quiet", &["once"]);
        }
        world.pass(MINUTE);
        node.engine.sweep();
    }
    let state = node.state("acme");
    assert_eq!(state.head, 30);
    assert!((17..=21).contains(&state.floor), "{state:?}");
    assert_eq!(node.seqs("acme"), (state.floor + 1..=30).collect::<Vec<_>>());
    assert_eq!(state.epoch, epoch);
    node.engine.close();
    drop(node);
    let node = world.open();
    let again = node.state("acme");
    assert_eq!((again.head, again.floor), (30, state.floor), "floors outlive a restart");
    assert_eq!(node.put("acme", &["next"]), [(31, false)]);
}

#[test]
fn r9_a_log_whose_events_are_all_gone_keeps_its_seq_and_epochs() {
    let mut world = World::new(Kind::Disk);
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let first = node.state("acme").epoch;
    node.engine.watch(&org("acme"));
    for _ in 0..12 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert_eq!(node.engine.bytes(), 0);
    drop(node);
    let node = world.open();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor), (2, 2));
    assert_eq!(state.ancestors[0].epoch, first);
    assert_eq!(node.put("acme", &["c"]), [(3, false)]);
}

#[test]
fn r32_the_size_bound_removes_the_oldest_and_refuses_what_the_dedup_window_needs_in_full() {
    let mut world = World::new(Kind::Disk);
    world.window = Duration::from_secs(24 * 3600);
    world.max_bytes = 16 << 20;
    let most = world.max_bytes + world.disk_options(world.dir.path()).over_max_bytes();
    let node = world.open();
    let large = |n: usize| {
        let mut large = event("acme", &format!("id{n}"));
        large.body = format!("\"data\":\"{}\"", "x".repeat(100_000)).into();
        vec![large]
    };
    let mut stored = 0;
    for n in 0..400 {
        match node.append("acme", large(n)) {
            Ok(_) => stored += 1,
            Err(error) => assert_eq!(error, AppendError::LogFull),
        }
        assert!(bytes_in(world.dir.path()) <= most);
        world.pass(500);
    }
    // 40 MB in 200 seconds, all of it within the window.
    assert!((160..190).contains(&stored), "{stored}");
    assert!(matches!(*node.engine.health().borrow(), Health::Full(_)));
    assert_eq!(node.state("acme").floor, 0);
    assert_eq!(node.put("acme", &["id1"]), [(2, true)], "a duplicate needs no room");
    assert_eq!(node.state("other").head, 0, "readers of a log that is not open yet come in");
    world.pass(5 * MINUTE);
    node.engine.sweep();
    node.append("acme", large(400)).unwrap();
    assert_eq!(*node.engine.health().borrow(), Health::Ok);
    let state = node.state("acme");
    assert!(bytes_in(world.dir.path()) <= world.max_bytes + (4 << 20), "{}", bytes_in(world.dir.path()));
    assert!((1..60).contains(&state.floor), "no more than had to go: {state:?}");
    assert_eq!(node.seqs("acme"), (state.floor + 1..=stored + 1).collect::<Vec<_>>());
}

#[test]
fn r32_a_log_that_was_full_by_its_window_takes_events_again_without_a_sweep() {
    let mut world = World::new(Kind::Disk);
    world.window = Duration::from_secs(24 * 3600);
    world.max_bytes = 2 << 20;
    let node = world.open();
    let mut large = event("acme", "id");
    large.dedup = None;
    large.body = format!("\"data\":\"{}\"", "x".repeat(100_000)).into();
    let put = || node.append("acme", vec![large.clone()]);
    // The refusal itself is looked at: a file sealed right after it may give back a little room.
    let refused = loop {
        match put() {
            Ok(_) => world.pass(1),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::LogFull);
    world.pass(6 * MINUTE);
    // The committer looks after each group, and each second.
    assert!((0..5).any(|_| put().is_ok()));
}

/// What a directory takes on disk.
pub fn bytes_in(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

const LEAP: u64 = 10 * 365 * 24 * 60 * MINUTE;

#[test]
fn r30_a_clock_that_leaps_ahead_for_a_moment_costs_nothing() {
    let mut world = World::new(Kind::Disk);
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    for minute in 0..5 {
        node.put("acme", &[&format!("id{minute}")]);
        world.pass(MINUTE);
    }
    node.engine.watch(&org("acme"));
    world.step_ahead(LEAP);
    node.engine.sweep();
    node.put("acme", &["meanwhile"]);
    world.step_back(LEAP);
    node.engine.sweep();
    assert_eq!(node.seqs("acme"), [1, 2, 3, 4, 5, 6]);
    // What was written meanwhile goes in its time, not in ten years.
    node.put("acme", &["after"]);
    for _ in 0..20 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert_eq!(node.seqs("acme"), [] as [Seq; 0]);
}

#[test]
fn r30_a_leap_that_stays_is_followed_after_ten_minutes_and_shown_if_it_was_wrong() {
    for kind in [Kind::Memory, Kind::Disk] {
        let mut world = World::new(kind);
        world.bucket = Some(Duration::from_secs(60));
        let node = world.open();
        node.engine.watch(&org("acme"));
        node.put("acme", &["before"]);
        world.step_ahead(LEAP);
        node.engine.sweep();
        world.pass(9 * MINUTE);
        node.engine.sweep();
        node.put("acme", &["meanwhile"]);
        assert_eq!(node.seqs("acme"), [1, 2], "{kind:?}");
        world.pass(MINUTE);
        node.engine.sweep();
        let after = node.put("acme", &["after", "meanwhile"]);
        assert_eq!(after, [(3, false), (2, true)], "{kind:?}: no id leaves the window for that");
        assert_eq!(node.all("acme", 2)[0].timestamp, DAWN + LEAP + 10 * MINUTE);
        node.engine.sweep();
        let seqs = node.seqs("acme");
        assert!(!seqs.contains(&1) && seqs.contains(&3), "{kind:?}: the first is ten years old: {seqs:?}");
        assert!(
            kind == Kind::Memory || seqs.contains(&2),
            "on disk, what came during the leap stays: {seqs:?}"
        );
        assert_eq!(node.engine.clock_ahead(), Duration::ZERO);
        world.step_back(LEAP);
        assert_eq!(node.engine.clock_ahead(), Duration::from_millis(LEAP));
        world.pass(10 * MINUTE);
        assert_eq!(node.engine.clock_ahead(), Duration::from_millis(LEAP - MINUTE), "it comes down");
        for _ in 0..20 {
            world.pass(MINUTE);
            node.engine.sweep();
        }
        assert_eq!(node.seqs("acme"), [] as [Seq; 0], "{kind:?}: windows pass");
    }
}

#[test]
fn r30_a_clock_set_ahead_makes_no_org_idle() {
    let world = World::new(Kind::Memory);
    let node = world.open();
    let epoch = node.state("acme").epoch;
    world.step_ahead(59 * MINUTE);
    node.engine.sweep();
    assert_eq!(node.state("acme").epoch, epoch);
    world.pass(12 * MINUTE);
    node.engine.sweep();
    assert_eq!(node.engine.orgs(), 0);
}

/// Whatever retention removes while a page is read is covered by the floor that the page names.
#[test]
fn r9_pages_are_whole_while_retention_removes() {
    for kind in [Kind::Memory, Kind::Disk] {
        let mut world = World::new(kind);
        world.bucket = Some(Duration::from_secs(60));
        world.local.dedup_window = Duration::from_secs(1);
        let node = world.open();
        node.put("acme", &["first"]);
        std::thread::scope(|scope| {
            let (engine, clock) = (&node.engine, &world.clock);
            let writer = scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for n in 0..300 {
                    let events = vec![event("acme", &format!("a{n}")), event("acme", &format!("b{n}"))];
                    runtime.block_on(engine.append(&org("acme"), events)).unwrap();
                    clock.pass(MINUTE / 2);
                    engine.sweep();
                }
            });
            let mut pages = 0;
            while !writer.is_finished() || pages == 0 {
                let mut after = 0;
                loop {
                    let page = node.page("acme", after, 5, 100_000, SEQ_END);
                    let seqs: Vec<Seq> = page.events.iter().map(|event| event.seq).collect();
                    assert_eq!(seqs, (page.after + 1..=page.to).collect::<Vec<_>>(), "{kind:?}");
                    pages += 1;
                    if page.events.is_empty() {
                        break;
                    }
                    after = page.to;
                }
            }
            writer.join().unwrap();
        });
    }
}

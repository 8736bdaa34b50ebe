//! What each org stores, and who is cut when the log is full (P5).

use std::{collections::BTreeSet, time::Duration};

use super::{retention::bytes_in, *};

/// When a test that has failed ends.
const FAILSAFE: Duration = Duration::from_secs(20);

/// 16 MiB, in segments of one, and nothing goes by its age.
fn world() -> World {
    let mut world = World::new(Kind::Disk);
    world.window = Duration::from_secs(24 * 3600);
    world.max_bytes = 16 << 20;
    world
}

fn of_size(name: &str, bytes: usize) -> Vec<NewEvent> {
    let mut sized = event(name, "any");
    sized.dedup = None;
    sized.body = format!("\"data\":\"{}\"", "x".repeat(bytes)).into();
    vec![sized]
}

/// Tries until it holds. What is waited for is done by a thread of the engine.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < FAILSAFE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Node<'_> {
    /// Appends 100 KB, as soon as a cut has made room for it.
    fn append_large(&self, name: &str) {
        eventually("room", || match self.append(name, of_size(name, 100_000)) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, AppendError::OrgLogFull);
                false
            }
        });
    }

    fn stored(&self, name: &str) -> u64 {
        let orgs = self.world.block_on(self.engine.list_orgs());
        orgs.into_iter().find(|log| log.org == org(name)).map_or(0, |log| log.stored_bytes)
    }

    /// A log has all its events above its floor. A reader who asks for older ones is told where they begin.
    fn is_whole(&self, name: &str, floor: Seq) {
        let state = self.state(name);
        assert_eq!(state.floor, floor);
        let page = self.page(name, 0, 1, 10_000, SEQ_END);
        assert_eq!(page.after, floor, "the page names what is gone");
        assert_eq!(self.seqs(name), (floor + 1..=state.head).collect::<Vec<_>>());
    }
}

#[test]
fn p5_a_burst_of_one_org_is_refused_alone_and_the_others_publish_and_keep_what_they_have() {
    let world = world();
    let most = world.max_bytes + world.disk_options(world.dir.path()).over_max_bytes();
    let node = world.open();
    (0..10).for_each(|_| drop(node.append("quiet", of_size("quiet", 1_000)).unwrap()));
    let (mut stored, mut refused) = (0, 0);
    // 40 MB at once, all of it within the dedup window.
    for n in 0..400 {
        match node.append("burst", of_size("burst", 100_000)) {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!(error, AppendError::OrgLogFull);
                refused += 1;
            }
        }
        if n % 4 == 0 {
            node.append("quiet", of_size("quiet", 10_000)).unwrap();
        }
    }
    assert!((60..=84).contains(&stored), "about half: {stored}");
    assert_eq!(refused, 400 - stored);
    assert_eq!(*node.engine.health().borrow(), Health::Ok, "the log is not full");
    assert!(bytes_in(world.dir.path()) <= most);
    for _ in 0..2 {
        node.append("newcomer", of_size("newcomer", 1_000_000)).unwrap();
    }
    drop(node);
    let node = world.open();
    node.is_whole("quiet", 0);
    node.is_whole("burst", 0);
    assert_eq!(node.state("quiet").head, 110);
    assert_eq!(node.append("burst", of_size("burst", 100_000)).unwrap_err(), AppendError::OrgLogFull);
    node.append("quiet", of_size("quiet", 10_000)).unwrap();
    // Its own oldest events make room for it, once they may.
    world.pass(6 * MINUTE);
    (0..50).for_each(|_| node.append_large("burst"));
    node.is_whole("quiet", 0);
}

#[test]
fn p5_a_full_log_is_cut_where_more_than_the_share_is_stored_and_readers_are_told() {
    let world = world();
    let most = world.max_bytes + world.disk_options(world.dir.path()).over_max_bytes();
    let node = world.open();
    let mut floors = BTreeSet::new();
    // 80 MB in 107 minutes, beside little.
    for n in 0..800 {
        node.append_large("busy");
        if n % 20 == 0 {
            node.append("quiet", of_size("quiet", 1_000)).unwrap();
        }
        floors.insert(node.state("busy").floor);
        assert!(bytes_in(world.dir.path()) <= most);
        world.pass(8_000);
    }
    eventually("the last cut", || node.stored("busy") < world.max_bytes);
    node.is_whole("quiet", 0);
    assert_eq!(node.state("quiet").head, 40);
    let floor = node.state("busy").floor;
    assert!((640..740).contains(&floor), "no more than has to go: {floor}");
    node.is_whole("busy", floor);
    // 65 MB had to go, a MiB or more at a time.
    assert!((10..=66).contains(&floors.len()), "{} cuts", floors.len());
    let stored = (node.stored("quiet"), node.stored("busy"));
    assert!((40_000..50_000).contains(&stored.0), "{stored:?}");
    node.engine.close();
    drop(node);
    let node = world.open();
    node.is_whole("quiet", 0);
    node.is_whole("busy", floor);
    assert_eq!((node.stored("quiet"), node.stored("busy")), stored, "counted anew");
    node.engine.close();
    drop(node);
    assert!(crate::check::check(world.dir.path(), &mut |_| {}).unwrap().is_whole());
}

#[test]
fn p5_a_full_log_of_many_segments_is_cut_by_share_as_well() {
    let mut world = world();
    // As many segments as a retention of weeks has.
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    node.append("quiet", of_size("quiet", 1_000)).unwrap();
    for _ in 0..600 {
        let of_minute = || node.append("busy", of_size("busy", 32_000));
        eventually("room", || of_minute().is_ok());
        world.pass(MINUTE);
    }
    eventually("a cut", || node.state("busy").floor > 0);
    node.is_whole("quiet", 0);
    node.is_whole("busy", node.state("busy").floor);
}

#[test]
fn p5_many_orgs_that_store_alike_leave_a_small_one_what_it_has() {
    let world = world();
    let node = world.open();
    node.append("quiet", of_size("quiet", 1_000)).unwrap();
    for n in 0..320 {
        node.append_large(&format!("busy{}", n % 80));
        world.pass(8_000);
    }
    eventually("the last cut", || (0..80).map(|n| node.stored(&format!("busy{n}"))).sum::<u64>() < 16 << 20);
    node.is_whole("quiet", 0);
    (0..80).for_each(|n| node.is_whole(&format!("busy{n}"), node.state(&format!("busy{n}")).floor));
}

#[test]
fn p5_who_is_over_a_quota_is_cut_before_who_stores_more_without_one() {
    let world = world();
    let node = world.open();
    let of_orgs = [(org("paid"), Some(14 << 20)), (org("small"), Some(1 << 20))].into();
    node.engine.set_stored_quotas(StoredQuotas { of_each: None, of_orgs });
    for _ in 0..40 {
        node.append_large("paid");
        node.append_large("small");
        world.pass(MINUTE);
    }
    for _ in 0..90 {
        node.append_large("paid");
        world.pass(10_000);
    }
    eventually("a cut", || node.state("small").floor > 0);
    eventually("its end", || node.stored("small") < 3_000_000);
    node.is_whole("paid", 0);
    node.is_whole("small", node.state("small").floor);
}

#[test]
fn p5_p7_a_cut_that_was_interrupted_is_told_at_once_and_ends_after_the_next_start() {
    let mut world = world();
    let node = world.open();
    node.append("quiet", of_size("quiet", 1_000)).unwrap();
    // No segment can be written anew.
    let blocks: Vec<_> =
        (1..40).map(|n| world.dir.path().join(format!("segments/{n:010}.seg.new"))).collect();
    blocks.iter().for_each(|block| std::fs::create_dir(block).unwrap());
    eventually("the floor", || {
        world.pass(4_000);
        let _ = node.append("busy", of_size("busy", 100_000));
        node.state("busy").floor > 0
    });
    let floor = node.state("busy").floor;
    let stored = node.stored("busy");
    assert!(stored > 13_000_000, "nothing has left the files");
    node.is_whole("busy", floor);
    drop(node);
    blocks.iter().for_each(|block| std::fs::remove_dir(block).unwrap());
    // The log is not full any more.
    world.max_bytes = 64 << 20;
    let node = world.open();
    node.is_whole("busy", floor);
    assert_eq!(node.stored("busy"), stored);
    eventually("the end of the cut", || {
        node.engine.sweep();
        node.stored("busy") < stored - 500_000
    });
    node.is_whole("quiet", 0);
    node.is_whole("busy", floor);
}

#[test]
fn p5_an_org_that_is_alone_may_take_the_whole_log() {
    let world = world();
    let node = world.open();
    let stored = (0..400).take_while(|_| node.append("only", of_size("only", 100_000)).is_ok()).count();
    assert!((160..190).contains(&stored), "{stored}");
    assert!(matches!(*node.engine.health().borrow(), Health::Full(_)));
}

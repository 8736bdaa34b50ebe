//! What a start finds after it, or the one before, met a fault: reads that fail, files that cannot be begun, damage
//! to the newest segment, a power cut.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    disk::{damage, disk, newest, segments, written},
    *,
};
use crate::disk::planted;

/// The kind of a record, and where it stands in one.
const KIND: usize = 38;
const LOG: u8 = 3;
const START: u8 = 6;
const SNAPSHOT: u8 = 7;

/// Flips a bit of the first record in `segment` of this kind whose payload holds `needle`.
fn damage_record(segment: &Path, kind: u8, needle: &[u8]) {
    let bytes = fs::read(segment).unwrap();
    let found = (0..bytes.len()).step_by(8).find(|at| {
        let Some(front) = bytes.get(*at..at + 40) else { return false };
        let length = u32::from_be_bytes(front[8..12].try_into().unwrap()) as usize;
        &front[..4] == b"tgR2"
            && front[KIND] == kind
            && (needle.is_empty()
                || bytes[at + 40..at + 40 + length].windows(needle.len()).any(|window| window == needle))
    });
    let at = found.expect("a record") + 41;
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
}

fn number_of(segment: &Path) -> u64 {
    segment.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn ids_of(node: &Node<'_>, org: &str) -> Vec<String> {
    let all = node.all(org, 0);
    let text = |event: &Event| String::from_utf8(event.fragment.to_vec()).unwrap();
    all.iter()
        .map(|event| text(event).split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().into())
        .collect()
}

/// Its newest segment has more than a block of events of acme, and then an event of `secret`.
fn world_with_a_secret() -> (World, u64) {
    let world = disk();
    let node = world.open();
    for n in 0..40 {
        node.put("acme", &[&format!("old-{n}")]);
    }
    let from = written(&newest(world.dir.path())) / 4096 * 4096;
    node.put("secret", &["secret-1", "secret-2", "secret-3"]);
    node.put("acme", &["late-1", "late-2"]);
    drop(node);
    (world, from)
}

#[test]
fn p5_what_a_start_could_not_read_never_comes_back() {
    let (world, from) = world_with_a_secret();
    let unreadable = newest(world.dir.path());
    planted::unreadable(Some((number_of(&unreadable), from)));
    let node = world.open();
    let state = node.state("acme");
    assert!(state.ancestors.last().unwrap().lossy && (1..40).contains(&state.head), "{state:?}");
    let left = ids_of(&node, "acme");
    node.put("intruder", &["mine-1", "mine-2", "mine-3"]);
    let again: Vec<String> = (0..60).map(|n| format!("new-{n}")).collect();
    again.iter().for_each(|id| drop(node.put("acme", &[id])));
    let expected = [&left[..], &again].concat();
    planted::unreadable(None);

    let check = |node: &Node<'_>, when: &str| {
        assert_eq!(ids_of(node, "intruder"), ["mine-1", "mine-2", "mine-3"], "{when}");
        assert_eq!(ids_of(node, "acme"), expected, "{when}");
        assert!(node.engine.head(&org("secret")).is_none(), "{when}");
    };
    check(&node, "the read error is gone");
    node.engine.sweep();
    check(&node, "a sweep has come");
    node.engine.close();
    drop(node);
    let node = world.open();
    node.state("intruder");
    node.state("acme");
    check(&node, "the next start");
    assert!(!node.state("acme").ancestors.last().unwrap().lossy, "found once");
    // An erasure reads whole files.
    world.block_on(node.engine.delete_events(&org("acme"), vec![1])).unwrap();
    let kept = world.dir.path().join(format!("damaged/{:010}-whole.seg", number_of(&unreadable)));
    assert!(kept.exists(), "what cannot be read now is kept for an operator");
    node.engine.sweep();
    node.engine.sweep();
    assert_eq!(ids_of(&node, "intruder"), ["mine-1", "mine-2", "mine-3"]);
    assert_eq!(ids_of(&node, "acme"), expected[1..]);
    assert!(!kept.exists(), "it may hold what was deleted");
}

#[test]
fn p5_a_start_that_can_begin_no_file_after_one_that_it_could_not_read_is_refused() {
    let (world, from) = world_with_a_secret();
    let path = newest(world.dir.path());
    planted::unreadable(Some((number_of(&path), from)));
    planted::no_create(true);
    let refused = world.try_open(world.dir.path()).err().expect("refused").to_string();
    assert!(refused.contains("no new file can be begun after"), "{refused}");
    planted::unreadable(None);
    planted::no_create(false);
    let node = world.open();
    assert!(node.state("acme").ancestors.last().unwrap().lossy, "the loss is known all the same");
    assert!(node.engine.head(&org("secret")).is_none());
}

#[test]
fn r12_ids_of_a_deleted_org_are_not_known_after_a_start() {
    let world = disk();
    let node = world.open();
    node.put("acme", &["a", "b", "c"]);
    node.put("other", &["x"]);
    world.block_on(node.engine.delete_org(&org("acme"))).unwrap();
    node.engine.close();
    // The erasure was not carried out.
    drop(node);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, false), (2, false)]);
    assert_eq!(node.seqs("acme"), [1, 2]);
    drop(node);
    let node = world.open();
    assert_eq!(
        node.put("acme", &["a", "b", "c"]),
        [(1, true), (2, true), (3, false)],
        "those of the new log are"
    );
    assert_eq!(node.put("other", &["x"]), [(1, true)]);
}

#[test]
fn r12_an_id_leaves_the_window_with_its_lost_event() {
    let world = disk();
    let node = world.open();
    for (org, id) in
        [("acme", "a"), ("acme", "last"), ("middle", "first"), ("middle", "next"), ("other", "c")]
    {
        node.put(org, &[id]);
    }
    drop(node);
    damage(world.dir.path(), "last");
    damage(world.dir.path(), "first");
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "last", "new"]), [(1, true), (2, false), (3, false)]);
    assert_eq!(node.put("middle", &["first", "next"]), [(3, false), (2, true)]);
    assert_eq!(node.put("other", &["c"]), [(1, true)]);
    assert_eq!(node.seqs("acme"), [1, 2, 3]);
    assert_eq!(node.seqs_and_holes("middle"), (vec![2, 3], vec![1]));
}

/// One segment is left, and begins with a snapshot of acme and other, which both have a reader.
fn world_of_one_snapshot() -> World {
    let mut world = disk();
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    for name in ["acme", "other"] {
        node.engine.watch(&org(name));
        node.put(name, &["a", "b"]);
    }
    for _ in 0..15 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    drop(node);
    assert_eq!(segments(world.dir.path()).len(), 1);
    world
}

#[test]
fn r31_damage_to_the_only_snapshot_costs_what_it_hits_and_no_other_org() {
    let world = world_of_one_snapshot();
    damage_record(&newest(world.dir.path()), LOG, b"other");
    let node = world.open();
    assert_eq!(node.put("acme", &["c"]), [(3, false)]);
    let state = node.state("acme");
    assert!(state.ancestors.last().unwrap().lossy, "{state:?}");
    let state = node.state("other");
    assert!(state.born_empty && state.head == 0, "{state:?}");
}

#[test]
fn r31_damage_to_the_record_of_the_start_makes_no_boundary_clean() {
    let world = world_of_one_snapshot();
    let starts = world.open().state("acme").ancestors.len() as u64 + 1;
    // That start has begun no segment, so its own record follows the snapshot.
    let number = |world: &World| DiskStore::open(&world.disk_options(world.dir.path()), world.clock.now());
    damage_record(&newest(world.dir.path()), SNAPSHOT, b"");
    damage_record(&newest(world.dir.path()), START, b"");
    let (store, found) = number(&world).unwrap();
    assert_eq!((found.start.number, found.start.last_lossy), (starts + 1, starts + 1));
    assert_eq!(found.missing, 0, "files that were removed are not missing");
    assert!(found.next_index > found.logs.iter().map(|log| log.index).max().unwrap() + 1);
    drop(store);
    assert!(world.open().state("acme").ancestors.last().unwrap().lossy);
}

#[test]
fn r10_without_a_snapshot_in_the_newest_segment_none_is_removed() {
    let mut world = disk();
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a", "b"]);
    node.put("other", &["o"]);
    let epoch = node.state("acme").epoch;
    drop(node);
    // A start was killed while it began this one, and the next can begin none.
    fs::write(world.dir.path().join("segments/0000000002.seg"), "half a snapshot").unwrap();
    planted::no_create(true);
    let node = world.open();
    node.put("other", &["o2"]);
    world.pass(11 * MINUTE);
    node.engine.sweep();
    drop(node);
    planted::no_create(false);
    let node = world.open();
    let state = node.state("acme");
    assert!(state.head == 2 && state.ancestors.iter().any(|ancestor| ancestor.epoch == epoch), "{state:?}");
    assert_eq!(node.put("acme", &["c"]), [(3, false)]);
}

#[test]
fn r11_a_power_cut_in_the_middle_of_a_commit_is_no_loss() {
    for is_acknowledged in [false, true] {
        let world = disk();
        let node = world.open();
        node.put("acme", &["a"]);
        node.put("other", &["b"]);
        let path = newest(world.dir.path());
        let begin = written(&path).next_multiple_of(8);
        let head = fs::read(world.dir.path().join("head")).unwrap();
        let mut large = event("acme", "large");
        large.body = [&large.body[..], &[b' '; 60_000]].concat().into();
        let more =
            (0..4).map(|n| NewEvent { body: large.body.clone(), ..event("acme", &format!("large-{n}")) });
        node.append("acme", more.collect()).unwrap();
        drop(node);
        // Its first blocks were not written, and later ones were.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; 8192], begin).unwrap();
        if !is_acknowledged {
            fs::write(world.dir.path().join("head"), &head).unwrap();
        }
        let node = world.open();
        let state = node.state("acme");
        assert_eq!((state.head, state.ancestors.last().unwrap().lossy), (1, is_acknowledged), "{state:?}");
        assert_eq!(node.put("acme", &["c"]), [(2, false)]);
        assert_eq!(node.seqs("acme"), [1, 2]);
    }
}

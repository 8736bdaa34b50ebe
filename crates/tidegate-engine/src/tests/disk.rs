//! Tests of the disk engine alone: restarts, damage, and other processes.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use tidegate_core::Ancestor;
use tidegate_protocol::SEQ_MAX;

use super::{
    store::{Erasure, Store, WriteGroup},
    *,
};

pub(super) fn disk() -> World {
    World::new(Kind::Disk)
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The segments, oldest first.
pub(super) fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    found.sort();
    found
}

/// The segment that is written to.
pub(super) fn newest(dir: &Path) -> std::path::PathBuf {
    segments(dir).pop().unwrap()
}

/// How much of a segment has been written.
pub(super) fn written(segment: &Path) -> u64 {
    let bytes = fs::read(segment).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// Flips a bit of the event with this id, wherever it lies.
fn damage(dir: &Path, id: &str) {
    let needle = format!("\"id\":\"{id}\"");
    for path in segments(dir) {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            return file.write_all_at(&[bytes[at + 3] ^ 4], at as u64 + 3).unwrap();
        }
    }
    panic!("{id} is in no segment");
}

#[test]
fn r11_every_start_of_a_local_engine_is_a_new_epoch_with_its_parent() {
    let world = disk();
    let mut epochs = Vec::new();
    for (start, id) in ["a", "b", "c", "d"].iter().enumerate() {
        let node = world.open();
        assert!(node.engine.head(&org("acme")).is_none(), "no epoch until this start has touched it");
        assert_eq!(node.put("acme", &[id]), [(start as u64 + 1, false)]);
        let state = node.state("acme");
        assert_eq!(state.ancestors, epochs);
        assert_eq!(state.born_empty, start == 0);
        epochs.push(Ancestor { epoch: state.epoch, end: state.head, lossy: false });
        // With every commit synced, a crash loses nothing that was acknowledged either.
        if start % 2 == 0 {
            node.engine.close();
        }
    }
    assert_eq!(world.open().state("acme").ancestors, epochs);
}

#[test]
fn r11_an_empty_log_keeps_its_epoch_over_a_restart() {
    let world = disk();
    let epoch = world.open().state("acme").epoch;
    let state = world.open().state("acme");
    assert_eq!(state.ancestors, [Ancestor { epoch, end: 0, lossy: false }]);
}

#[test]
fn r11_a_weaker_policy_makes_an_unclean_stop_a_lossy_boundary() {
    let mut world = disk();
    world.sync_always = false;
    let lossy = |node: &Node<'_>| node.state("acme").ancestors.last().unwrap().lossy;
    let node = world.open();
    assert_eq!(node.engine.durability().weaker(), Some("interval"));
    node.put("acme", &["a"]);
    node.engine.close();
    drop(node);
    let node = world.open();
    assert!(!lossy(&node), "a clean stop");
    drop(node);
    world.sync_always = true;
    let node = world.open();
    assert!(lossy(&node), "an unclean stop of a run that was not synced");
    drop(node);
    assert!(!lossy(&world.open()), "an unclean stop of a run that was");
}

#[test]
fn r11_a_lossy_boundary_reaches_orgs_that_were_not_touched_then() {
    let mut world = disk();
    world.sync_always = false;
    world.open().put("acme", &["a"]);
    world.sync_always = true;
    world.open().put("other", &["a"]);
    world.open().put("other", &["b"]);
    let node = world.open();
    assert!(node.state("acme").ancestors[0].lossy);
    assert!(!node.state("other").ancestors.iter().any(|ancestor| ancestor.lossy));
}

#[test]
fn r11_an_image_of_a_running_log_opens_with_all_that_was_acknowledged() {
    let world = disk();
    let node = world.open();
    let image = tempfile::tempdir().unwrap();
    for n in 0..20 {
        node.put("acme", &[&format!("id{n}")]);
        if n == 12 {
            copy_dir(world.dir.path(), image.path());
        }
    }
    let restored = world.try_open(image.path()).unwrap();
    let state = restored.state("acme");
    assert_eq!(state.ancestors.len(), 1);
    assert_eq!((state.head, state.ancestors[0].end, state.ancestors[0].lossy), (13, 13, false));
    assert_eq!(restored.seqs("acme"), (1..=13).collect::<Vec<_>>());
    // The trace of R11: a client stood at 20; what is new up to there is not what it saw.
    assert_eq!(restored.put("acme", &["new"]), [(14, false)]);
    assert_ne!(restored.state("acme").epoch, node.state("acme").epoch);
    assert_eq!(restored.put("acme", &["id12", "id13"]), [(13, true), (15, false)]);
}

#[test]
fn r11_a_segment_cut_short_is_a_lossy_boundary_once() {
    let world = disk();
    let node = world.open();
    node.put("acme", &["a", "b"]);
    node.put("other", &["x"]);
    let keep = written(&newest(world.dir.path()));
    let lost = node.put("acme", &["c"]);
    let epoch = node.state("acme").epoch;
    drop(node);
    OpenOptions::new().write(true).open(newest(world.dir.path())).unwrap().set_len(keep).unwrap();
    let node = world.open();
    let state = node.state("acme");
    assert_eq!(state.ancestors, [Ancestor { epoch, end: 2, lossy: true }]);
    assert!(node.state("other").ancestors[0].lossy, "for every org");
    assert_eq!(node.seqs("acme"), [1, 2]);
    // R12: what was lost leaves the window too.
    assert_eq!(node.put("acme", &["a", "c"]), [(1, true), (lost[0].0, false)]);
    drop(node);
    let lossy: Vec<bool> = world.open().state("acme").ancestors.iter().map(|a| a.lossy).collect();
    assert_eq!(lossy, [true, false], "found once");
}

#[test]
fn r11_whatever_byte_of_the_newest_segment_is_damaged_nothing_is_lost_in_silence() {
    let world = disk();
    let node = world.open();
    for n in 0..12 {
        node.put(if n % 2 == 0 { "even" } else { "odd" }, &[&format!("id{n}")]);
    }
    drop(node);
    let end = written(&newest(world.dir.path()));
    let mut lost = 0;
    for step in 0..60 {
        let image = tempfile::tempdir().unwrap();
        copy_dir(world.dir.path(), image.path());
        let at = end * step / 60;
        let file = OpenOptions::new().read(true).write(true).open(newest(image.path())).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (step % 8))], at).unwrap();
        let node = world.try_open(image.path()).unwrap();
        for name in ["even", "odd"] {
            let state = node.state(name);
            let (seqs, holes) = node.seqs_and_holes(name);
            let mut all = [&seqs[..], &holes].concat();
            all.sort_unstable();
            assert_eq!(all, (1..=state.head).collect::<Vec<_>>(), "byte {at}: there, or said to be missing");
            lost += usize::from(state.head < 6 || !holes.is_empty());
            if state.head < 6 {
                let declared = state.ancestors.last().map(|ancestor| ancestor.lossy);
                assert!(declared.unwrap_or(state.born_empty), "byte {at} of {end}");
            }
        }
        assert!(matches!(node.put("even", &["after"])[..], [(_, false)]), "writes go on");
    }
    assert!(lost > 40, "damage was done: {lost}");
}

#[test]
fn r9_a_hole_in_the_middle_is_a_gap() {
    let world = disk();
    let node = world.open();
    for n in 0..9 {
        node.put("acme", &[&format!("id{n}")]);
    }
    node.put("other", &["x"]);
    node.engine.close();
    drop(node);
    damage(world.dir.path(), "id3");
    damage(world.dir.path(), "id4");
    let node = world.open();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor, state.ancestors[0].lossy), (9, 0, true));
    assert_eq!(node.seqs("acme"), [1, 2, 3, 6, 7, 8, 9]);
    let page = node.page("acme", 1, 9, 9_999, SEQ_END);
    assert_eq!((page.after, page.to), (1, 3), "a page ends where events are missing");
    let page = node.page("acme", 3, 9, 9_999, SEQ_END);
    assert_eq!((page.after, page.to), (5, 9), "and the next one begins after them");
    let other = node.state("other");
    assert_eq!((other.head, other.floor), (1, 0));
    drop(node);
    assert!(!world.open().state("acme").ancestors[1].lossy, "found once");
}

#[test]
fn r11_without_a_readable_head_file_nothing_can_be_proved() {
    let world = disk();
    world.open().put("acme", &["a"]);
    for what in ["missing", "unreadable"] {
        let head = world.dir.path().join("head");
        match what {
            "missing" => fs::remove_file(head).unwrap(),
            _ => fs::write(head, vec![7; 8192]).unwrap(),
        }
        assert!(world.open().state("acme").ancestors.last().unwrap().lossy, "{what}");
        assert!(!world.open().state("acme").ancestors.last().unwrap().lossy, "{what}, once");
    }
    assert_eq!(world.open().seqs("acme"), [1]);
}

#[test]
fn r12_ids_are_known_over_a_restart_for_the_rest_of_their_time() {
    let world = disk();
    world.open().put("acme", &["a"]);
    world.pass(MINUTE);
    world.open().put("acme", &["b"]);
    world.pass(4 * MINUTE - 1);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, true), (2, true)]);
    let conflict = node.append("acme", vec![event_with("acme", "a", "other")]).unwrap_err();
    assert_eq!(conflict, AppendError::IdConflict { index: 0, first: FirstUse::Seq(1) });
    drop(node);
    world.pass(1);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(3, false), (2, true)]);
}

#[test]
fn p5_what_an_org_has_in_the_window_is_known_over_a_restart() {
    let mut world = disk();
    world.local.dedup_max_entries_per_org = 2;
    world.open().put("acme", &["a"]);
    world.pass(MINUTE);
    world.open().put("acme", &["b"]);
    let node = world.open();
    assert_eq!(node.append("acme", vec![event("acme", "c")]).unwrap_err(), AppendError::OrgDedupFull);
    assert_eq!(node.put("other", &["c", "d"]), [(1, false), (2, false)]);
    drop(node);
    world.pass(4 * MINUTE);
    assert_eq!(world.open().put("acme", &["c"]), [(3, false)]);
}

#[test]
fn r14_timestamps_do_not_fall_over_a_restart() {
    let world = disk();
    world.open().put("acme", &["a"]);
    world.step_back(MINUTE);
    let node = world.open();
    node.put("acme", &["b"]);
    assert_eq!(node.all("acme", 0)[1].timestamp, DAWN);
}

#[test]
fn r10_a_forgotten_org_stays_forgotten_and_its_number_is_not_given_again() {
    let mut world = disk();
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a"]);
    let epoch = node.state("acme").epoch;
    for _ in 0..15 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert_eq!(node.engine.orgs(), 0);
    drop(node);
    let node = world.open();
    assert_eq!(node.engine.orgs(), 0);
    node.put("other", &["x"]);
    let state = node.state("acme");
    assert!(state.born_empty && state.epoch != epoch && state.head == 0);
    assert_eq!(node.seqs("acme"), [] as [Seq; 0]);
    assert_eq!(node.seqs("other"), [1]);
}

#[test]
fn seqs_end_at_what_a_javascript_number_holds() {
    let world = disk();
    world.open().put("acme", &["a"]);
    let (store, _) = DiskStore::open(&world.disk_options(world.dir.path()), DAWN).unwrap();
    store.raise_head("acme", SEQ_MAX - 2);
    drop(store);
    let node = world.open();
    let events = |ids: &[&str]| ids.iter().map(|id| event("acme", id)).collect::<Vec<_>>();
    assert_eq!(node.append("acme", events(&["b", "c", "d"])).unwrap_err(), AppendError::SeqsUsedUp);
    assert_eq!(node.put("acme", &["b", "a", "c"]), [(SEQ_MAX - 1, false), (1, true), (SEQ_MAX, false)]);
    assert_eq!(node.append("acme", events(&["d"])).unwrap_err(), AppendError::SeqsUsedUp);
    assert_eq!(node.page("acme", SEQ_MAX - 1, 9, 999, SEQ_MAX).to, SEQ_MAX);
    drop(node);
    assert_eq!(world.open().state("acme").head, SEQ_MAX);
}

#[test]
fn a_second_process_is_refused() {
    let world = disk();
    let node = world.open();
    let refused = world.try_open(world.dir.path()).err().expect("refused").to_string();
    assert!(refused.contains(world.dir.path().to_str().unwrap()), "{refused}");
    assert!(refused.contains("is in use by another process"), "{refused}");
    drop(node);
    world.open();
}

/// A command that asks whether a gateway runs holds the lock while it asks.
#[test]
fn a_lock_that_is_held_for_a_moment_does_not_stop_a_start() {
    let world = disk();
    drop(world.open());
    let asking = fs::File::open(world.dir.path().join("lock")).unwrap();
    rustix::fs::flock(&asking, rustix::fs::FlockOperation::LockShared).unwrap();
    std::thread::scope(|scope| {
        let start = scope.spawn(|| world.try_open(world.dir.path()).map(|node| node.put("acme", &["a"])));
        drop(asking);
        assert_eq!(start.join().unwrap().unwrap(), [(1, false)]);
    });
}

#[test]
fn another_format_is_refused() {
    let world = disk();
    drop(world.open());
    fs::write(world.dir.path().join("format"), "tidegate log 3\n").unwrap();
    let refused = world.try_open(world.dir.path()).err().expect("refused").to_string();
    assert!(refused.contains("has the format \"tidegate log 3\""), "{refused}");
    fs::remove_file(world.dir.path().join("format")).unwrap();
    let refused = world.try_open(world.dir.path()).err().expect("refused").to_string();
    assert!(refused.contains("without a format file"), "{refused}");
}

#[test]
fn the_directory_is_nobody_elses() {
    let world = disk();
    let dir = world.dir.path().join("deep").join("log");
    let node = world.try_open(&dir).unwrap();
    node.put("acme", &["a"]);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dir.join("head")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Small segments, each begun by hand: a sweep after a minute ends the newest one.
pub(super) fn world_of_segments(count: u64) -> World {
    let mut world = disk();
    world.window = std::time::Duration::from_secs(24 * 3600);
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    for n in 0..count {
        for org in ["acme", "other"] {
            node.put(org, &[&format!("{org}-{n}-a"), &format!("{org}-{n}-b")]);
        }
        world.pass(MINUTE);
        node.engine.sweep();
    }
    node.engine.close();
    drop(node);
    assert_eq!(segments(world.dir.path()).len() as u64, count + 1);
    world
}

#[test]
fn r28_a_segment_that_is_missing_is_a_gap_in_its_place_and_no_other() {
    let world = world_of_segments(5);
    fs::remove_file(&segments(world.dir.path())[2]).unwrap();
    let node = world.open();
    for org in ["acme", "other"] {
        let state = node.state(org);
        assert!(!state.ancestors.iter().any(|ancestor| ancestor.lossy), "the heads are known: {state:?}");
        let (seqs, holes) = node.seqs_and_holes(org);
        assert_eq!((state.head, holes), (10, vec![5, 6]));
        assert_eq!(seqs, [1, 2, 3, 4, 7, 8, 9, 10]);
        // Reads that begin within the hole, or end in it.
        assert_eq!(node.page(org, 5, 9, 9_999, SEQ_END).after, 6);
        let page = node.page(org, 4, 9, 9_999, 5);
        assert_eq!((page.after, page.to, page.events.len()), (5, 5, 0));
    }
}

#[test]
fn r28_the_newest_segment_that_is_missing_is_a_lossy_boundary() {
    let world = world_of_segments(2);
    let node = world.open();
    node.put("acme", &["late"]);
    node.put("born-late", &["x"]);
    let born_late = node.state("born-late").epoch;
    node.engine.close();
    drop(node);
    fs::remove_file(newest(world.dir.path())).unwrap();
    let node = world.open();
    let state = node.state("acme");
    assert!(state.ancestors.last().unwrap().lossy, "{state:?}");
    assert_eq!(node.seqs("acme"), [1, 2, 3, 4]);
    assert_ne!(node.state("born-late").epoch, born_late);
}

#[test]
fn r31_a_flipped_bit_costs_the_events_of_its_record_alone() {
    let world = world_of_segments(4);
    damage(world.dir.path(), "acme-1-b");
    for _ in 0..2 {
        let node = world.open();
        let (seqs, holes) = node.seqs_and_holes("acme");
        assert_eq!((seqs, holes), (vec![1, 2, 5, 6, 7, 8], vec![3, 4]), "both events of one record");
        assert_eq!(node.seqs("other"), (1..=8).collect::<Vec<_>>());
        assert!(!node.state("acme").ancestors.iter().any(|ancestor| ancestor.lossy));
        let copies = fs::read_dir(world.dir.path().join("damaged")).unwrap().count();
        assert_eq!(copies, 1, "one copy, however often it is read");
    }
}

#[test]
fn r31_whatever_byte_of_a_sealed_segment_is_damaged_the_rest_is_read() {
    let world = world_of_segments(3);
    let length = fs::metadata(&segments(world.dir.path())[1]).unwrap().len();
    let mut damaged = 0;
    for at in (0..length).step_by(7) {
        let image = tempfile::tempdir().unwrap();
        copy_dir(world.dir.path(), image.path());
        let path = &segments(image.path())[1];
        let bytes = fs::read(path).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[bytes[at as usize] ^ (1 << (at % 8))], at).unwrap();
        let node = world.try_open(image.path()).unwrap();
        for org in ["acme", "other"] {
            let (seqs, holes) = node.seqs_and_holes(org);
            let mut all = [&seqs[..], &holes].concat();
            all.sort_unstable();
            assert_eq!(all, [1, 2, 3, 4, 5, 6], "byte {at}");
            assert!(holes.is_empty() || holes == [3, 4], "byte {at}: {holes:?}");
            damaged += holes.len();
            for event in node.all(org, 0) {
                let id = format!("{org}-{}-{}", (event.seq - 1) / 2, ["b", "a"][(event.seq % 2) as usize]);
                assert!(has_id(&event, &id), "byte {at}: seq {} is wrong", event.seq);
            }
        }
    }
    assert!(damaged > 20, "{damaged}");
}

/// How many damaged stretches a start finds.
fn found_damaged(world: &World, dir: &Path) -> u64 {
    DiskStore::open(&world.disk_options(dir), world.clock.now()).unwrap().1.damaged
}

#[test]
fn r31_damage_that_is_found_when_an_index_is_made_anew_is_counted() {
    let world = world_of_segments(3);
    for (lost, org, name) in
        [(100, "acme", "the trailer and a bit"), (700, "other", "the trailer and a commit")]
    {
        let image = tempfile::tempdir().unwrap();
        copy_dir(world.dir.path(), image.path());
        let path = &segments(image.path())[1];
        let file = OpenOptions::new().write(true).open(path).unwrap();
        if lost == 100 {
            damage(image.path(), "acme-1-a");
        }
        file.set_len(file.metadata().unwrap().len() - lost).unwrap();
        assert_eq!(found_damaged(&world, image.path()), 1, "{name}");
        assert_eq!(found_damaged(&world, image.path()), 0, "{name}: the next start has an index");
        let node = world.try_open(image.path()).unwrap();
        let (seqs, holes) = node.seqs_and_holes(org);
        assert!(!holes.is_empty() && seqs.len() + holes.len() == 6, "{name}: {seqs:?} {holes:?}");
    }
}

#[test]
fn r31_an_index_that_cannot_be_read_any_more_is_made_anew() {
    let world = world_of_segments(3);
    let node = world.open();
    let before = node.seqs("acme");
    let path = &segments(world.dir.path())[1];
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    assert_eq!(node.seqs("acme"), before);
    assert_eq!(node.seqs("other"), before);
}

#[test]
fn p8_a_file_that_cannot_be_removed_stops_nothing_and_goes_later() {
    let world = world_of_segments(3);
    let oldest = segments(world.dir.path())[0].clone();
    let node = world.open();
    fs::remove_file(&oldest).unwrap();
    fs::create_dir(&oldest).unwrap();
    world.pass(48 * 60 * MINUTE);
    // The clock leapt, and is believed after a while.
    for _ in 0..20 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert!(oldest.exists());
    node.put("acme", &["later"]);
    assert_eq!(node.seqs("acme").len(), 1, "the other files are gone");
    fs::remove_dir(&oldest).unwrap();
    fs::write(&oldest, "of no use").unwrap();
    node.engine.sweep();
    assert!(!oldest.exists());
}

#[test]
fn p8_an_empty_segment_that_a_kill_has_left_is_not_written_to() {
    /// Where a record has its kind, and the kind of a snapshot.
    const SNAPSHOT: (usize, u8) = (38, 7);
    let world = world_of_segments(2);
    let number = segments(world.dir.path()).len() + 1;
    fs::write(world.dir.path().join(format!("segments/{number:010}.seg")), "").unwrap();
    let node = world.open();
    node.put("acme", &["later"]);
    assert_eq!(fs::read(newest(world.dir.path())).unwrap()[SNAPSHOT.0], SNAPSHOT.1);
    assert!(!node.state("acme").ancestors.iter().any(|ancestor| ancestor.lossy));
    assert_eq!(node.seqs("acme"), (1..=5).collect::<Vec<_>>());
}

/// The sync of a new segment failed, and its file could not be removed. The log went on in the old one.
#[test]
fn r28_a_segment_that_could_not_be_begun_hides_no_later_commit() {
    for (after, what) in [(1, "as many commits"), (3, "more commits"), (0, "no commit")] {
        let world = disk();
        let node = world.open();
        node.put("acme", &["a"]);
        let image = tempfile::tempdir().unwrap();
        copy_dir(world.dir.path(), image.path());
        let (store, _) = DiskStore::open(&world.disk_options(image.path()), DAWN).unwrap();
        store.raise_head("nobody", 0);
        drop(store);
        let name = "segments/0000000002.seg";
        fs::copy(image.path().join(name), world.dir.path().join(name)).unwrap();
        for n in 0..after {
            node.put("acme", &[&format!("later-{n}")]);
        }
        drop(node);
        let report = crate::check::check(world.dir.path(), &mut |_| {}).unwrap();
        assert!(report.is_whole() && !report.is_lossy, "{what}: {report:?}");
        assert_eq!(report.events(), 1 + after);
        for _ in 0..2 {
            let node = world.open();
            let state = node.state("acme");
            assert!(!state.ancestors.iter().any(|ancestor| ancestor.lossy), "{what}: {state:?}");
            assert_eq!(node.seqs_and_holes("acme"), ((1..=1 + after).collect(), vec![]), "{what}");
        }
        let node = world.open();
        assert_eq!(node.put("acme", &["a", "new"]), [(1, true), (2 + after, false)], "{what}");
    }
}

/// What a kill in the middle of a commit leaves is cut off, whatever stands beside it.
#[test]
fn r11_half_a_commit_is_no_loss_beside_a_segment_that_could_not_be_begun() {
    let world = disk();
    let head = world.dir.path().join("head");
    let node = world.open();
    node.put("acme", &["a"]);
    let acknowledged = fs::read(&head).unwrap();
    node.put("acme", &["b"]);
    drop(node);
    let first = newest(world.dir.path());
    // Its first record is whole, its last one is not, and nobody has acknowledged it.
    OpenOptions::new().write(true).open(&first).unwrap().set_len(written(&first) - 8).unwrap();
    fs::write(&head, acknowledged).unwrap();
    fs::write(world.dir.path().join("segments/0000000002.seg"), "").unwrap();
    let node = world.open();
    assert!(!node.state("acme").ancestors.iter().any(|ancestor| ancestor.lossy));
    assert_eq!(node.seqs_and_holes("acme"), (vec![1], vec![]));
    assert_eq!(node.put("acme", &["b"]), [(2, false)]);
}

/// A disk that hangs, or fails slowly, costs the committing thread nothing: it only asks another one.
#[test]
fn p8_a_sweep_reads_no_segment_on_the_committing_thread() {
    let world = world_of_segments(3);
    let (mut store, _) = DiskStore::open(&world.disk_options(world.dir.path()), world.clock.now()).unwrap();
    let (let_go, worked) = store.hang();
    for _ in 0..3 {
        store::Store::tick(&store, world.clock.now()).unwrap();
    }
    assert!(!store.is_readable(), "nobody has read it yet");
    let_go.send(()).unwrap();
    worked.recv().unwrap();
    assert!(store.is_readable());
    drop(let_go);
}

#[test]
fn p8_a_first_start_that_was_killed_anywhere_is_finished_by_the_next() {
    let world = disk();
    let node = world.open();
    node.put("acme", &["a"]);
    node.engine.close();
    drop(node);
    let whole = fs::read(newest(world.dir.path())).unwrap();
    for length in 0..whole.len() {
        let image = tempfile::tempdir().unwrap();
        fs::write(image.path().join("format"), "tidegate log 2\n").unwrap();
        fs::write(image.path().join("lock"), "").unwrap();
        if length % 3 > 0 {
            fs::create_dir(image.path().join("segments")).unwrap();
        }
        if length % 3 > 1 {
            fs::write(image.path().join("segments").join("0000000001.seg"), &whole[..length]).unwrap();
        }
        let node = world.try_open(image.path()).unwrap();
        let id = format!("b{length}");
        assert!(matches!(node.put("acme", &[&id])[..], [(_, false)]), "cut at {length}");
        node.engine.close();
        drop(node);
        let node = world.try_open(image.path()).unwrap();
        assert!(matches!(node.put("acme", &[&id])[..], [(_, true)]), "cut at {length}");
    }
}

/// Whether a file below `dir` holds `needle`.
fn holds(dir: &Path, needle: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[test]
fn p7_what_retention_removes_is_gone_from_every_file() {
    let mut world = disk();
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["forget-me"]);
    for _ in 0..10 {
        assert!(holds(world.dir.path(), "forget-me"));
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert!(!holds(world.dir.path(), "forget-me"), "also though the node is quiet");
}

#[test]
fn p7_a_deleted_event_cannot_be_read_at_once_and_is_gone_from_the_files_after_a_sweep() {
    let world = disk();
    let mut node = world.open();
    node.put("acme", &["a", "forget-me", "c"]);
    let epoch = node.state("acme").epoch;
    let delete = |node: &Node<'_>, org: &str, seqs: Vec<Seq>| {
        world.block_on(node.engine.delete_events(&super::org(org), seqs))
    };
    assert_eq!(delete(&node, "nobody", vec![1]), Err(DeleteError::NoLog));
    assert_eq!(delete(&node, "acme", vec![0, 9]), Err(DeleteError::NoEvent));
    assert_eq!(delete(&node, "acme", vec![2]), Ok(()));
    assert_eq!(node.seqs_and_holes("acme"), (vec![1, 3], vec![]), "its place is no gap");
    assert_eq!(node.put("acme", &["forget-me"]), [(2, true)], "its id is known as long as any other");
    for sweeps in [false, true, false] {
        if sweeps {
            assert!(holds(world.dir.path(), "forget-me"));
            node.engine.sweep();
            assert!(!holds(world.dir.path(), "forget-me"));
        }
        node.engine.close();
        drop(node);
        node = world.open();
        assert_eq!(node.seqs_and_holes("acme"), (vec![1, 3], vec![]), "after a start, too");
        assert!(node.state("acme").ancestors.iter().any(|ancestor| ancestor.epoch == epoch));
    }
    node.put("acme", &["d"]);
    assert_eq!(node.seqs_and_holes("acme"), (vec![1, 3, 4], vec![]));
}

#[test]
fn p7_a_deleted_org_leaves_no_byte_and_its_name_comes_back_empty() {
    let world = world_of_segments(3);
    let node = world.open();
    node.put("acme", &["newest"]);
    let epoch = node.state("acme").epoch;
    let listed: Vec<String> =
        world.block_on(node.engine.list_orgs()).iter().map(|log| log.org.to_string()).collect();
    assert_eq!(listed, ["acme", "other"]);
    assert_eq!(world.block_on(node.engine.delete_org(&org("acme"))), Ok(()));
    assert_eq!(world.block_on(node.engine.delete_org(&org("acme"))), Err(DeleteError::NoLog));
    assert!(node.engine.head(&org("acme")).is_none());
    node.engine.sweep();
    assert!(!holds(world.dir.path(), "acme"), "neither events nor the name");
    node.engine.close();
    drop(node);
    let node = world.open();
    assert_eq!(node.seqs_and_holes("other"), ((1..=6).collect(), vec![]));
    let state = node.state("acme");
    assert!(state.born_empty && state.epoch != epoch && state.head == 0, "{state:?}");
    assert_eq!(node.put("acme", &["newest"]), [(1, false)], "its ids are forgotten as well");
}

#[test]
fn p7_an_erasure_that_a_kill_interrupted_is_carried_out_after_the_next_start() {
    let world = world_of_segments(2);
    let node = world.open();
    world.block_on(node.engine.delete_org(&org("acme"))).unwrap();
    drop(node);
    let node = world.open();
    assert!(node.engine.head(&org("acme")).is_none());
    assert!(holds(world.dir.path(), "acme-0-a"));
    node.engine.sweep();
    assert!(!holds(world.dir.path(), "acme"));
}

#[test]
fn p7_many_deletions_make_few_files_and_their_bytes_leave_in_time() {
    let mut world = disk();
    world.window = std::time::Duration::from_secs(3600);
    world.bucket = Some(std::time::Duration::from_secs(600));
    let node = world.open();
    let deletions: u64 = 120;
    for n in 1..=deletions {
        assert_eq!(node.put("acme", &[&format!("forget-{n:03}")]), [(n, false)]);
        assert_eq!(world.block_on(node.engine.delete_events(&org("acme"), vec![n])), Ok(()));
        node.engine.sweep();
    }
    // Six of an age of ten minutes, and 64 that may end early.
    let files = segments(world.dir.path()).len();
    assert!((60..=72).contains(&files), "{files}");
    assert!(!holds(world.dir.path(), "forget-001"));
    assert!(holds(world.dir.path(), "forget-120"), "that of a deletion for which no segment ended early");
    assert_eq!(node.seqs("acme"), [] as [Seq; 0]);
    for _ in 0..11 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert!(!holds(world.dir.path(), "forget-"));
}

#[test]
fn p7_a_deletion_leaves_no_copy_of_a_record_that_became_damaged() {
    let world = world_of_segments(3);
    // Not the text of the event, but its place in the record.
    let path = &segments(world.dir.path())[0];
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"acme-0-b").unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[at + 7] ^ 4], at as u64 + 7).unwrap();
    let node = world.open();
    assert_eq!(node.seqs_and_holes("acme"), (vec![3, 4, 5, 6], vec![1, 2]));
    assert!(holds(&world.dir.path().join("damaged"), "acme-0-a"), "a copy");
    assert_eq!(world.block_on(node.engine.delete_events(&org("acme"), vec![3])), Ok(()));
    node.engine.sweep();
    assert!(!holds(world.dir.path(), "acme-0-a"), "it may be what was to be deleted");
    assert_eq!(node.seqs_and_holes("acme"), (vec![4, 5, 6], vec![1, 2]));
    assert_eq!(node.seqs_and_holes("other"), ((1..=6).collect(), vec![]));
}

#[test]
fn p7_a_copy_of_damage_goes_with_its_segment() {
    let world = world_of_segments(3);
    damage(world.dir.path(), "acme-0-a");
    let node = world.open();
    assert_eq!(node.seqs_and_holes("acme"), (vec![3, 4, 5, 6], vec![1, 2]));
    assert_eq!((node.engine.usage().damaged, holds(world.dir.path(), "acme-0-b")), (1, true));
    world.pass((24 * 60 - 3) * MINUTE);
    node.engine.sweep();
    assert_eq!(node.state("acme").floor, 2);
    assert!(!holds(world.dir.path(), "acme-0-b"));
    assert_eq!((node.engine.usage().damaged, node.engine.usage().damaged_bytes), (0, 0));
}

#[test]
fn r31_neighbours_that_are_damaged_are_one_stretch() {
    let mut world = disk();
    world.bucket = Some(std::time::Duration::from_secs(60));
    let node = world.open();
    for n in 0..400 {
        node.put("acme", &[&format!("id{n:03}")]);
    }
    world.pass(MINUTE);
    node.engine.sweep();
    node.put("acme", &["newest"]);
    node.engine.close();
    drop(node);
    // Zeros in place of 300 records, and whole records around them.
    let path = &segments(world.dir.path())[0];
    let bytes = fs::read(path).unwrap();
    let place = |id: &str| {
        let needle = format!("\"id\":\"{id}\"");
        bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap()
    };
    let (begin, end) = (place("id050"), place("id350"));
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; end - begin], begin as u64).unwrap();
    let node = world.open();
    let (seqs, holes) = node.seqs_and_holes("acme");
    assert_eq!(holes, (51..=351).collect::<Vec<_>>());
    assert_eq!(seqs, (1..=50).chain(352..=401).collect::<Vec<_>>());
    assert_eq!(node.seqs_and_holes("acme").0, seqs, "again");
    let copies = fs::read_dir(world.dir.path().join("damaged")).unwrap().count();
    // The ids are read first, from the end.
    assert!(copies <= 64, "{copies}");
    assert_eq!(node.engine.usage().damaged, 1);
    assert!(node.engine.usage().damaged_bytes < 2 * (end - begin) as u64);
}

#[test]
fn p7_a_read_that_began_after_a_deletion_does_not_show_it_though_its_files_are_old() {
    let world = disk();
    world.open().put("acme", &["a", "forget-me", "c"]);
    let (store, found) = DiskStore::open(&world.disk_options(world.dir.path()), DAWN).unwrap();
    let (store, at) = (Arc::new(store), found.clock);
    let commit = |store: &DiskStore, is_done| {
        let erasure = Erasure { log: found.logs[0].index, seqs: Some(vec![2]) };
        let group = WriteGroup { at, erasures: vec![(erasure, is_done)], ..WriteGroup::default() };
        store.commit(&group).unwrap().unwrap();
    };
    commit(&store, false);
    store.tick(at).unwrap();
    let index = found.logs[0].index;
    DiskStore::when_listed({
        let (store, found) = (store.clone(), found.clone());
        move || {
            assert_eq!(store.erasures(), [Erasure { log: found.logs[0].index, seqs: Some(vec![2]) }]);
            store.erase(&store.erasures()).unwrap();
            let erasures = store.erasures().into_iter().map(|erasure| (erasure, true)).collect();
            let group = WriteGroup { at, erasures, ..WriteGroup::default() };
            store.commit(&group).unwrap().unwrap();
            assert!(store.erasures().is_empty());
        }
    });
    let seqs = |stretch: store::Stretch| stretch.events.iter().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.read(index, 0, 3, 9, 9999).unwrap()), [1, 3]);
    assert!(!holds(world.dir.path(), "forget-me"));
    assert_eq!(seqs(store.read(index, 0, 3, 9, 9999).unwrap()), [1, 3]);
}

//! Tests of checking and repairing a stopped log. The oracle is a start: it has to read exactly what a check says
//! that is there.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    disk::{copy_dir, disk, newest, segments, world_of_segments, written},
    *,
};
use crate::{
    check::{CheckError, HeadReport, IndexReport, Place, Report, check},
    repair::repair,
};

fn checked(dir: &Path) -> Report {
    check(dir, &mut |_| {}).unwrap()
}

fn image_of(world: &World) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    copy_dir(world.dir.path(), image.path());
    image
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Where the `which`-th record of a segment begins that is of this kind, and its bytes with padding.
fn record(segment: &Path, kind: u8, which: usize) -> (u64, u64) {
    let bytes = fs::read(segment).unwrap();
    let begins = (0..bytes.len().saturating_sub(40)).step_by(8).filter(|at| &bytes[*at..at + 4] == b"tgR2");
    let mut found = begins.filter(|at| bytes[at + 38] == kind);
    let at = found.nth(which).unwrap();
    let payload = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
    (at as u64, (40 + u64::from(payload)).next_multiple_of(8))
}

const EVENTS: u8 = 1;
const IDS: u8 = 2;
const SNAPSHOT: u8 = 7;

/// What a start reads of each org: seqs and holes. Works on a copy.
fn read(world: &World, dir: &Path) -> Option<Vec<(Vec<Seq>, Vec<Seq>)>> {
    let image = tempfile::tempdir().unwrap();
    copy_dir(dir, image.path());
    let node = world.try_open(image.path()).ok()?;
    Some(["acme", "other"].map(|org| node.seqs_and_holes(org)).into())
}

/// The same as a report has it.
fn said(report: &Report) -> Vec<(u64, Vec<Seq>)> {
    let of = |name: &str| {
        let org = report.orgs.iter().find(|org| org.org.as_str() == name);
        org.map_or((0, Vec::new()), |org| {
            let missing: Vec<Seq> = org.holes.iter().cloned().flatten().collect();
            assert_eq!(missing.len() as u64, org.missing);
            (org.events, missing)
        })
    };
    ["acme", "other"].map(of).into()
}

fn counted(read: &[(Vec<Seq>, Vec<Seq>)]) -> Vec<(u64, Vec<Seq>)> {
    read.iter().map(|(seqs, holes)| (seqs.len() as u64, holes.clone())).collect()
}

/// Repairs the log, and checks that nothing is left to complain of and the same events are read. Returns what was
/// found first.
fn ended_by_repair(world: &World, dir: &Path, what: &str) -> Report {
    let found = checked(dir);
    let before = read(world, dir);
    if let Some(before) = &before {
        assert_eq!(said(&found), counted(before), "{what}: a check says what a start reads");
    }
    let (again, after) = repair(dir, false, &mut |_| {}).unwrap();
    assert_eq!(again, found, "{what}: a check changes nothing");
    assert!(after.is_spotless() && !after.is_lossy, "{what}: {after:?}");
    assert_eq!(said(&after), said(&found), "{what}");
    let (store, start) = DiskStore::open(&world.disk_options(dir), world.clock.now()).unwrap();
    assert_eq!((start.missing, start.damaged), (0, 0), "{what}");
    assert!(start.start.last_lossy != start.start.number, "{what}: the next start finds no loss");
    drop(store);
    let read = read(world, dir).unwrap();
    assert_eq!(before.unwrap_or_else(|| read.clone()), read, "{what}");
    found
}

#[test]
fn r31_a_check_of_a_whole_log_finds_nothing_and_changes_nothing() {
    let world = world_of_segments(3);
    let node = world.open();
    node.put("acme", &["gone", "stays"]);
    node.put("left", &["x"]);
    world.block_on(node.engine.delete_events(&org("acme"), vec![7])).unwrap();
    world.block_on(node.engine.delete_org(&org("left"))).unwrap();
    node.engine.sweep();
    node.engine.close();
    drop(node);
    let bytes = |dir: &Path| segments(dir).iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let before = bytes(world.dir.path());
    let mut last = None;
    let report = check(world.dir.path(), &mut |progress| last = Some(progress)).unwrap();
    assert!(report.is_spotless() && !report.is_lossy, "{report:?}");
    let orgs: Vec<_> =
        report.orgs.iter().map(|org| (org.org.as_str(), org.floor, org.head, org.events)).collect();
    assert_eq!(orgs, [("acme", 0, 8, 7), ("other", 0, 6, 6)], "a deleted event is no hole");
    assert_eq!(report.missing_events(), 0);
    let progress = last.unwrap();
    assert!(progress.done == progress.total && progress.total == report.bytes, "{progress:?}");
    let (found, after) = repair(world.dir.path(), false, &mut |_| {}).unwrap();
    assert_eq!((&found, &after), (&report, &report));
    assert!(before == bytes(world.dir.path()));

    // A crash leaves nothing that counts as damage.
    drop(world.open());
    let mut file = OpenOptions::new().append(true).open(newest(world.dir.path())).unwrap();
    file.write_all(b"a commit that nobody").unwrap();
    let report = checked(world.dir.path());
    assert!(report.is_whole() && !report.is_spotless(), "{report:?}");
    assert_eq!(report.torn.unwrap().bytes, 20);
}

#[test]
fn r31_damage_of_every_kind_is_found_in_its_place_and_ended_by_a_repair() {
    let world = world_of_segments(4);
    let node = world.open();
    for n in 0..3 {
        node.put("acme", &[&format!("new-{n}")]);
    }
    node.engine.close();
    drop(node);
    let file = |dir: &Path, n: usize| PathBuf::from("segments").join(segments(dir)[n].file_name().unwrap());
    let place = |file: PathBuf, (offset, bytes): (u64, u64)| vec![Place { file, offset, bytes }];
    let holes = |report: &Report| said(report).into_iter().map(|(_, holes)| holes).collect::<Vec<_>>();
    let none: Vec<Seq> = vec![];

    for (kind, which, acme, other) in [
        (EVENTS, 0, vec![3, 4], none.clone()),
        (EVENTS, 1, none.clone(), vec![3, 4]),
        (IDS, 1, none.clone(), none.clone()),
    ] {
        let what = &format!("record {which} of kind {kind} in a sealed segment");
        let image = image_of(&world);
        let dir = image.path();
        let at = record(&segments(dir)[1], kind, which);
        flip(&segments(dir)[1], at.0 + at.1 / 2);
        let found = ended_by_repair(&world, dir, what);
        assert_eq!(found.damaged, place(file(dir, 1), at), "{what}");
        assert_eq!(holes(&found), [acme, other], "{what}");
        assert!(!found.is_lossy && found.indexes.is_empty() && found.head == HeadReport::Whole, "{what}");
        assert!(fs::read_dir(dir.join("damaged")).unwrap().count() > 0, "{what}: a copy");
    }

    let image = image_of(&world);
    let dir = image.path();
    let begin = fs::metadata(&segments(dir)[1]).unwrap().len();
    for (what, back) in [("the index", 100), ("the trailer", 70)] {
        flip(&segments(dir)[1], begin - back);
        let found = ended_by_repair(&world, dir, what);
        assert_eq!(found.indexes, [IndexReport { file: file(dir, 1), is_damaged: true }], "{what}");
        assert_eq!((found.damaged_count, holes(&found)), (0, vec![none.clone(), none.clone()]), "{what}");
    }

    let what = "an index that was not written";
    let file_1 = OpenOptions::new().write(true).open(&segments(dir)[1]).unwrap();
    file_1.set_len(begin - 60).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert_eq!(found.indexes, [IndexReport { file: file(dir, 1), is_damaged: false }], "{what}");
    assert!(found.is_whole());

    let what = "a segment cut short between two records";
    let image = image_of(&world);
    let dir = image.path();
    let end = record(&segments(dir)[1], EVENTS, 1).0;
    OpenOptions::new().write(true).open(&segments(dir)[1]).unwrap().set_len(end).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert_eq!(found.damaged, place(file(dir, 1), (end, 0)), "{what}");
    assert_eq!(holes(&found), [none.clone(), vec![3, 4]], "{what}");

    let what = "a segment without a whole record";
    let image = image_of(&world);
    let dir = image.path();
    let end = fs::metadata(&segments(dir)[1]).unwrap().len();
    fs::write(&segments(dir)[1], vec![7; end as usize]).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert_eq!(found.damaged, place(file(dir, 1), (0, end)), "{what}");
    assert_eq!(holes(&found), [[3, 4], [3, 4]], "{what}");

    let what = "a missing segment";
    let missing = file(dir, 2);
    fs::remove_file(dir.join(&missing)).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert_eq!(found.missing, std::slice::from_ref(&missing), "{what}");
    assert_eq!(holes(&found), [[3, 4, 5, 6], [3, 4, 5, 6]], "{what}");
    assert!(dir.join(missing).exists());

    for (what, expected) in [
        ("half of the head file", HeadReport::HalfDamaged),
        ("the head file", HeadReport::Damaged),
        ("no head file", HeadReport::Missing),
    ] {
        let image = image_of(&world);
        let dir = image.path();
        let head = dir.join("head");
        match expected {
            HeadReport::HalfDamaged => flip(&head, 5),
            HeadReport::Damaged => fs::write(&head, vec![0; 9000]).unwrap(),
            _ => fs::remove_file(&head).unwrap(),
        }
        let found = ended_by_repair(&world, dir, what);
        assert_eq!((found.head, found.is_lossy), (expected, expected != HeadReport::HalfDamaged), "{what}");
    }

    for what in ["format damaged", "format missing"] {
        let image = image_of(&world);
        let dir = image.path();
        match what {
            "format damaged" => flip(&dir.join("format"), 13),
            _ => fs::remove_file(dir.join("format")).unwrap(),
        }
        let refused = world.try_open(dir).err().expect("refused").to_string();
        assert!(refused.contains("`tidegate log check --repair`"), "{refused}");
        assert!(ended_by_repair(&world, dir, what).is_format_damaged);
    }

    let what = "a record of the newest segment";
    let image = image_of(&world);
    let dir = image.path();
    let at = record(&newest(dir), EVENTS, 1);
    flip(&newest(dir), at.0 + 41);
    let found = ended_by_repair(&world, dir, what);
    assert_eq!((&found.damaged, found.is_lossy), (&place(file(dir, 4), at), true), "{what}");
    assert_eq!(holes(&found), [vec![10], none.clone()], "{what}");

    let what = "the snapshot at the front of the newest segment";
    let image = image_of(&world);
    let dir = image.path();
    flip(&newest(dir), record(&newest(dir), SNAPSHOT, 0).0 + 50);
    let found = ended_by_repair(&world, dir, what);
    assert_eq!((found.damaged_count, holes(&found)), (1, vec![none.clone(), none.clone()]), "{what}");

    let what = "the newest segment cut short";
    let image = image_of(&world);
    let dir = image.path();
    let at = record(&newest(dir), EVENTS, 2);
    let cut = OpenOptions::new().write(true).open(newest(dir)).unwrap();
    cut.set_len(at.0 + 39).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert!(
        matches!(found.head, HeadReport::Ahead { acknowledged, found } if found < acknowledged),
        "{found:?}"
    );
    assert_eq!(found.torn.as_ref().map(|torn| (torn.offset, torn.bytes)), Some((at.0, 39)), "{what}");
    assert!(found.is_lossy);

    let what = "the newest segment missing";
    let image = image_of(&world);
    let dir = image.path();
    fs::remove_file(newest(dir)).unwrap();
    let found = ended_by_repair(&world, dir, what);
    assert!(matches!(found.head, HeadReport::Ahead { .. }) && found.is_lossy, "{what}");
    let state = world.try_open(dir).unwrap().state("acme");
    assert!(state.ancestors.iter().any(|ancestor| ancestor.lossy), "the repair declares the loss: {state:?}");
}

#[test]
fn r31_whatever_is_damaged_a_check_says_what_is_left_and_a_repair_ends_it() {
    let world = world_of_segments(4);
    let node = world.open();
    node.put("acme", &["a", "b"]);
    node.put("other", &["a"]);
    drop(node);
    let mut files = segments(world.dir.path());
    files.extend(["head", "format"].map(|name| world.dir.path().join(name)));
    let mut random = 15_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below.max(1)
    };
    let mut damaged = 0;
    for round in 0..60 {
        let image = image_of(&world);
        let mut what = format!("round {round}:");
        for _ in 0..=draw(3) {
            let name = files[draw(files.len() as u64) as usize].strip_prefix(world.dir.path()).unwrap();
            let path = image.path().join(name);
            let Ok(bytes) = fs::read(&path) else { continue };
            let written = match name.ends_with("head") {
                true => bytes.len() as u64,
                false => written(&path),
            };
            let at = draw(written);
            let kind = draw(8);
            what += &format!(" {} at {at} of {written}, kind {kind};", name.display());
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            match kind {
                0 => fs::remove_file(&path).unwrap(),
                1 => file.set_len(at).unwrap(),
                2 => file.write_all_at(&vec![0; (written - at).min(512) as usize], at).unwrap(),
                _ if written > 0 => flip(&path, at),
                _ => {}
            }
        }
        let found = ended_by_repair(&world, image.path(), &what);
        damaged += usize::from(!found.is_whole());
        let node = world.try_open(image.path()).unwrap();
        assert!(matches!(node.put("acme", &["after"])[..], [(_, false)]), "{what}: writes go on");
    }
    assert!(damaged > 40, "damage was done: {damaged}");
}

#[test]
fn a_check_refuses_what_it_cannot_look_through() {
    let refused = |dir: &Path| {
        let errors = [check(dir, &mut |_| {}).err(), repair(dir, false, &mut |_| {}).err()];
        errors.map(|error| match error {
            Some(CheckError::NotChecked(error)) => error.to_string(),
            other => panic!("{other:?}"),
        })
    };
    let world = disk();
    for said in refused(world.dir.path()) {
        assert!(said.starts_with("there is no log in "), "{said}");
    }
    let node = world.open();
    node.put("acme", &["a"]);
    for said in refused(world.dir.path()) {
        assert!(said.contains("is in use by another process"), "{said}");
    }
    drop(node);
    for segment in segments(world.dir.path()) {
        fs::write(segment, "of another version").unwrap();
    }
    fs::write(world.dir.path().join("format"), "tidegate log 3\n").unwrap();
    for said in refused(world.dir.path()) {
        assert!(said.contains("has the format \"tidegate log 3\""), "{said}");
    }
}

#[test]
fn r11_a_loss_is_declared_also_if_the_start_that_found_it_was_killed_at_once() {
    let world = disk();
    let node = world.open();
    node.put("acme", &["a"]);
    let keep = written(&newest(world.dir.path()));
    node.put("acme", &["b"]);
    drop(node);
    OpenOptions::new().write(true).open(newest(world.dir.path())).unwrap().set_len(keep).unwrap();
    // It has begun a segment and written no commit.
    drop(DiskStore::open(&world.disk_options(world.dir.path()), world.clock.now()).unwrap());
    let state = world.open().state("acme");
    assert!(state.ancestors.last().unwrap().lossy, "{state:?}");
}

#[test]
fn a_repair_by_another_user_than_the_nodes_is_refused() {
    let world = disk();
    drop(world.open());
    // Only root can give the directory away.
    if std::os::unix::fs::chown(world.dir.path(), Some(4_711), None).is_ok() {
        let refused = repair(world.dir.path(), false, &mut |_| {}).unwrap_err().to_string();
        assert!(
            refused.contains("belongs to the user 4711, and this process runs as the user 0"),
            "{refused}"
        );
        assert!(checked(world.dir.path()).is_whole(), "a check needs only to read");
    }
}

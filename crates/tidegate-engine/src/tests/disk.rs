//! Tests of the disk engine alone: restarts, damage, and other processes.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use tidegate_core::Ancestor;
use tidegate_protocol::SEQ_MAX;

use super::*;

fn disk() -> World {
    World::new(Kind::Disk)
}

fn copy_dir(from: &Path, to: &Path) {
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

/// The journal that is written to.
fn journal(dir: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    let journals = entries.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.max_by_key(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap()).unwrap()
}

/// How much of a journal has been written.
fn written(journal: &Path) -> u64 {
    let bytes = fs::read(journal).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// Opens the database itself, between two runs of the engine.
fn raw(world: &World, change: impl FnOnce(&fjall::Database, &fjall::Keyspace)) {
    let db = fjall::Database::builder(world.dir.path().join("store")).open().unwrap();
    let meta = db.keyspace("meta", fjall::KeyspaceCreateOptions::default).unwrap();
    change(&db, &meta);
    db.persist(fjall::PersistMode::SyncAll).unwrap();
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
fn r11_a_journal_cut_short_is_a_lossy_boundary_once() {
    let world = disk();
    let node = world.open();
    node.put("acme", &["a", "b"]);
    node.put("other", &["x"]);
    let keep = written(&journal(world.dir.path()));
    let lost = node.put("acme", &["c"]);
    let epoch = node.state("acme").epoch;
    drop(node);
    OpenOptions::new().write(true).open(journal(world.dir.path())).unwrap().set_len(keep).unwrap();
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
fn r11_whatever_byte_of_the_journal_is_damaged_nothing_is_lost_in_silence() {
    let world = disk();
    let node = world.open();
    for n in 0..12 {
        node.put(if n % 2 == 0 { "even" } else { "odd" }, &[&format!("id{n}")]);
    }
    drop(node);
    let end = written(&journal(world.dir.path()));
    let mut lost = 0;
    for step in 0..60 {
        let image = tempfile::tempdir().unwrap();
        copy_dir(world.dir.path(), image.path());
        let at = end * step / 60;
        let file = OpenOptions::new().read(true).write(true).open(journal(image.path())).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (step % 8))], at).unwrap();
        let node = world.try_open(image.path()).unwrap();
        for name in ["even", "odd"] {
            let state = node.state(name);
            let seqs = node.seqs(name);
            assert_eq!(seqs, (1..=state.head).collect::<Vec<_>>(), "a prefix");
            if state.head < 6 {
                lost += 1;
                let declared = state.ancestors.last().map(|ancestor| ancestor.lossy);
                assert!(declared.unwrap_or(state.born_empty), "byte {at} of {end}");
            }
        }
        assert!(matches!(node.put("even", &["after"])[..], [(_, false)]), "writes go on (fjall #257)");
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
    raw(&world, |db, meta| {
        let name = db.list_keyspace_names().into_iter().find(|name| name.starts_with("log-")).unwrap();
        let bucket = db.keyspace(&name, fjall::KeyspaceCreateOptions::default).unwrap();
        let org = meta.get("oacme").unwrap().unwrap();
        let key = |space: u64, number: u64| [space.to_be_bytes(), number.to_be_bytes()].concat();
        let index = u64::from_be_bytes(org[1..9].try_into().unwrap());
        for seq in 4..=5 {
            bucket.remove(key(index, seq)).unwrap();
            // The start was commit 1.
            bucket.remove(key(0, seq + 1)).unwrap();
        }
    });
    let node = world.open();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor, state.ancestors[0].lossy), (9, 5, true));
    assert_eq!(node.seqs("acme"), [6, 7, 8, 9]);
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
    raw(&world, |_, meta| {
        let (key, head) = meta.prefix("h").next().unwrap().into_inner().unwrap();
        let head = [&(SEQ_MAX - 2).to_be_bytes()[..], &head[8..]].concat();
        meta.insert(key, head).unwrap();
    });
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

#[test]
fn another_format_is_refused() {
    let world = disk();
    drop(world.open());
    fs::write(world.dir.path().join("format"), "tidegate log 2\n").unwrap();
    let refused = world.try_open(world.dir.path()).err().expect("refused").to_string();
    assert!(refused.contains("has the format \"tidegate log 2\""), "{refused}");
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

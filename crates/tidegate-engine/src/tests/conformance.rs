//! The suite that runs over every engine.

use std::{sync::Arc, time::Duration};

use tidegate_core::Event;
use tidegate_protocol::UserId;

use super::*;

macro_rules! on_every_engine {
    ($($name:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[test] fn $name() { super::$name(World::new(Kind::Memory)); })*
        }
        mod disk {
            use super::*;
            $(#[test] fn $name() { super::$name(World::new(Kind::Disk)); })*
        }
    };
}

on_every_engine![
    seqs_rise_by_one_and_events_read_back_as_they_were_fed,
    r9_pages_at_the_floor_and_around_it,
    r9_pages_say_where_they_end,
    r10_an_unknown_org_is_created_by_open_and_keeps_its_epoch,
    r10_epochs_differ_between_orgs,
    r10_an_org_with_readers_is_not_forgotten,
    r10_a_forgotten_org_comes_back_under_a_fresh_epoch,
    r12_a_duplicate_is_stored_once_and_answered_with_the_first_place,
    r12_the_same_id_with_other_content_is_refused_whole,
    r12_duplicates_within_a_batch,
    r12_an_id_is_known_for_the_window_and_no_longer,
    r12_ids_that_nobody_gave_take_no_room,
    r12_a_full_window_refuses_and_forgets_nothing,
    p5_one_org_cannot_take_the_room_of_the_others,
    r13_concurrent_publishers_are_fed_in_seq_order,
    r14_timestamps_never_fall,
    the_queue_is_bounded_by_bytes,
    orgs_are_bounded,
    orgs_do_not_see_each_other,
    users_and_services_survive,
    a_closed_engine_takes_nothing_and_still_reads,
];

fn seqs_rise_by_one_and_events_read_back_as_they_were_fed(world: World) {
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, false), (2, false)]);
    assert_eq!(node.put("acme", &["c"]), [(3, false)]);
    let state = node.state("acme");
    assert_eq!((state.head, state.floor, state.born_empty), (3, 0, true));
    assert_eq!(node.engine.head(&org("acme")), Some(state));
    let read = node.all("acme", 0);
    assert_eq!(read, world.feed.fed.lock().unwrap()[&org("acme")]);
    let text = String::from_utf8(read[2].fragment.to_vec()).unwrap();
    assert_eq!(
        text,
        "\"seq\":3,\"timestamp\":\"2026-11-24T09:30:00.000Z\",\"service\":\"finance\",\"id\":\"c\",\"data\":\"c\""
    );
    assert!(node.engine.head(&org("nobody")).is_none());
    let limit = PageLimit { events: 1, bytes: 1, to: 1 };
    assert!(matches!(world.block_on(node.engine.read(&org("nobody"), 0, limit)), Err(ReadError::NoLog)));
}

fn r9_pages_at_the_floor_and_around_it(mut world: World) {
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a", "b", "c"]);
    world.pass(MINUTE);
    node.engine.sweep();
    world.pass(MINUTE);
    node.put("acme", &["d", "e"]);
    world.pass(9 * MINUTE);
    node.engine.sweep();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor), (5, 3));
    for (after, begins) in [(0, 3), (2, 3), (3, 3), (4, 4), (5, 5), (9, 9)] {
        let page = node.page("acme", after, 10, 10_000, SEQ_END);
        let seqs: Vec<Seq> = page.events.iter().map(|event| event.seq).collect();
        assert_eq!((page.after, page.to), (begins, begins.max(5)), "after {after}");
        assert_eq!(seqs, (begins + 1..=5).collect::<Vec<_>>(), "after {after}");
    }
    let below = node.page("acme", 0, 10, 10_000, 2);
    assert_eq!((below.after, below.to, below.events.len()), (3, 3, 0), "all that was asked for is gone");
}

fn r9_pages_say_where_they_end(world: World) {
    let node = world.open();
    let ids: Vec<String> = (1..=20).map(|n| format!("id{n}")).collect();
    node.put("acme", &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let ends = |after, events, bytes, to| {
        let page = node.page("acme", after, events, bytes, to);
        (page.after, page.to, page.events.len())
    };
    assert_eq!(ends(0, 100, 100_000, SEQ_END), (0, 20, 20));
    assert_eq!(ends(0, 5, 100_000, SEQ_END), (0, 5, 5));
    assert_eq!(ends(0, 20, 100_000, SEQ_END), (0, 20, 20));
    assert_eq!(ends(3, 100, 100_000, 12), (3, 12, 9));
    assert_eq!(ends(0, 100, 1, SEQ_END), (0, 1, 1), "one comes whole, whatever the limit");
    assert_eq!(ends(0, 0, 1, SEQ_END), (0, 1, 1));
    assert_eq!(ends(20, 100, 1, SEQ_END), (20, 20, 0));
    let two = node.all("acme", 0)[..2].iter().map(|event| event.fragment.len()).sum();
    assert_eq!(ends(0, 100, two, SEQ_END), (0, 2, 2));
    assert_eq!(ends(0, 100, two - 1, SEQ_END), (0, 1, 1));
}

fn r10_an_unknown_org_is_created_by_open_and_keeps_its_epoch(world: World) {
    let node = world.open();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor, state.born_empty), (0, 0, true));
    assert_eq!(node.state("acme"), state);
    let appended = node.append("acme", vec![event("acme", "a")]).unwrap();
    assert_eq!(appended.epoch, state.epoch);
    assert_eq!(node.page("acme", 0, 10, 10, 0).events.len(), 0);
}

fn r10_epochs_differ_between_orgs(world: World) {
    let node = world.open();
    let mut epochs: Vec<String> = (0..50).map(|n| node.state(&format!("o{n}")).epoch.to_string()).collect();
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 50);
}

fn r10_an_org_with_readers_is_not_forgotten(mut world: World) {
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a"]);
    let before = node.state("acme");
    world.feed.readers.lock().unwrap().insert(org("acme"));
    for _ in 0..40 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    let after = node.engine.head(&org("acme")).expect("held");
    assert_eq!((after.epoch, after.head, after.floor), (before.epoch, 1, 1));
    // Its last reader leaves: the time begins to run, and has not run out long ago.
    world.feed.readers.lock().unwrap().clear();
    node.engine.sweep();
    assert!(node.engine.head(&org("acme")).is_some());
    for _ in 0..40 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert!(node.engine.head(&org("acme")).is_none());
}

fn r10_a_forgotten_org_comes_back_under_a_fresh_epoch(mut world: World) {
    world.bucket = Some(Duration::from_secs(60));
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let before = node.state("acme");
    for _ in 0..15 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert_eq!((node.engine.orgs(), node.engine.bytes()), (0, 0));
    world.feed.fed.lock().unwrap().clear();
    let after = node.state("acme");
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.head, after.floor, after.born_empty), (0, 0, true));
    assert_eq!(after.ancestors, []);
    assert_eq!(node.put("acme", &["a"]), [(1, false)], "its ids went with it");
    assert_eq!(node.seqs("acme"), [1]);
}

fn r12_a_duplicate_is_stored_once_and_answered_with_the_first_place(world: World) {
    let node = world.open();
    node.put("acme", &["a", "b"]);
    assert_eq!(node.put("acme", &["b", "c", "a"]), [(2, true), (3, false), (1, true)]);
    assert_eq!(node.put("other", &["a"]), [(1, false)], "another org's id is another id");
    assert_eq!(node.seqs("acme"), [1, 2, 3]);
}

fn r12_the_same_id_with_other_content_is_refused_whole(world: World) {
    let node = world.open();
    node.put("acme", &["x", "a"]);
    let batch = vec![event("acme", "new"), event_with("acme", "a", "other")];
    let refused = node.append("acme", batch).unwrap_err();
    assert_eq!(refused, AppendError::IdConflict { index: 1, first: FirstUse::Seq(2) });
    assert_eq!(node.seqs("acme"), [1, 2]);
    assert_eq!(node.put("acme", &["new"]), [(3, false)], "nothing of the refused batch is known");
    assert!(node.append("fresh", vec![event("fresh", "a"), event_with("fresh", "a", "b")]).is_err());
    assert!(node.engine.head(&org("fresh")).is_none(), "a refused batch creates no log");
}

fn r12_duplicates_within_a_batch(world: World) {
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b", "a"]), [(1, false), (2, false), (1, true)]);
    let batch = vec![event("acme", "c"), event("acme", "d"), event_with("acme", "c", "other")];
    let refused = node.append("acme", batch).unwrap_err();
    assert_eq!(refused, AppendError::IdConflict { index: 2, first: FirstUse::Index(0) });
    assert_eq!(node.seqs("acme"), [1, 2]);
}

fn r12_an_id_is_known_for_the_window_and_no_longer(world: World) {
    let node = world.open();
    node.put("acme", &["a"]);
    world.pass(5 * MINUTE - 1);
    assert_eq!(node.put("acme", &["a"]), [(1, true)]);
    world.pass(1);
    assert_eq!(node.put("acme", &["a"]), [(2, false)], "the duplicate did not renew it");
}

fn r12_ids_that_nobody_gave_take_no_room(mut world: World) {
    world.local.dedup_max_entries = 1;
    let node = world.open();
    let drawn = |id: &str| NewEvent { dedup: None, ..event("acme", id) };
    node.append("acme", vec![drawn("a"), drawn("b"), drawn("a")]).unwrap();
    assert_eq!(node.seqs("acme"), [1, 2, 3]);
    node.put("acme", &["given"]);
}

fn r12_a_full_window_refuses_and_forgets_nothing(mut world: World) {
    world.local.dedup_max_entries = 3;
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let refused = node.append("acme", vec![event("acme", "c"), event("acme", "d")]).unwrap_err();
    assert_eq!(refused, AppendError::DedupFull);
    assert_eq!(node.put("acme", &["a", "c", "c"]), [(1, true), (3, false), (3, true)]);
    assert_eq!(node.append("acme", vec![event("acme", "d")]).unwrap_err(), AppendError::DedupFull);
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, true)]);
    world.pass(5 * MINUTE);
    assert_eq!(node.put("acme", &["d"]), [(4, false)]);
}

fn p5_one_org_cannot_take_the_room_of_the_others(mut world: World) {
    (world.local.dedup_max_entries, world.local.dedup_max_entries_per_org) = (4, 2);
    let node = world.open();
    let refused = |name: &str, ids: &[&str]| {
        let events = ids.iter().map(|id| event(name, id)).collect();
        node.append(name, events).unwrap_err()
    };
    assert_eq!(refused("acme", &["a", "b", "c"]), AppendError::OrgDedupFull, "a log to be made");
    node.put("acme", &["a", "b"]);
    assert_eq!(refused("acme", &["c"]), AppendError::OrgDedupFull);
    assert_eq!(node.put("acme", &["b", "a"]), [(2, true), (1, true)]);
    node.append("acme", vec![NewEvent { dedup: None, ..event("acme", "drawn") }]).unwrap();
    assert_eq!(node.put("other", &["a", "b"]), [(1, false), (2, false)]);
    assert_eq!(refused("third", &["a"]), AppendError::DedupFull);
    world.pass(5 * MINUTE);
    assert_eq!(node.put("acme", &["c", "d"]), [(4, false), (5, false)]);
}

fn r13_concurrent_publishers_are_fed_in_seq_order(world: World) {
    let node = world.open();
    std::thread::scope(|scope| {
        for publisher in 0..8 {
            let engine = &node.engine;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for n in 0..100 {
                    let name = if n % 3 == 0 { "acme" } else { "other" };
                    let events = vec![event(name, &format!("{publisher}-{n}")), event(name, "shared")];
                    runtime.block_on(engine.append(&org(name), events)).unwrap();
                }
            });
        }
    });
    // `Record` has checked that each call follows on.
    for (name, count) in [("acme", 8 * 34), ("other", 8 * 66)] {
        let read = node.all(name, 0);
        assert_eq!(read, world.feed.fed.lock().unwrap()[&org(name)]);
        let seqs: Vec<Seq> = read.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=count + 1).collect::<Vec<Seq>>());
        assert_eq!(read.iter().filter(|event| has_id(event, "shared")).count(), 1);
    }
}

fn r14_timestamps_never_fall(world: World) {
    let node = world.open();
    node.put("acme", &["a"]);
    world.step_back(3_600_000);
    node.put("acme", &["b"]);
    node.put("other", &["b"]);
    world.pass(3_600_001);
    node.put("acme", &["c"]);
    let times = |name| node.all(name, 0).iter().map(|event| event.timestamp).collect::<Vec<_>>();
    assert_eq!(times("acme"), [DAWN, DAWN, DAWN + 1]);
    assert_eq!(times("other"), [DAWN - 3_600_000], "one log's past does not hold another back");
}

fn the_queue_is_bounded_by_bytes(mut world: World) {
    world.local.queue_bytes_max = 100;
    let node = world.open();
    assert_eq!(node.append("acme", vec![event("acme", "a")]).unwrap_err(), AppendError::TooMuchWaiting);
    assert!(node.engine.head(&org("acme")).is_none());
}

fn orgs_are_bounded(mut world: World) {
    world.local.orgs_max = 2;
    let node = world.open();
    node.put("a", &["x"]);
    node.state("b");
    assert_eq!(node.append("c", vec![event("c", "x")]).unwrap_err(), AppendError::TooManyOrgs);
    assert_eq!(world.block_on(node.engine.open(&org("c"))).unwrap_err(), AppendError::TooManyOrgs);
    node.put("a", &["y"]);
}

fn orgs_do_not_see_each_other(world: World) {
    let node = world.open();
    // Names of which one is the other's beginning.
    for name in ["a", "aa", "a.a", "aaa"] {
        node.put(name, &["x", name]);
    }
    for name in ["a", "aa", "a.a", "aaa"] {
        let read = node.all(name, 0);
        assert_eq!(read.len(), 2);
        assert!(has_id(&read[1], name));
    }
}

fn users_and_services_survive(world: World) {
    let node = world.open();
    let users: Arc<[UserId]> = ["u1", "mail@example.org"].map(|user| UserId::parse(user).unwrap()).into();
    let targeted = NewEvent { users: Some(users.clone()), ..event("acme", "a") };
    let longest = NewEvent { service: ServiceName::parse(&"s".repeat(64)).unwrap(), ..event("acme", "b") };
    node.append("acme", vec![targeted, longest]).unwrap();
    let read = node.all("acme", 0);
    let as_read = |event: &Event| (event.users.clone(), event.service.as_str().len());
    assert_eq!([as_read(&read[0]), as_read(&read[1])], [(Some(users), 7), (None, 64)]);
}

fn a_closed_engine_takes_nothing_and_still_reads(world: World) {
    let node = world.open();
    node.put("acme", &["a"]);
    node.engine.close();
    assert_eq!(node.append("acme", vec![event("acme", "b")]).unwrap_err(), AppendError::Halted);
    assert_eq!(node.seqs("acme"), [1]);
    assert_eq!(node.engine.halted(), None, "closed is not halted");
    node.engine.close();
}

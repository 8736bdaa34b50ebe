//! Appends: order, epochs, dedup, bounds.

use std::sync::Arc;

use bytes::BytesMut;
use tidegate_core::{Event, NewEvent};
use tidegate_protocol::{ServiceName, UnixMillis, UserId, time::write_rfc3339};

use super::{DAWN, Harness, Held, World, event, event_with, has_id, named, org};
use crate::{AppendError, Engine as _, FirstUse, Health, PageLimit, ReadError};

const MINUTE: u64 = 60_000;

pub fn seqs_rise_and_events_read_back_as_they_were_fed<H: Harness>(world: World<H>) {
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, false), (2, false)]);
    assert_eq!(node.put("acme", &["c"]), [(3, false)]);
    let state = node.state("acme");
    assert_eq!(node.bounds("acme", &state), (3, 0));
    assert!(state.born_empty);
    assert_eq!(node.engine.head(&org("acme")), Some(state));
    let read = node.all("acme", 0);
    assert_eq!(read, world.feed.of(&org("acme")));
    let text = String::from_utf8(read[2].fragment.to_vec()).expect("UTF-8");
    let (seq, timestamp) = (node.seq("acme", 3), rfc3339(read[2].timestamp));
    let body = r#""service":"finance","id":"c","data":"c""#;
    assert_eq!(text, format!(r#""seq":{seq},"timestamp":"{timestamp}",{body}"#));
    if world.harness.capabilities().obeys_clock {
        assert_eq!(timestamp, "2026-11-24T09:30:00.000Z");
    }
    assert!(node.engine.head(&org("nobody")).is_none());
    let limit = PageLimit { events: 1, bytes: 1, to: 1 };
    assert!(matches!(world.block_on(node.engine.read(&org("nobody"), 0, limit)), Err(ReadError::NoLog)));
}

fn rfc3339(time: UnixMillis) -> String {
    let mut text = BytesMut::new();
    write_rfc3339(&mut text, time);
    String::from_utf8(text.to_vec()).expect("UTF-8")
}

pub fn r10_an_unknown_org_is_created_by_open_and_keeps_its_epoch<H: Harness>(world: World<H>) {
    let node = world.open();
    let state = node.state("acme");
    assert_eq!((state.head, state.floor, state.born_empty), (0, 0, true));
    assert_eq!(node.state("acme"), state);
    let appended = node.append("acme", vec![event("acme", "a")]).expect("appended");
    assert_eq!(appended.epoch, state.epoch);
    assert_eq!(node.page("acme", 0, 10, 10, 0).events.len(), 0);
}

pub fn r10_epochs_differ_between_orgs<H: Harness>(world: World<H>) {
    let node = world.open();
    let mut epochs: Vec<String> = (0..50).map(|n| node.state(&format!("o{n}")).epoch.to_string()).collect();
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 50);
}

pub fn r10_a_forgotten_org_comes_back_under_a_fresh_epoch<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock && can.forgets_idle_orgs) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let before = node.state("acme");
    for _ in 0..15 {
        world.pass(MINUTE);
        node.engine.sweep();
    }
    assert!(node.engine.head(&org("acme")).is_none());
    if let Some(held) = world.harness.held(&node.engine) {
        assert_eq!(held, Held { orgs: 0, bytes: 0 });
    }
    world.feed.clear();
    world.forget();
    let after = node.state("acme");
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.head, after.floor, after.born_empty), (0, 0, true));
    assert_eq!(after.ancestors, []);
    assert_eq!(node.put("acme", &["a"]), [(1, false)], "its ids went with it");
    assert_eq!(node.numbers("acme"), [1]);
}

pub fn r12_a_duplicate_is_stored_once_and_answered_with_the_first_seq<H: Harness>(world: World<H>) {
    let node = world.open();
    node.put("acme", &["a", "b"]);
    assert_eq!(node.put("acme", &["b", "c", "a"]), [(2, true), (3, false), (1, true)]);
    assert_eq!(node.put("other", &["a"]), [(1, false)], "another org's id is another id");
    assert_eq!(node.numbers("acme"), [1, 2, 3]);
}

pub fn r12_the_same_id_with_other_content_is_refused_whole<H: Harness>(world: World<H>) {
    let node = world.open();
    node.put("acme", &["x", "a"]);
    let batch = vec![event("acme", "new"), event_with("acme", "a", "other")];
    let refused = node.append("acme", batch).expect_err("refused");
    assert_eq!(refused, AppendError::IdConflict { index: 1, first: FirstUse::Seq(node.seq("acme", 2)) });
    assert_eq!(node.numbers("acme"), [1, 2]);
    assert_eq!(node.put("acme", &["new"]), [(3, false)], "nothing of the refused batch is known");
    assert!(node.append("fresh", vec![event("fresh", "a"), event_with("fresh", "a", "b")]).is_err());
    assert!(node.engine.head(&org("fresh")).is_none(), "a refused batch creates no log");
}

pub fn r12_the_name_of_a_request_stands_for_all_its_events<H: Harness>(mut world: World<H>) {
    world.bounds.dedup_max_entries = 8;
    world.bounds.dedup_max_entries_per_org = 8;
    let node = world.open();
    let events = |ids: &[&str]| ids.iter().map(|id| event("acme", id)).collect::<Vec<_>>();
    let stored = |ids: &[&str], name: &str| {
        let appended = node.append("acme", named(events(ids), name)).expect("appended");
        let places = appended.stored.iter();
        places.map(|at| (node.number("acme", at.seq), at.duplicate)).collect::<Vec<_>>()
    };
    node.put("acme", &["x"]);
    assert_eq!(stored(&["a", "b"], "k"), [(2, false), (3, false)]);
    assert_eq!(stored(&["a", "b"], "k"), [(2, true), (3, true)]);
    // Fewer, more, others, in another order.
    for ids in [&["a"][..], &["b"], &["a", "b", "c"], &["c"], &["b", "a"]] {
        let refused = node.append("acme", named(events(ids), "k")).expect_err("refused");
        assert_eq!(refused, AppendError::RequestConflict { first: node.seq("acme", 2) }, "{ids:?}");
    }
    assert_eq!(node.put("acme", &["c"]), [(4, false)], "nothing of the refused ones is known");
    // A request without news has a name, too.
    assert_eq!(stored(&["b"], "l"), [(3, true)]);
    let refused = node.append("acme", named(events(&["x"]), "l")).expect_err("refused");
    assert_eq!(refused, AppendError::RequestConflict { first: node.seq("acme", 3) });
    assert_eq!(node.numbers("acme"), [1, 2, 3, 4]);
    if !world.has(|can| can.bounds_dedup) {
        return;
    }
    // Four ids, two names, and an event that was known before its request leave room for one more.
    let refused = node.append("acme", named(events(&["d"]), "m")).expect_err("refused");
    assert_eq!(refused, AppendError::DedupFull);
    assert_eq!(stored(&["a", "b"], "k"), [(2, true), (3, true)], "what is known takes no room");
    assert_eq!(node.put("acme", &["d"]), [(5, false)]);
}

pub fn r12_duplicates_within_a_batch<H: Harness>(world: World<H>) {
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b", "a"]), [(1, false), (2, false), (1, true)]);
    let batch = vec![event("acme", "c"), event("acme", "d"), event_with("acme", "c", "other")];
    let refused = node.append("acme", batch).expect_err("refused");
    assert_eq!(refused, AppendError::IdConflict { index: 2, first: FirstUse::Index(0) });
    assert_eq!(node.numbers("acme"), [1, 2]);
}

pub fn r12_an_id_is_known_for_the_window_and_no_longer<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a"]);
    world.pass(5 * MINUTE - 1);
    assert_eq!(node.put("acme", &["a"]), [(1, true)]);
    world.pass(1);
    assert_eq!(node.put("acme", &["a"]), [(2, false)], "the duplicate did not renew it");
}

pub fn r12_ids_that_nobody_gave_take_no_room<H: Harness>(mut world: World<H>) {
    if !world.has(|can| can.bounds_dedup) {
        return;
    }
    world.bounds.dedup_max_entries = 1;
    let node = world.open();
    let drawn = |id: &str| NewEvent { dedup: None, ..event("acme", id) };
    node.append("acme", vec![drawn("a"), drawn("b"), drawn("a")]).expect("appended");
    assert_eq!(node.numbers("acme"), [1, 2, 3]);
    node.put("acme", &["given"]);
}

pub fn r12_a_full_window_refuses_and_forgets_nothing<H: Harness>(mut world: World<H>) {
    if !world.has(|can| can.bounds_dedup && can.obeys_clock) {
        return;
    }
    world.bounds.dedup_max_entries = 3;
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let refused = node.append("acme", vec![event("acme", "c"), event("acme", "d")]).expect_err("refused");
    assert_eq!(refused, AppendError::DedupFull);
    assert_eq!(node.put("acme", &["a", "c", "c"]), [(1, true), (3, false), (3, true)]);
    assert_eq!(node.append("acme", vec![event("acme", "d")]).expect_err("refused"), AppendError::DedupFull);
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, true)]);
    world.pass(5 * MINUTE);
    assert_eq!(node.put("acme", &["d"]), [(4, false)]);
}

pub fn p5_one_org_cannot_take_the_room_of_the_others<H: Harness>(mut world: World<H>) {
    if !world.has(|can| can.bounds_dedup && can.obeys_clock) {
        return;
    }
    (world.bounds.dedup_max_entries, world.bounds.dedup_max_entries_per_org) = (4, 2);
    let node = world.open();
    let refused = |name: &str, ids: &[&str]| {
        let events = ids.iter().map(|id| event(name, id)).collect();
        node.append(name, events).expect_err("refused")
    };
    assert_eq!(refused("acme", &["a", "b", "c"]), AppendError::OrgDedupFull, "a log to be made");
    node.put("acme", &["a", "b"]);
    assert_eq!(refused("acme", &["c"]), AppendError::OrgDedupFull);
    assert_eq!(node.put("acme", &["b", "a"]), [(2, true), (1, true)]);
    node.append("acme", vec![NewEvent { dedup: None, ..event("acme", "drawn") }]).expect("appended");
    assert_eq!(node.put("other", &["a", "b"]), [(1, false), (2, false)]);
    assert_eq!(refused("third", &["a"]), AppendError::DedupFull);
    world.pass(5 * MINUTE);
    assert_eq!(node.put("acme", &["c", "d"]), [(4, false), (5, false)]);
}

pub fn r13_concurrent_publishers_are_fed_in_seq_order<H: Harness>(world: World<H>) {
    let node = world.open();
    let appended: Vec<_> = std::thread::scope(|scope| {
        let mut publishers = Vec::new();
        for publisher in 0..8 {
            let engine = &node.engine;
            publishers.push(scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let mut appended = Vec::new();
                for n in 0..100 {
                    let name = if n % 3 == 0 { "acme" } else { "other" };
                    let events = vec![event(name, &format!("{publisher}-{n}")), event(name, "shared")];
                    let answer = runtime.block_on(engine.append(&org(name), events));
                    appended.push((name, answer.expect("appended")));
                }
                appended
            }));
        }
        publishers.into_iter().flat_map(|publisher| publisher.join().expect("a publisher")).collect()
    });
    appended.iter().for_each(|(name, appended)| node.note(name, appended));
    // The feed has checked that each call follows on.
    for (name, count) in [("acme", 8 * 34), ("other", 8 * 66)] {
        let read = node.all(name, 0);
        assert_eq!(read, world.feed.of(&org(name)));
        let numbers: Vec<u64> = read.iter().map(|event| node.number(name, event.seq)).collect();
        assert_eq!(numbers, (1..=count + 1).collect::<Vec<_>>());
        assert_eq!(read.iter().filter(|event| has_id(event, "shared")).count(), 1);
    }
}

pub fn r14_timestamps_never_fall<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a"]);
    world.clock.step_back(3_600_000);
    node.put("acme", &["b"]);
    node.put("other", &["b"]);
    world.pass(3_600_001);
    node.put("acme", &["c"]);
    let times = |name| node.all(name, 0).iter().map(|event| event.timestamp).collect::<Vec<_>>();
    assert_eq!(times("acme"), [DAWN, DAWN, DAWN + 1]);
    // R30: also in a log that has no event yet.
    assert_eq!(times("other"), [DAWN]);
}

pub fn the_queue_is_bounded_by_bytes<H: Harness>(mut world: World<H>) {
    if !world.has(|can| can.bounds_queue) {
        return;
    }
    world.bounds.queue_bytes_max = 100;
    let node = world.open();
    assert_eq!(
        node.append("acme", vec![event("acme", "a")]).expect_err("refused"),
        AppendError::TooMuchWaiting
    );
    assert!(node.engine.head(&org("acme")).is_none());
}

pub fn orgs_are_bounded<H: Harness>(mut world: World<H>) {
    if !world.has(|can| can.bounds_orgs) {
        return;
    }
    world.bounds.orgs_max = 2;
    let node = world.open();
    node.put("a", &["x"]);
    node.state("b");
    assert_eq!(node.append("c", vec![event("c", "x")]).expect_err("refused"), AppendError::TooManyOrgs);
    assert_eq!(world.block_on(node.engine.open(&org("c"))).expect_err("refused"), AppendError::TooManyOrgs);
    node.put("a", &["y"]);
}

pub fn orgs_do_not_see_each_other<H: Harness>(world: World<H>) {
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

pub fn users_and_services_survive<H: Harness>(world: World<H>) {
    let node = world.open();
    let users: Arc<[UserId]> =
        ["u1", "mail@example.org"].map(|user| UserId::parse(user).expect("a user")).into();
    let targeted = NewEvent { users: Some(users.clone()), ..event("acme", "a") };
    let longest =
        NewEvent { service: ServiceName::parse(&"s".repeat(64)).expect("a service"), ..event("acme", "b") };
    node.append("acme", vec![targeted, longest]).expect("appended");
    let read = node.all("acme", 0);
    let as_read = |event: &Event| (event.users.clone(), event.service.as_str().len());
    assert_eq!([as_read(&read[0]), as_read(&read[1])], [(Some(users), 7), (None, 64)]);
}

pub fn a_closed_engine_takes_nothing_and_still_reads<H: Harness>(world: World<H>) {
    let node = world.open();
    node.put("acme", &["a"]);
    node.engine.close();
    assert_eq!(node.append("acme", vec![event("acme", "b")]).expect_err("refused"), AppendError::Halted);
    assert_eq!(node.numbers("acme"), [1]);
    assert_eq!(*node.engine.health().borrow(), Health::Ok, "closed is not halted");
    node.engine.close();
}

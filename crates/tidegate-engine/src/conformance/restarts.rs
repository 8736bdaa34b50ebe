//! What a restart leaves (P3, R10 to R12).

use tidegate_core::opening::{self, From};
use tidegate_protocol::{Cursor, Filter};

use super::{Harness, Node, World, event, event_with, named};
use crate::{AppendError, Engine as _, FirstUse};

const MINUTE: u64 = 60_000;

pub fn p3_acknowledged_events_survive_a_crash<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart) {
        return;
    }
    for (start, is_clean) in [(0, false), (1, true), (2, false)] {
        let node = world.open();
        let first = start * 3 + 1;
        let ids: Vec<String> = (first..first + 3).map(|n| format!("id{n}")).collect();
        let put = node.put("acme", &ids.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(put, [(first, false), (first + 1, false), (first + 2, false)], "seqs go on");
        assert_eq!(node.numbers("acme"), (1..=first + 2).collect::<Vec<_>>());
        if is_clean {
            node.engine.close();
        }
        node.crash();
    }
    assert_eq!(world.open().numbers("acme"), (1..=9).collect::<Vec<_>>());
}

pub fn r11_a_cursor_of_before_a_restart_goes_on<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart) {
        return;
    }
    let mut cursors = Vec::new();
    for id in ["a", "b", "c"] {
        let node = world.open();
        node.put("acme", &[id]);
        let state = node.state("acme");
        cursors.push(Cursor { epoch: state.epoch.clone(), seq: state.head, tag: None });
        for cursor in &cursors {
            let opening = opening::open(&state, &Filter::all(), From::Cursor(cursor.clone()));
            assert!(opening.resumed && opening.dues.is_empty(), "{cursor}: {opening:?}, {state:?}");
            assert_eq!(opening.cursor.seq, cursor.seq);
        }
        node.crash();
    }
}

pub fn r11_a_crash_loop_forgets_no_epoch<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart) {
        return;
    }
    let mut first = None;
    for start in 0..100 {
        let node = world.open();
        let state = node.state("acme");
        if start == 0 {
            node.put("acme", &["a"]);
        }
        let cursor = first.get_or_insert(Cursor { epoch: state.epoch.clone(), seq: state.head, tag: None });
        let opening = opening::open(&state, &Filter::all(), From::Cursor(cursor.clone()));
        assert!(opening.resumed && opening.dues.is_empty(), "start {start}: {opening:?}");
        assert_eq!(opening.cursor.seq, cursor.seq);
        node.crash();
    }
}

pub fn r11_the_epoch_of_an_empty_log_survives_a_restart<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart) {
        return;
    }
    let node = world.open();
    let epoch = node.state("acme").epoch;
    node.crash();
    let state = world.open().state("acme");
    let is_known = state.epoch == epoch || state.ancestors.iter().any(|ancestor| ancestor.epoch == epoch);
    assert!(is_known, "{epoch}: {state:?}");
    assert_eq!(state.head, 0);
}

pub fn r12_ids_are_known_over_a_restart_for_the_rest_of_their_time<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart && can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a"]);
    node.crash();
    world.pass(MINUTE);
    let node = world.open();
    node.put("acme", &["b"]);
    node.crash();
    world.pass(4 * MINUTE - 1);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, true), (2, true)]);
    let conflict = node.append("acme", vec![event_with("acme", "a", "other")]).expect_err("a conflict");
    let first = FirstUse::Seq(node.seq("acme", 1));
    assert_eq!(conflict, AppendError::IdConflict { index: 0, first });
    node.crash();
    world.pass(1);
    assert_eq!(world.open().put("acme", &["a", "b"]), [(3, false), (2, true)]);
}

pub fn r12_names_of_requests_are_known_over_a_restart<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart && can.obeys_clock) {
        return;
    }
    let events = |ids: &[&str]| ids.iter().map(|id| event("acme", id)).collect::<Vec<_>>();
    let node = world.open();
    node.append("acme", named(events(&["a", "b"]), "k")).expect("appended");
    node.append("acme", named(events(&["b"]), "l")).expect("a duplicate");
    node.crash();
    world.pass(5 * MINUTE - 1);
    let node = world.open();
    for (ids, name, first) in [(&["a", "c"], "k", 1), (&["a", "b"], "l", 2)] {
        let refused = node.append("acme", named(events(ids), name)).expect_err("refused");
        assert_eq!(refused, AppendError::RequestConflict { first: node.seq("acme", first) });
    }
    let again = node.append("acme", named(events(&["a", "b"]), "k")).expect("appended");
    assert!(again.stored.iter().all(|at| at.duplicate), "{again:?}");
    node.crash();
    world.pass(1);
    let node = world.open();
    node.append("acme", named(events(&["c"]), "k")).expect("its time is up");
}

pub fn r12_a_named_request_is_answered_as_the_first_time_while_its_name_is_known<H: Harness>(
    world: World<H>,
) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let restarts = world.harness.capabilities().survives_restart;
    let stored = |node: &Node<'_, H>, ids: &[&str], name: &str| {
        let events = ids.iter().map(|id| event("acme", id)).collect();
        let appended = node.append("acme", named(events, name)).expect("appended");
        let places = appended.stored.iter();
        places.map(|at| (node.number("acme", at.seq), at.duplicate)).collect::<Vec<_>>()
    };
    let mut node = world.open();
    node.put("acme", &["x", "y"]);
    world.pass(4 * MINUTE);
    assert_eq!(stored(&node, &["x"], "k"), [(1, true)]);
    let first = [(1, true), (3, false), (1, true), (2, true)];
    assert_eq!(stored(&node, &["x", "new", "x", "y"], "l"), first);
    let again = first.map(|(number, _)| (number, true));
    for (minutes, others) in [(0, None), (2, Some((4, false))), (2, Some((4, true)))] {
        world.pass(minutes * MINUTE);
        if restarts {
            node.crash();
            node = world.open();
        }
        assert_eq!(stored(&node, &["x"], "k"), [(1, true)]);
        assert_eq!(stored(&node, &["x", "new", "x", "y"], "l"), again);
        if let Some(place) = others {
            // The id itself has left the window, and may be that of another event.
            let other = node.append("acme", vec![event_with("acme", "x", "other")]).expect("appended");
            let at = other.stored[0];
            assert_eq!((node.number("acme", at.seq), at.duplicate), place);
        }
    }
    world.pass(MINUTE - 1);
    assert_eq!(stored(&node, &["x", "new", "x", "y"], "l"), again);
    assert_eq!(node.numbers("acme"), [1, 2, 3, 4]);
    world.pass(1);
    assert_eq!(stored(&node, &["new"], "l"), [(5, false)], "its time is up");
}

pub fn r10_a_log_that_was_lost_comes_back_under_a_fresh_epoch<H: Harness>(world: World<H>) {
    if !world.has(|can| !can.survives_restart) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a", "b"]);
    let before = node.state("acme");
    node.crash();
    let node = world.open();
    let after = node.state("acme");
    assert_ne!(after.epoch, before.epoch);
    assert!(after.ancestors.iter().all(|ancestor| ancestor.epoch != before.epoch), "{after:?}");
    let cursor = Cursor { epoch: before.epoch, seq: before.head, tag: None };
    let opening = opening::open(&after, &Filter::all(), From::Cursor(cursor));
    assert_eq!(opening.dues.len(), 1, "a gap");
    assert_eq!(node.put("acme", &["a"]), [(1, false)], "its ids went with it");
}

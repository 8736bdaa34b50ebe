//! Clocks that are set, and clocks that are wrong for a while (R30).

use super::{DAWN, Harness, Node, World, org};
use crate::Engine as _;

const MINUTE: u64 = 60_000;
const TEN_YEARS: u64 = 3_650 * 24 * 60 * MINUTE;

/// Lets minutes pass, with a sweep after each.
fn minutes<H: Harness>(node: &Node<'_, H>, count: u64) {
    for _ in 0..count {
        node.world.pass(MINUTE);
        node.engine.sweep();
    }
}

pub fn r30_the_time_of_commits_never_falls<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let restarts = world.harness.capabilities().survives_restart;
    let mut node = world.open();
    let mut last = 0;
    for n in 0..24 {
        // Each log gets two events, so its own last one does not explain the order.
        let name = format!("org{}", n / 2);
        node.put(&name, &[&format!("id{n}")]);
        let times: Vec<_> = node.all(&name, 0).iter().map(|event| event.timestamp).collect();
        assert!(times[n % 2] >= last, "event {n}");
        last = times[n % 2];
        match n % 4 {
            0 => world.clock.step_back(7 * MINUTE),
            1 => world.pass(MINUTE),
            2 => world.clock.step_ahead(5 * MINUTE),
            _ => world.pass(7),
        }
        if restarts && n % 3 == 0 {
            node.crash();
            node = world.open();
        }
    }
    assert!(last > DAWN + 2 * MINUTE, "and it goes on while the clock is behind: {last}");
}

pub fn r30_ids_are_known_over_a_restart_after_the_clock_was_set<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart && can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a"]);
    world.clock.step_back(10 * MINUTE);
    node.put("acme", &["b"]);
    world.clock.step_ahead(10 * MINUTE);
    node.put("acme", &["c"]);
    node.crash();
    world.pass(1_000);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, true)]);
    // At this start the clock is wrong.
    node.crash();
    world.clock.step_back(10 * MINUTE);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, true)]);
    node.crash();
    world.clock.step_ahead(10 * MINUTE);
    world.pass(5 * MINUTE);
    assert_eq!(world.open().put("acme", &["a", "b", "c"]), [(4, false), (5, false), (6, false)]);
}

pub fn r30_a_leap_of_the_clock_that_is_taken_back_loses_nothing<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.engine.watch(&org("acme"));
    node.put("acme", &["a"]);
    minutes(&node, 1);
    world.clock.step_ahead(TEN_YEARS);
    node.put("acme", &["b"]);
    minutes(&node, 2);
    assert_eq!(node.put("acme", &["a", "b"]), [(1, true), (2, true)]);
    world.clock.step_back(TEN_YEARS);
    minutes(&node, 1);
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, false)]);
    let times: Vec<_> = node.all("acme", 0).iter().map(|event| event.timestamp).collect();
    assert_eq!(times, [DAWN, DAWN + MINUTE, DAWN + 4 * MINUTE], "nothing is left of the leap");
    minutes(&node, 1);
    assert_eq!(node.put("acme", &["a", "b"]), [(4, false), (2, true)], "an id leaves after its window");
    minutes(&node, 14);
    assert_eq!(node.numbers("acme"), [] as [u64; 0], "and an event after its time");
}

pub fn r30_a_start_with_a_clock_years_ahead_loses_nothing<H: Harness>(world: World<H>) {
    if !world.has(|can| can.survives_restart && can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a"]);
    node.crash();
    world.clock.step_ahead(TEN_YEARS);
    let node = world.open();
    assert_eq!(node.put("acme", &["a", "b"]), [(1, true), (2, false)]);
    minutes(&node, 3);
    node.engine.close();
    node.crash();
    world.clock.step_back(TEN_YEARS);
    let node = world.open();
    node.engine.watch(&org("acme"));
    assert_eq!(node.put("acme", &["a", "b", "c"]), [(1, true), (2, true), (3, false)]);
    let times: Vec<_> = node.all("acme", 0).iter().map(|event| event.timestamp).collect();
    assert_eq!(times, [DAWN, DAWN, DAWN + 3 * MINUTE]);
    minutes(&node, 15);
    assert_eq!(node.numbers("acme"), [] as [u64; 0]);
}

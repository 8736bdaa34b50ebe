//! Deletions (P7, R10): of events, and of whole logs.

use tidegate_protocol::Seq;

use super::{Harness, Node, World, event, org};
use crate::{DeleteError, Engine as _, PageLimit, ReadError};

const MINUTE: u64 = 60_000;

fn delete_events<H: Harness>(node: &Node<'_, H>, name: &str, seqs: Vec<Seq>) -> Result<(), DeleteError> {
    node.world.block_on(node.engine.delete_events(&org(name), seqs))
}

fn delete_org<H: Harness>(node: &Node<'_, H>, name: &str) -> Result<(), DeleteError> {
    node.world.block_on(node.engine.delete_org(&org(name)))
}

pub fn orgs_are_listed_by_name<H: Harness>(world: World<H>) {
    let node = world.open();
    let listed = |node: &Node<'_, H>| world.block_on(node.engine.list_orgs());
    assert_eq!(listed(&node), []);
    node.put("b", &["1", "2"]);
    node.state("a");
    node.put("c", &["1"]);
    let orgs = listed(&node);
    let names: Vec<&str> = orgs.iter().map(|log| log.org.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"], "also one that holds no event");
    assert_eq!((orgs[0].floor, orgs[0].head, orgs[0].last_timestamp), (0, 0, 0));
    let last = node.all("b", 0)[1].clone();
    assert_eq!((orgs[1].floor, orgs[1].head, orgs[1].last_timestamp), (0, last.seq, last.timestamp));
    if world.has(|can| can.survives_restart) {
        node.crash();
        assert_eq!(listed(&world.open()), orgs, "before any of them is used");
    }
}

pub fn p7_a_deleted_event_is_not_read_and_its_place_is_no_gap<H: Harness>(world: World<H>) {
    let mut node = world.open();
    node.put("acme", &["a", "b", "c", "d", "e"]);
    node.put("other", &["a", "b"]);
    let epoch = node.state("acme").epoch;
    let seqs: Vec<Seq> = (1..=5).map(|number| node.seq("acme", number)).collect();
    assert_eq!(delete_events(&node, "nobody", vec![seqs[0]]), Err(DeleteError::NoLog));
    assert_eq!(delete_events(&node, "acme", vec![]), Err(DeleteError::NoEvent));
    assert_eq!(delete_events(&node, "acme", vec![0, seqs[4] + 1000]), Err(DeleteError::NoEvent));
    assert_eq!(world.feed.take_deleted(), []);
    // In any order, one of them twice, and one that the log does not have.
    assert_eq!(delete_events(&node, "acme", vec![seqs[4], seqs[1], seqs[4], seqs[4] + 1000]), Ok(()));
    assert_eq!(world.feed.take_deleted(), [(org("acme"), Some(vec![seqs[1], seqs[4]]))]);
    for is_swept in [false, true] {
        if is_swept {
            node.engine.sweep();
        }
        assert_eq!(node.numbers("acme"), [1, 3, 4]);
        assert_eq!(node.numbers("other"), [1, 2]);
        let state = node.state("acme");
        assert_eq!((&state.epoch, state.floor, state.head), (&epoch, 0, seqs[4]), "its bounds stay");
        let page = node.page("acme", seqs[0], 9, 9_999, seqs[4]);
        assert_eq!((page.after, page.to), (seqs[0], seqs[4]), "the page passes the places");
        let none = node.page("acme", seqs[3], 9, 9_999, seqs[4]);
        assert_eq!((none.after, none.to, none.events.len()), (seqs[3], seqs[4], 0));
    }
    assert_eq!(node.put("acme", &["b", "f"]), [(2, true), (6, false)], "a known id does not bring it back");
    assert_eq!(node.numbers("acme"), [1, 3, 4, 6]);
    if world.has(|can| can.survives_restart) {
        node.crash();
        node = world.open();
        assert_eq!(node.numbers("acme"), [1, 3, 4, 6]);
        node.put("acme", &["g"]);
        assert_eq!(node.numbers("acme"), [1, 3, 4, 6, 7], "no seq is given again");
    }
}

pub fn r10_a_deleted_org_comes_back_under_a_fresh_epoch<H: Harness>(world: World<H>) {
    let mut node = world.open();
    node.put("acme", &["a", "b"]);
    node.put("other", &["a"]);
    let before = node.state("acme");
    // Readers do not keep it.
    node.engine.watch(&org("acme"));
    assert_eq!(delete_org(&node, "acme"), Ok(()));
    assert_eq!(world.feed.take_deleted(), [(org("acme"), None)]);
    assert_eq!(delete_org(&node, "acme"), Err(DeleteError::NoLog));
    assert_eq!(world.feed.take_deleted(), []);
    assert!(node.engine.head(&org("acme")).is_none());
    let limit = PageLimit { events: 9, bytes: 9_999, to: before.head };
    let read = world.block_on(node.engine.read(&org("acme"), 0, limit));
    assert!(matches!(read, Err(ReadError::NoLog)), "{read:?}");
    let listed = world.block_on(node.engine.list_orgs());
    assert_eq!(listed.iter().map(|log| log.org.as_str()).collect::<Vec<_>>(), ["other"]);
    node.engine.sweep();
    if world.has(|can| can.survives_restart) {
        node.crash();
        node = world.open();
        assert!(node.engine.head(&org("acme")).is_none());
        assert_eq!(delete_org(&node, "acme"), Err(DeleteError::NoLog));
        assert_eq!(node.numbers("other"), [1]);
    }
    world.forget();
    let after = node.state("acme");
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.head, after.floor, after.born_empty), (0, 0, true));
    assert_eq!(after.ancestors, []);
    assert_eq!(node.put("acme", &["a"]), [(1, false)], "its ids went with it");
    world.pass(MINUTE);
    node.engine.sweep();
    assert_eq!(node.numbers("acme"), [1], "what erases the old log leaves the new one alone");
    assert!(node.append("acme", vec![event("acme", "b")]).is_ok());
}

//! Pages (R9).

use tidegate_protocol::{SEQ_MAX, Seq};

use super::{Harness, Node, World, event, org};
use crate::Engine as _;

const MINUTE: u64 = 60_000;

pub fn r9_pages_at_the_floor_and_around_it<H: Harness>(world: World<H>) {
    if !world.has(|can| can.obeys_clock) {
        return;
    }
    let node = world.open();
    node.put("acme", &["a", "b", "c"]);
    world.pass(MINUTE);
    node.engine.sweep();
    world.pass(MINUTE);
    node.put("acme", &["d", "e"]);
    world.pass(9 * MINUTE);
    node.engine.sweep();
    let state = node.state("acme");
    assert_eq!(node.bounds("acme", &state), (5, 3));
    let beyond = state.head + 4;
    for (after, begins) in [(0, 3), (2, 3), (3, 3), (4, 4), (5, 5)] {
        let page = node.page("acme", node.seq("acme", after), 10, 10_000, SEQ_MAX);
        let numbers: Vec<u64> = page.events.iter().map(|event| node.number("acme", event.seq)).collect();
        let begin = node.seq("acme", begins).max(state.floor);
        assert_eq!((page.after, page.to), (begin, state.head), "after {after}");
        assert_eq!(numbers, (begins + 1..=5).collect::<Vec<_>>(), "after {after}");
    }
    let page = node.page("acme", beyond, 10, 10_000, SEQ_MAX);
    assert_eq!((page.after, page.to, page.events.len()), (beyond, beyond, 0), "beyond the head");
    let below = node.page("acme", 0, 10, 10_000, node.seq("acme", 2));
    let floor = state.floor;
    assert_eq!((below.after, below.to, below.events.len()), (floor, floor, 0), "all asked for is gone");
}

pub fn r9_pages_say_where_they_end<H: Harness>(world: World<H>) {
    let node = world.open();
    let ids: Vec<String> = (1..=20).map(|n| format!("id{n}")).collect();
    node.put("acme", &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let ends = |after, events, bytes, to| {
        let page = node.page("acme", node.seq("acme", after), events, bytes, to);
        (node.number("acme", page.after), node.number("acme", page.to), page.events.len())
    };
    assert_eq!(ends(0, 100, 100_000, SEQ_MAX), (0, 20, 20));
    assert_eq!(ends(0, 5, 100_000, SEQ_MAX), (0, 5, 5));
    assert_eq!(ends(0, 20, 100_000, SEQ_MAX), (0, 20, 20));
    assert_eq!(ends(3, 100, 100_000, node.seq("acme", 12)), (3, 12, 9));
    assert_eq!(ends(0, 100, 1, SEQ_MAX), (0, 1, 1), "one comes whole, whatever the limit");
    assert_eq!(ends(0, 0, 1, SEQ_MAX), (0, 1, 1));
    assert_eq!(ends(20, 100, 1, SEQ_MAX), (20, 20, 0));
    let two = node.all("acme", 0)[..2].iter().map(|event| event.fragment.len()).sum();
    assert_eq!(ends(0, 100, two, SEQ_MAX), (0, 2, 2));
    assert_eq!(ends(0, 100, two - 1, SEQ_MAX), (0, 1, 1));
}

pub fn r9_every_position_reads_what_follows_it<H: Harness>(world: World<H>) {
    let node = world.open();
    for n in 0..20 {
        node.put("acme", &[&format!("id{n}")]);
        // Another log, whose seqs may lie between.
        node.put("other", &[&format!("id{n}")]);
    }
    let head = node.state("acme").head;
    let seqs: Vec<Seq> = (1..=20).map(|number| node.seq("acme", number)).collect();
    let mut positions: Vec<Seq> = (0..=head.min(500)).collect();
    positions.extend(seqs.iter().flat_map(|seq| [seq - 1, *seq, seq + 1]));
    for &after in &positions {
        for to in [after + 1, after + 7, after + 35, head, SEQ_MAX] {
            for events in [1, 3, 100] {
                check_page(&node, &seqs, after, to, events);
            }
        }
    }
}

fn check_page<H: Harness>(node: &Node<'_, H>, seqs: &[Seq], after: Seq, to: Seq, events: usize) {
    let page = node.page("acme", after, events, 1 << 20, to);
    let what = format!("after {after}, to {to}, {events} events: {page:?}");
    let read: Vec<Seq> = page.events.iter().map(|event| event.seq).collect();
    let expected: Vec<Seq> =
        seqs.iter().copied().filter(|seq| (page.after + 1..=page.to).contains(seq)).collect();
    assert_eq!(read, expected, "{what}");
    assert_eq!(page.after, after, "nothing was removed: {what}");
    let bound = to.min(seqs[seqs.len() - 1]).max(after);
    if read.len() < events {
        assert_eq!(page.to, bound, "no limit was reached: {what}");
    } else {
        assert!(page.to <= bound, "{what}");
    }
}

pub fn r9_pages_are_whole_while_others_append<H: Harness>(world: World<H>) {
    let node = world.open();
    node.put("acme", &["first"]);
    let appended = std::thread::scope(|scope| {
        let engine = &node.engine;
        let writer = scope.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let append = |n: u32| {
                let events = vec![event("acme", &format!("a{n}")), event("acme", &format!("b{n}"))];
                runtime.block_on(engine.append(&org("acme"), events)).expect("appended")
            };
            (0..200).map(append).collect::<Vec<_>>()
        });
        let mut longest: Vec<Seq> = Vec::new();
        while !writer.is_finished() {
            let read: Vec<Seq> = node.all("acme", 0).iter().map(|event| event.seq).collect();
            assert!(read.starts_with(&longest), "a log only grows");
            longest = read;
        }
        writer.join().expect("the writer")
    });
    appended.iter().for_each(|appended| node.note("acme", appended));
    assert_eq!(node.numbers("acme"), (1..=401).collect::<Vec<_>>());
}

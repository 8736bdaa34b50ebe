//! The way of a batch to a reader (R1, R5, R8, R16 to R19), from the tail to the events that a client reads
//! from its bytes. Readers join, fall behind, skip, renew their grants and get private frames, in any order,
//! over each transport and coding, and their bytes arrive cut anywhere. Every client reads exactly what it
//! may see by the log.

mod client;
mod decode;
mod generations;
mod world;

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

use world::{Kind, News, World};

const READERS: usize = 8;
const KINDS: [Kind; 8] = [
    Kind::Deflate,
    Kind::Deflate,
    Kind::Deflate,
    Kind::DeflateAlone,
    Kind::WebSocket,
    Kind::SseGzip,
    Kind::SseGzip,
    Kind::Sse,
];
const FILTERS: [&str; 4] = ["*", "a", "a+b", "b+x"];
const SERVICES: [&str; 6] = ["a", "a", "a", "b", "b", client::EXCLUDED];

#[derive(Debug, Clone)]
enum Step {
    /// Service, user, key, bytes of each.
    Publish(Vec<(usize, Option<bool>, Option<bool>, usize)>),
    FanOut(usize),
    /// A reader begins, with a filter, or comes back to its position.
    Join(usize, usize),
    Stall(usize),
    Serve(usize, usize),
    Act(usize, bool),
    Ping(usize),
    Private(usize),
    Renew(usize, usize),
    Sweep,
    ShortenTail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reader = 0..READERS;
    let event = (
        0..SERVICES.len(),
        prop::option::weighted(0.1, any::<bool>()),
        prop::option::weighted(0.7, any::<bool>()),
        prop_oneof![4 => 0..300_usize, 1 => 0..6000_usize],
    );
    let step = prop_oneof![
        8 => prop::collection::vec(event, 1..6).prop_map(Step::Publish),
        8 => (0..2_usize).prop_map(Step::FanOut),
        2 => (reader.clone(), 0..FILTERS.len()).prop_map(|(reader, filter)| Step::Join(reader, filter)),
        3 => reader.clone().prop_map(Step::Stall),
        6 => (reader.clone(), 1..6_usize).prop_map(|(reader, turns)| Step::Serve(reader, turns)),
        5 => (reader.clone(), any::<bool>()).prop_map(|(reader, is_latest)| Step::Act(reader, is_latest)),
        1 => reader.clone().prop_map(Step::Ping),
        1 => reader.clone().prop_map(Step::Private),
        1 => (reader, 0..FILTERS.len()).prop_map(|(reader, filter)| Step::Renew(reader, filter)),
        1 => Just(Step::Sweep),
        1 => Just(Step::ShortenTail),
    ];
    prop::collection::vec(step, 1..160)
}

/// The lengths in which bytes arrive.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        prop::collection::vec(1..9_usize, 1..8),
        prop::collection::vec(1..3000_usize, 1..8),
        Just(vec![usize::MAX]),
    ]
}

fn run(steps: &[Step], cuts: &[usize]) -> World {
    // Four filters of two framings need a compressor each; one org gets three of five.
    let mut world = World::new(READERS, 5);
    let mut cuts = cuts.iter().copied().cycle();
    for reader in 0..READERS {
        world.join(reader, KINDS[reader], ["u", "v"][reader % 2], FILTERS[reader % 3 % 2]);
        world.serve(reader, 2);
    }
    for step in steps {
        match step {
            Step::Publish(events) => {
                let news: Vec<News<'_>> = events
                    .iter()
                    .map(|&(service, user, key, bytes)| News {
                        service: SERVICES[service],
                        user: user.map(|first| if first { "u" } else { "v" }),
                        key: key.map(|first| if first { "k" } else { "l" }),
                        bytes,
                    })
                    .collect();
                world.publish(&news);
            }
            Step::FanOut(worker) => world.fan_out(*worker),
            Step::Join(reader, filter) => {
                world.join(*reader, KINDS[*reader], ["u", "v"][reader % 2], FILTERS[*filter]);
            }
            Step::Stall(reader) => world.stall(*reader),
            Step::Serve(reader, turns) => {
                world.serve(*reader, *turns);
            }
            Step::Act(reader, is_latest) => world.act(*reader, *is_latest),
            Step::Ping(reader) => world.ping(*reader),
            Step::Private(reader) => world.private(*reader),
            Step::Renew(reader, filter) => world.renew(*reader, FILTERS[*filter]),
            Step::Sweep => world.sweep(),
            Step::ShortenTail => world.shorten_tail(),
        }
        world.arrive(&mut cuts, false);
    }
    world.settle(&mut cuts);
    world
}

#[test]
fn r1_r5_r8_r16_r17_r18_r19_every_client_reads_what_it_may_see_however_its_bytes_come() {
    let cases = std::env::var("TIDEGATE_DELIVERY_CASES").ok().and_then(|text| text.parse().ok());
    let config =
        ProptestConfig { cases: cases.unwrap_or(200), failure_persistence: None, ..Default::default() };
    let met = std::cell::RefCell::new(BTreeMap::<String, u64>::new());
    let outcome = TestRunner::new(config).run(&(steps(), cuts()), |(steps, cuts)| {
        let run = std::panic::AssertUnwindSafe(|| run(&steps, &cuts));
        let world = std::panic::catch_unwind(run).map_err(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            TestCaseError::fail(said.unwrap_or_default())
        })?;
        for (what, count) in &world.met {
            *met.borrow_mut().entry(what.clone()).or_default() += count;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // A property whose cases never occur proves nothing.
    let met = met.into_inner();
    for what in [
        "s",
        "a",
        "p",
        "b",
        "-",
        "join",
        "fell behind",
        "page",
        "cut batch",
        "batch of the tail",
        "renewal",
        "skip",
        "window of latest",
        "omitted",
        "ping",
        "deflated",
        "evicted compressor",
    ] {
        assert!(met.get(what).is_some_and(|count| *count > 20), "{what} was hardly met: {met:?}");
    }
}

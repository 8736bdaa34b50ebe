//! The client session: the vectors of `spec/vectors`, and simulated worlds, of which the generated vectors are
//! pieces. `examples/session_runs.rs` prints whole runs for clients in other languages.

mod generated;
mod log;
mod oracle;
mod prng;
mod vector;
mod world;

use std::collections::BTreeMap;

use tidegate_protocol::client::{Config, Input, Output, Session, Transport, WakeReason};
use world::{Record, World};

/// How many worlds the test runs; `TIDEGATE_SESSION_SEEDS` asks for more.
const SEEDS: u32 = 10_000;

#[test]
fn r2_r3_r4_r14_no_world_makes_a_session_lose_repeat_or_reorder() {
    let seeds = std::env::var("TIDEGATE_SESSION_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut failures = Vec::new();
    let mut totals = BTreeMap::new();
    for seed in 0..seeds {
        let mut world = World::new(seed, Record::Nothing);
        let run = world.run();
        let state = world.session.state();
        for (name, count) in [
            ("events", state.events),
            ("disconnects", state.disconnects),
            ("holes", state.holes),
            ("gaps", state.gaps),
            ("overlaps", state.overlaps),
            ("repeats", state.repeats),
            ("pings", state.pings_sent),
        ] {
            *totals.entry(name).or_insert(0) += count;
        }
        if let Err(what) = run {
            failures.push(format!("seed {seed}: {what}"));
            if failures.len() == 5 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Worlds in which nothing happens prove nothing.
    println!("{seeds} worlds: {totals:?}");
    assert!(totals.values().all(|total| *total > u64::from(seeds) / 20), "{totals:?}");
}

#[test]
fn r2_r3_r4_r5_r14_every_vector_holds() {
    let count: usize = vector::files().iter().map(|path| vector::read(path).len()).sum();
    assert!(count >= 380, "only {count} vectors");
    let failures = vector::failures();
    let shown: Vec<&String> = failures.iter().map(|(_, what)| what).take(20).collect();
    assert!(failures.is_empty(), "{} of {count} vectors:\n{shown:#?}", failures.len());
}

#[test]
fn a_connection_that_is_not_read_is_not_silent() {
    for transport in [Transport::Ws, Transport::Sse] {
        let config = Config { transports: vec![transport], ..Config::default() };
        let mut session = Session::new(config);
        session.step(Input::Connect, 0, 0, 0.5);
        session.step(Input::Token { g: 1, token: "t".into(), expires_in_ms: None }, 0, 0, 0.5);
        session.step(Input::Opened { g: 2 }, 0, 0, 0.5);
        let hello = r#"{"type":"hello","cursor":"e-4-t","head":4,"token_expires_in_ms":100000000}"#;
        session.step(Input::Frame { g: 2, text: hello.into() }, 0, 0, 0.5);
        let is_left = |outputs: Vec<Output>| outputs.iter().any(|o| matches!(o, Output::Close { .. }));
        for round in 0..20 {
            let now = session.deadline().expect("it waits");
            session.not_read(now);
            // Not even if it is asked for a sign of life.
            let input = if round == 10 { Input::Wake { reason: WakeReason::App } } else { Input::Tick };
            assert!(!is_left(session.step(input, now, 0, 0.5)) && session.state().is_open());
        }
        let is_noticed = (0..10).any(|_| {
            let now = session.deadline().expect("it waits");
            is_left(session.step(Input::Tick, now, 0, 0.5))
        });
        assert!(is_noticed, "silence counts once the connection is read again");
    }
}

//! The client session in simulated worlds, and the vectors that come of them.

mod log;
mod oracle;
mod prng;
mod vector;
mod world;

use world::World;

/// How many worlds the quick test runs; `TIDEGATE_SESSION_SEEDS` asks for more.
const SEEDS: u32 = 10_000;

#[test]
fn r2_r3_r4_r5_r14_no_world_makes_a_session_lose_repeat_or_reorder() {
    let seeds = std::env::var("TIDEGATE_SESSION_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut failures = Vec::new();
    for seed in 0..seeds {
        if let Err(what) = World::new(seed, false).run() {
            failures.push(format!("seed {seed}: {what}"));
            if failures.len() == 5 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

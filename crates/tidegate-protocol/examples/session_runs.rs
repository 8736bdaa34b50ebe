//! Prints whole runs of the client session in simulated worlds, one vector a line (spec/README.md), for
//! clients in other languages to run and compare: `tests/npm/session_agrees.mjs` does.
//!
//! `cargo run -p tidegate-protocol --example session_runs -- 0 10000` prints those of the seeds 0 to 9,999.

#[path = "../tests/session/log.rs"]
mod log;
#[path = "../tests/session/oracle.rs"]
mod oracle;
#[path = "../tests/session/prng.rs"]
mod prng;
#[path = "../tests/session/vector.rs"]
#[expect(dead_code, reason = "it runs no vectors")]
mod vector;
#[path = "../tests/session/world/mod.rs"]
mod world;

use std::io::{BufWriter, Write as _};

fn main() {
    let seeds: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [from, to] = seeds[..] else {
        eprintln!("usage: session_runs FROM TO");
        std::process::exit(2);
    };
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    for seed in from..to {
        let mut world = world::World::new(seed, world::Record::Steps);
        if let Err(what) = world.run() {
            eprintln!("seed {seed}: {what}");
            std::process::exit(1);
        }
        let line = serde_json::to_string(&world.recorded(format!("seed {seed}"))).expect("JSON");
        if writeln!(out, "{line}").is_err() {
            return; // the reader has seen enough
        }
    }
}

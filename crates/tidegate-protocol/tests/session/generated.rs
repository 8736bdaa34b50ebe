//! The generated vectors, `spec/vectors/generated-*.json`: pieces of runs of the world in which the session
//! does something that no piece before has. `WRITE_VECTORS=1` writes them anew.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use tidegate_protocol::client::Phase;

use crate::{
    vector::{self, Step, Vector, metrics},
    world::{Record, World},
};

const COMMAND: &str = "WRITE_VECTORS=1 cargo test -q -p tidegate-protocol --test session generated";

/// The seeds that are searched, and how many vectors a file has.
const SEEDS: u32 = 3_000;
const VECTORS_MAX: usize = 400;
const FILE_VECTORS: usize = 100;

/// Steps before and after the one that is new.
const BEFORE: usize = 4;
const AFTER: usize = 2;

/// What a step did, without its numbers: the phases, the input and the kinds of the outputs.
fn kind(before: Phase, step: &Step) -> String {
    let input = serde_json::to_value(&step.input).expect("JSON");
    let frame = input["text"].as_str().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let frame = frame.map_or(String::new(), |frame| frame["type"].to_string());
    let mut kind = format!("{} {} {frame}", before.name(), input["t"]);
    let mut last = String::new();
    for output in &step.out {
        let detail = match output["t"].as_str() {
            Some("error") => &output["code"],
            Some("gap" | "get_token") => &output["reason"],
            Some("open") => &output["transport"],
            Some("send") => &output["frame"]["type"],
            Some("event") => &output["replay"],
            _ => &serde_json::Value::Null,
        };
        let word = format!(" {}{detail}", output["t"]);
        if word != last {
            kind.push_str(&word);
        }
        last = word;
    }
    let _ = write!(kind, " {}", step.phase.name());
    kind
}

/// All vectors, the same in every run.
fn generate() -> Vec<Vector> {
    let mut seen = BTreeSet::new();
    let mut vectors = Vec::new();
    for seed in 0..SEEDS {
        if vectors.len() == VECTORS_MAX {
            break;
        }
        let mut world = World::new(seed, Record::StepsAndStates);
        world.run().expect("the test of the worlds shows what went wrong");
        let run = world.recorded(String::new());
        let states = world.states.take().unwrap_or_default();
        let mut phase = Phase::Idle;
        let mut covered_to = 0;
        for (index, step) in run.steps.iter().enumerate() {
            let is_new = seen.insert(kind(phase, step));
            phase = step.phase;
            // One piece covers what is new close by.
            if !is_new || index < covered_to || vectors.len() == VECTORS_MAX {
                continue;
            }
            let from = if index <= 2 * BEFORE { 0 } else { index - BEFORE };
            let to = (index + AFTER).min(run.steps.len());
            covered_to = to;
            let steps = run.steps[from..to].to_vec();
            let state = (from > 0).then(|| states[from].clone());
            let after = states.get(to).unwrap_or(world.session.state());
            let name = format!("seed {seed}, steps {from} to {}", to - 1);
            let metrics = Some(metrics(after));
            vectors.push(Vector { name, state, steps, metrics, ..run.clone() });
        }
    }
    vectors
}

fn text(vectors: &[Vector]) -> String {
    let lines: Vec<String> =
        vectors.iter().map(|vector| serde_json::to_string(vector).expect("a vector is JSON")).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

#[test]
fn the_generated_vectors_are_fresh() {
    let vectors = generate();
    assert!(vectors.len() >= 300, "only {} vectors: search more seeds", vectors.len());
    let is_write = std::env::var_os("WRITE_VECTORS").is_some();
    let mut names = BTreeSet::new();
    for (number, part) in vectors.chunks(FILE_VECTORS).enumerate() {
        let path = vector::folder().join(format!("generated-{number:02}.json"));
        let fresh = text(part);
        if is_write {
            fs::write(&path, &fresh).expect("a vector file");
        }
        let old = fs::read_to_string(&path).unwrap_or_default();
        assert!(old == fresh, "{} is stale; make it anew with: {COMMAND}", path.display());
        names.insert(path);
    }
    for path in vector::files() {
        let is_generated =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("generated-"));
        assert!(!is_generated || names.contains(&path), "{} is not generated any more", path.display());
    }
}

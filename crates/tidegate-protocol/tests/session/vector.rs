//! Test vectors (spec/README.md): reading them, running them, and comparing what comes out.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_protocol::client::{Config, Input, Output, Phase, Session, State};

/// The wall clock of a step that names none, less its `at`: 2026-01-01T00:00:00Z.
pub const WALL: u64 = 1_767_225_600_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    #[serde(default)]
    pub config: Config,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    pub steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<f64>,
    #[serde(rename = "in")]
    pub input: Input,
    pub out: Vec<Value>,
    pub phase: Phase,
    pub deadline: Option<u64>,
}

/// The folder of the vectors.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors")
}

/// The names of all vector files, in order.
pub fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("spec/vectors");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

/// The vectors of one file.
pub fn read(path: &PathBuf) -> Vec<Vector> {
    let text = fs::read_to_string(path).expect("a vector file");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An output as it is compared: texts for people are left out, and a number has one form.
pub fn comparable(mut output: Value) -> Value {
    let is_for_people = matches!(output["t"].as_str(), Some("error" | "status"));
    if let (true, Some(fields)) = (is_for_people, output.as_object_mut()) {
        fields.remove("message");
    }
    plain(output)
}

fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            // JSON has one kind of number: 1.0 is 1.
            #[expect(clippy::cast_possible_truncation)]
            Some(double) if double.fract() == 0.0 && double.abs() < 1e15 => json!(double as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => other,
    }
}

pub fn values(outputs: &[Output]) -> Vec<Value> {
    outputs.iter().map(|output| serde_json::to_value(output).expect("an output is JSON")).collect()
}

/// Runs a vector; says where the session did something else.
pub fn run(vector: &Vector) -> Result<(), String> {
    let config = vector.config.clone();
    let mut session = match &vector.state {
        Some(state) => Session::with_state(config, state.clone()),
        None => Session::new(config),
    };
    for (index, step) in vector.steps.iter().enumerate() {
        let wall = step.wall.unwrap_or(WALL + step.at);
        let outputs = session.step(step.input.clone(), step.at, wall, step.random.unwrap_or(0.5));
        let got: Vec<Value> = values(&outputs).into_iter().map(comparable).collect();
        let expected: Vec<Value> = step.out.iter().cloned().map(comparable).collect();
        let differs = |what: &str, expected: String, got: String| {
            let input = serde_json::to_string(&step.input).expect("JSON");
            Err(format!(
                "\"{}\", step {index} (at {}, in {input}): {what}\n  expected {expected}\n       got {got}",
                vector.name, step.at
            ))
        };
        if got != expected {
            return differs("other outputs", json!(expected).to_string(), json!(got).to_string());
        }
        let phase = session.state().phase;
        if phase != step.phase {
            return differs("another phase", step.phase.name().into(), phase.name().into());
        }
        let deadline = session.deadline();
        if deadline != step.deadline {
            return differs("another deadline", format!("{:?}", step.deadline), format!("{deadline:?}"));
        }
    }
    let Some(expected) = &vector.metrics else { return Ok(()) };
    let got = metrics(session.state());
    for (name, value) in expected.as_object().expect("metrics are an object") {
        if got.get(name) != Some(value) {
            return Err(format!("\"{}\": {name} is {:?}, not {value}", vector.name, got.get(name)));
        }
    }
    Ok(())
}

/// The names of all vectors that fail, each with what differs.
pub fn failures() -> Vec<(String, String)> {
    let vectors = files().into_iter().flat_map(|path| read(&path));
    vectors.filter_map(|vector| run(&vector).err().map(|what| (vector.name, what))).collect()
}

/// Health as applications see it.
pub fn metrics(state: &State) -> Value {
    json!({
        "connectionState": state.connection_state(),
        "lastConnectedAt": state.connected_wall,
        "lastDisconnectedAt": state.disconnected_wall,
        "totalDisconnects": state.disconnects,
        "reconnectAttempts": state.attempt,
        "eventsReceived": state.events,
        "eventLatencyMs": state.latencies,
        "duplicatesDetected": state.overlaps + state.repeats,
        "lastEventAt": state.event_wall,
    })
}

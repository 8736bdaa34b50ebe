//! How a run ended, as it is printed and answered.

use serde::Serialize;

use super::super::scenario::Transport;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The client did what it must.
    Passed,
    /// It did not.
    Failed,
    /// The scenario says nothing about this client.
    Skipped,
}

/// The end of a run, for people and as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The name of the scenario.
    pub scenario: String,
    /// Over what.
    pub transport: Transport,
    /// How it ended.
    pub verdict: Outcome,
    /// What was expected, if it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What was seen instead, or why it was skipped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seen: String,
    /// The rule that asks for it: the scenario's, or that of spec/README.md which the client breaks before.
    pub rule: String,
    /// What happens in the scenario.
    pub about: String,
    /// How often the client asked for the stream.
    pub attempts: u32,
    /// How long it took.
    pub took_ms: u64,
    /// The last words that the client wrote to its standard error, if it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_says: String,
}

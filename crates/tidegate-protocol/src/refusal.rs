//! A refusal: a code of the closed table, a sentence, and what helps the peer to do better.

use crate::Code;

/// A no, in the words of every transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which no.
    pub code: Code,
    /// One clear sentence: what was wrong, what to do.
    pub message: String,
    /// The configuration key of the bound that was reached.
    pub limit: Option<&'static str>,
    /// When to come back.
    pub retry_in_ms: Option<u64>,
}

impl Refusal {
    /// A no that names no limit and no time.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), limit: None, retry_in_ms: None }
    }

    /// Says when to come back.
    pub fn retry_in(mut self, millis: u64) -> Self {
        self.retry_in_ms = Some(millis);
        self
    }
}

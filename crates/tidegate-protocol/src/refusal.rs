//! A refusal: a code of the closed table, a sentence, and what helps the peer to avoid it.

use crate::Code;

/// A refusal, as every transport reports it: an `error` frame and a close code, or a problem (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its code.
    pub code: Code,
    /// One sentence for people: what was wrong, and what to do.
    pub message: String,
    /// The configuration key of the limit that was reached.
    pub limit: Option<&'static str>,
    /// Try again no earlier than after this time, in milliseconds.
    pub retry_in_ms: Option<u64>,
}

impl Refusal {
    /// A refusal without limit and time.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), limit: None, retry_in_ms: None }
    }

    /// Says after how many milliseconds to try again.
    pub fn retry_in(mut self, millis: u64) -> Self {
        self.retry_in_ms = Some(millis);
        self
    }
}

//! What an audit found wrong. Anybody may add, from any task; the first few are kept whole, all are
//! counted.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// How many are told in full.
const KEPT_MAX: usize = 40;

/// A list that only grows.
#[derive(Debug, Default)]
pub struct Findings(Mutex<(usize, Vec<String>)>);

impl Findings {
    /// Adds one: who saw it, and what.
    pub fn add(&self, who: impl Display, what: impl Display) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.0 += 1;
        if found.1.len() < KEPT_MAX {
            found.1.push(format!("{who}: {what}"));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The first of them.
    pub fn kept(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

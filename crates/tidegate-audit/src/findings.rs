//! The findings of an audit: what is wrong. Any task may add one; the first ones are kept as text, all are
//! counted.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// How many findings are kept as text.
const KEPT_MAX: usize = 40;

/// A list that only grows.
#[derive(Debug, Default)]
pub struct Findings(Mutex<(usize, Vec<String>)>);

impl Findings {
    /// Adds a finding: who found it, and what.
    pub fn add(&self, who: impl Display, what: impl Display) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.0 += 1;
        if found.1.len() < KEPT_MAX {
            found.1.push(format!("{who}: {what}"));
        }
    }

    /// Adds a finding unless `holds`: the audit itself must have tested enough.
    pub fn require(&self, holds: bool, what: &str) {
        if !holds {
            self.add("audit", what);
        }
    }

    /// The number of findings.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The first findings, as text.
    pub fn kept(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

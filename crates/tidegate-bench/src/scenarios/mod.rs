//! The scenarios, one file each: what is run, and which figures are shown. They share the columns of
//! [`columns`].

pub mod bandwidth;
pub mod columns;
pub mod fanout;
pub mod filters;
pub mod idle;
pub mod ingest;
pub mod orgs;
pub mod stalled;
pub mod storm;

use crate::{peers::Peer, result::Row};

/// The outcome of a scenario. If a server cannot be measured, only its own rows are missing.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Which servers could not be measured, and why.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Adds the rows of a server, or the reason why there are none.
    pub fn add<R: IntoIterator<Item = Row>>(&mut self, peer: &Peer, measured: anyhow::Result<R>) {
        match measured {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => {
                let words = format!("{peer}: {error:#}");
                // A failure that repeats at every load is printed once.
                if !self.failures.contains(&words) {
                    eprintln!("tidegate-bench: {words}");
                    self.failures.push(words);
                }
            }
        }
    }
}

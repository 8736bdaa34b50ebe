//! Log lines on standard error, as `[logs]` asks for them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{LogFormat, Logs};

/// Starts logging for the process. A second start changes nothing.
pub fn start(logs: &Logs) {
    // Dependencies speak at warn and above: their info is not about what a node does. What h2 warns
    // about is the doing of peers, who should not be able to fill a log; it is counted.
    let level = logs.level.word();
    let others = if level == "error" { "error" } else { "warn" };
    let filter = EnvFilter::new(format!(
        "{others},h2=error,tidegate_core={level},tidegate_server={level},tidegate={level}"
    ));
    let lines = fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let started = match logs.format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).finish().try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

/// A log line that whoever connects can bring about: it is written once in a while, with the number of
/// times that it was left out since.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    said: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// One that may be written so often.
    pub fn every(every: Duration) -> Self {
        Self { every, said: Mutex::new((None, 0)) }
    }

    /// Whether to write it now: with how many were left out since the last.
    pub fn say(&self) -> Option<u64> {
        self.say_at(Instant::now())
    }

    fn say_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            said.1 += 1;
            return None;
        }
        said.0 = Some(now);
        Some(std::mem::take(&mut said.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_number() {
        let (seldom, start) = (Seldom::every(Duration::from_secs(10)), Instant::now());
        let at = |seconds| seldom.say_at(start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(0), at(9), at(10), at(11), at(30)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}

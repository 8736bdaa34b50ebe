//! A limiter for log lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Writes a log line at most once in an interval, for a line that any client can cause.
#[derive(Debug)]
pub struct LogLimiter {
    every: Duration,
    said: Mutex<(Option<Instant>, u64)>,
}

impl LogLimiter {
    /// A limiter that lets one line through per interval.
    pub fn every(every: Duration) -> Self {
        Self { every, said: Mutex::new((None, 0)) }
    }

    /// `Some` if the line may be written now, with the number of lines left out since the last one.
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
        let (limiter, start) = (LogLimiter::every(Duration::from_secs(10)), Instant::now());
        let at = |seconds| limiter.say_at(start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(0), at(9), at(10), at(11), at(30)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}

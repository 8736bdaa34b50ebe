//! Time, as engines read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_protocol::{UnixMillis, time};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May step, in both directions.
    fn now(&self) -> UnixMillis;

    /// Milliseconds since some moment, by a clock that never steps. It goes on while the machine sleeps, or
    /// its sleep would look like a step of the other clock.
    fn steady(&self) -> u64 {
        self.now()
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // A clock before 1970 reads as 1970; timestamps then stand still, they do not fall.
        time::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn steady(&self) -> u64 {
        // `Instant` stands still while the machine sleeps.
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        time::millis(Duration::try_from(since_boot).unwrap_or_default())
    }
}

/// Durations are capped at a quarter of what 64 bits hold, some 146 million years, so that the sum of
/// a time and up to three of them does not overflow.
const MILLIS_MAX: u64 = u64::MAX / 4;

/// A configured duration in milliseconds, capped so that it can be added to times.
pub(crate) fn capped_millis(duration: Duration) -> u64 {
    time::millis(duration).min(MILLIS_MAX)
}

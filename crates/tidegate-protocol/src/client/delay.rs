//! The times between attempts to connect (PROTOCOL.md, "Coming back"): truncated exponential backoff with
//! jitter. The jitter keeps clients that lost their connections together from returning together.

/// The delays in seconds, before jitter.
const BASE_S: [u64; 9] = [1, 2, 5, 10, 30, 60, 120, 240, 300];

/// How far the jitter reaches to either side of a delay, in milliseconds.
const JITTER_MS: u64 = 5000;

/// The shortest delay, in milliseconds.
pub(super) const DELAY_MS_MIN: u64 = 1000;

/// The longest time that a gateway may ask a client to wait, in milliseconds: a day. More is taken for a
/// mistake.
pub(super) const HINT_MS_MAX: u64 = 86_400_000;

/// How long a stream must have been open before the delays start over, in milliseconds.
pub const STABLE_MS: u64 = 10_000;

/// The delay before the next attempt, in milliseconds, after `attempt` delays in a row (0 for the first).
/// All times of its window are equally likely: 5 s to both sides of the base, but not below 1 s. `hint` is
/// what the gateway asked for (`retry_in_ms`, `Retry-After`; 0 for nothing): it raises the base, and the
/// delay is never shorter. `random` is drawn uniformly from [0, 1).
pub fn delay(attempt: u32, random: f64, hint: u64) -> u64 {
    let base = (BASE_S[(attempt as usize).min(BASE_S.len() - 1)] * 1000).max(hint);
    let low = base.saturating_sub(JITTER_MS).max(DELAY_MS_MIN).max(hint);
    low.saturating_add(part(random, base.saturating_add(JITTER_MS) - low + 1))
}

/// A whole number below `size`, for a draw from [0, 1).
pub(super) fn part(random: f64, size: u64) -> u64 {
    // Exact: `size` is at most a day in milliseconds, and a double holds whole numbers up to 2^53.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let part = (random * size as f64).floor() as u64;
    part
}

/// Counts attempts for callers that keep no [`super::Session`], and draws their delays.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The delay before the next attempt, in milliseconds. `random` is uniform over all of `u64`; `hint_ms`
    /// is what the gateway asked for.
    pub fn next_ms(&mut self, random: u64, hint_ms: Option<u64>) -> u64 {
        let attempt = self.attempts;
        self.attempts = attempt.saturating_add(1);
        // The upper 53 bits are a double in [0, 1).
        #[expect(clippy::cast_precision_loss)]
        let random = (random >> 11) as f64 / (1_u64 << 53) as f64;
        delay(attempt, random, hint_ms.unwrap_or(0))
    }

    /// Begins anew; call it once a stream has been open for [`STABLE_MS`].
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Attempts since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_keep_their_windows() {
        for (random, expected) in [
            (0, [1, 1, 1, 5, 25, 55, 115, 235, 295, 295].map(|s| s * 1000)),
            (u64::MAX, [6, 7, 10, 15, 35, 65, 125, 245, 305, 305].map(|s| s * 1000)),
        ] {
            let mut backoff = Backoff::default();
            assert_eq!(expected.map(|_| backoff.next_ms(random, None)), expected);
            backoff.reset();
            assert_eq!(backoff.next_ms(0, Some(9999)), 9999);
        }
    }
}

//! How long to wait before the next try.

/// The window of the first delay; it doubles with each failure in a row.
const FIRST_MS: u64 = 200;
const LONGEST_MS: u64 = 10_000;

/// No gateway asks for more; a proxy that does would silence the publisher.
pub(super) const ASKED_MS_MAX: u64 = 3_600_000;

/// Exponential backoff: drawn from the upper half of 200 ms, 400 ms, ... up to 10 s, so that publishers that lost
/// the same gateway do not come back together. Never shorter than `asked_ms`, which the gateway asked for.
/// `failures` counts from 1; `random` is in [0, 1).
pub(super) fn delay_ms(failures: u32, random: f64, asked_ms: u64) -> u64 {
    let most = FIRST_MS.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_MS);
    let half = most as f64 / 2.0;
    ((half + half * random) as u64).max(asked_ms)
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3) in milliseconds; 0 if it has none that can be read.
/// `wall` is now, in milliseconds since 1970.
pub(super) fn retry_after_ms(value: Option<&str>, wall: u64) -> u64 {
    let Some(text) = value.map(str::trim) else { return 0 };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // So many digits that they are no number ask for longer than any limit.
        return text.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000);
    }
    let at =
        httpdate::parse_http_date(text).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    at.map_or(0, |at| tidegate_protocol::time::millis(at).saturating_sub(wall))
}

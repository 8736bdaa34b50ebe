//! Random bits from the system, for jitter and for the masks of WebSocket. Do not make secrets from them.

/// 64 random bits. If the system gives none, they come from the clock.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        since.as_nanos() as u64
    })
}

/// A number that is uniform over [0, 1): 53 bits, as many as a double holds.
pub(crate) fn unit() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

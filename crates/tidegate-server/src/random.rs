//! Random bits of the system, for jitter and names. Nothing secret is made of them.

/// 64 random bits. A system without any gives its clock instead.
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        since.as_nanos() as u64
    })
}

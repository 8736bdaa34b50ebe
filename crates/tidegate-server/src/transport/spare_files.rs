//! Keeps a few open files spare, so that operators can connect and the log can open its files while clients
//! hold all others.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit};

/// How many open files clients leave free at least: one for each operator's connection, and as many for the log.
const SPARE: u64 = 128;

/// Whether `socket`, the one that was opened last, takes one of the spare files. A new descriptor has the lowest
/// number that is free (POSIX.1-2024, 2.6), so its number says how many are in use.
pub fn takes_one(socket: &impl AsRawFd) -> bool {
    // The limit is asked for each time: a reread of the configuration can raise it.
    let limit = getrlimit(Resource::Nofile).current;
    limit.is_some_and(|limit| is_spare(socket.as_raw_fd(), limit))
}

fn is_spare(number: i32, limit: u64) -> bool {
    // Where few files may be open at all, most of them are for clients nevertheless.
    u64::try_from(number).is_ok_and(|number| number >= limit - SPARE.min(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::is_spare;

    #[test]
    fn the_last_128_or_a_quarter_are_spare() {
        for (limit, spare) in [(60, 45), (1024, 896), (65_536, 65_408)] {
            assert!(!is_spare(spare - 1, limit), "{limit}");
            assert!(is_spare(spare, limit), "{limit}");
        }
    }
}

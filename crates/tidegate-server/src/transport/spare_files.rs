//! Shares out the files that the process may have open (`RLIMIT_NOFILE`), so that operators can connect, the
//! log can open its files and publishers can publish while clients hold all others.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files are for all that is neither a stream nor a publisher, at least: those of a log of usual size among
/// them. Half of all, if that is less.
pub const LEAST_OTHERS: u64 = 2048;

/// How many open files clients leave free at least: one for each operator's connection, and as many for the log.
const SPARE: u64 = 128;

/// How often the open files are counted at most, while few are left. It takes some milliseconds if there are
/// tens of thousands.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What is left for clients after a new socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    Enough,
    /// So little that a connection without a request must make room.
    Little,
    /// Nothing: the socket takes one of the spare files.
    Nothing,
}

/// How many files may be open.
pub fn allowed() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the number of files that may be open as far as the system lets this process (its hard limit).
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "raise the limit of open files");
    }
}

/// How many streams may be open where `allowed` files may, so that `publishes` requests of publishers find a
/// place, or one for every eighth file if that is less, and the log and all else can open `others`, or half of all.
pub fn streams_max(allowed: u64, publishes: usize, others: u64) -> usize {
    let publishes = u64::try_from(publishes).unwrap_or(u64::MAX).min(allowed / 8);
    usize::try_from(allowed - others.min(allowed / 2) - publishes).unwrap_or(usize::MAX)
}

/// How many files are open; `None` on a system without /proc.
pub fn open() -> Option<u64> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(files).ok()
}

/// The files that are in use, as far as whoever accepts sockets knows.
#[derive(Debug, Default)]
pub struct FilesInUse {
    /// Those that are not accepted sockets, when they were counted.
    others: u64,
    counted: Option<Instant>,
}

impl FilesInUse {
    /// The room that `socket` leaves, the one that was opened last, and how many files that is. With it,
    /// `sockets` are open.
    pub fn room_after(&mut self, socket: &impl AsRawFd, sockets: usize) -> (Room, usize) {
        // The limit is asked for each time: `prlimit` can change it.
        let allowed = allowed();
        let sockets = u64::try_from(sockets).unwrap_or(u64::MAX);
        // A new descriptor has the lowest number that is free (POSIX.1-2024, 2.6), so at least as many are in
        // use. More are, if some with lower numbers were closed meanwhile.
        let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
        let at_least = |others: u64| (number + 1).max(others.saturating_add(sockets));
        if room(at_least(self.others), allowed) != Room::Enough
            && self.counted.is_none_or(|counted| counted.elapsed() >= COUNT_EVERY)
        {
            self.others = open().unwrap_or(number + 1).saturating_sub(sockets);
            self.counted = Some(Instant::now());
        }
        let in_use = at_least(self.others);
        let left = allowed.saturating_sub(SPARE.min(allowed / 4) + in_use);
        (room(in_use, allowed), usize::try_from(left).unwrap_or(usize::MAX))
    }
}

fn room(in_use: u64, allowed: u64) -> Room {
    // Where few files may be open at all, most of them are for clients nevertheless.
    let spare = SPARE.min(allowed / 4);
    match in_use {
        in_use if in_use > allowed - spare => Room::Nothing,
        in_use if in_use > allowed - 2 * spare => Room::Little,
        _ => Room::Enough,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_128_or_a_quarter_are_spare() {
        for (allowed, spare) in [(60, 45), (1024, 896), (65_536, 65_408)] {
            assert_ne!(room(spare, allowed), Room::Nothing, "{allowed}");
            assert_eq!(room(spare + 1, allowed), Room::Nothing, "{allowed}");
        }
        for (allowed, little) in [(60, 30), (1024, 768), (65_536, 65_280)] {
            assert_eq!(room(little, allowed), Room::Enough, "{allowed}");
            assert_eq!(room(little + 1, allowed), Room::Little, "{allowed}");
        }
    }

    #[test]
    fn streams_leave_files_to_publishers_and_the_log() {
        for (allowed, streams) in [(64, 24), (1024, 384), (56_144, 50_000), (65_536, 59_392)] {
            assert_eq!(streams_max(allowed, 4096, LEAST_OTHERS), streams, "{allowed}");
        }
        assert_eq!(streams_max(u64::MAX, 4096, 9000), usize::MAX - 9000 - 4096);
    }
}

//! Room: how much the file system has left, and how much the log may take (R32).

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::statvfs;

/// How long an answer of the file system counts.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the file system of a directory has left.
pub struct FreeSpace {
    dir: PathBuf,
    looked: Mutex<Option<(Instant, u64)>>,
}

impl FreeSpace {
    /// That of `dir`.
    pub fn of(dir: PathBuf) -> Self {
        Self { dir, looked: Mutex::new(None) }
    }

    /// Bytes that are left for this user, as of a moment ago. A file system that does not say has room.
    pub fn bytes(&self) -> u64 {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        match *looked {
            Some((at, bytes)) if at.elapsed() < LOOK_EVERY => bytes,
            _ => {
                let bytes =
                    statvfs(&self.dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
                *looked = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

//! Settings of the local engines, for tests.

use std::{path::PathBuf, time::Duration};

use super::Bounds;
use crate::{DiskOptions, LocalOptions, MemoryOptions};

const MINUTE: Duration = Duration::from_secs(60);

impl Bounds {
    /// Wide ones.
    pub fn for_tests() -> Self {
        Self {
            dedup_window: 5 * MINUTE,
            dedup_max_entries: 1_000_000,
            dedup_max_entries_per_org: usize::MAX,
            orgs_max: 100_000,
            queue_bytes_max: 64 << 20,
            retention: 10 * MINUTE,
            forget_after: 10 * MINUTE,
        }
    }

    /// The bounds as the local engines take them.
    pub fn local(&self) -> LocalOptions {
        LocalOptions {
            dedup_window: self.dedup_window,
            dedup_max_entries: self.dedup_max_entries,
            dedup_max_entries_per_org: self.dedup_max_entries_per_org,
            orgs_max: self.orgs_max,
            queue_requests_max: 10_000,
            queue_bytes_max: self.queue_bytes_max,
        }
    }
}

impl LocalOptions {
    /// Wide bounds. Not those of a node, which stand in its configuration.
    pub fn for_tests() -> Self {
        Bounds::for_tests().local()
    }
}

impl MemoryOptions {
    /// A window of 10 minutes and 256 MiB.
    pub fn for_tests() -> Self {
        Self { local: LocalOptions::for_tests(), window: 10 * MINUTE, max_bytes: 256 << 20 }
    }
}

impl DiskOptions {
    /// A day and 8 GiB, synced, in `dir`.
    pub fn for_tests(dir: impl Into<PathBuf>) -> Self {
        Self {
            local: LocalOptions::for_tests(),
            dir: dir.into(),
            sync_always: true,
            retention: 24 * 60 * MINUTE,
            max_bytes: 8 << 30,
            min_free: 0,
            bucket: None,
            erase_within: 60 * MINUTE,
            forget_after: 7 * 24 * 60 * MINUTE,
        }
    }
}

//! The settings of the disk engine, and the number and sizes of segments that follow from them.

use std::{path::PathBuf, time::Duration};

use super::{CHUNK_BYTES, damage};
use crate::{clock::capped_millis, local::LocalOptions};

/// The smallest and the largest segment; between them it is a sixteenth of `log.max_bytes`. The largest is
/// what a start reads in well under a second.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
/// With this many segments beyond those that a full log has by its size and age, the oldest goes whole, even if not
/// everybody in it stores more than its share: each takes a descriptor, and has a snapshot, however little is left in
/// it.
const SEGMENTS_MORE_MAX: u64 = 512;
/// What a log has open beside its segments: its directories and other files, and those that a rewrite, a read of a
/// replaced segment and an answer to an operator need meanwhile.
const OTHER_FILES: u64 = 64;

/// The settings of the disk engine. There are no defaults here: those of a node stand in its
/// configuration.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// The settings that both local engines have.
    pub local: LocalOptions,
    /// `log.dir`: the directory of the log, this process's alone.
    pub dir: PathBuf,
    /// `log.sync`: whether each commit is synced before it is acknowledged; otherwise each second.
    pub sync_always: bool,
    /// `log.retention`: how long events are kept at least. Raised to the dedup window.
    pub retention: Duration,
    /// `log.max_bytes`: the most bytes that the files of the log take, and up to [`DiskOptions::over_max_bytes`]
    /// more. The oldest segments are removed first, but none within the dedup window; where that alone needs
    /// more, events are refused.
    pub max_bytes: u64,
    /// `log.min_free`: the bytes that publishers leave free on the file system.
    pub min_free: u64,
    /// How long a segment is written to; if `None`, a 24th of the retention, but at least a minute and at
    /// most an hour.
    pub bucket: Option<Duration>,
    /// `log.erase_within`: events that retention removes are gone from the files after this time at the
    /// latest. Bounds how long a segment is written to.
    pub erase_within: Duration,
    /// An org that holds no events and was not touched for this long is forgotten whole, its epoch
    /// and seq with it.
    pub forget_after: Duration,
}

impl DiskOptions {
    /// The size at which a segment ends.
    pub(super) fn segment_bytes(&self) -> u64 {
        segment_bytes(self.max_bytes)
    }

    /// How much more than [`DiskOptions::max_bytes`] the directory may take: a segment, the room that the
    /// next commits have been given, and copies of damaged stretches. Add what the log knows of its orgs, which
    /// stands at the front of a segment: about 120 bytes for each, and 31 for each epoch before its present one.
    pub fn over_max_bytes(&self) -> u64 {
        self.segment_bytes() + 2 * CHUNK_BYTES + damage::DIR_BYTES_MAX
    }

    /// How long a segment is written to, in milliseconds.
    pub(super) fn segment_millis(&self) -> u64 {
        match self.bucket {
            Some(bucket) => capped_millis(bucket).max(1),
            None => segment_millis(self.retention, self.erase_within),
        }
    }

    /// The most segments that there are; each takes a file descriptor.
    pub(super) fn segments_max(&self) -> u64 {
        segments_max(self.max_bytes, self.retention, self.segment_millis())
    }

    /// How many files a log with these settings may have open, about: `log.max_bytes`, `log.retention` and
    /// `log.erase_within`.
    pub fn open_files(max_bytes: u64, retention: Duration, erase_within: Duration) -> u64 {
        segments_max(max_bytes, retention, segment_millis(retention, erase_within)) + OTHER_FILES
    }
}

fn segment_bytes(max_bytes: u64) -> u64 {
    (max_bytes / 16).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
}

fn segment_millis(retention: Duration, erase_within: Duration) -> u64 {
    // Two minutes for the sweep, which comes each minute and may take some time.
    let within = capped_millis(erase_within).saturating_sub(2 * 60_000);
    (capped_millis(retention) / 24).min(within).clamp(60_000, 3_600_000)
}

/// A full log has a segment for each `segment_bytes`, and one for each `segment_millis` that its retention has.
/// Twice the former, because some end early.
fn segments_max(max_bytes: u64, retention: Duration, segment_millis: u64) -> u64 {
    2 * (max_bytes / segment_bytes(max_bytes)) + capped_millis(retention) / segment_millis + SEGMENTS_MORE_MAX
}

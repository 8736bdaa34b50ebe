//! Damage: stretches of the log that hold no whole record (R31). Each is copied to `damaged/`, counted and
//! logged once; readers get a gap in its place, because the next record does not continue the last one.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{directory::NOFOLLOW, record::ALIGN};
use crate::store::StoreError;

/// The most bytes in `damaged/`: the oldest copies make room for new ones.
pub const DIR_BYTES_MAX: u64 = 16 << 20;
/// The most bytes of one stretch that are copied.
const COPY_BYTES_MAX: usize = 4 << 20;
/// The most stretches of one segment that are copied and logged, one by one. A disk that fails everywhere would
/// otherwise make a file and a line for each record.
const COPIES_MAX: usize = 64;

struct Known {
    end: u64,
    /// The offset in the name of the copy, if there is one.
    copy: Option<u64>,
}

/// What is known to be damaged since this start.
pub struct Damage {
    dir: PathBuf,
    /// By segment and offset. Stretches that touch are one.
    known: Mutex<BTreeMap<(u64, u64), Known>>,
    bytes: AtomicU64,
}

impl Damage {
    /// Nothing is known yet; copies go to `dir`.
    pub fn new(dir: PathBuf) -> Self {
        let bytes = AtomicU64::new(files(&dir).iter().map(|(_, _, bytes)| bytes).sum());
        Self { dir, known: Mutex::default(), bytes }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many damaged stretches are known. Those between which lies a whole record are two.
    pub fn count(&self) -> u64 {
        self.known().len() as u64
    }

    /// The bytes of the copies.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that no whole record is at `offset` of a segment, and keeps a copy of `bytes`. Says whether the operator
    /// is to be told: this is new, and not a part of what was told already. A copy that cannot be made is left out:
    /// there may be no room.
    pub fn note(&self, segment: u64, offset: u64, bytes: &[u8]) -> bool {
        let mut stretch =
            Known { end: (offset + bytes.len() as u64).next_multiple_of(ALIGN as u64), copy: None };
        let mut begin = offset;
        let mut known = self.known();
        let mut is_new = true;
        if let Some((place, before)) = known.range((segment, 0)..=(segment, offset)).next_back()
            && offset <= before.end
        {
            if stretch.end <= before.end {
                return false;
            }
            (begin, stretch.copy, is_new) = (place.1, before.copy, false);
        }
        while let Some((place, after)) = known.range((segment, offset + 1)..=(segment, stretch.end)).next() {
            let place = *place;
            (stretch.end, stretch.copy, is_new) =
                (stretch.end.max(after.end), stretch.copy.or(after.copy), false);
            known.remove(&place);
        }
        if is_new && known.range((segment, 0)..=(segment, u64::MAX)).count() < COPIES_MAX {
            stretch.copy = Some(offset);
        }
        let copy = stretch.copy;
        known.insert((segment, begin), stretch);
        if let Some(copy) = copy {
            self.set_aside(segment, copy, bytes);
        }
        is_new && copy.is_some()
    }

    /// Keeps a copy of bytes that are about to be cut off or rewritten, or that cannot be used. They go to the end of
    /// the copy that is named after `begin`.
    pub fn set_aside(&self, segment: u64, begin: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = self.copy(&format!("{segment:010}-{begin}.bin"), bytes) {
            tracing::warn!(%error, dir = %self.dir.display(), "no copy of a damaged stretch of the log was kept");
        }
    }

    fn copy(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let path = self.dir.join(name);
        let mut file =
            OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(NOFOLLOW).open(&path)?;
        let begin = file.metadata()?.len();
        let room = COPY_BYTES_MAX.saturating_sub(usize::try_from(begin).unwrap_or(usize::MAX));
        let bytes = &bytes[..bytes.len().min(room)];
        if self.bytes() + bytes.len() as u64 > DIR_BYTES_MAX {
            self.make_room(&path, bytes.len() as u64)?;
        }
        // Not synced: a copy is for people, and readers should not wait for the disk that fails.
        let written = file.write_all(bytes);
        if written.is_err() {
            // Half a copy would only take room.
            file.set_len(begin)?;
        } else {
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        written
    }

    /// Removes the oldest copies, but not that at `kept`.
    fn make_room(&self, kept: &Path, bytes: u64) -> std::io::Result<()> {
        let mut found = files(&self.dir);
        found.sort();
        let mut held: u64 = found.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, path, size) in found.into_iter().filter(|(_, path, _)| path != kept) {
            if held + bytes <= DIR_BYTES_MAX {
                break;
            }
            std::fs::remove_file(path)?;
            held -= size;
        }
        self.bytes.store(held, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the copies from segments up to `last`, and what is known of them: retention has removed the segments
    /// (P7).
    pub fn forget_segments(&self, last: u64) -> Result<(), StoreError> {
        let mut known = self.known();
        if known.first_key_value().is_some_and(|((segment, _), _)| *segment <= last) {
            *known = known.split_off(&(last + 1, 0));
        }
        drop(known);
        let is_of_these = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()?.split('-').next());
            name.and_then(|number| number.parse().ok()).is_some_and(|number: u64| number <= last)
        };
        let copies = if self.bytes() == 0 { Vec::new() } else { files(&self.dir) };
        for (_, path, bytes) in copies.iter().filter(|(_, path, _)| is_of_these(path)) {
            self.remove(path, *bytes)?;
        }
        Ok(())
    }

    fn remove(&self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        let failed = |error| StoreError(format!("remove {}: {error}", path.display()).into());
        std::fs::remove_file(path).map_err(failed)?;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the file of a segment that is about to be replaced, because a part of it cannot be read now. It takes no
    /// room before that.
    pub fn keep_file(&self, segment: u64, path: &Path) {
        let kept = self.dir.join(format!("{segment:010}-whole.seg"));
        let linked =
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).and_then(|()| {
                match std::fs::remove_file(&kept) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => std::fs::hard_link(path, &kept),
                }
            });
        if let Err(error) = linked {
            tracing::warn!(%error, path = %path.display(), "no copy of a file of the log that cannot be read was kept");
        }
        self.bytes.store(files(&self.dir).iter().map(|(_, _, bytes)| bytes).sum(), Ordering::Relaxed);
    }

    /// Removes the copies that are older than `age` (P7).
    pub fn forget(&self, age: Duration) -> Result<(), StoreError> {
        for (modified, path, bytes) in files(&self.dir) {
            if modified.elapsed().is_ok_and(|elapsed| elapsed < age) {
                continue;
            }
            self.remove(&path, bytes)?;
        }
        Ok(())
    }
}

fn files(dir: &Path) -> Vec<(SystemTime, PathBuf, u64)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let found = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some((metadata.modified().ok()?, entry.path(), metadata.len()))
    });
    found.collect()
}

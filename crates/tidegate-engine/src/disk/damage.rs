//! Damage: stretches of the log that hold no whole record (R31). Each is copied to `damaged/`, counted and
//! logged once; readers get a gap in its place, because the next record does not continue the last one.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::store::StoreError;

/// The most bytes in `damaged/`: the oldest copies make room for new ones.
pub const DIR_BYTES_MAX: u64 = 16 << 20;
/// The most bytes of one stretch that are copied.
const COPY_BYTES_MAX: usize = 4 << 20;

/// What is known to be damaged since this start.
pub struct Damage {
    dir: PathBuf,
    known: Mutex<HashSet<(u64, u64)>>,
    bytes: AtomicU64,
}

impl Damage {
    /// Nothing is known yet; copies go to `dir`.
    pub fn new(dir: PathBuf) -> Self {
        let bytes = AtomicU64::new(files(&dir).iter().map(|(_, _, bytes)| bytes).sum());
        Self { dir, known: Mutex::default(), bytes }
    }

    /// How many damaged stretches are known.
    pub fn count(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// The bytes of the copies.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that no whole record is at `offset` of a segment, and keeps a copy of `bytes`. Says whether this is
    /// new. A copy that cannot be made is left out: there may be no room.
    pub fn note(&self, segment: u64, offset: u64, bytes: &[u8]) -> bool {
        if !self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((segment, offset)) {
            return false;
        }
        self.set_aside(segment, offset, bytes);
        true
    }

    /// Keeps a copy of bytes that are about to be cut off or rewritten.
    pub fn set_aside(&self, segment: u64, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let bytes = &bytes[..bytes.len().min(COPY_BYTES_MAX)];
        if let Err(error) = self.copy(&format!("{segment:010}-{offset}.bin"), bytes) {
            tracing::warn!(%error, dir = %self.dir.display(), "no copy of a damaged stretch of the log was kept");
        }
        self.bytes.store(files(&self.dir).iter().map(|(_, _, bytes)| bytes).sum(), Ordering::Relaxed);
    }

    fn copy(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut found = files(&self.dir);
        found.sort();
        let mut held: u64 = found.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, path, size) in found {
            if held + bytes.len() as u64 <= DIR_BYTES_MAX {
                break;
            }
            std::fs::remove_file(path)?;
            held -= size;
        }
        let path = self.dir.join(name);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a copy would only take room.
            let _ = std::fs::remove_file(path);
        }
        written
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
            let failed = |error| StoreError(format!("remove {}: {error}", path.display()).into());
            std::fs::remove_file(&path).map_err(failed)?;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
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

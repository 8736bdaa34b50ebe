//! The reserve of `keys.toml`: room on its file system, so that keys can be revoked on a full disk.
//!
//! It is a file beside the keys whose blocks are taken already. If the keys cannot be written for lack of room, they
//! are written into that file, and it is renamed. So the room is never free for others to take in between. A reserve
//! that was used is made again when there is room.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::keys_file::{give_to_owner, replace, replaceable};

/// The least room, and its step. The file is kept at twice the length of the keys at least.
const STEP: u64 = 64 << 10;

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".reserve");
    PathBuf::from(name)
}

/// The room that the keys in `path` need; `None` if there are none.
fn wanted(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Ok(None),
        Ok(metadata) => Ok(Some((2 * metadata.len()).max(1).next_multiple_of(STEP))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the keys in `path` have their reserve, or need none.
pub fn is_kept(path: &Path) -> io::Result<bool> {
    let Some(wanted) = wanted(path)? else { return Ok(true) };
    let path = replaceable(path)?;
    let is_enough = |found: std::fs::Metadata| found.is_file() && found.blocks() * 512 >= wanted;
    Ok(std::fs::symlink_metadata(beside(&path)).is_ok_and(is_enough))
}

/// Makes the reserve of the keys in `path`, unless it is there. Call it while the keys are locked.
pub fn keep(path: &Path) -> io::Result<()> {
    if is_kept(path)? {
        return Ok(());
    }
    let path = replaceable(path)?;
    let Some(wanted) = wanted(&path)? else { return Ok(()) };
    let reserve = beside(&path);
    match std::fs::remove_file(&reserve) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = make(&path, &reserve, wanted);
    if made.is_err() {
        let _ = std::fs::remove_file(&reserve);
    }
    made
}

fn make(path: &Path, reserve: &Path, wanted: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(reserve)?;
    give_to_owner(&file, path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, wanted) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let mut left = wanted;
            while left > 0 {
                let step = left.min(STEP);
                file.write_all(&vec![0; usize::try_from(step).unwrap_or(0)])?;
                left -= step;
            }
            file.sync_all()
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes `text` to `path` as [`replace`] does; if there is no room, into the reserve.
pub fn replace_keys(path: &Path, text: &str) -> io::Result<()> {
    #[cfg(test)]
    let written = if planted::is_full() { Err(ErrorKind::StorageFull.into()) } else { replace(path, text) };
    #[cfg(not(test))]
    let written = replace(path, text);
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            // What goes wrong here is of less use than why the reserve was needed.
            use_reserve(&replaceable(path)?, text).map_err(|_| error)
        }
        written => written,
    }
}

fn use_reserve(path: &Path, text: &str) -> io::Result<()> {
    let reserve = beside(path);
    // Not truncated: its blocks are what it is for.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new().write(true).custom_flags(flags).open(&reserve)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    // Without the lock a server may have made the reserve anew meanwhile, and the new one has no keys in it.
    let (written, there) = (file.metadata()?, std::fs::symlink_metadata(&reserve)?);
    if (written.dev(), written.ino()) != (there.dev(), there.ino()) {
        return Err(io::Error::other("the reserve was replaced"));
    }
    std::fs::rename(&reserve, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// A full disk, for the thread of a test.
#[cfg(test)]
pub mod planted {
    use std::cell::Cell;

    thread_local! {
        static FULL: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether the keys cannot be written for lack of room.
    pub fn full(is_so: bool) {
        FULL.set(is_so);
    }

    pub(super) fn is_full() -> bool {
        FULL.get()
    }
}

//! Checks the journals before fjall reads them, and cuts each at the first batch that is not whole.
//!
//! fjall itself does so only for some damage. A batch that was torn within an item's value fails its
//! checksum, and then fjall refuses to open at all, although a power cut during a write leaves just such
//! a batch; and a damaged length can make it allocate gigabytes. A batch that was never synced was never
//! acknowledged, so it is right to cut it; the head file and the marks show whether an acknowledged one
//! was cut with it (`recovery.rs`). The journal is copied to `damaged/` first, unless the cut part is
//! only the zeros that journals are preallocated with.
//!
//! The format is that of fjall 3 (`src/journal/entry.rs`): little-endian; Start 1 (count u32, seqno
//! u64), Item 2 (type u8, compression u8, keyspace u64, key length u16, value length u32, stored
//! length u32, key, value), End 3 (xxh3 of the items u64, `FJL` 3), Clear 4 (keyspace u64).

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::store::StoreError;

const TRAILER: &[u8] = b"FJL\x03";

/// Cuts the journals of `store` after their last whole batch. Returns whether a *whole* batch was
/// found after the cut: there is one commit at a time, so that one was acknowledged.
pub fn journals(store: &Path, damaged: &Path) -> Result<bool, StoreError> {
    let mut lost = false;
    for path in list(store)? {
        let failed = |error: std::io::Error| StoreError::new(&format!("mend {}", path.display()), error);
        let journal = std::fs::read(&path).map_err(failed)?;
        let valid = valid_prefix(&journal);
        let rest = &journal[valid..];
        if rest.iter().all(|byte| *byte == 0) {
            continue;
        }
        std::fs::create_dir_all(damaged).map_err(failed)?;
        let copy = damaged.join(path.file_name().unwrap_or_default());
        let mut copy = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(copy)
            .map_err(failed)?;
        copy.write_all(&journal).and_then(|()| copy.sync_all()).map_err(failed)?;
        let whole_after = holds_whole_batch(rest);
        lost |= whole_after;
        tracing::warn!(
            journal = %path.display(),
            kept = valid,
            whole_after,
            "a journal ends in a batch that is not whole; it was cut there and copied to damaged/"
        );
        let file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        file.set_len(valid as u64).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(lost)
}

fn list(store: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::new("list the journals", error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| StoreError::new("list the journals", error))?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Where the last whole batch of a run of whole batches ends.
fn valid_prefix(journal: &[u8]) -> usize {
    let mut rest = journal;
    while let Some(after) = batch(rest) {
        rest = after;
    }
    journal.len() - rest.len()
}

/// Whether a whole batch begins anywhere in `bytes`.
fn holds_whole_batch(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| bytes[at] == 1 && batch(&bytes[at..]).is_some())
}

/// The bytes after the batch that `bytes` begins with, if it is whole.
fn batch(bytes: &[u8]) -> Option<&[u8]> {
    let (start, items) = bytes.split_at_checked(13)?;
    if start[0] != 1 {
        return None;
    }
    let count = u32::from_le_bytes(start[1..5].try_into().ok()?);
    let mut rest = items;
    for _ in 0..count {
        rest = rest.get(item_length(rest)?..)?;
    }
    let (end, after) = rest.split_at_checked(13)?;
    let hashed = &items[..items.len() - rest.len()];
    let checksum = u64::from_le_bytes(end[1..9].try_into().ok()?);
    let whole = end[0] == 3 && &end[9..] == TRAILER && xxhash_rust::xxh3::xxh3_64(hashed) == checksum;
    whole.then_some(after)
}

fn item_length(item: &[u8]) -> Option<usize> {
    match item.first()? {
        2 => {
            // Uncompressed is 0; lz4, 1, carries nothing more.
            if *item.get(2)? > 1 {
                return None;
            }
            let key = u16::from_le_bytes(item.get(11..13)?.try_into().ok()?);
            let stored = u32::from_le_bytes(item.get(17..21)?.try_into().ok()?);
            usize::try_from(stored).ok()?.checked_add(21 + usize::from(key))
        }
        4 => Some(9),
        _ => None,
    }
}

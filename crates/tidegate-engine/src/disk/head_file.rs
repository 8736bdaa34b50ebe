//! The head file: the highest commit that was acknowledged (R11).
//!
//! A start cuts off an end that is no whole commit, and cannot see from the segments alone how much was there.
//! This file, written after each sync and before the answer, shows it: a recovery that ends below the number
//! in the file has lost acknowledged events. The file itself is not synced, because that would double
//! the cost of each commit. After a power cut it may be stale, which hides only a loss that needs a
//! second fault (a sync that was reported and not done, or damage to the segment) in the same cut.
//!
//! Two slots, each with a CRC, written in turn: a torn write leaves the other.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::directory::NOFOLLOW;
use crate::store::StoreError;

const MAGIC: [u8; 4] = *b"tgH1";
const SLOT: usize = 16;
/// Slots lie in different sectors, so that one torn sector cannot hold both.
const STRIDE: u64 = 4096;

/// The content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// There is none.
    Missing,
    /// Neither slot is whole.
    Unreadable,
    /// The highest commit.
    Commit(u64),
}

/// What a look at the file finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    pub acknowledged: Acknowledged,
    /// How many of the two slots are whole.
    pub slots: usize,
}

/// Reads the file at `path` and changes nothing.
pub fn look(path: &Path) -> Result<Looked, StoreError> {
    let failed = |error: std::io::Error| StoreError(format!("open {}: {error}", path.display()).into());
    match File::open(path) {
        Ok(file) => read_slots(&file).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Looked { acknowledged: Acknowledged::Missing, slots: 0 })
        }
        Err(error) => Err(failed(error)),
    }
}

fn read_slots(file: &File) -> std::io::Result<Looked> {
    let mut found = Vec::new();
    for number in 0..2 {
        let mut slot = [0; SLOT];
        match file.read_exact_at(&mut slot, number * STRIDE) {
            Ok(()) => found.extend(decode(&slot)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    let highest = found.iter().max().copied();
    Ok(Looked {
        acknowledged: highest.map_or(Acknowledged::Unreadable, Acknowledged::Commit),
        slots: found.len(),
    })
}

/// The file.
pub struct HeadFile {
    file: File,
}

fn encode(commit: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..12].copy_from_slice(&commit.to_be_bytes());
    let crc = crc32fast::hash(&slot[..12]);
    slot[12..].copy_from_slice(&crc.to_be_bytes());
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<u64> {
    let (fields, crc) = slot.split_at(12);
    let valid = fields[..4] == MAGIC && crc32fast::hash(fields).to_be_bytes() == crc;
    let mut commit = [0; 8];
    commit.copy_from_slice(&fields[4..]);
    valid.then_some(u64::from_be_bytes(commit))
}

impl HeadFile {
    /// Opens the file and reads it; creates it if there is none.
    pub fn open(path: &Path) -> Result<(Self, Acknowledged), StoreError> {
        let failed = |error: std::io::Error| StoreError(format!("open {}: {error}", path.display()).into());
        let existed = match std::fs::metadata(path) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error)),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(path);
        let file = file.map_err(failed)?;
        let acknowledged = match read_slots(&file).map_err(failed)?.acknowledged {
            Acknowledged::Unreadable if !existed => Acknowledged::Missing,
            acknowledged => acknowledged,
        };
        Ok((Self { file }, acknowledged))
    }

    /// Notes `commit`; the other slot keeps the one before it.
    pub fn note(&self, commit: u64) -> Result<(), StoreError> {
        let written = self.file.write_all_at(&encode(commit), (commit % 2) * STRIDE);
        written.map_err(|error| StoreError::new("write the head file", error))
    }

    /// Notes `commit` in both slots, even if it is lower than the number there: a loss that has been
    /// recorded as a lossy boundary need not be found again. Synced.
    pub fn reset(&self, commit: u64) -> Result<(), StoreError> {
        let other = commit + 1;
        let written = (self.file.write_all_at(&encode(commit), (commit % 2) * STRIDE))
            .and_then(|()| self.file.write_all_at(&encode(commit), (other % 2) * STRIDE))
            .and_then(|()| self.file.sync_all());
        written.map_err(|error| StoreError::new("write the head file", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Acknowledged {
        HeadFile::open(path).expect("open").1
    }

    #[test]
    fn r11_the_head_file_survives_a_torn_slot_and_knows_when_it_knows_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("head");
        let (head, found) = HeadFile::open(&path).expect("open");
        assert_eq!(found, Acknowledged::Missing);
        assert_eq!(read(&path), Acknowledged::Unreadable, "created and not yet written");
        head.reset(7).expect("reset");
        head.note(8).expect("note");
        head.note(9).expect("note");
        assert_eq!(read(&path), Acknowledged::Commit(9));
        for byte in 0..SLOT as u64 {
            head.note(9).expect("note");
            let mut was = [0];
            head.file.read_exact_at(&mut was, STRIDE + byte).expect("read");
            head.file.write_all_at(&[was[0] ^ 0x10], STRIDE + byte).expect("tear");
            assert_eq!(read(&path), Acknowledged::Commit(8), "byte {byte}");
        }
        head.reset(3).expect("reset");
        assert_eq!(read(&path), Acknowledged::Commit(3), "lowered");
        head.file.set_len(0).expect("truncate");
        assert_eq!(read(&path), Acknowledged::Unreadable);
    }
}

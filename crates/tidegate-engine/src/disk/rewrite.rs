//! Writing a segment anew: with other content ([`erase`](super::erase)), or without what is damaged
//! ([`repair`](super::repair)). The new file takes the place of the old one, whole or not at all.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    directory::NOFOLLOW,
    directory::sync_dir,
    index::{self, Entry, Extent},
    record::{self, Header, Kind},
    segment,
};
use crate::store::StoreError;

/// What becomes of a record.
pub enum Edit {
    Keep,
    Replace(Kind, Vec<u8>),
}

/// A sealed segment in memory.
pub struct Rewritten {
    pub bytes: Vec<u8>,
    /// Whether a record was replaced.
    pub is_edited: bool,
    /// Whether a stretch was left out.
    pub has_left_out: bool,
}

/// The whole records in `bytes`, as `edit` leaves them, with an index. Stretches without a whole record are left
/// out.
pub fn rewritten(
    bytes: &[u8],
    edit: impl Fn(&Header, &[u8]) -> Result<Edit, StoreError>,
) -> Result<Rewritten, StoreError> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut entries = Vec::new();
    let mut extent = Extent::default();
    let mut is_edited = false;
    let mut failed = None;
    let scan = index::scan(bytes, |header, place| {
        let payload = &bytes[place];
        let edited = edit(header, payload).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            Edit::Keep
        });
        let (kind, replaced) = match edited {
            Edit::Keep => (header.kind, None),
            Edit::Replace(kind, payload) => (kind, Some(payload)),
        };
        is_edited |= replaced.is_some();
        let payload = replaced.as_deref().unwrap_or(payload);
        let header = Header { kind, payload: payload.len(), ..*header };
        entries.extend(Entry::of(&header, payload, out.len()));
        out.extend_from_slice(&record::rewrite(&header, kind, payload));
        extent.add(&header, out.len() as u64);
    });
    if let Some(error) = failed {
        return Err(error);
    }
    entries.sort_unstable();
    out.extend_from_slice(&index::encode(&entries, &extent).0);
    let has_left_out = !scan.holes.is_empty() || scan.torn.is_some();
    Ok(Rewritten { bytes: out, is_edited, has_left_out })
}

/// Puts `bytes` in the place of a segment's file, whole or not at all.
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    New::write(path, bytes)?.put()
}

/// What takes the place of a segment's file: written and synced beside it. Dropped, it is removed.
pub struct New<'a> {
    path: &'a Path,
    new: PathBuf,
}

impl<'a> New<'a> {
    /// Writes it. May take long.
    pub fn write(path: &'a Path, bytes: &[u8]) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(segment::NEW);
        let new = Self { path, new: PathBuf::from(name) };
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&new.new)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(|error| new.failed(&error))?;
        Ok(new)
    }

    fn failed(&self, error: &std::io::Error) -> StoreError {
        StoreError(format!("rewrite {}: {error}", self.path.display()).into())
    }

    /// Puts it in the place of the segment's file.
    pub fn put(self) -> Result<(), StoreError> {
        std::fs::rename(&self.new, self.path).map_err(|error| self.failed(&error))?;
        match self.path.parent() {
            Some(dir) => sync_dir(dir),
            None => Ok(()),
        }
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        // After `put` there is nothing.
        let _ = std::fs::remove_file(&self.new);
    }
}

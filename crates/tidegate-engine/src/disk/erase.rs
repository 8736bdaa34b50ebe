//! Removing content from segments (P7): a segment is written anew without it, and takes the place of the old
//! one. Commits, parts and seqs keep their places, so that nothing looks lost.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, sync::PoisonError};

use super::{
    DiskStore,
    directory::sync_dir,
    record::{self, Header, Kind},
    segment::{self, Entry, Extent, Segment},
};
use crate::store::{Erasure, StoreError};

/// What becomes of a record.
enum Edit {
    Keep,
    Replace(Kind, Vec<u8>),
}

fn edit(erasure: &Erasure, header: &Header, payload: &[u8]) -> Result<Edit, StoreError> {
    let is_of_log = header.log == erasure.log;
    match (&erasure.seqs, header.kind) {
        (Some(seqs), Kind::Events) if is_of_log => {
            let (first, last) = record::bounds(payload)?;
            if !seqs.iter().any(|seq| (first..=last).contains(seq)) {
                return Ok(Edit::Keep);
            }
            Ok(Edit::Replace(Kind::Events, record::without(payload, |seq| seqs.contains(&seq))?))
        }
        (None, Kind::Events | Kind::Log) if is_of_log => Ok(Edit::Replace(Kind::Erased, Vec::new())),
        (None, Kind::Ids) => {
            let found = record::decode_ids(header.at, payload)?;
            if !found.iter().any(|id| id.log == erasure.log) {
                return Ok(Edit::Keep);
            }
            let mut left = Vec::new();
            for id in found.iter().filter(|id| id.log != erasure.log) {
                record::put_ids(&mut left, id.log, &[id.id]);
            }
            Ok(Edit::Replace(Kind::Ids, left))
        }
        _ => Ok(Edit::Keep),
    }
}

impl DiskStore {
    /// Removes content from every segment but the newest, which cannot hold it: the commit that notes the
    /// erasure ended the segment that was newest then.
    pub(super) fn erase_everywhere(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let list = self.segments.list();
        let Some((newest, older)) = list.split_last() else { return Ok(()) };
        if self.holds(newest, erasure)? {
            let sentence = "the content to erase is in the segment that is written to; it is tried again";
            return Err(StoreError(sentence.into()));
        }
        for segment in older {
            self.rewrite(segment, |header, payload| edit(erasure, header, payload))?;
        }
        // A damaged stretch may hold any event.
        self.damage.forget(std::time::Duration::ZERO)
    }

    fn holds(&self, segment: &Segment, erasure: &Erasure) -> Result<bool, StoreError> {
        let entries = segment.entries(erasure.log, 0, usize::MAX)?;
        let is_named = |entry: &Entry| match &erasure.seqs {
            Some(seqs) => seqs.iter().any(|seq| (entry.first..=entry.last).contains(seq)),
            None => true,
        };
        Ok(entries.iter().any(is_named))
    }

    /// Writes a segment anew if `edit` changes a record of it. Stretches without a whole record are left out.
    fn rewrite(
        &self,
        segment: &Segment,
        edit: impl Fn(&Header, &[u8]) -> Result<Edit, StoreError>,
    ) -> Result<(), StoreError> {
        let bytes = segment.contents()?;
        if segment.is_unreadable() {
            let sentence = format!("rewrite {}: a part of it cannot be read now", segment.path().display());
            return Err(StoreError(sentence.into()));
        }
        let Some(rewritten) = rewritten(&bytes, edit)? else { return Ok(()) };
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Retention may have removed it meanwhile.
        if !self.segments.list().iter().any(|listed| listed.number == segment.number) {
            return Ok(());
        }
        replace(segment, &rewritten)?;
        self.segments.replace(Segment::open(self.segments.dir(), segment.number)?);
        Ok(())
    }
}

fn rewritten(
    bytes: &[u8],
    edit: impl Fn(&Header, &[u8]) -> Result<Edit, StoreError>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut entries = Vec::new();
    let mut extent = Extent::default();
    let mut is_changed = false;
    let mut failed = None;
    segment::scan(bytes, |header, payload| {
        let edited = edit(header, payload).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            Edit::Keep
        });
        let (kind, replaced) = match edited {
            Edit::Keep => (header.kind, None),
            Edit::Replace(kind, payload) => (kind, Some(payload)),
        };
        is_changed |= replaced.is_some();
        let payload = replaced.as_deref().unwrap_or(payload);
        let header = Header { kind, payload: payload.len(), ..*header };
        entries.extend(Entry::of(&header, payload, out.len()));
        out.extend_from_slice(&record::rewrite(&header, kind, payload));
        extent.add(&header, out.len() as u64);
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if !is_changed {
        return Ok(None);
    }
    entries.sort_unstable();
    out.extend_from_slice(&segment::encode_index(&entries, &extent).0);
    Ok(Some(out))
}

/// Puts `bytes` in the place of a segment's file, whole or not at all.
fn replace(segment: &Segment, bytes: &[u8]) -> Result<(), StoreError> {
    let path = segment.path();
    let mut name = path.as_os_str().to_owned();
    name.push(segment::NEW);
    let new = std::path::PathBuf::from(name);
    let failed = |error: std::io::Error| StoreError(format!("rewrite {}: {error}", path.display()).into());
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&new);
        return Err(failed(error));
    }
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

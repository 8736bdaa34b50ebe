//! Removing content from segments (P7): a segment is written anew without it, and takes the place of the old
//! one. Commits, parts and seqs keep their places, so that nothing looks lost.

use std::sync::PoisonError;

use super::{
    DiskStore,
    record::{self, Header, Kind},
    rewrite::{Edit, put, rewritten},
    segment::Segment,
};
use crate::store::{Erasure, StoreError};

fn edit(erasure: &Erasure, header: &Header, payload: &[u8]) -> Result<Edit, StoreError> {
    let is_of_log = header.log == erasure.log;
    match (&erasure.seqs, header.kind) {
        (Some(seqs), Kind::Events) if is_of_log => {
            let (first, last) = record::bounds(payload)?;
            if !erasure.names_any(first, last) {
                return Ok(Edit::Keep);
            }
            let goes = |seq| seqs.binary_search(&seq).is_ok();
            Ok(Edit::Replace(Kind::Events, record::without(payload, goes)?))
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
        Ok(entries.iter().any(|entry| erasure.names_any(entry.first, entry.last)))
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
        let rewritten = rewritten(&bytes, edit)?;
        if !rewritten.is_edited {
            return Ok(());
        }
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Retention may have removed it meanwhile.
        if !self.segments.list().iter().any(|listed| listed.number == segment.number) {
            return Ok(());
        }
        put(segment.path(), &rewritten.bytes)?;
        self.segments.replace(Segment::open(self.segments.dir(), segment.number)?);
        Ok(())
    }
}

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

fn edit(erasures: &[Erasure], header: &Header, payload: &[u8]) -> Result<Edit, StoreError> {
    let of_log = || erasures.iter().filter(|erasure| erasure.log == header.log);
    match header.kind {
        Kind::Events | Kind::Log if of_log().any(|erasure| erasure.seqs.is_none()) => {
            Ok(Edit::Replace(Kind::Erased, Vec::new()))
        }
        Kind::Events => {
            let (first, last) = record::bounds(payload)?;
            if !of_log().any(|erasure| erasure.names_any(first, last)) {
                return Ok(Edit::Keep);
            }
            let goes = |seq| of_log().any(|erasure| erasure.names_any(seq, seq));
            Ok(Edit::Replace(Kind::Events, record::without(payload, goes)?))
        }
        Kind::Ids => {
            let goes = |log| erasures.iter().any(|erasure| erasure.log == log && erasure.seqs.is_none());
            let found = record::decode_ids(header.at, payload)?;
            if !found.iter().any(|id| goes(id.log)) {
                return Ok(Edit::Keep);
            }
            let mut left = Vec::new();
            for id in found.iter().filter(|id| !goes(id.log)) {
                record::put_ids(&mut left, id.log, &[id.id]);
            }
            Ok(Edit::Replace(Kind::Ids, left))
        }
        _ => Ok(Edit::Keep),
    }
}

impl DiskStore {
    /// Removes content from every segment but the newest, which cannot hold it
    /// ([`erasures`](crate::store::Store::erasures)).
    pub(super) fn erase_everywhere(&self, erasures: &[Erasure]) -> Result<(), StoreError> {
        let list = self.segments.list();
        let Some((_, older)) = list.split_last() else { return Ok(()) };
        for segment in older {
            self.rewrite(segment, |header, payload| edit(erasures, header, payload))?;
        }
        // A damaged stretch may hold any event.
        self.damage.forget(std::time::Duration::ZERO)
    }

    /// Writes a segment anew if `edit` changes a record of it, or if it has stretches without a whole record, which
    /// are left out: they may hold what is to be erased.
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
        if !rewritten.is_edited && !rewritten.has_left_out {
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

//! Removing content from segments (P7): a segment is written anew without it, and takes the place of the old
//! one. Commits, parts and seqs keep their places, so that nothing looks lost.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use tidegate_protocol::Seq;

use super::{
    DiskStore,
    record::{self, Header, Kind},
    rewrite::{Edit, New, rewritten},
    segment::Segment,
};
use crate::store::{Erasure, LogIndex, StoreError};

/// What goes, by log: these events in rising order; `None` for all of it.
type Plan = HashMap<LogIndex, Option<Vec<Seq>>>;

fn plan(erasures: &[Erasure]) -> Plan {
    let mut plan = Plan::new();
    for erasure in erasures {
        let of_log = plan.entry(erasure.log).or_insert_with(|| Some(Vec::new()));
        match (of_log.as_mut(), &erasure.seqs) {
            (Some(all), Some(seqs)) => all.extend_from_slice(seqs),
            _ => *of_log = None,
        }
    }
    plan.values_mut().flatten().for_each(|seqs| seqs.sort_unstable());
    plan
}

fn edit(plan: &Plan, header: &Header, payload: &[u8]) -> Result<Edit, StoreError> {
    match (header.kind, plan.get(&header.log)) {
        (Kind::Events | Kind::Log, Some(None)) => Ok(Edit::Replace(Kind::Erased, Vec::new())),
        (Kind::Events, Some(Some(seqs))) => {
            let (first, last) = record::bounds(payload)?;
            let next = seqs.get(seqs.partition_point(|seq| *seq < first));
            if next.is_none_or(|seq| *seq > last) {
                return Ok(Edit::Keep);
            }
            let goes = |seq| seqs.binary_search(&seq).is_ok();
            Ok(Edit::Replace(Kind::Events, record::without(payload, goes)?))
        }
        (Kind::Ids, _) => {
            let goes = |log| matches!(plan.get(&log), Some(None));
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
        let plan = plan(erasures);
        for segment in older {
            self.rewrite(segment.number, |header, payload| edit(&plan, header, payload))?;
        }
        // A damaged stretch may hold any event.
        self.damage.forget(std::time::Duration::ZERO)
    }

    /// Writes a segment anew if `edit` changes a record of it, or if it has stretches without a whole record, which
    /// are left out: they may hold what is to be erased.
    pub(super) fn rewrite(
        &self,
        number: u64,
        edit: impl Fn(&Header, &[u8]) -> Result<Edit, StoreError>,
    ) -> Result<(), StoreError> {
        // One at a time, and with the file as it is now: another rewrite has taken out what must not come back.
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |segment: &&Arc<Segment>| segment.number == number;
        let Some(segment) = self.segments.list().iter().find(is_it).cloned() else { return Ok(()) };
        let bytes = segment.contents()?;
        if segment.is_unreadable() {
            let sentence = format!("rewrite {}: a part of it cannot be read now", segment.path().display());
            return Err(StoreError(sentence.into()));
        }
        let rewritten = rewritten(&bytes, edit)?;
        if !rewritten.is_edited && !rewritten.has_left_out {
            return Ok(());
        }
        let new = New::write(segment.path(), &rewritten.bytes)?;
        let before = segment.held();
        // Not before the new file is synced: the committing thread waits for this lock.
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Retention may have removed it meanwhile.
        if !self.segments.list().iter().any(|listed| listed.number == number) {
            return Ok(());
        }
        new.put()?;
        let new = Segment::open(self.segments.dir(), number)?;
        let after = new.held();
        self.segments.replace(new);
        if let (Ok(before), Ok(after)) = (before, after) {
            self.held().replace(number, &before, &after);
        }
        Ok(())
    }
}

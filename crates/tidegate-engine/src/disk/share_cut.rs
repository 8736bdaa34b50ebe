//! What goes if the log is larger than it may be (P5): the oldest segment, if all in it belongs to orgs that hold more
//! than their share by that much; otherwise the oldest events of those orgs alone. Their floors are raised, and the
//! segments are written anew without these events, in the background.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tidegate_protocol::{Seq, UnixMillis};

use super::{
    DiskStore,
    held::{Over, Room, of_logs},
    index::Table,
    record::{self, Header, Kind},
    rewrite::Edit,
    segment::Segment,
};
use crate::store::{Cut, LogIndex, StoreError};

/// A cut takes this part of `log.max_bytes` more than is needed now, so that few cuts are needed.
const CUT_PART: u64 = 16;
/// If all that is over a share is less than this part of `log.max_bytes`, no segment is written anew for it. It is more
/// unless the log is full of other things than events.
const LEAST_PART: u64 = 64;
/// The most logs that one cut takes events of.
const LOGS_MAX: usize = 256;
/// The part of `log.max_bytes` that these snapshots may take.
const SNAPSHOTS_PART: u64 = 8;
/// How many entries of an index are read at a time.
const ENTRIES: usize = 1024;
/// How long it counts that the oldest segment may not go whole, in milliseconds.
const KEPT_MILLIS: u64 = 100;

/// What was last found out about the oldest segment.
#[derive(Default)]
pub(super) struct Oldest {
    /// No strong reference: a file that is removed or replaced would stay open, and keep its blocks.
    table: Option<(Weak<Segment>, Arc<Table>)>,
    /// It may not go whole: its number, and until when this counts.
    kept: Option<(u64, UnixMillis)>,
}

impl DiskStore {
    pub(super) fn room(&self) -> Room {
        let taken = self.disk_bytes();
        let most = taken.saturating_add(self.free.bytes().saturating_sub(self.min_free));
        let limit = self.limit();
        Room { limit: limit.min(most), taken, slack: self.segment_bytes / 2, is_cut: limit <= most }
    }

    /// At how many bytes the log is cut: `log.max_bytes`. If there are several orgs, it is the room less that the newest
    /// segment is given at once, so that it does not take what is left for those within their share.
    fn limit(&self) -> u64 {
        let ahead = if self.held().logs() > 1 { self.chunk_bytes().min(self.max_bytes / 4) } else { 0 };
        self.max_bytes.saturating_sub(ahead)
    }

    /// Whether the log is larger than it may be.
    pub(super) fn is_over(&self) -> bool {
        self.disk_bytes() > self.limit()
    }

    /// What the oldest segment holds. Of the last segment that this was asked for, it is known.
    pub(super) fn table_of(&self, segment: &Arc<Segment>) -> Result<Arc<Table>, StoreError> {
        if let Some((known, table)) = &self.oldest_known().table
            && std::ptr::eq(known.as_ptr(), Arc::as_ptr(segment))
        {
            return Ok(table.clone());
        }
        let table = Arc::new(segment.held()?);
        self.oldest_known().table = Some((Arc::downgrade(segment), table.clone()));
        Ok(table)
    }

    /// How many bytes a cut removes now.
    fn target(&self) -> u64 {
        self.disk_bytes().saturating_sub(self.limit()) + self.max_bytes / CUT_PART
    }

    /// Logs that hold more than their share, if it is worth a cut: first those over a quota.
    fn over(&self) -> Vec<Over> {
        // The shares of what is left after a cut. So what is over them is no less than the cut takes, however many orgs
        // share it.
        let limit = self.limit().saturating_sub(self.max_bytes / CUT_PART);
        let room = Room { limit, taken: self.disk_bytes(), slack: 0, is_cut: true };
        let mut over = self.held().over(room);
        if over.iter().map(|over| over.bytes).sum::<u64>() < self.max_bytes / LEAST_PART {
            over.clear();
        }
        over
    }

    /// Whether the oldest segment may go whole, because the log is larger than it may be: if no org that is within its
    /// share has an event in it, and while orgs are over a quota, no org that is within it. If every org is within its
    /// share, it goes as well.
    pub(super) fn may_go_whole(&self, oldest: &Arc<Segment>, now: UnixMillis) -> Result<bool, StoreError> {
        if self.held().logs() <= 1 || self.has_many_segments() {
            return Ok(true);
        }
        if self.oldest_known().kept.is_some_and(|(number, until)| number == oldest.number && now < until) {
            return Ok(false);
        }
        let over = self.over();
        let are_over_quotas =
            over.iter().map(|over| over.of_quota).sum::<u64>() >= self.max_bytes / LEAST_PART;
        let bytes = |over: &Over| if are_over_quotas { over.of_quota } else { over.bytes };
        let over: HashMap<LogIndex, u64> = over.iter().map(|over| (over.log, bytes(over))).collect();
        let table = self.table_of(oldest)?;
        let goes = over.is_empty()
            || of_logs(&table).all(|(log, bytes)| over.get(&log).is_some_and(|over| *over >= bytes));
        if !goes {
            self.oldest_known().kept = Some((oldest.number, now.saturating_add(KEPT_MILLIS)));
        }
        Ok(goes)
    }

    fn has_many_segments(&self) -> bool {
        let segments = self.segments.list().len() as u64;
        segments >= self.segments_max || segments * self.front() > self.max_bytes / SNAPSHOTS_PART
    }

    /// Segments that events can be removed from at `now`.
    fn removable(&self, now: UnixMillis) -> Vec<Arc<Segment>> {
        let list = self.segments.list();
        let Some((_, older)) = list.split_last() else { return Vec::new() };
        let is_removable =
            |segment: &&Arc<Segment>| segment.extent().last_at.saturating_add(self.dedup_window) <= now;
        older.iter().take_while(is_removable).cloned().collect()
    }

    /// The next cut of those that hold more than their share.
    pub(super) fn plan_cut_by_share(&self, now: UnixMillis) -> Result<Option<Cut>, StoreError> {
        if !self.is_over() || self.front() == 0 {
            return Ok(None);
        }
        let removable = self.removable(now);
        let Some(oldest) = removable.first() else { return Ok(None) };
        if self.may_go_whole(oldest, now)? {
            return Ok(None);
        }
        let target = self.target();
        let mut planned = 0;
        let mut floors = Vec::new();
        for Over { log, bytes, .. } in self.over().into_iter().take(LOGS_MAX) {
            if planned >= target {
                break;
            }
            if let Some((floor, found)) = oldest_events(&removable, log, bytes.min(target - planned))? {
                planned += found;
                floors.push((log, floor));
            }
        }
        let Some((first, _)) = floors.first() else { return Ok(None) };
        let org = self.writer().state.logs.get(first).map(|log| log.org.clone());
        tracing::info!(
            org = org.as_ref().map(tracing::field::display),
            orgs = floors.len(),
            bytes = planned,
            "the log is full: the oldest events of orgs that store more than their share are removed"
        );
        Ok(Some(Cut { floors, token: 0 }))
    }

    /// Writes the segments anew that still have events below a floor, after a cut that failed or was interrupted.
    pub(super) fn finish_cuts(&self, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let writer = self.writer();
        let removable = writer.state.at.saturating_sub(self.dedup_window);
        let logs = writer.state.logs.iter().filter(|(_, log)| log.floor > 0);
        let floors: HashMap<LogIndex, Seq> = logs.map(|(index, log)| (*index, log.floor)).collect();
        drop(writer);
        let mut left = floors.clone();
        let list = self.segments.list();
        let Some((_, older)) = list.split_last() else { return Ok(()) };
        let mut outcome = Ok(());
        for segment in older {
            if left.is_empty() || !goes_on() {
                break;
            }
            let rewritten = holds_left(segment, &mut left).and_then(|holds| match holds {
                true => {
                    self.rewrite(segment.number, |header, payload| edit(&floors, removable, header, payload))
                }
                false => Ok(()),
            });
            if rewritten.is_err() {
                outcome = rewritten;
            }
        }
        outcome
    }

    /// Writes the segments anew that have events of `cut`, oldest first, as long as `goes_on` says so.
    pub(super) fn erase_cut(&self, cut: &Cut, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let floors: HashMap<LogIndex, Seq> = cut.floors.iter().copied().collect();
        let removable = self.writer().state.at.saturating_sub(self.dedup_window);
        let list = self.segments.list();
        let Some((_, older)) = list.split_last() else { return Ok(()) };
        let mut outcome = Ok(());
        for segment in older {
            if !goes_on() {
                break;
            }
            let rewritten = holds_any(segment, &floors).and_then(|holds| match holds {
                true => {
                    self.rewrite(segment.number, |header, payload| edit(&floors, removable, header, payload))
                }
                false => Ok(()),
            });
            if rewritten.is_err() {
                // The others go all the same.
                outcome = rewritten;
            }
        }
        self.oldest_known().kept = None;
        outcome
    }
}

/// Whether a segment has events of these logs that are not above their floors. Logs whose first event in it is above
/// leave the list: all that comes later is, too.
fn holds_left(segment: &Segment, floors: &mut HashMap<LogIndex, Seq>) -> Result<bool, StoreError> {
    let mut holds = false;
    for (log, _) in of_logs(&segment.held()?) {
        let Some(floor) = floors.get(&log).copied() else { continue };
        match segment.entries(log, 0, 1)?.first() {
            Some(entry) if entry.last <= floor => holds = true,
            Some(_) => {
                floors.remove(&log);
            }
            None => {}
        }
    }
    Ok(holds)
}

fn holds_any(segment: &Segment, floors: &HashMap<LogIndex, Seq>) -> Result<bool, StoreError> {
    for (log, floor) in floors {
        if segment.entries(*log, 0, 1)?.first().is_some_and(|entry| entry.last <= *floor) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where the oldest `wanted` bytes of a log end, and how many these are: whole records.
fn oldest_events(
    segments: &[Arc<Segment>],
    log: LogIndex,
    wanted: u64,
) -> Result<Option<(Seq, u64)>, StoreError> {
    let mut found = None;
    // What cannot be read now cannot be written anew.
    for segment in segments.iter().filter(|segment| !segment.is_unreadable()) {
        let mut from = 0;
        loop {
            let entries = segment.entries(log, from, ENTRIES)?;
            for entry in &entries {
                let bytes = found.map_or(0, |(_, bytes)| bytes) + entry.size();
                found = Some((entry.last, bytes));
                if bytes >= wanted {
                    return Ok(found);
                }
                from = entry.last + 1;
            }
            if entries.len() < ENTRIES {
                break;
            }
        }
    }
    Ok(found)
}

/// Takes out the events up to a floor, and ids that are too old for the dedup window.
fn edit(
    floors: &HashMap<LogIndex, Seq>,
    removable: UnixMillis,
    header: &Header,
    payload: &[u8],
) -> Result<Edit, StoreError> {
    let goes = match header.kind {
        Kind::Events => match floors.get(&header.log) {
            Some(floor) => record::bounds(payload)?.1 <= *floor,
            None => false,
        },
        Kind::Ids => header.at <= removable,
        _ => false,
    };
    Ok(if goes { Edit::Replace(Kind::Erased, Vec::new()) } else { Edit::Keep })
}

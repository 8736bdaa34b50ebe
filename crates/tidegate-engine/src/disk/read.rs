//! Reading a log back. Every record has to continue the one before it (R28). If events are missing, for whatever
//! reason, the stretch ends before them, and the next stretch begins after them.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use tidegate_core::Event;
use tidegate_protocol::Seq;

use super::{
    DiskStore,
    damage::Damage,
    index::Entry,
    record::{self, Header},
    records::Records,
    segment::Segment,
};
use crate::store::{LogIndex, StoreError, Stretch};

/// How many entries of an index are read at a time.
const ENTRIES: usize = 64;

#[cfg(test)]
thread_local! {
    /// What comes between the look at the list of segments and the first record, in the next reading of this thread.
    pub(super) static WHEN_LISTED: std::cell::RefCell<Option<Box<dyn FnOnce()>>> = std::cell::RefCell::default();
}

/// A stretch that is being read.
struct Reading {
    after: Seq,
    /// The last seq read.
    at: Seq,
    to: Seq,
    events: usize,
    bytes: usize,
    found: Vec<Arc<Event>>,
    is_full: bool,
    /// Events that were to be erased when the reading began. A file that was listed then has them also after the
    /// erasure was carried out.
    hidden: Option<Arc<HashSet<Seq>>>,
}

impl Reading {
    /// Whether the log goes on at `seq`. If not, events are missing: a stretch that has begun ends here, and
    /// one that has not begins after them.
    fn continues(&mut self, seq: Seq) -> bool {
        if seq <= self.at + 1 {
            return true;
        }
        if !self.found.is_empty() || self.at > self.after {
            self.is_full = true;
            return false;
        }
        self.at = (seq - 1).min(self.to);
        self.after = self.at;
        self.at < self.to
    }

    fn is_done(&self) -> bool {
        self.is_full || self.at >= self.to
    }

    /// Takes over the events of a record, until a limit is reached.
    fn take(&mut self, payload: &Bytes, is_hidden: impl Fn(Seq) -> bool) -> Result<(), StoreError> {
        for place in record::places(payload) {
            let (seq, range) = place?;
            if seq <= self.at {
                continue;
            }
            if seq > self.to {
                break;
            }
            if let Some(range) = range.filter(|_| !is_hidden(seq)) {
                if self.found.len() >= self.events {
                    self.is_full = true;
                    return Ok(());
                }
                let service = self.found.last().map(|event| event.service.clone());
                let event = record::decode_event(seq, payload.slice(range), service.as_ref())?;
                if !self.found.is_empty() && event.fragment.len() > self.bytes {
                    self.is_full = true;
                    return Ok(());
                }
                self.bytes = self.bytes.saturating_sub(event.fragment.len());
                self.found.push(Arc::new(event));
            }
            self.at = seq;
        }
        self.is_full = self.found.len() >= self.events;
        Ok(())
    }
}

/// The place of the segment at which a reading of `log` from `from` begins: the newest one that has an event before
/// that, because those before it have nothing else. It is looked for from the end, because most readers are there.
fn first_to_read(list: &[Arc<Segment>], log: LogIndex, from: Seq) -> Result<usize, StoreError> {
    for (place, segment) in list.iter().enumerate().rev() {
        if segment.entries(log, 0, 1)?.first().is_some_and(|entry| entry.first <= from) {
            return Ok(place);
        }
    }
    Ok(0)
}

impl DiskStore {
    /// Reads events of a log, as [`Store::read`](crate::store::Store::read) says.
    pub(super) fn read_stretch(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError> {
        let (events, found) = (events.max(1), Vec::new());
        let hidden = self.hidden(index);
        let mut reading = Reading { after, at: after, to, events, bytes, found, is_full: false, hidden };
        let list = self.segments.list();
        #[cfg(test)]
        WHEN_LISTED.take().into_iter().for_each(|then| then());
        'segments: for segment in &list[first_to_read(&list, index, after + 1)?..] {
            let mut from = reading.at + 1;
            loop {
                let entries = segment.entries(index, from, ENTRIES)?;
                let Some(last) = entries.last() else { break };
                from = last.last + 1;
                for (entry, record) in entries.iter().zip(Records::new(segment, &entries)) {
                    if !self.take_record(segment, entry, record, &mut reading)? {
                        break 'segments;
                    }
                }
                if entries.len() < ENTRIES {
                    break;
                }
            }
        }
        if !reading.is_full && reading.at < to {
            // The last events are missing.
            reading.continues(to + 1);
        }
        Ok(Stretch { after: reading.after, events: reading.found, to: reading.at })
    }

    /// Takes over one record; says whether the stretch goes on.
    fn take_record(
        &self,
        segment: &Segment,
        entry: &Entry,
        record: Option<(Header, Bytes)>,
        reading: &mut Reading,
    ) -> Result<bool, StoreError> {
        if reading.is_done() || !reading.continues(entry.first) {
            return Ok(false);
        }
        match record {
            Some((_, payload)) => {
                let hidden = [reading.hidden.clone(), self.hidden(entry.log)];
                let taken =
                    reading.take(&payload, |seq| hidden.iter().flatten().any(|seqs| seqs.contains(&seq)));
                // The record is whole, so this version did not write it.
                taken?;
            }
            None => self.note_damage(segment, entry),
        }
        Ok(!reading.is_done())
    }

    pub(super) fn note_damage(&self, segment: &Segment, entry: &Entry) {
        let offset = u64::from(entry.offset);
        let bytes = segment.bytes_at(offset, entry.bytes as usize);
        if self.damage.note(segment.number, offset, &bytes) {
            log_damage(segment, offset, entry.bytes as usize);
        }
    }
}

/// Notes the damage that was found when the index of a segment was made anew.
pub(super) fn note_holes(segment: &Segment, damage: &Damage) {
    for hole in segment.take_holes() {
        let bytes = segment.bytes_at(hole.start as u64, hole.len());
        if damage.note(segment.number, hole.start as u64, &bytes) {
            log_damage(segment, hole.start as u64, hole.len());
        }
    }
}

/// Tells the operator of damage.
pub(super) fn log_damage(segment: &Segment, offset: u64, bytes: usize) {
    tracing::error!(
        path = %segment.path().display(),
        offset,
        bytes,
        "a part of the log is damaged: readers get a gap in its place; stop the node and run `tidegate log check \
         --repair`, and look after the disk"
    );
}

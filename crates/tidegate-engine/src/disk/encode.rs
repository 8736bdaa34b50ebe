//! A commit as bytes: the records of a group, and where those lie that an index names.

use std::sync::Arc;

use tidegate_core::Event;

use super::{
    index::Entry,
    record::{self, CommitWriter, IDS, Kind, LogState},
    state::State,
};
use crate::store::WriteGroup;

/// A record holds events of up to this size together, so that a page does not read much more than it gives.
const RECORD_BYTES: usize = 64 << 10;

/// Where the parts of a commit lie in it, and what it holds.
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub entries: Vec<Entry>,
    pub event_bytes: usize,
}

/// Writes `group` as the commit after `state`, into `buffer`.
pub fn encode(group: &WriteGroup, state: &State, buffer: Vec<u8>) -> Encoded {
    let commit = state.commit + 1;
    let mut records = CommitWriter::new(buffer, commit, group.at);
    let mut entries = Vec::new();
    let mut event_bytes = 0;
    let mut note = |entries: &mut Vec<Entry>, log, first, last, (offset, bytes): (usize, usize)| {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        entries.push(Entry { log, first, last, offset: narrow(offset), bytes: narrow(bytes) });
        event_bytes += bytes.next_multiple_of(record::ALIGN);
    };
    for log in &group.logs {
        if let Some(chain) = &log.chain {
            let log_state = LogState {
                org: log.org.clone(),
                head: log.head,
                floor: state.logs.get(&log.index).map_or(0, |known| known.floor),
                last_timestamp: log.last_timestamp,
                touched: group.at,
                chain: record::encode_chain(chain),
            };
            records.record(Kind::Log, log.index, |out| record::put_log(out, &log_state));
        }
        let mut rest = &log.events[..];
        while let (Some(first), count) = (rest.first(), events_of_a_record(rest)) {
            let (events, others) = rest.split_at(count);
            let last = events.last().map_or(first.seq, |event| event.seq);
            let place = records.record(Kind::Events, log.index, |out| record::put_events(out, events));
            note(&mut entries, log.index, first.seq, last, place);
            rest = others;
        }
    }
    if group.logs.iter().any(|log| !log.ids.is_empty()) {
        let place = records.record(Kind::Ids, 0, |out| {
            for log in group.logs.iter().filter(|log| !log.ids.is_empty()) {
                record::put_ids(out, log.index, &log.ids);
            }
        });
        note(&mut entries, IDS, commit, commit, place);
    }
    for (index, floor) in &group.floors {
        records.record(Kind::Floor, *index, |out| out.extend_from_slice(&floor.to_be_bytes()));
    }
    if group.cut > 0 {
        records.record(Kind::Cut, 0, |out| out.extend_from_slice(&group.cut.to_be_bytes()));
    }
    for (index, _) in &group.forgotten {
        records.record(Kind::Forgotten, *index, |_| {});
    }
    for (erasure, is_done) in &group.erasures {
        records.record(Kind::Erase, 0, |out| record::put_erasure(out, erasure, *is_done));
    }
    if let Some(start) = &group.start {
        records.record(Kind::Start, 0, |out| record::put_start(out, start));
    }
    Encoded { bytes: records.finish(), entries, event_bytes }
}

/// How many of `events` go into one record.
fn events_of_a_record(events: &[Arc<Event>]) -> usize {
    let mut bytes = 0;
    let fit = events.iter().take_while(|event| {
        bytes += record::event_size(event);
        bytes <= RECORD_BYTES
    });
    fit.count().max(1)
}

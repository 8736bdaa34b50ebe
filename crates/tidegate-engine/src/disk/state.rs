//! What the log knows of its orgs: a fold over its commits. It is written whole, as a snapshot, at the front
//! of each segment, so that a start reads the newest segment alone.

use std::collections::BTreeMap;

use tidegate_protocol::{Seq, UnixMillis};

use super::record::{self, CommitWriter, FIRST_LOG, Header, Kind, LogState};
use crate::{
    chain::Start,
    store::{Erasure, LogIndex, StoreError, WriteGroup},
};

/// The state after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub logs: BTreeMap<LogIndex, LogState>,
    pub next_index: LogIndex,
    /// `None` before the first start was written.
    pub start: Option<Start>,
    /// The last commit and its time.
    pub commit: u64,
    pub at: UnixMillis,
    /// The last segment that is no longer needed; 0 if all are.
    pub cut: u64,
    /// What is to be removed from every segment, and is not yet; each with the commit that says so.
    pub erasures: Vec<(Erasure, u64)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            logs: BTreeMap::new(),
            next_index: FIRST_LOG,
            start: None,
            commit: 0,
            at: 0,
            cut: 0,
            erasures: Vec::new(),
        }
    }
}

impl State {
    /// Takes over one record of a commit that is whole, or what is left of one that is not.
    pub fn apply(&mut self, header: &Header, payload: &[u8]) -> Result<(), StoreError> {
        self.commit = self.commit.max(header.commit);
        self.at = self.at.max(header.at);
        match header.kind {
            Kind::Events => {
                let (_, last) = record::bounds(payload)?;
                let timestamp = record::last_timestamp(payload)?.unwrap_or(0);
                self.raise(header.log, last, timestamp, header.at);
            }
            Kind::Log => {
                let mut found = record::decode_log(payload)?;
                self.next_index = self.next_index.max(header.log + 1);
                if let Some(known) = self.logs.get(&header.log) {
                    found.head = found.head.max(known.head);
                    found.floor = found.floor.max(known.floor);
                }
                self.logs.insert(header.log, found);
            }
            Kind::Floor => {
                let floor = record::RecordReader(payload).u64()?;
                if let Some(log) = self.logs.get_mut(&header.log) {
                    log.floor = log.floor.max(floor);
                    // What was removed was there, also if the commits that say so are damaged. Otherwise new
                    // events would get seqs below the floor, and nobody would read them.
                    log.head = log.head.max(floor);
                }
            }
            Kind::Forgotten => drop(self.logs.remove(&header.log)),
            Kind::Start => self.start = Some(record::decode_start(payload)?),
            Kind::Snapshot => {
                let mut reader = record::RecordReader(payload);
                self.next_index = self.next_index.max(reader.u64()?);
                self.cut = self.cut.max(reader.u64()?);
                let start = record::decode_start(reader.0)?;
                self.logs.clear();
                self.erasures.clear();
                self.start = (start.number > 0).then_some(start);
            }
            Kind::Erase => {
                let (erasure, is_done) = record::decode_erasure(payload)?;
                self.note_erasure(&erasure, is_done, header.commit);
            }
            Kind::Cut => self.cut = self.cut.max(record::RecordReader(payload).u64()?),
            Kind::Ids | Kind::Erased => {}
        }
        Ok(())
    }

    fn note_erasure(&mut self, erasure: &Erasure, is_done: bool, commit: u64) {
        if is_done {
            self.erasures.retain(|(waiting, _)| waiting != erasure);
        } else {
            self.erasures.push((erasure.clone(), commit));
        }
    }

    fn raise(&mut self, index: LogIndex, head: Seq, timestamp: UnixMillis, at: UnixMillis) {
        self.next_index = self.next_index.max(index + 1);
        if let Some(log) = self.logs.get_mut(&index) {
            log.head = log.head.max(head);
            log.last_timestamp = log.last_timestamp.max(timestamp);
            log.touched = log.touched.max(at);
        }
    }

    /// Takes over a group that was written as commit `commit`.
    pub fn take(&mut self, group: &WriteGroup, commit: u64) {
        self.commit = commit;
        self.at = self.at.max(group.at);
        for log in &group.logs {
            self.next_index = self.next_index.max(log.index + 1);
            if let Some(chain) = &log.chain {
                let floor = self.logs.get(&log.index).map_or(0, |known| known.floor);
                let state = LogState {
                    org: log.org.clone(),
                    head: log.head,
                    floor,
                    last_timestamp: log.last_timestamp,
                    touched: group.at,
                    chain: record::encode_chain(chain),
                };
                self.logs.insert(log.index, state);
            } else {
                self.raise(log.index, log.head, log.last_timestamp, group.at);
            }
        }
        for (index, floor) in &group.floors {
            if let Some(log) = self.logs.get_mut(index) {
                log.floor = log.floor.max(*floor);
            }
        }
        for (index, _) in &group.forgotten {
            self.logs.remove(index);
        }
        if let Some(start) = group.start {
            self.start = Some(start);
        }
        self.cut = self.cut.max(group.cut);
        for (erasure, is_done) in &group.erasures {
            self.note_erasure(erasure, *is_done, commit);
        }
    }

    /// Writes all of it as one commit.
    pub fn snapshot(&self, commit: u64, at: UnixMillis) -> Vec<u8> {
        let mut writer = CommitWriter::new(Vec::new(), commit, at);
        writer.record(Kind::Snapshot, 0, |out| {
            out.extend_from_slice(&self.next_index.to_be_bytes());
            out.extend_from_slice(&self.cut.to_be_bytes());
            record::put_start(out, &self.start.unwrap_or_default());
        });
        for (index, log) in &self.logs {
            writer.record(Kind::Log, *index, |out| record::put_log(out, log));
        }
        for (erasure, _) in &self.erasures {
            writer.record(Kind::Erase, 0, |out| record::put_erasure(out, erasure, false));
        }
        writer.finish()
    }

    /// The bytes that it takes in memory, about.
    pub fn memory(&self) -> usize {
        self.logs
            .values()
            .map(|log| size_of::<LogState>() + log.org.as_str().len() + log.chain.len() + 32)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::OrgId;

    use super::*;

    #[test]
    fn r31_a_head_is_not_below_the_floor_whatever_records_are_damaged() {
        let org = OrgId::parse("acme").expect("a name");
        let log = LogState { org, head: 5, floor: 0, last_timestamp: 0, touched: 0, chain: Box::default() };
        let mut payload = Vec::new();
        record::put_log(&mut payload, &log);
        let header = Header {
            kind: Kind::Log,
            log: 16,
            commit: 1,
            part: 0,
            is_last: true,
            at: 1,
            payload: payload.len(),
        };
        let mut state = State::default();
        state.apply(&header, &payload).expect("a log");
        let header = Header { kind: Kind::Floor, commit: 3, payload: 8, ..header };
        state.apply(&header, &8_u64.to_be_bytes()).expect("a floor");
        assert_eq!((state.logs[&16].floor, state.logs[&16].head), (8, 8));
    }
}

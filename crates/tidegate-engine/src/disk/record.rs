//! The format of the store: keys and values, byte for byte.
//!
//! Numbers are big-endian, so that keys sort. Values begin with a format byte; a value with an unknown
//! format is an error.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | `c` | number of the last commit |
//! | | `t` | time of the last commit |
//! | | `n` | number for the next org |
//! | | `s` | start record |
//! | | `o` org | org number, chain |
//! | | `h` number | head, last timestamp, last write |
//! | | `f` number | floor |
//! | | `b` bucket | bytes written to the bucket |
//! | `log-N-T` | 0, commit | one byte: this commit is in the log |
//! | | 1, commit | the ids given in it, with its time |
//! | | org number, seq | event |

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use tidegate_core::{Ancestor, ContentHash, DedupKey, Event};
use tidegate_protocol::{Epoch, Seq, ServiceName, UnixMillis, UserId};

use crate::{
    chain::{Chain, Ended, Start},
    store::{FoundId, GivenId, LogIndex, StoreError},
};

/// Key space of commit marks, in place of an org's number.
pub const COMMITS: u64 = 0;
/// Key space of given ids.
pub const IDS: u64 = 1;
/// The first number that an org may have.
pub const FIRST_LOG: LogIndex = 16;

const FORMAT: u8 = 1;
/// The format of ids that has the log of each; the one before has not.
const IDS_FORMAT: u8 = 2;
/// The format of chains that has the time at which each ancestor ended; the one before has not.
const ORG_FORMAT: u8 = 2;
const TARGETED: u8 = 1;

/// A key of a bucket.
pub fn key(space: u64, number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&space.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Takes a key of a bucket apart.
pub fn split_key(key: &[u8]) -> Result<(u64, u64), StoreError> {
    let mut key = RecordReader(key);
    let parts = (key.u64()?, key.u64()?);
    key.end(parts)
}

/// A key of `meta` that carries a number.
pub fn meta_key(tag: u8, number: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Reads a value from its front.
pub struct RecordReader<'a>(pub &'a [u8]);

impl<'a> RecordReader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, StoreError> {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(self.take(2)?);
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(bytes))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, StoreError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(bytes))
    }

    fn hash(&mut self) -> Result<[u8; 16], StoreError> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(self.take(16)?);
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, StoreError> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| damaged())
    }

    fn format(&mut self) -> Result<(), StoreError> {
        if self.u8()? == FORMAT { Ok(()) } else { Err(damaged()) }
    }

    fn org_format(&mut self) -> Result<u8, StoreError> {
        match self.u8()? {
            format @ (FORMAT | ORG_FORMAT) => Ok(format),
            _ => Err(damaged()),
        }
    }

    /// `value`, if nothing is left to read.
    pub fn end<T>(self, value: T) -> Result<T, StoreError> {
        if self.0.is_empty() { Ok(value) } else { Err(damaged()) }
    }
}

fn damaged() -> StoreError {
    StoreError("read the log: a record is damaged".into())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names are at most 128 bytes long.
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&text.as_bytes()[..text.len().min(255)]);
}

/// Writes an event.
pub fn encode_event(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.memory() + 16);
    out.put_u8(FORMAT);
    out.put_u64(event.timestamp);
    out.put_u8(if event.users.is_some() { TARGETED } else { 0 });
    put_text(&mut out, event.service.as_str());
    if let Some(users) = &event.users {
        out.put_u16(u16::try_from(users.len()).unwrap_or(u16::MAX));
        for user in users.iter().take(usize::from(u16::MAX)) {
            put_text(&mut out, user.as_str());
        }
    }
    out.extend_from_slice(&event.fragment);
    out
}

/// Reads the event with this seq; its fragment shares the buffer of `value`. `last` is the service of the
/// event before it, whose name is shared if it is the same.
pub fn decode_event(seq: Seq, value: Bytes, last: Option<&ServiceName>) -> Result<Event, StoreError> {
    let mut reader = RecordReader(&value);
    reader.format()?;
    let timestamp = reader.u64()?;
    let flags = reader.u8()?;
    let service = reader.text()?;
    let service = match last {
        Some(last) if last.as_str() == service => last.clone(),
        _ => ServiceName::parse(service).map_err(|_| damaged())?,
    };
    let users = if flags & TARGETED == 0 {
        None
    } else {
        let count = reader.u16()?;
        let users: Result<Arc<[UserId]>, StoreError> =
            (0..count).map(|_| UserId::parse(reader.text()?).map_err(|_| damaged())).collect();
        Some(users?)
    };
    let fragment = value.len() - reader.0.len();
    Ok(Event { seq, timestamp, service, users, fragment: value.slice(fragment..) })
}

/// Reads the time of an event.
pub fn event_timestamp(value: &[u8]) -> Result<UnixMillis, StoreError> {
    let mut reader = RecordReader(value);
    reader.format()?;
    reader.u64()
}

/// Writes the ids of one commit, log by log.
pub fn encode_ids<'a>(
    at: UnixMillis,
    logs: impl Iterator<Item = (LogIndex, &'a Vec<GivenId>)>,
) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![IDS_FORMAT];
    out.put_u64(at);
    for (index, ids) in logs.filter(|(_, ids)| !ids.is_empty()) {
        out.put_u64(index);
        let count = u32::try_from(ids.len());
        out.put_u32(count.map_err(|error| StoreError::new("write the ids of a commit", error))?);
        for id in ids {
            out.put_u64(id.seq);
            out.extend_from_slice(&id.key.0);
            out.extend_from_slice(&id.content.0);
        }
    }
    Ok(out)
}

/// Reads the time of a commit and the ids given in it.
pub fn decode_ids(value: &[u8]) -> Result<(UnixMillis, Vec<FoundId>), StoreError> {
    let mut reader = RecordReader(value);
    let format = reader.u8()?;
    let at = reader.u64()?;
    let mut ids = Vec::new();
    while !reader.0.is_empty() {
        let (log, count) = match format {
            // No log has the number 0: these ids count for the node and for no org.
            FORMAT => (0, 1),
            IDS_FORMAT => (reader.u64()?, reader.u32()?),
            _ => return Err(damaged()),
        };
        for _ in 0..count {
            let seq = reader.u64()?;
            let key = DedupKey(reader.hash()?);
            let content = ContentHash(reader.hash()?);
            ids.push(FoundId { at, log, id: GivenId { seq, key, content } });
        }
    }
    Ok((at, ids))
}

/// Writes a start record.
pub fn encode_start(start: &Start) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.put_u64(start.number);
    out.put_u64(start.last_lossy);
    out.put_u8(u8::from(start.clean));
    out.put_u8(u8::from(start.sync_always));
    out
}

/// Reads a start record.
pub fn decode_start(value: &[u8]) -> Result<Start, StoreError> {
    let mut reader = RecordReader(value);
    reader.format()?;
    let start = Start {
        number: reader.u64()?,
        last_lossy: reader.u64()?,
        clean: reader.u8()? == 1,
        sync_always: reader.u8()? == 1,
    };
    reader.end(start)
}

/// Writes an org's number and epochs.
pub fn encode_org(index: LogIndex, chain: &Chain) -> Vec<u8> {
    let mut out = vec![ORG_FORMAT];
    out.put_u64(index);
    out.put_u64(chain.start);
    out.put_u8(u8::from(chain.trimmed));
    put_text(&mut out, chain.epoch.as_str());
    for Ended { ancestor, at } in &chain.ancestors {
        put_text(&mut out, ancestor.epoch.as_str());
        out.put_u64(ancestor.end);
        out.put_u8(u8::from(ancestor.lossy));
        out.put_u64(*at);
    }
    out
}

/// Reads an org's number alone: chains are read when a log is first touched.
pub fn decode_org_index(value: &[u8]) -> Result<LogIndex, StoreError> {
    let mut reader = RecordReader(value);
    reader.org_format()?;
    reader.u64()
}

/// Reads an org's number and epochs.
pub fn decode_org(value: &[u8]) -> Result<(LogIndex, Chain), StoreError> {
    let mut reader = RecordReader(value);
    let format = reader.org_format()?;
    let index = reader.u64()?;
    let start = reader.u64()?;
    let trimmed = reader.u8()? == 1;
    let epoch = Epoch::parse(reader.text()?).ok_or_else(damaged)?;
    let mut ancestors = Vec::new();
    while !reader.0.is_empty() {
        let epoch = Epoch::parse(reader.text()?).ok_or_else(damaged)?;
        let ancestor = Ancestor { epoch, end: reader.u64()?, lossy: reader.u8()? == 1 };
        // The format before has no times. Those ancestors count as long past.
        let at = if format == ORG_FORMAT { reader.u64()? } else { 0 };
        ancestors.push(Ended { ancestor, at });
    }
    Ok((index, Chain { epoch, start, ancestors, trimmed }))
}

/// Writes the state of a log at its last write.
pub fn encode_head(head: Seq, last_timestamp: UnixMillis, touched: UnixMillis) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&head.to_be_bytes());
    out[8..16].copy_from_slice(&last_timestamp.to_be_bytes());
    out[16..].copy_from_slice(&touched.to_be_bytes());
    out
}

/// Reads (head, last timestamp, last write).
pub fn decode_head(value: &[u8]) -> Result<(Seq, UnixMillis, UnixMillis), StoreError> {
    let mut reader = RecordReader(value);
    let head = (reader.u64()?, reader.u64()?, reader.u64()?);
    reader.end(head)
}

/// Reads a bare number.
pub fn decode_number(value: &[u8]) -> Result<u64, StoreError> {
    let mut reader = RecordReader(value);
    let number = reader.u64()?;
    reader.end(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_read_in_both_formats() {
        let epoch = |text: &str| Epoch::parse(text).expect("an epoch");
        let ancestor = Ancestor { epoch: epoch("a"), end: 7, lossy: true };
        let ancestors = vec![Ended { ancestor: ancestor.clone(), at: 99 }];
        let chain = Chain { epoch: epoch("b"), start: 3, ancestors, trimmed: false };
        let written = encode_org(16, &chain);
        assert_eq!(decode_org(&written).expect("whole"), (16, chain.clone()));
        let mut before = written[..written.len() - 8].to_vec();
        before[0] = FORMAT;
        let ancestors = vec![Ended { ancestor, at: 0 }];
        assert_eq!(decode_org(&before).expect("whole"), (16, Chain { ancestors, ..chain }));
        assert!(decode_org(&written[..written.len() - 1]).is_err());
    }

    #[test]
    fn ids_are_read_in_both_formats() {
        let id = |seq| GivenId { seq, key: DedupKey([3; 16]), content: ContentHash([4; 16]) };
        let logs = [(16, vec![id(1), id(2)]), (17, Vec::new()), (18, vec![id(9)])];
        let written = encode_ids(7, logs.iter().map(|(index, ids)| (*index, ids))).expect("few");
        let (at, found) = decode_ids(&written).expect("whole");
        assert_eq!(at, 7);
        let found: Vec<_> = found.into_iter().map(|found| (found.log, found.id)).collect();
        assert_eq!(found, [(16, id(1)), (16, id(2)), (18, id(9))]);

        let mut before = vec![FORMAT];
        before.put_u64(7);
        before.put_u64(5);
        before.extend_from_slice(&[3; 16]);
        before.extend_from_slice(&[4; 16]);
        let (_, found) = decode_ids(&before).expect("whole");
        assert_eq!(found.iter().map(|found| (found.log, found.id)).collect::<Vec<_>>(), [(0, id(5))]);
        assert!(decode_ids(&written[..written.len() - 1]).is_err());
        assert!(decode_ids(&[9; 20]).is_err());
    }
}

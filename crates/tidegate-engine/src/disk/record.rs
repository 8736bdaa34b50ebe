//! The format of a segment, byte for byte: a run of records, then, once it is sealed, an index.
//!
//! Numbers are big-endian. A record begins at a multiple of 8 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `tgR2` |
//! | 4 | CRC-32 of all that follows, padding excluded |
//! | 4 | bytes of the payload |
//! | 4 | part: its place among the records of its commit, from 0 |
//! | 8 | number of the commit |
//! | 8 | number of the log, 0 for none |
//! | 6 | time of the commit |
//! | 1 | kind |
//! | 1 | 1 if it is the last record of its commit |
//! | n | payload |
//!
//! A commit is whole if all its parts are there, up to the one that is marked as the last.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use tidegate_core::{Ancestor, ContentHash, DedupKey, Event};
use tidegate_protocol::{Epoch, OrgId, Seq, ServiceName, UnixMillis, UserId};

use crate::{
    chain::{Chain, Ended, Start},
    store::{Erasure, FoundId, GivenId, LogIndex, StoreError},
};

/// The number under which the ids of commits stand in an index, in place of a log's.
pub const IDS: LogIndex = 1;
/// The first number that a log may have.
pub const FIRST_LOG: LogIndex = 16;

/// The bytes of a record before its payload.
pub const HEADER: usize = 40;
/// Records begin at multiples of this.
pub const ALIGN: usize = 8;
const MAGIC: [u8; 4] = *b"tgR2";
/// The bytes that the CRC does not cover: the magic and itself.
const CRC_FROM: usize = 8;
/// A longer payload is taken for damage. Far above the largest event that a node can be configured to take.
const PAYLOAD_MAX: usize = 1 << 30;
/// In place of an event's length: the event was deleted.
const DELETED: u32 = u32::MAX;

const CHAIN_FORMAT: u8 = 1;
const EVENT_FORMAT: u8 = 1;
const TARGETED: u8 = 1;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Consecutive events of one log.
    Events,
    /// The ids that publishers gave in this commit (R12).
    Ids,
    /// The state of one log: its org, its bounds, its epochs.
    Log,
    /// A log's new floor.
    Floor,
    /// A log that is forgotten whole.
    Forgotten,
    /// A start of the node, or its clean end.
    Start,
    /// All logs follow, as [`Kind::Log`], in the same commit. If it is whole, what was known before does not count.
    Snapshot,
    /// The place of a record whose content was removed for good.
    Erased,
    /// Content that is to be removed from every segment, or was: see [`Erasure`].
    Erase,
    /// The segments up to a number are no longer needed.
    Cut,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Events => 1,
            Self::Ids => 2,
            Self::Log => 3,
            Self::Floor => 4,
            Self::Forgotten => 5,
            Self::Start => 6,
            Self::Snapshot => 7,
            Self::Erased => 8,
            Self::Erase => 9,
            Self::Cut => 10,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Kind; 10] = [
            Kind::Events,
            Kind::Ids,
            Kind::Log,
            Kind::Floor,
            Kind::Forgotten,
            Kind::Start,
            Kind::Snapshot,
            Kind::Erased,
            Kind::Erase,
            Kind::Cut,
        ];
        ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// The front of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub log: LogIndex,
    pub commit: u64,
    pub part: u32,
    pub is_last: bool,
    pub at: UnixMillis,
    /// Bytes of the payload.
    pub payload: usize,
}

impl Header {
    /// The bytes of the whole record, padding included.
    pub fn size(&self) -> usize {
        (HEADER + self.payload).next_multiple_of(ALIGN)
    }
}

/// The record that `bytes` begins with, if it is whole.
pub fn parse(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let front = bytes.get(..HEADER)?;
    if front[..4] != MAGIC {
        return None;
    }
    let mut reader = RecordReader(&front[4..]);
    let crc = reader.u32().ok()?;
    let payload = usize::try_from(reader.u32().ok()?).ok().filter(|payload| *payload <= PAYLOAD_MAX)?;
    let part = reader.u32().ok()?;
    let commit = reader.u64().ok()?;
    let log = reader.u64().ok()?;
    let end = reader.u64().ok()?;
    let content = bytes.get(HEADER..HEADER + payload)?;
    if crc32fast::hash(bytes.get(CRC_FROM..HEADER + payload)?) != crc {
        return None;
    }
    let [.., kind, is_last] = end.to_be_bytes();
    let kind = Kind::from_byte(kind)?;
    Some((Header { kind, log, commit, part, is_last: is_last == 1, at: end >> 16, payload }, content))
}

/// Where the next whole record in `bytes` begins, at or after `from`.
pub fn find(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from.next_multiple_of(ALIGN);
    while at + HEADER <= bytes.len() {
        if bytes[at..at + 4] == MAGIC && parse(&bytes[at..]).is_some() {
            return Some(at);
        }
        at += ALIGN;
    }
    None
}

/// Writes the front of a record to `out`, and returns where it begins.
fn begin(out: &mut Vec<u8>, kind: Kind, log: LogIndex, commit: u64, part: u32, at: UnixMillis) -> usize {
    let open = out.len();
    out.extend_from_slice(&MAGIC);
    out.put_u64(0);
    out.put_u32(part);
    out.put_u64(commit);
    out.put_u64(log);
    out.put_u64(at << 16 | u64::from(kind.byte()) << 8);
    open
}

/// Completes the record that begins at `open` and ends with `out`.
fn complete(out: &mut Vec<u8>, open: usize, is_last: bool) {
    let record = &mut out[open..];
    // Payloads are far below 4 GiB: a request is bounded by `limits.publish_body`.
    let payload = u32::try_from(record.len() - HEADER).unwrap_or(u32::MAX);
    record[8..12].copy_from_slice(&payload.to_be_bytes());
    record[HEADER - 1] = u8::from(is_last);
    let crc = crc32fast::hash(&record[CRC_FROM..]);
    record[4..8].copy_from_slice(&crc.to_be_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Writes the records of one commit.
pub struct CommitWriter {
    out: Vec<u8>,
    commit: u64,
    at: UnixMillis,
    part: u32,
    /// Where the last record begins; it is completed when the next one begins or the commit ends.
    open: Option<usize>,
}

impl CommitWriter {
    /// Begins a commit in `out`, which is cleared first.
    pub fn new(mut out: Vec<u8>, commit: u64, at: UnixMillis) -> Self {
        out.clear();
        Self { out, commit, at, part: 0, open: None }
    }

    /// Adds a record, and returns where it lies in the commit: its offset and its bytes without padding.
    pub fn record(
        &mut self,
        kind: Kind,
        log: LogIndex,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> (usize, usize) {
        if let Some(open) = self.open {
            complete(&mut self.out, open, false);
        }
        let open = begin(&mut self.out, kind, log, self.commit, self.part, self.at);
        self.part += 1;
        self.open = Some(open);
        payload(&mut self.out);
        (open, self.out.len() - open)
    }

    /// Completes the commit.
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(open) = self.open {
            complete(&mut self.out, open, true);
        }
        self.out
    }
}

/// A record with the place of `header` and other content.
pub fn rewrite(header: &Header, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len() + ALIGN);
    let open = begin(&mut out, kind, header.log, header.commit, header.part, header.at);
    out.extend_from_slice(payload);
    complete(&mut out, open, header.is_last);
    out
}

/// Reads a payload from its front.
pub struct RecordReader<'a>(pub &'a [u8]);

impl<'a> RecordReader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, StoreError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<&'a str, StoreError> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| damaged())
    }

    fn format(&mut self, format: u8) -> Result<(), StoreError> {
        if self.u8()? == format { Ok(()) } else { Err(damaged()) }
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

/// How many bytes [`put_events`] needs for an event, at least.
pub fn event_size(event: &Event) -> usize {
    event.memory() + 16
}

/// Writes consecutive events.
pub fn put_events(out: &mut Vec<u8>, events: &[Arc<Event>]) {
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
    out.put_u64(first.seq);
    out.put_u64(last.seq);
    for event in events {
        let length_at = out.len();
        out.put_u32(0);
        put_event(out, event);
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(DELETED - 1);
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn put_event(out: &mut Vec<u8>, event: &Event) {
    out.put_u8(EVENT_FORMAT);
    out.put_u64(event.timestamp);
    out.put_u8(if event.users.is_some() { TARGETED } else { 0 });
    put_text(out, event.service.as_str());
    if let Some(users) = &event.users {
        out.put_u16(u16::try_from(users.len()).unwrap_or(u16::MAX));
        for user in users.iter().take(usize::from(u16::MAX)) {
            put_text(out, user.as_str());
        }
    }
    out.extend_from_slice(&event.fragment);
}

/// The first and the last seq of the events in a payload.
pub fn bounds(payload: &[u8]) -> Result<(Seq, Seq), StoreError> {
    let mut reader = RecordReader(payload);
    let (first, last) = (reader.u64()?, reader.u64()?);
    if first <= last { Ok((first, last)) } else { Err(damaged()) }
}

/// The places of a payload of [`put_events`], in order: a seq, and the range of its event in the payload;
/// `None` if the event was deleted.
pub fn places(
    payload: &[u8],
) -> impl Iterator<Item = Result<(Seq, Option<std::ops::Range<usize>>), StoreError>> {
    let bounds = bounds(payload).ok();
    let mut at = 16;
    let mut next = bounds.map(|(first, _)| first);
    std::iter::from_fn(move || {
        let (seq, (_, last)) = (next?, bounds?);
        if seq > last {
            return None;
        }
        next = Some(seq + 1);
        let length = RecordReader(payload.get(at..).unwrap_or_default()).u32();
        let Ok(length) = length else {
            next = None;
            return Some(Err(damaged()));
        };
        at += 4;
        if length == DELETED {
            return Some(Ok((seq, None)));
        }
        let range = at..at + length as usize;
        at = range.end;
        if range.end > payload.len() {
            next = None;
            return Some(Err(damaged()));
        }
        Some(Ok((seq, Some(range))))
    })
}

/// The payload without the events for which `goes` holds; their places stay.
pub fn without(payload: &[u8], goes: impl Fn(Seq) -> bool) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(payload.len());
    out.extend_from_slice(payload.get(..16).ok_or_else(damaged)?);
    for place in places(payload) {
        match place? {
            (seq, Some(range)) if !goes(seq) => {
                out.put_u32(u32::try_from(range.len()).map_err(|_| damaged())?);
                out.extend_from_slice(&payload[range]);
            }
            _ => out.put_u32(DELETED),
        }
    }
    Ok(out)
}

/// Reads the event with this seq; its fragment shares the buffer of `value`. `last` is the service of the
/// event before it, whose name is shared if it is the same.
pub fn decode_event(seq: Seq, value: Bytes, last: Option<&ServiceName>) -> Result<Event, StoreError> {
    let mut reader = RecordReader(&value);
    reader.format(EVENT_FORMAT)?;
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

/// Reads the time of the last event in a payload that was not deleted; `None` if all were.
pub fn last_timestamp(payload: &[u8]) -> Result<Option<UnixMillis>, StoreError> {
    let mut last = None;
    for place in places(payload) {
        if let (_, Some(range)) = place? {
            last = Some(range);
        }
    }
    let Some(range) = last else { return Ok(None) };
    let mut reader = RecordReader(&payload[range]);
    reader.format(EVENT_FORMAT)?;
    reader.u64().map(Some)
}

/// Writes the ids that were given in one log.
pub fn put_ids(out: &mut Vec<u8>, index: LogIndex, ids: &[GivenId]) {
    out.put_u64(index);
    out.put_u32(u32::try_from(ids.len()).unwrap_or(u32::MAX));
    for id in ids {
        out.put_u64(id.seq);
        out.extend_from_slice(&id.key.0);
        out.extend_from_slice(&id.content.0);
    }
}

/// Reads the ids of a commit made at `at`.
pub fn decode_ids(at: UnixMillis, payload: &[u8]) -> Result<Vec<FoundId>, StoreError> {
    let mut reader = RecordReader(payload);
    let mut ids = Vec::new();
    while !reader.0.is_empty() {
        let (log, count) = (reader.u64()?, reader.u32()?);
        for _ in 0..count {
            let seq = reader.u64()?;
            let key = DedupKey(reader.array()?);
            let content = ContentHash(reader.array()?);
            ids.push(FoundId { at, log, id: GivenId { seq, key, content } });
        }
    }
    Ok(ids)
}

/// Writes a start record.
pub fn put_start(out: &mut Vec<u8>, start: &Start) {
    out.put_u64(start.number);
    out.put_u64(start.last_lossy);
    out.put_u8(u8::from(start.clean));
    out.put_u8(u8::from(start.sync_always));
}

/// Reads a start record.
pub fn decode_start(payload: &[u8]) -> Result<Start, StoreError> {
    let mut reader = RecordReader(payload);
    let start = Start {
        number: reader.u64()?,
        last_lossy: reader.u64()?,
        clean: reader.u8()? == 1,
        sync_always: reader.u8()? == 1,
    };
    reader.end(start)
}

/// The state of a log, as a record of [`Kind::Log`] has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    pub org: OrgId,
    pub head: Seq,
    pub floor: Seq,
    pub last_timestamp: UnixMillis,
    /// When it was last written to.
    pub touched: UnixMillis,
    /// Its epochs, as [`encode_chain`] writes them: they are read when the log is first used.
    pub chain: Box<[u8]>,
}

/// Writes the state of a log.
pub fn put_log(out: &mut Vec<u8>, log: &LogState) {
    out.put_u64(log.head);
    out.put_u64(log.floor);
    out.put_u64(log.last_timestamp);
    out.put_u64(log.touched);
    put_text(out, log.org.as_str());
    out.extend_from_slice(&log.chain);
}

/// Reads the state of a log.
pub fn decode_log(payload: &[u8]) -> Result<LogState, StoreError> {
    let mut reader = RecordReader(payload);
    let (head, floor) = (reader.u64()?, reader.u64()?);
    let (last_timestamp, touched) = (reader.u64()?, reader.u64()?);
    let org = OrgId::parse(reader.text()?).map_err(|_| damaged())?;
    Ok(LogState { org, head, floor, last_timestamp, touched, chain: reader.0.into() })
}

/// Writes the epochs of a log.
pub fn encode_chain(chain: &Chain) -> Box<[u8]> {
    let mut out = vec![CHAIN_FORMAT];
    out.put_u64(chain.start);
    out.put_u8(u8::from(chain.trimmed));
    put_text(&mut out, chain.epoch.as_str());
    for Ended { ancestor, at } in &chain.ancestors {
        put_text(&mut out, ancestor.epoch.as_str());
        out.put_u64(ancestor.end);
        out.put_u8(u8::from(ancestor.lossy));
        out.put_u64(*at);
    }
    out.into()
}

/// The number of the start that the present epoch of a chain began in.
pub fn chain_start(value: &[u8]) -> Result<u64, StoreError> {
    let mut reader = RecordReader(value);
    reader.format(CHAIN_FORMAT)?;
    reader.u64()
}

/// Reads the epochs of a log.
pub fn decode_chain(value: &[u8]) -> Result<Chain, StoreError> {
    let mut reader = RecordReader(value);
    reader.format(CHAIN_FORMAT)?;
    let start = reader.u64()?;
    let trimmed = reader.u8()? == 1;
    let epoch = Epoch::parse(reader.text()?).ok_or_else(damaged)?;
    let mut ancestors = Vec::new();
    while !reader.0.is_empty() {
        let epoch = Epoch::parse(reader.text()?).ok_or_else(damaged)?;
        let ancestor = Ancestor { epoch, end: reader.u64()?, lossy: reader.u8()? == 1 };
        ancestors.push(Ended { ancestor, at: reader.u64()? });
    }
    Ok(Chain { epoch, start, ancestors, trimmed })
}

/// Writes an erasure that is to be carried out, or was.
pub fn put_erasure(out: &mut Vec<u8>, erasure: &Erasure, is_done: bool) {
    out.put_u8(u8::from(is_done));
    out.put_u64(erasure.log);
    erasure.seqs.iter().flatten().for_each(|seq| out.put_u64(*seq));
}

/// Reads an erasure, and whether it was carried out.
pub fn decode_erasure(payload: &[u8]) -> Result<(Erasure, bool), StoreError> {
    let mut reader = RecordReader(payload);
    let is_done = reader.u8()? == 1;
    let log = reader.u64()?;
    let mut seqs = Vec::new();
    while !reader.0.is_empty() {
        seqs.push(reader.u64()?);
    }
    Ok((Erasure { log, seqs: (!seqs.is_empty()).then_some(seqs) }, is_done))
}

//! The index of a segment: it leads from (log, seq) to a record. That of the newest segment is in memory; a sealed
//! one has it at its end. It says only what the records say, so it can be made anew from them ([`scan`]).

use std::{collections::HashMap, ops::Range, sync::OnceLock};

use bytes::{BufMut, Bytes};
use tidegate_protocol::{Seq, UnixMillis};

use super::record::{self, ALIGN, Header, IDS, Kind, RecordReader};
use crate::store::{LogIndex, StoreError};

/// The log of the first entries of an index on disk. They name no record: they say how many bytes (`last`) the
/// records of a log (`first`, [`IDS`] for ids) take in this segment.
const HELD: LogIndex = 0;
/// The bytes of an entry on disk: log, first seq, last seq, offset, bytes.
pub const ENTRY: usize = 32;
/// The bytes at the end of a sealed segment.
pub const TRAILER: usize = 80;
const TRAILER_MAGIC: [u8; 8] = *b"tgSeal2\n";
/// Of an index on disk, one entry in so many is in memory, so that a look-up reads one stretch of it.
const GUIDE_STEP: usize = 64;

/// A record as an index names it. For the ids of a commit, `log` is [`IDS`] and both seqs are the commit's
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub log: LogIndex,
    pub first: Seq,
    pub last: Seq,
    pub offset: u32,
    /// Without padding.
    pub bytes: u32,
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.log);
        out.put_u64(self.first);
        out.put_u64(self.last);
        out.put_u32(self.offset);
        out.put_u32(self.bytes);
    }

    /// Reads an entry.
    pub fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = RecordReader(bytes);
        let entry = Self {
            log: reader.u64()?,
            first: reader.u64()?,
            last: reader.u64()?,
            offset: reader.u32()?,
            bytes: reader.u32()?,
        };
        reader.end(entry)
    }

    /// The bytes of the record, padding included.
    pub fn size(&self) -> u64 {
        u64::from(self.bytes).next_multiple_of(ALIGN as u64)
    }

    /// How many bytes the records of a log take, if the entry says that.
    pub fn held(&self) -> Option<(LogIndex, u64)> {
        (self.log == HELD).then_some((self.first, self.last))
    }

    /// Where the record ends, without padding.
    pub fn end(&self) -> usize {
        self.offset as usize + self.bytes as usize
    }

    /// The record that it names, its payload as a part of `bytes`; `None` if they are another one or none.
    pub fn record_in(&self, bytes: Bytes) -> Option<(Header, Bytes)> {
        let (header, payload) = record::parse(&bytes)?;
        let is_it = Self::of(&header, payload, self.offset as usize) == Some(*self);
        is_it.then(|| (header, bytes.slice_ref(payload)))
    }

    /// The entry of a record, if an index names it.
    pub fn of(header: &Header, payload: &[u8], offset: usize) -> Option<Self> {
        let (log, (first, last)) = match header.kind {
            Kind::Events => (header.log, record::bounds(payload).ok()?),
            Kind::Ids => (IDS, (header.commit, header.commit)),
            _ => return None,
        };
        let offset = u32::try_from(offset).ok()?;
        let bytes = u32::try_from(record::HEADER + header.payload).ok()?;
        Some(Self { log, first, last, offset, bytes })
    }
}

/// What a segment holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Where its records end.
    pub end: u64,
    /// Bytes of the records that hold events and ids.
    pub event_bytes: u64,
    /// The first and the last commit; 0 if there is none.
    pub first_commit: u64,
    pub last_commit: u64,
    /// Their times.
    pub first_at: UnixMillis,
    pub last_at: UnixMillis,
}

impl Extent {
    /// Counts a record in.
    pub fn add(&mut self, header: &Header, end: u64) {
        self.end = end;
        if matches!(header.kind, Kind::Events | Kind::Ids) {
            self.event_bytes += header.size() as u64;
        }
        if self.first_commit == 0 {
            self.first_commit = header.commit;
            self.first_at = header.at;
        }
        self.last_commit = header.commit;
        self.last_at = header.at;
    }
}

/// Where the records of a segment are.
pub enum Index {
    /// By log, in seq order.
    Memory(HashMap<LogIndex, Vec<Entry>>),
    /// `count` entries after the records, sorted.
    Sealed { count: usize, crc: u32, guide: OnceLock<Guide> },
}

/// The log and the last seq of one entry in [`GUIDE_STEP`]. It is made when the index was compared with its CRC,
/// which is done before the first use.
pub type Guide = Box<[(LogIndex, Seq)]>;

/// The guide to the entries in `bytes`.
pub fn guide_of(bytes: &[u8]) -> Result<Guide, StoreError> {
    let entries = bytes.chunks_exact(ENTRY).step_by(GUIDE_STEP).map(Entry::read);
    entries.map(|entry| entry.map(|entry| (entry.log, entry.last))).collect()
}

impl Default for Index {
    fn default() -> Self {
        Self::Memory(HashMap::new())
    }
}

impl Index {
    /// An index in memory.
    pub fn of(entries: &[Entry]) -> Self {
        let mut logs: HashMap<LogIndex, Vec<Entry>> = HashMap::new();
        for entry in entries {
            logs.entry(entry.log).or_default().push(*entry);
        }
        Self::Memory(logs)
    }

    /// The bytes that it takes in memory.
    pub fn memory(&self) -> usize {
        match self {
            Self::Memory(logs) => {
                logs.values().map(|entries| 64 + entries.capacity() * size_of::<Entry>()).sum()
            }
            Self::Sealed { guide, .. } => guide.get().map_or(0, |guide| size_of_val(&guide[..])),
        }
    }

    /// Up to `max` entries of a log in seq order, from the first whose last seq is not below `from`. `read` gives
    /// so many entries of a sealed index, from one on.
    pub fn find(
        &self,
        log: LogIndex,
        from: Seq,
        max: usize,
        read: impl Fn(usize, usize) -> Result<Vec<Entry>, StoreError>,
    ) -> Result<Vec<Entry>, StoreError> {
        match self {
            Self::Memory(logs) => {
                let Some(entries) = logs.get(&log) else { return Ok(Vec::new()) };
                let begin = entries.partition_point(|entry| entry.last < from);
                Ok(entries[begin..].iter().take(max).copied().collect())
            }
            Self::Sealed { count, guide, .. } => {
                let (mut begin, mut end) = (0, *count);
                if let Some(guide) = guide.get() {
                    let before = guide.partition_point(|place| *place < (log, from));
                    begin = before.saturating_sub(1) * GUIDE_STEP;
                    end = end.min(guide.partition_point(|place| place.0 <= log) * GUIDE_STEP);
                    end = end.min(begin.saturating_add(max).saturating_add(GUIDE_STEP));
                }
                let mut found = read(begin, end.saturating_sub(begin))?;
                found.retain(|entry| entry.log == log && entry.last >= from);
                found.truncate(max);
                Ok(found)
            }
        }
    }

    /// All entries, by log.
    pub fn all(
        &self,
        read: impl Fn(usize, usize) -> Result<Vec<Entry>, StoreError>,
    ) -> Result<Vec<Entry>, StoreError> {
        match self {
            Self::Memory(logs) => {
                let mut entries: Vec<Entry> = logs.values().flatten().copied().collect();
                entries.sort_unstable();
                Ok(entries)
            }
            Self::Sealed { count, .. } => read(0, *count),
        }
    }
}

/// How many bytes the records of each log take, by log. Ids are those of [`IDS`].
pub type Table = Vec<(LogIndex, u64)>;

/// That of the records that `entries` name.
pub fn table_of(entries: &[Entry]) -> Table {
    let mut table: HashMap<LogIndex, u64> = HashMap::new();
    for entry in entries {
        *table.entry(entry.log).or_default() += entry.size();
    }
    let mut table: Table = table.into_iter().collect();
    table.sort_unstable();
    table
}

/// How many entries an index on disk has that names these records.
pub fn count_on_disk(entries: &[Entry]) -> usize {
    entries.len() + table_of(entries).len()
}

/// The end of a sealed segment, how many entries it has, and their CRC.
pub fn encode(entries: &[Entry], extent: &Extent) -> (Vec<u8>, usize, u32) {
    let table = table_of(entries);
    let count = table.len() + entries.len();
    let mut out = Vec::with_capacity(count * ENTRY + TRAILER);
    for (log, bytes) in table {
        Entry { log: HELD, first: log, last: bytes, offset: 0, bytes: 0 }.write(&mut out);
    }
    entries.iter().for_each(|entry| entry.write(&mut out));
    let index_crc = crc32fast::hash(&out);
    let trailer = out.len();
    out.extend_from_slice(&TRAILER_MAGIC);
    out.put_u64(count as u64);
    let Extent { end, event_bytes, first_commit, last_commit, first_at, last_at } = *extent;
    [end, event_bytes, first_commit, last_commit, first_at, last_at].into_iter().for_each(|n| out.put_u64(n));
    out.put_u64(0);
    out.put_u32(index_crc);
    let crc = crc32fast::hash(&out[trailer..]);
    out.put_u32(crc);
    (out, count, index_crc)
}

/// Reads the end of a sealed segment: how many entries there are, their CRC, and what it holds.
pub fn decode_trailer(bytes: &[u8; TRAILER]) -> Option<(usize, u32, Extent)> {
    let (fields, crc) = bytes.split_at(TRAILER - 4);
    if fields[..8] != TRAILER_MAGIC || crc32fast::hash(fields).to_be_bytes() != crc {
        return None;
    }
    let mut reader = RecordReader(&fields[8..]);
    let count = usize::try_from(reader.u64().ok()?).ok()?;
    let extent = Extent {
        end: reader.u64().ok()?,
        event_bytes: reader.u64().ok()?,
        first_commit: reader.u64().ok()?,
        last_commit: reader.u64().ok()?,
        first_at: reader.u64().ok()?,
        last_at: reader.u64().ok()?,
    };
    reader.u64().ok()?;
    Some((count, reader.u32().ok()?, extent))
}

/// What a scan of a segment's bytes has found.
#[derive(Debug, Default)]
pub struct Scan {
    pub entries: Vec<Entry>,
    pub extent: Extent,
    /// Stretches without a whole record that have a whole one after them.
    pub holes: Vec<Range<usize>>,
    /// Where bytes that are no record and not zero lie after the last record, if any do.
    pub torn: Option<Range<usize>>,
}

/// Goes through the bytes of a segment, record by record, and calls `each` with the header and the place of the
/// payload. After damage it goes on with the next whole record.
pub fn scan(bytes: &[u8], mut each: impl FnMut(&Header, Range<usize>)) -> Scan {
    let mut found = Scan::default();
    let mut at = 0;
    loop {
        match record::parse(&bytes[at.min(bytes.len())..]) {
            Some((header, payload)) => {
                found.entries.extend(Entry::of(&header, payload, at));
                let begin = at + record::HEADER;
                at += header.size();
                found.extent.add(&header, at as u64);
                each(&header, begin..begin + header.payload);
            }
            None => match record::find(bytes, at + ALIGN) {
                Some(next) => {
                    found.holes.push(at..next);
                    at = next;
                }
                None => break,
            },
        }
    }
    let rest = at.min(bytes.len());
    if let Some(last) = bytes[rest..].iter().rposition(|byte| *byte != 0) {
        found.torn = Some(rest..rest + last + 1);
    }
    found
}

//! A segment: one file with the commits of a stretch of time. The newest one grows; the others are sealed:
//! they end with an index and are never written to again.
//!
//! The index leads from (log, seq) to a record. That of the newest segment is in memory. A damaged index is
//! made anew from the records, which say all that it says.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Error, ErrorKind},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes};
use rustix::fs::{FallocateFlags, fallocate};
use tidegate_protocol::{Seq, UnixMillis};

use super::record::{self, ALIGN, Header, IDS, Kind, RecordReader};
use crate::store::{LogIndex, StoreError};

/// The bytes of an entry of an index on disk: log, first seq, last seq, offset, bytes.
const ENTRY: usize = 32;
/// The bytes at the end of a sealed segment.
const TRAILER: usize = 80;
const TRAILER_MAGIC: [u8; 8] = *b"tgSeal2\n";
/// How often a read that failed is tried before the place counts as damaged.
const READ_TRIES: usize = 3;
/// What a read that fails is repeated with: a damaged sector costs no more than this.
const READ_STEP: usize = 4096;

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

    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
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

enum Index {
    /// By log, in seq order.
    Memory(HashMap<LogIndex, Vec<Entry>>),
    /// `count` entries after the records, sorted.
    Sealed { count: usize, crc: u32 },
}

/// The file.
pub struct Segment {
    pub number: u64,
    path: PathBuf,
    file: File,
    index: RwLock<(Index, Extent)>,
    /// Bytes that the file may take, or takes.
    allocated: AtomicU64,
    /// Whether its index was compared with its CRC, which is done before the first use.
    is_checked: AtomicBool,
    /// Damaged stretches that were found when its index was made, until they are taken.
    holes: Mutex<Vec<Range<usize>>>,
    /// Whether a part of it could not be read when it was last read whole. That may pass, so nothing of the file
    /// is changed meanwhile.
    is_unreadable: AtomicBool,
}

/// The end of the name of a segment that is being rewritten.
pub const NEW: &str = ".new";

/// How the file of a segment is named.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.seg")
}

fn failed(what: &str, path: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError(format!("{what} {}: {cause}", path.display()).into())
}

/// Whether an error says that there is no room, which passes.
pub fn is_no_room(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

impl Segment {
    /// Creates an empty segment.
    pub fn create(dir: &Path, number: u64) -> Result<Self, Error> {
        #[cfg(test)]
        planted::create()?;
        let path = dir.join(file_name(number));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let index = RwLock::new((Index::Memory(HashMap::new()), Extent::default()));
        Ok(Self {
            number,
            path,
            file,
            index,
            allocated: AtomicU64::new(0),
            is_checked: AtomicBool::new(true),
            holes: Mutex::default(),
            is_unreadable: AtomicBool::new(false),
        })
    }

    /// Opens a segment. One that is not sealed has no index until [`adopt`](Self::adopt) gives it one.
    pub fn open(dir: &Path, number: u64) -> Result<Self, StoreError> {
        Self::open_with(dir, number, OpenOptions::new().read(true).write(true))
    }

    /// Opens a segment that will not be changed.
    pub fn open_to_read(dir: &Path, number: u64) -> Result<Self, StoreError> {
        Self::open_with(dir, number, OpenOptions::new().read(true))
    }

    fn open_with(dir: &Path, number: u64, options: &OpenOptions) -> Result<Self, StoreError> {
        let path = dir.join(file_name(number));
        let file = options.open(&path);
        let file = file.map_err(|error| failed("open", &path, error))?;
        let length = file.metadata().map_err(|error| failed("open", &path, error))?.len();
        let segment = Self {
            number,
            path,
            file,
            index: RwLock::new((Index::Memory(HashMap::new()), Extent::default())),
            allocated: AtomicU64::new(length),
            is_checked: AtomicBool::new(false),
            holes: Mutex::default(),
            is_unreadable: AtomicBool::new(false),
        };
        if let Some(sealed) = segment.read_trailer(length) {
            *segment.index.write().unwrap_or_else(PoisonError::into_inner) = sealed;
        }
        Ok(segment)
    }

    fn state(&self) -> RwLockReadGuard<'_, (Index, Extent)> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds.
    pub fn extent(&self) -> Extent {
        self.state().1
    }

    /// Whether it has its index on disk.
    pub fn is_sealed(&self) -> bool {
        matches!(self.state().0, Index::Sealed { .. })
    }

    /// The bytes that it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The bytes of its index that are in memory.
    pub fn memory(&self) -> usize {
        match &self.state().0 {
            Index::Memory(logs) => {
                logs.values().map(|entries| 64 + entries.capacity() * size_of::<Entry>()).sum()
            }
            Index::Sealed { .. } => 0,
        }
    }

    /// Its path, for log lines.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that `bytes` more can be written, and takes `chunk` at once if there is less left.
    pub fn allocate(&self, bytes: u64, chunk: u64) -> Result<(), Error> {
        let end = self.extent().end;
        let allocated = self.allocated.load(Ordering::Relaxed);
        if end + bytes <= allocated {
            return Ok(());
        }
        let more = (end + bytes - allocated).max(chunk);
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, allocated, more) {
            Ok(()) => {}
            // This file system cannot promise room. A write may then fail, which is taken back.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        self.allocated.store(allocated + more, Ordering::Relaxed);
        Ok(())
    }

    /// Writes one commit at the end. It counts only after [`include`](Self::include). If this fails, nothing
    /// of the commit stays.
    pub fn write(&self, commit: &[u8]) -> Result<(), Error> {
        let end = self.extent().end;
        let written = self.file.write_all_at(commit, end);
        if let Err(error) = written {
            self.file.set_len(end)?;
            self.allocated.store(end, Ordering::Relaxed);
            return Err(error);
        }
        self.allocated.fetch_max(end + commit.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data()
    }

    /// Counts a commit in that was written, so that it can be read. The offsets of `entries` are those in the
    /// commit.
    pub fn include(&self, entries: &[Entry], bytes: usize, event_bytes: usize, commit: u64, at: UnixMillis) {
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let (Index::Memory(logs), extent) = &mut *state else { return };
        let begin = u32::try_from(extent.end).unwrap_or(u32::MAX);
        for entry in entries {
            logs.entry(entry.log)
                .or_default()
                .push(Entry { offset: begin.saturating_add(entry.offset), ..*entry });
        }
        extent.end += bytes as u64;
        extent.event_bytes += event_bytes as u64;
        if extent.first_commit == 0 {
            extent.first_commit = commit;
            extent.first_at = at;
        }
        extent.last_commit = commit;
        extent.last_at = at;
    }

    /// Takes what a scan of its records has found for its index.
    pub fn adopt(&self, scan: &Scan) {
        let mut logs: HashMap<LogIndex, Vec<Entry>> = HashMap::new();
        for entry in &scan.entries {
            logs.entry(entry.log).or_default().push(*entry);
        }
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = (Index::Memory(logs), scan.extent);
        self.add_holes(&scan.holes);
    }

    /// Remembers damaged stretches until they are taken.
    pub fn add_holes(&self, holes: &[Range<usize>]) {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(holes);
    }

    /// The damaged stretches that were found since the last call.
    pub fn take_holes(&self) -> Vec<Range<usize>> {
        std::mem::take(&mut self.holes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Cuts off what lies after its records.
    pub fn trim(&self) -> Result<(), StoreError> {
        let end = self.extent().end;
        let trimmed = self.file.set_len(end).and_then(|()| self.file.sync_all());
        trimmed.map_err(|error| failed("cut", &self.path, error))?;
        self.allocated.store(end, Ordering::Relaxed);
        Ok(())
    }

    /// Writes its index to its end. Readers go on; nobody may write to it any more.
    pub fn seal(&self) -> Result<(), StoreError> {
        if self.is_unreadable() {
            return Ok(());
        }
        let (bytes, count, crc) = {
            let state = self.state();
            let (Index::Memory(logs), extent) = &*state else { return Ok(()) };
            let mut entries: Vec<Entry> = logs.values().flatten().copied().collect();
            entries.sort_unstable();
            let (bytes, crc) = encode_index(&entries, extent);
            (bytes, entries.len(), crc)
        };
        let end = self.extent().end;
        let written = (self.file.write_all_at(&bytes, end))
            .and_then(|()| self.file.set_len(end + bytes.len() as u64))
            .and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            // A half index has no trailer, so it counts as none.
            return Err(failed("seal", &self.path, error));
        }
        self.allocated.store(end + bytes.len() as u64, Ordering::Relaxed);
        self.index.write().unwrap_or_else(PoisonError::into_inner).0 = Index::Sealed { count, crc };
        Ok(())
    }

    fn read_trailer(&self, length: u64) -> Option<(Index, Extent)> {
        let mut trailer = [0; TRAILER];
        self.file.read_exact_at(&mut trailer, length.checked_sub(TRAILER as u64)?).ok()?;
        let (count, crc, extent) = decode_trailer(&trailer)?;
        let index_bytes = (count as u64).checked_mul(ENTRY as u64)?;
        let is_whole = extent.end.checked_add(index_bytes)?.checked_add(TRAILER as u64)? == length;
        is_whole.then_some((Index::Sealed { count, crc }, extent))
    }

    /// Compares the index with its CRC, once. A flipped bit would lead to a wrong place, and hide events that
    /// are there; so a damaged index is made anew, in memory.
    fn check_index(&self) -> Result<(), StoreError> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.index_matches() {
            self.rebuild_index()?;
        }
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the index has its CRC. One in memory has none.
    pub fn index_matches(&self) -> bool {
        match &*self.state() {
            (Index::Memory(_), _) => true,
            (Index::Sealed { count, crc }, extent) => {
                let bytes = self.bytes_at(extent.end, count * ENTRY);
                crc32fast::hash(&bytes) == *crc
            }
        }
    }

    /// The bytes of its file as a sealed segment with so many entries after `end`.
    pub fn sealed_bytes(end: u64, entries: usize) -> u64 {
        end + (entries * ENTRY + TRAILER) as u64
    }

    /// The bytes of its file.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.file.metadata().map_err(|error| failed("read", &self.path, error))?;
        Ok(metadata.len())
    }

    /// Makes the index anew from the records, in memory.
    pub fn rebuild_index(&self) -> Result<(), StoreError> {
        tracing::warn!(path = %self.path.display(), "a segment has no index, or a damaged one; it is made anew");
        let mut scan = scan(&self.contents()?, |_, _| {});
        if self.is_unreadable() && self.is_sealed() {
            scan.extent = self.extent();
        }
        self.adopt(&scan);
        Ok(())
    }

    /// Up to `max` entries of a log in seq order, from the first whose last seq is not below `from`.
    pub fn entries(&self, log: LogIndex, from: Seq, max: usize) -> Result<Vec<Entry>, StoreError> {
        self.with_index(|| self.find_entries(log, from, max))
    }

    /// Uses the index. If it cannot be read, it is made anew, in memory.
    fn with_index<T>(&self, find: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check_index()?;
        match find() {
            Err(error) if self.is_sealed() => {
                tracing::warn!(%error, "the index of a segment cannot be read");
                self.rebuild_index()?;
                find()
            }
            found => found,
        }
    }

    fn find_entries(&self, log: LogIndex, from: Seq, max: usize) -> Result<Vec<Entry>, StoreError> {
        let state = self.state();
        match &state.0 {
            Index::Memory(logs) => {
                let Some(entries) = logs.get(&log) else { return Ok(Vec::new()) };
                let begin = entries.partition_point(|entry| entry.last < from);
                Ok(entries[begin..].iter().take(max).copied().collect())
            }
            Index::Sealed { count, .. } => {
                let (mut low, mut high) = (0, *count);
                while low < high {
                    let middle = low.midpoint(high);
                    let entry = self.sealed_entries(&state.1, middle, 1)?;
                    match entry.first() {
                        Some(entry) if (entry.log, entry.last) < (log, from) => low = middle + 1,
                        _ => high = middle,
                    }
                }
                let mut found = self.sealed_entries(&state.1, low, max.min(count - low))?;
                found.retain(|entry| entry.log == log);
                Ok(found)
            }
        }
    }

    /// All entries, by log.
    pub fn all_entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.with_index(|| self.find_all_entries())
    }

    fn find_all_entries(&self) -> Result<Vec<Entry>, StoreError> {
        let state = self.state();
        match &state.0 {
            Index::Memory(logs) => {
                let mut entries: Vec<Entry> = logs.values().flatten().copied().collect();
                entries.sort_unstable();
                Ok(entries)
            }
            Index::Sealed { count, .. } => self.sealed_entries(&state.1, 0, *count),
        }
    }

    fn sealed_entries(&self, extent: &Extent, from: usize, count: usize) -> Result<Vec<Entry>, StoreError> {
        let mut bytes = vec![0; count * ENTRY];
        let mut read = Ok(());
        for _ in 0..READ_TRIES {
            read = self.file.read_exact_at(&mut bytes, extent.end + (from * ENTRY) as u64);
            if read.is_ok() {
                break;
            }
        }
        read.map_err(|error| failed("read", &self.path, error))?;
        bytes.chunks_exact(ENTRY).map(Entry::read).collect()
    }

    /// The last seq of each log in it.
    pub fn last_seqs(&self) -> Result<Vec<(LogIndex, Seq)>, StoreError> {
        let mut last: Vec<(LogIndex, Seq)> = Vec::new();
        for entry in self.all_entries()?.into_iter().filter(|entry| entry.log != IDS) {
            match last.last_mut() {
                Some((log, seq)) if *log == entry.log => *seq = entry.last,
                _ => last.push((entry.log, entry.last)),
            }
        }
        Ok(last)
    }

    /// The record that `entry` names, its payload as a part of its bytes; `None` if another one or none is there.
    pub fn record(&self, entry: &Entry) -> Option<(Header, Bytes)> {
        let bytes = Bytes::from(self.bytes_at(u64::from(entry.offset), entry.bytes as usize));
        let (header, payload) = record::parse(&bytes)?;
        let is_it = Entry::of(&header, payload, entry.offset as usize) == Some(*entry);
        is_it.then(|| (header, bytes.slice_ref(payload)))
    }

    /// Whether a part of it could not be read when it was last read whole.
    pub fn is_unreadable(&self) -> bool {
        self.is_unreadable.load(Ordering::Relaxed)
    }

    /// The bytes of a stretch of the file. What cannot be read, or is not there, is zero.
    pub fn bytes_at(&self, offset: u64, length: usize) -> Vec<u8> {
        self.try_bytes_at(offset, length).0
    }

    /// The same, and whether all of it could be read.
    fn try_bytes_at(&self, offset: u64, length: usize) -> (Vec<u8>, bool) {
        let mut bytes = vec![0; length];
        for _ in 0..READ_TRIES {
            match self.read_full(&mut bytes, offset) {
                Ok(()) => return (bytes, true),
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), offset, %error, "a read of the log failed")
                }
            }
        }
        let mut is_whole = true;
        for (step, block) in bytes.chunks_mut(READ_STEP).enumerate() {
            if self.read_full(block, offset + (step * READ_STEP) as u64).is_err() {
                block.fill(0);
                is_whole = false;
            }
        }
        (bytes, is_whole)
    }

    fn read_full(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        #[cfg(test)]
        planted::read(self.number, offset + bytes.len() as u64)?;
        read_full(&self.file, bytes, offset)
    }

    /// The bytes of all its records, and of what lies after them in an unsealed segment.
    pub fn contents(&self) -> Result<Vec<u8>, StoreError> {
        let length = match &*self.state() {
            (Index::Sealed { .. }, extent) => extent.end,
            (Index::Memory(_), _) => self.file_bytes()?,
        };
        let (bytes, is_whole) = self.try_bytes_at(0, usize::try_from(length).unwrap_or(usize::MAX));
        self.is_unreadable.store(!is_whole, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Removes the file. Who still reads it can go on.
    pub fn remove(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &self.path, error)),
            _ => Ok(()),
        }
    }
}

/// Reads until `bytes` is full or the file ends; the rest is left as it was.
fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The end of a sealed segment, and the CRC of the index in it.
pub fn encode_index(entries: &[Entry], extent: &Extent) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(entries.len() * ENTRY + TRAILER);
    entries.iter().for_each(|entry| entry.write(&mut out));
    let index_crc = crc32fast::hash(&out);
    let trailer = out.len();
    out.extend_from_slice(&TRAILER_MAGIC);
    out.put_u64(entries.len() as u64);
    let Extent { end, event_bytes, first_commit, last_commit, first_at, last_at } = *extent;
    [end, event_bytes, first_commit, last_commit, first_at, last_at].into_iter().for_each(|n| out.put_u64(n));
    out.put_u64(0);
    out.put_u32(index_crc);
    let crc = crc32fast::hash(&out[trailer..]);
    out.put_u32(crc);
    (out, index_crc)
}

fn decode_trailer(bytes: &[u8; TRAILER]) -> Option<(usize, u32, Extent)> {
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

/// Goes through the bytes of a segment, record by record, and calls `each`. After damage it goes on with the
/// next whole record.
pub fn scan(bytes: &[u8], mut each: impl FnMut(&Header, &[u8])) -> Scan {
    let mut found = Scan::default();
    let mut at = 0;
    loop {
        match record::parse(&bytes[at.min(bytes.len())..]) {
            Some((header, payload)) => {
                found.entries.extend(Entry::of(&header, payload, at));
                at += header.size();
                found.extent.add(&header, at as u64);
                each(&header, payload);
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

/// Faults that a test plants. They are met by the thread of the test alone, which is the one that starts an engine.
#[cfg(test)]
pub mod planted {
    use std::{cell::Cell, io::Error};

    thread_local! {
        static UNREADABLE: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
        static NO_CREATE: Cell<bool> = const { Cell::new(false) };
    }

    /// Reads of the segment with this number fail at this offset and after it; with `None`, none does.
    pub fn unreadable(place: Option<(u64, u64)>) {
        UNREADABLE.set(place);
    }

    /// Whether no segment can be created.
    pub fn no_create(is_so: bool) {
        NO_CREATE.set(is_so);
    }

    pub(super) fn read(number: u64, end: u64) -> Result<(), Error> {
        let fails = UNREADABLE.get().is_some_and(|(segment, from)| segment == number && end > from);
        if fails { Err(Error::other("a planted fault")) } else { Ok(()) }
    }

    pub(super) fn create() -> Result<(), Error> {
        if NO_CREATE.get() { Err(Error::other("a planted fault")) } else { Ok(()) }
    }
}

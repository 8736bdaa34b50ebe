//! A segment: one file with the commits of a stretch of time. The newest one grows; the others are sealed:
//! they end with an index and are never written to again.
//!
//! Its index (`index`) leads from (log, seq) to a record. A damaged index is made anew from the records, which say
//! all that it says.

use std::{
    fs::{File, OpenOptions},
    io::{Error, ErrorKind, IoSliceMut},
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{Advice, FallocateFlags, fadvise, fallocate},
    io::{ReadWriteFlags, preadv2},
};
use tidegate_protocol::{Seq, UnixMillis};

use super::{
    directory::NOFOLLOW,
    index::{self, ENTRY, Entry, Extent, Index, Scan, TRAILER, Table},
    record::IDS,
};
use crate::store::{LogIndex, StoreError};

/// How often a read that failed is tried before the place counts as damaged.
const READ_TRIES: usize = 3;
/// What a read that fails is repeated with: a damaged sector costs no more than this.
const READ_STEP: usize = 4096;

/// The room of a file.
#[derive(Default)]
pub struct Room {
    /// Bytes that the file may take, or takes.
    pub bytes: u64,
    /// What these bytes count in, while the file is one of a log's.
    total: Option<Arc<AtomicU64>>,
}

/// The file.
pub struct Segment {
    pub number: u64,
    path: PathBuf,
    file: File,
    index: RwLock<(Index, Extent)>,
    room: Mutex<Room>,
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&path)?;
        Ok(Self::over(number, path, file, 0))
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
        let segment = Self::over(number, path, file, length);
        if let Some(sealed) = segment.read_trailer(length) {
            *segment.index.write().unwrap_or_else(PoisonError::into_inner) = sealed;
        }
        Ok(segment)
    }

    fn over(number: u64, path: PathBuf, file: File, bytes: u64) -> Self {
        Self {
            number,
            path,
            file,
            index: RwLock::default(),
            room: Mutex::new(Room { bytes, total: None }),
            holes: Mutex::default(),
            is_unreadable: AtomicBool::new(false),
        }
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

    /// Its room, which does not change while this is held.
    pub fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.room().bytes
    }

    fn set_disk_bytes(&self, bytes: u64) {
        let mut room = self.room();
        if let Some(total) = &room.total {
            // Also right if it is negative: both wrap.
            total.fetch_add(bytes.wrapping_sub(room.bytes), Ordering::Relaxed);
        }
        room.bytes = bytes;
    }

    /// Counts its bytes in `total` from now on.
    pub fn count_in(&self, total: &Arc<AtomicU64>) {
        let mut room = self.room();
        total.fetch_add(room.bytes, Ordering::Relaxed);
        room.total = Some(total.clone());
    }

    /// Counts its bytes no more.
    pub fn count_out(&self) {
        let mut room = self.room();
        if let Some(total) = room.total.take() {
            total.fetch_sub(room.bytes, Ordering::Relaxed);
        }
    }

    /// The bytes of its index that are in memory.
    pub fn memory(&self) -> usize {
        self.state().0.memory()
    }

    /// Its path, for log lines.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that `bytes` more can be written, and takes `chunk` at once if there is less left.
    pub fn allocate(&self, bytes: u64, chunk: u64) -> Result<(), Error> {
        let end = self.extent().end;
        let allocated = self.disk_bytes();
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
        self.set_disk_bytes(allocated + more);
        Ok(())
    }

    /// Writes one commit at the end. It counts only after [`include`](Self::include). If this fails, nothing
    /// of the commit stays.
    pub fn write(&self, commit: &[u8]) -> Result<(), Error> {
        let end = self.extent().end;
        let written = self.file.write_all_at(commit, end);
        if let Err(error) = written {
            self.file.set_len(end)?;
            self.set_disk_bytes(end);
            return Err(error);
        }
        self.set_disk_bytes(self.disk_bytes().max(end + commit.len() as u64));
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
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = (Index::of(&scan.entries), scan.extent);
        self.add_holes(&scan.holes);
    }

    /// Remembers damaged stretches until they are taken.
    pub fn add_holes(&self, holes: &[Range<usize>]) {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(holes);
    }

    /// Whether some are remembered.
    pub fn has_holes(&self) -> bool {
        !self.holes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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
        self.set_disk_bytes(end);
        Ok(())
    }

    /// Writes its index to its end. Readers go on; nobody may write to it any more.
    pub fn seal(&self) -> Result<(), StoreError> {
        if self.is_unreadable() {
            return Ok(());
        }
        let (bytes, count, crc) = {
            let state = self.state();
            let (index @ Index::Memory(_), extent) = &*state else { return Ok(()) };
            let entries = index.all(|_, _| Ok(Vec::new()))?;
            index::encode(&entries, extent)
        };
        let end = self.extent().end;
        let written = (self.file.write_all_at(&bytes, end))
            .and_then(|()| self.file.set_len(end + bytes.len() as u64))
            .and_then(|()| self.file.sync_all());
        if let Err(error) = written {
            // A half index has no trailer, so it counts as none.
            return Err(failed("seal", &self.path, error));
        }
        self.set_disk_bytes(end + bytes.len() as u64);
        let guide = OnceLock::from(index::guide_of(&bytes[..count * ENTRY])?);
        self.index.write().unwrap_or_else(PoisonError::into_inner).0 = Index::Sealed { count, crc, guide };
        Ok(())
    }

    fn read_trailer(&self, length: u64) -> Option<(Index, Extent)> {
        let mut trailer = [0; TRAILER];
        self.file.read_exact_at(&mut trailer, length.checked_sub(TRAILER as u64)?).ok()?;
        let (count, crc, extent) = index::decode_trailer(&trailer)?;
        let index_bytes = (count as u64).checked_mul(ENTRY as u64)?;
        let is_whole = extent.end.checked_add(index_bytes)?.checked_add(TRAILER as u64)? == length;
        is_whole.then(|| (Index::Sealed { count, crc, guide: OnceLock::new() }, extent))
    }

    /// Compares the index with its CRC, once. A flipped bit would lead to a wrong place, and hide events that
    /// are there; so a damaged index is made anew, in memory.
    fn check_index(&self) -> Result<(), StoreError> {
        let is_whole = match &*self.state() {
            (Index::Memory(_), _) => true,
            (Index::Sealed { guide, .. }, _) if guide.get().is_some() => true,
            (Index::Sealed { count, crc, guide }, extent) => {
                let bytes = self.bytes_at(extent.end, count * ENTRY);
                let is_whole = crc32fast::hash(&bytes) == *crc;
                if is_whole {
                    let _ = guide.set(index::guide_of(&bytes)?);
                }
                is_whole
            }
        };
        if is_whole { Ok(()) } else { self.rebuild_index() }
    }

    /// Whether the index has its CRC. One in memory has none.
    pub fn index_matches(&self) -> bool {
        match &*self.state() {
            (Index::Memory(_), _) => true,
            (Index::Sealed { count, crc, .. }, extent) => {
                crc32fast::hash(&self.bytes_at(extent.end, count * ENTRY)) == *crc
            }
        }
    }

    /// The bytes of its file as a sealed segment with these entries after `end`.
    pub fn sealed_bytes(end: u64, entries: &[Entry]) -> u64 {
        end + (index::count_on_disk(entries) * ENTRY + TRAILER) as u64
    }

    /// The bytes of its file.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.file.metadata().map_err(|error| failed("read", &self.path, error))?;
        Ok(metadata.len())
    }

    /// Makes the index anew from the records, in memory.
    pub fn rebuild_index(&self) -> Result<(), StoreError> {
        tracing::warn!(path = %self.path.display(), "a segment has no index, or a damaged one; it is made anew");
        let mut scan = index::scan(&self.contents()?, |_, _| {});
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
        state.0.find(log, from, max, |from, count| self.sealed_entries(&state.1, from, count))
    }

    /// All entries, by log.
    pub fn all_entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.with_index(|| self.find_all_entries())
    }

    fn find_all_entries(&self) -> Result<Vec<Entry>, StoreError> {
        let state = self.state();
        let mut entries = state.0.all(|from, count| self.sealed_entries(&state.1, from, count))?;
        entries.retain(|entry| entry.held().is_none());
        Ok(entries)
    }

    /// How many bytes each log has in it. A sealed segment says so at the front of its index.
    pub fn held(&self) -> Result<Table, StoreError> {
        if let Some(table) = self.sealed_table() {
            return Ok(table);
        }
        Ok(index::table_of(&self.all_entries()?))
    }

    /// What a sealed index says of that; `None` if it does not add up.
    fn sealed_table(&self) -> Option<Table> {
        const AT_ONCE: usize = 64;
        let state = self.state();
        let (Index::Sealed { count, .. }, extent) = &*state else { return None };
        let mut table = Table::new();
        loop {
            let wanted = (*count - table.len()).min(AT_ONCE);
            let entries = self.sealed_entries(extent, table.len(), wanted).ok()?;
            let before = table.len();
            table.extend(entries.iter().map_while(Entry::held));
            if table.len() - before < AT_ONCE {
                break;
            }
        }
        (table.iter().map(|(_, bytes)| bytes).sum::<u64>() == extent.event_bytes).then_some(table)
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

    /// Makes it one whose last read failed.
    #[cfg(test)]
    pub fn set_unreadable(&self) {
        self.is_unreadable.store(true, Ordering::Relaxed);
    }

    /// Whether a part of it could not be read when it was last read whole.
    pub fn is_unreadable(&self) -> bool {
        self.is_unreadable.load(Ordering::Relaxed)
    }

    /// The bytes of a stretch of the file, if they can be had without waiting for the disk.
    pub fn cached_bytes_at(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read =
            preadv2(&self.file, &mut [IoSliceMut::new(&mut bytes)], offset, ReadWriteFlags::NOWAIT).ok()?;
        (read == length).then_some(bytes)
    }

    /// Asks the disk for a stretch of the file, and does not wait for it.
    pub fn read_ahead(&self, offset: u64, length: usize) {
        // Without it, reads are only slower.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(length as u64), Advice::WillNeed);
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

//! A store on disk: a log of commits in files, called segments, one for each stretch of time.
//!
//! Each commit is one write: events, ids, epochs and floors, as records that carry its number. A commit
//! counts after the sync (with `log.sync = "always"`), so everything that can be read has been synced. What
//! is known of the orgs is a fold over the commits (`state`), and is written whole at the front of each
//! segment. So there is nothing beside the segments that must agree with them, except the head file, which
//! tells how much was acknowledged.

pub mod check;
mod damage;
mod directory;
mod encode;
mod erase;
mod head_file;
mod held;
mod index;
mod options;
mod read;
mod record;
mod records;
mod recovery;
pub mod repair;
mod rewrite;
mod segment;
#[cfg(test)]
pub use segment::planted;
mod segments;
mod share_cut;
mod space;
mod state;

pub use options::DiskOptions;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate_protocol::{OrgId, Seq, UnixMillis};

use self::{
    damage::Damage,
    directory::Directory,
    encode::{Encoded, encode},
    head_file::HeadFile,
    held::Held,
    index::Extent,
    segment::Segment,
    segments::{Sealer, Segments},
    share_cut::Oldest,
    space::FreeSpace,
    state::State,
};
use super::{
    Durability, Hooks,
    chain::Chain,
    clock::capped_millis,
    local::LocalEngine,
    quotas::StoredQuotas,
    store::{Cut, Erasure, Growth, LogIndex, NoRoom, Store, StoreError, Stretch, Usage, WriteGroup},
};

/// The file of a segment takes room in steps of this size, ahead of what is written.
const CHUNK_BYTES: u64 = 4 << 20;
/// What publishers leave of that room, for commits that must not fail on a full disk: opened logs, floors, the
/// records of starts and stops.
const RESERVE_BYTES: u64 = 256 << 10;
/// What opened logs leave of it, however many there are: without a floor nothing can be removed, and without the
/// record of a start there is none.
const LAST_BYTES: u64 = 64 << 10;
/// A segment takes no more events once it is this large, if no new one can be begun.
const SEGMENT_BYTES_HARD: u64 = 1 << 30;
/// How many segments there may be beyond those that end by their age, for more to end early, for erasures.
const SEGMENTS_EARLY_MAX: usize = 64;
/// How long after a segment could not be begun it is tried again.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// What the committing thread changes.
struct Writer {
    state: State,
    /// The bytes of the last commit, kept for the next.
    buffer: Vec<u8>,
    /// Whether both slots of the head file have to be set: true until the first acknowledgement.
    head_is_old: bool,
    /// Where the snapshot at the front of the newest segment ends; 0 if it has none that counts. Then the next
    /// segment is begun as soon as it can be, and no segment is removed before: it may have the only snapshot.
    front: u64,
    /// No segment is begun before, because one could not be.
    begin_at: Option<Instant>,
}

/// The store.
pub struct DiskStore {
    writer: Mutex<Writer>,
    head: HeadFile,
    segments: Segments,
    sealer: Sealer,
    damage: Arc<Damage>,
    free: FreeSpace,
    /// Events that are to be erased, and still are in a segment.
    hidden: RwLock<HashMap<LogIndex, Arc<HashSet<Seq>>>>,
    /// Held while a file is removed or replaced.
    files: Mutex<()>,
    /// Held while a segment is written anew, from the reading of it on. Locked before `files`.
    rewriting: Mutex<()>,
    /// What each org holds. No other lock is taken while it is held.
    held: Mutex<Held>,
    /// Whether an org was refused, so that the newest segment is to end: nothing can be removed from it before.
    is_to_end: AtomicBool,
    oldest: Mutex<Oldest>,
    sync_always: bool,
    unsynced: AtomicBool,
    /// What the state took in memory when the operator last asked.
    state_bytes: AtomicU64,
    segment_millis: u64,
    segment_bytes: u64,
    segments_max: u64,
    retention: u64,
    dedup_window: u64,
    max_bytes: u64,
    min_free: u64,
    /// The last field, so that the lock is released after the files are closed.
    _directory: Directory,
}

impl DiskStore {
    /// Checks a log directory without changing it: whether this version can read it, and this user may write
    /// to it. What is inside the segments shows only when they are opened.
    pub fn look(dir: &Path) -> Result<(), StoreError> {
        Directory::look(dir)
    }

    /// Whether there is a log in `dir`.
    pub fn holds_log(dir: &Path) -> bool {
        Directory::holds_log(dir)
    }

    /// Whether a process has the log in `dir` open now.
    pub fn is_in_use(dir: &Path) -> Result<bool, StoreError> {
        Directory::is_in_use(dir)
    }
}

impl LocalEngine<DiskStore> {
    /// Opens the log in `options.dir`, or creates it.
    pub fn disk(options: DiskOptions, hooks: Hooks) -> Result<Self, StoreError> {
        let durability = if options.sync_always { Durability::Always } else { Durability::Interval };
        let (store, found) = DiskStore::open(&options, hooks.clock.now())?;
        let local = options.local.clone();
        // A log is not forgotten while the dedup window may still name seqs of it.
        let forget_after = capped_millis(options.forget_after).max(capped_millis(local.dedup_window));
        Self::over(store, found, local, forget_after, durability, hooks)
    }
}

#[cfg(test)]
impl DiskStore {
    /// Puts a thread in the place of the sealing one whose disk hangs, and marks the oldest segment as one whose
    /// last read failed. Returns what lets the thread go on, and the numbers of the segments that it is done with.
    pub fn hang(&mut self) -> (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<u64>) {
        let (sealer, let_go, worked) = segments::hanging(self.damage.clone());
        self.sealer = sealer;
        self.segments.list()[0].set_unreadable();
        (let_go, worked)
    }

    /// Whether no segment has a part that could not be read.
    pub fn is_readable(&self) -> bool {
        !self.segments.list().iter().any(|segment| segment.is_unreadable())
    }

    /// Calls `then` when the next reading on this thread has listed the segments.
    pub fn when_listed(then: impl FnOnce() + 'static) {
        read::WHEN_LISTED.set(Some(Box::new(then)));
    }

    /// Makes the store believe that a log has got this far, as if it had held that many events.
    pub fn raise_head(&self, org: &str, head: Seq) {
        let mut writer = self.writer();
        writer.state.logs.values_mut().filter(|log| log.org.as_str() == org).for_each(|log| log.head = head);
        let at = writer.state.at;
        self.begin_segment(&mut writer, at).expect("a segment");
    }
}

impl DiskStore {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the newest segment ends because an org was refused: once in a dedup window, for those that are refused
    /// again and again.
    fn is_to_end(&self, now: UnixMillis, extent: &Extent) -> bool {
        extent.event_bytes > 0
            && extent.first_at.saturating_add(self.dedup_window) <= now
            && self.is_to_end.load(Ordering::Relaxed)
    }

    /// Where the snapshot of the newest segment ends; 0 if it has none that counts.
    fn front(&self) -> u64 {
        self.writer().front
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn oldest_known(&self) -> MutexGuard<'_, Oldest> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room that the newest segment takes from the file system at once.
    fn chunk_bytes(&self) -> u64 {
        CHUNK_BYTES.min(self.segment_bytes)
    }

    fn newest(&self) -> Result<Arc<Segment>, StoreError> {
        self.segments.newest().ok_or_else(|| StoreError("write the log: it has no segment".into()))
    }

    fn hidden(&self, log: LogIndex) -> Option<Arc<HashSet<Seq>>> {
        self.hidden.read().unwrap_or_else(PoisonError::into_inner).get(&log).cloned()
    }

    /// Bytes that the directory takes.
    fn disk_bytes(&self) -> u64 {
        self.segments.disk_bytes() + self.damage.bytes()
    }

    /// Begins a new segment if the newest is old or large enough. A group without events goes to the newest
    /// one: an idle node makes no segments.
    fn end_segment_if_due(&self, group: &WriteGroup, writer: &mut Writer) -> Result<(), StoreError> {
        let extent = self.newest()?.extent();
        let is_aged =
            group.at.saturating_sub(extent.first_at) >= self.segment_millis && extent.event_bytes > 0;
        let is_full = extent.end.saturating_sub(writer.front) >= self.segment_bytes;
        let is_due = writer.front == 0 || is_full || (is_aged && group.events() > 0);
        if is_due || self.is_to_end(group.at, &extent) {
            self.begin_segment(writer, group.at)
        } else {
            Ok(())
        }
    }

    /// Begins a new segment with a snapshot of the state. If that cannot be done now, the newest one goes on:
    /// no room and no free descriptor pass (P8).
    fn begin_segment(&self, writer: &mut Writer, at: UnixMillis) -> Result<(), StoreError> {
        if writer.begin_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let before = self.segments.newest();
        let number = before.as_ref().map_or(0, |segment| segment.number).max(writer.state.cut) + 1;
        let commit = writer.state.commit + 1;
        let at = at.max(writer.state.at);
        let snapshot = writer.state.snapshot(commit, at);
        let bytes = snapshot.len();
        if let Some(before) = &before
            && self.unsynced.swap(false, Ordering::Relaxed)
        {
            // Before the snapshot counts, which says that these commits are there. Nothing is written to this segment
            // any more, so this is also the last chance to hear of a failure.
            before.sync().map_err(|error| StoreError::new("sync the log", error))?;
        }
        let begun = self.segments.create(number).and_then(|segment| {
            let written = segment
                .allocate(bytes as u64, self.chunk_bytes())
                .and_then(|()| segment.write(&snapshot))
                .and_then(|()| segment.sync());
            if written.is_err() {
                // It holds nothing that counts. If it stays, the next one overwrites it, or a start passes it over.
                let _ = segment.remove();
            }
            written.map(|()| segment)
        });
        let segment = match begun {
            Ok(segment) => segment,
            Err(error) if before.is_some() => {
                tracing::warn!(%error, "the log cannot begin a new segment yet, and goes on in the old one");
                writer.begin_at = Some(Instant::now() + BEGIN_AGAIN);
                return Ok(());
            }
            Err(error) => return Err(StoreError::new("begin the log", error)),
        };
        segment.include(&[], bytes, 0, commit, at);
        self.segments.push(segment);
        self.held().begin(number, writer.state.at);
        self.is_to_end.store(false, Ordering::Relaxed);
        writer.state.commit = commit;
        writer.state.at = at;
        writer.front = bytes as u64;
        writer.begin_at = None;
        if let Some(before) = before {
            self.sealer.tend(before);
        }
        Ok(())
    }

    fn write(&self, group: &WriteGroup, writer: &mut Writer) -> Result<Result<(), NoRoom>, StoreError> {
        if group.is_empty() {
            return Ok(Ok(()));
        }
        self.end_segment_if_due(group, writer)?;
        let segment = self.newest()?;
        let commit = writer.state.commit + 1;
        let buffer = std::mem::take(&mut writer.buffer);
        let Encoded { bytes, entries, event_bytes } = encode(group, &writer.state, buffer);
        let length = bytes.len();
        let room = match group.logs.is_empty() {
            true => Ok(()),
            false => segment.allocate(length as u64 + LAST_BYTES, LAST_BYTES),
        };
        let written = room.map(|()| segment.write(&bytes));
        writer.buffer = bytes;
        // One large commit does not keep its room.
        writer.buffer.clear();
        writer.buffer.shrink_to(1 << 20);
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                let sentence = format!("the file system gives no room for the log: {error}");
                return Ok(Err(NoRoom(sentence.into())));
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if segment::is_no_room(&error) => {
                return Ok(Err(NoRoom(format!("the log could not be written: {error}").into())));
            }
            Err(error) => return Err(StoreError::new("write the log", error)),
        }
        if self.sync_always {
            segment.sync().map_err(|error| StoreError::new("sync the log", error))?;
        } else {
            self.unsynced.store(true, Ordering::Relaxed);
        }
        segment.include(&entries, length, event_bytes, commit, group.at);
        writer.state.take(group, commit);
        let mut held = self.held();
        held.pass(group.at.saturating_sub(self.dedup_window));
        held.note(&entries, |log| writer.state.logs.get(&log).map(|log| log.org.clone()));
        drop(held);
        for (erasure, is_done) in &group.erasures {
            self.hide(erasure, !is_done);
        }
        Ok(Ok(()))
    }

    /// Whether a segment may end before its time, so that an erasure need not wait for that: not if there are many
    /// segments already, because each has a snapshot and takes a descriptor.
    fn may_end_early(&self) -> bool {
        let aged = usize::try_from(self.retention / self.segment_millis).unwrap_or(usize::MAX);
        self.segments.list().len() < aged.saturating_add(SEGMENTS_EARLY_MAX)
    }

    fn hide(&self, erasure: &Erasure, is_hidden: bool) {
        let Some(seqs) = &erasure.seqs else { return };
        let mut hidden = self.hidden.write().unwrap_or_else(PoisonError::into_inner);
        let mut of_log = hidden.get(&erasure.log).map(|seqs| HashSet::clone(seqs)).unwrap_or_default();
        for seq in seqs {
            if is_hidden {
                of_log.insert(*seq)
            } else {
                of_log.remove(seq)
            };
        }
        if of_log.is_empty() {
            hidden.remove(&erasure.log);
        } else {
            hidden.insert(erasure.log, Arc::new(of_log));
        }
    }

    /// The oldest segment, if it is not the one that is written to, and the time of its last commit.
    fn oldest(&self) -> Option<(Arc<Segment>, UnixMillis)> {
        let list = self.segments.list();
        let [oldest, later @ ..] = &list[..] else { return None };
        let mut after = later.iter().map(|segment| segment.extent().first_at).filter(|at| *at > 0);
        let ended = match oldest.extent().last_at {
            // It may have more than could be read, but nothing that is newer than what follows.
            0 => after.next()?,
            _ if oldest.is_unreadable() => after.next()?,
            at => at,
        };
        (!later.is_empty()).then(|| (oldest.clone(), ended))
    }
}

impl Store for DiskStore {
    fn chain(&self, index: LogIndex) -> Option<Chain> {
        let writer = self.writer();
        let log = writer.state.logs.get(&index)?;
        match record::decode_chain(&log.chain) {
            Ok(chain) => Some(chain),
            Err(error) => {
                tracing::warn!(org = %log.org, %error, "the epochs of a log are not readable; its readers get a gap");
                None
            }
        }
    }

    fn make_room(&self, bytes: u64) -> Result<(), NoRoom> {
        let needed = bytes + RESERVE_BYTES;
        let free = self.free.bytes();
        if free < self.min_free.saturating_add(bytes) {
            return Err(NoRoom(
                format!(
                    "the file system has {free} bytes left, and log.min_free keeps {} of them",
                    self.min_free
                )
                .into(),
            ));
        }
        let taken = self.disk_bytes();
        // The snapshot at the front of each segment is as large as what the log knows of its orgs.
        let front = self.front();
        if taken + bytes > self.max_bytes + self.segment_bytes + front {
            let sentence = format!(
                "the log takes {taken} bytes, log.max_bytes allows {}, and all that could be removed is within \
                 dedup.window",
                self.max_bytes
            );
            return Err(NoRoom(sentence.into()));
        }
        let Some(newest) = self.segments.newest() else { return Ok(()) };
        if newest.extent().end.saturating_sub(front) > SEGMENT_BYTES_HARD {
            return Err(NoRoom("the log cannot begin a new segment; see the log lines before".into()));
        }
        let room = newest.allocate(needed, self.chunk_bytes());
        room.map_err(|error| NoRoom(format!("the file system gives no room for the log: {error}").into()))
    }

    fn commit(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError> {
        self.write(group, &mut self.writer())
    }

    fn acknowledge(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if writer.head_is_old {
            writer.head_is_old = false;
            return self.head.reset(writer.state.commit);
        }
        self.head.note(writer.state.commit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.unsynced.swap(false, Ordering::Relaxed) {
            self.newest()?.sync().map_err(|error| StoreError::new("sync the log", error))?;
        }
        Ok(())
    }

    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError> {
        self.read_stretch(index, after, to, events, bytes)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn plan_cut(&self, now: UnixMillis, _: usize) -> Result<Option<Cut>, StoreError> {
        if self.front() == 0 {
            return Ok(None);
        }
        let Some((oldest, ended)) = self.oldest() else { return Ok(None) };
        let is_aged = ended.saturating_add(self.retention) <= now;
        let is_removable = ended.saturating_add(self.dedup_window) <= now;
        let goes = is_aged || is_removable && self.is_over() && self.may_go_whole(&oldest, now)?;
        if !goes {
            return Ok(None);
        }
        Ok(Some(Cut { floors: oldest.last_seqs()?, token: oldest.number }))
    }

    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError> {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = self.segments.list().iter().find(|segment| segment.number == cut.token) {
            match self.table_of(segment) {
                Ok(table) => self.held().remove(cut.token, &table),
                Err(error) => tracing::warn!(%error, "what each org stores is not known exactly"),
            }
        }
        self.segments.remove(cut.token);
        if let Err(error) = self.damage.forget_segments(cut.token) {
            tracing::warn!(%error, "an old copy of a damaged stretch cannot be removed yet");
        }
        Ok(())
    }

    fn cuts_on_write(&self) -> bool {
        self.is_over()
    }

    fn may_grow(
        &self,
        now: UnixMillis,
        index: Option<LogIndex>,
        org: &OrgId,
        bytes: u64,
        beside: u64,
    ) -> Result<Growth, StoreError> {
        let mut room = self.room();
        room.taken = room.taken.saturating_add(beside);
        let mut held = self.held();
        held.pass(now.saturating_sub(self.dedup_window));
        let may = held.may_grow(now, room, index, org, bytes);
        drop(held);
        if may {
            return Ok(Growth::Granted);
        }
        if !room.is_cut {
            return Ok(Growth::NoRoom);
        }
        self.is_to_end.store(true, Ordering::Relaxed);
        let mut writer = self.writer();
        if self.is_to_end(now, &self.newest()?.extent()) {
            self.begin_segment(&mut writer, now)?;
        }
        Ok(Growth::OverShare)
    }

    fn plan_share_cut(&self, now: UnixMillis) -> Result<Option<Cut>, StoreError> {
        self.plan_cut_by_share(now)
    }

    fn apply_share_cut(&self, cut: &Cut, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        self.erase_cut(cut, goes_on)
    }

    fn finish_share_cuts(&self, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        self.finish_cuts(goes_on)
    }

    fn set_quotas(&self, quotas: StoredQuotas) {
        let writer = self.writer();
        let orgs = writer.state.logs.iter().map(|(index, log)| (*index, &log.org));
        self.held().set_quotas(quotas, orgs);
    }

    fn held(&self, index: LogIndex) -> u64 {
        DiskStore::held(self).of(index)
    }

    fn tick(&self, now: UnixMillis) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let extent = self.newest()?.extent();
        // Only segments that are not written to can be rewritten without the content of an erasure.
        let is_to_erase = writer.state.erasures.iter().any(|(_, commit)| *commit > extent.first_commit);
        // A segment that gets no more events is ended by the clock.
        let is_aged = now.saturating_sub(extent.first_at) >= self.segment_millis;
        let is_due = is_aged && (extent.event_bytes > 0 || is_to_erase);
        if writer.front == 0
            || is_due
            || (is_to_erase && self.may_end_early())
            || self.is_to_end(now, &extent)
        {
            self.begin_segment(&mut writer, now)?;
        }
        drop(writer);
        let list = self.segments.list();
        if let [older @ .., _] = &list[..] {
            older
                .iter()
                .filter(|segment| !segment.is_sealed() || segment.is_unreadable() || segment.has_holes())
                .for_each(|segment| self.sealer.tend(segment.clone()));
        }
        self.segments.remove_left();
        if let Err(error) = self.damage.forget(Duration::from_millis(self.retention)) {
            tracing::warn!(%error, "an old copy of a damaged stretch cannot be removed yet");
        }
        Ok(())
    }

    fn erasures(&self) -> Vec<Erasure> {
        let writer = self.writer();
        let Some(newest) = self.segments.newest() else { return Vec::new() };
        // The newest segment holds no event of a commit before its first one.
        let first = newest.extent().first_commit;
        let ready = writer.state.erasures.iter().filter(|(_, commit)| *commit <= first);
        ready.map(|(erasure, _)| erasure.clone()).collect()
    }

    fn erase(&self, erasures: &[Erasure]) -> Result<(), StoreError> {
        self.erase_everywhere(erasures)
    }

    fn bytes(&self) -> u64 {
        self.segments.event_bytes()
    }

    fn usage(&self) -> Usage {
        // A commit may hold the lock for as long as the disk takes; then the figure before it counts.
        if let Ok(writer) = self.writer.try_lock() {
            let bytes = writer.state.memory() + writer.buffer.capacity();
            self.state_bytes.store(bytes as u64, Ordering::Relaxed);
        }
        let list = self.segments.list();
        let oldest = list.iter().map(|segment| segment.extent()).find(|extent| extent.event_bytes > 0);
        Usage {
            event_bytes: self.segments.event_bytes(),
            disk_bytes: self.disk_bytes(),
            damaged_bytes: self.damage.bytes(),
            free_bytes: Some(self.free.bytes()),
            memory_bytes: self.segments.memory() as u64 + self.state_bytes.load(Ordering::Relaxed),
            damaged: self.damage.count(),
            oldest_at: oldest.map(|extent| extent.first_at),
            ..Usage::default()
        }
    }
}

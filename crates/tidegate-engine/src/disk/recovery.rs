//! Opening a store: folds the newest segment, finds out whether everything that was acknowledged is there,
//! and whether files are missing (R11, R28).
//!
//! A loss shows in two ways: the last commit is below the head file's, or the numbers of the commits that
//! were read have a hole. In both cases this start is a lossy boundary for every org, and begins a new
//! segment, so that the next start does not find the same loss again. Damage to older segments is no such
//! case: the heads of all logs are known, and a reader gets a gap in its place.
//!
//! What a start has lost never comes back, because its numbers are given again: a segment that could not be read
//! is written anew without it.

use std::{
    collections::HashMap,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use tidegate_protocol::UnixMillis;

use super::{
    DiskOptions, DiskStore, Writer,
    damage::Damage,
    directory::{Directory, sync_dir},
    head_file::{Acknowledged, HeadFile},
    index::{self, Extent, Scan},
    read::{log_damage, note_holes},
    record::{self, FIRST_LOG, Header, IDS, Kind},
    records::Records,
    rewrite::{self, Edit},
    segment::Segment,
    segments::{self, Sealer, Segments},
    space::FreeSpace,
    state::State,
};
use crate::{
    chain::Start,
    clock::capped_millis,
    store::{Found, FoundId, FoundLog, Stopped, StoreError},
};

/// What the segments of a directory say.
struct Read {
    segments: Vec<Arc<Segment>>,
    state: State,
    /// Where the snapshot at the front of the newest segment ends; 0 if it has none.
    front: u64,
    /// If commits are missing among those that were read, the number of the first segment that was.
    holes_from: Option<u64>,
    /// Segments that should be there and are not.
    missing: Vec<u64>,
    /// Segments that were removed, and whose files are still there.
    gone: Vec<Arc<Segment>>,
}

/// A record, its payload as a place in the bytes of its segment.
pub type Placed = (Header, std::ops::Range<usize>);

/// The commits of a segment.
pub struct Commits {
    pub bytes: Vec<u8>,
    pub scan: Scan,
    /// The records of each, in order.
    pub commits: Vec<Vec<Placed>>,
}

/// Where a record begins and ends in its segment.
fn place((header, payload): &Placed) -> std::ops::Range<usize> {
    let begin = payload.start - record::HEADER;
    begin..begin + header.size()
}

fn is_whole(commit: &[Placed]) -> bool {
    let dense = commit.iter().enumerate().all(|(part, (header, _))| header.part as usize == part);
    dense && commit.last().is_some_and(|(header, _)| header.is_last)
}

impl Commits {
    /// All that are in `segment`, whole or not.
    pub fn of(segment: &Segment) -> Result<Self, StoreError> {
        let bytes = segment.contents()?;
        let mut records: Vec<Placed> = Vec::new();
        let scan = index::scan(&bytes, |header, payload| records.push((*header, payload)));
        let mut commits: Vec<Vec<Placed>> = Vec::new();
        for record in records {
            match commits.last_mut() {
                Some(commit) if commit.last().is_some_and(|(last, _)| last.commit == record.0.commit) => {
                    commit.push(record);
                }
                _ => commits.push(vec![record]),
            }
        }
        Ok(Self { bytes, scan, commits })
    }

    /// Whether these are the commits of a segment that could not be begun: its sync failed, or that of its directory,
    /// and its file could not be removed, or came back with a power cut. The log went on in the segment `before`, which
    /// therefore has a commit with the number of this one's snapshot.
    fn is_unbegun(&self, before: &Segment) -> Result<bool, StoreError> {
        let first = match &self.commits[..] {
            // No byte but zeros. It may also be a segment that a kill has left before its first write.
            [] => return Ok(self.scan.torn.is_none()),
            [snapshot] if self.has_snapshot() => snapshot[0].0.commit,
            _ => return Ok(false),
        };
        if !before.is_sealed() {
            before.adopt(&Self::of(before)?.scan);
        }
        Ok(before.extent().last_commit >= first)
    }

    fn has_snapshot(&self) -> bool {
        let first = self.commits.first();
        first.is_some_and(|commit| is_whole(commit) && commit[0].0.kind == Kind::Snapshot)
    }

    /// Drops a last commit that is not whole: it was never acknowledged. A power cut may have left its end and not
    /// its front, so a hole between it and the commit before is a part of it.
    pub fn drop_unfinished(&mut self) {
        let Some(last) = self.commits.pop_if(|commit| !is_whole(commit)) else { return };
        let Some((number, first)) = last.first().map(|record| (record.0.commit, place(record).start)) else {
            return;
        };
        let mut extent = Extent::default();
        for record in self.commits.iter().flatten() {
            extent.add(&record.0, place(record).end as u64);
        }
        let is_next = extent.last_commit == 0 || number == extent.last_commit + 1;
        let from = if is_next { usize::try_from(extent.end).unwrap_or(first) } else { first };
        let end = self.scan.torn.as_ref().map_or(self.bytes.len(), |torn| torn.end);
        self.scan.torn = Some(from..end);
        self.scan.holes.retain(|hole| hole.start < from);
        self.scan.entries.retain(|entry| (entry.offset as usize) < from);
        self.scan.extent = extent;
    }

    /// Where the snapshot at its front ends; 0 if it has none.
    fn front(&self) -> u64 {
        let last = self.commits.first().filter(|_| self.has_snapshot()).and_then(|commit| commit.last());
        last.map_or(0, |record| place(record).end as u64)
    }

    /// Takes over all of it. Says whether commits are missing.
    fn fold(&self, state: &mut State) -> bool {
        let mut has_hole = false;
        for commit in &self.commits {
            let number = commit[0].0.commit;
            has_hole |= state.commit > 0 && number > state.commit + 1;
            // What is left of a commit is right, of a snapshot too. But only a whole one says what there is not.
            let whole = is_whole(commit);
            has_hole |= !whole;
            if whole && commit[0].0.kind == Kind::Snapshot {
                state.logs.clear();
                state.erasures.clear();
            }
            for (header, payload) in commit {
                if let Err(error) = state.apply(header, &self.bytes[payload.clone()]) {
                    tracing::warn!(%error, commit = number, "a record of the log cannot be read");
                    has_hole = true;
                }
            }
        }
        has_hole
    }
}

/// What a fold of the newest segments gives.
pub struct Folded {
    pub state: State,
    /// Whether commits are missing.
    pub has_hole: bool,
    /// A segment that was taken off the list: it could not be begun ([`Commits::is_unbegun`]).
    pub unbegun: Option<Segment>,
}

/// Folds the newest segment that begins with a whole snapshot and all after it, and calls `each` for every one
/// of them, and says if it is the newest one.
pub fn fold(
    segments: &mut Vec<Segment>,
    mut each: impl FnMut(bool, &Segment, &Commits) -> Result<(), StoreError>,
) -> Result<Folded, StoreError> {
    // Usually only the newest one is needed, and it is read once. No more than two are in memory at a time.
    let mut kept = None;
    let mut unbegun = None;
    if let [.., before, newest] = &segments[..] {
        let mut commits = Commits::of(newest)?;
        if !newest.is_unreadable() && commits.is_unbegun(before)? {
            unbegun = segments.pop();
        } else {
            commits.drop_unfinished();
            kept = Some(commits);
        }
    }
    let segments = &segments[..];
    let newest = segments.len().saturating_sub(1);
    let of = |at: usize, kept: &mut Option<Commits>| {
        if let Some(commits) = kept.take_if(|_| at == newest) {
            return Ok(commits);
        }
        let mut commits = Commits::of(&segments[at])?;
        if at == newest {
            commits.drop_unfinished();
        }
        Ok::<_, StoreError>(commits)
    };
    let mut first = segments.len();
    let mut has_snapshot = false;
    while first > 0 && !has_snapshot {
        first -= 1;
        let commits = of(first, &mut kept)?;
        has_snapshot = commits.has_snapshot();
        kept = kept.or(Some(commits).filter(|_| first == newest));
    }
    let (mut state, mut has_hole) = (State::default(), false);
    for (at, segment) in segments.iter().enumerate().skip(first) {
        let commits = of(at, &mut kept)?;
        has_hole |= commits.fold(&mut state) || !commits.scan.holes.is_empty();
        // What cannot be read now may be commits that were acknowledged.
        has_hole |= segment.is_unreadable();
        each(at == newest, segment, &commits)?;
    }
    if let Some(oldest) = segments.first().filter(|_| !has_snapshot) {
        // What was removed before it cannot be known any more.
        state.cut = state.cut.max(oldest.number.saturating_sub(1));
    }
    Ok(Folded { state, has_hole, unbegun })
}

fn read(dir: &Path, damage: &Damage) -> Result<Read, StoreError> {
    segments::remove_unfinished(dir)?;
    let numbers = segments::numbers(dir)?;
    let mut segments = Vec::new();
    for number in &numbers {
        segments.push(Segment::open(dir, *number)?);
    }
    let mut front = 0;
    let mut folded = Vec::new();
    let mut given_up = Vec::new();
    let Folded { state, has_hole, unbegun } = fold(&mut segments, |is_newest, segment, commits| {
        folded.push(segment.number);
        if segment.is_unreadable() {
            give_up_unreadable(segment, commits, damage)?;
            given_up.push(segment.number);
        } else if is_newest {
            mend_end(segment, commits, damage)?;
            front = commits.front();
        } else if segment.is_sealed() {
            segment.add_holes(&commits.scan.holes);
        } else {
            segment.adopt(&commits.scan);
        }
        Ok(())
    })?;
    if let Some(unbegun) = unbegun {
        tracing::warn!(path = %unbegun.path().display(), "a file of the log that was never begun is passed over");
        if let Err(error) = unbegun.remove() {
            // The next segment takes its place.
            tracing::warn!(%error, "a file of the log that was never begun cannot be removed yet");
        }
    }
    for segment in segments.iter_mut().filter(|segment| given_up.contains(&segment.number)) {
        *segment = Segment::open(dir, segment.number)?;
    }
    let (gone, segments): (Vec<_>, Vec<_>) =
        segments.into_iter().map(Arc::new).partition(|segment| segment.number <= state.cut);
    seal_older(&segments, damage)?;
    let missing = missing(&numbers, &state);
    let holes_from = folded.first().copied().filter(|_| has_hole);
    Ok(Read { segments, state, front, holes_from, missing, gone })
}

/// Writes a segment anew with what could be read of it. The rest must not come back when it can be read again: this
/// start does not know its commits, so their seqs, and the numbers of logs that they made, are given again (P5).
fn give_up_unreadable(segment: &Segment, commits: &Commits, damage: &Damage) -> Result<(), StoreError> {
    let end = commits.scan.extent.end;
    let whole = usize::try_from(end).unwrap_or(usize::MAX).min(commits.bytes.len());
    let kept = rewrite::rewritten(&commits.bytes[..whole], |_, _| Ok(Edit::Keep))?;
    damage.keep_file(segment.number, segment.path());
    rewrite::put(segment.path(), &kept.bytes)?;
    damage.note(segment.number, end, &[]);
    tracing::error!(
        path = %segment.path().display(),
        "the end of the log cannot be read whole: the file was written anew without the rest, and the old one is in \
         damaged/; look after the disk"
    );
    Ok(())
}

/// Gives an index to those of the older segments that have none. Says if commits are missing at the end of one:
/// there the index was lost with them.
fn seal_older(segments: &[Arc<Segment>], damage: &Damage) -> Result<(), StoreError> {
    let older = segments.split_last().map_or(&[][..], |(_, older)| older);
    let without: Vec<u64> =
        older.iter().filter(|segment| !segment.is_sealed()).map(|segment| segment.number).collect();
    for segment in older.iter().filter(|segment| !segment.is_sealed() && segment.extent().end == 0) {
        segment.rebuild_index()?;
    }
    let mut last_commit = 0;
    for (segment, next) in older.iter().zip(segments.iter().skip(1)) {
        let (extent, first_of_next) = (segment.extent(), next.extent().first_commit);
        last_commit = extent.last_commit.max(last_commit);
        if !without.contains(&segment.number) {
            continue;
        }
        if last_commit > 0 && next.number == segment.number + 1 && first_of_next > last_commit + 1 {
            let length = usize::try_from(segment.disk_bytes().saturating_sub(extent.end)).unwrap_or(0);
            if damage.note(segment.number, extent.end, &segment.bytes_at(extent.end, length)) {
                log_damage(segment, extent.end, length);
            }
        }
        if let Err(error) = segment.seal() {
            tracing::warn!(%error, "a segment has no index on disk yet");
        }
    }
    Ok(())
}

/// Makes the newest segment end with its last whole commit.
fn mend_end(segment: &Segment, commits: &Commits, damage: &Damage) -> Result<(), StoreError> {
    segment.adopt(&commits.scan);
    if let Some(torn) = &commits.scan.torn {
        damage.set_aside(segment.number, torn.start as u64, &commits.bytes[torn.clone()]);
        tracing::warn!(
            path = %segment.path().display(),
            kept = commits.scan.extent.end,
            cut = torn.len(),
            "the log ends in a commit that is not whole; it was cut off and copied to damaged/"
        );
    }
    // Also what is no commit: the index, if it was sealed, and zeros.
    if segment.disk_bytes() > commits.scan.extent.end { segment.trim() } else { Ok(()) }
}

impl DiskStore {
    /// Opens the store in `options.dir`, or creates it.
    pub fn open(options: &DiskOptions, now: UnixMillis) -> Result<(Self, Found), StoreError> {
        let directory = Directory::take(&options.dir)?;
        let (head, acknowledged) = HeadFile::open(&directory.head())?;
        let dir = directory.segments();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| StoreError(format!("create {}: {error}", dir.display()).into()))?;
        sync_dir(&options.dir)?;
        let damage = Arc::new(Damage::new(directory.damaged()));
        let read = read(&dir, &damage)?;
        let dedup_window = capped_millis(options.local.dedup_window);
        let writer = Writer {
            state: read.state,
            buffer: Vec::new(),
            head_is_old: true,
            front: read.front,
            begin_at: None,
        };
        let store = Self {
            writer: Mutex::new(writer),
            head,
            segments: Segments::new(dir, read.segments, read.gone),
            sealer: Sealer::start(damage.clone())?,
            damage,
            free: FreeSpace::of(options.dir.clone()),
            hidden: RwLock::new(HashMap::new()),
            files: Mutex::new(()),
            rewriting: Mutex::new(()),
            held: Mutex::default(),
            is_to_end: AtomicBool::new(false),
            oldest: Mutex::default(),
            sync_always: options.sync_always,
            unsynced: AtomicBool::new(false),
            state_bytes: AtomicU64::new(0),
            segment_millis: options.segment_millis(),
            segment_bytes: options.segment_bytes(),
            segments_max: options.segments_max(),
            retention: capped_millis(options.retention).max(dedup_window),
            dedup_window,
            max_bytes: options.max_bytes,
            min_free: options.min_free,
            _directory: directory,
        };
        store.count_held()?;
        let erasures = store.writer().state.erasures.clone();
        erasures.iter().for_each(|(erasure, _)| store.hide(erasure, true));
        if !read.missing.is_empty() {
            tracing::error!(
                segments = ?read.missing,
                "files of the log are missing: readers get a gap in place of their events"
            );
        }
        store.segments.remove_left();
        let mut found = store.find(options, acknowledged, read.holes_from, now)?;
        store.segments.list().iter().for_each(|segment| note_holes(segment, &store.damage));
        found.missing = read.missing.len() as u64;
        found.damaged = store.damage.count();
        Ok((store, found))
    }

    /// Counts what each org holds in the segments that were found.
    fn count_held(&self) -> Result<(), StoreError> {
        let list = self.segments.list();
        for (at, segment) in list.iter().enumerate() {
            let ended = (at + 1 < list.len()).then(|| segment.extent().last_at);
            self.held().found(segment.number, &segment.held()?, ended);
        }
        Ok(())
    }

    fn find(
        &self,
        options: &DiskOptions,
        acknowledged: Acknowledged,
        holes_from: Option<u64>,
        now: UnixMillis,
    ) -> Result<Found, StoreError> {
        let mut writer = self.writer();
        let before =
            writer.state.start.unwrap_or(Start { clean: true, sync_always: true, ..Start::default() });
        let lossy = is_lossy(acknowledged, &writer.state, holes_from.is_some());
        if let Acknowledged::Commit(commit) = acknowledged {
            // No number is given twice.
            writer.state.commit = writer.state.commit.max(commit);
        }
        let unsynced = is_unsynced(&before);
        // The record of the start before may be lost.
        let known = if lossy { writer.state.last_start() } else { 0 };
        let number = before.number.max(known) + 1;
        let last_lossy = if lossy || unsynced { number } else { before.last_lossy };
        let start = Start { number, last_lossy, clean: false, sync_always: options.sync_always };
        if lossy {
            // In the snapshot, so that the loss is known also if this start ends before its first commit. So that of
            // the newest segment does not count any more.
            writer.state.start = Some(start);
            writer.front = 0;
            // Logs that are lost had numbers, which must not be given again (P5). The time is above all of them: no
            // node makes 65,536 orgs in a millisecond.
            writer.state.next_index = writer.state.next_index.max(writer.state.at << 16);
        }
        // A start that was killed may have left no snapshot either, or there is no segment.
        if writer.front == 0 {
            // The time of the commit clock, if there is one already: this start may have a wrong wall clock.
            let at = if writer.state.at > 0 { writer.state.at } else { now };
            self.begin_segment(&mut writer, at)?;
            let newest = self.newest()?;
            if newest.is_sealed() {
                let sentence = format!(
                    "begin the log: no new file can be begun after {}, which was written anew without what could not \
                     be read; see the log line before",
                    newest.path().display()
                );
                return Err(StoreError(sentence.into()));
            }
        }
        if unsynced {
            tracing::warn!(
                "the log was not stopped cleanly and was synced each second only: acknowledged events may be \
                 lost, and every reader gets a gap"
            );
        }
        let clock = writer.state.at;
        Ok(Found {
            logs: found_logs(&writer.state),
            clock,
            next_index: writer.state.next_index.max(FIRST_LOG),
            // Not by the wall clock, which may be wrong at this start. The committer knows which ids are left.
            ids: self.find_ids(&writer.state, clock, holes_from)?,
            start,
            stopped: match before.number {
                0 => Stopped::Never,
                _ if before.clean => Stopped::Cleanly,
                _ => Stopped::Uncleanly,
            },
            ..Found::default()
        })
    }

    /// The ids of the dedup window, newest first. They are kept by commit, and the times of commits never
    /// fall, so this reads the window and no more.
    fn find_ids(
        &self,
        state: &State,
        now: UnixMillis,
        holes_from: Option<u64>,
    ) -> Result<Vec<FoundId>, StoreError> {
        let mut found = Vec::new();
        let list = self.segments.list();
        'segments: for (at, segment) in list.iter().enumerate().rev() {
            let has_holes = holes_from.is_some_and(|number| number <= segment.number);
            for entries in segment.entries(IDS, 0, usize::MAX)?.rchunks(1024) {
                let records: Vec<_> = Records::new(segment, entries).collect();
                for (entry, record) in entries.iter().zip(records).rev() {
                    let Some((header, payload)) = record else {
                        self.note_damage(segment, entry);
                        continue;
                    };
                    if header.at + self.dedup_window <= now {
                        break 'segments;
                    }
                    for id in record::decode_ids(header.at, &payload)?.into_iter().rev() {
                        if is_known(state, &id) && (!has_holes || has_event(state, &id, &list[..=at])?) {
                            found.push(id);
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Whether the log of an id is there, up to its event: it may have been deleted, or its end may be lost.
fn is_known(state: &State, id: &FoundId) -> bool {
    state.logs.get(&id.log).is_some_and(|log| id.id.seq <= log.head)
}

/// Whether the event of an id is in `segments`, or was before retention removed it. An id is in the same segment as
/// its event, or in a later one.
fn has_event(state: &State, id: &FoundId, segments: &[Arc<Segment>]) -> Result<bool, StoreError> {
    let seq = id.id.seq;
    if state.logs.get(&id.log).is_some_and(|log| seq <= log.floor) {
        return Ok(true);
    }
    for segment in segments.iter().rev() {
        if segment.entries(id.log, seq, 1)?.first().is_some_and(|entry| entry.first <= seq) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_lossy(acknowledged: Acknowledged, state: &State, has_hole: bool) -> bool {
    let is_lossy = is_below(acknowledged, state) || has_hole;
    if is_lossy {
        tracing::warn!(
            ?acknowledged,
            recovered = state.commit,
            has_hole,
            "the log has lost acknowledged commits: what is left is kept, and every reader gets a gap"
        );
    }
    is_lossy
}

/// Whether more was acknowledged than is there, or that cannot be known.
pub fn is_below(acknowledged: Acknowledged, state: &State) -> bool {
    match acknowledged {
        Acknowledged::Commit(commit) => state.commit < commit,
        // It was created with the directory, so somebody removed it. Without it, it cannot be shown that
        // nothing is lost.
        Acknowledged::Missing | Acknowledged::Unreadable => state.start.is_some(),
    }
}

/// Whether the start before this one may have left commits that were acknowledged and not synced.
pub fn is_unsynced(before: &Start) -> bool {
    !before.clean && !before.sync_always
}

/// The numbers up to the newest segment's that no file has.
pub fn missing(numbers: &[u64], state: &State) -> Vec<u64> {
    let newest = numbers.last().copied().unwrap_or(0);
    (state.cut + 1..=newest).filter(|number| numbers.binary_search(number).is_err()).collect()
}

fn found_logs(state: &State) -> Vec<FoundLog> {
    let logs = state.logs.iter().map(|(index, log)| FoundLog {
        org: log.org.clone(),
        index: *index,
        head: log.head,
        floor: log.floor,
        last_timestamp: log.last_timestamp,
        touched: log.touched,
    });
    logs.collect()
}

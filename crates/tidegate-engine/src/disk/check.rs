//! Looking through the directory of a log that no node uses, without changing anything: what is whole, what is
//! damaged, what is missing (R28, R31). [`repair`](super::repair) mends what this finds. Both return plain data
//! and print nothing; `tidegate log check` prints.
//!
//! A segment is read whole, and one at a time.

use std::{
    collections::HashMap,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tidegate_protocol::{OrgId, Seq};

use super::{
    directory::Directory,
    head_file::{self, Acknowledged, Looked},
    record::{self, Header, Kind},
    recovery::{self, Commits, Folded},
    segment::{Segment, file_name},
    segments,
    state::State,
};
use crate::store::{LogIndex, StoreError};

/// The most places, and the most holes of one org, that a report lists. All are counted.
pub const LISTED_MAX: usize = 1000;

/// Which part of the work is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The log is looked through.
    Check,
    /// Damaged segments are written anew.
    Repair,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done now. Each phase counts from 0.
    pub phase: Phase,
    /// Bytes of segments that are done.
    pub done: u64,
    /// Bytes of all segments.
    pub total: u64,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many segments there are.
    pub segments: u64,
    /// The bytes of their files.
    pub bytes: u64,
    /// The orgs that have a log, by name.
    pub orgs: Vec<OrgReport>,
    /// Stretches of segments that hold no whole record, up to [`LISTED_MAX`] of them. One of no bytes is the end of
    /// a file that was cut short.
    pub damaged: Vec<Place>,
    /// How many there are.
    pub damaged_count: u64,
    /// Segments whose files are missing.
    pub missing: Vec<PathBuf>,
    /// Segments without a whole index.
    pub indexes: Vec<IndexReport>,
    /// The end of the newest segment, if it is a commit that is not whole. That is what a crash leaves. If the
    /// commit had been acknowledged, `head` says so.
    pub torn: Option<Place>,
    /// The head file.
    pub head: HeadReport,
    /// Whether the file that names the format is damaged or missing.
    pub is_format_damaged: bool,
    /// Whether the next start may have lost acknowledged events, so that every reader gets a gap: it finds damage
    /// in the segments that it reads, or a log that was synced each second was not stopped cleanly.
    pub is_lossy: bool,
}

/// The log of one org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgReport {
    /// Whose.
    pub org: OrgId,
    /// The highest seq that retention removed.
    pub floor: Seq,
    /// The last seq.
    pub head: Seq,
    /// How many events can be read.
    pub events: u64,
    /// How many seqs between floor and head are missing. Those of deleted events are not.
    pub missing: u64,
    /// The same as ranges, up to [`LISTED_MAX`] of them. Readers get a gap there.
    pub holes: Vec<RangeInclusive<Seq>>,
}

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as a path in the log directory.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// A segment without a whole index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexReport {
    /// The file, as a path in the log directory.
    pub file: PathBuf,
    /// Whether there is one that is damaged. If not, a crash came before it was written, which is no fault.
    pub is_damaged: bool,
}

/// What the head file says of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadReport {
    /// The log holds all that was acknowledged.
    #[default]
    Whole,
    /// The log ends before the last commit that was acknowledged.
    Ahead {
        /// That commit.
        acknowledged: u64,
        /// The last one in the log.
        found: u64,
    },
    /// One of its two copies of the number is damaged. The other one counts, and the log holds all of it.
    HalfDamaged,
    /// It is damaged, so it is not known whether the log holds all that was acknowledged.
    Damaged,
    /// It is missing, with the same effect.
    Missing,
}

impl Report {
    /// Whether nothing is damaged, and nothing missing that a start would not know of. Holes whose cause is gone
    /// (it was repaired) do not count, nor does what a crash leaves.
    pub fn is_whole(&self) -> bool {
        self.damaged_count == 0
            && self.missing.is_empty()
            && !self.indexes.iter().any(|index| index.is_damaged)
            && self.head == HeadReport::Whole
            && !self.is_format_damaged
    }

    /// Whether there is nothing to mend either.
    pub fn is_spotless(&self) -> bool {
        self.is_whole() && self.indexes.is_empty() && self.torn.is_none()
    }

    fn add_damage(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            self.damaged_count += 1;
            if self.damaged.len() < LISTED_MAX {
                self.damaged.push(place);
            }
        }
    }

    /// How many events can be read.
    pub fn events(&self) -> u64 {
        self.orgs.iter().map(|org| org.events).sum()
    }

    /// How many seqs are missing.
    pub fn missing_events(&self) -> u64 {
        self.orgs.iter().map(|org| org.missing).sum()
    }
}

/// Why a check or a repair did not come to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckError {
    /// The log could not be looked through. Nothing was changed.
    #[error(transparent)]
    NotChecked(StoreError),
    /// The log was looked through and could not be mended. The repair can be tried again.
    #[error(transparent)]
    NotMended(StoreError),
}

/// Looks through the log in `dir`, which no process may use meanwhile.
pub fn check(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report, CheckError> {
    check_and_take(dir, true, progress).map(|(report, _)| report).map_err(CheckError::NotChecked)
}

/// The same; the lock is returned too, and held until it is dropped.
pub(super) fn check_and_take(
    dir: &Path,
    is_to_read: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Report, Directory), StoreError> {
    let segments_dir = dir.join("segments");
    if !dir.join("format").exists() && !segments_dir.exists() {
        let sentence =
            format!("there is no log in {}; log.dir or --data-dir names its directory", dir.display());
        return Err(StoreError(sentence.into()));
    }
    let directory = Directory::lock(dir, is_to_read)?;
    let format = Directory::has_format(dir);
    let mut report = Report { is_format_damaged: format.is_err(), ..Report::default() };
    // A first start that was killed early has left no segments.
    let numbers = if segments_dir.exists() { segments::numbers(&segments_dir)? } else { Vec::new() };
    let mut found = Vec::new();
    for number in &numbers {
        found.push(Segment::open_to_read(&segments_dir, *number)?);
    }
    if let Err(refusal) = format {
        // Only its own records show that it is a log of this version.
        let mut holds = false;
        for segment in &found {
            holds = holds || record::find(&segment.contents()?, 0).is_some();
        }
        if !holds {
            return Err(refusal);
        }
    }
    let Folded { state, has_hole, .. } = recovery::fold(&mut found, |_, _, _| Ok(()))?;
    let looked = head_file::look(&directory.head())?;
    report.head = head(looked, &state);
    report.is_lossy = has_hole
        || recovery::is_below(looked.acknowledged, &state)
        || state.start.as_ref().is_some_and(recovery::is_unsynced);
    report.missing = recovery::missing(&numbers, &state).into_iter().map(file_of).collect();
    // Those that were to be removed and are still there hold nothing.
    found.retain(|segment| segment.number > state.cut);
    let mut total = 0;
    for segment in &found {
        total += segment.file_bytes()?;
    }
    report.segments = found.len() as u64;
    report.bytes = total;
    let mut covered = Covered::new(&state);
    // The number and the end of the segment before, if it has no index that says where it ends.
    let mut open_end: Option<(u64, u64)> = None;
    let (mut done, mut commit) = (0, 0);
    progress(Progress { phase: Phase::Check, done, total });
    for (at, segment) in found.iter().enumerate() {
        let examined = Examined::of(segment, at + 1 == found.len())?;
        let extent = examined.commits.scan.extent;
        if let Some((number, end)) = open_end.filter(|(number, _)| number + 1 == segment.number)
            && extent.first_commit > commit + 1
        {
            report.add_damage([Place { file: file_of(number), offset: end, bytes: 0 }]);
        }
        commit = commit.max(extent.last_commit);
        let is_open = !segment.is_sealed()
            && examined.damaged.last().is_none_or(|place| place.end as u64 <= extent.end);
        open_end = is_open.then_some((segment.number, extent.end));
        examined.report(segment.number, &mut report);
        for (header, payload) in examined.commits.commits.iter().flatten() {
            if header.kind == Kind::Events {
                // What cannot be decoded is a damaged place.
                let _ = covered.add(header.log, &examined.commits.bytes[payload.clone()]);
            }
        }
        done += segment.file_bytes()?;
        progress(Progress { phase: Phase::Check, done, total });
    }
    report.orgs = covered.finish(&state);
    Ok((report, directory))
}

fn head(looked: Looked, state: &State) -> HeadReport {
    match looked.acknowledged {
        Acknowledged::Commit(commit) if commit > state.commit => {
            HeadReport::Ahead { acknowledged: commit, found: state.commit }
        }
        Acknowledged::Commit(_) if looked.slots < 2 => HeadReport::HalfDamaged,
        Acknowledged::Commit(_) => HeadReport::Whole,
        // Nothing was acknowledged before the first start is written.
        _ if state.start.is_none() => HeadReport::Whole,
        Acknowledged::Missing => HeadReport::Missing,
        Acknowledged::Unreadable => HeadReport::Damaged,
    }
}

fn file_of(number: u64) -> PathBuf {
    Path::new("segments").join(file_name(number))
}

/// What is in a segment, and what is wrong with it.
pub(super) struct Examined {
    pub commits: Commits,
    /// Stretches without a whole record where one should be.
    pub damaged: Vec<Range<usize>>,
    torn: Option<Range<usize>>,
    /// That there is no whole index: whether it is damaged.
    index: Option<bool>,
}

impl Examined {
    /// Reads `segment`.
    pub fn of(segment: &Segment, is_newest: bool) -> Result<Self, StoreError> {
        let is_sealed = segment.is_sealed();
        let mut commits = Commits::of(segment)?;
        if is_newest {
            commits.drop_unfinished();
        }
        let scan = &commits.scan;
        let end = usize::try_from(scan.extent.end).unwrap_or(usize::MAX);
        let mut damaged = scan.holes.clone();
        for (header, payload) in commits.commits.iter().flatten() {
            if !decodes(header, &commits.bytes[payload.clone()]) {
                let from = payload.start - record::HEADER;
                damaged.push(from..from + header.size());
            }
        }
        let torn = match &scan.torn {
            // The index says where the records end, so all up to there is what they were.
            _ if is_sealed => {
                let rest = end..commits.bytes.len();
                damaged.extend(Some(rest).filter(|rest| !rest.is_empty()));
                None
            }
            Some(torn) if is_newest => Some(torn.clone()),
            Some(torn) => {
                // The index begins with a small number, a record does not.
                let is_index = commits.bytes[torn.clone()].starts_with(&[0; 4]);
                damaged.extend(Some(torn.clone()).filter(|_| !is_index));
                None
            }
            None => None,
        };
        damaged.sort_unstable_by_key(|place| place.start);
        let index = if is_sealed {
            (!segment.index_matches()).then_some(true)
        } else if is_newest {
            None
        } else {
            let sealed = Segment::sealed_bytes(scan.extent.end, &scan.entries);
            Some(scan.torn.is_some() && segment.file_bytes()? == sealed)
        };
        Ok(Self { commits, damaged, torn, index })
    }

    /// Whether there is nothing to mend.
    pub fn is_spotless(&self) -> bool {
        self.damaged.is_empty() && self.index.is_none()
    }

    fn report(&self, number: u64, report: &mut Report) {
        let place = |range: &Range<usize>| Place {
            file: file_of(number),
            offset: range.start as u64,
            bytes: range.len() as u64,
        };
        report.add_damage(self.damaged.iter().map(place));
        report.torn = report.torn.take().or(self.torn.as_ref().map(place));
        report.indexes.extend(self.index.map(|is_damaged| IndexReport { file: file_of(number), is_damaged }));
    }
}

/// Whether the content of a whole record can be read. If not, this version did not write it.
pub(super) fn decodes(header: &Header, payload: &[u8]) -> bool {
    match header.kind {
        Kind::Events => {
            let payload = Bytes::copy_from_slice(payload);
            record::places(&payload).all(|place| match place {
                Ok((seq, Some(range))) => record::decode_event(seq, payload.slice(range), None).is_ok(),
                Ok((_, None)) => true,
                Err(_) => false,
            }) && record::bounds(&payload).is_ok()
        }
        Kind::Ids => record::decode_ids(header.at, payload).is_ok(),
        Kind::Log => record::decode_log(payload).is_ok(),
        Kind::Start => record::decode_start(payload).is_ok(),
        Kind::Erase => record::decode_erasure(payload).is_ok(),
        Kind::Floor | Kind::Cut => payload.len() == 8,
        Kind::Forgotten | Kind::Snapshot | Kind::Erased => true,
    }
}

/// Which seqs of each log are there.
struct Covered(HashMap<LogIndex, OrgReport>);

impl Covered {
    /// None yet. While segments are read, the head of a report is the last seq that was found.
    fn new(state: &State) -> Self {
        let reports = state.logs.iter().map(|(index, log)| {
            let (org, floor) = (log.org.clone(), log.floor);
            (*index, OrgReport { org, floor, head: floor, events: 0, missing: 0, holes: Vec::new() })
        });
        Self(reports.collect())
    }

    /// Counts the events of a record in. Those of an org that was forgotten do not count.
    fn add(&mut self, log: LogIndex, payload: &[u8]) -> Result<(), StoreError> {
        let Some(report) = self.0.get_mut(&log) else { return Ok(()) };
        let (first, last) = record::bounds(payload)?;
        report.skip_to(first);
        for place in record::places(payload) {
            let (seq, range) = place?;
            report.events += u64::from(range.is_some() && seq > report.head);
        }
        report.head = report.head.max(last);
        Ok(())
    }

    fn finish(self, state: &State) -> Vec<OrgReport> {
        let mut reports: Vec<OrgReport> = Vec::with_capacity(self.0.len());
        for (index, mut report) in self.0 {
            let head = state.logs.get(&index).map_or(0, |log| log.head);
            report.skip_to(head + 1);
            reports.push(report);
        }
        reports.sort_unstable_by(|a, b| a.org.as_str().cmp(b.org.as_str()));
        reports
    }
}

impl OrgReport {
    /// Notes that the log goes on at `seq`: those between are missing.
    fn skip_to(&mut self, seq: Seq) {
        if seq <= self.head + 1 {
            return;
        }
        let hole = self.head + 1..=seq - 1;
        self.missing += seq - self.head - 1;
        self.head = seq - 1;
        if self.holes.len() < LISTED_MAX {
            self.holes.push(hole);
        }
    }
}

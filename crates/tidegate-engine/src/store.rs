//! Stores: where a [`LocalEngine`](super::LocalEngine) keeps its logs.
//!
//! A store holds bytes and answers reads; it decides nothing. Seqs, epochs, dedup and retention are
//! decided by the committer, so that memory and disk cannot differ in them.
//!
//! All times that a store is given are those of the commit clock (R30). They never fall, across restarts too,
//! and do not leap ahead before the leap is believed, so a store needs no care for clocks that are set.

use std::{sync::Arc, time::Duration};

use tidegate_core::{ContentHash, DedupKey, Event};
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::{
    chain::{Chain, Start},
    quotas::StoredQuotas,
};

/// The number of an org within one store: given at creation, never given again.
pub type LogIndex = u64;

/// Why a store failed: a sentence for the operator.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub Arc<str>);

impl StoreError {
    /// "verb object: cause".
    pub fn new(what: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {cause}").into())
    }
}

/// What the dedup window has to know of an event whose publisher gave the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenId {
    /// Its seq.
    pub seq: Seq,
    /// Its key.
    pub key: DedupKey,
    /// Its content.
    pub content: ContentHash,
}

/// One log's part of a group.
#[derive(Debug, Clone)]
pub struct LogWrite {
    /// Whose log.
    pub org: OrgId,
    /// Its number.
    pub index: LogIndex,
    /// Its epochs, if this group begins an incarnation of it.
    pub chain: Option<Chain>,
    /// The last seq, these events included.
    pub head: Seq,
    /// The timestamp of the last event, 0 if there is none.
    pub last_timestamp: UnixMillis,
    /// In seq order.
    pub events: Vec<Arc<Event>>,
    /// The ids among them that publishers gave, and the names of requests (R12).
    pub ids: Vec<GivenId>,
}

/// Content that is to be removed from every file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The log.
    pub log: LogIndex,
    /// These events of it, in rising order; `None` for the whole log.
    pub seqs: Option<Vec<Seq>>,
}

impl Erasure {
    /// Whether it names an event of its log with a seq in [`first`, `last`].
    pub fn names_any(&self, first: Seq, last: Seq) -> bool {
        let Some(seqs) = &self.seqs else { return true };
        seqs.get(seqs.partition_point(|seq| *seq < first)).is_some_and(|seq| *seq <= last)
    }
}

/// Everything that one commit writes: kept together or not at all.
#[derive(Debug, Clone, Default)]
pub struct WriteGroup {
    /// The time of the commit clock (R30): never below that of the group before, nor below
    /// [`Found::clock`].
    pub at: UnixMillis,
    /// At most one entry per log.
    pub logs: Vec<LogWrite>,
    /// Floors to raise, before the events below them go.
    pub floors: Vec<(LogIndex, Seq)>,
    /// The [`Cut::token`] of the cut that these floors are for; 0 if there is none.
    pub cut: u64,
    /// Logs to forget whole.
    pub forgotten: Vec<(LogIndex, OrgId)>,
    /// The start record, at open and at a clean stop.
    pub start: Option<Start>,
    /// Erasures, each with whether it was carried out: false notes that it is to be.
    pub erasures: Vec<(Erasure, bool)>,
}

impl WriteGroup {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
            && self.floors.is_empty()
            && self.cut == 0
            && self.forgotten.is_empty()
            && self.start.is_none()
            && self.erasures.is_empty()
    }

    /// How many events it holds.
    pub fn events(&self) -> usize {
        self.logs.iter().map(|log| log.events.len()).sum()
    }
}

/// A log that was found in the store.
#[derive(Debug, Clone)]
pub struct FoundLog {
    /// Whose.
    pub org: OrgId,
    /// Its number.
    pub index: LogIndex,
    /// Its last seq.
    pub head: Seq,
    /// The highest seq removed.
    pub floor: Seq,
    /// The timestamp of its last event.
    pub last_timestamp: UnixMillis,
    /// The time of the commit that last wrote to it.
    pub touched: UnixMillis,
}

/// An id in the dedup window, as the log remembers it.
#[derive(Debug, Clone, Copy)]
pub struct FoundId {
    /// The time of its commit.
    pub at: UnixMillis,
    /// The log that it was given in.
    pub log: LogIndex,
    /// The id.
    pub id: GivenId,
}

/// What a store held when it was opened.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Its logs.
    pub logs: Vec<FoundLog>,
    /// The number for the next new log.
    pub next_index: LogIndex,
    /// The ids of the dedup window, newest first: at least those that were given within the window before
    /// `clock`.
    pub ids: Vec<FoundId>,
    /// This start, to be written before anything else.
    pub start: Start,
    /// The time of the newest commit, 0 if there is none.
    pub clock: UnixMillis,
    /// How the start before it ended.
    pub stopped: Stopped,
    /// Files of the log that are missing.
    pub missing: u64,
    /// Stretches that were found damaged.
    pub damaged: u64,
}

/// How the last use of a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stopped {
    /// There was none: the log is new.
    #[default]
    Never,
    /// By `close`.
    Cleanly,
    /// By a crash, a kill or a power cut.
    Uncleanly,
}

impl Stopped {
    /// A word for log lines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Cleanly => "cleanly",
            Self::Uncleanly => "uncleanly",
        }
    }
}

/// What an engine found when it was opened, for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How many times the log was opened, this time included.
    pub start: u64,
    /// How its last use ended.
    pub stopped: Stopped,
    /// Whether acknowledged events may be missing, so that readers get a gap.
    pub lossy: bool,
    /// How many orgs have a log.
    pub orgs: usize,
    /// How many events can be read back, if none is missing.
    pub events: u64,
    /// Files of the log that are missing.
    pub missing: u64,
    /// Stretches that were found damaged at this start.
    pub damaged: u64,
}

impl Found {
    /// The same in numbers.
    pub fn recovery(&self) -> Recovery {
        Recovery {
            start: self.start.number,
            stopped: self.stopped,
            lossy: self.start.last_lossy == self.start.number,
            orgs: self.logs.len(),
            events: self.logs.iter().map(|log| log.head.saturating_sub(log.floor)).sum(),
            missing: self.missing,
            damaged: self.damaged,
        }
    }
}

/// Events that retention would remove: those up to a seq, per log.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// The new floors.
    pub floors: Vec<(LogIndex, Seq)>,
    /// The store's own name for the cut.
    pub token: u64,
}

/// The events that were read of a log, and how far that was.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// Where it begins, exclusive: the seq asked for, or a higher one if the events in between are not there
    /// (R28).
    pub after: Seq,
    /// In seq order.
    pub events: Vec<Arc<Event>>,
    /// The seq up to which these are all events: the one asked for, or the last event's if a limit was
    /// reached.
    pub to: Seq,
}

/// What a log takes and has, for the operator. The store gives its part, the engine the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The events that are kept.
    pub event_bytes: u64,
    /// The files with the log.
    pub disk_bytes: u64,
    /// Copies of damaged stretches.
    pub damaged_bytes: u64,
    /// What the file system has left; `None` if there is none.
    pub free_bytes: Option<u64>,
    /// Indexes and the state of orgs, in memory.
    pub memory_bytes: u64,
    /// How many damaged stretches are known since this start.
    pub damaged: u64,
    /// The oldest event that is kept is not older than this; `None` if there is none, or if the store does not
    /// know.
    pub oldest_at: Option<UnixMillis>,
    /// How far the time of commits is ahead of the wall clock (R30).
    pub clock_ahead: Duration,
    /// Ids in the dedup window.
    pub ids: u64,
    /// The memory that they take.
    pub ids_bytes: u64,
    /// Events that wait to be written.
    pub queue_bytes: u64,
}

/// Why there is no room for events: a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoRoom(pub Arc<str>);

/// Whether a log may take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// It may.
    Granted,
    /// It holds more than its share, and older events of it will make room.
    OverShare,
    /// It holds more than its share of what the file system gives, and nothing is removed for that.
    NoRoom,
}

/// Keeps logs.
pub trait Store: Send + Sync + 'static {
    /// The epochs of a log that was found at open.
    fn chain(&self, index: LogIndex) -> Option<Chain>;

    /// Makes sure that a group of about `bytes` can be written. If it cannot, for now, says why; then nothing
    /// of it may be committed (R32).
    fn make_room(&self, bytes: u64) -> Result<(), NoRoom> {
        let _ = bytes;
        Ok(())
    }

    /// Whether the log of `org` may take `bytes` more now, for which other orgs' events need not go (P5). `beside` is
    /// what others in the same group take. `index` is its number, if it has one.
    fn may_grow(
        &self,
        now: UnixMillis,
        index: Option<LogIndex>,
        org: &OrgId,
        bytes: u64,
        beside: u64,
    ) -> Result<Growth, StoreError> {
        let _ = (now, index, org, bytes, beside);
        Ok(Growth::Granted)
    }

    /// Keeps `group`, whole or not at all, as durably as the store's policy says by the time that it
    /// returns. Called from one thread. After an error the store is never written to again. If there was no
    /// room, nothing of the group is kept, and the next one may be tried.
    fn commit(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError>;

    /// Notes that the last commit is about to be acknowledged.
    fn acknowledge(&self) -> Result<(), StoreError>;

    /// Syncs what a weaker policy has left unsynced. Called each second from the committing thread.
    fn sync(&self) -> Result<(), StoreError>;

    /// Reads the events of a log in (`after`, `to`], until there are `events` of them or the next would
    /// make their fragments more than `bytes`, or events are missing; at least one event if there is one.
    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError>;

    /// Whether `read` may wait for a disk.
    fn blocks(&self) -> bool;

    /// The next events that retention removes at `now`; `None` if there are none. A sweep asks again,
    /// with a higher `round`, until there are none.
    fn plan_cut(&self, now: UnixMillis, round: usize) -> Result<Option<Cut>, StoreError>;

    /// Removes the events of `cut`, whose floors are committed and visible by now.
    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError>;

    /// Whether `plan_cut` is cheap enough to be called after every commit.
    fn cuts_on_write(&self) -> bool;

    /// The next events that go because the store is larger than it may be and their logs hold more than their share;
    /// `None` if there are none. May read a lot; never called from the committing thread.
    fn plan_share_cut(&self, now: UnixMillis) -> Result<Option<Cut>, StoreError> {
        let _ = now;
        Ok(None)
    }

    /// Removes the events of such a cut, whose floors are committed and visible by now, as long as `goes_on` says so.
    /// May take long; never called from the committing thread. What is left over is for `finish_share_cuts`.
    fn apply_share_cut(&self, cut: &Cut, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let _ = (cut, goes_on);
        Ok(())
    }

    /// Removes what earlier share cuts have left below the floors, as long as `goes_on` says so. May take long; never
    /// called from the committing thread.
    fn finish_share_cuts(&self, goes_on: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let _ = goes_on;
        Ok(())
    }

    /// Sets how much each org may hold while others want the room.
    fn set_quotas(&self, quotas: StoredQuotas) {
        let _ = quotas;
    }

    /// The bytes that a log takes, in the store's own measure.
    fn held(&self, index: LogIndex) -> u64 {
        let _ = index;
        0
    }

    /// Called with the node's time in each sweep, from the committing thread.
    fn tick(&self, now: UnixMillis) -> Result<(), StoreError>;

    /// Erasures that were committed and can be carried out now. Others wait until the store is ready for them.
    fn erasures(&self) -> Vec<Erasure> {
        Vec::new()
    }

    /// Removes content from every file. May take long; never called from the committing thread. After it
    /// the committer notes that it was done.
    fn erase(&self, erasures: &[Erasure]) -> Result<(), StoreError> {
        let _ = erasures;
        Ok(())
    }

    /// What the store takes and has, for the operator. It does not wait for a commit.
    fn usage(&self) -> Usage {
        Usage { event_bytes: self.bytes(), ..Usage::default() }
    }

    /// The bytes of the events that are kept, in the store's own measure.
    fn bytes(&self) -> u64;
}

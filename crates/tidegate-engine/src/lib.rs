//! Engines store logs. This is the one `dyn` of the gateway; `memory` and `disk` stand behind it,
//! and one conformance suite runs over both.
//!
//! An engine gives each org a log: it appends whole batches, answers once they are kept (P3),
//! hands every committed event to the node's [`Feed`] in seq order (R13), and reads pages back.

mod chain;
mod committer;
mod dedup;
mod disk;
pub mod local;
mod memory;
mod queue;
mod staged;
pub mod store;
mod sweep;

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tidegate_core::{Event, LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq};

pub use chain::{ANCESTORS_MAX, Chain, Start};
pub use disk::{DiskOptions, DiskStore};
pub use local::{Clock, Hooks, LocalEngine, LocalOptions, MemoryOptions, SyncObserver, SystemClock};
pub use memory::MemoryStore;

/// The place of one event of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAt {
    /// Its seq; for a duplicate, the seq of the first.
    pub seq: Seq,
    /// Whether it was stored before, and so not stored again (R12).
    pub duplicate: bool,
}

/// A batch that is in the log.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The epoch that the seqs belong to.
    pub epoch: tidegate_protocol::Epoch,
    /// One per event, in order.
    pub stored: Vec<StoredAt>,
}

/// Why a batch was not appended. All but [`AppendError::Unknown`] mean: certainly not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The event at this index reuses an id with other content.
    #[error("the id of event {index} was used for other content within the dedup window, {first}")]
    IdConflict {
        /// Which event of the batch.
        index: usize,
        /// Where the first one stands; `None` where it is in the same batch.
        first: FirstUse,
    },
    /// The dedup window has no room for the ids of this batch.
    #[error("the dedup window is full")]
    DedupFull,
    /// The org has as many ids in the dedup window as one org may have.
    #[error("this org has as many ids in the dedup window as one org may have")]
    OrgDedupFull,
    /// As many requests wait for the log as may.
    #[error("as many requests wait for the log as may")]
    TooManyWaiting,
    /// The requests that wait for the log hold as many bytes as they may.
    #[error("the requests that wait for the log hold as many bytes as they may")]
    TooMuchWaiting,
    /// The node holds as many orgs as it may.
    #[error("the node holds as many orgs as limits.orgs allows")]
    TooManyOrgs,
    /// The log takes no writes since a failed sync; a restart recovers it.
    #[error("the log takes no writes since a failed sync")]
    Halted,
    /// The log could give no seq below 2^53.
    #[error("the log has used up its seqs")]
    SeqsUsedUp,
    /// It may be stored or not; the same ids can be sent again.
    #[error("whether the batch was stored is not known")]
    Unknown,
}

/// Where a conflicting id was first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstUse {
    /// In the log, at this seq.
    Seq(Seq),
    /// Earlier in the same batch, at this index.
    Index(usize),
}

impl fmt::Display for FirstUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FirstUse::Seq(seq) => write!(f, "at seq {seq}"),
            FirstUse::Index(index) => write!(f, "by event {index} of this batch"),
        }
    }
}

/// How much one page may hold. At least one event comes where there is one.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// Events at most.
    pub events: usize,
    /// Bytes of fragments at most (the first event comes whole).
    pub bytes: usize,
    /// Nothing past this seq.
    pub to: Seq,
}

/// A stretch of a log: all its events in (`after`, `to`], `after` being raised to the floor where
/// retention has removed what came behind the seq asked for.
#[derive(Debug, Clone)]
pub struct Page {
    /// Where the stretch begins (exclusive).
    pub after: Seq,
    /// Where it ends: the last seq looked at, not the last event found. Never below `after`: where
    /// retention has removed all that was asked for, both are the floor.
    pub to: Seq,
    /// The events, in seq order.
    pub events: Vec<Arc<Event>>,
}

/// Why a page could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The node does not hold this log.
    #[error("no such log")]
    NoLog,
    /// The store failed.
    #[error("read the log: {0}")]
    Store(Arc<str>),
}

/// How an engine keeps what it acknowledges, as `hello.sync` and `/readyz` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk before the answer.
    Always,
    /// Handed to the operating system before the answer, synced within an interval.
    Interval,
    /// In memory only.
    Memory,
}

impl Durability {
    /// The name of a policy weaker than always; `None` for always.
    pub fn weaker(self) -> Option<&'static str> {
        match self {
            Durability::Always => None,
            Durability::Interval => Some("interval"),
            Durability::Memory => Some("memory"),
        }
    }
}

/// Takes what an engine has committed. Called in seq order per org, from one thread at a time per
/// org, after the sync and around the time that the publisher is answered; must not block.
pub trait Feed: Send + Sync + 'static {
    /// `events` follow on `prev` in the log of `org`.
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]);

    /// Whether the org has readers, so that its log may not be forgotten (R10).
    fn has_readers(&self, org: &OrgId) -> bool;
}

/// Stores logs.
pub trait Engine: Send + Sync + 'static {
    /// Appends `events` to the log of `org`, all or none, and resolves once they are kept. The log
    /// is created where there is none.
    fn append(&self, org: &OrgId, events: Vec<NewEvent>)
    -> BoxFuture<'static, Result<Appended, AppendError>>;

    /// Opens the log of `org` for reading and resolves to its state. A log that does not exist is
    /// created, durably, so that its epoch outlives a restart even while it is empty.
    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>>;

    /// The state of a log that the node holds, at once. `None` also for a log that an earlier start
    /// left and nothing has touched since: its epoch of this start does not exist until `open` or
    /// `append` draws it.
    fn head(&self, org: &OrgId) -> Option<LogState>;

    /// Reads the events after `after`, up to `limit`.
    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>>;

    /// Drops what retention no longer keeps and forgets idle orgs whole. Called each minute, off
    /// the async workers; may block.
    fn sweep(&self);

    /// Why the log takes no writes, if it does not.
    fn halted(&self) -> Option<Arc<str>>;

    /// How acknowledged events are kept.
    fn durability(&self) -> Durability;

    /// Stops taking appends, finishes what is queued, syncs, and marks the stop as clean. Blocks.
    fn close(&self);
}

#[cfg(test)]
mod tests;

//! What a [`LocalEngine`](super::LocalEngine) keeps its logs in.
//!
//! A store holds bytes and answers reads; it decides nothing. Seqs, epochs, dedup and retention are
//! decided by the committer, so that memory and disk cannot differ in them.

use std::sync::Arc;

use tidegate_core::{ContentHash, DedupKey, Event};
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::chain::{Chain, Start};

/// The number of an org within one store: given at creation, never given again.
pub type LogIndex = u64;

/// Why a store could not do what was asked: a sentence for the operator.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub Arc<str>);

impl StoreError {
    /// "verb object: cause".
    pub fn new(what: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {cause}").into())
    }
}

/// What the dedup window must know of an event whose publisher gave the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenId {
    /// Where it stands.
    pub seq: Seq,
    /// Its key.
    pub key: DedupKey,
    /// Its content.
    pub content: ContentHash,
}

/// What one group adds to one log.
#[derive(Debug, Clone)]
pub struct LogWrite {
    /// Whose log.
    pub org: OrgId,
    /// Its number.
    pub index: LogIndex,
    /// Its epochs, where this group begins a life of it.
    pub chain: Option<Chain>,
    /// The last seq, these events included.
    pub head: Seq,
    /// The timestamp of the last event, 0 where there is none.
    pub last_timestamp: UnixMillis,
    /// In seq order.
    pub events: Vec<Arc<Event>>,
    /// The ids among them that publishers gave.
    pub ids: Vec<GivenId>,
}

/// All that one commit writes: kept together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The node's time.
    pub at: UnixMillis,
    /// At most one entry per log.
    pub logs: Vec<LogWrite>,
    /// Floors to raise, before the events below them go.
    pub floors: Vec<(LogIndex, Seq)>,
    /// Logs to forget whole.
    pub forgotten: Vec<(LogIndex, OrgId)>,
    /// The start record, at open and at a clean stop.
    pub start: Option<Start>,
}

impl Group {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.floors.is_empty() && self.forgotten.is_empty() && self.start.is_none()
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
    /// When it was last written to, by the node's time.
    pub touched: UnixMillis,
}

/// An id in the dedup window, as the log remembers it.
#[derive(Debug, Clone, Copy)]
pub struct FoundId {
    /// The node's time at its commit.
    pub at: UnixMillis,
    /// The log that it was given in; 0 where that is not known any more.
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
    /// The ids of the dedup window, oldest first.
    pub ids: Vec<FoundId>,
    /// This start, to be written before anything else.
    pub start: Start,
}

/// What retention would remove: events up to a seq, per log.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    /// The new floors.
    pub floors: Vec<(LogIndex, Seq)>,
    /// The store's own name for what goes.
    pub token: u64,
}

/// Keeps logs.
pub trait Store: Send + Sync + 'static {
    /// The epochs of a log that was found at open.
    fn chain(&self, org: &OrgId) -> Result<Option<Chain>, StoreError>;

    /// Keeps `group`, whole or not at all; as durable as the store's policy says once it returns.
    /// Called from one thread. After an error the store is never written to again.
    fn commit(&self, group: &Group) -> Result<(), StoreError>;

    /// Notes that the last commit is about to be acknowledged.
    fn acknowledge(&self) -> Result<(), StoreError>;

    /// Syncs what a weaker policy has left behind. Called each second from the committing thread.
    fn sync(&self) -> Result<(), StoreError>;

    /// The events of a log in (`after`, `to`], in order, until one of the limits is reached; at
    /// least one where there is one.
    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<Event>>, StoreError>;

    /// Whether `read` may wait for a disk.
    fn blocks(&self) -> bool;

    /// What is to be removed by now. `None` where nothing is. A sweep asks again, with a higher
    /// `round`, until nothing is.
    fn plan_cut(&self, now: UnixMillis, round: usize) -> Result<Option<Cut>, StoreError>;

    /// Removes what `cut` named; its floors are committed and published.
    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError>;

    /// Whether `plan_cut` is cheap enough to be asked after every commit.
    fn cuts_on_write(&self) -> bool;

    /// Called with the node's time in each sweep, from the committing thread.
    fn tick(&self, now: UnixMillis) -> Result<(), StoreError>;

    /// What the events kept take, in the store's own measure.
    fn bytes(&self) -> u64;
}

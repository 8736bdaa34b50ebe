//! What an append is answered with.

use std::fmt;

use tidegate_protocol::{Epoch, Seq};

/// Where one event of an append stands in the log.
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
    pub epoch: Epoch,
    /// One entry per event, in the order of the batch. The seqs of the new events rise; a duplicate has
    /// the seq of the first event with its id.
    pub stored: Vec<StoredAt>,
}

/// Why a batch was not appended. All but [`AppendError::Unknown`] mean: certainly not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The event at this index reuses an id with other content.
    #[error("the id of event {index} was used for other content within the dedup window, {first}")]
    IdConflict {
        /// Which event of the batch, counted from 0.
        index: usize,
        /// Where the id was used first.
        first: FirstUse,
    },
    /// The batch is a request whose name was used for another one.
    #[error(
        "the request has the Idempotency-Key of another one within the dedup window, whose first event is at seq {first}"
    )]
    RequestConflict {
        /// The seq of the other request's first event.
        first: Seq,
    },
    /// The dedup window has no room for the ids of this batch, or the org has its share of the window.
    #[error("the dedup window is full, or this org has its share of it")]
    DedupFull,
    /// The org has as many ids in the dedup window as one org may have.
    #[error("this org has as many ids in the dedup window as one org may have")]
    OrgDedupFull,
    /// The queue for the log has no room for another request, or the org has its share of the queue.
    #[error("as many requests wait for the log as may, of this org or of all")]
    TooManyWaiting,
    /// The queue for the log has no room for the bytes of this request, or the org has its share of them.
    #[error("the requests that wait for the log hold as many bytes as they may, those of this org or of all")]
    TooMuchWaiting,
    /// There is no room for events: the disk is nearly full, or the log takes as much as it may (R32). Ends by
    /// itself when there is room.
    #[error("the log has no room for more events")]
    LogFull,
    /// The org stores more than its share of the log, and its older events do not make room for this batch yet (P5).
    /// Ends by itself.
    #[error(
        "this org stores its share of the log; there is room again when events of it that are older than the dedup \
         window have been removed"
    )]
    OrgLogFull,
    /// The node holds as many orgs as it may.
    #[error("the node holds as many orgs as limits.orgs allows")]
    TooManyOrgs,
    /// The log takes no writes: a sync has failed ([`Health::Halted`](crate::Health::Halted)), or
    /// the engine is closed.
    #[error("the log takes no writes since a failed sync")]
    Halted,
    /// The batch would need a seq that is not below 2^53.
    #[error("the log has used up its seqs")]
    SeqsUsedUp,
    /// The batch may be stored or not. It is safe to send the same ids again.
    #[error("whether the batch was stored is not known")]
    Unknown,
}

impl AppendError {
    /// The configuration key of the bound that was reached, if it was one.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            AppendError::DedupFull => Some("dedup.max_entries"),
            AppendError::OrgDedupFull => Some("dedup.max_entries_per_org"),
            AppendError::TooManyWaiting => Some("limits.publishes_in_flight"),
            AppendError::TooMuchWaiting => Some("limits.publish_queue_bytes"),
            AppendError::TooManyOrgs => Some("limits.orgs"),
            AppendError::OrgLogFull => Some("log.max_bytes"),
            AppendError::IdConflict { .. }
            | AppendError::RequestConflict { .. }
            | AppendError::LogFull
            | AppendError::Halted
            | AppendError::SeqsUsedUp
            | AppendError::Unknown => None,
        }
    }
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

/// Why nothing was deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// The engine does not hold this log.
    #[error("no such org")]
    NoLog,
    /// The log has none of these events.
    #[error("no such event")]
    NoEvent,
    /// There is no room even for the record of the deletion.
    #[error("the log has no room to note what is to be deleted")]
    LogFull,
    /// The log takes no writes.
    #[error("the log takes no writes since a failed sync")]
    Halted,
    /// It may have been deleted or not. It is safe to ask again.
    #[error("whether it was deleted is not known")]
    Unknown,
}

//! Pages: how a log is read back.

use std::sync::Arc;

use tidegate_core::Event;
use tidegate_protocol::Seq;

/// How much one page may hold. A page holds at least one event if there is one to read.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// The most events; 0 counts as 1.
    pub events: usize,
    /// The most bytes of fragments; the first event comes whole, whatever its size.
    pub bytes: usize,
    /// The last seq that may be read.
    pub to: Seq,
}

/// A stretch of a log: exactly its events in (`after`, `to`] (R9).
#[derive(Debug, Clone)]
pub struct Page {
    /// Where the stretch begins, exclusive: the seq that was asked for, or the log's floor if that is
    /// higher. In the second case retention has removed the events in between.
    pub after: Seq,
    /// Where the stretch ends: the seq up to which the log was looked through, which need not be that
    /// of an event. Never below `after`; if retention has removed all that was asked for, both are
    /// the floor. A page that reached neither `events` nor `bytes`
    /// of its limit ends at [`PageLimit::to`] or at the head, whichever is lower; another one ends at or
    /// after its last event and before the next one.
    pub to: Seq,
    /// The events, in seq order.
    pub events: Vec<Arc<Event>>,
}

/// Why a page could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The engine does not hold this log.
    #[error("no such log")]
    NoLog,
    /// The store failed.
    #[error("read the log: {0}")]
    Store(Arc<str>),
}

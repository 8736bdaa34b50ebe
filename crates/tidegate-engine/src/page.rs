//! Pages: how a log is read back.

use std::sync::Arc;

use tidegate_core::Event;
use tidegate_protocol::Seq;

/// How much one page may hold. A page holds at least one event if there is one to read.
#[derive(Debug, Clone, Copy)]
pub struct PageLimit {
    /// The most events; 0 counts as 1.
    pub events: usize,
    /// The most bytes of events. A first event that is larger comes whole.
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
    /// Where the stretch ends, inclusive: the seq up to which the log was searched, which need not be
    /// that of an event. If the page has reached `events` or `bytes` of its limit, it ends at its last
    /// event, or between that and the next one. Otherwise it ends at [`PageLimit::to`] or at the head,
    /// whichever is lower. It never ends below `after`: if retention has removed all that was asked for,
    /// both are the floor.
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

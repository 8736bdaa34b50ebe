//! What a log says of itself: its epochs, its head and its floor (R9 to R11).

use tidegate_protocol::{Epoch, Seq};

/// An earlier life of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its epoch.
    pub epoch: Epoch,
    /// The last seq that the log held when this life ended and the next began.
    pub end: Seq,
    /// Whether acknowledged events past `end` may have been lost at that border.
    pub lossy: bool,
}

/// The state of one org's log at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The epoch of this life.
    pub epoch: Epoch,
    /// Earlier lives, oldest first; `end` rises along it. Bounded: the oldest fall out.
    pub ancestors: Vec<Ancestor>,
    /// Whether the log is known to have begun empty under the oldest epoch listed here *and* in
    /// this life, so that nothing in it can have been seen under an epoch that is not listed.
    pub born_empty: bool,
    /// The highest seq given and kept, 0 before the first.
    pub head: Seq,
    /// The highest seq removed by retention, 0 where none was: a cursor below it has a gap (R9).
    pub floor: Seq,
}

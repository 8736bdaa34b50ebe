//! The state of a log: its epochs, its head and its floor (R9 to R11).

use tidegate_protocol::{Epoch, Seq};

/// An earlier incarnation of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its epoch.
    pub epoch: Epoch,
    /// The last seq of the log when this incarnation ended and the next began.
    pub end: Seq,
    /// Whether acknowledged events after `end` may have been lost at that boundary.
    pub lossy: bool,
}

/// The state of one org's log at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The epoch of this incarnation.
    pub epoch: Epoch,
    /// Earlier incarnations, oldest first, with rising `end`. Bounded: the oldest are dropped.
    pub ancestors: Vec<Ancestor>,
    /// Whether this incarnation is known to have begun empty, and no earlier one is listed: then nothing in
    /// the log can have been seen under an unknown epoch.
    pub born_empty: bool,
    /// The highest seq assigned and kept; 0 before the first.
    pub head: Seq,
    /// The highest seq removed by retention, 0 if none was. A cursor below it gets a gap (R9).
    pub floor: Seq,
}

impl LogState {
    /// Whether `epoch` is one of this log: its own, or that of an earlier incarnation that it still lists.
    pub fn knows(&self, epoch: &Epoch) -> bool {
        self.epoch == *epoch || self.ancestors.iter().any(|ancestor| ancestor.epoch == *epoch)
    }
}

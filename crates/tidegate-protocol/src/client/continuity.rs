//! What a frame does to a reader's cursor (R2, R3; PROTOCOL.md, "Continuity").

use crate::{Cursor, GapReason, Seq};

/// What an event, batch or ping frame over `(prev, seq]` means to a reader (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Something between the cursor and the frame is missing.
    Hole,
    /// The reader has everything up to `seq` already.
    Seen,
    /// The frame moves the cursor to `seq`.
    Advance,
}

impl Continuity {
    /// Compares a frame with the reader's cursor.
    pub fn of(cursor: Seq, prev: Seq, seq: Seq) -> Self {
        if prev > cursor {
            Self::Hole
        } else if seq <= cursor {
            Self::Seen
        } else {
            Self::Advance
        }
    }
}

/// R3: the cursor after a `hello` that starts at `start`, where the connection begins to account for events.
/// `None` if that is above the reader's own cursor: something would be lost silently.
pub(super) fn after_hello(cursor: Option<&Cursor>, start: Cursor) -> Option<Cursor> {
    match cursor {
        Some(cursor) if start.seq > cursor.seq => None,
        Some(cursor) => Some(Cursor { seq: cursor.seq, ..start }),
        None => Some(start),
    }
}

/// What a `gap` frame means to a reader.
pub(super) enum AfterGap {
    /// Frames before the gap were lost on the way: a reader that resumes gets their events, and then the gap
    /// again.
    Hole,
    /// The reader knows already that these events will not come; only the cursor's epoch and tag change.
    Known(Cursor),
    /// The application has to know.
    News(Cursor),
}

/// R2: a gap over (`prev`, `to.seq`] comes before any comparison of its seq, and sets the cursor's epoch and
/// tag. Only a gap with reason `epoch` may lower the cursor's seq.
pub(super) fn after_gap(cursor: &Cursor, prev: Seq, to: Cursor, reason: &str) -> AfterGap {
    // `prev` belongs to the epoch of the cursor, so the two can be compared.
    if prev > cursor.seq {
        return AfterGap::Hole;
    }
    if reason == GapReason::Epoch.name() {
        return AfterGap::News(to);
    }
    // A gap that ends at or before the cursor is no news, unless the filter has changed.
    let is_news = to.seq > cursor.seq || reason == GapReason::Filter.name();
    let after = Cursor { seq: to.seq.max(cursor.seq), ..to };
    if is_news { AfterGap::News(after) } else { AfterGap::Known(after) }
}

//! Where a stream starts, and which gaps will be due on its way (R3, R4, R9, R11).
//!
//! An *incarnation* of a log is the part of a log that was written under one epoch. Incarnations are numbered
//! here: 0 is the oldest of [`LogState::ancestors`], and the present one comes after the last of them.
//! Between two incarnations is a *boundary*, at the `end` of the earlier one. It is *lossy* if acknowledged
//! events may have been lost there, otherwise *clean* (R11).

use std::collections::VecDeque;

use tidegate_protocol::{Cursor, Epoch, Filter, FilterTag, GapReason, Seq};

use crate::LogState;

/// The start that a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The events from now on.
    Head,
    /// The events after this seq, which belongs to the present epoch. For `tail=N` (the reader asks for the
    /// last N events).
    Seq(Seq),
    /// The events after a cursor that the reader presents.
    Cursor(Cursor),
}

/// A gap that must be declared when the reader gets to `at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The position before the gap, in the epoch before it.
    pub at: Seq,
    /// The position after the gap.
    pub seq: Seq,
    /// The epoch of `seq`.
    pub epoch: Epoch,
    /// The filter tag of the reader's cursor after the gap (it stands for the filter that the cursor is made
    /// for).
    pub tag: FilterTag,
    /// Why.
    pub reason: GapReason,
}

/// The start of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// `hello.cursor`: the position from which the stream accounts for every event. It is before all gaps
    /// that are due (R3).
    pub cursor: Cursor,
    /// Gaps to declare, in the order of their positions.
    pub dues: VecDeque<Due>,
    /// Whether a cursor was presented and the stream goes on from it without a gap. A gap with reason
    /// `filter` does not count here, nor does a gap that is due at a later position.
    pub resumed: bool,
}

/// Plans the stream of a reader with `filter` that asks for `from`, on `log` as it is now.
pub fn open(log: &LogState, filter: &Filter, from: From) -> Opening {
    let tag = filter.tag().clone();
    let presented = match from {
        From::Head => return fresh(log, tag, log.head),
        From::Seq(seq) => return fresh(log, tag, seq.clamp(log.floor, log.head)),
        From::Cursor(cursor) => cursor,
    };
    let mut plan = Plan { log, dues: VecDeque::new(), tag };
    // `hello` has the newest epoch that can be reached without a gap: the stream crosses clean boundaries at
    // once, up to the first lossy one. If the cursor kept its old epoch, its seq would soon be above the end
    // of that incarnation, and the next resume would get a gap.
    let incarnation = plan.incarnation_of(&presented.epoch);
    let epoch = match incarnation {
        Some(incarnation) if presented.seq <= plan.end(incarnation) => plan.epoch(plan.run_from(incarnation)),
        _ => presented.epoch.clone(),
    };
    let presented_tag = presented.tag.clone().unwrap_or_else(|| plan.tag.clone());
    if presented_tag != plan.tag {
        plan.due(presented.seq, presented.seq, epoch.clone(), GapReason::Filter);
    }
    let resumed = match incarnation {
        Some(incarnation) => plan.go(incarnation, presented.seq),
        None => {
            // The cursor's epoch is unknown. If this log is known to have begun empty in its present epoch,
            // no client can have seen any of its events under another epoch, so the stream goes on at its
            // oldest event. Otherwise the client may have seen any of its events, so the stream goes on at
            // the head.
            let seq = if log.born_empty { log.floor } else { log.head };
            plan.due(presented.seq, seq, log.epoch.clone(), GapReason::Epoch);
            false
        }
    };
    let cursor = Cursor { epoch, seq: presented.seq, tag: Some(presented_tag) };
    Opening { cursor, dues: plan.dues, resumed }
}

fn fresh(log: &LogState, tag: FilterTag, seq: Seq) -> Opening {
    let cursor = Cursor { epoch: log.epoch.clone(), seq, tag: Some(tag) };
    Opening { cursor, dues: VecDeque::new(), resumed: false }
}

struct Plan<'a> {
    log: &'a LogState,
    dues: VecDeque<Due>,
    tag: FilterTag,
}

impl Plan<'_> {
    /// Adds the gaps on the way from `seq` of `incarnation` to the head. Returns false if one of them is due
    /// at `seq` itself, otherwise true.
    fn go(&mut self, incarnation: usize, seq: Seq) -> bool {
        let (log, end) = (self.log, self.end(incarnation));
        let (mut reached, mut at, mut resumed) = (incarnation, seq, true);
        if seq > end || seq < log.floor {
            // Above the end: the client saw events that were lost later (or no gateway made this cursor).
            // Below the floor: retention has removed the next events. One gap leads to `at`, and crosses all
            // boundaries up to there.
            let reason = if seq > end { GapReason::Epoch } else { GapReason::Retention };
            at = end.min(seq).max(log.floor);
            let crossed = log.ancestors.iter().skip(incarnation).take_while(|ancestor| ancestor.end <= at);
            reached = self.run_from(incarnation + crossed.count());
            resumed = false;
            self.due(seq, at, self.epoch(reached), reason);
        }
        for boundary in reached..log.ancestors.len() {
            if log.ancestors[boundary].lossy {
                let end = log.ancestors[boundary].end.max(at);
                resumed &= end > seq;
                self.due(end, end, self.epoch(self.run_from(boundary + 1)), GapReason::Epoch);
            }
        }
        resumed
    }

    fn incarnation_of(&self, epoch: &Epoch) -> Option<usize> {
        if *epoch == self.log.epoch {
            return Some(self.log.ancestors.len());
        }
        self.log.ancestors.iter().position(|incarnation| incarnation.epoch == *epoch)
    }

    fn epoch(&self, incarnation: usize) -> Epoch {
        self.log.ancestors.get(incarnation).map_or(&self.log.epoch, |ancestor| &ancestor.epoch).clone()
    }

    fn end(&self, incarnation: usize) -> Seq {
        self.log.ancestors.get(incarnation).map_or(self.log.head, |ancestor| ancestor.end)
    }

    /// The last incarnation that follows `incarnation` without a lossy boundary in between.
    fn run_from(&self, incarnation: usize) -> usize {
        let later = self.log.ancestors.iter().skip(incarnation);
        incarnation + later.take_while(|ancestor| !ancestor.lossy).count()
    }

    fn due(&mut self, at: Seq, seq: Seq, epoch: Epoch, reason: GapReason) {
        self.dues.push_back(Due { at, seq, epoch, tag: self.tag.clone(), reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ancestor;
    use tidegate_protocol::ServiceName;

    fn epoch(text: &str) -> Epoch {
        Epoch::parse(text).expect("an epoch")
    }

    fn log(ancestors: &[(&str, Seq, bool)], head: Seq, floor: Seq) -> LogState {
        let ancestors: Vec<_> =
            ancestors.iter().map(|&(name, end, lossy)| Ancestor { epoch: epoch(name), end, lossy }).collect();
        LogState { epoch: epoch("now"), born_empty: ancestors.is_empty(), ancestors, head, floor }
    }

    /// Opens with the untagged cursor and prints hello's position and the gaps due.
    fn plan(log: &LogState, cursor: &str) -> String {
        let opening = open(log, &Filter::all(), From::Cursor(cursor.parse().expect("a cursor")));
        let mut text = format!("{}-{}", opening.cursor.epoch, opening.cursor.seq);
        for due in opening.dues {
            text += &format!(" | at {} {} to {}-{}", due.at, due.reason.name(), due.epoch, due.seq);
        }
        text + if opening.resumed { " | resumed" } else { "" }
    }

    #[test]
    fn r3_hello_stands_where_accounting_starts() {
        let log = log(&[], 200, 0);
        assert_eq!(plan(&log, "now-100"), "now-100 | resumed");
        assert_eq!(open(&log, &Filter::all(), From::Head).cursor.seq, 200);
        assert_eq!(open(&log, &Filter::all(), From::Seq(150)).cursor.seq, 150);
    }

    #[test]
    fn r4_another_filter_tag_is_a_gap_that_moves_nothing() {
        let only = Filter::only([ServiceName::parse("a").expect("a name")].into());
        let presented = Cursor { epoch: epoch("now"), seq: 5, tag: Some(only.tag().clone()) };
        let opening = open(&log(&[], 9, 0), &Filter::all(), From::Cursor(presented.clone()));
        assert_eq!(opening.cursor, presented, "hello keeps the presented tag until the gap");
        let due = &opening.dues[0];
        assert_eq!((due.at, due.seq, due.reason), (5, 5, GapReason::Filter));
        assert_eq!(due.tag, *Filter::all().tag());
    }

    #[test]
    fn r9_a_cursor_has_a_gap_exactly_below_the_floor() {
        let log = log(&[], 90, 50);
        assert_eq!(plan(&log, "now-49"), "now-49 | at 49 retention to now-50");
        assert_eq!(plan(&log, "now-50"), "now-50 | resumed");
        assert_eq!(plan(&log, "now-51"), "now-51 | resumed");
    }

    #[test]
    fn r10_an_unknown_epoch_starts_at_the_oldest_of_a_log_born_empty() {
        assert_eq!(plan(&log(&[], 3, 0), "gone-500"), "gone-500 | at 500 epoch to now-0");
        assert_eq!(plan(&log(&[("a", 1, false)], 3, 0), "gone-500"), "gone-500 | at 500 epoch to now-3");
    }

    #[test]
    fn r11_ancestors_go_on_unless_something_may_be_lost() {
        let clean = log(&[("a", 10, false), ("b", 20, false)], 30, 0);
        assert_eq!(plan(&clean, "a-7"), "now-7 | resumed");
        assert_eq!(plan(&clean, "a-10"), "now-10 | resumed");
        assert_eq!(plan(&clean, "a-11"), "a-11 | at 11 epoch to now-10");
        assert_eq!(plan(&clean, "b-21"), "b-21 | at 21 epoch to now-20");
        assert_eq!(plan(&clean, "now-31"), "now-31 | at 31 epoch to now-30");

        let lossy = log(&[("a", 10, true), ("b", 20, false), ("c", 25, true)], 30, 0);
        assert_eq!(plan(&lossy, "a-7"), "a-7 | at 10 epoch to c-10 | at 25 epoch to now-25 | resumed");
        assert_eq!(plan(&lossy, "a-10"), "a-10 | at 10 epoch to c-10 | at 25 epoch to now-25");
        assert_eq!(plan(&lossy, "a-12"), "a-12 | at 12 epoch to c-10 | at 25 epoch to now-25");
        assert_eq!(plan(&lossy, "b-12"), "c-12 | at 25 epoch to now-25 | resumed");
        assert_eq!(plan(&lossy, "now-27"), "now-27 | resumed");
    }

    #[test]
    fn r11_retention_past_a_boundary_declares_both_at_once() {
        let log = log(&[("a", 10, true), ("b", 20, true)], 40, 15);
        assert_eq!(plan(&log, "a-7"), "a-7 | at 7 retention to b-15 | at 20 epoch to now-20");
        assert_eq!(plan(&log, "a-12"), "a-12 | at 12 epoch to b-15 | at 20 epoch to now-20");
    }
}

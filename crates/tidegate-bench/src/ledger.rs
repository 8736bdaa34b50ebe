//! A reader's ledger: the next event that it expects from each publisher, and its position in the log.
//! An event that does not match is counted as missing, duplicate, out of order, or as a hole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidegate_protocol::client::Continuity;

use crate::{
    digest::{Digest, MessageKind},
    event::Mark,
};

/// Counts of what readers received, summed over readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Events received for the first time.
    pub delivered: u64,
    /// Events received again.
    pub duplicates: u64,
    /// Events received after a later event of the same publisher.
    pub reordered: u64,
    /// Gaps: ranges of the log that the server declared lost.
    pub gaps: u64,
    /// Holes: frames whose `prev` is above the reader's cursor, which means undeclared loss.
    pub holes: u64,
    /// Messages with events.
    pub frames: u64,
    /// The sum of the squares of how many events each of them held.
    pub frame_squares: u64,
    /// Frames whose events the reader had all received before, by their seq. The protocol allows them.
    pub repeated_frames: u64,
}

impl Counts {
    /// Adds the counts of another reader.
    pub fn add(&mut self, other: &Counts) {
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.gaps += other.gaps;
        self.holes += other.holes;
        self.frames += other.frames;
        self.frame_squares += other.frame_squares;
        self.repeated_frames += other.repeated_frames;
    }

    /// The average number of events in a message.
    pub fn events_per_frame(&self) -> f64 {
        self.delivered as f64 / self.frames.max(1) as f64
    }

    /// The standard deviation of the number of events in a message.
    pub fn frame_deviation(&self) -> f64 {
        let mean_square = self.frame_squares as f64 / self.frames.max(1) as f64;
        (mean_square - self.events_per_frame().powi(2)).max(0.0).sqrt()
    }
}

/// The ledger of one reader, over all its connections.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The next number that is expected, by publisher.
    next: Vec<u32>,
    /// Ranges of numbers below `next` that were not received: from (publisher, first number) to the number
    /// after the last. A server that drops thousands in a row costs one entry.
    missing: BTreeMap<(u16, u32), u32>,
    /// The seq that the reader has reached, if the server numbers its events.
    cursor: Option<u64>,
}

impl Ledger {
    /// The seq that the reader has reached.
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The server says where the stream starts. A new reader takes that as its position. For a reader with a
    /// position, a start after it is a hole.
    pub fn begin(&mut self, seq: u64, counts: &mut Counts) {
        match self.cursor {
            None => self.cursor = Some(seq),
            Some(cursor) if seq > cursor => {
                counts.holes += 1;
                self.cursor = Some(seq);
            }
            Some(_) => {}
        }
    }

    /// Takes a message, and calls `fresh` with each event that was not received before.
    pub fn take(&mut self, digest: &Digest, counts: &mut Counts, mut fresh: impl FnMut(&Mark)) {
        if !digest.marks.is_empty() {
            counts.frames += 1;
            counts.frame_squares += (digest.marks.len() as u64).pow(2);
        }
        let mut above = None;
        if let (Some((prev, seq)), Some(cursor)) = (digest.span, self.cursor) {
            if let MessageKind::Gap { .. } = digest.kind {
                counts.gaps += 1;
                self.cursor = Some(seq);
                return;
            }
            match Continuity::of(cursor, prev, seq) {
                // The events in between are found missing by their numbers; the reader goes on.
                Continuity::Hole => counts.holes += 1,
                Continuity::Seen => {
                    if !digest.marks.is_empty() {
                        counts.repeated_frames += 1;
                    }
                    return;
                }
                Continuity::Advance => {}
            }
            self.cursor = Some(seq);
            above = digest.seqs.first().is_some_and(|first| *first <= cursor).then_some(cursor);
        } else if let MessageKind::Gap { .. } = digest.kind {
            counts.gaps += 1;
        }
        let fits = above.is_none()
            && !digest.sequences.is_empty()
            && digest.sequences.iter().all(|sequence| self.next(sequence.publisher) == sequence.first);
        if fits {
            for sequence in &digest.sequences {
                self.next[usize::from(sequence.publisher)] += sequence.count;
            }
            counts.delivered += digest.marks.len() as u64;
            digest.marks.iter().for_each(fresh);
            return;
        }
        for (index, mark) in digest.marks.iter().enumerate() {
            let seen = above.is_some_and(|cursor| digest.seqs.get(index).is_some_and(|seq| *seq <= cursor));
            if !seen && self.take_one(mark, counts) {
                fresh(mark);
            }
        }
    }

    fn next(&mut self, publisher: u16) -> u32 {
        let index = usize::from(publisher);
        if index >= self.next.len() {
            self.next.resize(index + 1, 0);
        }
        self.next[index]
    }

    fn take_one(&mut self, mark: &Mark, counts: &mut Counts) -> bool {
        let next = self.next(mark.publisher);
        if mark.number < next {
            if self.find(mark.publisher, mark.number) {
                counts.reordered += 1;
                counts.delivered += 1;
                return true;
            }
            counts.duplicates += 1;
            return false;
        }
        if mark.number > next {
            self.missing.insert((mark.publisher, next), mark.number);
        }
        self.next[usize::from(mark.publisher)] = mark.number + 1;
        counts.delivered += 1;
        true
    }

    /// Removes a number from the missing ones. False if it was not missing.
    fn find(&mut self, publisher: u16, number: u32) -> bool {
        let stretch = self.missing.range((publisher, 0)..=(publisher, number)).next_back();
        let Some((&(_, first), &end)) = stretch.filter(|(_, end)| number < **end) else { return false };
        self.missing.remove(&(publisher, first));
        if first < number {
            self.missing.insert((publisher, first), number);
        }
        if number + 1 < end {
            self.missing.insert((publisher, number + 1), end);
        }
        true
    }

    /// How many of the `sent` events (a count by publisher) were not received, without the `excused` ones.
    pub fn missing(&self, sent: &[u32], excused: &BTreeSet<(u16, u32)>) -> u64 {
        let holes: u64 = self
            .missing
            .iter()
            .map(|((publisher, first), end)| {
                let excused = excused.range((*publisher, *first)..(*publisher, *end)).count() as u64;
                u64::from(end - first) - excused
            })
            .sum();
        let tails: u64 = sent
            .iter()
            .enumerate()
            .map(|(publisher, sent)| {
                let (publisher, next) = (publisher as u16, self.next.get(publisher).copied().unwrap_or(0));
                let excused = excused.range((publisher, next)..(publisher, (*sent).max(next))).count() as u64;
                u64::from(sent.saturating_sub(next)).saturating_sub(excused)
            })
            .sum();
        holes + tails
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sequence;

    /// A frame over `span` with events of (publisher, number, seq).
    fn frame(span: Option<(u64, u64)>, events: &[(u16, u32, u64)]) -> Digest {
        let mut sequences: Vec<Sequence> = Vec::new();
        let mut in_order = true;
        for (publisher, number, _) in events {
            match sequences.iter_mut().find(|sequence| sequence.publisher == *publisher) {
                Some(sequence) if sequence.first + sequence.count == *number => sequence.count += 1,
                Some(_) => in_order = false,
                None => sequences.push(Sequence { publisher: *publisher, first: *number, count: 1 }),
            }
        }
        Digest {
            span,
            marks: events
                .iter()
                .map(|(publisher, number, _)| Mark { publisher: *publisher, number: *number, intended_us: 0 })
                .collect(),
            seqs: events.iter().map(|(.., seq)| *seq).collect(),
            sequences: if in_order { sequences } else { Vec::new() },
            ..Digest::default()
        }
    }

    /// Takes frames. Returns the counts, and how many of the `sent` events are missing in the end.
    fn ledger(start: Option<u64>, frames: &[Digest], sent: &[u32]) -> (Counts, u64) {
        let (mut ledger, mut counts, mut fresh) = (Ledger::default(), Counts::default(), 0);
        if let Some(start) = start {
            ledger.begin(start, &mut counts);
        }
        for frame in frames {
            ledger.take(frame, &mut counts, |_| fresh += 1);
        }
        assert_eq!(fresh, counts.delivered, "each delivery is fresh");
        (counts, ledger.missing(sent, &BTreeSet::new()))
    }

    #[test]
    fn all_in_order_is_all() {
        let frames = [frame(None, &[(0, 0, 0), (1, 0, 0)]), frame(None, &[(0, 1, 0), (0, 2, 0), (1, 1, 0)])];
        let (counts, missing) = ledger(None, &frames, &[3, 2]);
        assert_eq!(
            (counts, missing),
            (Counts { delivered: 5, frames: 2, frame_squares: 13, ..Counts::default() }, 0)
        );
        assert_eq!((counts.events_per_frame(), counts.frame_deviation()), (2.5, 0.5));
    }

    #[test]
    fn a_lost_event_is_missing_wherever_it_was_lost() {
        // The first, one in the middle of a frame, one between frames, the last; then all of an unknown
        // publisher.
        for frames in [
            vec![frame(None, &[(0, 1, 0), (0, 2, 0), (0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 2, 0), (0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 1, 0)]), frame(None, &[(0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 1, 0), (0, 2, 0)])],
        ] {
            let (counts, missing) = ledger(None, &frames, &[4]);
            assert_eq!((counts.delivered, counts.duplicates, missing), (3, 0, 1), "{frames:?}");
        }
        assert_eq!(ledger(None, &[], &[0, 7]).1, 7);
    }

    #[test]
    fn a_doubled_event_is_a_duplicate() {
        for frames in [
            vec![frame(None, &[(0, 0, 0), (0, 0, 0), (0, 1, 0)])],
            vec![frame(None, &[(0, 0, 0)]), frame(None, &[(0, 0, 0), (0, 1, 0)])],
        ] {
            let (counts, missing) = ledger(None, &frames, &[2]);
            assert_eq!((counts.delivered, counts.duplicates, missing), (2, 1, 0), "{frames:?}");
        }
    }

    #[test]
    fn a_late_event_is_reordered_and_neither_missing_nor_doubled() {
        let frames = [frame(None, &[(0, 1, 0)]), frame(None, &[(0, 0, 0)]), frame(None, &[(0, 2, 0)])];
        let (counts, missing) = ledger(None, &frames, &[3]);
        assert_eq!((counts.delivered, counts.reordered, counts.duplicates, missing), (3, 1, 0, 0));
    }

    #[test]
    fn each_event_of_a_lost_range_may_come_late_once() {
        let mut frames = vec![frame(None, &[(1, 0, 0)]), frame(None, &[(0, 9, 0)])];
        let late = [4, 0, 8, 4, 3];
        frames.extend(late.map(|number| frame(None, &[(0, number, 0)])));
        let (counts, missing) = ledger(None, &frames, &[10, 1]);
        assert_eq!((counts.reordered, counts.duplicates, missing), (4, 1, 5));
    }

    #[test]
    fn seqs_show_what_was_seen_and_what_was_skipped() {
        let frames = [
            frame(Some((5, 7)), &[(0, 0, 6), (0, 1, 7)]),
            // A batch that begins with an event that was received already: allowed.
            frame(Some((6, 8)), &[(0, 1, 7), (0, 2, 8)]),
            // The whole batch again: dropped.
            frame(Some((6, 8)), &[(0, 1, 7), (0, 2, 8)]),
            // A frame that skips seq 9 without a gap frame.
            frame(Some((9, 10)), &[(0, 4, 10)]),
        ];
        let (counts, missing) = ledger(Some(5), &frames, &[5]);
        let expected = Counts {
            delivered: 4,
            holes: 1,
            frames: 4,
            frame_squares: 13,
            repeated_frames: 1,
            ..Counts::default()
        };
        assert_eq!((counts, missing), (expected, 1));
    }

    #[test]
    fn an_event_with_a_new_seq_is_still_a_duplicate() {
        let frames = [frame(Some((0, 1)), &[(0, 0, 1)]), frame(Some((1, 2)), &[(0, 0, 2)])];
        assert_eq!(ledger(Some(0), &frames, &[1]).0.duplicates, 1);
    }

    #[test]
    fn gaps_and_skipping_hellos_are_counted() {
        let gap = Digest {
            kind: MessageKind::Gap { seq: 9, reason: "retention".into() },
            ..frame(Some((5, 9)), &[])
        };
        let (counts, missing) = ledger(Some(5), &[gap, frame(Some((9, 10)), &[(0, 4, 10)])], &[5]);
        assert_eq!((counts.gaps, counts.holes, counts.delivered, missing), (1, 0, 1, 4));

        let (mut ledger, mut counts) = (Ledger::default(), Counts::default());
        ledger.begin(5, &mut counts);
        ledger.begin(5, &mut counts);
        assert_eq!(counts.holes, 0);
        ledger.begin(6, &mut counts);
        assert_eq!(counts.holes, 1, "a second hello that skips");
    }

    #[test]
    fn what_was_refused_is_excused() {
        let frames = [frame(None, &[(0, 0, 0), (0, 2, 0)])];
        let (mut ledger, mut counts) = (Ledger::default(), Counts::default());
        for frame in &frames {
            ledger.take(frame, &mut counts, |_| {});
        }
        let excused = BTreeSet::from([(0, 1), (0, 3)]);
        assert_eq!(ledger.missing(&[4], &excused), 0);
        assert_eq!(ledger.missing(&[5], &excused), 1);
    }
}

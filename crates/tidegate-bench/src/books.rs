//! One reader's books: which event of each publisher it is to get next, and where it stands in the log.
//! What does not fit is missing, doubled, out of order, or a hole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    digest::{Digest, Word},
    event::Mark,
};

/// What readers counted. Sums over readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Events that came for the first time.
    pub delivered: u64,
    /// Events that came again.
    pub duplicates: u64,
    /// Events that came after a later one of the same publisher.
    pub reordered: u64,
    /// Stretches that the server declared lost.
    pub gaps: u64,
    /// Frames that begin behind where the reader stands (`prev` above its cursor): undeclared loss.
    pub holes: u64,
    /// Messages with events.
    pub frames: u64,
    /// The sum of the squares of how many events each of them held.
    pub frame_squares: u64,
    /// Frames whose events had all come before by their place, which the protocol allows.
    pub repeated_frames: u64,
}

impl Counts {
    /// Adds another reader's.
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

    /// How many events a message held on average.
    pub fn events_per_frame(&self) -> f64 {
        self.delivered as f64 / self.frames.max(1) as f64
    }

    /// The standard deviation of it, from message to message.
    pub fn frame_deviation(&self) -> f64 {
        let mean_square = self.frame_squares as f64 / self.frames.max(1) as f64;
        (mean_square - self.events_per_frame().powi(2)).max(0.0).sqrt()
    }
}

/// The books of one reader, over all its connections.
#[derive(Debug, Default)]
pub struct Books {
    /// By publisher: the number that comes next.
    next: Vec<u32>,
    /// Stretches of numbers below `next` that have not come: from a publisher's first to behind the last. A
    /// server that drops thousands in a row costs one entry.
    missing: BTreeMap<(u16, u32), u32>,
    /// Where the reader stands, on servers with places.
    cursor: Option<u64>,
}

impl Books {
    /// Where the reader stands.
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The stream says where it starts: taken by a reader that stands nowhere yet, and a hole if a reader
    /// would skip something by it.
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

    /// Takes a message; calls `fresh` with each event that had not come before.
    pub fn take(&mut self, digest: &Digest, counts: &mut Counts, mut fresh: impl FnMut(&Mark)) {
        if !digest.marks.is_empty() {
            counts.frames += 1;
            counts.frame_squares += (digest.marks.len() as u64).pow(2);
        }
        let mut above = None;
        if let (Some((prev, seq)), Some(cursor)) = (digest.place, self.cursor) {
            if let Word::Gap { .. } = digest.word {
                counts.gaps += 1;
                self.cursor = Some(seq);
                return;
            }
            if prev > cursor {
                // What lies between is found missing by its numbers; the reader goes on.
                counts.holes += 1;
            } else if seq <= cursor {
                if !digest.marks.is_empty() {
                    counts.repeated_frames += 1;
                }
                return;
            }
            self.cursor = Some(seq);
            above = digest.seqs.first().is_some_and(|first| *first <= cursor).then_some(cursor);
        } else if let Word::Gap { .. } = digest.word {
            counts.gaps += 1;
        }
        let fits = above.is_none()
            && !digest.runs.is_empty()
            && digest.runs.iter().all(|run| self.next(run.publisher) == run.first);
        if fits {
            for run in &digest.runs {
                self.next[usize::from(run.publisher)] += run.count;
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

    /// Whether a number was missing; it is not any more.
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

    /// Which of the `sent` events (by publisher: how many) have not come, but for the `excused`.
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
    use crate::digest::Run;

    /// A frame of (publisher, number, seq) over a place.
    fn frame(place: Option<(u64, u64)>, events: &[(u16, u32, u64)]) -> Digest {
        let mut runs: Vec<Run> = Vec::new();
        let mut in_order = true;
        for (publisher, number, _) in events {
            match runs.iter_mut().find(|run| run.publisher == *publisher) {
                Some(run) if run.first + run.count == *number => run.count += 1,
                Some(_) => in_order = false,
                None => runs.push(Run { publisher: *publisher, first: *number, count: 1 }),
            }
        }
        Digest {
            place,
            marks: events
                .iter()
                .map(|(publisher, number, _)| Mark { publisher: *publisher, number: *number, intended_us: 0 })
                .collect(),
            seqs: events.iter().map(|(.., seq)| *seq).collect(),
            runs: if in_order { runs } else { Vec::new() },
            ..Digest::default()
        }
    }

    /// Takes frames; the counts and how many of `sent` are missing in the end.
    fn books(start: Option<u64>, frames: &[Digest], sent: &[u32]) -> (Counts, u64) {
        let (mut books, mut counts, mut fresh) = (Books::default(), Counts::default(), 0);
        if let Some(start) = start {
            books.begin(start, &mut counts);
        }
        for frame in frames {
            books.take(frame, &mut counts, |_| fresh += 1);
        }
        assert_eq!(fresh, counts.delivered, "each delivery is fresh");
        (counts, books.missing(sent, &BTreeSet::new()))
    }

    #[test]
    fn all_in_order_is_all() {
        let frames = [frame(None, &[(0, 0, 0), (1, 0, 0)]), frame(None, &[(0, 1, 0), (0, 2, 0), (1, 1, 0)])];
        let (counts, missing) = books(None, &frames, &[3, 2]);
        assert_eq!(
            (counts, missing),
            (Counts { delivered: 5, frames: 2, frame_squares: 13, ..Counts::default() }, 0)
        );
        assert_eq!((counts.events_per_frame(), counts.frame_deviation()), (2.5, 0.5));
    }

    #[test]
    fn a_lost_event_is_missing_wherever_it_was_lost() {
        // First, in the middle of a frame, between frames, last, and a publisher never heard of.
        for frames in [
            vec![frame(None, &[(0, 1, 0), (0, 2, 0), (0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 2, 0), (0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 1, 0)]), frame(None, &[(0, 3, 0)])],
            vec![frame(None, &[(0, 0, 0), (0, 1, 0), (0, 2, 0)])],
        ] {
            let (counts, missing) = books(None, &frames, &[4]);
            assert_eq!((counts.delivered, counts.duplicates, missing), (3, 0, 1), "{frames:?}");
        }
        assert_eq!(books(None, &[], &[0, 7]).1, 7);
    }

    #[test]
    fn a_doubled_event_is_a_duplicate() {
        for frames in [
            vec![frame(None, &[(0, 0, 0), (0, 0, 0), (0, 1, 0)])],
            vec![frame(None, &[(0, 0, 0)]), frame(None, &[(0, 0, 0), (0, 1, 0)])],
        ] {
            let (counts, missing) = books(None, &frames, &[2]);
            assert_eq!((counts.delivered, counts.duplicates, missing), (2, 1, 0), "{frames:?}");
        }
    }

    #[test]
    fn a_late_event_is_reordered_and_neither_missing_nor_doubled() {
        let frames = [frame(None, &[(0, 1, 0)]), frame(None, &[(0, 0, 0)]), frame(None, &[(0, 2, 0)])];
        let (counts, missing) = books(None, &frames, &[3]);
        assert_eq!((counts.delivered, counts.reordered, counts.duplicates, missing), (3, 1, 0, 0));
    }

    #[test]
    fn of_a_lost_stretch_each_may_come_late_once() {
        let mut frames = vec![frame(None, &[(1, 0, 0)]), frame(None, &[(0, 9, 0)])];
        let late = [4, 0, 8, 4, 3];
        frames.extend(late.map(|number| frame(None, &[(0, number, 0)])));
        let (counts, missing) = books(None, &frames, &[10, 1]);
        assert_eq!((counts.reordered, counts.duplicates, missing), (4, 1, 5));
    }

    #[test]
    fn places_say_what_was_seen_and_what_was_skipped() {
        let frames = [
            frame(Some((5, 7)), &[(0, 0, 6), (0, 1, 7)]),
            // A batch that begins with what is here already: allowed.
            frame(Some((6, 8)), &[(0, 1, 7), (0, 2, 8)]),
            // The same again whole: dropped.
            frame(Some((6, 8)), &[(0, 1, 7), (0, 2, 8)]),
            // One that skips seq 9 without a word.
            frame(Some((9, 10)), &[(0, 4, 10)]),
        ];
        let (counts, missing) = books(Some(5), &frames, &[5]);
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
    fn an_event_at_a_new_place_is_a_duplicate_all_the_same() {
        let frames = [frame(Some((0, 1)), &[(0, 0, 1)]), frame(Some((1, 2)), &[(0, 0, 2)])];
        assert_eq!(books(Some(0), &frames, &[1]).0.duplicates, 1);
    }

    #[test]
    fn gaps_and_skipping_hellos_are_counted() {
        let gap =
            Digest { word: Word::Gap { seq: 9, reason: "retention".into() }, ..frame(Some((5, 9)), &[]) };
        let (counts, missing) = books(Some(5), &[gap, frame(Some((9, 10)), &[(0, 4, 10)])], &[5]);
        assert_eq!((counts.gaps, counts.holes, counts.delivered, missing), (1, 0, 1, 4));

        let (mut books, mut counts) = (Books::default(), Counts::default());
        books.begin(5, &mut counts);
        books.begin(5, &mut counts);
        assert_eq!(counts.holes, 0);
        books.begin(6, &mut counts);
        assert_eq!(counts.holes, 1, "a second hello that skips");
    }

    #[test]
    fn what_was_refused_is_excused() {
        let frames = [frame(None, &[(0, 0, 0), (0, 2, 0)])];
        let (mut books, mut counts) = (Books::default(), Counts::default());
        for frame in &frames {
            books.take(frame, &mut counts, |_| {});
        }
        let excused = BTreeSet::from([(0, 1), (0, 3)]);
        assert_eq!(books.missing(&[4], &excused), 0);
        assert_eq!(books.missing(&[5], &excused), 1);
    }
}

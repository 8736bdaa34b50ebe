//! Several records of a segment: those that lie close together are read at once, and those that are not in the
//! page cache are read by the disk at the same time.

use bytes::Bytes;

use super::{index::Entry, record::Header, segment::Segment};

/// Records are read at once if no more than this lies between two of them (a call costs as much as copying a few
/// KiB), and up to this many bytes.
const SKIP_BYTES: usize = 2 << 10;
const RUN_BYTES: usize = 32 << 10;

/// The records that entries name, in their order; `None` for one that is not there.
pub struct Records<'a> {
    segment: &'a Segment,
    rest: &'a [Entry],
    found: std::vec::IntoIter<Option<(Header, Bytes)>>,
    /// Whether the disk was asked for all that is left.
    is_asked: bool,
}

/// How many of `entries`, from the first one on, are read at once.
fn run(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let is_close = |pair: &&[Entry]| {
        let (end, next) = (pair[0].end(), &pair[1]);
        (end..=end + SKIP_BYTES).contains(&(next.offset as usize))
            && next.end() <= first.offset as usize + RUN_BYTES
    };
    1 + entries.windows(2).take_while(is_close).count()
}

impl<'a> Records<'a> {
    /// Those that `entries` of `segment` name.
    pub fn new(segment: &'a Segment, entries: &'a [Entry]) -> Self {
        Self { segment, rest: entries, found: Vec::new().into_iter(), is_asked: false }
    }

    fn bytes(&mut self, begin: usize, length: usize) -> Vec<u8> {
        if !self.is_asked {
            if let Some(bytes) = self.segment.cached_bytes_at(begin as u64, length) {
                return bytes;
            }
            self.is_asked = true;
            let mut rest = self.rest;
            while let [first, ..] = rest {
                let (run, others) = rest.split_at(run(rest));
                let end = run.last().map_or(0, Entry::end);
                self.segment.read_ahead(u64::from(first.offset), end - first.offset as usize);
                rest = others;
            }
        }
        self.segment.bytes_at(begin as u64, length)
    }

    fn read_on(&mut self) {
        let (run, rest) = self.rest.split_at(run(self.rest));
        self.rest = rest;
        let ([first, ..], [.., last]) = (run, run) else { return };
        let begin = first.offset as usize;
        let bytes = Bytes::from(self.bytes(begin, last.end() - begin));
        let record = |entry: &Entry| {
            let place = entry.offset as usize - begin..entry.end() - begin;
            // A copy, so that an event that is kept does not keep its neighbours.
            let alone = if run.len() == 1 { bytes.clone() } else { Bytes::copy_from_slice(&bytes[place]) };
            entry.record_in(alone)
        };
        self.found = run.iter().map(record).collect::<Vec<_>>().into_iter();
    }
}

impl Iterator for Records<'_> {
    type Item = Option<(Header, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.found.next().or_else(|| {
            self.read_on();
            self.found.next()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::record::{CommitWriter, Kind};

    /// A segment with 3,000 records of 7 logs, of sizes that leave some alone and put others together.
    fn segment(dir: &std::path::Path) -> Segment {
        let segment = Segment::create(dir, 1).expect("a segment");
        for commit in 1..=3_000_u64 {
            let (log, seq) = (20 + commit % 7, commit / 7 + 1);
            let mut writer = CommitWriter::new(Vec::new(), commit, commit);
            let (offset, bytes) = writer.record(Kind::Events, log, |out| {
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&seq.to_be_bytes());
                out.resize(out.len() + [10, 100, 1_000, 5_000][(commit / 5 % 4) as usize], 7);
            });
            let commit_bytes = writer.finish();
            segment.write(&commit_bytes).expect("a write");
            let (offset, bytes) = (offset as u32, bytes as u32);
            let entry = Entry { log, first: seq, last: seq, offset, bytes };
            segment.include(&[entry], commit_bytes.len(), bytes as usize, commit, commit);
        }
        segment
    }

    #[test]
    fn an_index_on_disk_finds_what_it_found_in_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let segment = segment(dir.path());
        let ask = || {
            let mut found = Vec::new();
            for log in 19..=27 {
                for (from, max) in [(0, 64), (1, 1), (100, 64), (101, 300), (428, 64), (429, 9), (1_000, 64)]
                {
                    found.push(segment.entries(log, from, max).expect("entries"));
                }
            }
            found
        };
        let in_memory = ask();
        assert_eq!(in_memory.iter().map(Vec::len).max(), Some(300));
        segment.seal().expect("an index");
        assert_eq!(ask(), in_memory);
        let opened = Segment::open(dir.path(), 1).expect("a segment");
        assert_eq!(opened.entries(22, 101, 300).expect("entries"), in_memory[7 * 3 + 3]);
    }

    #[test]
    fn records_are_the_same_read_together_and_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let segment = segment(dir.path());
        let mut entries = segment.all_entries().expect("entries");
        entries.sort_unstable_by_key(|entry| entry.offset);
        let of_a_log = segment.entries(23, 0, 1_000).expect("entries");
        let damaged = entries[1_234];
        let file = std::fs::OpenOptions::new().write(true).open(segment.path()).expect("the file");
        std::os::unix::fs::FileExt::write_all_at(&file, b"X", u64::from(damaged.offset) + 50)
            .expect("a write");
        for entries in [entries, of_a_log] {
            let together: Vec<_> = Records::new(&segment, &entries).collect();
            let alone =
                entries.iter().map(|entry| Records::new(&segment, std::slice::from_ref(entry)).next());
            let alone: Vec<_> = alone.flatten().collect();
            assert_eq!(together.len(), entries.len());
            assert!(together == alone);
            for (entry, record) in entries.iter().zip(&together) {
                assert_eq!(record.is_none(), *entry == damaged);
            }
        }
    }
}

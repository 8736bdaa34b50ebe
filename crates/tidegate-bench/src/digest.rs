//! What one message holds, read once and used for every reader that got the same bytes.
//!
//! A thousand readers of a gateway that shares its frames get the same bytes a thousand times; comparing
//! bytes costs a fraction of reading them, and keeps the load cheap enough to share a machine with the
//! server. Nothing is trusted for it: a reader whose bytes differ has its own digest.

use tidegate_protocol::Cursor;

use crate::event::{Mark, Marks, PROBE};

/// What a message means to its reader.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Word {
    /// Nothing but its events, if it has any.
    #[default]
    Events,
    /// The stream is open. `head`: a reader of a log is live once it stands there.
    Ready { cursor: Option<Cursor>, head: u64 },
    /// To be answered by this text.
    Answer(String),
    /// The server says that something will not come.
    Gap { seq: u64, reason: String },
    /// The server says no.
    Refused(Refused),
    /// What the peer's protocol does not allow.
    Broken(String),
}

/// A server's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: String,
    pub message: String,
    /// The server's configuration key that says how many.
    pub limit: Option<String>,
    pub retry_in_ms: Option<u64>,
}

/// So many events of one publisher, without a hole, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub publisher: u16,
    pub first: u32,
    pub count: u32,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Digest {
    pub word: Word,
    /// From where to where it moves a reader, on servers that say so.
    pub place: Option<(u64, u64)>,
    /// Its events, as they come.
    pub marks: Vec<Mark>,
    /// Their places, on servers that number them.
    pub seqs: Vec<u64>,
    /// The same events by publisher; empty if one publisher's are not in order within the message.
    pub runs: Vec<Run>,
    /// Whether it holds an event that only asked.
    pub has_probe: bool,
}

impl Digest {
    /// Finds the events in `text`.
    pub fn scan(&mut self, marks: &Marks, text: &[u8]) {
        marks.scan(text, |mark| self.add(mark));
    }

    fn add(&mut self, mark: Mark) {
        if mark.publisher == PROBE {
            self.has_probe = true;
            return;
        }
        let in_order = self.marks.is_empty() || !self.runs.is_empty();
        self.marks.push(mark);
        match self.runs.iter_mut().find(|run| run.publisher == mark.publisher) {
            _ if !in_order => {}
            Some(run) if run.first.wrapping_add(run.count) == mark.number => run.count += 1,
            Some(_) => self.runs.clear(),
            None => self.runs.push(Run { publisher: mark.publisher, first: mark.number, count: 1 }),
        }
    }
}

/// Reads a peer's message.
pub trait Read {
    /// What `message` holds.
    fn read(&self, message: &[u8]) -> Digest;
}

/// The digests of the last messages, by their bytes.
pub struct Digests {
    sets: Vec<Set>,
}

/// Messages that are looked for at the same place. Several: two that are in flight at once and pushed
/// each other out would be read anew for every reader.
#[derive(Default)]
struct Set {
    known: Vec<(Box<[u8]>, Digest)>,
    /// Whose turn it is to go.
    oldest: usize,
}

/// Room for what a few rounds of fan-out have in flight.
const SETS: usize = 64;
const WAYS: usize = 8;

impl Default for Digests {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Set::default()).collect() }
    }
}

impl Digests {
    /// The digest of `message`, known or read now.
    pub fn of(&mut self, message: &[u8], reader: &(impl Read + ?Sized)) -> &Digest {
        let Set { known, oldest } = &mut self.sets[set_of(message)];
        let index = known.iter().position(|(bytes, _)| **bytes == *message).unwrap_or_else(|| {
            let fresh = (message.into(), reader.read(message));
            if known.len() < WAYS {
                known.push(fresh);
                return known.len() - 1;
            }
            let index = *oldest;
            *oldest = (index + 1) % WAYS;
            known[index] = fresh;
            index
        });
        &known[index].1
    }
}

/// Where a message is looked for: what differs between messages stands in their first bytes (places,
/// marks) or their last.
fn set_of(message: &[u8]) -> usize {
    let mut hash = message.len() as u64;
    let head = &message[..message.len().min(160)];
    let tail = &message[message.len().saturating_sub(32)..];
    for chunk in head.chunks(8).chain(tail.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
    (hash >> 40) as usize % SETS
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn of(events: &[(u16, u32)]) -> Digest {
        let mut digest = Digest::default();
        for (publisher, number) in events {
            digest.add(Mark { publisher: *publisher, number: *number, intended_us: 1 });
        }
        digest
    }

    #[test]
    fn runs_are_by_publisher() {
        let digest = of(&[(0, 5), (1, 9), (0, 6), (0, 7), (1, 10), (PROBE, 1)]);
        let expected = [Run { publisher: 0, first: 5, count: 3 }, Run { publisher: 1, first: 9, count: 2 }];
        assert_eq!((digest.runs.as_slice(), digest.marks.len(), digest.has_probe), (&expected[..], 5, true));
    }

    #[test]
    fn what_is_out_of_order_has_no_runs() {
        for events in [&[(0, 5), (0, 7)][..], &[(0, 5), (0, 5), (1, 0)], &[(0, 5), (0, 4), (0, 5), (1, 1)]] {
            let digest = of(events);
            assert_eq!((digest.runs.len(), digest.marks.len()), (0, events.len()), "{events:?}");
        }
    }

    #[test]
    fn equal_bytes_are_read_once_and_others_never_confused() {
        struct Counts(Cell<u32>);
        impl Read for Counts {
            fn read(&self, message: &[u8]) -> Digest {
                self.0.set(self.0.get() + 1);
                Digest { place: Some((message.len() as u64, u64::from(message[300]))), ..Digest::default() }
            }
        }
        let (counts, mut digests) = (Counts(Cell::new(0)), Digests::default());
        let mut message = vec![b'x'; 1000];
        assert_eq!(digests.of(&message, &counts).place, Some((1000, u64::from(b'x'))));
        assert_eq!(digests.of(&message, &counts).place, Some((1000, u64::from(b'x'))));
        assert_eq!(counts.0.get(), 1);
        // A byte that the place does not depend on.
        message[300] = b'y';
        assert_eq!(digests.of(&message, &counts).place, Some((1000, u64::from(b'y'))));
        assert_eq!(counts.0.get(), 2);
    }

    #[test]
    fn messages_in_flight_at_once_do_not_push_each_other_out() {
        struct Counts(Cell<u32>);
        impl Read for Counts {
            fn read(&self, _: &[u8]) -> Digest {
                self.0.set(self.0.get() + 1);
                Digest::default()
            }
        }
        let (counts, mut digests) = (Counts(Cell::new(0)), Digests::default());
        // They differ where the place does not depend on it: all in one set.
        let messages: Vec<_> = (0..WAYS as u8 + 1)
            .map(|number| {
                let mut message = vec![b'x'; 1000];
                message[300] = number;
                message
            })
            .collect();
        for _ in 0..3 {
            messages[..WAYS].iter().for_each(|message| _ = digests.of(message, &counts));
        }
        assert_eq!(counts.0.get(), WAYS as u32);
        // One more makes room for itself.
        digests.of(&messages[WAYS], &counts);
        digests.of(&messages[0], &counts);
        assert_eq!(counts.0.get(), WAYS as u32 + 2);
        assert_eq!(digests.sets.iter().map(|set| set.known.len()).sum::<usize>(), WAYS);
    }
}

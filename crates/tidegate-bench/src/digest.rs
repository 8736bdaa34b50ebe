//! The digest of a message: its content, parsed once and used for every reader that received the same bytes.
//!
//! If a gateway shares its frames, a thousand readers receive the same bytes a thousand times. Comparing
//! bytes costs a fraction of parsing them, which keeps the load cheap enough to share a machine with the
//! server. No check is lost: a message whose bytes differ gets its own digest.

use tidegate_protocol::Cursor;

use crate::event::{Mark, Marks, PROBE};

/// The kind of a message.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum MessageKind {
    /// Events, or nothing that the reader has to act on.
    #[default]
    Events,
    /// The stream is open. A reader of a log is live once it has reached `head`.
    Ready { cursor: Option<Cursor>, head: u64 },
    /// The reader must reply with this text.
    Reply(String),
    /// The server declares that it cannot deliver some events.
    Gap { seq: u64, reason: String },
    /// The server refuses or ends the stream.
    Refused(Refused),
    /// The server's protocol does not allow this message.
    Broken(String),
}

/// Why a server refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: String,
    pub message: String,
    /// The configuration key of the limit that was reached.
    pub limit: Option<String>,
    pub retry_in_ms: Option<u64>,
}

/// Consecutive events of one publisher: `count` events from number `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub publisher: u16,
    pub first: u32,
    pub count: u32,
}

/// The content of one message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Digest {
    pub kind: MessageKind,
    /// The range `(prev, seq]` of the log that the message accounts for, if the server has one.
    pub span: Option<(u64, u64)>,
    /// Its events, in order.
    pub marks: Vec<Mark>,
    /// The seqs of its events, if the server numbers them.
    pub seqs: Vec<u64>,
    /// The same events by publisher. Empty if the events of a publisher are not consecutive.
    pub sequences: Vec<Sequence>,
    /// Whether it holds a probe.
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
        let in_order = self.marks.is_empty() || !self.sequences.is_empty();
        self.marks.push(mark);
        match self.sequences.iter_mut().find(|sequence| sequence.publisher == mark.publisher) {
            _ if !in_order => {}
            Some(sequence) if sequence.first.wrapping_add(sequence.count) == mark.number => {
                sequence.count += 1
            }
            Some(_) => self.sequences.clear(),
            None => self.sequences.push(Sequence { publisher: mark.publisher, first: mark.number, count: 1 }),
        }
    }
}

/// Parses the messages of a server.
pub trait ReadMessage {
    /// Parses `message`.
    fn read(&self, message: &[u8]) -> Digest;
}

/// A cache of digests, by the bytes of the message: set-associative, with the oldest entry of a set replaced.
pub struct Digests {
    sets: Vec<Set>,
}

/// The entries with the same hash. There are several, because two messages that are in flight at the same
/// time and replace each other would be parsed again for every reader.
#[derive(Default)]
struct Set {
    known: Vec<(Box<[u8]>, Digest)>,
    /// The index of the entry that is replaced next.
    oldest: usize,
}

/// Enough entries for the messages that a few fan-out passes have in flight.
const SETS: usize = 64;
const WAYS: usize = 8;

impl Default for Digests {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Set::default()).collect() }
    }
}

impl Digests {
    /// The digest of `message`, from the cache or parsed now.
    pub fn of(&mut self, message: &[u8], reader: &(impl ReadMessage + ?Sized)) -> &Digest {
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

/// The index of a message's set. The hash covers its first and last bytes only: what differs between messages
/// (seqs, marks) is there.
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
        let expected =
            [Sequence { publisher: 0, first: 5, count: 3 }, Sequence { publisher: 1, first: 9, count: 2 }];
        assert_eq!(
            (digest.sequences.as_slice(), digest.marks.len(), digest.has_probe),
            (&expected[..], 5, true)
        );
    }

    #[test]
    fn what_is_out_of_order_has_no_runs() {
        for events in [&[(0, 5), (0, 7)][..], &[(0, 5), (0, 5), (1, 0)], &[(0, 5), (0, 4), (0, 5), (1, 1)]] {
            let digest = of(events);
            assert_eq!((digest.sequences.len(), digest.marks.len()), (0, events.len()), "{events:?}");
        }
    }

    #[test]
    fn equal_bytes_are_read_once_and_others_never_confused() {
        struct Counts(Cell<u32>);
        impl ReadMessage for Counts {
            fn read(&self, message: &[u8]) -> Digest {
                self.0.set(self.0.get() + 1);
                Digest { span: Some((message.len() as u64, u64::from(message[300]))), ..Digest::default() }
            }
        }
        let (counts, mut digests) = (Counts(Cell::new(0)), Digests::default());
        let mut message = vec![b'x'; 1000];
        assert_eq!(digests.of(&message, &counts).span, Some((1000, u64::from(b'x'))));
        assert_eq!(digests.of(&message, &counts).span, Some((1000, u64::from(b'x'))));
        assert_eq!(counts.0.get(), 1);
        // This byte is not part of the hash.
        message[300] = b'y';
        assert_eq!(digests.of(&message, &counts).span, Some((1000, u64::from(b'y'))));
        assert_eq!(counts.0.get(), 2);
    }

    #[test]
    fn messages_in_flight_at_once_do_not_push_each_other_out() {
        struct Counts(Cell<u32>);
        impl ReadMessage for Counts {
            fn read(&self, _: &[u8]) -> Digest {
                self.0.set(self.0.get() + 1);
                Digest::default()
            }
        }
        let (counts, mut digests) = (Counts(Cell::new(0)), Digests::default());
        // They differ in a byte that is not part of the hash, so all of them belong to one set.
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
        // One more replaces the oldest.
        digests.of(&messages[WAYS], &counts);
        digests.of(&messages[0], &counts);
        assert_eq!(counts.0.get(), WAYS as u32 + 2);
        assert_eq!(digests.sets.iter().map(|set| set.known.len()).sum::<usize>(), WAYS);
    }
}

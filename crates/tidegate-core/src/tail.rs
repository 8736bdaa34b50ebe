//! A tail: the in-memory end of one org's log, as sealed batches, and the events of the next one.
//!
//! It holds the missed-events window for readers that come back, and feeds those that are level.
//! What falls out of it is served from the log; nothing is lost by shortening a tail.

use std::{collections::VecDeque, sync::Arc};

use tidegate_protocol::{Filter, Seq, UnixMillis, UserId};

use crate::{Batch, Budget, Event};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Events.
    pub events: usize,
    /// Bytes of fragments; a larger single event makes a batch of its own.
    pub bytes: usize,
}

/// What comes behind a place.
#[derive(Debug)]
pub enum Next {
    /// The batch that holds the next seq.
    Batch(Arc<Batch>),
    /// Nothing: the place is the head.
    Level,
    /// The tail begins later, at this border; what is between stands in the log.
    Behind(Seq),
}

/// Recent batches of one log, without holes from `start` to `head`.
#[derive(Debug)]
pub struct Tail {
    batches: VecDeque<Arc<Batch>>,
    head: Seq,
    /// Behind the head, not sealed yet: never more than makes a batch full.
    open: Vec<Arc<Event>>,
    open_bytes: usize,
    budget: Arc<Budget>,
}

impl Tail {
    /// An empty tail of a log that ends at `head`; its batches are charged to `whole`.
    pub fn new(head: Seq, whole: Arc<Budget>) -> Self {
        let budget = Arc::new(Budget::part_of(whole));
        Self { batches: VecDeque::new(), head, open: Vec::new(), open_bytes: 0, budget }
    }

    /// The border where it begins.
    pub fn start(&self) -> Seq {
        self.batches.front().map_or(self.head, |batch| batch.prev)
    }

    /// The last sealed border.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open.is_empty()
    }

    /// Whether there are events that no batch holds yet.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Where it ends, with what is not sealed yet.
    fn end(&self) -> Seq {
        self.open.last().map_or(self.head, |event| event.seq)
    }

    /// Takes `events`, which follow on `prev`, and seals batches of them that are full by `limits`; the
    /// rest stays open for those to come. Events that are held already are passed over; where some are
    /// missing in between, the tail starts anew behind the hole (readers find them in the log).
    pub fn push(&mut self, prev: Seq, events: &[Arc<Event>], now: UnixMillis, limits: BatchLimits) {
        let events = &events[events.partition_point(|event| event.seq <= self.end())..];
        if events.is_empty() {
            return;
        }
        if prev > self.end() {
            self.batches.clear();
            (self.open, self.open_bytes) = (Vec::new(), 0);
            self.head = prev;
        }
        for event in events {
            let bytes = event.fragment.len();
            if self.open_bytes.saturating_add(bytes) > limits.bytes {
                self.seal(now);
            }
            self.open.push(event.clone());
            self.open_bytes += bytes;
            if self.open.len() >= limits.events {
                self.seal(now);
            }
        }
    }

    /// Seals what is open, so that it can be served.
    pub fn seal(&mut self, now: UnixMillis) {
        let Some(last) = self.open.last() else { return };
        let seq = last.seq;
        let events = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        self.batches.push_back(Arc::new(Batch::new(self.head, seq, now, events, &self.budget)));
        self.head = seq;
    }

    /// What a reader that has scanned up to `at` takes next, of what is sealed.
    pub fn next(&self, at: Seq) -> Next {
        if at >= self.head {
            return Next::Level;
        }
        if at < self.start() {
            return Next::Behind(self.start());
        }
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        match self.batches.get(index) {
            Some(batch) => Next::Batch(batch.clone()),
            None => Next::Level,
        }
    }

    /// The batches that end behind `at`, oldest first.
    pub fn since(&self, at: Seq) -> Vec<Arc<Batch>> {
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        self.batches.range(index..).cloned().collect()
    }

    /// How far a reader at `at` is behind what is sealed (R16): the events that it may see, and all places
    /// before the tail. Asked for a thousand readers at a time, so it holds on to nothing and counts whole
    /// batches where it can.
    pub fn lag(&self, at: Seq, user: &UserId, filter: &Filter) -> u64 {
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        let seen = self.batches.range(index..).map(|batch| batch.count_visible(at, user, filter) as u64);
        self.start().saturating_sub(at) + seen.sum::<u64>()
    }

    /// The batches from the newest to the oldest.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.batches.iter().rev()
    }

    /// When the oldest batch was sealed.
    pub fn oldest(&self) -> Option<UnixMillis> {
        self.batches.front().map(|batch| batch.sealed)
    }

    /// Drops the oldest batch.
    pub fn drop_oldest(&mut self) {
        self.batches.pop_front();
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
    }

    /// Drops the batches that were sealed before `time`.
    pub fn drop_before(&mut self, time: UnixMillis) {
        while self.oldest().is_some_and(|sealed| sealed < time) {
            self.drop_oldest();
        }
    }

    /// The bytes charged for its batches, those that somebody else still holds included.
    pub fn memory(&self) -> usize {
        self.budget.used()
    }
}

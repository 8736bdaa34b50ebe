//! A tail: the end of one org's log in memory, as sealed batches, and the events of the next batch.
//!
//! Readers that are caught up get its new batches, and readers that come back get what they missed. What has
//! left the tail is read from the log; shortening a tail loses nothing.

use std::{collections::VecDeque, sync::Arc};

use tidegate_protocol::{Filter, Seq, UnixMillis, UserId};

use crate::{
    Batch, Budget, Event,
    frame::{AROUND_BYTES_MAX, event_bytes},
};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// The largest number of events.
    pub events: usize,
    /// A frame with all of its events is shorter than this, in bytes, whatever is around them; a larger single
    /// event is a batch of its own.
    pub bytes: usize,
}

/// What comes after a position.
#[derive(Debug)]
pub enum Next {
    /// The batch that holds the next seq.
    Batch(Arc<Batch>),
    /// Nothing: the position is the head.
    CaughtUp,
    /// The tail begins later, after this seq; the log has what lies between.
    BeforeTail(Seq),
}

/// Recent batches of one log, without holes from `start` to `head`, and the open events after it.
#[derive(Debug)]
pub struct Tail {
    batches: VecDeque<Arc<Batch>>,
    /// How many events the batches hold.
    events: usize,
    head: Seq,
    /// The events after the head that are not sealed yet: never more than one batch.
    open: Vec<Arc<Event>>,
    open_bytes: usize,
    budget: Arc<Budget>,
}

impl Tail {
    /// An empty tail of a log that ends at `head`; its batches are charged to `whole`.
    pub fn new(head: Seq, whole: Arc<Budget>) -> Self {
        Self::within(usize::MAX, head, whole)
    }

    /// The same, if its owner keeps it to `bytes_max`.
    pub fn within(bytes_max: usize, head: Seq, whole: Arc<Budget>) -> Self {
        let budget = Arc::new(Budget::within(bytes_max).part_of(whole));
        Self { batches: VecDeque::new(), events: 0, head, open: Vec::new(), open_bytes: 0, budget }
    }

    /// The position after which it begins.
    pub fn start(&self) -> Seq {
        self.batches.front().map_or(self.head, |batch| batch.prev)
    }

    /// The end of the last sealed batch.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Whether it has no events.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open.is_empty()
    }

    /// Whether there are batches, which [`drop_oldest`](Self::drop_oldest) can drop. Events that are not sealed
    /// yet are in none.
    pub fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Whether there are events that are not sealed yet.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Its end, with the events that are not sealed yet.
    fn end(&self) -> Seq {
        self.open.last().map_or(self.head, |event| event.seq)
    }

    /// Takes `events`, which follow on `prev`, and seals the batches that are full by `limits`; the rest stays
    /// open. Events that it has already are skipped. If some are missing in between, the tail starts anew
    /// after the hole (readers get them from the log).
    pub fn push(&mut self, prev: Seq, events: &[Arc<Event>], now: UnixMillis, limits: BatchLimits) {
        let events = &events[events.partition_point(|event| event.seq <= self.end())..];
        if events.is_empty() {
            return;
        }
        if prev > self.end() {
            self.forget();
            self.head = prev;
        }
        for event in events {
            let bytes = event_bytes(event);
            if AROUND_BYTES_MAX + self.open_bytes + bytes >= limits.bytes {
                self.seal(now);
            }
            self.open.push(event.clone());
            self.open_bytes += bytes;
            if self.open.len() >= limits.events {
                self.seal(now);
            }
        }
    }

    /// Seals the open events, so that they can be sent.
    pub fn seal(&mut self, now: UnixMillis) {
        let Some(last) = self.open.last() else { return };
        let seq = last.seq;
        let events = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        self.events += events.len();
        self.batches.push_back(Arc::new(Batch::new(self.head, seq, now, events, &self.budget)));
        self.head = seq;
    }

    /// What a reader at `at` takes next, of what is sealed.
    pub fn next(&self, at: Seq) -> Next {
        if at >= self.head {
            return Next::CaughtUp;
        }
        if at < self.start() {
            return Next::BeforeTail(self.start());
        }
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        match self.batches.get(index) {
            Some(batch) => Next::Batch(batch.clone()),
            None => Next::CaughtUp,
        }
    }

    /// The batches that end after `at`, oldest first.
    pub fn since(&self, at: Seq) -> Vec<Arc<Batch>> {
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        self.batches.range(index..).cloned().collect()
    }

    /// How many events a reader at `at` is behind what is sealed (R16): those in the tail that it may see,
    /// and about as many as lie before the tail. Asked for a thousand readers at a time, so it holds on to
    /// nothing and counts whole batches if it can.
    pub fn lag(&self, at: Seq, user: &UserId, filter: &Filter) -> u64 {
        let index = self.batches.partition_point(|batch| batch.seq <= at);
        let seen = self.batches.range(index..).map(|batch| batch.count_visible(at, user, filter) as u64);
        self.count_before(at) + seen.sum::<u64>()
    }

    /// About how many events lie between `at` and the start of the tail. They stand in the log alone, so they
    /// are taken to be as dense as those in the tail: exact if seqs are dense. At least one if there may be
    /// one.
    fn count_before(&self, at: Seq) -> u64 {
        let before = self.start().saturating_sub(at);
        let (events, seqs) = (self.events as u64, self.head - self.start());
        if events == 0 || seqs == 0 {
            return before;
        }
        let estimate = (u128::from(before) * u128::from(events)).div_ceil(u128::from(seqs));
        u64::try_from(estimate).unwrap_or(u64::MAX)
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
        if let Some(oldest) = self.batches.pop_front() {
            self.events -= oldest.events.len();
        }
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
    }

    /// Drops all events, also those that are not sealed yet. The tail begins anew after them: readers that do
    /// not have them get from the log what is left of them.
    pub fn forget(&mut self) {
        self.head = self.end();
        (self.batches, self.events) = (VecDeque::new(), 0);
        (self.open, self.open_bytes) = (Vec::new(), 0);
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

//! A store in memory: the window of missed events and nothing more.
//!
//! It forgets everything at exit. Within its window it is held to a budget in bytes: the oldest events of
//! the node are removed first, whichever org they belong to. The dedup window is kept apart from these
//! events, so a small budget does not shorten it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tidegate_core::Event;
use tidegate_protocol::{Seq, UnixMillis};

use super::{
    chain::Chain,
    store::{Cut, Erasure, LogIndex, NoRoom, Store, StoreError, Stretch, WriteGroup},
};

type Tail = Arc<Mutex<VecDeque<Arc<Event>>>>;

#[derive(Default)]
struct Order {
    /// Every event kept, in the order of commits: (log, seq, committed at, bytes).
    events: VecDeque<(LogIndex, Seq, UnixMillis, usize)>,
    bytes: u64,
    /// The same of each log.
    held: HashMap<LogIndex, u64>,
}

impl Order {
    fn push(&mut self, index: LogIndex, seq: Seq, at: UnixMillis, bytes: usize) {
        self.events.push_back((index, seq, at, bytes));
        self.bytes += bytes as u64;
        *self.held.entry(index).or_default() += bytes as u64;
    }

    /// Counts bytes that a log does not hold any more.
    fn free(&mut self, index: LogIndex, bytes: u64) {
        self.bytes -= bytes;
        if let Entry::Occupied(mut held) = self.held.entry(index) {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// The store.
pub struct MemoryStore {
    window: u64,
    max_bytes: u64,
    tails: RwLock<HashMap<LogIndex, Tail>>,
    order: Mutex<Order>,
}

impl MemoryStore {
    /// Keeps events for `window` milliseconds, and `max_bytes` of them.
    pub fn new(window: u64, max_bytes: u64) -> Self {
        Self { window, max_bytes, tails: RwLock::default(), order: Mutex::default() }
    }

    fn tail(&self, index: LogIndex) -> Option<Tail> {
        self.tails.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, erasure: &Erasure, order: &mut Order) {
        let goes = |seq: &Seq| erasure.names_any(*seq, *seq);
        if let Some(tail) = self.tail(erasure.log) {
            tail.lock().unwrap_or_else(PoisonError::into_inner).retain(|event| !goes(&event.seq));
        }
        let mut freed = 0;
        order.events.retain(|(log, seq, _, bytes)| {
            let stays = *log != erasure.log || !goes(seq);
            freed += if stays { 0 } else { *bytes as u64 };
            stays
        });
        order.free(erasure.log, freed);
    }
}

impl Store for MemoryStore {
    fn chain(&self, _: LogIndex) -> Option<Chain> {
        None
    }

    fn commit(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError> {
        let mut order = self.order();
        for log in &group.logs {
            if log.events.is_empty() {
                continue;
            }
            let tail = match self.tail(log.index) {
                Some(tail) => tail,
                None => {
                    let mut tails = self.tails.write().unwrap_or_else(PoisonError::into_inner);
                    tails.entry(log.index).or_default().clone()
                }
            };
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &log.events {
                let bytes = event.memory();
                order.push(log.index, event.seq, group.at, bytes);
                tail.push_back(event.clone());
            }
        }
        if !group.forgotten.is_empty() {
            let mut tails = self.tails.write().unwrap_or_else(PoisonError::into_inner);
            for (index, _) in &group.forgotten {
                tails.remove(index);
            }
        }
        for (erasure, _) in &group.erasures {
            self.remove(erasure, &mut order);
        }
        Ok(Ok(()))
    }

    fn acknowledge(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError> {
        let events = events.max(1);
        let Some(tail) = self.tail(index) else { return Ok(Stretch { after, events: Vec::new(), to }) };
        let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Arc<Event>> = Vec::new();
        let mut room = bytes;
        let from = tail.partition_point(|event| event.seq <= after);
        for event in tail.range(from..).take_while(|event| event.seq <= to) {
            let bytes = event.fragment.len();
            if found.len() >= events || (!found.is_empty() && bytes > room) {
                let to = found.last().map_or(after, |event| event.seq);
                return Ok(Stretch { after, events: found, to });
            }
            room = room.saturating_sub(bytes);
            found.push(event.clone());
        }
        Ok(Stretch { after, events: found, to })
    }

    fn blocks(&self) -> bool {
        false
    }

    fn plan_cut(&self, now: UnixMillis, _: usize) -> Result<Option<Cut>, StoreError> {
        let order = self.order();
        let mut bytes = order.bytes;
        let mut floors: HashMap<LogIndex, Seq> = HashMap::new();
        for &(index, seq, at, size) in &order.events {
            if at + self.window > now && bytes <= self.max_bytes {
                break;
            }
            bytes -= size as u64;
            floors.insert(index, seq);
        }
        if floors.is_empty() {
            return Ok(None);
        }
        let mut floors: Vec<_> = floors.into_iter().collect();
        floors.sort_unstable();
        Ok(Some(Cut { floors, token: 0 }))
    }

    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError> {
        let floors: HashMap<LogIndex, Seq> = cut.floors.iter().copied().collect();
        let mut order = self.order();
        while let Some(&(index, seq, _, size)) = order.events.front() {
            if floors.get(&index).is_none_or(|floor| seq > *floor) {
                break;
            }
            order.events.pop_front();
            order.free(index, size as u64);
        }
        if order.events.capacity() > 1024 && order.events.len() < order.events.capacity() / 4 {
            order.events.shrink_to_fit();
        }
        drop(order);
        for (index, floor) in floors {
            let Some(tail) = self.tail(index) else { continue };
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            let gone = tail.partition_point(|event| event.seq <= floor);
            tail.drain(..gone);
            if tail.is_empty() {
                // A log that was busy once and is idle now keeps no capacity.
                *tail = VecDeque::new();
            }
        }
        Ok(())
    }

    fn cuts_on_write(&self) -> bool {
        true
    }

    fn tick(&self, _: UnixMillis) -> Result<(), StoreError> {
        Ok(())
    }

    fn held(&self, index: LogIndex) -> u64 {
        self.order().held.get(&index).copied().unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        self.order().bytes
    }
}

//! The ledger of an audit: which events were published, from the responses to publishers; and which event has
//! which seq, on which all readers and publishers must agree.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{cursor::Cursor, event::Planned, fault::Fault, findings::Findings};

/// The ledger, shared by all tasks of an audit.
#[derive(Debug)]
pub struct Ledger {
    /// By seq, the code of the event; 0 if no task has seen it.
    by_seq: Box<[AtomicU64]>,
    acknowledged: Mutex<Acknowledged>,
    epochs: Mutex<HashSet<String>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Acknowledged {
    /// Each acknowledged event with its seq.
    events: Vec<(Planned, u64)>,
    cursor: Option<Cursor>,
}

/// The outcomes of publish requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Acknowledged.
    pub ok: AtomicUsize,
    /// Refused, so certainly not stored.
    pub refused: AtomicUsize,
    /// Not answered, or answered with the code `unknown`.
    pub unknown: AtomicUsize,
    /// Not sent, because the gateway was not reachable.
    pub unsent: AtomicUsize,
    /// Batches with an unknown outcome that were found stored when they were sent again.
    pub recovered: AtomicUsize,
    /// Acknowledged batches that were sent again on purpose.
    pub resent: AtomicUsize,
    /// Of these, the batches that an earlier incarnation of the gateway had acknowledged.
    pub resent_over_restart: AtomicUsize,
}

impl Ledger {
    /// An empty ledger, for logs with seqs below `seqs`.
    pub fn new(seqs: usize) -> Self {
        Self {
            by_seq: (0..seqs).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: Mutex::default(),
            epochs: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// The counters.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Records that a task saw this event with this seq. A fault if another event was seen there.
    pub fn agree(&self, seq: u64, planned: Planned) -> Result<(), Fault> {
        let contradicted = |there: String| Fault::Contradicted { seq, here: planned.id(), there };
        let slot = self.by_seq.get(seq as usize);
        let slot = slot.ok_or_else(|| contradicted("nothing, because no log is that long".into()))?;
        match slot.compare_exchange(0, planned.code(), Ordering::Relaxed, Ordering::Relaxed) {
            Err(there) if there != planned.code() => Err(contradicted(Planned::from_code(there).id())),
            _ => Ok(()),
        }
    }

    /// Records that the gateway acknowledged these events, with this cursor.
    pub fn acknowledge(&self, stored: &[(Planned, u64)], cursor: Cursor) {
        self.saw_epoch(&cursor.epoch);
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.events.extend_from_slice(stored);
        acknowledged.cursor = Some(cursor);
    }

    /// The number of acknowledged events.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).events.len()
    }

    /// The cursor of the latest publish response.
    pub fn cursor(&self) -> Option<Cursor> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).cursor.clone()
    }

    /// Records that a task saw this epoch.
    pub fn saw_epoch(&self, epoch: &str) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if !epochs.contains(epoch) {
            epochs.insert(epoch.to_owned());
        }
    }

    /// The number of epochs seen.
    pub fn epochs(&self) -> usize {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// At the end, checks that the log holds each acknowledged event at its seq, and no event twice.
    pub fn settle(&self, log: &[(u64, Planned)], findings: &Findings) {
        let mut at: std::collections::HashMap<Planned, u64> = std::collections::HashMap::new();
        for (seq, planned) in log {
            if let Some(before) = at.insert(*planned, *seq) {
                findings.add("log", format!("{} is stored twice, at {before} and {seq}", planned.id()));
            }
        }
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        for (planned, seq) in &acknowledged.events {
            match at.get(planned) {
                None => {
                    findings.add("log", format!("{} was acknowledged at {seq}, but is lost", planned.id()))
                }
                Some(found) if found != seq => findings.add(
                    "log",
                    format!("{} was acknowledged at {seq}, but is stored at {found}", planned.id()),
                ),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_moved_and_doubled_events_are_found() {
        let event = |number| Planned { publisher: 1, number };
        let ledger = Ledger::new(16);
        let cursor = Cursor { epoch: "e".into(), seq: 3, tag: None };
        ledger.acknowledge(&[(event(0), 1), (event(1), 2), (event(2), 3)], cursor);
        let found = |log: &[(u64, Planned)]| {
            let findings = Findings::default();
            ledger.settle(log, &findings);
            findings.kept().join("; ")
        };
        // An event that was published but not acknowledged may be in the log.
        assert_eq!(found(&[(1, event(0)), (2, event(1)), (3, event(2)), (4, event(9))]), "");
        assert!(found(&[(1, event(0)), (2, event(1))]).contains("lost"));
        assert!(found(&[(1, event(0)), (2, event(1)), (4, event(2))]).contains("stored at 4"));
        assert!(found(&[(1, event(0)), (2, event(1)), (3, event(2)), (4, event(1))]).contains("twice"));
    }
}

//! What is known to be published, from the publishers' answers; and which event stands at which
//! place, which everybody who sees one must agree on.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{cursor::Cursor, event::Planned, fault::Fault, findings::Findings};

/// The shared memory of an audit.
#[derive(Debug)]
pub struct Ledger {
    /// By place, the code of the event there; 0 where nobody has seen one.
    places: Box<[AtomicU64]>,
    acknowledged: Mutex<Acknowledged>,
    epochs: Mutex<HashSet<String>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Acknowledged {
    /// Each acknowledged event and its place.
    events: Vec<(Planned, u64)>,
    cursor: Option<Cursor>,
}

/// How the publish requests ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// Acknowledged.
    pub ok: AtomicUsize,
    /// Refused, so certainly not stored.
    pub refused: AtomicUsize,
    /// Not answered, or answered with "not known".
    pub unknown: AtomicUsize,
    /// Not even sent: the gateway was not there.
    pub unsent: AtomicUsize,
    /// Unknown ones that turned out to be stored when they were sent again.
    pub recovered: AtomicUsize,
    /// Acknowledged ones that were sent again on purpose.
    pub resent: AtomicUsize,
    /// Those of them that another life of the gateway had acknowledged.
    pub resent_over_restart: AtomicUsize,
}

impl Ledger {
    /// An empty one, for logs of so many places.
    pub fn new(places: usize) -> Self {
        Self {
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: Mutex::default(),
            epochs: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// The counters.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Somebody saw this event at this place.
    pub fn agree(&self, seq: u64, planned: Planned) -> Result<(), Fault> {
        let contradicted = |there: String| Fault::Contradicted { seq, here: planned.id(), there };
        let place = self.places.get(seq as usize);
        let place = place.ok_or_else(|| contradicted("nothing, for no log is that long".into()))?;
        match place.compare_exchange(0, planned.code(), Ordering::Relaxed, Ordering::Relaxed) {
            Err(there) if there != planned.code() => Err(contradicted(Planned::from_code(there).id())),
            _ => Ok(()),
        }
    }

    /// The gateway acknowledged these, with this cursor.
    pub fn acknowledge(&self, placed: &[(Planned, u64)], cursor: Cursor) {
        self.saw_epoch(&cursor.epoch);
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.events.extend_from_slice(placed);
        acknowledged.cursor = Some(cursor);
    }

    /// How many events are acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).events.len()
    }

    /// The cursor of a publish answer, a late one.
    pub fn cursor(&self) -> Option<Cursor> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).cursor.clone()
    }

    /// Somebody met this epoch.
    pub fn saw_epoch(&self, epoch: &str) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if !epochs.contains(epoch) {
            epochs.insert(epoch.to_owned());
        }
    }

    /// How many epochs there were.
    pub fn epochs(&self) -> usize {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The end: the log holds each acknowledged event at its place, and no event twice.
    pub fn settle(&self, log: &[(u64, Planned)], findings: &Findings) {
        let mut at: std::collections::HashMap<Planned, u64> = std::collections::HashMap::new();
        for (seq, planned) in log {
            if let Some(before) = at.insert(*planned, *seq) {
                findings.add("log", format!("{} stands twice, at {before} and {seq}", planned.id()));
            }
        }
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        for (planned, seq) in &acknowledged.events {
            match at.get(planned) {
                None => {
                    findings.add("log", format!("{} was acknowledged at {seq}, and is lost", planned.id()))
                }
                Some(found) if found != seq => findings
                    .add("log", format!("{} was acknowledged at {seq}, and stands at {found}", planned.id())),
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
        let told = |log: &[(u64, Planned)]| {
            let findings = Findings::default();
            ledger.settle(log, &findings);
            findings.kept().join("; ")
        };
        // What was published and never answered may be there.
        assert_eq!(told(&[(1, event(0)), (2, event(1)), (3, event(2)), (4, event(9))]), "");
        assert!(told(&[(1, event(0)), (2, event(1))]).contains("lost"));
        assert!(told(&[(1, event(0)), (2, event(1)), (4, event(2))]).contains("stands at 4"));
        assert!(told(&[(1, event(0)), (2, event(1)), (3, event(2)), (4, event(1))]).contains("twice"));
    }
}

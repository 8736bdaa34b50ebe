//! What the committer takes away: events by retention, and logs that nobody needs any more.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::{
    committer::Committer,
    local::Log,
    store::{Cut, Group, Store, StoreError},
};

impl<S: Store> Committer<S> {
    /// Raises floors, durably and then for readers, and lets the store remove what is below them.
    pub(super) fn cut(&mut self, now: UnixMillis, cut: &Cut) -> Result<(), StoreError> {
        let known = cut.floors.iter().filter_map(|(index, floor)| Some((self.by_index.get(index)?, *floor)));
        let raised: Vec<(Arc<Log>, Seq)> = known
            .filter(|(log, floor)| log.bounds().0 < *floor)
            .map(|(log, floor)| (log.clone(), floor))
            .collect();
        if !raised.is_empty() {
            let floors = raised.iter().map(|(log, floor)| (log.index, *floor)).collect();
            self.shared.store.commit(&Group { at: now, floors, ..Group::default() })?;
            self.shared.store.acknowledge()?;
        }
        for (log, floor) in raised {
            log.now.write().unwrap_or_else(PoisonError::into_inner).floor = floor;
        }
        self.shared.store.apply_cut(cut)
    }

    pub(super) fn sweep(&mut self, now: UnixMillis, cut: Option<Cut>) -> Result<(), StoreError> {
        self.shared.store.tick(now)?;
        if let Some(cut) = cut {
            self.cut(now, &cut)?;
        }
        self.forget_idle(now)
    }

    /// Forgets whole the logs that hold nothing, have no readers, and were long not touched (R10).
    fn forget_idle(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        // A touch ahead of a clock that has stepped back counts as one of now.
        let idle_for = |log: &Log| now - log.touched.fetch_min(now, Ordering::Relaxed).min(now);
        let candidates: Vec<(OrgId, Arc<Log>)> = {
            let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
            // From half the time on it is asked for readers, so that the clock of a log that lost
            // its last reader just now begins now, not at its last event.
            let half = self.shared.forget_after / 2;
            (logs.iter())
                .filter(|(_, log)| {
                    let now = log.now.read().unwrap_or_else(PoisonError::into_inner);
                    now.head == now.floor && idle_for(log) >= half
                })
                .map(|(org, log)| (org.clone(), log.clone()))
                .collect()
        };
        let mut forgotten = Vec::new();
        for (org, log) in candidates {
            if self.shared.around.feed.has_readers(&org) {
                log.touched.fetch_max(now, Ordering::Relaxed);
                continue;
            }
            let mut logs = self.shared.logs.write().unwrap_or_else(PoisonError::into_inner);
            if idle_for(&log) >= self.shared.forget_after {
                logs.remove(&org);
                if logs.is_empty() {
                    logs.shrink_to_fit();
                }
                self.by_index.remove(&log.index);
                forgotten.push((log.index, org));
            }
        }
        if self.by_index.is_empty() {
            self.by_index.shrink_to_fit();
        }
        if forgotten.is_empty() {
            return Ok(());
        }
        self.shared.store.commit(&Group { at: now, forgotten, ..Group::default() })?;
        self.shared.store.acknowledge()
    }
}

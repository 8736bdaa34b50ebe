//! Removal: events that retention no longer keeps, and logs that nobody needs any more.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::{
    commit_clock::Time,
    committer::Committer,
    local::Log,
    store::{Cut, Store, StoreError, WriteGroup},
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
            self.shared.store.commit(&WriteGroup { at: now, floors, ..WriteGroup::default() })?;
            self.shared.store.acknowledge()?;
        }
        for (log, floor) in raised {
            log.now.write().unwrap_or_else(PoisonError::into_inner).floor = floor;
        }
        self.shared.store.apply_cut(cut)
    }

    pub(super) fn sweep(&mut self, time: Time, cut: Option<Cut>) -> Result<(), StoreError> {
        self.shared.store.tick(time.now)?;
        if let Some(cut) = cut {
            self.cut(time.now, &cut)?;
        }
        self.forget_idle(time)
    }

    /// Forgets whole the logs that hold no events, are not watched, and were long not touched (R10).
    fn forget_idle(&mut self, time: Time) -> Result<(), StoreError> {
        let forget_after = self.shared.forget_after;
        // A reader may leave while this runs, so a touch may be later.
        let idle_for = |log: &Log| time.passed.saturating_sub(log.touched.load(Ordering::Relaxed));
        let is_idle = |log: &Log| {
            let bounds = log.bounds();
            bounds.0 == bounds.1 && idle_for(log) >= forget_after
        };
        let candidates: Vec<OrgId> = {
            let logs = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner);
            logs.iter().filter(|(_, log)| is_idle(log)).map(|(org, _)| org.clone()).collect()
        };
        let mut forgotten = Vec::new();
        for org in candidates {
            let mut logs = self.shared.logs.write().unwrap_or_else(PoisonError::into_inner);
            // The check is made with the map locked. A reader first watches the org and then opens its log.
            // So either the watch is seen here, or the open does not find the log and creates it anew.
            let Some(log) = logs.get(&org).filter(|log| is_idle(log)) else { continue };
            if self.shared.watched.contains(&org) {
                continue;
            }
            let index = log.index;
            logs.remove(&org);
            if logs.is_empty() {
                logs.shrink_to_fit();
            }
            self.by_index.remove(&index);
            forgotten.push((index, org));
        }
        if self.by_index.is_empty() {
            self.by_index.shrink_to_fit();
        }
        if forgotten.is_empty() {
            return Ok(());
        }
        self.shared.store.commit(&WriteGroup { at: time.now, forgotten, ..WriteGroup::default() })?;
        self.shared.store.acknowledge()
    }
}

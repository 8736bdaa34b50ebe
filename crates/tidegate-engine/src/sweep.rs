//! Removal: events that retention no longer keeps, logs that nobody needs any more, and what an operator
//! deletes.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::{
    DeleteError,
    commit_clock::Time,
    committer::Committer,
    local::Log,
    store::{Cut, Erasure, Store, StoreError, WriteGroup},
};

impl<S: Store> Committer<S> {
    /// Removes the oldest events if the store is larger than it may be.
    pub(super) fn cut_if_over(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        if !self.shared.store.cuts_on_write() {
            return Ok(());
        }
        match self.shared.store.plan_cut(now, 0) {
            Ok(Some(cut)) => self.cut(now, &cut)?,
            Ok(None) => self.wake_cutter(),
            // A read that failed. It is planned again with the next commit.
            Err(error) => tracing::error!(%error, "plan retention"),
        }
        Ok(())
    }

    /// Lets the cutter look for events of logs that hold more than their share, and for what a cut has left.
    pub(super) fn wake_cutter(&self) {
        // If it cannot be sent, the cutter was woken already and has not looked yet.
        let _ = self.cutter.try_send(());
    }

    /// Raises floors, and lets the store remove what is below them.
    pub(super) fn cut(&mut self, now: UnixMillis, cut: &Cut) -> Result<(), StoreError> {
        // If there is no room even for this, what has to go goes another time.
        if self.raise_floors(now, cut)? { self.shared.store.apply_cut(cut) } else { Ok(()) }
    }

    /// Raises floors, durably and then for readers. Says whether there was room for that.
    pub(super) fn raise_floors(&mut self, now: UnixMillis, cut: &Cut) -> Result<bool, StoreError> {
        let known = cut.floors.iter().filter_map(|(index, floor)| Some((self.by_index.get(index)?, *floor)));
        let raised: Vec<(Arc<Log>, Seq)> = known
            .filter(|(log, floor)| log.bounds().0 < *floor)
            .map(|(log, floor)| (log.clone(), floor))
            .collect();
        if !raised.is_empty() || cut.token > 0 {
            let floors = raised.iter().map(|(log, floor)| (log.index, *floor)).collect();
            let group = WriteGroup { at: now, floors, cut: cut.token, ..WriteGroup::default() };
            if self.shared.store.commit(&group)?.is_err() {
                return Ok(false);
            }
            // What is below a floor leaves the files durably, so the floor is durable before, whatever the policy.
            self.shared.store.sync()?;
            self.shared.store.acknowledge()?;
        }
        for (log, floor) in raised {
            log.now.write().unwrap_or_else(PoisonError::into_inner).floor = floor;
        }
        Ok(true)
    }

    /// Deletes a log, or events of it: from here on they cannot be read, and that is durable. Their bytes are
    /// erased from the files by the next sweep.
    pub(super) fn delete(
        &mut self,
        now: UnixMillis,
        org: &OrgId,
        seqs: Option<Vec<Seq>>,
    ) -> Result<Result<(), DeleteError>, StoreError> {
        let Some(log) = self.shared.log(org) else { return Ok(Err(DeleteError::NoLog)) };
        let (floor, head) = log.bounds();
        let seqs = seqs.map(|mut seqs| {
            seqs.retain(|seq| (floor + 1..=head).contains(seq));
            seqs.sort_unstable();
            seqs.dedup();
            seqs
        });
        if seqs.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Err(DeleteError::NoEvent));
        }
        let erasure = Erasure { log: log.index, seqs: seqs.clone() };
        let mut group = WriteGroup { at: now, erasures: vec![(erasure, false)], ..WriteGroup::default() };
        if seqs.is_none() {
            group.forgotten.push((log.index, org.clone()));
        }
        if self.shared.store.commit(&group)?.is_err() {
            return Ok(Err(DeleteError::LogFull));
        }
        self.shared.store.acknowledge()?;
        let feed = &self.shared.hooks.feed;
        match seqs {
            Some(seqs) => feed.events_deleted(org, &seqs),
            None => {
                self.window.forget(log.index);
                self.by_index.remove(&log.index);
                self.shared.logs.write().unwrap_or_else(PoisonError::into_inner).remove(org);
                feed.org_deleted(org);
            }
        }
        Ok(Ok(()))
    }

    /// Notes that erasures were carried out.
    pub(super) fn note_erased(&mut self, now: UnixMillis, erased: Vec<Erasure>) -> Result<(), StoreError> {
        let erasures = erased.into_iter().map(|erasure| (erasure, true)).collect();
        if self.shared.store.commit(&WriteGroup { at: now, erasures, ..WriteGroup::default() })?.is_err() {
            // There was no room. The next sweep carries them out again, which changes nothing.
            return Ok(());
        }
        self.shared.store.acknowledge()
    }

    pub(super) fn sweep(&mut self, time: Time, cut: Option<Cut>) -> Result<(), StoreError> {
        self.shared.store.tick(time.now)?;
        if let Some(cut) = cut {
            self.cut(time.now, &cut)?;
        } else {
            // All that could be removed is. An operator hears of a full log also if nobody publishes.
            let room = self.shared.store.make_room(0);
            self.note_room(room);
            self.wake_cutter();
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
        let group = WriteGroup { at: time.now, forgotten, ..WriteGroup::default() };
        if self.shared.store.commit(&group)?.is_err() {
            // There was no room. The next start finds them again, and forgets them then.
            return Ok(());
        }
        self.shared.store.acknowledge()
    }
}

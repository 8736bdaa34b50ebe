//! How much of the log each org holds, and how much it may hold while others want the room (P5).
//!
//! When the log is full, who holds more than its share is cut first. The share of an org is the *max-min fair share*
//! of what the log may take: as much as all get alike who want more than that, if those who want less are given what
//! they have. One share more is counted than there are orgs, so that something is left for an org that comes (dynamic
//! thresholds of Choudhury and Hahne 1998, with alpha = 1). A quota makes the share of its org smaller, never larger,
//! and what the org may not hold is shared by the others.
//!
//! Nothing that is younger than the dedup window can be removed, so a burst cannot be cut at once. Hence the second
//! rule: over its share, an org may write only what replaces its own older events, and half of what is free.
//!
//! The bytes are those of records with events, as the indexes of the segments have them.

use std::collections::{HashMap, VecDeque};

use tidegate_protocol::{OrgId, UnixMillis};

use super::{
    index::{Entry, table_of},
    record::FIRST_LOG,
};
use crate::{quotas::StoredQuotas, store::LogIndex};

/// How long a level counts, in milliseconds.
const LEVEL_MILLIS: u64 = 1_000;
/// It also counts no longer than until the log has grown by this part of its bound.
const LEVEL_PART: u64 = 128;

/// What one log holds.
#[derive(Debug, Clone, Copy, Default)]
struct OfLog {
    bytes: u64,
    /// How many of them are in segments that nothing can be removed from yet.
    fresh: u64,
    quota: Option<u64>,
}

/// A segment that nothing can be removed from yet.
struct Fresh {
    number: u64,
    logs: HashMap<LogIndex, u64>,
    /// The time of its last commit, once it is written to no more.
    ended: Option<UnixMillis>,
}

/// The room that the log has.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What its files may take: `log.max_bytes`, or less if the file system has no more.
    pub limit: u64,
    /// What they take.
    pub taken: u64,
    /// How far the files may pass the limit while a cut is carried out. The rest of what may be passed is left to orgs
    /// that are within their share.
    pub slack: u64,
    /// Whether older events are removed when the limit is reached. They are not if it is the file system's.
    pub is_cut: bool,
}

/// What all logs hold.
#[derive(Default)]
pub struct Held {
    logs: HashMap<LogIndex, OfLog>,
    total: u64,
    fresh: VecDeque<Fresh>,
    quotas: StoredQuotas,
    level: u64,
    /// When the level was computed, and for how many bytes; `None` if it has to be computed anew.
    level_of: Option<(UnixMillis, u64)>,
}

/// A log that holds more than its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    pub log: LogIndex,
    /// How much more.
    pub bytes: u64,
    /// How many of these bytes are over its quota.
    pub of_quota: u64,
}

impl OfLog {
    /// Its share if all get `level` alike.
    fn share(&self, level: u64) -> u64 {
        self.quota.map_or(level, |quota| quota.min(level))
    }
}

impl Held {
    /// Changes the quotas. `orgs` are all logs.
    pub fn set_quotas<'a>(
        &mut self,
        quotas: StoredQuotas,
        orgs: impl Iterator<Item = (LogIndex, &'a OrgId)>,
    ) {
        self.quotas = quotas;
        self.level_of = None;
        for (log, org) in orgs {
            if let Some(of_log) = self.logs.get_mut(&log) {
                of_log.quota = self.quotas.of(org);
            }
        }
    }

    /// A segment is written to from now on, and the one before no more.
    pub fn begin(&mut self, number: u64, ended: UnixMillis) {
        if let Some(before) = self.fresh.back_mut() {
            before.ended.get_or_insert(ended);
        }
        self.fresh.push_back(Fresh { number, logs: HashMap::new(), ended: None });
    }

    /// Counts what a segment holds that was found at a start.
    pub fn found(&mut self, number: u64, table: &[(LogIndex, u64)], ended: Option<UnixMillis>) {
        self.fresh.push_back(Fresh { number, logs: HashMap::new(), ended });
        for (log, bytes) in of_logs(table) {
            self.add(log, bytes);
        }
    }

    /// Counts records of the newest segment in. `org` is whose log it is, as far as that is known.
    pub fn note(&mut self, entries: &[Entry], org: impl Fn(LogIndex) -> Option<OrgId>) {
        for (log, bytes) in of_logs(&table_of(entries)) {
            if !self.logs.contains_key(&log) {
                let quota = org(log).and_then(|org| self.quotas.of(&org));
                self.logs.insert(log, OfLog { quota, ..OfLog::default() });
            }
            self.add(log, bytes);
        }
    }

    fn add(&mut self, log: LogIndex, bytes: u64) {
        let of_log = self.logs.entry(log).or_default();
        of_log.bytes += bytes;
        of_log.fresh += bytes;
        self.total += bytes;
        if let Some(newest) = self.fresh.back_mut() {
            *newest.logs.entry(log).or_default() += bytes;
        }
    }

    /// A segment that held `before` holds `after` now.
    pub fn replace(&mut self, number: u64, before: &[(LogIndex, u64)], after: &[(LogIndex, u64)]) {
        let left: HashMap<LogIndex, u64> = of_logs(after).collect();
        let mut fresh = self.fresh.iter_mut().find(|fresh| fresh.number == number);
        for (log, bytes) in of_logs(before) {
            let gone = bytes.saturating_sub(left.get(&log).copied().unwrap_or(0));
            let Some(of_log) = self.logs.get_mut(&log) else { continue };
            let gone = gone.min(of_log.bytes);
            of_log.bytes -= gone;
            self.total -= gone;
            if let Some(of_segment) = fresh.as_mut().and_then(|fresh| fresh.logs.get_mut(&log)) {
                let gone = gone.min(*of_segment);
                *of_segment -= gone;
                of_log.fresh -= gone.min(of_log.fresh);
            }
            if of_log.bytes == 0 {
                self.logs.remove(&log);
            }
        }
    }

    /// A segment is no more, which held this.
    pub fn remove(&mut self, number: u64, table: &[(LogIndex, u64)]) {
        self.replace(number, table, &[]);
        self.fresh.retain(|fresh| fresh.number != number);
    }

    /// Events of commits up to `removable` can be removed.
    pub fn pass(&mut self, removable: UnixMillis) {
        let is_old = |oldest: &Fresh| oldest.ended.is_some_and(|at| at <= removable);
        while self.fresh.front().is_some_and(is_old)
            && let Some(oldest) = self.fresh.pop_front()
        {
            for (log, bytes) in oldest.logs {
                if let Some(of_log) = self.logs.get_mut(&log) {
                    of_log.fresh -= bytes.min(of_log.fresh);
                }
            }
        }
    }

    /// What a log holds.
    pub fn of(&self, log: LogIndex) -> u64 {
        self.logs.get(&log).map_or(0, |of_log| of_log.bytes)
    }

    /// Whether no other log than this holds anything.
    fn is_alone(&self, log: Option<LogIndex>) -> bool {
        self.logs.len() <= usize::from(log.is_some_and(|log| self.logs.contains_key(&log)))
    }

    /// What each log may hold whose quota is not less.
    fn level(&mut self, now: UnixMillis, room: Room) -> u64 {
        let is_current = self.level_of.is_some_and(|(at, total)| {
            now < at + LEVEL_MILLIS && self.total.abs_diff(total) < room.limit / LEVEL_PART
        });
        if !is_current {
            self.level_of = Some((now, self.total));
            // Indexes, ids and snapshots take their part.
            let beside = room.taken.saturating_sub(self.total);
            self.level = self.fair_share(room.limit.saturating_sub(beside));
        }
        self.level
    }

    fn fair_share(&self, capacity: u64) -> u64 {
        let mut left = capacity;
        let mut wanted: Vec<u64> = self.logs.values().map(|of_log| of_log.share(of_log.bytes)).collect();
        wanted.sort_unstable();
        let mut sharers = wanted.len() as u64 + 1;
        for bytes in wanted {
            if bytes.saturating_mul(sharers) > left {
                break;
            }
            left -= bytes;
            sharers -= 1;
        }
        left / sharers
    }

    /// Whether a log may take `bytes` more. `org` is whose it is: it may have none yet.
    pub fn may_grow(
        &mut self,
        now: UnixMillis,
        room: Room,
        log: Option<LogIndex>,
        org: &OrgId,
        bytes: u64,
    ) -> bool {
        if self.is_alone(log) {
            return true;
        }
        let known = log.and_then(|log| self.logs.get(&log)).copied();
        let of_log = known.unwrap_or_else(|| OfLog { quota: self.quotas.of(org), ..OfLog::default() });
        let OfLog { bytes: held, fresh, .. } = of_log;
        if held + bytes <= of_log.share(self.level(now, room)) {
            return true;
        }
        let replaced = if room.is_cut { held - fresh } else { 0 };
        room.taken + bytes <= room.limit + room.slack
            && fresh + bytes <= room.limit.saturating_sub(room.taken) + replaced
    }

    /// The logs that hold more than their share: first those that are over a quota, and of each kind the one that is
    /// furthest over its share.
    pub fn over(&mut self, room: Room) -> Vec<Over> {
        self.level_of = None;
        let level = self.level(0, room);
        self.level_of = None;
        let mut over: Vec<Over> = Vec::new();
        for (log, of_log) in &self.logs {
            let bytes = of_log.bytes.saturating_sub(of_log.share(level));
            let of_quota = of_log.quota.map_or(0, |quota| of_log.bytes.saturating_sub(quota));
            if bytes > 0 {
                over.push(Over { log: *log, bytes, of_quota });
            }
        }
        over.sort_unstable_by_key(|over| (over.of_quota == 0, std::cmp::Reverse(over.bytes), over.log));
        over
    }

    /// How many logs hold something.
    pub fn logs(&self) -> usize {
        self.logs.len()
    }
}

/// A table without the ids, which belong to no log.
pub fn of_logs(table: &[(LogIndex, u64)]) -> impl Iterator<Item = (LogIndex, u64)> {
    table.iter().copied().filter(|(log, _)| *log >= FIRST_LOG)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(logs: &[(u64, Option<u64>)]) -> Held {
        let of_log = |&(bytes, quota): &(u64, Option<u64>)| OfLog { bytes, fresh: 0, quota };
        Held {
            total: logs.iter().map(|log| log.0).sum(),
            logs: logs.iter().enumerate().map(|(n, log)| (FIRST_LOG + n as u64, of_log(log))).collect(),
            ..Held::default()
        }
    }

    #[test]
    fn p5_what_small_logs_do_not_use_is_shared_by_the_large_ones_and_one_share_is_left() {
        assert_eq!(held(&[]).fair_share(90), 90);
        assert_eq!(held(&[(100, None)]).fair_share(90), 45);
        assert_eq!(held(&[(10, None), (100, None)]).fair_share(90), 40);
        assert_eq!(held(&[(100, None), (100, None)]).fair_share(90), 30);
        // A quota leaves more to the others, and promises its owner nothing.
        assert_eq!(held(&[(100, Some(20)), (100, None)]).fair_share(90), 35);
        assert_eq!(held(&[(10, Some(50)), (100, None)]).fair_share(90), 40);
        assert_eq!(held(&[(100, Some(50)), (100, None)]).fair_share(90), 30);
        assert_eq!(held(&[(100, Some(100)), (100, None)]).fair_share(90), 30);
    }

    #[test]
    fn p5_quotas_that_take_the_whole_log_protect_nobody_from_a_cut() {
        let mut held = held(&[(75, Some(80)), (75, Some(80)), (10, None)]);
        let room = Room { limit: 150, taken: held.total, slack: 0, is_cut: true };
        let over = held.over(room);
        let cut = |log| Over { log, bytes: 29, of_quota: 0 };
        assert_eq!(over, [cut(FIRST_LOG), cut(FIRST_LOG + 1)], "not the one that holds little");
    }

    proptest! {
        #[test]
        fn p5_nobody_is_cut_below_what_all_get_who_want_more(
            logs in prop::collection::vec((0_u64..1000, prop::option::of(0_u64..1000)), 0..20),
            capacity in 0_u64..20_000,
        ) {
            let mut held = held(&logs);
            let room = Room { limit: capacity, taken: held.total, slack: 0, is_cut: true };
            let over = held.over(room);
            let level = held.fair_share(capacity);
            let share = |quota: Option<u64>| quota.unwrap_or(level).min(level);
            let rights = logs.iter().map(|(bytes, quota)| (*bytes).min(share(*quota))).sum::<u64>();
            for Over { log, bytes, of_quota } in &over {
                let (held, quota) = logs[(log - FIRST_LOG) as usize];
                prop_assert_eq!(held - bytes, share(quota));
                prop_assert_eq!(*of_quota, quota.map_or(0, |quota| held.saturating_sub(quota)));
            }
            let cut: u64 = over.iter().map(|over| over.bytes).sum();
            prop_assert_eq!(held.total - cut, rights);
            prop_assert!(rights + level <= capacity, "one share is left");
        }
    }
}

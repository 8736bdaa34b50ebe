//! Which events go into the next request and when, and what an answer changes. It has no clock, no randomness and
//! no IO: `driver` drives it.
//!
//! Events of one org and service never overtake each other: a batch is taken in the order of arrival, what has to
//! be sent again goes back to the front, and the next batch is taken only after the answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    answer::{Among, Sent, Split, Verdict, Why},
    delay::delay_ms,
    outcome::{FieldError, Outcome, Refused, Stored, Unknown},
};

/// An event that is not settled. `T` is what its driver keeps with it.
pub(super) struct Entry<T> {
    pub(super) id: String,
    pub(super) org: Option<String>,
    pub(super) service: String,
    /// The event as JSON.
    pub(super) bytes: Bytes,
    /// When it came into the queue, and until when it is tried, in milliseconds.
    pub(super) at: u64,
    pub(super) deadline: u64,
    pub(super) kept: T,
    attempts: u32,
    /// Whether an earlier try may have stored it.
    is_in_doubt: bool,
    last: Option<Why>,
    /// The number of the events that it may share a request with, because one of them has a fault that is looked
    /// for.
    group: Option<u64>,
}

impl<T> Entry<T> {
    pub(super) fn new(id: String, org: Option<String>, service: String, bytes: Bytes, kept: T) -> Self {
        Self {
            id,
            org,
            service,
            bytes,
            at: 0,
            deadline: 0,
            kept,
            attempts: 0,
            is_in_doubt: false,
            last: None,
            group: None,
        }
    }

    pub(super) fn sent(&self) -> Sent<'_> {
        Sent { id: &self.id, service: &self.service, org: self.org.as_deref() }
    }

    fn lane(&self) -> (Option<String>, String) {
        (self.org.clone(), self.service.clone())
    }

    /// What becomes of it if it is not tried again.
    pub(super) fn given_up(&self, why: &Why) -> Outcome {
        let Why { code, detail, limit } = why.clone();
        let (id, attempts) = (self.id.clone(), self.attempts);
        let detail = match attempts {
            0 => detail,
            1 => format!("given up after 1 try: {detail}"),
            tries => format!("given up after {tries} tries: {detail}"),
        };
        if self.is_in_doubt {
            return Outcome::Unknown(Unknown { id, code, detail, attempts });
        }
        Outcome::Refused(Refused {
            id,
            code,
            detail,
            is_retryable: true,
            errors: Vec::new(),
            limit,
            attempts,
        })
    }

    fn refused(&self, why: Why, errors: Vec<FieldError>) -> Outcome {
        let Why { code, detail, limit } = why;
        let (id, attempts) = (self.id.clone(), self.attempts);
        if self.is_in_doubt && !OF_THE_EVENT.contains(&code.as_str()) {
            let detail = format!("an earlier try may have stored it; the last: {detail}");
            return Outcome::Unknown(Unknown { id, code, detail, attempts });
        }
        Outcome::Refused(Refused { id, code, detail, is_retryable: false, errors, limit, attempts })
    }
}

/// These codes are about the event itself: an earlier try with the same bytes was not taken either. Others (a key
/// that was revoked, say) leave a doubt.
const OF_THE_EVENT: [&str; 5] = ["bad_request", "too_large", "unsupported_media", "invalid", "id_conflict"];

/// What goes into one request, and how long an event waits for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) orgs: usize,
    pub(super) delay_ms: u64,
}

/// No event is sent before `until`.
struct Hold {
    until: u64,
    failures: u32,
    why: Why,
}

/// An event that is settled.
pub(super) type Settled<T> = (Entry<T>, Outcome);

/// The events that wait.
pub(super) struct Queue<T> {
    waiting: VecDeque<Entry<T>>,
    limits: Limits,
    hold: Option<Hold>,
    holds: BTreeMap<Option<String>, Hold>,
    groups: u64,
}

impl<T> Queue<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { waiting: VecDeque::new(), limits, hold: None, holds: BTreeMap::new(), groups: 0 }
    }

    pub(super) fn push(&mut self, entry: Entry<T>) {
        self.waiting.push_back(entry);
    }

    /// All events, because the publisher ends.
    pub(super) fn give_up(&mut self, why: &Why) -> Vec<Settled<T>> {
        let settle = |entry: Entry<T>| {
            let outcome = entry.given_up(why);
            (entry, outcome)
        };
        self.waiting.drain(..).map(settle).collect()
    }

    /// When to call `expire` and `take` next; `None` if nothing waits. `is_urgent`: events do not wait for others.
    pub(super) fn deadline(&self, now: u64, is_urgent: bool) -> Option<u64> {
        let (mut expiry, mut due) = (u64::MAX, u64::MAX);
        let (mut events, mut bytes) = (0, 0);
        for entry in &self.waiting {
            expiry = expiry.min(entry.deadline);
            let held = self.held_until(entry);
            let waits = if is_urgent || entry.attempts > 0 { 0 } else { self.limits.delay_ms };
            due = due.min(held.max(entry.at.saturating_add(waits)));
            if held <= now {
                events += 1;
                bytes += entry.bytes.len();
            }
            if events >= self.limits.events || bytes >= self.limits.bytes {
                return Some(now);
            }
        }
        (!self.waiting.is_empty()).then_some(due.min(expiry))
    }

    fn held_until(&self, entry: &Entry<T>) -> u64 {
        let all = self.hold.as_ref().map_or(0, |hold| hold.until);
        // Most of the time no org is held, and the map is not asked.
        let org = if self.holds.is_empty() { None } else { self.holds.get(&entry.org) };
        org.map_or(all, |hold| hold.until.max(all))
    }

    /// The events that cannot be tried again within their time.
    pub(super) fn expire(&mut self, now: u64) -> Vec<Settled<T>> {
        let is_late = |queue: &Self, entry: &Entry<T>| now.max(queue.held_until(entry)) >= entry.deadline;
        if !self.waiting.iter().any(|entry| is_late(self, entry)) {
            return Vec::new();
        }
        let mut settled = Vec::new();
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for entry in std::mem::take(&mut self.waiting) {
            if !is_late(self, &entry) {
                rest.push_back(entry);
                continue;
            }
            let held = || self.hold.as_ref().or_else(|| self.holds.get(&entry.org)).map(|hold| &hold.why);
            let outcome = match entry.last.as_ref().or_else(held) {
                Some(why) => entry.given_up(why),
                None => entry.given_up(&Why::new("expired", "its time (retry_for) was over while it waited")),
            };
            settled.push((entry, outcome));
        }
        self.waiting = rest;
        settled
    }

    /// The events of the next request; none if all are held. They are out of the queue until `settle`.
    pub(super) fn take(&mut self, now: u64) -> Vec<Entry<T>> {
        let mut taken: Vec<Entry<T>> = Vec::new();
        let mut passed: Vec<Entry<T>> = Vec::new();
        // Whose events have one in `passed`: later ones must not overtake it.
        let mut lanes = BTreeSet::new();
        let mut orgs = BTreeSet::new();
        let mut bytes = 1;
        while let Some(mut entry) = self.waiting.pop_front() {
            let length = entry.bytes.len() + 1;
            if !taken.is_empty() && (taken.len() >= self.limits.events || bytes + length > self.limits.bytes)
            {
                self.waiting.push_front(entry);
                break;
            }
            let is_out = (!lanes.is_empty() && lanes.contains(&entry.lane()))
                || self.held_until(&entry) > now
                || taken.first().is_some_and(|first| first.group != entry.group)
                || (orgs.len() >= self.limits.orgs && !orgs.contains(&entry.org));
            if is_out {
                lanes.insert(entry.lane());
                passed.push(entry);
                continue;
            }
            if !orgs.contains(&entry.org) {
                orgs.insert(entry.org.clone());
            }
            bytes += length;
            entry.attempts += 1;
            taken.push(entry);
        }
        for entry in passed.into_iter().rev() {
            self.waiting.push_front(entry);
        }
        taken
    }

    /// Takes the verdicts on a request; returns the events that are settled. `random` gives numbers in [0, 1).
    pub(super) fn settle(
        &mut self,
        entries: Vec<Entry<T>>,
        verdicts: Vec<Verdict>,
        now: u64,
        mut random: impl FnMut() -> f64,
    ) -> Vec<Settled<T>> {
        let mut settled = Vec::new();
        let mut back: Vec<Entry<T>> = Vec::new();
        // What is asked for, by the org that it concerns; `None` is the whole request.
        let mut held: BTreeMap<Option<Option<String>>, (Why, u64)> = BTreeMap::new();
        let mut split: BTreeMap<Option<Option<String>>, (Split, Vec<usize>)> = BTreeMap::new();
        let orgs: BTreeSet<Option<String>> = entries.iter().map(|entry| entry.org.clone()).collect();
        for (mut entry, verdict) in entries.into_iter().zip(verdicts) {
            let scope = |among, entry: &Entry<T>| (among == Among::Org).then(|| entry.org.clone());
            match verdict {
                Verdict::Stored { seq, cursor, duplicate } => {
                    let stored = Stored { id: entry.id.clone(), seq, cursor, attempts: entry.attempts };
                    let outcome =
                        if duplicate { Outcome::Duplicate(stored) } else { Outcome::Stored(stored) };
                    settled.push((entry, outcome));
                }
                Verdict::Refused { why, errors } => {
                    let outcome = entry.refused(why, errors);
                    settled.push((entry, outcome));
                }
                Verdict::Rest => back.push(entry),
                Verdict::Again { why, is_known, asked_ms, among } => {
                    entry.is_in_doubt |= !is_known;
                    entry.last = Some(why.clone());
                    held.insert(scope(among, &entry), (why, asked_ms));
                    back.push(entry);
                }
                Verdict::Split { by, why, among } => {
                    entry.last = Some(why);
                    split.entry(scope(among, &entry)).or_insert((by, Vec::new())).1.push(back.len());
                    back.push(entry);
                }
            }
        }
        self.hold_all(orgs, held, now, &mut random);
        for (by, places) in split.into_values() {
            self.split(by, &mut back, &places);
        }
        // `take` left no earlier event of their org and service behind.
        for entry in back.into_iter().rev() {
            self.waiting.push_front(entry);
        }
        settled
    }

    fn hold_all(
        &mut self,
        orgs: BTreeSet<Option<String>>,
        mut held: BTreeMap<Option<Option<String>>, (Why, u64)>,
        now: u64,
        random: &mut impl FnMut() -> f64,
    ) {
        let mut hold = |before: Option<Hold>, found: Option<(Why, u64)>| {
            let (why, asked_ms) = found?;
            let failures = before.map_or(0, |hold| hold.failures) + 1;
            Some(Hold { until: now.saturating_add(delay_ms(failures, random(), asked_ms)), failures, why })
        };
        self.hold = hold(self.hold.take(), held.remove(&None));
        if self.hold.is_some() {
            return;
        }
        for org in orgs {
            let before = self.holds.remove(&org);
            if let Some(next) = hold(before, held.remove(&Some(org.clone()))) {
                self.holds.insert(org, next);
            }
        }
    }

    /// Takes the events at `places` apart.
    fn split(&mut self, by: Split, back: &mut [Entry<T>], places: &[usize]) {
        let half_of = |count: usize| (count / 2).max(1);
        match by {
            Split::Events => self.limits.events = self.limits.events.min(half_of(places.len())),
            Split::Bytes => {
                let bytes = places.iter().map(|at| back[*at].bytes.len() + 1).sum::<usize>() + 1;
                self.limits.bytes = self.limits.bytes.min(half_of(bytes));
            }
            Split::Orgs => {
                let orgs: BTreeSet<_> = places.iter().map(|at| &back[*at].org).collect();
                self.limits.orgs = self.limits.orgs.min(half_of(orgs.len()));
            }
            Split::Half => {
                for half in places.chunks(places.len().div_ceil(2)) {
                    self.groups += 1;
                    half.iter().for_each(|at| back[*at].group = Some(self.groups));
                }
            }
            Split::Service => {
                let mut groups = BTreeMap::new();
                for at in places {
                    let group = *groups.entry(back[*at].lane()).or_insert_with(|| {
                        self.groups += 1;
                        self.groups
                    });
                    back[*at].group = Some(group);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

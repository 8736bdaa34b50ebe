//! What the application gets: events once and in order, the cursor after them, and gaps, filled from history
//! if that is wanted.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{DEDUP_MS, Session};
use crate::{
    Cursor, Seq,
    client::{
        members::Members,
        output::Output,
        state::{Fill, Held, Remembered},
    },
    time::parse_rfc3339,
};

const PAGE_MS: u64 = 15_000;

/// Events held back while a gap is filled; with more, the gap is reported after all.
const HELD_MAX: usize = 5_000;

/// Ids are forgotten a generation at a time.
const GENERATION_MS: u64 = 60_000;
const GENERATION_KEYS: usize = 2_000;
const KEYS_MAX: usize = 10_000;

const LATENCIES_MAX: usize = 100;

/// What a session looks at in an event.
pub(super) struct Facts {
    pub(super) seq: Seq,
    /// When the gateway accepted it.
    pub(super) appended: Option<i64>,
    /// Service, source and id (R14).
    key: String,
}

impl Facts {
    /// Reads them; `None` if it is not an object with a seq.
    pub(super) fn of(event: &RawValue) -> Option<Self> {
        let members = Members::read(event.get())?;
        let text = |name| members.text(name).unwrap_or_default();
        Some(Self {
            seq: members.whole("seq")?,
            appended: members.text("timestamp").and_then(|text| parse_rfc3339(&text)),
            key: format!("{}\0{}\0{}", text("service"), text("source"), text("id")),
        })
    }
}

impl Session {
    /// Delivers an event, or holds it back while a gap before it is filled.
    pub(super) fn take(&mut self, held: Held, facts: &Facts) {
        let Some(fill) = &mut self.state.fill else { return self.deliver(held, facts) };
        fill.held.push(held);
        if fill.held.len() > HELD_MAX {
            self.fill_failed();
        }
    }

    /// The cursor has moved. While a gap is filled, the application hears of it later.
    pub(super) fn moved(&mut self) {
        let Some(cursor) = self.state.cursor.clone() else { return };
        match &mut self.state.fill {
            Some(fill) => fill.cursor = cursor,
            None => self.emit(Output::Cursor { cursor }),
        }
    }

    fn deliver(&mut self, held: Held, facts: &Facts) {
        let Held { event, replay, latency_ms } = held;
        if self.is_repeat(facts) {
            self.state.repeats += 1;
            self.state.unreported.duplicates += 1;
            return;
        }
        let s = &mut self.state;
        s.events += 1;
        s.event_wall = Some(self.wall);
        if let Some(latency) = latency_ms {
            for ring in [&mut s.latencies, &mut s.unreported.latencies_ms] {
                if ring.len() == LATENCIES_MAX {
                    ring.remove(0);
                }
                ring.push(latency);
            }
        }
        self.emit(Output::Event { event, replay, latency_ms });
    }

    /// Delivers events that were held back.
    fn release(&mut self, held: Vec<Held>) {
        for held in held {
            // It had its facts when it came.
            if let Some(facts) = Facts::of(&held.event) {
                self.deliver(held, &facts);
            }
        }
    }

    /// R14: within one chain of epochs the cursor alone decides. After a gap of reason `epoch` the same event
    /// may come under another seq.
    fn is_repeat(&mut self, facts: &Facts) -> bool {
        let now = self.now;
        let s = &mut self.state;
        let Some(appended) = facts.appended else { return false };
        if now < s.dedup_until {
            let window = DEDUP_MS.min(s.dedup_window_ms);
            let is_near = |before: &i64| appended.abs_diff(*before) < window;
            if s.remembered.iter().any(|Remembered { keys, .. }| keys.get(&facts.key).is_some_and(is_near)) {
                return true;
            }
        }
        let is_full = |last: &Remembered| {
            now.saturating_sub(last.born) >= GENERATION_MS || last.keys.len() >= GENERATION_KEYS
        };
        if s.remembered.last().is_none_or(is_full) {
            s.remembered.push(Remembered { born: now, keys: BTreeMap::new() });
        }
        if let Some(last) = s.remembered.last_mut() {
            last.keys.insert(facts.key.clone(), appended);
        }
        if s.remembered.iter().map(|generation| generation.keys.len()).sum::<usize>() > KEYS_MAX {
            s.remembered.remove(0);
        }
        s.timers.sweep.get_or_insert(now + GENERATION_MS);
        false
    }

    /// Forgets ids that are older than the window.
    pub(super) fn sweep(&mut self) {
        let now = self.now;
        let s = &mut self.state;
        s.remembered.retain(|generation| now.saturating_sub(generation.born) < DEDUP_MS + GENERATION_MS);
        s.timers.sweep = (!s.remembered.is_empty()).then_some(now + GENERATION_MS);
    }

    // --- Filling a gap from history.

    /// Requests the next page of the gap.
    pub(super) fn ask_page(&mut self) {
        let g = self.generation();
        let Some(fill) = &mut self.state.fill else { return };
        fill.g = g;
        let history = Output::History { g, after: fill.after.clone(), to: fill.to };
        self.state.timers.page = Some(self.now + PAGE_MS);
        self.emit(history);
    }

    pub(super) fn page(&mut self, g: u64, text: &str) {
        let Some(fill) = self.state.fill.as_ref().filter(|fill| fill.g == g) else { return };
        let to = fill.to;
        let page = Page::read(text, fill.after.seq, to);
        self.state.timers.page = None;
        let Some(Page { events, cursor }) = page else { return self.fill_failed() };
        for (event, facts) in events {
            if facts.seq <= to {
                self.deliver(Held { event: event.to_owned(), replay: true, latency_ms: None }, &facts);
            }
        }
        let after = Cursor { seq: cursor.seq.min(to), ..cursor };
        let is_done = after.seq == to;
        if let Some(fill) = &mut self.state.fill {
            fill.after = after.clone();
        }
        if is_done {
            self.fill_done();
        } else {
            self.emit(Output::Cursor { cursor: after });
            self.ask_page();
        }
    }

    pub(super) fn page_failed(&mut self, g: u64) {
        if self.state.fill.as_ref().is_some_and(|fill| fill.g == g) {
            self.state.timers.page = None;
            self.fill_failed();
        }
    }

    fn fill_done(&mut self) {
        let Some(Fill { held, cursor, .. }) = self.state.fill.take() else { return };
        self.state.timers.page = None;
        self.release(held);
        self.emit(Output::Cursor { cursor });
    }

    /// What is left of the gap is reported after all, then what was held back is delivered.
    pub(super) fn fill_failed(&mut self) {
        let Some(fill) = &self.state.fill else { return };
        let gap = Output::Gap {
            prev: fill.after.seq,
            seq: fill.to,
            epoch: fill.cursor.epoch.clone(),
            reason: fill.reason.clone(),
            services: None,
        };
        let g = fill.g;
        if self.state.timers.page.is_some() {
            self.emit(Output::Cancel { g });
        }
        self.state.gaps += 1;
        self.state.unreported.gaps += 1;
        self.emit(gap);
        self.fill_done();
    }
}

/// A page of history that goes on after a position.
struct Page<'a> {
    events: Vec<(&'a RawValue, Facts)>,
    cursor: Cursor,
}

impl<'a> Page<'a> {
    /// Reads it. `None` if it is no such page, does not go on to `to`, or has a gap: what history cannot give
    /// either is gone.
    fn read(text: &'a str, after: Seq, to: Seq) -> Option<Self> {
        let page = Members::read(text)?;
        let cursor: Cursor = page.text("cursor")?.parse().ok()?;
        let list = page.list("events")?;
        if page.get("gap").is_some() {
            return None;
        }
        let mut place = after;
        let mut events = Vec::with_capacity(list.len());
        for event in list {
            let facts = Facts::of(event).filter(|facts| facts.seq > place && facts.seq <= cursor.seq)?;
            place = facts.seq;
            events.push((event, facts));
        }
        let least = if page.is_true("has_more") { after + 1 } else { to };
        (cursor.seq >= least).then_some(Self { events, cursor })
    }
}

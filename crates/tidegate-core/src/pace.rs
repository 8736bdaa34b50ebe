//! When a worker serves which org (R15): how often each org has a fan-out pass, and whose turn it is.
//!
//! A fan-out pass sends everything that was committed to an org since its last pass to all caught-up readers
//! of the org on one worker. Sealing a full batch does not start a pass; only the pace does. An org that was
//! quiet is served at once. After a pass, the org waits for a time in proportion to the cost of that pass, so
//! that fan-out stays under a share of the worker's time. So ten readers get every event at once, a thousand
//! readers get a batch every few milliseconds, and nobody has to tune anything.
//!
//! Orgs whose pass is due are served in slices, round robin, in two classes: short passes before long
//! ones (shortest job first), with a bound on how many short passes may go before a long one that is due.
//!
//! Sans-IO: the worker reports facts with their times, asks which org to serve next, and reports how much
//! that cost. Times are durations since any fixed start. Each org stores its own [`Pace`]; [`Passes`] has the
//! queues.

use std::{
    cell::Cell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

/// When the next pass of an org starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As soon as fan-out stays under its share of the worker's time.
    Paced,
    /// When the first waiting event has waited for `Pacing::window`: the least work.
    Fixed,
    /// At once: the least latency.
    Immediate,
}

/// How passes are paced.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// Which rule decides when a pass starts.
    pub mode: Mode,
    /// The longest time for which the pace makes an event wait.
    pub window: Duration,
    /// The share of a worker's time that passes may take, above 0 and at most 1.
    pub share: f64,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { mode: Mode::Paced, window: Duration::from_millis(50), share: 0.5 }
    }
}

/// How long one org is served before the next org gets its turn. That is time for a few hundred sends, so the
/// fixed cost of a slice matters little; and an org that waits for ten others waits no more than about 10 ms.
pub const SLICE: Duration = Duration::from_millis(1);

/// A pass is expected to be short if the org's last one cost no more than this. Short passes go before long
/// ones. Otherwise a small org would wait for a slice of every big one; the big ones lose almost nothing.
const SHORT: Duration = Duration::from_micros(250);

/// This many short passes in a row may go before a long one that is due.
const SHORT_IN_A_ROW_MAX: u32 = 16;

/// A pass that is due within this time starts now: timers of the runtime have a resolution of 1 ms, so a
/// timer for so short a time would usually fire too late. Starting early gives the org no advantage: if the
/// pass ends before the time when it was due, the next wait still counts from that time.
const GRAIN: Duration = Duration::from_micros(500);

/// How often the load is reviewed: twice the default window, so that each busy org has had a pass in between.
const REVIEW: Duration = Duration::from_millis(100);

/// The largest factor by which waits are stretched. The window bounds each wait anyway; this bound is needed
/// so that the factor soon falls back to 1 when the load is gone.
const STRETCH_MAX: f64 = 1000.0;

/// How much was written in a slice of a pass, or in other work for the readers of an org.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The number of sends: in a slice, one for each reader served.
    pub sends: u64,
    /// The bytes of all of them together.
    pub bytes: u64,
}

/// The fixed cost of a send, as the number of bytes that can be copied to the kernel in the same time: about
/// 3 us for the system call and the network stack, at about 10 GB/s. An estimate; only its order of magnitude
/// matters.
const SEND_BYTES: u64 = 32 << 10;

impl Written {
    /// The part of `cost` that waiting can save. An org that waits sends several batches with one send, so it
    /// saves the fixed cost of the other sends. It does not save the cost of the bytes, which have to be sent
    /// anyway. If their cost counted too, a busy org would wait up to the whole window and gain nothing: the
    /// longer it waits, the more bytes its next pass has, and the more that pass costs.
    pub fn saved_by_waiting(self, cost: Duration) -> Duration {
        let sends = self.sends.saturating_mul(SEND_BYTES);
        match sends.saturating_add(self.bytes) {
            0 => cost,
            all => cost.mul_f64(sends as f64 / all as f64),
        }
    }
}

/// An org that [`Passes`] can serve. It stores its pace; only [`Passes`] changes it.
pub trait Paced: Ord {
    /// The pace of this org on its worker.
    fn pace(&self) -> &Cell<Pace>;
}

/// When an org may be served again, and how much its passes cost. The default is that of an org that was
/// never served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When the next pass may start.
    free_at: Duration,
    /// How much was charged since the last pass ended: for the pass under way, and for other work.
    cost: Duration,
    /// How much the last pass cost; zero if there was none or it is forgotten.
    last_cost: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// The org has nothing to send, and no earlier pass is remembered.
    #[default]
    Rested,
    /// It has nothing to send since its last pass.
    Quiet,
    /// It has events that wait for its next pass to be due.
    Waiting,
    /// Its pass is due or under way.
    Serving {
        /// Whether the pass has begun.
        has_begun: bool,
        /// Whether events have come since it began.
        has_news: bool,
    },
}

/// The fan-out passes of one worker: which are due, which wait.
#[derive(Debug)]
pub struct Passes<O> {
    pacing: Pacing,
    /// Orgs with news whose pass is not due yet, sorted by the time when it will be, and those that are held.
    waiting: BTreeSet<(Duration, Rc<O>)>,
    /// Orgs whose pass is due or under way, in the order in which they are served.
    ready: VecDeque<Rc<O>>,
    /// Orgs whose pass is due and is expected to be short. They go before those in `ready`.
    short: VecDeque<Rc<O>>,
    /// How many short passes in a row have gone first.
    short_in_a_row: u32,
    /// The factor by which all waits are stretched, so that many orgs together keep the share.
    stretch: f64,
    /// How much passes and other work for readers have cost since the last review.
    busy: Duration,
    /// How much of `busy` went into passes after which the org waits the whole window.
    at_window: Duration,
    /// The time of the last review.
    reviewed: Duration,
}

impl<O: Paced> Passes<O> {
    /// No orgs yet.
    pub fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            waiting: BTreeSet::new(),
            ready: VecDeque::new(),
            short: VecDeque::new(),
            short_in_a_row: 0,
            stretch: 1.0,
            busy: Duration::ZERO,
            at_window: Duration::ZERO,
            reviewed: Duration::ZERO,
        }
    }

    /// The pace of `org`. If the org has nothing to send and its wait ended before the last review, its last
    /// pass is too old to matter, and this returns the default (`Rested`).
    fn pace(&self, org: &O) -> Pace {
        let pace = org.pace().get();
        match pace.state {
            State::Quiet if pace.free_at < self.reviewed => Pace::default(),
            _ => pace,
        }
    }

    /// Whether `org` has nothing to send and may be served at once. Its pace may then be forgotten.
    pub fn is_rested(&self, now: Duration, org: &O) -> bool {
        let Pace { state, free_at, .. } = org.pace().get();
        matches!(state, State::Rested | State::Quiet) && free_at <= now
    }

    /// `org` has events that its readers on this worker do not have yet.
    pub fn handle_news(&mut self, now: Duration, org: &Rc<O>) {
        let mut pace = self.pace(org);
        match &mut pace.state {
            State::Rested | State::Quiet => {
                let due = match self.pacing.mode {
                    Mode::Fixed => now + self.pacing.window,
                    Mode::Paced | Mode::Immediate => pace.free_at,
                };
                if due <= now + GRAIN {
                    self.make_ready(org.clone(), pace);
                    return;
                }
                pace.state = State::Waiting;
                self.waiting.insert((due, org.clone()));
            }
            State::Waiting => {}
            // A pass also sends the events that come while it is due but has not begun.
            State::Serving { has_begun, has_news } => *has_news = *has_begun,
        }
        org.pace().set(pace);
    }

    /// When [`Passes::poll_pass`] will next return an org, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || !self.short.is_empty() {
            return Some(Duration::ZERO);
        }
        self.waiting.first().map(|(due, _)| *due)
    }

    fn make_ready(&mut self, org: Rc<O>, pace: Pace) {
        let state = State::Serving { has_begun: false, has_news: false };
        org.pace().set(Pace { state, ..pace });
        let queue = if pace.last_cost <= SHORT { &mut self.short } else { &mut self.ready };
        queue.push_back(org);
    }

    fn take_next(&mut self) -> Option<Rc<O>> {
        if (self.short_in_a_row < SHORT_IN_A_ROW_MAX || self.ready.is_empty())
            && let Some(org) = self.short.pop_front()
        {
            self.short_in_a_row += 1;
            return Some(org);
        }
        self.short_in_a_row = 0;
        self.ready.pop_front()
    }

    /// The org to serve now, if any. The worker serves it for about a [`SLICE`], then reports that by
    /// [`Passes::handle_slice`].
    pub fn poll_pass(&mut self, now: Duration) -> Option<Rc<O>> {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now + GRAIN) {
            let Some((_, org)) = self.waiting.pop_first() else { break };
            let pace = org.pace().get();
            match pace.state {
                // It was held; its pass may be under way.
                State::Serving { .. } => self.ready.push_back(org),
                _ => self.make_ready(org, pace),
            }
        }
        let org = self.take_next()?;
        let mut pace = org.pace().get();
        if let State::Serving { has_begun, .. } = &mut pace.state {
            *has_begun = true;
        }
        org.pace().set(pace);
        Some(org)
    }

    /// The org that [`Passes::poll_pass`] returned was served for a slice, which cost `cost`. If `is_done`,
    /// its pass has ended; otherwise the pass goes on when [`Passes::poll_pass`] returns the org again.
    pub fn handle_slice(&mut self, now: Duration, org: Rc<O>, cost: Duration, is_done: bool) {
        self.busy += cost;
        self.review(now);
        let mut pace = org.pace().get();
        pace.cost += cost;
        if !is_done {
            org.pace().set(pace);
            self.ready.push_back(org);
            return;
        }
        let had_news = matches!(pace.state, State::Serving { has_news: true, .. });
        let wait = match self.pacing.mode {
            Mode::Paced => {
                pace.cost.mul_f64((1.0 / self.pacing.share - 1.0) * self.stretch).min(self.pacing.window)
            }
            Mode::Fixed | Mode::Immediate => Duration::ZERO,
        };
        if wait == self.pacing.window {
            self.at_window += pace.cost;
        }
        // The wait counts from the end of the pass, or from the time when it was due if that is later (see
        // `GRAIN`).
        pace.free_at = (now + wait).max((pace.free_at + wait).min(now + self.pacing.window));
        pace.last_cost = std::mem::take(&mut pace.cost);
        pace.state = State::Quiet;
        org.pace().set(pace);
        if had_news {
            self.handle_news(now, &org);
        }
    }

    /// The org that [`Passes::poll_pass`] returned was not served: its readers have got all that they may get for
    /// now. Its pass begins, or goes on, at `until`.
    pub fn handle_hold(&mut self, org: Rc<O>, until: Duration) {
        self.waiting.insert((until, org));
    }

    /// Charges `org` for work that the worker did for its readers outside of its passes, such as a replay for
    /// a reader that catches up. This work takes from the same share, so it counts as cost of the pass under
    /// way or the next one. As with passes, `cost` is the part that waiting can save
    /// ([`Written::saved_by_waiting`]).
    pub fn handle_cost(&mut self, now: Duration, org: &O, cost: Duration) {
        self.busy += cost;
        self.review(now);
        let mut pace = self.pace(org);
        // An org whose last pass is forgotten (`Rested`) is not charged.
        if pace.state != State::Rested {
            pace.cost += cost;
        }
        org.pace().set(pace);
    }

    /// Adjusts the factor by which all waits are stretched, so that the passes of all orgs together keep the
    /// share. Without it, each org alone would keep the share, and many orgs together would exceed it.
    fn review(&mut self, now: Duration) {
        let since = now.saturating_sub(self.reviewed);
        if since < REVIEW {
            return;
        }
        let load = self.busy.as_secs_f64() / since.as_secs_f64();
        // Multiplicative feedback with a damped step: the load falls as the waits grow, and the square root
        // keeps the factor from overshooting.
        let step = (load / self.pacing.share).sqrt();
        // Orgs that already wait the whole window cannot wait longer. If at least half of the cost is theirs,
        // a larger factor would slow only the small orgs.
        if step < 1.0 || self.at_window < self.busy / 2 {
            self.stretch = (self.stretch * step).clamp(1.0, STRETCH_MAX);
        }
        (self.busy, self.at_window) = (Duration::ZERO, Duration::ZERO);
        self.reviewed = now;
    }
}

#[cfg(test)]
mod tests;

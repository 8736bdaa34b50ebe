//! When a worker serves which org (R15): how often each org has a fan-out pass, and whose turn it is.
//!
//! A fan-out pass takes what was committed to an org since its last pass to all of a worker's readers.
//! Size seals a batch; only the pace starts a pass. An org that was quiet is served at once. After a pass
//! its next one waits in proportion to what the last one cost, so that fan-out stays under a share of the
//! worker's time: a duty cycle that measures itself. Ten readers see every event at once, a thousand see
//! batches of some milliseconds, and nobody tunes anything.
//!
//! Orgs whose pass is due are served in slices, round robin, in two classes: short passes before long
//! ones (shortest job first), with a bound on how many may overtake.
//!
//! Sans-IO: the worker reports what happened and when, asks whose turn it is, and reports what it cost.
//! Times are durations since any fixed start. Each org holds its own [`Pace`]; [`Passes`] holds the queues.

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
    /// The whole window after the first event that waits: the least work.
    Fixed,
    /// At the end of the turn: the least latency.
    Immediate,
}

/// How passes are paced.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// The rule.
    pub mode: Mode,
    /// The longest that an event waits for the pace.
    pub window: Duration,
    /// The share of a worker's time that passes may take, above 0 and at most 1.
    pub share: f64,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { mode: Mode::Paced, window: Duration::from_millis(50), share: 0.5 }
    }
}

/// How long one org is served before it is another's turn: some hundred sends, so that what happens once
/// in a slice costs little, and an org that waits for ten others waits for 10 ms.
pub const SLICE: Duration = Duration::from_millis(1);

/// A pass is short if the org's last one took no longer than this. Short passes go before long ones:
/// otherwise a small org would wait for a slice of every big one, and big ones lose next to nothing.
const SHORT: Duration = Duration::from_micros(250);

/// This many short passes in a row may go before a long one that is due.
const SHORT_IN_A_ROW_MAX: u32 = 16;

/// A pass that is due this soon starts now, and its org owes the difference. Timers of the runtime have a
/// resolution of 1 ms, so waiting for less would be late more often than right.
const GRAIN: Duration = Duration::from_micros(500);

/// How often the load is reviewed: twice the default window, so that each org has had a pass in between.
const REVIEW: Duration = Duration::from_millis(100);

/// By how much waits are stretched at most. The window bounds every wait anyway; this bounds how long the
/// factor takes to fall again.
const STRETCH_MAX: f64 = 1000.0;

/// What was written in a slice of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Sends, about one a reader.
    pub sends: u64,
    /// The bytes of all of them together.
    pub bytes: u64,
}

/// A send costs about as much as copying this many bytes to the kernel: some 3 us of system call and
/// network stack, against some 10 GB/s. An estimate; only its order of magnitude matters.
const SEND_BYTES: u64 = 32 << 10;

impl Written {
    /// The part of `cost` that waiting saves: what each send costs whatever it carries. The bytes have to
    /// go either way. If they counted, a busy org would wait the whole window for nothing: its passes
    /// would grow past the caches, cost more per byte, and wait longer for it.
    pub fn saved_by_waiting(self, cost: Duration) -> Duration {
        let sends = self.sends.saturating_mul(SEND_BYTES);
        match sends.saturating_add(self.bytes) {
            0 => cost,
            all => cost.mul_f64(sends as f64 / all as f64),
        }
    }
}

/// An org that is served at a pace. It keeps its pace for [`Passes`], which alone changes it.
pub trait Paced: Ord {
    /// The pace of this org on its worker.
    fn pace(&self) -> &Cell<Pace>;
}

/// When an org was served and when it may be served again. A new one has never been served.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When the next pass may start.
    free_at: Duration,
    /// What the pass under way has cost so far.
    cost: Duration,
    /// What the pass before it cost; zero if that is not known.
    last_cost: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Nothing to send, and nothing known from before.
    #[default]
    Rested,
    /// Nothing to send.
    Quiet,
    /// Events wait for the pace.
    Waiting,
    /// Its pass is due or under way.
    Serving {
        /// Whether the pass has begun.
        has_begun: bool,
        /// Whether there are events since it began.
        has_news: bool,
    },
}

/// The fan-out passes of one worker: which are due, which wait.
#[derive(Debug)]
pub struct Passes<O> {
    pacing: Pacing,
    /// Orgs with news that wait for their pace, by the time when they are due.
    waiting: BTreeSet<(Duration, Rc<O>)>,
    /// Orgs whose pass is due or under way, in turn.
    ready: VecDeque<Rc<O>>,
    /// Orgs whose pass is due and will be short. They go first.
    short: VecDeque<Rc<O>>,
    /// How many short passes have gone first since the last long one.
    short_in_a_row: u32,
    /// The factor by which all waits are stretched, so that many orgs together keep the share.
    stretch: f64,
    /// What passes and catching up have cost since the last review.
    busy: Duration,
    /// How much of `busy` was in passes that wait as long as they may.
    at_window: Duration,
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

    /// The pace of `org`. What it was before the last review is forgotten, if it has been free since.
    fn pace(&self, org: &O) -> Pace {
        let pace = org.pace().get();
        match pace.state {
            State::Quiet if pace.free_at < self.reviewed => Pace::default(),
            _ => pace,
        }
    }

    /// Whether `org` has nothing to send and may be served at once: its pace may be forgotten.
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
            // Events that come before the pass begins go along with it.
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

    /// Whose turn it is. The worker serves the org for about a [`SLICE`], then reports it by
    /// [`Passes::handle_slice`].
    pub fn poll_pass(&mut self, now: Duration) -> Option<Rc<O>> {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now + GRAIN) {
            let Some((_, org)) = self.waiting.pop_first() else { break };
            let pace = org.pace().get();
            self.make_ready(org, pace);
        }
        let org = self.take_next()?;
        let mut pace = org.pace().get();
        if let State::Serving { has_begun, .. } = &mut pace.state {
            *has_begun = true;
        }
        org.pace().set(pace);
        Some(org)
    }

    /// The org that [`Passes::poll_pass`] returned was served. The slice cost this much; its pass is done,
    /// or goes on when its turn comes again.
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
        // A pass that started early owes the difference.
        pace.free_at = (now + wait).max((pace.free_at + wait).min(now + self.pacing.window));
        pace.last_cost = std::mem::take(&mut pace.cost);
        pace.state = State::Quiet;
        org.pace().set(pace);
        if had_news {
            self.handle_news(now, &org);
        }
    }

    /// Charges what the worker did for readers of `org` outside of its passes, those that catch up. It
    /// takes from the same share, so the next pass counts it as its own. As with passes, it is the part
    /// that waiting saves ([`Written::saved_by_waiting`]).
    pub fn handle_cost(&mut self, now: Duration, org: &O, cost: Duration) {
        self.busy += cost;
        self.review(now);
        let mut pace = self.pace(org);
        // An idle org is not charged.
        if pace.state != State::Rested {
            pace.cost += cost;
        }
        org.pace().set(pace);
    }

    /// Stretches all waits until the passes of all orgs together keep the share. The wait of each org is
    /// in proportion to its own cost, which says nothing of how many orgs there are.
    fn review(&mut self, now: Duration) {
        let since = now.saturating_sub(self.reviewed);
        if since < REVIEW {
            return;
        }
        let load = self.busy.as_secs_f64() / since.as_secs_f64();
        // Multiplicative feedback with a damped step: load falls as waits grow, and the square root does
        // not overshoot.
        let step = (load / self.pacing.share).sqrt();
        // Orgs that wait the whole window already cannot wait longer; stretching further would slow only
        // the small ones.
        if step < 1.0 || self.at_window < self.busy / 2 {
            self.stretch = (self.stretch * step).clamp(1.0, STRETCH_MAX);
        }
        (self.busy, self.at_window) = (Duration::ZERO, Duration::ZERO);
        self.reviewed = now;
    }
}

#[cfg(test)]
mod tests;

//! A circuit breaker (Nygard 2007, "Release It!"): calls to something that fails are refused at once, until a
//! single call, the *probe*, has shown that it works again.
//!
//! | phase | what happens to a call | ends |
//! |---|---|---|
//! | closed | it goes through | after 5 failures in a row, or when at least 20 calls ended within 10 s and half of them failed |
//! | open | it is refused, with the time until the next probe | after a pause |
//! | half-open | the first one is the probe, the others are refused | with the outcome of the probe |
//!
//! - **A success of a probe closes the breaker. A failure opens it again**, and the next pause is twice as long:
//!   1, 2, 4, 8, 16, then 30 s. Each is up to a fifth shorter by chance, so that nodes that lost the same peer do not
//!   try again together.
//! - **Pauses stay long while the breaker opens often.** Each opening doubles the next pause; only 30 s without one
//!   halve it again. So a peer that answers every probe and then fails again makes it open two or three times a
//!   minute at most, once the pauses have grown.
//! - **A late call counts as failed.** Something that hangs returns no errors. A call without an outcome after a time
//!   that the caller chooses counts as a failure; so a probe whose outcome never comes does not block the
//!   next one. If a late probe succeeds after all, it still closes the breaker: it began after the opening.
//! - **What began before an opening or a closing says nothing about what is now.** The outcome of such a call
//!   is ignored, be it a success or a failure.
//! - **A sign of life** (the connection is back, a check went well) brings the next probe forward. So a breaker
//!   that has doubled its pause to 30 s closes soon after its peer is back, but never without a probe.
//! - **If nobody calls, it closes** 10 s after the pause. A node that a load balancer has taken out, because its
//!   breaker was open, would otherwise never get the call that closes it.
//!
//! Sans-IO: the caller reports when calls begin and end, and hands in the time and random numbers. Times are
//! durations since any fixed start. The caller decides what is a failure: the peer's refusal of a bad request is a
//! success here, for the peer works.

use std::time::Duration;

/// So many failures in a row open the breaker.
const FAILURES_IN_A_ROW: u32 = 5;

/// With fewer calls within the window, the part of them that failed says too little.
const CALLS_MIN: u32 = 20;

/// The window is counted in steps of one second.
const WINDOW_STEPS: usize = 10;
const WINDOW_STEP: Duration = Duration::from_secs(1);

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// After this many doublings the pause is the longest.
const DOUBLINGS_MAX: u32 = 5;

/// How long it must be closed until the pause is halved.
const CALM: Duration = PAUSE_MAX;

/// How long it waits for a probe after the pause, before it closes without one.
const IDLE: Duration = Duration::from_secs(10);

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// They go through.
    Closed,
    /// They are refused.
    Open,
    /// One goes through as a probe; until its outcome is known, the others are refused.
    HalfOpen,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 3] = [Phase::Closed, Phase::Open, Phase::HalfOpen];

    /// The name in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen => "half_open",
        }
    }
}

/// A call that went through. Its end is to be reported to the breaker, by one of the `handle_` methods that
/// take it.
#[derive(Debug)]
#[must_use]
pub struct Call {
    /// How often the breaker had opened or closed when the call began.
    period: u64,
    /// Tells this call from others.
    number: u64,
    late_at: Duration,
    /// Whether it has counted as a failure already.
    is_late: bool,
}

impl Call {
    /// When the call counts as failed if it has not ended before: the time for [`Breaker::handle_late`].
    pub fn late_at(&self) -> Duration {
        self.late_at
    }
}

/// A call was refused. It may go through in this time, at the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The time until then; never zero.
    pub retry_in: Duration,
}

#[derive(Debug)]
enum State {
    Closed {
        since: Duration,
        in_a_row: u32,
        window: Window,
    },
    /// The pause lasts until then; after that the first call is the probe.
    Open {
        until: Duration,
    },
    /// A probe is on its way.
    Probing {
        probe: u64,
        late_at: Duration,
    },
}

/// Guards one kind of call to one peer.
#[derive(Debug)]
pub struct Breaker {
    late_after: Duration,
    state: State,
    /// How often it has opened or closed.
    period: u64,
    /// The number of the next call.
    next_call: u64,
    /// How often the next pause is doubled.
    doublings: u32,
}

impl Breaker {
    /// A closed breaker. A call without an outcome after `late_after` counts as failed.
    pub fn new(late_after: Duration) -> Self {
        Self { late_after, state: State::closed(Duration::ZERO), period: 0, next_call: 0, doublings: 0 }
    }

    /// What it does with calls now.
    pub fn phase(&self, now: Duration) -> Phase {
        match &self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { until } if now < *until => Phase::Open,
            State::Open { until } if now >= *until + IDLE => Phase::Closed,
            State::Open { .. } | State::Probing { .. } => Phase::HalfOpen,
        }
    }

    /// When the phase changes next, if nothing happens before. Call [`Breaker::handle_timeout`] then.
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open { until } if now < *until => Some(*until),
            State::Open { until } => Some(*until + IDLE),
            State::Probing { late_at, .. } => Some(*late_at),
        }
    }

    /// Time has passed. `random` is uniform over all of `u64`, here and everywhere.
    pub fn handle_timeout(&mut self, now: Duration, random: u64) {
        if let State::Probing { late_at, .. } = self.state
            && late_at <= now
        {
            // From the time when it was due, however late this is.
            self.pause(late_at, random);
        }
        if let State::Open { until } = self.state
            && until + IDLE <= now
        {
            self.close(until + IDLE);
        }
    }

    /// A call is to begin. Returns the right to it, or how long to wait.
    pub fn handle_call(&mut self, now: Duration, random: u64) -> Result<Call, Refused> {
        self.handle_timeout(now, random);
        let number = self.next_call;
        let late_at = now + self.late_after;
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } if until <= now => {
                self.state = State::Probing { probe: number, late_at };
            }
            State::Open { until: next } | State::Probing { late_at: next, .. } => {
                return Err(Refused { retry_in: next - now });
            }
        }
        self.next_call += 1;
        Ok(Call { period: self.period, number, late_at, is_late: false })
    }

    /// The call has ended well.
    pub fn handle_success(&mut self, now: Duration, call: Call) {
        if call.period != self.period {
            return;
        }
        match &mut self.state {
            State::Closed { in_a_row, window, .. } => {
                *in_a_row = 0;
                if !call.is_late {
                    window.count(now, false);
                }
            }
            // Only probes begin in this period.
            State::Open { .. } | State::Probing { .. } => self.close(now),
        }
    }

    /// The call has failed.
    pub fn handle_failure(&mut self, now: Duration, mut call: Call, random: u64) {
        self.handle_late(now, &mut call, random);
    }

    /// The call goes on, but counts as failed from now on.
    pub fn handle_late(&mut self, now: Duration, call: &mut Call, random: u64) {
        let was_late = std::mem::replace(&mut call.is_late, true);
        if was_late || call.period != self.period {
            return;
        }
        match &mut self.state {
            State::Closed { in_a_row, window, .. } => {
                *in_a_row += 1;
                window.count(now, true);
                if *in_a_row >= FAILURES_IN_A_ROW || window.has_failed() {
                    self.open(now, random);
                }
            }
            State::Probing { probe, .. } if *probe == call.number => self.pause(now, random),
            // A probe that was given up.
            State::Open { .. } | State::Probing { .. } => {}
        }
    }

    /// The call has ended and says nothing about the peer: its caller gave it up. The next one takes its
    /// place.
    pub fn handle_given_up(&mut self, now: Duration, call: Call) {
        if matches!(self.state, State::Probing { probe, .. } if probe == call.number) {
            self.state = State::Open { until: now };
        }
    }

    /// There is reason to believe that the peer works again: the next probe may begin within a second.
    pub fn handle_sign_of_life(&mut self, now: Duration, random: u64) {
        let soon = now + PAUSE_MIN.mul_f64(part(random));
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { until } => *until = soon.min(*until),
            // A probe that began before it may hang; it is not waited for.
            State::Probing { late_at, .. } => {
                let until = soon.min(*late_at);
                self.state = State::Open { until };
            }
        }
    }

    fn open(&mut self, now: Duration, random: u64) {
        if let State::Closed { since, .. } = self.state {
            let calm = now.saturating_sub(since).as_secs() / CALM.as_secs();
            self.doublings = self.doublings.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX));
        }
        self.period += 1;
        self.pause(now, random);
    }

    fn pause(&mut self, from: Duration, random: u64) {
        let longest = PAUSE_MIN.saturating_mul(1 << self.doublings).min(PAUSE_MAX);
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        self.state = State::Open { until: from + longest.mul_f64(1.0 - part(random) / 5.0) };
    }

    fn close(&mut self, now: Duration) {
        self.period += 1;
        self.state = State::closed(now);
    }
}

impl State {
    fn closed(since: Duration) -> Self {
        State::Closed { since, in_a_row: 0, window: Window::default() }
    }
}

/// A number in [0, 1) from one that is uniform over all of `u64`.
fn part(random: u64) -> f64 {
    // The upper 53 bits: a double holds them exactly.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// How many calls ended within the last ten seconds, and how many of them failed, counted by the second.
#[derive(Debug, Default)]
struct Window {
    steps: [Step; WINDOW_STEPS],
    newest: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Step {
    calls: u32,
    failures: u32,
}

impl Window {
    fn count(&mut self, now: Duration, is_failure: bool) {
        let step = now.as_secs() / WINDOW_STEP.as_secs();
        // Steps that were passed over are empty; a full turn empties all.
        for old in (self.newest + 1..=step).rev().take(WINDOW_STEPS) {
            self.steps[index(old)] = Step::default();
        }
        self.newest = self.newest.max(step);
        let step = &mut self.steps[index(self.newest)];
        step.calls = step.calls.saturating_add(1);
        step.failures = step.failures.saturating_add(u32::from(is_failure));
    }

    /// Whether half of the calls failed, if there were enough of them.
    fn has_failed(&self) -> bool {
        let sum = |of: fn(&Step) -> u32| self.steps.iter().map(|step| u64::from(of(step))).sum::<u64>();
        let calls = sum(|step| step.calls);
        calls >= u64::from(CALLS_MIN) && 2 * sum(|step| step.failures) >= calls
    }
}

fn index(step: u64) -> usize {
    (step % WINDOW_STEPS as u64) as usize
}

#[cfg(test)]
mod tests;

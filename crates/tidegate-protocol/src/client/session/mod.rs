//! The machine: one client's session, with its table of phases and inputs.

use super::{
    input::{Config, Input},
    output::Output,
    state::State,
};

/// The time between pings until a `hello` says another.
pub(super) const PING_INTERVAL_MS: u64 = 25_000;

/// How long ids are remembered (R14).
pub(super) const DEDUP_MS: u64 = 300_000;

/// One client's session. Call [`Session::step`] for each fact, perform the outputs in order, and hold one
/// timer for [`Session::deadline`], which ends in [`Input::Tick`].
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
}

impl Session {
    /// A new session, idle until [`Input::Connect`].
    pub fn new(config: Config) -> Self {
        let state = State::new(&config);
        Self::with_state(config, state)
    }

    /// A session that goes on from a state that was written down.
    pub fn with_state(config: Config, state: State) -> Self {
        Self { config, state }
    }

    /// All that the session knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When [`Input::Tick`] is due, on the clock of `now`; `None` if nothing is.
    pub fn deadline(&self) -> Option<u64> {
        self.state.timers.first()
    }

    /// Takes one fact and returns what to do, in this order. `now` is monotonic and `wall` since 1970, both
    /// in milliseconds. `random` is drawn uniformly from [0, 1); a step uses it at most once.
    pub fn step(&mut self, input: Input, now: u64, wall: u64, random: f64) -> Vec<Output> {
        let _ = (&self.config, input, now, wall, random);
        Vec::new()
    }
}

//! The machine: one client's session, with its table of phases and inputs. `attempts` has what happens to
//! connections, `tokens` to tokens, `frames` what each frame means, `delivery` what the application gets,
//! `clock` the gateway's clock and health.

mod attempts;
mod clock;
mod delivery;
mod frames;
mod tokens;

use super::{
    input::{Config, Input, WakeReason},
    output::{ConnectionState, Output},
    state::{Phase, State},
};
use crate::frame::ClientFrame;

/// The time between pings until a `hello` says another.
pub(super) const PING_INTERVAL_MS: u64 = 25_000;

/// How long ids are remembered (R14).
pub(super) const DEDUP_MS: u64 = 300_000;

/// How late a timer may be, and how far the clocks may come apart, before the machine counts as having slept.
const JUMP_MS: u64 = 2_000;

/// One client's session. Call [`Session::step`] for each fact, perform the outputs in order, and hold one
/// timer for [`Session::deadline`], which ends in [`Input::Tick`].
///
/// ```
/// use tidegate_protocol::client::{Config, Input, Output, Session};
///
/// let mut session = Session::new(Config::default());
/// // The monotonic clock, the wall clock, and a random draw are arguments.
/// let outputs = session.step(Input::Connect, 0, 1_767_225_600_000, 0.5);
/// let Some(Output::GetToken { g, .. }) = outputs.first() else { panic!("it asks for a token") };
/// let token = Input::Token { g: *g, token: "eyJ".into(), expires_in_ms: None };
/// let outputs = session.step(token, 20, 1_767_225_600_020, 0.5);
/// assert!(matches!(outputs.first(), Some(Output::Open { .. })));
/// // It gives up if the transport is not open in 10 s.
/// assert_eq!(session.deadline(), Some(10_020));
/// ```
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    // The step under way.
    now: u64,
    wall: u64,
    random: f64,
    out: Vec<Output>,
}

impl Session {
    /// A new session, idle until [`Input::Connect`].
    pub fn new(config: Config) -> Self {
        let state = State::new(&config);
        Self::with_state(config, state)
    }

    /// A session that goes on from a state that was written down.
    pub fn with_state(config: Config, state: State) -> Self {
        Self { config, state, now: 0, wall: 0, random: 0.0, out: Vec::new() }
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
        let before = self.seen();
        let s = &mut self.state;
        // How far the wall clock ran ahead of the other, which stands still while the machine sleeps.
        let slept = match s.last_wall {
            0 => 0,
            last => wall.saturating_sub(last).saturating_sub(now.saturating_sub(s.last_now)),
        };
        let has_slept = slept > JUMP_MS;
        let is_tick = matches!(input, Input::Tick);
        let is_late = is_tick && s.timers.first().is_some_and(|due| now > due.saturating_add(JUMP_MS));
        (s.last_now, s.last_wall) = (now, wall);
        (self.now, self.wall, self.random) = (now, wall, random);
        if has_slept {
            self.woke(slept);
        }
        if has_slept || is_late {
            self.late();
        } else if is_tick {
            self.state.postponed = false;
        }
        self.cell(input);
        self.say(before);
        std::mem::take(&mut self.out)
    }

    /// The table: what each input does in each phase. It names every phase for every input, so a new one of
    /// either kind does not compile until its cells are there.
    fn cell(&mut self, input: Input) {
        use Phase::{Auth, Backoff, Hello, Idle, Live, Opening, Probe, Stopped};
        match (input, self.state.phase) {
            (Input::Connect, Idle | Stopped) => self.connect(),
            (Input::Connect, Auth | Opening | Hello | Live | Probe | Backoff) => {}

            (Input::Disconnect, Auth | Opening | Hello | Live | Probe | Backoff | Stopped) => {
                self.disconnect();
            }
            (Input::Disconnect, Idle) => {}

            // A request for a token outlives its connection.
            (
                Input::Token { g, token, expires_in_ms },
                Idle | Auth | Opening | Hello | Live | Probe | Backoff | Stopped,
            ) => self.token(g, token, expires_in_ms),
            (
                Input::TokenFailed { g, r#final, message },
                Idle | Auth | Opening | Hello | Live | Probe | Backoff | Stopped,
            ) => self.token_failed(g, r#final, message),

            (Input::Opened { g }, Opening) => self.opened(g),
            (Input::Opened { .. }, Idle | Auth | Hello | Live | Probe | Backoff | Stopped) => {}

            (Input::Switched { g, transport }, Live | Probe) => self.switched(g, transport),
            (Input::Switched { .. }, Idle | Auth | Opening | Hello | Backoff | Stopped) => {}

            (Input::Frame { g, text }, Opening | Hello | Live | Probe) => self.frame(g, &text),
            (Input::Frame { .. }, Idle | Auth | Backoff | Stopped) => {}

            (
                Input::Closed { g, close, status, code, retry_in_ms, message },
                Opening | Hello | Live | Probe,
            ) => self.closed(g, close, status, code.as_deref(), retry_in_ms, message.unwrap_or_default()),
            (Input::Closed { .. }, Idle | Auth | Backoff | Stopped) => {}

            (Input::Wake { reason }, Live | Probe | Backoff) => self.wake(reason),
            (Input::Wake { .. }, Idle | Auth | Opening | Hello | Stopped) => {}

            (Input::Offline, Live | Probe) => self.probe(),
            (Input::Offline, Idle | Auth | Opening | Hello | Backoff | Stopped) => {}

            (Input::Suspend, Auth | Opening | Hello | Live | Probe) => self.suspend(),
            (Input::Suspend, Idle | Backoff | Stopped) => {}

            (Input::Tick, Idle | Auth | Opening | Hello | Live | Probe | Backoff | Stopped) => self.tick(),

            (Input::Overflow, Live | Probe) => self.overflow(),
            (Input::Overflow, Backoff) => self.pause(),
            (Input::Overflow, Idle | Auth | Opening | Hello | Stopped) => {}

            (Input::Drained, Backoff) => self.drained(),
            (Input::Drained, Idle | Auth | Opening | Hello | Live | Probe | Stopped) => {}

            (Input::Page { g, text }, Live | Probe) => self.page(g, &text),
            (Input::Page { .. }, Idle | Auth | Opening | Hello | Backoff | Stopped) => {}

            (Input::PageFailed { g }, Live | Probe) => self.page_failed(g),
            (Input::PageFailed { .. }, Idle | Auth | Opening | Hello | Backoff | Stopped) => {}
        }
    }

    /// Performs what is due.
    fn tick(&mut self) {
        let now = self.now;
        let is_due = |timer: Option<u64>| timer.is_some_and(|at| at <= now);
        if is_due(self.state.timers.token) {
            self.token_timed_out();
        }
        if is_due(self.state.timers.phase) {
            self.phase_timed_out();
        }
        if is_due(self.state.timers.silence) {
            self.start_probe();
        }
        if is_due(self.state.timers.stable) {
            self.settle();
        }
        if is_due(self.state.timers.refresh) {
            self.refresh();
        }
        if is_due(self.state.timers.leave) {
            self.lose("draining", "the gateway asked this client to reconnect", 0);
        }
        if is_due(self.state.timers.retry) {
            self.begin();
        }
        if is_due(self.state.timers.page) {
            self.fill_failed();
        }
        if is_due(self.state.timers.sweep) {
            self.sweep();
        }
        if is_due(self.state.timers.report) {
            self.report();
        }
    }

    /// The machine slept for so long, and `now` stood still: the token may have expired, clocks may have been
    /// set, and what depends on the gateway's time is due earlier.
    fn woke(&mut self, slept: u64) {
        let s = &mut self.state;
        s.token_until = 0;
        s.samples.clear();
        s.ping = None;
        for timer in [&mut s.timers.silence, &mut s.timers.refresh].into_iter().flatten() {
            *timer = self.now.max(timer.saturating_sub(slept));
        }
        self.wake(WakeReason::Resume);
    }

    fn emit(&mut self, output: Output) {
        self.out.push(output);
    }

    fn send(&mut self, frame: ClientFrame) {
        self.emit(Output::Send { frame });
    }

    /// What a `state` output says.
    fn seen(&self) -> (Phase, u32, Option<u64>, ConnectionState) {
        let s = &self.state;
        (s.phase, s.attempt, s.timers.retry, s.connection_state())
    }

    /// Reports the state, if it is another than before the step.
    fn say(&mut self, before: (Phase, u32, Option<u64>, ConnectionState)) {
        let seen = self.seen();
        if seen != before {
            let (phase, attempt, retry, state) = seen;
            let retry_in_ms = retry.map(|at| at.saturating_sub(self.now));
            self.emit(Output::State { state, phase, attempt, retry_in_ms });
        }
    }
}

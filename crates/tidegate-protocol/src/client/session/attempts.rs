//! Connections: how one is opened, left and lost, when the next attempt begins, and how a session finds out
//! that a connection is dead.

use super::Session;
use crate::{
    Code,
    client::{
        delay::{DELAY_MS_MIN, HINT_MS_MAX, STABLE_MS, delay, part},
        input::WakeReason,
        output::{ConnectionState, Output, Transport},
        state::Phase,
    },
};

const OPEN_MS: u64 = 10_000;
const HELLO_MS: u64 = 10_000;
const PROBE_MS: u64 = 5_000;

/// How much longer than a ping interval a connection may be silent (PROTOCOL.md, "Silence").
const SILENCE_MS: u64 = 10_000;

/// A connection that ends sooner after its `hello` may have been cut by something on the way.
const SHORT_MS: u64 = 5_000;

/// How many bare ends in a row make a session try the other transport.
const BARE_ENDS: u32 = 2;

/// So many expired tokens in a row stop a session.
const REFUSALS_MAX: u32 = 3;

/// Clients that come back because the network is back are spread over this time.
const SPREAD_MS: u64 = 1_000;

const CLOSE_DONE: u16 = 1000;
const CLOSE_FAULT: u16 = 4000;

impl Session {
    pub(super) fn connect(&mut self) {
        let s = &mut self.state;
        (s.attempt, s.refusals, s.before_hello, s.short_lives) = (0, 0, 0, 0);
        (s.tried, s.paused) = (false, false);
        // Another user may be logged in now, so it begins with a new token.
        (s.token, s.asked) = (None, false);
        match s.not_before {
            Some(at) if at > self.now => {
                s.phase = Phase::Backoff;
                s.timers.retry = Some(at);
            }
            _ => self.begin(),
        }
    }

    pub(super) fn disconnect(&mut self) {
        if self.state.connection_state() == ConnectionState::Connected {
            self.state.disconnected_wall = Some(self.wall);
        }
        self.end(Phase::Idle);
    }

    pub(super) fn opened(&mut self, g: u64) {
        if self.state.connection == Some(g) {
            self.state.phase = Phase::Hello;
            self.state.timers.phase = Some(self.now + HELLO_MS);
        }
    }

    /// The hello that follows makes it the one to begin with.
    pub(super) fn switched(&mut self, g: u64, transport: Transport) {
        if self.state.connection == Some(g) {
            self.state.transport = transport;
        }
    }

    pub(super) fn closed(
        &mut self,
        g: u64,
        close: Option<u16>,
        status: Option<u16>,
        code: Option<&str>,
        retry_in_ms: Option<u64>,
        message: String,
    ) {
        if self.state.connection != Some(g) {
            return;
        }
        self.state.connection = None;
        let hint = retry_in_ms.unwrap_or(0).min(HINT_MS_MAX);
        // Browsers do not see the status of a WebSocket that is refused, so it counts for nothing.
        let status = status.filter(|_| self.state.transport == Transport::Sse);
        // A status without a code is not the gateway's word. Where a gateway was heard before, it passes: a proxy
        // is being changed, or the network asks for a login. Otherwise the address is probably wrong. 204 ends
        // any event stream.
        let is_foreign = code.is_none() && status != Some(204) && self.state.connected_wall.is_some();
        let is_final = match (status, close) {
            (Some(408 | 429 | 500..), _) => false,
            (Some(_), _) if is_foreign => false,
            (Some(_), _) => true,
            (None, close) => matches!(close, Some(1009 | 4500..)),
        };
        let is_bare = code.is_none() && status.is_none() && !matches!(close, Some(4000..));
        if close == Code::TokenExpired.close() {
            self.ended(Code::TokenExpired.name(), message, hint, is_final);
        } else if is_bare && !is_final {
            self.bare_end("closed", message, hint);
        } else {
            self.ended(code.unwrap_or("refused"), message, hint, is_final);
        }
    }

    pub(super) fn suspend(&mut self) {
        self.wait(CLOSE_DONE);
        self.state.timers.retry = Some(self.soonest());
    }

    pub(super) fn overflow(&mut self) {
        self.wait(CLOSE_FAULT);
        self.state.paused = true;
        self.emit(Output::Error {
            code: "overflow".into(),
            message: "the application is too slow; the stream goes on when it has caught up".into(),
            fatal: false,
            retry_in_ms: None,
        });
    }

    /// The application is behind while no connection is open.
    pub(super) fn pause(&mut self) {
        self.state.paused = true;
        self.state.timers.retry = None;
    }

    pub(super) fn drained(&mut self) {
        if self.state.paused {
            self.state.paused = false;
            self.state.timers.retry = Some(self.soonest());
        }
    }

    pub(super) fn phase_timed_out(&mut self) {
        match self.state.phase {
            Phase::Probe => self.lose("silence", "nothing was heard in time", 0),
            Phase::Hello if self.state.transport == Transport::Sse => self.bare_end(
                "sse_buffered",
                "the event stream is open, but nothing comes: something on the way holds it back",
                0,
            ),
            Phase::Opening
            | Phase::Hello
            | Phase::Idle
            | Phase::Auth
            | Phase::Live
            | Phase::Backoff
            | Phase::Stopped => self.bare_end("timeout", "the gateway does not answer", 0),
        }
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self) {
        let s = &mut self.state;
        s.timers.retry = None;
        s.transport = s.home;
        if s.token.is_some() && self.now < s.token_until {
            self.open();
        } else {
            s.phase = Phase::Auth;
            self.need_token();
        }
    }

    pub(super) fn open(&mut self) {
        let g = self.generation();
        let s = &mut self.state;
        s.phase = Phase::Opening;
        s.connection = Some(g);
        s.open_at = Some(self.now);
        s.hello_at = None;
        s.timers.phase = Some(self.now + OPEN_MS);
        let open = Output::Open {
            g,
            transport: s.transport,
            token: s.token.clone().unwrap_or_default(),
            cursor: s.cursor.clone(),
            tail: if s.cursor.is_some() { None } else { self.config.tail },
            replaces: s.connection_id.clone(),
        };
        self.emit(open);
    }

    /// Ends the connection, if there is one, and all that depends on it.
    pub(super) fn leave(&mut self, code: u16) {
        if let Some(g) = self.state.connection.take() {
            self.emit(Output::Close { g, code });
        }
        let s = &mut self.state;
        s.hello_at = None;
        s.ping = None;
        s.moving = false;
        let timers = &mut s.timers;
        (timers.phase, timers.silence, timers.stable, timers.refresh) = (None, None, None, None);
        (timers.leave, timers.retry, timers.report) = (None, None, None);
        if let Some(fill) = s.fill.take() {
            // Nothing that was held back was handed over, so the stream resumes before it.
            s.timers.page = None;
            s.cursor = Some(fill.after);
            self.emit(Output::Cancel { g: fill.g });
        }
    }

    /// From an event stream to a new one with a new token: not a loss.
    pub(super) fn move_on(&mut self) {
        self.leave(CLOSE_DONE);
        self.state.moving = true;
        self.open();
    }

    /// Counts the loss of a connection that was live, or that took the place of one.
    fn lost(&mut self) {
        self.state.tried = true;
        self.settle();
        if self.life() >= SHORT_MS {
            self.state.short_lives = 0;
        }
        let s = &mut self.state;
        if s.is_open() || s.moving {
            s.disconnects += 1;
            s.unreported.disconnects += 1;
            s.disconnected_wall = Some(self.wall);
        }
    }

    /// Ends the connection or attempt.
    fn wait(&mut self, code: u16) {
        self.lost();
        self.leave(code);
        self.state.phase = Phase::Backoff;
    }

    /// Ends the connection or attempt, and draws the delay until the next.
    pub(super) fn lose(&mut self, code: &str, message: impl Into<String>, hint: u64) {
        self.wait(CLOSE_FAULT);
        let s = &mut self.state;
        s.not_before = (hint > 0).then_some(self.now + hint);
        let wait = delay(s.attempt, self.random, hint);
        s.attempt = s.attempt.saturating_add(1);
        s.timers.retry = Some(self.now + wait);
        self.emit(Output::Error {
            code: code.to_owned(),
            message: message.into(),
            fatal: false,
            retry_in_ms: Some(wait),
        });
    }

    /// An end without a word of the gateway: something on the way may not let this transport pass.
    fn bare_end(&mut self, code: &str, message: impl Into<String>, hint: u64) {
        let message = message.into();
        let life = self.life();
        let s = &mut self.state;
        let other = self.config.transports.iter().copied().find(|transport| *transport != s.transport);
        match s.hello_at {
            None => {
                s.before_hello = s.before_hello.saturating_add(1);
                if let Some(other) =
                    other.filter(|_| s.before_hello >= BARE_ENDS && s.transport == s.home && hint == 0)
                {
                    // At once: if the other one opens now, the network is not what fails.
                    let moving = s.moving;
                    s.tried = true;
                    self.leave(CLOSE_FAULT);
                    let s = &mut self.state;
                    s.moving = moving;
                    s.transport = other;
                    self.emit(Output::Error {
                        code: code.to_owned(),
                        message,
                        fatal: false,
                        retry_in_ms: Some(0),
                    });
                    return self.open();
                }
            }
            Some(_) if life < SHORT_MS => {
                s.short_lives += 1;
                if let Some(other) = other.filter(|_| s.short_lives >= BARE_ENDS) {
                    s.short_lives = 0;
                    // The driver is told once it has its `hello`: a page that is left cuts its connections too.
                    s.home = other;
                }
            }
            Some(_) => {}
        }
        self.lose(code, message, hint);
    }

    /// Ends for good.
    pub(super) fn stop(&mut self, code: &str, message: impl Into<String>) {
        self.lost();
        self.end(Phase::Stopped);
        self.emit(Output::Error {
            code: code.to_owned(),
            message: message.into(),
            fatal: true,
            retry_in_ms: None,
        });
    }

    /// Ends all of it: nothing runs, nothing is asked for.
    fn end(&mut self, phase: Phase) {
        self.leave(CLOSE_DONE);
        self.cancel_token();
        self.state.phase = phase;
    }

    /// The gateway has said why it ended the stream.
    pub(super) fn ended(&mut self, code: &str, message: String, hint: u64, is_final: bool) {
        self.state.before_hello = 0;
        if code == Code::TokenExpired.name() {
            self.token_expired(message, hint);
        } else if is_final {
            self.stop(code, message);
        } else {
            self.lose(code, message, hint);
        }
    }

    fn token_expired(&mut self, message: String, hint: u64) {
        let code = Code::TokenExpired.name();
        self.settle();
        self.state.token = None;
        self.state.refusals += 1;
        if self.state.refusals >= REFUSALS_MAX {
            self.stop("auth", "three tokens in a row had expired");
        } else if self.state.refusals == 1 && hint == 0 {
            self.wait(CLOSE_FAULT);
            self.emit(Output::Error { code: code.to_owned(), message, fatal: false, retry_in_ms: Some(0) });
            self.begin();
        } else {
            self.lose(code, message, hint);
        }
    }

    /// The connection may be dead, or an attempt may succeed now.
    pub(super) fn wake(&mut self, reason: WakeReason) {
        self.probe();
        // It is not set either if the application is behind.
        let Some(retry) = self.state.timers.retry else { return };
        // The network is back for a whole office at once.
        let spread = if reason == WakeReason::Online { part(self.random, SPREAD_MS) } else { 0 };
        self.state.attempt = 0;
        self.state.timers.retry = Some(retry.min(self.soonest() + spread));
    }

    /// When the next attempt may begin: now, but not within a second of the last one, nor before the gateway
    /// allows it.
    fn soonest(&self) -> u64 {
        let since_open = self.state.open_at.map_or(0, |at| at + DELAY_MS_MIN);
        self.now.max(since_open).max(self.state.not_before.unwrap_or(0))
    }

    /// Finds out whether the connection is alive. A reader of an event stream cannot ask; it waits a little
    /// longer if the gateway's ping is overdue.
    pub(super) fn probe(&mut self) {
        let s = &self.state;
        let is_overdue = || s.timers.silence.is_some_and(|at| self.now + SILENCE_MS > at);
        if s.phase == Phase::Live && (s.transport == Transport::Ws || is_overdue()) {
            self.start_probe();
        }
    }

    /// A timer that comes late tells that the page was suspended, not that the gateway is silent: what it
    /// sent may be waiting. So what is due gets a little more time, once (hidden pages have late timers
    /// always).
    pub(super) fn late(&mut self) {
        self.probe();
        let s = &mut self.state;
        let mut has_more = false;
        for timer in [&mut s.timers.token, &mut s.timers.phase, &mut s.timers.page] {
            if !s.postponed && timer.is_some_and(|at| at <= self.now) {
                *timer = Some(self.now + PROBE_MS);
                has_more = true;
            }
        }
        s.postponed = has_more;
    }

    pub(super) fn start_probe(&mut self) {
        self.state.phase = Phase::Probe;
        self.state.timers.silence = None;
        self.state.timers.phase = Some(self.now + PROBE_MS);
        if self.state.transport == Transport::Ws {
            self.ask();
        }
    }

    /// Something was heard: the connection is alive.
    pub(super) fn listen(&mut self) {
        self.state.timers.silence = Some(self.now + self.state.ping_interval_ms + SILENCE_MS);
    }

    /// The driver did not read the connection until `now`, because the application is behind: that nothing was
    /// heard is no silence. Call this before the step that follows.
    ///
    /// It is no [`crate::client::Input`], because only drivers in Rust can let a connection wait: a page's WebSocket
    /// is always read.
    pub fn not_read(&mut self, now: u64) {
        self.now = now;
        match self.state.phase {
            Phase::Live => self.listen(),
            Phase::Probe => self.state.timers.phase = Some(now + PROBE_MS),
            Phase::Idle | Phase::Auth | Phase::Opening | Phase::Hello | Phase::Backoff | Phase::Stopped => {}
        }
    }

    /// Once a stream has been open for [`STABLE_MS`], the delays start over.
    pub(super) fn settle(&mut self) {
        if self.life() >= STABLE_MS {
            let s = &mut self.state;
            (s.attempt, s.refusals) = (0, 0);
            s.timers.stable = None;
        }
    }

    /// The time since `hello`; 0 before it.
    fn life(&self) -> u64 {
        self.state.hello_at.map_or(0, |at| self.now.saturating_sub(at))
    }

    /// A new generation, for an output that has an answer.
    pub(super) fn generation(&mut self) -> u64 {
        self.state.generation += 1;
        self.state.generation
    }
}

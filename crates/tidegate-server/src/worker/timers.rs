//! The timers of one reader: pings, timeouts, and when it leaves a node that drains.
//!
//! This decides; [`super::reader`] acts. Readers have no timers of the runtime: several times a second, a
//! tick of the worker looks at the timers of every reader ([`super::readers`]).

use std::time::{Duration, Instant};

use tidegate_protocol::{Code, Refusal, UnixMillis};

use crate::{
    config::{Config, config_key},
    random::random,
    refusals::LimitedBy as _,
};

/// The shortest time between two reports of a client that are taken (PROTOCOL.md, "Health reports"). Clients report
/// every 30 s at most; the difference is for late and early timers. In tenths of a second.
const REPORT_TENTHS: u32 = 250;

/// How long a client has to leave after `goaway`.
const GOAWAY: Duration = Duration::from_secs(1);

/// The timers of one reader.
#[derive(Debug, Clone, Copy)]
pub struct Timers {
    next_ping: Instant,
    /// When the oldest ping was sent that is not answered yet.
    pinged: Option<Instant>,
    /// When the client last sent something.
    heard: Instant,
    /// Since when the last message of the client is incomplete; `None` if it is complete.
    partial: Option<Instant>,
    /// Frames that the client sent since `counted`, without its answers to pings (R29).
    frames: u32,
    /// When the counting of `frames` began.
    counted: Instant,
    /// When the next report of the client is taken: in tenths of a second since the worker's start, because
    /// that fills a gap of 4 bytes here and an `Instant` would cost every idle connection 16.
    next_report: u32,
    leave: Leave,
}

/// How far the reader is with leaving.
#[derive(Debug, Clone, Copy)]
enum Leave {
    /// It stays.
    Stay,
    /// It is asked to leave at this time.
    At(Instant),
    /// It was asked to leave, and is closed at this time.
    By(Instant),
}

/// One look at the timers of all readers of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Now.
    pub now: Instant,
    /// Now, by the wall clock.
    pub wall: UnixMillis,
    /// Since when the node drains.
    pub draining: Option<Instant>,
}

/// What the timers do not know by themselves.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Now.
    pub now: Instant,
    /// Since when the node drains.
    pub draining: Option<Instant>,
    /// Whether bytes wait for the client, and it has taken none for `limits.write_timeout`.
    pub is_stalled: bool,
    /// Whether the grant still holds.
    pub is_granted: bool,
    /// Whether nothing waits for its socket.
    pub is_quiet: bool,
    /// Whether its answer to a ping can be expected soon.
    pub answers_pings: bool,
}

/// What is to be done.
#[derive(Debug)]
pub enum DueAction {
    /// End the stream.
    End(Refusal),
    /// Ask the client to leave within this time.
    GoAway(Duration),
    /// Send a ping.
    Ping,
}

impl Timers {
    /// The timers of a reader that has just come.
    pub fn new(now: Instant, ping_interval: Duration) -> Self {
        Self {
            // Spread over the interval, so that readers that came together are not pinged together.
            next_ping: now + ping_interval.mul_f64(0.5 + fraction() / 2.0),
            pinged: None,
            heard: now,
            partial: None,
            frames: 0,
            counted: now,
            next_report: 0,
            leave: Leave::Stay,
        }
    }

    /// The client sent something, with so many frames that count against its rate.
    pub fn heard(&mut self, now: Instant, is_pong: bool, frames: u32) {
        self.heard = now;
        self.frames += frames;
        if is_pong {
            self.pinged = None;
        }
    }

    /// The client reports its own metrics, so long after the worker's start: whether this report is to be
    /// taken. One that is not does not delay the next.
    pub fn takes_report(&mut self, since_start: Duration) -> bool {
        let tenths = u32::try_from(since_start.as_millis() / 100).unwrap_or(u32::MAX);
        let is_due = tenths >= self.next_report;
        if is_due {
            self.next_report = tenths.saturating_add(REPORT_TENTHS);
        }
        is_due
    }

    /// Notes whether what the client sent ends in the middle of a message.
    pub fn heard_partly(&mut self, now: Instant, is_partial: bool) {
        self.partial = is_partial.then(|| self.partial.unwrap_or(now));
    }

    /// Returns what is due. Of several things it returns the first in the order of these checks.
    pub fn tick(&mut self, config: &Config, facts: &Facts) -> Option<DueAction> {
        let now = facts.now;
        let end = |code, message: &str| Some(DueAction::End(Refusal::new(code, message)));
        let since = |then: Instant| now.saturating_duration_since(then);
        if !facts.is_granted {
            return end(Code::TokenExpired, "the token has expired; renew it and come back");
        }
        if facts.is_stalled {
            return Some(DueAction::End(stalled()));
        }
        if self.pinged.is_some_and(|pinged| since(pinged.max(self.heard)) > config.ping.timeout) {
            return Some(DueAction::End(unanswered()));
        }
        if self.partial.is_some_and(|then| since(then) > config.limits.first_frame_timeout) {
            let message = "a message that was begun did not end within limits.first_frame_timeout";
            let refusal =
                Refusal::new(Code::BadFrame, message).limited_by(config_key!(limits.first_frame_timeout));
            return Some(DueAction::End(refusal));
        }
        let seconds = since(self.counted).as_secs_f64();
        let rate = config.limits.client_frames_per_second;
        if f64::from(self.frames) > rate as f64 * seconds.max(1.0) {
            return Some(DueAction::End(too_many_frames(rate)));
        }
        if seconds >= 1.0 {
            (self.counted, self.frames) = (now, 0);
        }
        self.leave(config, facts).or_else(|| self.ping(config, facts))
    }

    fn leave(&mut self, config: &Config, facts: &Facts) -> Option<DueAction> {
        let window = config.drain.window;
        match (self.leave, facts.draining) {
            (Leave::Stay, Some(begun)) => {
                self.leave = Leave::At(begun + window.saturating_sub(GOAWAY).mul_f64(fraction()));
                None
            }
            (Leave::At(at), _) if at <= facts.now => {
                let patience = GOAWAY.min(window);
                self.leave = Leave::By(facts.now + patience);
                Some(DueAction::GoAway(patience))
            }
            (Leave::By(by), _) if by <= facts.now => {
                let refusal = Refusal::new(Code::Draining, "the gateway is going away; come back");
                Some(DueAction::End(refusal.retry_in(1000 + random() % 4000)))
            }
            _ => None,
        }
    }

    fn ping(&mut self, config: &Config, facts: &Facts) -> Option<DueAction> {
        if facts.now < self.next_ping {
            return None;
        }
        self.next_ping = facts.now + config.ping.interval;
        if !facts.is_quiet {
            return None;
        }
        if facts.answers_pings {
            self.pinged = self.pinged.or(Some(facts.now));
        }
        Some(DueAction::Ping)
    }
}

/// Why a stream ends whose client takes nothing.
pub fn stalled() -> Refusal {
    let message = "the client took no bytes for limits.write_timeout";
    Refusal::new(Code::SlowConsumer, message).limited_by(config_key!(limits.write_timeout))
}

/// Why a stream ends whose client answers no ping.
pub fn unanswered() -> Refusal {
    let message = "no answer to a ping came within ping.timeout";
    Refusal::new(Code::PingTimeout, message)
}

/// Why a stream ends whose client has vanished ([`crate::transport::vanished`]).
pub fn vanished() -> Refusal {
    let message = "the client's system acknowledged nothing for limits.write_timeout and 5 s more";
    Refusal::new(Code::PingTimeout, message).limited_by(config_key!(limits.write_timeout))
}

/// The refusal of a client that sends frames faster than `limits.client_frames_per_second`.
pub fn too_many_frames(rate: usize) -> Refusal {
    let message = format!("the client sends more than {rate} frames a second");
    let refusal = Refusal::new(Code::RateLimited, message).retry_in(10_000);
    refusal.limited_by(config_key!(limits.client_frames_per_second))
}

/// Uniform over [0, 1).
fn fraction() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_taken_at_their_interval_and_those_between_delay_nothing() {
        let mut timers = Timers::new(Instant::now(), Duration::from_secs(25));
        let mut taken = (100..2000).filter(|tenths| timers.takes_report(Duration::from_millis(100 * tenths)));
        assert!(taken.by_ref().take(4).eq([100, 350, 600, 850]));
        let late = Duration::from_secs(400 * 86_400);
        assert!(timers.takes_report(late) && !timers.takes_report(late + Duration::from_millis(24_900)));
    }
}

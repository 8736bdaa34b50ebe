//! What goes wrong in a world, and how it ends.

use tidegate_protocol::client::{Input, Phase, WakeReason};

use super::{Happening, World};
use crate::log::Log;

impl World {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        self.faults_left -= 1;
        if self.faults_left == 0 {
            self.after(0, Happening::Calm);
        } else {
            let wait = self.prng.pick(&[10, 500, 3_000, 12_000, 60_000]);
            self.after(wait, Happening::Fault);
        }
        let open: Vec<u64> = self.connections.keys().copied().collect();
        match self.prng.below(26) {
            0..=3 => {
                for g in open {
                    self.cut(g);
                }
            }
            4 => {
                // Half open.
                for g in open {
                    self.connection(g).is_cut = true;
                }
            }
            5 | 6 => self.restart(false),
            7 | 8 => self.restart(true),
            9 => self.reset(),
            10 | 11 => {
                let floor = self.log().head.saturating_sub(self.prng.below(6));
                self.log_mut().remove_up_to(floor);
            }
            12 | 13 => self.sleep()?,
            14 => {
                let reason = self.prng.pick(&[
                    WakeReason::Visible,
                    WakeReason::Online,
                    WakeReason::Pageshow,
                    WakeReason::Resume,
                    WakeReason::App,
                ]);
                self.is_hidden = false;
                self.feed(Input::Wake { reason })?;
            }
            15 => self.is_hidden = true,
            16 => self.feed(Input::Offline)?,
            17 => self.feed(Input::Suspend)?,
            18 | 19 => self.is_slow = true,
            20 => {
                // Somebody sets the clock.
                self.skew = i64::try_from(self.prng.below(40_000)).expect("small") - 20_000;
            }
            21 => {
                let retry = self.prng.pick(&[0, 3_000, 20_000]);
                for g in open {
                    self.send(g, format!(r#"{{"type":"goaway","code":"draining","retry_in_ms":{retry}}}"#));
                }
            }
            22 | 23 => {
                let (code, close) = self.prng.pick(&[
                    ("internal", 1011),
                    ("slow_consumer", 4002),
                    ("token_expired", 4001),
                    ("ping_timeout", 4003),
                    ("too_many_connections", 4004),
                    ("of_the_future", 4123),
                    ("of_the_future", 4623),
                    ("evicted", 4555),
                ]);
                let is_final = close >= 4500;
                let retry = self.prng.pick(&[None, None, Some(15_000)]);
                for g in open {
                    if !is_final || self.prng.chance(300) {
                        self.end(g, code, close, retry);
                    }
                }
            }
            24 => {
                self.feed(Input::Disconnect)?;
                let wait = self.prng.between(0, 3_000);
                self.after(wait, Happening::Input(Input::Connect));
            }
            _ => {
                for g in open {
                    let (code, message) =
                        self.prng.pick(&[("degraded", "slowly"), ("log_halted", "no writes")]);
                    self.send(g, format!(r#"{{"type":"status","code":"{code}","message":"{message}"}}"#));
                }
            }
        }
        Ok(())
    }

    /// The gateway restarts; if it was killed, the end of its log may be lost.
    pub(super) fn restart(&mut self, is_killed: bool) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            if is_killed {
                self.cut(g);
            } else {
                self.end(g, "draining", 1012, None);
            }
            self.forget(g);
        }
        let mut prng = self.prng.clone();
        if is_killed {
            let end = self.log().head.saturating_sub(prng.below(4));
            let (next, lost) = self.log().crash(self.logs.len() - 1, end, &mut prng);
            self.logs.push(next);
            if !lost.is_empty() && prng.chance(700) {
                let wait = prng.between(100, 5_000);
                self.after(wait, Happening::Republish(lost));
            }
        } else {
            self.log_mut().restart(&mut prng);
        }
        self.prng = prng;
    }

    /// The gateway knows the connection no more.
    pub(super) fn forget(&mut self, g: u64) {
        if let Some(connection) = self.connections.get_mut(&g) {
            connection.is_cut = true;
            connection.reader = None;
        }
    }

    /// The log is new and counts from 1.
    pub(super) fn reset(&mut self) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            self.cut(g);
            self.forget(g);
        }
        let mut log = Log::new(&mut self.prng);
        log.parent = Some((self.logs.len() - 1, 0));
        self.logs.push(log);
    }

    pub(super) fn sleep(&mut self) -> Result<(), String> {
        let long = self.prng.pick(&[1_500, 20_000, 400_000]);
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            if long > 10_000 && self.prng.chance(800) {
                self.cut(g);
            }
        }
        self.time += long;
        self.slept += long;
        if self.prng.chance(500) {
            self.feed(Input::Wake { reason: WakeReason::Resume })?;
        }
        Ok(())
    }

    /// The faults end.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.is_calm = true;
        self.calm_since = self.time;
        self.is_hidden = false;
        self.is_slow = false;
        self.waiting = 0;
        self.tick_lateness = 0;
        if self.is_behind {
            self.is_behind = false;
            self.feed(Input::Drained)?;
        }
        if matches!(self.session.state().phase, Phase::Idle | Phase::Stopped) {
            self.feed(Input::Connect)?;
        }
        // Something new, so that every position is known to be served.
        self.after(10, Happening::Publish);
        Ok(())
    }
}

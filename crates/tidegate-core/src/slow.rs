//! Which readers are slow, and what is done about it (R16, R17).
//!
//! It starts once a reader has caught up after its hello: a replay is not lag. From then on a reader that
//! is too far behind and does not gain is warned, every 5 s at most. Its policy acts on each warning, and
//! after the last one it is closed. A reader that catches up again begins anew.

use std::time::Duration;

use crate::Event;

/// What is done about a reader that is warned (PROTOCOL.md, "Slow readers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Nothing: it gets all events, in order, at its own pace.
    #[default]
    CatchUp,
    /// It continues at the head; what lies between is a declared gap.
    Skip,
    /// It gets the last event of each service and key, and the number of events left out.
    Latest,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 3] = [Policy::CatchUp, Policy::Skip, Policy::Latest];

    /// The name in `slow=` and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::CatchUp => "catch_up",
            Policy::Skip => "skip",
            Policy::Latest => "latest",
        }
    }

    /// The policy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// The limits of the escalation.
#[derive(Debug, Clone, Copy)]
pub struct SlowLimits {
    /// How many events a reader may be behind without a warning.
    pub max_behind: u64,
    /// How many warnings come before the close.
    pub max_warnings: u32,
}

/// The shortest time between two warnings (PROTOCOL.md, "Slow readers"): long enough to see whether a reader
/// gains.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(5);

/// The escalation of one reader: its warnings so far. `now` is a time of any monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Escalation {
    was_caught_up: bool,
    warnings: u32,
    /// When its lag last mattered, and how far behind it was.
    warned: Option<(Duration, u64)>,
}

/// The next step of an escalation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowStep {
    /// Warn it; the number of this warning, from 1.
    Warn(u32),
    /// Close it: it had all warnings.
    Close,
}

impl Escalation {
    /// The reader has caught up: its warnings are forgotten.
    pub fn handle_caught_up(&mut self) {
        *self = Self { was_caught_up: true, ..Self::default() };
    }

    /// Whether the reader has caught up since its hello.
    pub fn was_caught_up(&self) -> bool {
        self.was_caught_up
    }

    /// Whether its lag matters at `now`: it has caught up once, and its last warning was long enough ago.
    pub fn is_due(&self, now: Duration) -> bool {
        self.was_caught_up && self.warned.is_none_or(|(at, _)| now.saturating_sub(at) >= WARNING_INTERVAL)
    }

    /// The reader is `lag` events behind, counted by what it may see. Returns the step to take, if any.
    pub fn handle_lag(&mut self, now: Duration, lag: u64, limits: SlowLimits) -> Option<SlowStep> {
        if !self.is_due(now) || lag <= limits.max_behind {
            return None;
        }
        let has_gained = self.warned.is_some_and(|(_, before)| lag < before);
        self.warned = Some((now, lag));
        if has_gained {
            return None;
        }
        self.warnings += 1;
        Some(if self.warnings > limits.max_warnings {
            SlowStep::Close
        } else {
            SlowStep::Warn(self.warnings)
        })
    }
}

/// Removes the events of `visible` that have a later event with the same service and key (R17); returns how
/// many. Events without a key all stay.
pub fn keep_latest(visible: &mut Vec<&Event>) -> usize {
    let before = visible.len();
    #[expect(clippy::disallowed_types, reason = "looked up only, never iterated")]
    let mut later = std::collections::HashSet::new();
    let mut keep: Vec<bool> = visible
        .iter()
        .rev()
        .map(|event| event.key().is_none_or(|key| later.insert((event.service.clone(), key))))
        .collect();
    visible.retain(|_| keep.pop().unwrap_or(true));
    before - visible.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use tidegate_protocol::ServiceName;

    const LIMITS: SlowLimits = SlowLimits { max_behind: 500, max_warnings: 10 };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn r16_a_replay_is_not_lag_and_a_reader_that_falls_behind_after_it_is_warned_and_closed() {
        let mut escalation = Escalation::default();
        assert_eq!(escalation.handle_lag(s(0), 1_000_000, LIMITS), None, "it has never caught up");
        escalation.handle_caught_up();
        assert_eq!(escalation.handle_lag(s(1), 500, LIMITS), None);
        for warning in 1..=10 {
            let now = s(1 + u64::from(warning) * 5);
            assert_eq!(escalation.handle_lag(now, 501, LIMITS), Some(SlowStep::Warn(warning)));
            assert_eq!(escalation.handle_lag(now + s(4), 9999, LIMITS), None, "not so soon");
        }
        assert_eq!(escalation.handle_lag(s(60), 501, LIMITS), Some(SlowStep::Close));
    }

    #[test]
    fn r16_whoever_gains_is_not_warned_and_catching_up_forgets_all() {
        let mut escalation = Escalation::default();
        escalation.handle_caught_up();
        assert_eq!(escalation.handle_lag(s(5), 2000, LIMITS), Some(SlowStep::Warn(1)));
        assert_eq!(escalation.handle_lag(s(10), 1999, LIMITS), None, "it gains");
        assert_eq!(escalation.handle_lag(s(15), 1999, LIMITS), Some(SlowStep::Warn(2)), "it does not");
        assert_eq!(escalation.handle_lag(s(20), 400, LIMITS), None);
        escalation.handle_caught_up();
        assert_eq!(escalation.handle_lag(s(21), 501, LIMITS), Some(SlowStep::Warn(1)));
    }

    #[test]
    fn r17_latest_leaves_out_only_what_a_later_event_of_the_same_service_and_key_makes_old() {
        let event = |seq: u64, service: &str, key: &str| Event {
            seq,
            timestamp: 0,
            service: ServiceName::parse(service).expect("a name"),
            users: None,
            fragment: Bytes::from(match key {
                "" => format!(r#""seq":{seq},"id":"a","data":{{"key":"inner"}}"#),
                key => format!(r#""seq":{seq},"id":"\",\"key\":\"x","key":"{key}","data":1"#),
            }),
        };
        let events: Vec<Arc<Event>> = [
            event(1, "a", "k"),
            event(2, "b", "k"),
            event(3, "a", ""),
            event(4, "a", "k"),
            event(5, "a", "l"),
            event(6, "a", ""),
            event(7, "a", "k"),
        ]
        .map(Arc::new)
        .to_vec();
        let mut visible: Vec<&Event> = events.iter().map(|event| &**event).collect();
        assert_eq!(keep_latest(&mut visible), 2);
        assert_eq!(visible.iter().map(|event| event.seq).collect::<Vec<_>>(), [2, 3, 5, 6, 7]);
    }
}

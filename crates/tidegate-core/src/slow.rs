//! Who is slow, and what is done about it (R16, R17).
//!
//! Starts once a reader has been level after its hello: a replay is no lag. From then on a reader that
//! falls too far behind and does not gain is warned, every few seconds at most; each warning lets its
//! policy act; after the last one it is closed. Being level again forgets them all.

use std::time::Duration;

use crate::Event;

/// What is done for a reader that is warned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Everything comes, in order, at the client's pace.
    #[default]
    CatchUp,
    /// It goes on at the head; what lies between is a declared gap.
    Skip,
    /// It gets the last value of each service and key; how many were left out is told.
    Latest,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 3] = [Policy::CatchUp, Policy::Skip, Policy::Latest];

    /// The word in `slow=` and in the configuration.
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

/// The bounds of the escalation.
#[derive(Debug, Clone, Copy)]
pub struct SlowLimits {
    /// Events behind without a warning.
    pub max_behind: u64,
    /// Warnings before the end.
    pub max_warnings: u32,
}

/// The shortest time between two warnings.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(5);

/// How far one reader has come up the escalation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Escalation {
    was_level: bool,
    warnings: u32,
    /// When it was warned last, and how far behind it was.
    warned: Option<(Duration, u64)>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This is its so-manieth warning.
    Warn(u32),
    /// It has had them all.
    Close,
}

impl Escalation {
    /// The reader is level.
    pub fn handle_level(&mut self) {
        *self = Self { was_level: true, ..Self::default() };
    }

    /// Whether the reader has been level since its hello.
    pub fn has_been_level(&self) -> bool {
        self.was_level
    }

    /// Whether its lag matters at `now`: it has been level, and its last warning was long enough ago.
    pub fn is_due(&self, now: Duration) -> bool {
        self.was_level && self.warned.is_none_or(|(at, _)| now.saturating_sub(at) >= WARNING_INTERVAL)
    }

    /// The reader is so many events behind, counted by what it may see.
    pub fn handle_lag(&mut self, now: Duration, lag: u64, limits: SlowLimits) -> Option<Step> {
        if !self.is_due(now) || lag <= limits.max_behind {
            return None;
        }
        let has_gained = self.warned.is_some_and(|(_, before)| lag < before);
        self.warned = Some((now, lag));
        if has_gained {
            return None;
        }
        self.warnings += 1;
        Some(if self.warnings > limits.max_warnings { Step::Close } else { Step::Warn(self.warnings) })
    }
}

/// Leaves out of `visible` what a later event of the same service and key makes old; how many that
/// were. Events without a key all stay.
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
    fn r16_a_replay_is_no_lag_and_a_level_reader_that_falls_behind_is_warned_and_closed() {
        let mut escalation = Escalation::default();
        assert_eq!(escalation.handle_lag(s(0), 1_000_000, LIMITS), None, "it has never been level");
        escalation.handle_level();
        assert_eq!(escalation.handle_lag(s(1), 500, LIMITS), None);
        for warning in 1..=10 {
            let now = s(1 + u64::from(warning) * 5);
            assert_eq!(escalation.handle_lag(now, 501, LIMITS), Some(Step::Warn(warning)));
            assert_eq!(escalation.handle_lag(now + s(4), 9999, LIMITS), None, "not so soon");
        }
        assert_eq!(escalation.handle_lag(s(60), 501, LIMITS), Some(Step::Close));
    }

    #[test]
    fn r16_whoever_gains_is_not_warned_and_being_level_forgets_all() {
        let mut escalation = Escalation::default();
        escalation.handle_level();
        assert_eq!(escalation.handle_lag(s(5), 2000, LIMITS), Some(Step::Warn(1)));
        assert_eq!(escalation.handle_lag(s(10), 1999, LIMITS), None, "it gains");
        assert_eq!(escalation.handle_lag(s(15), 1999, LIMITS), Some(Step::Warn(2)), "it does not");
        assert_eq!(escalation.handle_lag(s(20), 400, LIMITS), None);
        escalation.handle_level();
        assert_eq!(escalation.handle_lag(s(21), 501, LIMITS), Some(Step::Warn(1)));
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

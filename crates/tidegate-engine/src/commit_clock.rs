//! The commit clock (R30): the time of commits, which never falls.
//!
//! It follows the wall clock, with two exceptions. If the wall clock is behind it, because it was set back,
//! the commit clock goes on by itself, a tenth slower than the steady clock, until the wall clock has caught
//! up. If the wall clock leaps ahead, the commit clock goes on with the steady clock, and follows only if
//! the wall clock still says so 10 minutes later. So a clock that was wrong for some minutes leaves nothing
//! behind: no event has a time of 2036, and retention has removed nothing.
//!
//! This file decides and reads no clock. The engine reads both clocks, and logs the [`News`].

use std::time::Duration;

use tidegate_protocol::UnixMillis;

/// A wall clock that is ahead of the steady clock by more than this has leapt. Smaller steps are followed at
/// once. An hour is the largest mistake that is made often, by a wrong time zone.
pub const LEAP_MILLIS: u64 = 3_600_000;
/// A leap is followed if it has lasted for this long. It is some polls of a time server, which clients ask
/// every 64 s while their clock is wrong (RFC 5905, section 7.2).
pub const BELIEVED_AFTER_MILLIS: u64 = 600_000;
/// If the wall clock is further ahead of the last commit than this at a start, it has leapt. Gateways stand
/// still over a weekend and longer; a clock that was reset is usually wrong by years.
pub const STOP_MAX_MILLIS: u64 = 7 * 24 * 3_600_000;
/// While it is ahead of the wall clock, the commit clock loses one millisecond of this many. So it is right
/// again after ten times what the wall clock was set back by, and windows last at most a ninth longer.
const SLOWER_BY: u64 = 10;
/// The wall clock has made a step if it is this far ahead of the steady clock. The two run apart by 0.05 % at
/// most (adjtimex(2)), less than this between two sweeps.
const STEP_MILLIS: u64 = 1_000;
/// The commit clock is reported if it is ahead of the wall clock by more than this, and again every hour.
const AHEAD_MILLIS: u64 = 60_000;
const AHEAD_EVERY_MILLIS: u64 = 3_600_000;

/// What a look at the clock gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// The time of a commit that is made now.
    pub now: UnixMillis,
    /// The same without the steps ahead that it has made since the start: how much time has passed for sure.
    /// So ids stay in the dedup window when the clock is set ahead.
    pub passed: u64,
    /// How many leaps it has followed since the start.
    pub followed: u32,
    /// How far `now` is ahead of the wall clock.
    pub ahead: Duration,
}

/// A fact for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The wall clock has leapt ahead.
    Leapt,
    /// It has come back from a leap that was not followed.
    CameBack,
    /// It has not come back, and is followed from now on.
    Followed,
    /// The commit clock is ahead of it.
    Ahead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Following,
    Ahead,
    Leapt {
        /// By the steady clock.
        since: u64,
    },
}

/// The clock.
#[derive(Debug)]
pub struct CommitClock {
    mode: Mode,
    /// The last time that it gave.
    now: UnixMillis,
    /// What it and the steady clock said when the mode began; while it follows, at the last look.
    origin: (UnixMillis, u64),
    /// The sum of the steps ahead.
    stepped: u64,
    followed: u32,
    /// When it was last reported to be ahead.
    ahead_reported: Option<u64>,
}

impl CommitClock {
    /// The clock of a start. `last` is the time of the newest commit, 0 if there is none.
    pub fn begin(last: UnixMillis, wall: UnixMillis, steady: u64) -> Self {
        let is_plausible = last == 0 || (last..=last.saturating_add(STOP_MAX_MILLIS)).contains(&wall);
        let now = if is_plausible { wall } else { last };
        Self {
            mode: Mode::Following,
            now,
            origin: (now, steady),
            stepped: 0,
            followed: 0,
            ahead_reported: None,
        }
    }

    /// The last time that it gave.
    pub fn now(&self) -> UnixMillis {
        self.now
    }

    /// Reads the time, given those of the wall clock and the steady clock.
    pub fn read(&mut self, wall: UnixMillis, steady: u64) -> (Time, Option<News>) {
        let elapsed = steady.saturating_sub(self.origin.1);
        let slower = if self.mode == Mode::Ahead { elapsed / SLOWER_BY } else { 0 };
        let paced = (self.origin.0 + (elapsed - slower)).max(self.now);
        let mut mode = if wall > paced.saturating_add(LEAP_MILLIS) {
            match self.mode {
                Mode::Leapt { since } => Mode::Leapt { since },
                _ => Mode::Leapt { since: steady },
            }
        } else if wall < self.now {
            Mode::Ahead
        } else {
            Mode::Following
        };
        let mut news = match (self.mode, mode) {
            (Mode::Leapt { .. }, Mode::Leapt { .. }) => None,
            (_, Mode::Leapt { .. }) => Some(News::Leapt),
            (Mode::Leapt { .. }, _) => Some(News::CameBack),
            _ => None,
        };
        if let Mode::Leapt { since } = mode
            && steady.saturating_sub(since) >= BELIEVED_AFTER_MILLIS
        {
            mode = Mode::Following;
            self.followed += 1;
            news = Some(News::Followed);
        }
        let now = if mode == Mode::Following { wall } else { paced };
        if now > paced.saturating_add(STEP_MILLIS) {
            self.stepped += now - paced;
        }
        if mode == Mode::Following || mode != self.mode {
            self.origin = (now, steady);
        }
        (self.mode, self.now) = (mode, now);
        let ahead = now.saturating_sub(wall);
        if news.is_none() && self.is_to_report(ahead, steady) {
            news = Some(News::Ahead);
        }
        let (passed, ahead) = (now - self.stepped, Duration::from_millis(ahead));
        (Time { now, passed, followed: self.followed, ahead }, news)
    }

    fn is_to_report(&mut self, ahead: u64, steady: u64) -> bool {
        let is_early = self.ahead_reported.is_some_and(|at| steady.saturating_sub(at) < AHEAD_EVERY_MILLIS);
        if ahead <= AHEAD_MILLIS || is_early {
            return false;
        }
        self.ahead_reported = Some(steady);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAWN: UnixMillis = 1_795_512_600_000;
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const TEN_YEARS: u64 = 3_650 * DAY;

    /// The two clocks of a machine, and the commit clock that looks at them.
    struct Machine {
        wall: UnixMillis,
        steady: u64,
        clock: CommitClock,
    }

    impl Machine {
        fn new(last: UnixMillis, wall: UnixMillis) -> Self {
            Self { wall, steady: 7, clock: CommitClock::begin(last, wall, 7) }
        }

        fn look(&mut self) -> (Time, Option<News>) {
            self.clock.read(self.wall, self.steady)
        }

        fn pass(&mut self, millis: u64) {
            self.wall += millis;
            self.steady += millis;
        }

        /// Looks every second for this long; gives the last look and all news.
        fn run(&mut self, millis: u64) -> (Time, Vec<News>) {
            let mut all: Vec<News> = self.look().1.into_iter().collect();
            for _ in 0..millis / SECOND {
                self.pass(SECOND);
                all.extend(self.look().1);
            }
            (self.look().0, all)
        }
    }

    #[test]
    fn r30_it_follows_the_clock_and_its_small_steps() {
        let mut machine = Machine::new(DAWN - 2 * DAY, DAWN);
        let (began, _) = machine.look();
        assert_eq!((began.now, began.ahead), (DAWN, Duration::ZERO), "after two days, no leap");
        machine.pass(5);
        assert_eq!(machine.look().0.now, DAWN + 5);
        machine.wall += 40 * MINUTE;
        let (time, news) = machine.look();
        assert_eq!((time.now, news), (DAWN + 5 + 40 * MINUTE, None));
        assert_eq!(time.passed, began.passed + 5, "no id leaves the window for that");
    }

    #[test]
    fn r30_a_clock_set_back_is_waited_for_at_nine_tenths_of_the_pace() {
        let mut machine = Machine::new(0, DAWN);
        machine.look();
        machine.wall -= 10 * MINUTE;
        let (time, news) = machine.look();
        assert_eq!((time.now, news), (DAWN, Some(News::Ahead)));
        assert_eq!(time.ahead, Duration::from_millis(10 * MINUTE));
        let (time, news) = machine.run(50 * MINUTE);
        assert_eq!((time.now, time.ahead), (DAWN + 45 * MINUTE, Duration::from_millis(5 * MINUTE)));
        assert_eq!(news, [], "reported once an hour");
        let (time, _) = machine.run(50 * MINUTE + SECOND);
        assert_eq!((time.now, time.ahead), (machine.wall, Duration::ZERO));
        assert_eq!(time.now, DAWN + 90 * MINUTE + SECOND);
    }

    #[test]
    fn r30_many_looks_do_not_round_the_pace_away() {
        let mut machine = Machine::new(DAWN + HOUR, DAWN);
        machine.look();
        for _ in 0..100_000 {
            machine.pass(1);
            machine.look();
        }
        assert_eq!(machine.look().0.now, DAWN + HOUR + 90_000);
    }

    #[test]
    fn r30_a_clock_set_right_again_is_followed_at_once() {
        let mut machine = Machine::new(0, DAWN);
        machine.run(MINUTE);
        machine.wall -= 10 * MINUTE;
        machine.run(MINUTE);
        machine.wall += 10 * MINUTE;
        let (time, news) = machine.look();
        assert_eq!((time.now, time.ahead, news), (DAWN + 2 * MINUTE, Duration::ZERO, None));
    }

    #[test]
    fn r30_a_leap_that_is_taken_back_leaves_nothing() {
        let mut machine = Machine::new(0, DAWN);
        machine.look();
        machine.wall += TEN_YEARS;
        let (time, news) = machine.run(9 * MINUTE);
        assert_eq!((time.now, news), (DAWN + 9 * MINUTE, vec![News::Leapt]));
        machine.wall -= TEN_YEARS;
        let (time, news) = machine.run(MINUTE);
        assert_eq!((time.now, time.passed, time.ahead), (DAWN + 10 * MINUTE, time.now, Duration::ZERO));
        assert_eq!(news, [News::CameBack]);
        // The time of the first leap does not count for a second one.
        machine.wall += TEN_YEARS;
        assert_eq!(machine.run(9 * MINUTE).0.now, DAWN + 19 * MINUTE);
    }

    #[test]
    fn r30_a_leap_that_stays_is_followed_and_ages_no_id() {
        let mut machine = Machine::new(0, DAWN);
        let (began, _) = machine.look();
        machine.wall += 2 * HOUR;
        let (time, news) = machine.run(10 * MINUTE);
        assert_eq!((time.now, news), (DAWN + 2 * HOUR + 10 * MINUTE, vec![News::Leapt, News::Followed]));
        assert_eq!(time.passed, began.passed + 10 * MINUTE);
        machine.wall -= 2 * HOUR;
        let (time, news) = machine.look();
        assert_eq!((time.ahead, news), (Duration::from_millis(2 * HOUR), Some(News::Ahead)));
        let (time, news) = machine.run(20 * HOUR + SECOND);
        assert_eq!((time.now, time.ahead), (machine.wall, Duration::ZERO), "after ten times the step");
        assert_eq!(news.len(), 19, "once an hour: {news:?}");
    }

    #[test]
    fn r30_a_start_goes_on_from_the_last_commit() {
        assert_eq!(Machine::new(DAWN + HOUR, DAWN).look().0.now, DAWN + HOUR, "the clock is behind");
        let mut machine = Machine::new(DAWN, DAWN + TEN_YEARS);
        assert_eq!(machine.look(), (machine.look().0, Some(News::Leapt)));
        let (time, _) = machine.run(9 * MINUTE);
        assert_eq!(time.now, DAWN + 9 * MINUTE, "the clock is ahead by years");
        assert_eq!(machine.run(MINUTE).0.now, DAWN + TEN_YEARS + 10 * MINUTE);
        let first = Machine::new(0, DAWN + TEN_YEARS).look();
        assert_eq!((first.0.now, first.1), (DAWN + TEN_YEARS, None), "a log that is new knows no better");
    }

    #[derive(Debug, Clone)]
    enum Op {
        Pass(u64),
        Ahead(u64),
        Back(u64),
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        let step = || prop_oneof![1..100u64, 1..2 * HOUR, 1..TEN_YEARS];
        prop_oneof![
            4 => prop_oneof![0..10u64, 1..20 * MINUTE, 1..60 * DAY].prop_map(Op::Pass),
            2 => step().prop_map(Op::Ahead),
            2 => step().prop_map(Op::Back),
            1 => Just(Op::Restart),
        ]
    }

    proptest! {
        #[test]
        fn r30_whatever_the_clock_does_the_commit_clock_rises_and_windows_pass(
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let mut machine = Machine::new(0, DAWN);
            let (mut last, _) = machine.look();
            let mut looked_at = machine.steady;
            for op in ops {
                match op {
                    Op::Pass(millis) => machine.pass(millis),
                    Op::Ahead(millis) => machine.wall += millis,
                    Op::Back(millis) => machine.wall = machine.wall.saturating_sub(millis),
                    Op::Restart => {
                        machine.clock = CommitClock::begin(last.now, machine.wall, machine.steady);
                        last.passed = machine.look().0.passed;
                        looked_at = machine.steady;
                    }
                }
                let (time, _) = machine.look();
                let elapsed = machine.steady - looked_at;
                prop_assert!(time.now >= last.now, "it never falls");
                prop_assert!(time.passed >= last.passed);
                prop_assert!(time.passed - last.passed <= elapsed + STEP_MILLIS, "no id leaves early");
                (last, looked_at) = (time, machine.steady);
            }
            // Whatever happened before, time passes.
            machine.pass(HOUR);
            let (time, _) = machine.look();
            prop_assert!(time.now - last.now >= HOUR - HOUR / SLOWER_BY - 1 || machine.clock.mode == Mode::Following);
        }
    }
}

//! When a worker serves which org (R15): the pace of rounds, and whose turn it is.
//!
//! A round takes what was committed to an org since its last one to all of a worker's readers. Size
//! seals a batch; only the pace starts a round. An org that was quiet is served at once; after a round
//! the next one waits as long as keeps fan-out under a share of the worker's time. So ten readers see
//! every event at once, a thousand see batches of some milliseconds, and nobody tunes anything.
//!
//! Sans-IO: the worker says what happened and when, asks whose turn it is, and says what it cost.
//! Times are durations since any fixed start.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// When the next round of an org starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As soon as fan-out stays under its share of the worker's time.
    Paced,
    /// The whole window after the first event that waits: the least work.
    Fixed,
    /// At the end of the turn: the least latency.
    Immediate,
}

/// How rounds are paced.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// The rule.
    pub mode: Mode,
    /// The longest that an event waits for the pace.
    pub window: Duration,
    /// The share of a worker's time that rounds may take, above 0 and at most 1.
    pub share: f64,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { mode: Mode::Paced, window: Duration::from_millis(50), share: 0.5 }
    }
}

/// How long one org is served before it is another's turn.
pub const SLICE: Duration = Duration::from_millis(1);

/// A round that takes no longer than this, by the org's last one, goes before those that do: its org would
/// wait for a slice of every big one, and they for next to nothing.
const SHORT: Duration = Duration::from_micros(250);

/// So many short rounds in a row may go before a long one that is due.
const SHORT_IN_A_ROW_MAX: u32 = 16;

/// A round that is due this soon starts now, and the debt is kept: timers are no finer.
const GRAIN: Duration = Duration::from_micros(500);

/// How often the load is looked at.
const REVIEW: Duration = Duration::from_millis(100);

/// By how much waits are stretched at most. The window bounds them anyway.
const STRETCH_MAX: f64 = 1000.0;

/// What was written in a slice of a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Sends, about one a reader.
    pub sends: u64,
    /// The bytes of all of them together.
    pub bytes: u64,
}

/// A send costs about as much as copying this many bytes to the kernel.
const SEND_BYTES: u64 = 32 << 10;

impl Written {
    /// The part of `cost` that waiting saves: what each send costs whatever it carries. The bytes have to
    /// go either way, and if they counted, a busy org would wait the whole window for nothing: its
    /// rounds would grow past the caches, cost more by the byte, and wait the longer for it.
    pub fn saved_by_waiting(self, cost: Duration) -> Duration {
        let sends = self.sends.saturating_mul(SEND_BYTES);
        match sends.saturating_add(self.bytes) {
            0 => cost,
            all => cost.mul_f64(sends as f64 / all as f64),
        }
    }
}

/// The rounds of one worker.
#[derive(Debug)]
pub struct Rounds<K> {
    pacing: Pacing,
    orgs: BTreeMap<K, Pace>,
    /// Orgs with news whose time has not come, by when it will.
    waiting: BTreeSet<(Duration, K)>,
    /// Orgs whose round is under way or due, in turn...
    ready: VecDeque<K>,
    /// ...and those whose round is due and will be short, which go first...
    short: VecDeque<K>,
    /// ...so often in a row until now.
    short_in_a_row: u32,
    /// The factor by which all waits are stretched, so that many orgs together keep the share.
    stretch: f64,
    /// What rounds and catching up have cost since the last review...
    busy: Duration,
    /// ...and how much of it in rounds that wait as long as they may.
    at_window: Duration,
    reviewed: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When the next round may start.
    free_at: Duration,
    /// What the round under way has cost so far...
    cost: Duration,
    /// ...and the one before, where it is known.
    last_cost: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to send.
    Quiet,
    /// News that waits for the pace.
    Waiting,
    /// Its round is due or under way; and whether there is news since it began.
    Serving { has_begun: bool, has_news: bool },
}

impl<K: Clone + Ord> Rounds<K> {
    /// No orgs yet.
    pub fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            orgs: BTreeMap::new(),
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

    /// `org` has events that its readers on this worker have not got.
    pub fn handle_news(&mut self, now: Duration, org: K) {
        let fresh = Pace {
            free_at: Duration::ZERO,
            cost: Duration::ZERO,
            last_cost: Duration::ZERO,
            state: State::Quiet,
        };
        let pace = self.orgs.entry(org.clone()).or_insert(fresh);
        match &mut pace.state {
            State::Quiet => {
                let due = match self.pacing.mode {
                    Mode::Fixed => now + self.pacing.window,
                    Mode::Paced | Mode::Immediate => pace.free_at,
                };
                if due <= now + GRAIN {
                    self.make_ready(org);
                } else {
                    pace.state = State::Waiting;
                    self.waiting.insert((due, org));
                }
            }
            State::Waiting => {}
            // What comes before the round begins goes along with it.
            State::Serving { has_begun, has_news } => *has_news = *has_begun,
        }
    }

    /// When [`Rounds::poll_round`] will next have something, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || !self.short.is_empty() {
            return Some(Duration::ZERO);
        }
        self.waiting.first().map(|(due, _)| *due)
    }

    fn make_ready(&mut self, org: K) {
        let Some(pace) = self.orgs.get_mut(&org) else { return };
        pace.state = State::Serving { has_begun: false, has_news: false };
        let queue = if pace.last_cost <= SHORT { &mut self.short } else { &mut self.ready };
        queue.push_back(org);
    }

    fn take_next(&mut self) -> Option<K> {
        if (self.short_in_a_row < SHORT_IN_A_ROW_MAX || self.ready.is_empty())
            && let Some(org) = self.short.pop_front()
        {
            self.short_in_a_row += 1;
            return Some(org);
        }
        self.short_in_a_row = 0;
        self.ready.pop_front()
    }

    /// Whose turn it is. The worker serves it for about a [`SLICE`], then says so by
    /// [`Rounds::handle_slice`].
    pub fn poll_round(&mut self, now: Duration) -> Option<K> {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now + GRAIN) {
            let Some((_, org)) = self.waiting.pop_first() else { break };
            self.make_ready(org);
        }
        let org = self.take_next()?;
        if let Some(Pace { state: State::Serving { has_begun, .. }, .. }) = self.orgs.get_mut(&org) {
            *has_begun = true;
        }
        Some(org)
    }

    /// The org that [`Rounds::poll_round`] gave was served; it cost this much, and its round is done
    /// or goes on when its turn comes again.
    pub fn handle_slice(&mut self, now: Duration, org: K, cost: Duration, is_done: bool) {
        self.busy += cost;
        self.review(now);
        let Some(pace) = self.orgs.get_mut(&org) else { return };
        pace.cost += cost;
        if !is_done {
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
        // A round that started early has left a debt.
        pace.free_at = (now + wait).max((pace.free_at + wait).min(now + self.pacing.window));
        pace.last_cost = std::mem::take(&mut pace.cost);
        pace.state = State::Quiet;
        if had_news {
            self.handle_news(now, org);
        }
    }

    /// What the worker did for readers of `org` beside its rounds, those that catch up, takes from the same
    /// share: the round to come counts it as its own. As of rounds, it is the part that waiting saves
    /// ([`Written::saved_by_waiting`]).
    pub fn handle_cost(&mut self, now: Duration, org: &K, cost: Duration) {
        self.busy += cost;
        self.review(now);
        // One without news owes nobody a wait.
        if let Some(pace) = self.orgs.get_mut(org) {
            pace.cost += cost;
        }
    }

    /// Stretches all waits until the rounds of all orgs together keep the share: the wait of each is
    /// in proportion to its own cost, which says nothing of how many there are.
    fn review(&mut self, now: Duration) {
        let since = now.saturating_sub(self.reviewed);
        if since < REVIEW {
            return;
        }
        let load = self.busy.as_secs_f64() / since.as_secs_f64();
        // The square root: load falls as waits grow, and half a step each time does not overshoot.
        let step = (load / self.pacing.share).sqrt();
        // Those that wait the whole window already would only drag the small ones along.
        if step < 1.0 || self.at_window < self.busy / 2 {
            self.stretch = (self.stretch * step).clamp(1.0, STRETCH_MAX);
        }
        (self.busy, self.at_window) = (Duration::ZERO, Duration::ZERO);
        self.reviewed = now;
        self.orgs.retain(|_, pace| pace.state != State::Quiet || pace.free_at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn rounds(mode: Mode) -> Rounds<&'static str> {
        Rounds::new(Pacing { mode, ..Pacing::default() })
    }

    /// Serves one whole round that costs `cost`; gives its org.
    fn serve(rounds: &mut Rounds<&'static str>, now: Duration, cost: Duration) -> Option<&'static str> {
        let org = rounds.poll_round(now)?;
        rounds.handle_slice(now + cost, org, cost, true);
        Some(org)
    }

    #[test]
    fn r15_a_quiet_org_is_served_at_once_and_then_waits_as_long_as_its_round_took() {
        let mut rounds = rounds(Mode::Paced);
        rounds.handle_news(us(0), "a");
        assert_eq!(serve(&mut rounds, us(0), us(4000)), Some("a"));
        rounds.handle_news(us(4100), "a");
        assert_eq!(rounds.poll_round(us(4100)), None);
        assert_eq!(rounds.poll_timeout(), Some(us(8000)));
        // More news on the way changes nothing.
        rounds.handle_news(us(5000), "a");
        assert_eq!(serve(&mut rounds, us(8000), us(10)), Some("a"));
        assert_eq!(rounds.poll_timeout(), None);
    }

    #[test]
    fn r15_only_what_waiting_saves_counts() {
        let saved = |sends, bytes| Written { sends, bytes }.saved_by_waiting(us(1000));
        assert_eq!(saved(200, 0), us(1000));
        assert_eq!(saved(200, 200 * SEND_BYTES), us(500));
        assert_eq!(saved(1, 9 * SEND_BYTES), us(100));
        // Assembly and compression without a send yet.
        assert_eq!(saved(0, 0), us(1000));
    }

    #[test]
    fn r15_no_wait_is_longer_than_the_window() {
        let mut rounds = rounds(Mode::Paced);
        rounds.handle_news(us(0), "a");
        serve(&mut rounds, us(0), us(400_000));
        rounds.handle_news(us(400_000), "a");
        assert_eq!(rounds.poll_timeout(), Some(us(450_000)));
    }

    #[test]
    fn fixed_waits_the_whole_window_after_the_first_event_and_immediate_not_at_all() {
        let mut fixed = rounds(Mode::Fixed);
        fixed.handle_news(us(1000), "a");
        fixed.handle_news(us(30_000), "a");
        assert_eq!((fixed.poll_round(us(30_000)), fixed.poll_timeout()), (None, Some(us(51_000))));
        assert_eq!(serve(&mut fixed, us(51_000), us(4000)), Some("a"));
        let mut immediate = rounds(Mode::Immediate);
        for now in [us(0), us(4000)] {
            immediate.handle_news(now, "a");
            assert_eq!(serve(&mut immediate, now, us(4000)), Some("a"));
        }
    }

    #[test]
    fn r15_the_wait_counts_from_the_end_of_the_round_and_all_its_slices() {
        let mut rounds = rounds(Mode::Paced);
        rounds.handle_news(us(0), "a");
        // Three slices of a millisecond, with another's time in between.
        for (now, is_done) in [(1000, false), (5000, false), (9000, true)] {
            assert_eq!(rounds.poll_round(us(now - 1000)), Some("a"));
            rounds.handle_slice(us(now), "a", us(1000), is_done);
        }
        rounds.handle_news(us(9100), "a");
        assert_eq!((rounds.poll_round(us(9100)), rounds.poll_timeout()), (None, Some(us(12_000))));
    }

    #[test]
    fn r15_a_long_round_gives_way_after_each_slice() {
        let mut rounds = rounds(Mode::Paced);
        rounds.handle_news(us(0), "big");
        assert_eq!(rounds.poll_round(us(0)), Some("big"));
        rounds.handle_news(us(500), "small");
        rounds.handle_slice(us(1000), "big", SLICE, false);
        assert_eq!(serve(&mut rounds, us(1000), us(20)), Some("small"));
        assert_eq!(rounds.poll_round(us(1020)), Some("big"));
    }

    #[test]
    fn r15_a_small_org_waits_for_no_queue_of_big_ones_and_a_crowd_of_small_ones_holds_up_none() {
        let mut rounds: Rounds<u32> = Rounds::new(Pacing { mode: Mode::Immediate, ..Pacing::default() });
        let (big, small) = (0..10, 100..200);
        let serve = |rounds: &mut Rounds<u32>, cost| {
            let org = rounds.poll_round(us(0)).expect("due");
            rounds.handle_slice(us(0), org, cost, true);
            org
        };
        // Nobody is known as big before its first round.
        big.clone().for_each(|org| rounds.handle_news(us(0), org));
        big.clone().for_each(|org| assert_eq!(serve(&mut rounds, SLICE), org));
        big.clone().for_each(|org| rounds.handle_news(us(0), org));
        rounds.handle_news(us(0), 100);
        assert_eq!(serve(&mut rounds, us(20)), 100);
        small.clone().for_each(|org| rounds.handle_news(us(0), org));
        let turns: Vec<u32> = (0..110).map(|_| serve(&mut rounds, us(20))).collect();
        let of_big: Vec<usize> = (0..).zip(&turns).filter(|(_, org)| **org < 10).map(|(at, _)| at).collect();
        assert_eq!(of_big.len(), 10, "all are served");
        assert!(of_big[0] <= 16 && of_big.windows(2).all(|two| two[1] - two[0] <= 17), "{of_big:?}");
        assert_eq!(turns.iter().filter(|org| **org >= 100).count(), 100);
    }

    #[test]
    fn r15_a_burst_on_a_quiet_org_goes_as_one_round() {
        let mut rounds = rounds(Mode::Paced);
        (0..100).for_each(|at| rounds.handle_news(us(at), "a"));
        assert_eq!(serve(&mut rounds, us(100), us(4000)), Some("a"));
        assert_eq!((rounds.poll_round(us(4100)), rounds.poll_timeout()), (None, None));
    }

    #[test]
    fn r15_what_catching_up_costs_takes_from_the_same_share() {
        let wait_beside = |catching_up| {
            let mut rounds = rounds(Mode::Paced);
            let mut now = Duration::ZERO;
            for _ in 0..200 {
                rounds.handle_news(now, "a");
                now = rounds.poll_timeout().unwrap_or_default().max(now);
                assert_eq!(serve(&mut rounds, now, us(1000)), Some("a"));
                now += us(1000);
                rounds.handle_cost(now, &"b", catching_up);
                now += catching_up;
            }
            let ended = now - catching_up;
            rounds.handle_news(now, "a");
            rounds.poll_timeout().unwrap_or_default().max(now) - ended
        };
        assert!(wait_beside(us(0)) < us(1600), "{:?}", wait_beside(us(0)));
        let wait = wait_beside(us(5000));
        assert!(wait > us(5500), "another org's rounds wait the longer: {wait:?}");
    }

    #[test]
    fn news_that_comes_while_a_round_is_under_way_gets_a_round_of_its_own() {
        let mut rounds = rounds(Mode::Paced);
        rounds.handle_news(us(0), "a");
        // Not begun: it goes along.
        rounds.handle_news(us(10), "a");
        assert_eq!(rounds.poll_round(us(20)), Some("a"));
        rounds.handle_news(us(500), "a");
        rounds.handle_slice(us(1020), "a", us(1000), false);
        assert_eq!(rounds.poll_round(us(1020)), Some("a"));
        rounds.handle_slice(us(2020), "a", us(1000), true);
        assert_eq!((rounds.poll_round(us(2020)), rounds.poll_timeout()), (None, Some(us(4020))));
    }

    /// What a worker does with `orgs`, each with so many readers and events a second, for a while.
    struct Model {
        /// The worker's share of time in rounds, in the second half.
        load: f64,
        /// Per org, the median and greatest wait of an event until its round begins, in the second half.
        waits: Vec<(Duration, Duration)>,
        /// The shortest and longest time between two rounds of the first org, in the last quarter.
        periods: (Duration, Duration),
    }

    /// A round costs 4 us a reader, whatever it carries.
    fn model(orgs: &[(u64, u64)], pacing: Pacing, length: Duration) -> Model {
        let mut rounds: Rounds<usize> = Rounds::new(pacing);
        let mut now = Duration::ZERO;
        let mut next: Vec<Duration> = (0..orgs.len()).map(|org| us(97 * org as u64)).collect();
        let mut queued: Vec<Vec<Duration>> = vec![Vec::new(); orgs.len()];
        let mut left: Vec<Option<Duration>> = vec![None; orgs.len()];
        let mut waits: Vec<Vec<Duration>> = vec![Vec::new(); orgs.len()];
        let mut busy = Duration::ZERO;
        let mut began = Vec::new();
        while now < length {
            for (org, (_, rate)) in orgs.iter().enumerate() {
                while next[org] <= now {
                    queued[org].push(next[org]);
                    next[org] += Duration::from_secs(1) / u32::try_from(*rate).expect("small");
                    rounds.handle_news(now, org);
                }
            }
            let Some(org) = rounds.poll_round(now) else {
                let coming = next.iter().min().copied().expect("some");
                now = rounds.poll_timeout().map_or(coming, |due| due.min(coming)).max(now + us(1));
                continue;
            };
            if left[org].is_none() {
                if now > length / 2 {
                    waits[org].extend(queued[org].iter().map(|at| now - *at));
                }
                if org == 0 && now > length * 3 / 4 {
                    began.push(now);
                }
                queued[org].clear();
                left[org] = Some(us(4) * u32::try_from(orgs[org].0).expect("small"));
            }
            let rest = left[org].expect("under way");
            let slice = rest.min(SLICE);
            now += slice;
            if now > length / 2 {
                busy += slice;
            }
            left[org] = Some(rest - slice).filter(|rest| !rest.is_zero());
            rounds.handle_slice(now, org, slice, left[org].is_none());
        }
        let waits = waits
            .into_iter()
            .map(|mut waits| {
                waits.sort_unstable();
                (waits[waits.len() / 2], waits.last().copied().expect("some"))
            })
            .collect();
        let periods = began.windows(2).map(|pair| pair[1] - pair[0]);
        let periods = (periods.clone().min().unwrap_or_default(), periods.max().unwrap_or_default());
        Model { load: busy.as_secs_f64() / (length / 2).as_secs_f64(), waits, periods }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn r15_one_org_keeps_its_share_without_oscillation() {
        for share in [0.25, 0.5, 0.9] {
            let Model { load, waits, periods, .. } =
                model(&[(1000, 5000)], Pacing { share, ..Pacing::default() }, LONG);
            assert!((load - share).abs() < 0.05, "share {share}: load {load}");
            let period = us(4000).div_f64(share);
            assert!(waits[0].1 < period + us(1500), "share {share}: {:?}", waits[0]);
            assert!(periods.0 > period.mul_f64(0.8) && periods.1 < period.mul_f64(1.3), "{periods:?}");
        }
    }

    #[test]
    fn r15_many_orgs_together_keep_the_share_and_small_ones_are_quick_beside_them() {
        // Three big orgs, and one with ten readers.
        let few = model(&[(1000, 1000), (1000, 1000), (1000, 1000), (10, 100)], Pacing::default(), LONG);
        assert!((0.35..0.6).contains(&few.load), "load {}", few.load);
        assert!(few.waits[3].0 < us(2500), "{:?}", few.waits[3]);
        // None is starved: they get the same.
        let longest = few.waits[..3].iter().map(|wait| wait.1).max();
        assert!(longest < Some(us(50_000)), "{:?}", few.waits);
        // Ten: the share would need waits of 76 ms; the window bounds them, so the worker does more.
        let ten: Vec<(u64, u64)> = (0..10).map(|_| (1000, 1000)).chain([(10, 100)]).collect();
        let ten = model(&ten, Pacing::default(), LONG);
        assert!((0.5..0.85).contains(&ten.load), "load {}", ten.load);
        assert!(ten.waits[10].0 < us(10_000), "{:?}", ten.waits[10]);
        assert!(ten.waits[..10].iter().all(|wait| wait.1 < us(110_000)), "{:?}", ten.waits);
    }

    #[test]
    fn r15_ten_readers_see_each_event_at_once() {
        let Model { waits, load, .. } = model(&[(10, 1000)], Pacing::default(), LONG);
        assert!(waits[0].1 < us(100), "{:?}", waits[0]);
        assert!(load < 0.1);
    }

    #[test]
    fn a_quiet_worker_forgets_its_orgs() {
        let mut rounds = Rounds::new(Pacing::default());
        for org in 0..1000_u64 {
            rounds.handle_news(us(org), org);
            let served = rounds.poll_round(us(org)).expect("due");
            rounds.handle_slice(us(org), served, us(1), true);
        }
        rounds.handle_cost(Duration::from_secs(1), &0, us(1));
        assert!(rounds.orgs.is_empty());
    }

    #[test]
    fn r15_what_its_readers_that_catch_up_cost_makes_an_org_wait_and_no_other() {
        let mut rounds = rounds(Mode::Paced);
        for org in ["a", "b"] {
            rounds.handle_news(us(0), org);
            assert_eq!(serve(&mut rounds, us(0), us(1000)), Some(org));
        }
        rounds.handle_cost(us(1500), &"a", us(3000));
        for (now, org) in [(2000, "a"), (2000, "b")] {
            rounds.handle_news(us(now), org);
            assert_eq!(serve(&mut rounds, us(now), us(1000)), Some(org));
        }
        ["a", "b"].into_iter().for_each(|org| rounds.handle_news(us(3500), org));
        assert_eq!(serve(&mut rounds, us(4000), us(1000)), Some("b"), "as long as its round took");
        assert_eq!(rounds.poll_timeout(), Some(us(7000)), "its round and what came before it");
        // A whole storm makes it wait no longer than the window.
        rounds.handle_cost(us(5000), &"a", Duration::from_secs(5));
        assert_eq!(serve(&mut rounds, us(7000), us(1000)), Some("a"));
        rounds.handle_news(us(8000), "a");
        assert_eq!(rounds.poll_timeout(), Some(us(58_000)));
    }
}

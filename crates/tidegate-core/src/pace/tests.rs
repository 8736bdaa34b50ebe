use std::collections::BTreeMap;

use super::*;

/// An org of a test.
#[derive(Debug)]
struct Named<K> {
    name: K,
    pace: Cell<Pace>,
}

impl<K: Ord> Paced for Named<K> {
    fn pace(&self) -> &Cell<Pace> {
        &self.pace
    }
}

impl<K: Ord> Ord for Named<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

impl<K: Ord> PartialOrd for Named<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> PartialEq for Named<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord> Eq for Named<K> {}

/// The passes of orgs that are called by their names.
struct OfNames<K> {
    passes: Passes<Named<K>>,
    orgs: BTreeMap<K, Rc<Named<K>>>,
}

impl<K: Ord + Copy> OfNames<K> {
    fn new(pacing: Pacing) -> Self {
        Self { passes: Passes::new(pacing), orgs: BTreeMap::new() }
    }

    fn org(&mut self, name: K) -> Rc<Named<K>> {
        let new = || Rc::new(Named { name, pace: Cell::default() });
        self.orgs.entry(name).or_insert_with(new).clone()
    }

    fn handle_news(&mut self, now: Duration, name: K) {
        let org = self.org(name);
        self.passes.handle_news(now, &org);
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.passes.poll_timeout()
    }

    fn poll_pass(&mut self, now: Duration) -> Option<K> {
        self.passes.poll_pass(now).map(|org| org.name)
    }

    fn handle_slice(&mut self, now: Duration, name: K, cost: Duration, is_done: bool) {
        let org = self.org(name);
        self.passes.handle_slice(now, org, cost, is_done);
    }

    fn handle_cost(&mut self, now: Duration, name: &K, cost: Duration) {
        let org = self.org(*name);
        self.passes.handle_cost(now, &org, cost);
    }
}

const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn passes(mode: Mode) -> OfNames<&'static str> {
    OfNames::new(Pacing { mode, ..Pacing::default() })
}

/// Serves one whole pass that costs `cost`; returns its org.
fn serve(passes: &mut OfNames<&'static str>, now: Duration, cost: Duration) -> Option<&'static str> {
    let org = passes.poll_pass(now)?;
    passes.handle_slice(now + cost, org, cost, true);
    Some(org)
}

#[test]
fn r15_a_quiet_org_is_served_at_once_and_then_waits_as_long_as_its_round_took() {
    let mut passes = passes(Mode::Paced);
    passes.handle_news(us(0), "a");
    assert_eq!(serve(&mut passes, us(0), us(4000)), Some("a"));
    passes.handle_news(us(4100), "a");
    assert_eq!(passes.poll_pass(us(4100)), None);
    assert_eq!(passes.poll_timeout(), Some(us(8000)));
    // More news on the way changes nothing.
    passes.handle_news(us(5000), "a");
    assert_eq!(serve(&mut passes, us(8000), us(10)), Some("a"));
    assert_eq!(passes.poll_timeout(), None);
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
    let mut passes = passes(Mode::Paced);
    passes.handle_news(us(0), "a");
    serve(&mut passes, us(0), us(400_000));
    passes.handle_news(us(400_000), "a");
    assert_eq!(passes.poll_timeout(), Some(us(450_000)));
}

#[test]
fn fixed_waits_the_whole_window_after_the_first_event_and_immediate_not_at_all() {
    let mut fixed = passes(Mode::Fixed);
    fixed.handle_news(us(1000), "a");
    fixed.handle_news(us(30_000), "a");
    assert_eq!((fixed.poll_pass(us(30_000)), fixed.poll_timeout()), (None, Some(us(51_000))));
    assert_eq!(serve(&mut fixed, us(51_000), us(4000)), Some("a"));
    let mut immediate = passes(Mode::Immediate);
    for now in [us(0), us(4000)] {
        immediate.handle_news(now, "a");
        assert_eq!(serve(&mut immediate, now, us(4000)), Some("a"));
    }
}

#[test]
fn r15_the_wait_counts_from_the_end_of_the_round_and_all_its_slices() {
    let mut passes = passes(Mode::Paced);
    passes.handle_news(us(0), "a");
    // Three slices of a millisecond, with another's time in between.
    for (now, is_done) in [(1000, false), (5000, false), (9000, true)] {
        assert_eq!(passes.poll_pass(us(now - 1000)), Some("a"));
        passes.handle_slice(us(now), "a", us(1000), is_done);
    }
    passes.handle_news(us(9100), "a");
    assert_eq!((passes.poll_pass(us(9100)), passes.poll_timeout()), (None, Some(us(12_000))));
}

#[test]
fn r15_a_long_round_gives_way_after_each_slice() {
    let mut passes = passes(Mode::Paced);
    passes.handle_news(us(0), "big");
    assert_eq!(passes.poll_pass(us(0)), Some("big"));
    passes.handle_news(us(500), "small");
    passes.handle_slice(us(1000), "big", SLICE, false);
    assert_eq!(serve(&mut passes, us(1000), us(20)), Some("small"));
    assert_eq!(passes.poll_pass(us(1020)), Some("big"));
}

#[test]
fn r15_a_small_org_waits_for_no_queue_of_big_ones_and_a_crowd_of_small_ones_holds_up_none() {
    let mut passes: OfNames<u32> = OfNames::new(Pacing { mode: Mode::Immediate, ..Pacing::default() });
    let (big, small) = (0..10, 100..200);
    let serve = |passes: &mut OfNames<u32>, cost| {
        let org = passes.poll_pass(us(0)).expect("due");
        passes.handle_slice(us(0), org, cost, true);
        org
    };
    // Nobody is known as big before its first pass.
    big.clone().for_each(|org| passes.handle_news(us(0), org));
    big.clone().for_each(|org| assert_eq!(serve(&mut passes, SLICE), org));
    big.clone().for_each(|org| passes.handle_news(us(0), org));
    passes.handle_news(us(0), 100);
    assert_eq!(serve(&mut passes, us(20)), 100);
    small.clone().for_each(|org| passes.handle_news(us(0), org));
    let turns: Vec<u32> = (0..110).map(|_| serve(&mut passes, us(20))).collect();
    let of_big: Vec<usize> = (0..).zip(&turns).filter(|(_, org)| **org < 10).map(|(at, _)| at).collect();
    assert_eq!(of_big.len(), 10, "all are served");
    assert!(of_big[0] <= 16 && of_big.windows(2).all(|two| two[1] - two[0] <= 17), "{of_big:?}");
    assert_eq!(turns.iter().filter(|org| **org >= 100).count(), 100);
}

#[test]
fn r15_a_burst_on_a_quiet_org_goes_as_one_round() {
    let mut passes = passes(Mode::Paced);
    (0..100).for_each(|at| passes.handle_news(us(at), "a"));
    assert_eq!(serve(&mut passes, us(100), us(4000)), Some("a"));
    assert_eq!((passes.poll_pass(us(4100)), passes.poll_timeout()), (None, None));
}

#[test]
fn r15_what_catching_up_costs_takes_from_the_same_share() {
    let wait_beside = |catching_up| {
        let mut passes = passes(Mode::Paced);
        let mut now = Duration::ZERO;
        for _ in 0..200 {
            passes.handle_news(now, "a");
            now = passes.poll_timeout().unwrap_or_default().max(now);
            assert_eq!(serve(&mut passes, now, us(1000)), Some("a"));
            now += us(1000);
            passes.handle_cost(now, &"b", catching_up);
            now += catching_up;
        }
        let ended = now - catching_up;
        passes.handle_news(now, "a");
        passes.poll_timeout().unwrap_or_default().max(now) - ended
    };
    assert!(wait_beside(us(0)) < us(1600), "{:?}", wait_beside(us(0)));
    let wait = wait_beside(us(5000));
    assert!(wait > us(5500), "another org's passes wait the longer: {wait:?}");
}

#[test]
fn news_that_comes_while_a_round_is_under_way_gets_a_round_of_its_own() {
    let mut passes = passes(Mode::Paced);
    passes.handle_news(us(0), "a");
    // Not begun: it goes along.
    passes.handle_news(us(10), "a");
    assert_eq!(passes.poll_pass(us(20)), Some("a"));
    passes.handle_news(us(500), "a");
    passes.handle_slice(us(1020), "a", us(1000), false);
    assert_eq!(passes.poll_pass(us(1020)), Some("a"));
    passes.handle_slice(us(2020), "a", us(1000), true);
    assert_eq!((passes.poll_pass(us(2020)), passes.poll_timeout()), (None, Some(us(4020))));
}

/// What a worker does with `orgs`, each with so many readers and events a second, for a while.
struct Model {
    /// The worker's share of time in passes, in the second half.
    load: f64,
    /// Per org, the median and greatest wait of an event until its pass begins, in the second half.
    waits: Vec<(Duration, Duration)>,
    /// The shortest and longest time between two passes of the first org, in the last quarter.
    periods: (Duration, Duration),
}

/// A pass costs 4 us a reader, whatever it carries.
fn model(orgs: &[(u64, u64)], pacing: Pacing, length: Duration) -> Model {
    let mut passes: OfNames<usize> = OfNames::new(pacing);
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
                passes.handle_news(now, org);
            }
        }
        let Some(org) = passes.poll_pass(now) else {
            let coming = next.iter().min().copied().expect("some");
            now = passes.poll_timeout().map_or(coming, |due| due.min(coming)).max(now + us(1));
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
        passes.handle_slice(now, org, slice, left[org].is_none());
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
    let mut passes = OfNames::new(Pacing::default());
    for org in 0..1000_u64 {
        passes.handle_news(us(org), org);
        let served = passes.poll_pass(us(org)).expect("due");
        passes.handle_slice(us(org), served, us(1), true);
    }
    passes.handle_cost(Duration::from_secs(1), &0, us(1));
    let now = Duration::from_secs(1);
    for org in passes.orgs.values() {
        assert_eq!(Rc::strong_count(org), 1, "no queue holds it");
        assert!(passes.passes.is_rested(now, org));
        assert_eq!(passes.passes.pace(org).state, State::Rested, "nothing is known of it");
    }
}

#[test]
fn r15_what_its_readers_that_catch_up_cost_makes_an_org_wait_and_no_other() {
    let mut passes = passes(Mode::Paced);
    for org in ["a", "b"] {
        passes.handle_news(us(0), org);
        assert_eq!(serve(&mut passes, us(0), us(1000)), Some(org));
    }
    passes.handle_cost(us(1500), &"a", us(3000));
    for (now, org) in [(2000, "a"), (2000, "b")] {
        passes.handle_news(us(now), org);
        assert_eq!(serve(&mut passes, us(now), us(1000)), Some(org));
    }
    ["a", "b"].into_iter().for_each(|org| passes.handle_news(us(3500), org));
    assert_eq!(serve(&mut passes, us(4000), us(1000)), Some("b"), "as long as its pass took");
    assert_eq!(passes.poll_timeout(), Some(us(7000)), "its pass and what came before it");
    // A whole storm makes it wait no longer than the window.
    passes.handle_cost(us(5000), &"a", Duration::from_secs(5));
    assert_eq!(serve(&mut passes, us(7000), us(1000)), Some("a"));
    passes.handle_news(us(8000), "a");
    assert_eq!(passes.poll_timeout(), Some(us(58_000)));
}

#[test]
fn p5_a_pass_that_is_held_goes_on_at_its_time_and_others_do_not_wait() {
    let mut orgs = OfNames::new(Pacing::default());
    let org = orgs.org("held");
    orgs.handle_news(us(0), "held");
    assert_eq!(orgs.poll_pass(us(0)), Some("held"));
    orgs.handle_slice(us(1000), "held", us(1000), false);
    // The rest of its pass is held, and so is the same pass again.
    for until in [us(50_000), us(90_000)] {
        assert_eq!(orgs.poll_pass(until - us(40_000)), Some("held"));
        orgs.passes.handle_hold(org.clone(), until);
        assert_eq!(orgs.poll_timeout(), Some(until));
        assert_eq!(orgs.poll_pass(until - us(30_000)), None);
        orgs.handle_news(until - us(30_000), "other");
        orgs.handle_news(until - us(30_000), "held");
        assert_eq!(orgs.poll_pass(until - us(20_000)), Some("other"));
        orgs.handle_slice(until - us(20_000), "other", us(10), true);
        assert!(!orgs.passes.is_rested(until, &org), "it is not forgotten");
    }
    assert_eq!(orgs.poll_pass(us(90_000)), Some("held"));
    orgs.handle_slice(us(91_000), "held", us(1000), true);
    // What came while it was held gets a pass of its own.
    assert_eq!(orgs.poll_pass(us(500_000)), Some("held"));
    orgs.handle_slice(us(500_000), "held", us(10), true);
    assert_eq!(orgs.poll_timeout(), None);
}

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LATE: Duration = Duration::from_millis(1500);

/// Draws of no jitter and of the most.
const NONE: u64 = 0;
const MOST: u64 = u64::MAX;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A breaker that opened at `now`, after five failures.
fn opened(now: Duration) -> Breaker {
    let mut breaker = Breaker::new(LATE);
    fail(&mut breaker, now, 5);
    breaker
}

fn fail(breaker: &mut Breaker, now: Duration, times: u32) {
    for _ in 0..times {
        let call = breaker.handle_call(now, NONE).expect("it goes through");
        breaker.handle_failure(now, call, NONE);
    }
}

fn succeed(breaker: &mut Breaker, now: Duration) {
    let call = breaker.handle_call(now, NONE).expect("it goes through");
    breaker.handle_success(now, call);
}

fn refused(breaker: &mut Breaker, now: Duration) -> Duration {
    breaker.handle_call(now, NONE).expect_err("it is refused").retry_in
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_in_between_does_not_count() {
    let mut breaker = Breaker::new(LATE);
    for _ in 0..3 {
        fail(&mut breaker, ms(0), 4);
        succeed(&mut breaker, ms(0));
    }
    fail(&mut breaker, ms(100), 4);
    assert_eq!(breaker.phase(ms(100)), Phase::Closed);
    fail(&mut breaker, ms(100), 1);
    assert_eq!(breaker.phase(ms(100)), Phase::Open);
    assert_eq!(refused(&mut breaker, ms(100)), ms(1000));
    assert_eq!(refused(&mut breaker, ms(1099)), ms(1), "the time until the next try is told");
}

#[test]
fn half_of_twenty_calls_within_ten_seconds_open_it() {
    let mut breaker = Breaker::new(LATE);
    let mut mixed = |at: Duration, pairs: u32| {
        for _ in 0..pairs {
            succeed(&mut breaker, at);
            fail(&mut breaker, at, 1);
        }
        breaker.phase(at)
    };
    assert_eq!(mixed(ms(900), 9), Phase::Closed);
    assert_eq!(mixed(ms(11_000), 9), Phase::Closed, "the first ones are too old");
    assert_eq!(mixed(ms(20_900), 1), Phase::Open, "they are not");
}

#[test]
fn many_successes_outweigh_failures() {
    let mut breaker = Breaker::new(LATE);
    for second in 0..100 {
        for _ in 0..4 {
            succeed(&mut breaker, ms(second * 1000));
            succeed(&mut breaker, ms(second * 1000));
            fail(&mut breaker, ms(second * 1000), 1);
        }
    }
    assert_eq!(breaker.phase(ms(100_000)), Phase::Closed);
}

#[test]
fn one_probe_at_a_time_goes_through_and_its_success_closes() {
    let mut breaker = opened(ms(0));
    assert_eq!(breaker.phase(ms(1000)), Phase::HalfOpen);
    let probe = breaker.handle_call(ms(1000), NONE).expect("the probe");
    assert_eq!(refused(&mut breaker, ms(1001)), LATE - ms(1));
    breaker.handle_success(ms(1002), probe);
    assert_eq!(breaker.phase(ms(1002)), Phase::Closed);
    succeed(&mut breaker, ms(1002));
}

#[test]
fn pauses_double_to_thirty_seconds_and_are_a_fifth_shorter_at_most() {
    let mut breaker = opened(ms(0));
    let mut now = ms(0);
    for longest in [1, 2, 4, 8, 16, 30, 30] {
        let pause = breaker.poll_timeout(now).expect("it is open") - now;
        assert_eq!(pause, ms(longest * 1000));
        now += pause;
        let probe = breaker.handle_call(now, NONE).expect("the probe");
        breaker.handle_failure(now, probe, NONE);
    }
    now = breaker.poll_timeout(now).expect("it is open");
    let probe = breaker.handle_call(now, NONE).expect("the probe");
    breaker.handle_failure(now, probe, MOST);
    let pause = breaker.poll_timeout(now).expect("it is open") - now;
    assert!((ms(23_999)..=ms(24_001)).contains(&pause), "{pause:?}");
}

#[test]
fn a_breaker_that_opens_often_keeps_its_pause_and_thirty_calm_seconds_halve_it() {
    let mut breaker = opened(ms(0));
    succeed(&mut breaker, ms(1000));
    fail(&mut breaker, ms(30_999), 5);
    assert_eq!(refused(&mut breaker, ms(30_999)), ms(2000));
    succeed(&mut breaker, ms(32_999));
    fail(&mut breaker, ms(62_999), 5);
    assert_eq!(refused(&mut breaker, ms(62_999)), ms(2000), "it was calm for 30 s");
    succeed(&mut breaker, ms(65_000));
    fail(&mut breaker, ms(200_000), 5);
    assert_eq!(refused(&mut breaker, ms(200_000)), ms(1000));
}

#[test]
fn what_began_before_an_opening_or_a_closing_counts_no_more() {
    let mut breaker = Breaker::new(LATE);
    let begin = |breaker: &mut Breaker| breaker.handle_call(ms(0), NONE).expect("it goes through");
    let (early, failing) = (begin(&mut breaker), [(); 5].map(|()| begin(&mut breaker)));
    fail(&mut breaker, ms(0), 5);
    breaker.handle_success(ms(500), early);
    assert_eq!(breaker.phase(ms(500)), Phase::Open, "a success of before does not close it");
    succeed(&mut breaker, ms(1000));
    for call in failing {
        breaker.handle_failure(ms(1001), call, NONE);
    }
    assert_eq!(breaker.phase(ms(1001)), Phase::Closed, "failures of before do not open it");
}

#[test]
fn calls_that_hang_open_it_once_they_are_late_and_count_once() {
    let mut breaker = Breaker::new(LATE);
    let mut calls = [(); 4].map(|()| breaker.handle_call(ms(0), NONE).expect("it goes through"));
    assert!(calls.iter().all(|call| call.late_at() == LATE));
    for call in &mut calls {
        breaker.handle_late(LATE, call, NONE);
    }
    for call in calls {
        breaker.handle_failure(ms(5000), call, NONE);
    }
    assert_eq!(breaker.phase(ms(5000)), Phase::Closed, "four have failed");
    let mut fifth = breaker.handle_call(ms(5000), NONE).expect("it goes through");
    breaker.handle_late(ms(6500), &mut fifth, NONE);
    assert_eq!(breaker.phase(ms(6500)), Phase::Open);
}

#[test]
fn a_slow_peer_that_answers_one_caller_at_a_time_does_not_open_it_soon() {
    let mut breaker = Breaker::new(LATE);
    for second in 0..60 {
        let mut call = breaker.handle_call(ms(second * 2000), NONE).expect("it goes through");
        breaker.handle_late(ms(second * 2000) + LATE, &mut call, NONE);
        breaker.handle_success(ms(second * 2000 + 1900), call);
    }
    assert_eq!(breaker.phase(ms(120_000)), Phase::Closed);
}

#[test]
fn a_probe_without_an_outcome_makes_room_for_the_next_and_closes_it_if_it_succeeds_after_all() {
    let mut breaker = opened(ms(0));
    let probe = breaker.handle_call(ms(1000), NONE).expect("the probe");
    // It counts as failed since it was late, also if nobody looked then.
    assert_eq!(refused(&mut breaker, ms(3000)), ms(1500), "2 s since 2.5 s");
    let next = breaker.handle_call(ms(4500), NONE).expect("the next probe");
    breaker.handle_success(ms(4600), probe);
    assert_eq!(breaker.phase(ms(4600)), Phase::Closed);
    breaker.handle_failure(ms(4700), next, NONE);
    assert_eq!(breaker.phase(ms(4700)), Phase::Closed);

    let mut breaker = opened(ms(0));
    let lost = breaker.handle_call(ms(1000), NONE).expect("the probe");
    let next = breaker.handle_call(ms(4500), NONE).expect("the next probe");
    breaker.handle_failure(ms(4600), lost, NONE);
    assert_eq!(breaker.phase(ms(4600)), Phase::HalfOpen, "it was given up");
    breaker.handle_success(ms(4700), next);
    assert_eq!(breaker.phase(ms(4700)), Phase::Closed);
}

#[test]
fn a_probe_whose_caller_has_gone_makes_room_for_the_next() {
    let mut breaker = opened(ms(0));
    let probe = breaker.handle_call(ms(1000), NONE).expect("the probe");
    breaker.handle_given_up(ms(1100), probe);
    succeed(&mut breaker, ms(1100));
    assert_eq!(breaker.phase(ms(1100)), Phase::Closed);
    let call = breaker.handle_call(ms(1100), NONE).expect("it goes through");
    breaker.handle_given_up(ms(1200), call);
    assert_eq!(breaker.phase(ms(1200)), Phase::Closed);
}

#[test]
fn a_sign_of_life_brings_the_probe_forward_and_closes_nothing() {
    let mut breaker = opened(ms(0));
    let mut now = ms(0);
    for _ in 0..5 {
        now = breaker.poll_timeout(now).expect("it is open");
        let probe = breaker.handle_call(now, NONE).expect("the probe");
        breaker.handle_failure(now, probe, NONE);
    }
    assert_eq!(refused(&mut breaker, now), ms(30_000));
    breaker.handle_sign_of_life(now, MOST);
    assert_eq!(breaker.phase(now), Phase::Open);
    assert!(refused(&mut breaker, now) <= ms(1000));
    let hangs = breaker.handle_call(now + ms(1000), NONE).expect("the probe");
    breaker.handle_sign_of_life(now + ms(1100), NONE);
    succeed(&mut breaker, now + ms(1100));
    assert_eq!(breaker.phase(now + ms(1100)), Phase::Closed);
    breaker.handle_sign_of_life(now + ms(1100), NONE);
    breaker.handle_failure(now + ms(1200), hangs, NONE);
    assert_eq!(breaker.phase(now + ms(1200)), Phase::Closed);
}

#[test]
fn it_closes_if_nobody_calls() {
    let mut breaker = opened(ms(0));
    assert_eq!(breaker.poll_timeout(ms(0)), Some(ms(1000)));
    breaker.handle_timeout(ms(1000), NONE);
    assert_eq!(breaker.poll_timeout(ms(1000)), Some(ms(11_000)));
    assert_eq!(breaker.phase(ms(10_999)), Phase::HalfOpen);
    breaker.handle_timeout(ms(11_000), NONE);
    assert_eq!((breaker.phase(ms(11_000)), breaker.poll_timeout(ms(11_000))), (Phase::Closed, None));
    fail(&mut breaker, ms(11_000), 5);
    assert_eq!(refused(&mut breaker, ms(11_000)), ms(2000), "it has not been shown to work");
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, size: u64) -> u64 {
        self.next() % size
    }
}

/// How calls end while the peer is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// They fail at once.
    Fails,
    /// They hang until the peer is back, or for so many milliseconds at most; then they fail. An engine over a
    /// broker tries an append again so long.
    Hangs(u64),
    /// Their callers never learn how they ended.
    Silent,
}

/// A peer that is away for some time, called by several callers over and over.
#[derive(Debug)]
struct Outage {
    begins: u64,
    ends: u64,
    away: Away,
    /// Whether the breaker is told when the peer is back.
    has_sign: bool,
    /// How many callers there are, and how long each waits between two calls, in milliseconds.
    callers: u64,
    between: u64,
    seed: u64,
}

/// What a run of [`Outage`] has shown. Times in milliseconds.
#[derive(Debug, Default)]
struct Seen {
    /// How long the breaker was not closed.
    open: u64,
    opened: Vec<u64>,
    closed: Vec<u64>,
    /// The longest time that a refused caller was told to wait.
    longest_wait: u64,
    /// How many calls went through while the peer was away.
    through: u64,
}

enum Happens {
    Begin,
    Late(u64),
    End(u64, bool),
    Sign,
}

impl Outage {
    fn run(&self) -> Seen {
        let mut random = Random(self.seed);
        let mut breaker = Breaker::new(LATE);
        let mut seen = Seen::default();
        let mut events: BTreeMap<(u64, u64), Happens> = BTreeMap::new();
        let mut calls: BTreeMap<u64, Call> = BTreeMap::new();
        let mut order = 0;
        let mut at = |events: &mut BTreeMap<_, _>, time, happens| {
            order += 1;
            events.insert((time, order), happens);
        };
        for caller in 0..self.callers {
            at(&mut events, caller, Happens::Begin);
        }
        if self.has_sign {
            at(&mut events, self.ends, Happens::Sign);
        }
        let (end, mut probe, mut was_closed, mut number) = (self.ends + 60_000, None, true, 0);
        let mut before = 0;
        while let Some(((time, _), happens)) = events.pop_first() {
            if time > end {
                break;
            }
            let now = ms(time);
            seen.open += if was_closed { 0 } else { time - before };
            before = time;
            breaker.handle_timeout(now, random.next());
            match happens {
                Happens::Sign => {
                    breaker.handle_sign_of_life(now, random.next());
                    probe = None;
                }
                Happens::Begin => {
                    let between = self.between / 2 + random.below(self.between) + 1;
                    at(&mut events, time + between, Happens::Begin);
                    let phase = breaker.phase(now);
                    match breaker.handle_call(now, random.next()) {
                        Err(Refused { retry_in }) => {
                            assert!(phase != Phase::Closed && !retry_in.is_zero());
                            seen.longest_wait = seen.longest_wait.max(millis(retry_in));
                        }
                        Ok(call) => {
                            assert_ne!(phase, Phase::Open);
                            number += 1;
                            if phase == Phase::HalfOpen {
                                let other = probe.replace((number, time + millis(LATE)));
                                let is_alone =
                                    other.is_none_or(|(of, late)| late <= time || !calls.contains_key(&of));
                                assert!(is_alone, "two probes at once");
                            }
                            let is_away = (self.begins..self.ends).contains(&time);
                            seen.through += u64::from(is_away);
                            let takes = 1 + random.below(50);
                            match self.away {
                                Away::Fails if is_away => {
                                    at(&mut events, time + takes, Happens::End(number, false))
                                }
                                Away::Hangs(longest) if is_away => {
                                    let (back, gives_up) =
                                        (self.ends + takes + random.below(500), time + longest);
                                    let ends = (back.min(gives_up), back <= gives_up);
                                    at(&mut events, ends.0, Happens::End(number, ends.1));
                                }
                                Away::Silent if is_away => {}
                                _ => at(&mut events, time + takes, Happens::End(number, true)),
                            }
                            at(&mut events, time + millis(LATE), Happens::Late(number));
                            calls.insert(number, call);
                        }
                    }
                }
                Happens::Late(number) => {
                    if let Some(call) = calls.get_mut(&number) {
                        breaker.handle_late(now, call, random.next());
                    }
                }
                Happens::End(number, is_success) => {
                    let call = calls.remove(&number).expect("it goes on");
                    match is_success {
                        true => breaker.handle_success(now, call),
                        false => breaker.handle_failure(now, call, random.next()),
                    }
                }
            }
            let is_closed = breaker.phase(now) == Phase::Closed;
            match (was_closed, is_closed) {
                (true, false) => seen.opened.push(time),
                (false, true) => seen.closed.push(time),
                _ => {}
            }
            was_closed = is_closed;
        }
        seen
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("short")
}

fn outages() -> impl Strategy<Value = Outage> {
    let away = prop_oneof![Just(Away::Fails), (500..20_000u64).prop_map(Away::Hangs), Just(Away::Silent),];
    let times = (0..30_000u64, 0..100_000u64);
    (times, away, any::<bool>(), 1..20u64, 50..2000u64, any::<u64>()).prop_map(
        |((begins, lasts), away, has_sign, callers, between, seed)| Outage {
            begins,
            ends: begins + lasts,
            away,
            has_sign,
            callers,
            between,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn p8_an_outage_opens_it_and_its_end_closes_it(outage in outages()) {
        let seen = outage.run();
        // Without an outage it is closed throughout.
        for opened in &seen.opened {
            prop_assert!((outage.begins..outage.ends + millis(LATE)).contains(opened), "{seen:?}");
        }
        prop_assert!(seen.longest_wait <= 30_000, "{seen:?}");
        prop_assert_eq!(seen.opened.len(), seen.closed.len(), "it is closed in the end");
        // Five callers or more: each needs one failed call, and a hanging one is late after a while.
        let opens_within = 2 * outage.between + millis(LATE) + 100;
        if outage.ends - outage.begins > opens_within && outage.callers > 4 {
            prop_assert!(seen.opened.first().is_some_and(|at| *at < outage.begins + opens_within), "{seen:?}");
        }
        if let Some(closed) = seen.closed.last() {
            // The last probe may have begun just before the end, and be late.
            let pause = if outage.has_sign { 1000 } else { 30_000 };
            let latest = outage.ends + millis(LATE) + pause + 2 * outage.between + 100;
            prop_assert!(*closed <= latest, "{seen:?}");
        }
    }

    /// The leader of a stream of three replicas is killed: nothing is stored for 4.3 to 7.4 s (measured), and the engine
    /// tries each append again for a few seconds.
    #[test]
    fn p8_the_death_of_a_leader_does_not_keep_it_open_for_longer_than_it_lasts(
        lasts in 4300..7400u64,
        tries in 4000..9000u64,
        callers in 5..40u64,
        between in 20..300u64,
        has_sign: bool,
        seed: u64,
    ) {
        let (begins, away) = (20_000, Away::Hangs(tries));
        let outage = Outage { begins, ends: begins + lasts, away, has_sign, callers, between, seed };
        let seen = outage.run();
        prop_assert!(seen.opened.first().is_some_and(|at| *at <= begins + 2 * millis(LATE)), "{seen:?}");
        prop_assert!(seen.open <= lasts, "{seen:?}");
        prop_assert!(seen.closed.last().is_some_and(|at| *at <= begins + 10_000), "{seen:?}");
    }

    /// Each call fails by chance, and the peer never gets better.
    #[test]
    fn p8_it_does_not_flap(percent in 10..100u64, calls_per_second in 1..200u64, seed: u64) {
        let (mut random, mut breaker) = (Random(seed), Breaker::new(LATE));
        let (mut changes, mut was) = (0, Phase::Closed);
        for call in 0..300 * calls_per_second {
            let now = ms(call * 1000 / calls_per_second);
            if let Ok(call) = breaker.handle_call(now, random.next()) {
                match random.below(100) < percent {
                    true => breaker.handle_failure(now, call, random.next()),
                    false => breaker.handle_success(now, call),
                }
            }
            let is = breaker.phase(now);
            changes += u32::from((was == Phase::Closed) != (is == Phase::Closed));
            was = is;
        }
        // Five times with growing pauses, then each 24 s at most (30 s less a fifth).
        prop_assert!(changes <= 2 * (5 + 300 / 24), "{changes}");
    }
}

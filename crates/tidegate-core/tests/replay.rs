//! Scripts for what a worker does next: fan-out passes, and turns of readers that catch up.
//!
//! `check("wait a1 a2 b1 | turn 500 | turn 500", "a1 b1")`: steps on the left, what the worker did on the
//! right. Readers are named after their org; `turn N` does what is due, one reader in a turn, which costs
//! N microseconds; `news a` is a live event of the org.

use std::{cell::Cell, cmp::Ordering, collections::BTreeMap, rc::Rc, time::Duration};

use tidegate_core::{
    pace::{Mode, Pace, Paced, Pacing, Passes},
    replay::{SLICE, Turns, Work},
};

/// An org of a test. The same name is the same org.
#[derive(Debug)]
struct Org<K> {
    name: K,
    pace: Cell<Pace>,
}

fn org<K>(name: K) -> Rc<Org<K>> {
    Rc::new(Org { name, pace: Cell::default() })
}

impl<K: Ord> Paced for Org<K> {
    fn pace(&self) -> &Cell<Pace> {
        &self.pace
    }
}

impl<K: Ord> Ord for Org<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl<K: Ord> PartialOrd for Org<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> PartialEq for Org<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord> Eq for Org<K> {}

struct Worker {
    orgs: BTreeMap<String, Rc<Org<String>>>,
    turns: Turns<Org<String>, String>,
    passes: Passes<Org<String>>,
    now: Duration,
}

impl Worker {
    fn new() -> Self {
        // Every pass is due at once: what goes first is the question here, not when.
        let pacing = Pacing { mode: Mode::Immediate, ..Pacing::default() };
        let (turns, passes) = (Turns::default(), Passes::new(pacing));
        Self { orgs: BTreeMap::new(), turns, passes, now: Duration::ZERO }
    }

    fn org(&mut self, name: &str) -> Rc<Org<String>> {
        self.orgs.entry(name.to_owned()).or_insert_with(|| org(name.to_owned())).clone()
    }

    fn news(&mut self, name: &str) {
        let org = self.org(name);
        self.passes.handle_news(self.now, &org);
    }

    /// Does what is due: one reader in a turn, which costs `cost`.
    fn turn(&mut self, cost: Duration) -> String {
        match self.turns.poll_work(self.now, &mut self.passes) {
            None => "idle".to_owned(),
            Some(Work::Pass(org)) => {
                self.now += cost;
                self.passes.handle_slice(self.now, org.clone(), cost, true);
                format!("pass {}", org.name)
            }
            Some(Work::Replay(org)) => {
                self.now += cost;
                let reader = self.turns.next_reader(&org).unwrap_or_else(|| "nobody".to_owned());
                self.turns.handle_turn(org, cost);
                reader
            }
        }
    }
}

fn check(script: &str, expected: &str) {
    let mut worker = Worker::new();
    let mut said = Vec::new();
    for step in script.split(" | ") {
        let (verb, words) = step.split_once(' ').expect("a verb and words");
        for word in words.split(' ') {
            let org = worker.org(&word[..1]);
            match verb {
                "wait" => worker.turns.handle_waiting(&org, word.to_owned()),
                "first" => worker.turns.handle_first(&org, word.to_owned()),
                "news" => worker.news(&org.name),
                "turn" => said.push(worker.turn(Duration::from_micros(word.parse().expect("microseconds")))),
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!(said.join(" "), expected, "{script}");
}

#[test]
fn readers_of_one_org_are_served_in_the_order_in_which_they_came() {
    check("wait a1 a2 a3 | turn 500 500 | wait a1 | turn 500 500 500", "a1 a2 a3 a1 idle");
}

#[test]
fn orgs_take_turns_however_many_wait_for_one_of_them() {
    check("wait a1 a2 a3 a4 a5 b1 c1 | turn 500 500 500 500 500", "a1 b1 c1 a2 a3");
    check("wait a1 a2 a3 | turn 500 | wait b1 | turn 500 500", "a1 a2 b1");
}

#[test]
fn who_was_live_a_moment_ago_goes_before_those_of_its_org_that_come_back() {
    check("wait a1 a2 b1 | first a3 | turn 500 500 500 500", "a3 b1 a1 a2");
}

#[test]
fn a_turn_that_took_too_long_is_made_up_for() {
    // Three slices: the other org has three turns to the next one of this.
    check("wait a1 a2 b1 b2 b3 b4 | turn 1500 500 500 500 500 500", "a1 b1 b2 b3 a2 b4");
    // Nobody else is there to make up for it to.
    check("wait a1 a2 a3 | turn 1500 1500 1500", "a1 a2 a3");
}

#[test]
fn live_goes_before_replay() {
    check("wait a1 b1 | news a | turn 500 500 | news b c | turn 500 500 500", "pass a a1 pass b pass c b1");
}

#[test]
fn rounds_that_take_all_of_the_time_leave_replay_a_share() {
    let mut worker = Worker::new();
    let storm = worker.org("a");
    (0..10).for_each(|reader| worker.turns.handle_waiting(&storm, format!("a{reader}")));
    let did: Vec<String> = (0..90)
        .map(|_| {
            worker.news("b");
            worker.turn(Duration::from_millis(1))
        })
        .collect();
    let replays = did.iter().filter(|did| did.starts_with('a')).count();
    assert_eq!(replays, 10, "one slice in nine: {did:?}");
}

/// A storm of one org beside single readers of others, each of which needs some turns: how long the others
/// wait does not depend on how many there are in the storm.
#[test]
fn p5_a_storm_of_one_org_starves_no_other() {
    let longest_wait = |storm: usize| {
        let mut turns: Turns<Org<u32>, (u32, usize)> = Turns::default();
        let mut passes: Passes<Org<u32>> = Passes::new(Pacing::default());
        (0..storm).for_each(|_| turns.handle_waiting(&org(0), (0, 4)));
        (1..=5).for_each(|name| turns.handle_waiting(&org(name), (name, 4)));
        let (mut now, mut done) = (Duration::ZERO, BTreeMap::<u32, Duration>::new());
        while let Some(work) = turns.poll_work(now, &mut passes) {
            let Work::Replay(org) = work else { panic!("no passes") };
            let mut took = Duration::ZERO;
            while took < SLICE {
                let Some((of, left)) = turns.next_reader(&org) else { break };
                // Some turns are too long: pages that are compressed.
                took += Duration::from_micros(if left == 4 { 900 } else { 30 });
                match left {
                    1 => drop(done.insert(of, now + took)),
                    left => turns.handle_waiting(&org, (of, left - 1)),
                }
            }
            now += took;
            turns.handle_turn(org, took);
        }
        assert_eq!(done.len(), 6, "all were served");
        (1..=5).map(|org| done[&org]).max().expect("some")
    };
    let (small, large) = (longest_wait(10), longest_wait(10_000));
    assert!(large <= small + SLICE * 4, "{small:?} {large:?}");
    assert!(large < Duration::from_millis(20), "{large:?}");
}

#[test]
fn p5_an_org_that_is_held_gets_no_turn_before_its_time_and_others_do() {
    let mut worker = Worker::new();
    let (held, other) = (worker.org("a"), worker.org("b"));
    for reader in ["a1", "a2"] {
        worker.turns.handle_waiting(&held, reader.to_owned());
    }
    let until = Duration::from_millis(20);
    assert_eq!(worker.turns.poll_work(worker.now, &mut worker.passes), Some(Work::Replay(held.clone())));
    let waiting: Vec<String> =
        worker.turns.handle_hold(held.clone(), until).map(|reader| reader.clone()).collect();
    assert_eq!(waiting, ["a1", "a2"]);
    assert!(worker.turns.is_held(&held) && !worker.turns.is_held(&other));
    // Who comes meanwhile waits with the others.
    worker.turns.handle_waiting(&held, "a3".to_owned());
    assert_eq!(worker.turns.poll_timeout(), Some(until));
    assert_eq!(worker.turn(SLICE), "idle");
    worker.turns.handle_waiting(&other, "b1".to_owned());
    assert_eq!(worker.turns.poll_timeout(), Some(Duration::ZERO));
    assert_eq!((worker.turn(SLICE), worker.turn(SLICE)), ("b1".to_owned(), "idle".to_owned()));
    worker.now = until;
    let turns: Vec<String> = (0..4).map(|_| worker.turn(SLICE)).collect();
    assert_eq!(turns, ["a1", "a2", "a3", "idle"]);
    assert!(!worker.turns.is_held(&held));
}

//! Scripts for one reader's session, each rule with a test that bears its number.
//!
//! `check("seal a b | open a l0-0 | serve", "hello l0-0 resumed | event 0>1")`: steps on the left, the
//! frames that they make on the right. Services are letters; `b@u` is targeted at the user u; the
//! reader is always u. A cursor may carry the tag of a filter, `l0-3~a+b`; incarnations of the log are
//! l0, l1, ... in order.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidegate_core::{
    Ancestor, BatchLimits, Budget, Event, Framing, LogState, Next, Session, Tail,
    batch::Start,
    frame::Terms,
    opening::{self, From},
    session::{Coding, Greeting, Subscriber},
};
use tidegate_protocol::{Cursor, Epoch, Filter, OrgId, Seq, ServiceName, UserId};

const TERMS: Terms = Terms { dedup_window_ms: 1, ping_interval_ms: 1, sync: None };

struct Script {
    log: LogState,
    /// From one seq to the next.
    step: Seq,
    tail: Tail,
    kept: Vec<Arc<Event>>,
    session: Option<Session>,
    said: Vec<String>,
}

fn epoch(incarnation: usize) -> Epoch {
    Epoch::parse(&format!("l{incarnation}")).expect("an epoch")
}

fn filter(text: &str) -> Filter {
    if text == "*" {
        return Filter::all();
    }
    Filter::only(text.split('+').map(|name| ServiceName::parse(name).expect("a name")).collect())
}

/// The filters that scripts use, to name their tags.
const FILTERS: [&str; 7] = ["*", "a", "b", "c", "a+b", "b+c", "a+b+c"];

fn cursor(text: &str) -> Cursor {
    let (text, tag) = text.split_once('~').map_or((text, None), |(text, of)| (text, Some(filter(of))));
    let mut cursor: Cursor = text.parse().expect("a cursor");
    cursor.tag = tag.map(|filter| filter.tag().clone());
    cursor
}

/// A cursor as scripts write it.
fn shown(text: &str) -> String {
    let cursor: Cursor = text.parse().expect("a cursor");
    let tag = cursor.tag.expect("a tag");
    let name = FILTERS.into_iter().find(|name| *filter(name).tag() == tag).expect("a known tag");
    format!("{}-{}~{name}", cursor.epoch, cursor.seq)
}

impl Script {
    fn new() -> Self {
        let log = LogState { epoch: epoch(0), ancestors: vec![], born_empty: true, head: 0, floor: 0 };
        let tail = Tail::new(0, Arc::new(Budget::default()));
        Self { log, step: 1, tail, kept: Vec::new(), session: None, said: Vec::new() }
    }

    fn greeting(&self) -> Greeting<'static> {
        Greeting { connection_id: "c", head: self.log.head, token_expires_in_ms: 1, now: 1, terms: &TERMS }
    }

    fn seal(&mut self, words: &[&str]) {
        let prev = self.log.head;
        let step = self.step;
        let events: Vec<Arc<Event>> = (1..)
            .map(|n| prev + n * step)
            .zip(words)
            .map(|(seq, word)| {
                let (word, key) = word.split_once('#').map_or((*word, None), |(word, key)| (word, Some(key)));
                let (service, user) = word.split_once('@').map_or((word, None), |(s, u)| (s, Some(u)));
                let key = key.map_or(String::new(), |key| format!(",\"key\":\"{key}\""));
                Arc::new(Event {
                    seq,
                    timestamp: 1,
                    service: ServiceName::parse(service).expect("a name"),
                    users: user.map(|user| [UserId::parse(user).expect("a user")].into()),
                    fragment: Bytes::from(format!("\"seq\":{seq}{key}")),
                })
            })
            .collect();
        self.log.head += words.len() as Seq * step;
        self.kept.extend(events.iter().cloned());
        self.tail.push(prev, &events, 1, BatchLimits { events: 100, bytes: 64 << 10 });
        self.tail.seal(1);
    }

    fn open(&mut self, services: &str, from: &str) {
        let from = if from == "head" { From::Head } else { From::Cursor(cursor(from)) };
        let filter = filter(services);
        let opening = opening::open(&self.log, &filter, from);
        let subscriber = Subscriber {
            org: OrgId::parse("acme").expect("a name"),
            user: UserId::parse("u").expect("a user"),
            filter,
            framing: Framing::Sse,
            coding: Coding::Plain,
        };
        let mut out = Vec::new();
        self.session = Some(Session::open(subscriber, opening, &self.greeting(), &mut out));
        self.say(out);
    }

    /// What fan-out passes give to a reader that is caught up.
    fn fan(&mut self) {
        let mut session = self.session.take().expect("open first");
        let mut start = Start::at(0);
        for batch in self.tail.since(0) {
            let view = batch.view(&session.subscriber().org, &session.view_key(), start);
            start = start.after(&batch, &view);
            if session.scanned() < batch.seq {
                let mut out = Vec::new();
                session.take(&batch, &view, 1, &mut out);
                self.say(out);
            }
        }
        self.session = Some(session);
    }

    /// What the task of a lagging reader does, until it has caught up.
    fn serve(&mut self) {
        let mut session = self.session.take().expect("open first");
        loop {
            let mut out = Vec::new();
            session.take_gaps(1, &mut out);
            if out.is_empty() {
                match self.tail.next(session.scanned()) {
                    Next::CaughtUp => break,
                    Next::Batch(batch) => {
                        let view = batch.view(&session.subscriber().org, &session.view_key(), batch.prev);
                        session.take(&batch, &view, 1, &mut out);
                    }
                    Next::BeforeTail(start) => {
                        let to = session.stop().map_or(start, |stop| stop.min(start));
                        let after = session.scanned().max(self.log.floor);
                        let to = to.max(after);
                        let events: Vec<_> =
                            self.kept.iter().filter(|e| after < e.seq && e.seq <= to).cloned().collect();
                        session.take_page(after, to, &events, false, 1, &mut out);
                    }
                }
            }
            self.say(out);
        }
        self.session = Some(session);
    }

    fn steps(&mut self, script: &str) {
        for step in script.split('|') {
            self.step(&step.split_whitespace().collect::<Vec<_>>());
        }
    }

    fn step(&mut self, words: &[&str]) {
        match words {
            ["seal", services @ ..] => self.seal(services),
            ["open", services, from] => self.open(services, from),
            ["serve"] => self.serve(),
            ["fan"] => self.fan(),
            ["every", step] => self.step = step.parse().expect("a number"),
            ["shorten", count] => (0..count.parse().expect("a number")).for_each(|_| self.tail.drop_oldest()),
            ["floor", seq] => {
                self.log.floor = seq.parse().expect("a seq");
                self.kept.retain(|event| event.seq > self.log.floor);
            }
            ["restart"] | ["crash"] => {
                let incarnation = self.log.ancestors.len();
                let lossy = words == ["crash"];
                self.log.ancestors.push(Ancestor { epoch: epoch(incarnation), end: self.log.head, lossy });
                (self.log.epoch, self.log.born_empty) = (epoch(incarnation + 1), false);
                self.tail = Tail::new(self.log.head, Arc::new(Budget::default()));
            }
            ["ping"] => {
                let mut out = Vec::new();
                self.session.as_mut().expect("open first").ping(1, &mut out);
                self.say(out);
            }
            // What a slow reader's policy does.
            [policy @ ("skip" | "latest")] => {
                let session = self.session.as_mut().expect("open first");
                let (at, mut out) = (session.scanned(), Vec::new());
                let Subscriber { user, filter, .. } = session.subscriber();
                let behind: Vec<_> = self.kept.iter().filter(|event| event.seq > at).cloned().collect();
                if *policy == "latest" {
                    session.take_page(at, self.log.head, &behind, true, 1, &mut out);
                } else {
                    let sees = |event: &&Arc<Event>| filter.admits(&event.service) && event.is_for(user);
                    let visible = behind.iter().filter(sees).count() as u64;
                    session.skip(self.log.head, visible, 1, &mut out);
                }
                self.say(out);
            }
            ["renew", services] => {
                let (greeting, mut out) = (self.greeting(), Vec::new());
                let session = self.session.as_mut().expect("open first");
                let Subscriber { org, user, .. } = session.subscriber().clone();
                session.renew(&org, &user, filter(services), &greeting, &mut out).expect("same user");
                self.say(out);
            }
            other => panic!("no step: {other:?}"),
        }
    }

    fn say(&mut self, frames: Vec<Bytes>) {
        for frame in frames {
            let text = std::str::from_utf8(&frame).expect("UTF-8");
            assert!(!text.contains("users"), "R8: {text}");
            let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            let frame: Value = serde_json::from_str(line("data: ").expect("data")).expect("JSON");
            let id = shown(line("id: ").expect("an id"));
            let number = |name: &str| frame[name].as_u64().expect(name);
            let said = match frame["type"].as_str().expect("a type") {
                "hello" => {
                    assert_eq!(shown(frame["cursor"].as_str().expect("a cursor")), id);
                    format!("hello {id}{}", if frame["resumed"] == true { " resumed" } else { "" })
                }
                "gap" => {
                    let reason = frame["reason"].as_str().expect("a reason");
                    format!("gap {}>{id} {reason}", number("prev"))
                }
                kind => {
                    let seqs = frame["events"].as_array().map(|events| {
                        let seqs: Vec<_> = events.iter().map(|event| event["seq"].to_string()).collect();
                        format!("[{}]", seqs.join(","))
                    });
                    let omitted = frame["omitted"].as_u64().map_or(String::new(), |count| {
                        assert_eq!(frame["reason"], "conflated");
                        format!(" omitted {count}")
                    });
                    let seqs = seqs.unwrap_or_default();
                    format!("{kind} {}>{}{seqs}{omitted}", number("prev"), number("seq"))
                }
            };
            self.said.push(said);
        }
    }
}

fn check(script: &str, expected: &str) {
    let mut run = Script::new();
    run.steps(script);
    assert_eq!(run.said.join(" | "), expected, "{script}");
}

#[test]
fn r1_a_ping_bridges_what_was_hidden_before_a_shared_frame() {
    check(
        "open a head | seal a b | serve | seal b | serve | seal a | serve",
        "hello l0-0~a | batch 0>2[1] | ping 2>3 | event 3>4",
    );
    // The trace of the rule: a resume in the middle of a batch whose rest is hidden.
    check("seal a b | open a l0-1 | serve | seal a | serve", "hello l0-1~a resumed | ping 1>2 | event 2>3");
}

#[test]
fn r1_a_shared_frame_passes_what_is_hidden_and_needs_no_ping() {
    check(
        "open a head | seal a | fan | seal b | fan | seal a@v | fan | seal a | fan",
        "hello l0-0~a | event 0>1 | event 1>4",
    );
    // It also goes to a client that joined in between, or had a ping there, if all that it passes is of other services.
    check("seal a | seal b | open a l0-2 | seal a | fan", "hello l0-2~a resumed | event 1>3");
    check(
        "open a head | seal a | fan | seal a@v | fan | ping | seal a | fan",
        "hello l0-0~a | event 0>1 | ping 1>2 | event 1>3",
    );
}

#[test]
fn r1_who_got_something_of_its_own_takes_no_frame_that_passes_it() {
    check(
        "open a head | seal a | fan | seal a@u | fan | seal a | fan | seal a@v | fan | seal a | fan",
        "hello l0-0~a | event 0>1 | event 1>2 | event 2>3 | event 3>5",
    );
    // It may have got it before its hello, skipped it, or not been allowed to see it.
    check("seal a | seal a@u | open a l0-2 | seal a | fan", "hello l0-2~a resumed | event 2>3");
    check(
        "open a head | seal a | fan | seal a@u | skip | seal a | fan",
        "hello l0-0~a | event 0>1 | gap 1>l0-2~a slow_consumer | event 2>3",
    );
    check(
        "open b head | seal a | fan | seal a@u | fan | renew a | seal a | fan",
        "hello l0-0~b | ping 0>2 | hello l0-2~a resumed | event 2>3",
    );
}

#[test]
fn r1_a_reader_with_a_targeted_event_in_range_gets_a_private_frame_over_all_of_it() {
    check("open * head | seal a a@u a | serve", "hello l0-0~* | batch 0>3[1,2,3]");
    check("open * head | seal a a@v a | serve", "hello l0-0~* | batch 0>3[1,3]");
    check("open a head | seal b | serve | seal a@u b | serve", "hello l0-0~a | batch 0>3[2]");
    check("open b head | seal a@u | serve | ping", "hello l0-0~b | ping 0>1");
}

#[test]
fn r1_pings_and_pages_account_to_the_seq_scanned() {
    check("open a head | seal b | serve | ping | ping", "hello l0-0~a | ping 0>1 | ping 1>1");
    check("open a head | seal b | ping", "hello l0-0~a | ping 0>0");
    check(
        "seal a b b | shorten 1 | open a l0-0 | serve | ping",
        "hello l0-0~a resumed | batch 0>3[1] | ping 3>3",
    );
}

#[test]
fn r1_a_long_silence_in_the_log_is_told() {
    let hidden = vec!["b"; 1000].join(" ");
    check(
        &format!("seal {hidden} | seal a | shorten 11 | open a l0-0 | serve"),
        "hello l0-0~a resumed | event 0>1001",
    );
    check(&format!("seal {hidden} | shorten 10 | open a l0-0 | serve"), "hello l0-0~a resumed | ping 0>1000");
}

#[test]
fn r1_seqs_that_were_never_given_are_no_silence() {
    check(
        "every 900 | seal a b b | open a l0-500 | serve | seal b | serve | seal a | serve",
        "hello l0-500~a resumed | batch 500>2700[900] | ping 2700>3600 | event 3600>4500",
    );
    // Pages: one hidden event in 900 seqs each; a thousand of them are a silence.
    check(
        "every 900 | seal b b | shorten 1 | open a l0-0 | serve | ping",
        "hello l0-0~a resumed | ping 0>1800",
    );
    let hidden = vec!["b"; 999].join(" ");
    check(&format!("every 900 | seal {hidden} | shorten 10 | open a l0-7 | serve"), "hello l0-7~a resumed");
    check(
        &format!("every 900 | seal {hidden} b | shorten 10 | open a l0-7 | serve"),
        "hello l0-7~a resumed | ping 7>900000",
    );
}

#[test]
fn r3_hello_and_its_id_stay_on_the_presented_side_until_the_gap() {
    check("seal a | open * gone-7 | serve", "hello gone-7~* | gap 7>l0-0~* epoch | event 0>1");
    check("seal a | open * l0-9 | serve", "hello l0-9~* | gap 9>l0-1~* epoch");
    check("seal a a | open b+c l0-1~a | serve", "hello l0-1~a resumed | gap 1>l0-1~b+c filter");
    // Several at once: each from its own position.
    check("seal a | open b gone-7~a | serve", "hello gone-7~a | gap 7>gone-7~b filter | gap 7>l0-0~b epoch");
}

#[test]
fn r3_a_renewal_before_the_gap_leaves_the_gap_to_cross() {
    check(
        "seal a | open b l0-0~a | renew b+c | serve | ping",
        "hello l0-0~a resumed | hello l0-0~a resumed | gap 0>l0-0~b+c filter | ping 0>1",
    );
    check(
        "seal a | open * gone-7 | renew a+b | serve",
        "hello gone-7~* | hello gone-7~a+b resumed | gap 7>l0-0~a+b epoch | event 0>1",
    );
}

#[test]
fn r5_the_first_frame_is_cut_at_the_cursor() {
    check("seal a a a | open * l0-1 | serve", "hello l0-1~* resumed | batch 1>3[2,3]");
    check(
        "seal a a a | open * l0-2 | serve | seal a | serve",
        "hello l0-2~* resumed | event 2>3 | event 3>4",
    );
    check("seal a b a | open a l0-1 | serve", "hello l0-1~a resumed | event 1>3");
}

#[test]
fn r6_renewal_is_a_new_hello_at_the_place_reached_and_every_later_frame_obeys_it() {
    check(
        "open a head | seal b | serve | renew a+b | seal b | serve",
        "hello l0-0~a | ping 0>1 | hello l0-1~a+b resumed | event 1>2",
    );
    check(
        "open a+b head | seal b | serve | renew a | seal b a | serve",
        "hello l0-0~a+b | event 0>1 | hello l0-1~a resumed | event 1>3",
    );
    // In the middle of a replay, with a boundary ahead.
    check(
        "seal a b | crash | seal a b | open a l0-0 | renew b | serve",
        "hello l0-0~a resumed | hello l0-0~b resumed | event 0>2 | gap 2>l1-2~b epoch | event 2>4",
    );
}

#[test]
fn r6_a_renewal_for_somebody_else_is_refused() {
    let mut run = Script::new();
    run.step(&["open", "a", "head"]);
    let greeting = run.greeting();
    let session = run.session.as_mut().expect("open");
    let (org, user) = (session.subscriber().org.clone(), session.subscriber().user.clone());
    let other = |text| UserId::parse(text).expect("a user");
    let mut out = Vec::new();
    assert!(session.renew(&org, &other("v"), Filter::all(), &greeting, &mut out).is_err());
    let org = OrgId::parse("other").expect("a name");
    assert!(session.renew(&org, &user, Filter::all(), &greeting, &mut out).is_err());
    assert!(out.is_empty());
    assert_eq!(session.subscriber().filter, filter("a"), "nothing has changed");
}

#[test]
fn r9_a_gap_is_declared_exactly_below_the_floor() {
    check(
        "seal a a a a | shorten 1 | floor 2 | open * l0-1 | serve",
        "hello l0-1~* | gap 1>l0-2~* retention | batch 2>4[3,4]",
    );
    check(
        "seal a a a a | shorten 1 | floor 2 | open * l0-2 | serve",
        "hello l0-2~* resumed | batch 2>4[3,4]",
    );
    // The floor rises while the reader is on its way.
    check(
        "seal a | seal b | seal a a | shorten 3 | open a l0-0 | floor 3 | serve",
        "hello l0-0~a resumed | gap 0>l0-3~a retention | event 3>4",
    );
    // All that was asked for is gone.
    check(
        "seal a a | shorten 1 | open * l0-0 | floor 2 | serve",
        "hello l0-0~* resumed | gap 0>l0-2~* retention",
    );
}

#[test]
fn r9_a_removed_stretch_crosses_the_boundaries_inside_it() {
    check(
        "seal a a | crash | seal a a | shorten 1 | open * l0-0 | floor 3 | serve",
        "hello l0-0~* resumed | gap 0>l1-3~* retention | event 3>4",
    );
    check(
        "seal a a | crash | seal a a | shorten 1 | open * l0-0 | floor 1 | serve",
        "hello l0-0~* resumed | gap 0>l0-1~* retention | event 1>2 | gap 2>l1-2~* epoch | batch 2>4[3,4]",
    );
}

#[test]
fn r11_a_clean_boundary_is_silent_and_a_lossy_one_is_declared_at_its_seq() {
    check("seal a | restart | seal a | open * l0-0 | serve", "hello l1-0~* resumed | event 0>1 | event 1>2");
    check(
        "seal a | crash | seal a | open * l0-0 | serve",
        "hello l0-0~* resumed | event 0>1 | gap 1>l1-1~* epoch | event 1>2",
    );
    // What was hidden before the boundary is bridged in the epoch before it.
    check("seal a b | crash | open a l0-1 | serve", "hello l0-1~a resumed | ping 1>2 | gap 2>l1-2~a epoch");
}

#[test]
fn r16_a_skip_is_a_declared_gap_and_over_nothing_visible_a_ping() {
    check(
        "open a head | seal a b | serve | seal b a a | skip | seal a | serve",
        "hello l0-0~a | batch 0>2[1] | gap 2>l0-5~a slow_consumer | event 5>6",
    );
    check(
        "open a head | seal b | serve | seal b a@v | skip | skip | seal a | serve",
        "hello l0-0~a | ping 0>3 | event 3>4",
    );
    // What was hidden before the skip is bridged before the gap.
    check(
        "open a head | seal b | serve | seal a | skip",
        "hello l0-0~a | ping 0>1 | gap 1>l0-2~a slow_consumer",
    );
}

#[test]
fn r17_latest_is_an_ordinary_batch_that_tells_what_it_omits_and_never_a_gap() {
    check(
        "open a head | seal a#k b#k a#k a a#l a#k | latest | seal a | serve",
        "hello l0-0~a | batch 0>6[4,5,6] omitted 2 | event 6>7",
    );
    // What this reader cannot see makes nothing old; nor does it count.
    check("open a head | seal a#k b#k a@v#k | latest", "hello l0-0~a | batch 0>3[1]");
    check("open a head | seal a a | latest", "hello l0-0~a | batch 0>2[1,2]");
}

#[test]
fn r29_every_ping_may_be_answered_once() {
    let scripts = [
        // Before a shared frame, twice, and at the end of what is hidden.
        ("open a head | seal b | serve | seal a | serve | seal b | serve | seal a | serve | ping", 3),
        ("open a head | ping | ping", 2),
        ("open a head | seal b | skip", 1),
        ("open a head | seal b | serve | renew b", 1),
        ("open a head | seal a | serve", 0),
    ];
    for (steps, pings) in scripts {
        let mut run = Script::new();
        run.steps(steps);
        let said = run.said.iter().filter(|frame| frame.starts_with("ping")).count();
        assert_eq!(said, pings, "{steps}: {:?}", run.said);
        let session = run.session.as_mut().expect("open");
        let answers = (0..10).filter(|_| session.take_answer()).count();
        assert_eq!(answers, pings, "{steps}");
    }
}

#[test]
fn sessions_that_see_the_same_share_its_names() {
    // They are most of what an idle connection would have of its own.
    // Its verifier is there in debug builds alone.
    let verifier = if cfg!(debug_assertions) { size_of::<usize>() } else { 0 };
    assert!(size_of::<Session>() <= 176 + verifier, "{}", size_of::<Session>());
    assert!(
        size_of::<tidegate_protocol::ws::MessageReader>() <= 48,
        "{}",
        size_of::<tidegate_protocol::ws::MessageReader>()
    );
    assert_eq!(size_of::<Filter>(), size_of::<usize>());
}

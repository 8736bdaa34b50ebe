//! The queue against answers and times that the tests make up, and against a model gateway at random.

use serde_json::{Value, json};

use super::*;
use crate::publisher::answer::{Answer, read};

/// Random bits from a seed (SplitMix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What a test knows of an event.
struct Made {
    number: usize,
    is_bad: bool,
}

/// A gateway in memory, which keeps its own account of what is stored.
struct Model {
    is_named: bool,
    /// How often it fails, in percent.
    often: u64,
    events_max: usize,
    /// In the order in which they were stored: org, service, id, number.
    stored: Vec<(String, String, String, usize)>,
    requests: usize,
}

impl Model {
    fn problem(status: u16, code: &str) -> Value {
        json!({"status": status, "code": code, "detail": code, "retry_in_ms": 300})
    }

    /// The answer to a request; `None`: the connection breaks.
    fn answer(&mut self, entries: &[Entry<Made>], draws: &mut Draws) -> Option<Answer> {
        self.requests += 1;
        let answer = |status, body: Value| {
            Some(Answer { status, body: body.to_string().into_bytes(), ..Answer::default() })
        };
        if draws.percent(self.often) {
            return match draws.below(5) {
                0 => None,
                3 => answer(401, Self::problem(401, "unauthorized")),
                1 => answer(503, Self::problem(503, "overloaded")),
                2 => answer(429, Self::problem(429, "rate_limited")),
                _ => answer(502, Value::Null),
            };
        }
        let whole = if entries.len() > self.events_max {
            json!({"status": 413, "code": "too_large", "detail": "", "limit": "limits.events_per_batch"})
        } else if let Some(at) = entries.iter().position(|entry| entry.kept.is_bad) {
            let errors = [json!({"pointer": format!("/{at}/bad"), "code": "unknown_field", "detail": "bad"})];
            json!({"status": 422, "code": "invalid", "detail": "", "errors": errors})
        } else if entries.iter().any(|entry| entry.service == "secret") {
            Self::problem(403, "forbidden")
        } else {
            self.append(entries, draws)
        };
        let status = whole["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
        if draws.percent(self.often / 2) {
            return match draws.below(3) {
                0 => None,
                1 => answer(504, Self::problem(504, "unknown")),
                _ => answer(500, Self::problem(500, "internal")),
            };
        }
        answer(status, whole)
    }

    fn append(&mut self, entries: &[Entry<Made>], draws: &mut Draws) -> Value {
        let mut orgs: BTreeMap<Option<&str>, Vec<&Entry<Made>>> = BTreeMap::new();
        for entry in entries {
            orgs.entry(entry.org.as_deref()).or_default().push(entry);
        }
        let mut places = BTreeMap::new();
        let mut answers = Vec::new();
        let mut problems = Vec::new();
        for (org, events) in orgs {
            let busy = self.is_named && draws.percent(self.often);
            let found = if busy { Err(Self::problem(429, "rate_limited")) } else { self.append_org(&events) };
            match found {
                Ok(seqs) => {
                    answers.push(json!({"org": org, "cursor": format!("e-{}", self.stored.len())}));
                    places.extend(events.iter().map(|entry| entry.kept.number).zip(seqs.into_iter().map(Ok)));
                }
                Err(problem) => {
                    let codes = events.iter().map(|entry| (entry.kept.number, Err(problem["code"].clone())));
                    places.extend(codes);
                    answers.push(json!({"org": org, "problem": problem}));
                    problems.push(problem);
                }
            }
        }
        match problems.as_slice() {
            [problem] if !self.is_named => return problem.clone(),
            [first, rest @ ..]
                if problems.len() == answers.len() && rest.iter().all(|next| next == first) =>
            {
                let mut whole = first.clone();
                if answers.len() > 1 {
                    whole["orgs"] = answers.into();
                }
                return whole;
            }
            _ => {}
        }
        let events: Vec<Value> = entries
            .iter()
            .map(|entry| match &places[&entry.kept.number] {
                Ok((seq, duplicate)) => json!({"id": entry.id, "seq": seq, "duplicate": duplicate}),
                Err(code) => json!({"id": entry.id, "code": code}),
            })
            .collect();
        let cursor = format!("e-{}", self.stored.len());
        json!({"cursor": cursor, "orgs": answers, "events": events})
    }

    fn append_org(&mut self, events: &[&Entry<Made>]) -> Result<Vec<(usize, bool)>, Value> {
        let before = self.stored.len();
        let mut seqs = Vec::new();
        for entry in events {
            let org = entry.org.clone().unwrap_or_default();
            let known = self
                .stored
                .iter()
                .position(|(of, service, id, _)| (of, service, id) == (&org, &entry.service, &entry.id));
            match known {
                Some(at) if self.stored[at].3 != entry.kept.number => {
                    self.stored.truncate(before);
                    return Err(Self::problem(409, "id_conflict"));
                }
                Some(at) => seqs.push((at + 1, true)),
                None => {
                    self.stored.push((org, entry.service.clone(), entry.id.clone(), entry.kept.number));
                    seqs.push((self.stored.len(), false));
                }
            }
        }
        Ok(seqs)
    }
}

/// Sends events through a gateway that fails; returns how many requests that took.
fn run(seed: u64) -> usize {
    let mut draws = Draws(seed);
    let is_named = draws.percent(50);
    let often = [0, 10, 50, 85][usize::try_from(draws.below(4)).unwrap_or(0)];
    let events_max = if draws.percent(30) { 1 + draws.below(10) as usize } else { 1000 };
    let mut model = Model { is_named, often, events_max, stored: Vec::new(), requests: 0 };
    let events = 1 + draws.below(30) as usize;
    let mut queue =
        Queue::new(Limits { events, bytes: 60 + draws.below(900) as usize, orgs: 3, delay_ms: 5 });
    let retry_for = [400, 5000, 240_000][usize::try_from(draws.below(3)).unwrap_or(0)];
    let total = 1 + draws.below(120) as usize;
    let mut made = Vec::new();
    let mut settled: BTreeMap<usize, (bool, String, Outcome)> = BTreeMap::new();
    let mut now = 0;
    while settled.len() < total {
        // Some come while others are being sent.
        while made.len() < total && (made.is_empty() || draws.percent(70)) {
            let number = made.len();
            let is_bad = draws.percent(4);
            let org = is_named.then(|| format!("org{}", draws.below(4)));
            let service = if draws.percent(4) { "secret".to_owned() } else { format!("s{}", draws.below(3)) };
            let id = if draws.percent(8) { format!("same{}", draws.below(5)) } else { format!("id{number}") };
            let name = format!("{} {service}", org.as_deref().unwrap_or_default());
            let length = 5 + draws.below(60) as usize;
            let mut entry = Entry::new(id, org, service, vec![b'x'; length].into(), Made { number, is_bad });
            (entry.at, entry.deadline) = (now, now + retry_for);
            queue.push(entry);
            made.push((name, is_bad));
        }
        let mut done = queue.expire(now);
        match queue.deadline(now, false) {
            Some(due) if due <= now => {
                let entries = queue.take(now);
                assert!(!entries.is_empty(), "something is due, and nothing is taken");
                // Some requests are slow, so that the delay of an org ends meanwhile.
                now += if draws.percent(20) { 1000 } else { draws.below(30) };
                let verdicts = match model.answer(&entries, &mut draws) {
                    Some(answer) => {
                        let sent: Vec<_> = entries.iter().map(Entry::sent).collect();
                        read(&answer, &sent, 0)
                    }
                    None => {
                        let why = Why::new("unreachable", "");
                        let verdict =
                            Verdict::Again { why, is_known: false, asked_ms: 0, among: Among::Request };
                        vec![verdict; entries.len()]
                    }
                };
                done.extend(queue.settle(entries, verdicts, now, || draws.below(1000) as f64 / 1000.0));
            }
            Some(due) => now = due,
            None => now += 1,
        }
        for (entry, outcome) in done {
            let Made { number, is_bad } = entry.kept;
            assert!(settled.insert(number, (is_bad, entry.service, outcome)).is_none(), "settled twice");
        }
    }
    for (number, (is_bad, service, outcome)) in &settled {
        let place = model.stored.iter().position(|(_, _, _, of)| of == number);
        match outcome {
            Outcome::Stored(stored) | Outcome::Duplicate(stored) => {
                assert_eq!(place.map(|at| at as u64 + 1), Some(stored.seq), "where it is stored");
                assert_eq!(stored.cursor.seq, stored.seq);
            }
            Outcome::Refused(refused) => {
                assert_eq!(place, None, "refused ({}), and yet stored", refused.code);
                let is_faulty = *is_bad
                    || service == "secret"
                    || refused.id.starts_with("same")
                    || refused.code == "unauthorized";
                assert!(refused.is_retryable || is_faulty, "refused for the fault of another: {refused:?}");
                assert!(refused.code != "invalid" || refused.pointer() == Some("/bad"));
            }
            Outcome::Unknown(_) => assert!(often > 0, "nothing is in doubt"),
        }
    }
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (org, service, id, number) in &model.stored {
        let lane = made[*number].0.as_str();
        assert!(
            last.insert(lane, *number).is_none_or(|before| before < *number),
            "{org} {service} {id} overtook"
        );
    }
    model.requests
}

#[test]
fn whatever_the_gateway_does_each_event_is_stored_once_in_order_with_a_true_outcome() {
    for seed in 0..2000 {
        let requests = std::panic::catch_unwind(|| run(seed));
        assert!(requests.is_ok(), "seed {seed}");
    }
}

fn entry(id: &str) -> Entry<()> {
    let mut entry = Entry::new(id.to_owned(), None, "s".to_owned(), Bytes::from_static(b"{}"), ());
    entry.deadline = 240_000;
    entry
}

const LIMITS: Limits = Limits { events: 100, bytes: 10_000, orgs: 100, delay_ms: 0 };

fn again(asked_ms: u64) -> Vec<Verdict> {
    let why = Why::new("overloaded", "no room");
    vec![Verdict::Again { why, is_known: true, asked_ms, among: Among::Request }]
}

#[test]
fn the_gateways_delay_is_never_undercut_and_others_grow() {
    let mut queue = Queue::new(LIMITS);
    queue.push(entry("a"));
    let mut now = 0;
    let mut delays = Vec::new();
    for asked_ms in [7000, 0, 0, 2500, 0, 0, 0] {
        let taken = queue.take(now);
        assert!(queue.settle(taken, again(asked_ms), now, || 0.5).is_empty());
        let due = queue.deadline(now, true).expect("it waits");
        assert!(queue.take(due - 1).is_empty(), "not before its time");
        delays.push(due - now);
        now = due;
    }
    assert_eq!(delays, [7000, 300, 600, 2500, 2400, 4800, 7500]);
}

#[test]
fn a_wait_that_is_longer_than_what_is_left_is_not_waited_for() {
    let mut queue = Queue::new(LIMITS);
    queue.push(entry("a"));
    queue.push(entry("b"));
    let taken = queue.take(0);
    let verdicts = [again(300_000), again(300_000)].concat();
    assert!(queue.settle(taken, verdicts, 0, || 0.5).is_empty());
    let settled = queue.expire(0);
    assert_eq!(settled.len(), 2);
    assert!(
        settled
            .iter()
            .all(|(_, outcome)| matches!(outcome, Outcome::Refused(refused) if refused.is_retryable))
    );
}

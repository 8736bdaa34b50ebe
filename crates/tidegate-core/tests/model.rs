//! A seeded model of one org: a log that grows, is shortened, restarts cleanly or with loss, and is
//! forgotten; server sessions over a tail and pages; a network that cuts connections and swallows
//! single frames; clients that change their filter. Oracles, for every client:
//!
//! - R1: every frame over (prev, seq] holds exactly what the reader may see in (prev, seq];
//! - R5: within one connection no event comes twice, also to a client without any logic;
//! - P1, P2: it sees each event that it may see once and in order, or a gap that covers it;
//! - P5: it never sees what it may not see.
//!
//! `TIDEGATE_MODEL_SEEDS=20000` runs more seeds; a failure names its seed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tidegate_core::{
    Ancestor, Batch, BatchLimits, Budget, Event, Framing, LogState, Next, Session, Tail, View,
    batch::Start,
    frame::Terms,
    opening::{self, From},
    session::{Coding, Greeting, Subscriber},
};
use tidegate_protocol::{
    Cursor, Epoch, Filter, GapReason, OrgId, ServiceName, UserId,
    client::{Outcome, StreamReader},
    gzip_batch,
};

const SERVICES: [&str; 3] = ["a", "b", "c"];
const USERS: [&str; 3] = ["u", "v", "w"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn filter(&mut self) -> Filter {
        match self.below(4) {
            0 => Filter::all(),
            _ => {
                let count = 1 + self.below(2);
                Filter::only((0..count).map(|_| service(self.below(3) as usize)).collect())
            }
        }
    }
}

fn service(index: usize) -> ServiceName {
    ServiceName::parse(SERVICES[index]).expect("a name")
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Kept,
    Removed,
    Lost,
}

/// An event with its number in the order of publishing, over all incarnations of the log.
#[derive(Clone)]
struct Published {
    event: Arc<Event>,
    fate: Fate,
}

struct Connection {
    session: Session,
    filter: Filter,
    wire: VecDeque<String>,
    last_raw: u64,
}

struct Client {
    user: UserId,
    wants: Filter,
    accounts: Filter,
    reader: StreamReader,
    started: bool,
    last_number: Option<usize>,
    owed: BTreeSet<usize>,
    connection: Option<Connection>,
}

struct World {
    random: Random,
    log: LogState,
    tail: Tail,
    budget: Arc<Budget>,
    all: Vec<Published>,
    by_seq: BTreeMap<u64, usize>,
    clients: Vec<Client>,
    now: u64,
    /// Of all sessions: in half of the worlds their frames come in envelopes.
    coding: Coding,
    coverage: BTreeMap<&'static str, u64>,
}

fn sees(filter: &Filter, user: &UserId, event: &Event) -> bool {
    filter.admits(&event.service) && event.is_for(user)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let budget = Arc::new(Budget::default());
        let epoch = Epoch::from_random(random.next());
        let clients = (0..4)
            .map(|index| Client {
                user: UserId::parse(USERS[index % 3]).expect("a user"),
                wants: random.filter(),
                accounts: Filter::all(),
                reader: StreamReader::new(None),
                started: false,
                last_number: None,
                owed: BTreeSet::new(),
                connection: None,
            })
            .collect();
        Self {
            log: LogState { epoch, ancestors: Vec::new(), born_empty: true, head: 0, floor: 0 },
            tail: Tail::new(0, budget.clone()),
            budget,
            all: Vec::new(),
            by_seq: BTreeMap::new(),
            clients,
            now: 1_000,
            coding: if seed.is_multiple_of(2) { Coding::Plain } else { Coding::Enveloped(Arc::default()) },
            coverage: BTreeMap::new(),
            random,
        }
    }

    fn publish(&mut self) {
        let prev = self.log.head;
        let mut events = Vec::new();
        for _ in 0..=self.random.below(4) {
            // Seqs need not be dense.
            self.log.head += 1 + if self.random.one_in(3) { self.random.below(3) } else { 0 };
            let users: Option<Arc<[UserId]>> = self.random.one_in(4).then(|| {
                let user = UserId::parse(USERS[self.random.below(3) as usize]).expect("a user");
                [user].into()
            });
            let number = self.all.len();
            let event = Arc::new(Event {
                seq: self.log.head,
                timestamp: self.now,
                service: service(self.random.below(3) as usize),
                users,
                fragment: Bytes::from(format!("\"seq\":{},\"number\":{number}", self.log.head)),
            });
            for client in &mut self.clients {
                if client.started && sees(&client.accounts, &client.user, &event) {
                    client.owed.insert(number);
                }
            }
            self.by_seq.insert(event.seq, number);
            self.all.push(Published { event: event.clone(), fate: Fate::Kept });
            events.push(event);
        }
        let limits = BatchLimits { events: 3, bytes: 1 << 16 };
        self.tail.push(prev, &events, self.now, limits);
        if self.random.one_in(2) {
            self.tail.seal(self.now);
        }
    }

    fn remove_oldest(&mut self) {
        let kept: Vec<u64> = self.by_seq.range(self.log.floor + 1..).map(|(seq, _)| *seq).collect();
        if kept.is_empty() {
            return;
        }
        let floor = kept[self.random.below(kept.len() as u64) as usize];
        for seq in kept.into_iter().filter(|seq| *seq <= floor) {
            self.all[self.by_seq[&seq]].fate = Fate::Removed;
        }
        self.log.floor = floor;
    }

    fn restart(&mut self, lose: u64) {
        for client in &mut self.clients {
            client.connection = None;
        }
        for _ in 0..lose {
            let Some((&seq, &number)) = self.by_seq.last_key_value() else { break };
            if seq <= self.log.floor {
                break;
            }
            self.all[number].fate = Fate::Lost;
            self.by_seq.remove(&seq);
        }
        if lose > 0 {
            self.log.head = self.by_seq.last_key_value().map_or(0, |(seq, _)| *seq).max(self.log.floor);
        }
        let fresh = Epoch::from_random(self.random.next());
        let mut epoch = std::mem::replace(&mut self.log.epoch, fresh);
        // A prefix of what was written is recovered: if events of an earlier incarnation are lost, so is
        // every record of the incarnations after it.
        while self.log.ancestors.last().is_some_and(|ancestor| ancestor.end > self.log.head) {
            epoch = self.log.ancestors.pop().map_or(epoch, |ancestor| ancestor.epoch);
        }
        self.log.ancestors.push(Ancestor { epoch, end: self.log.head, lossy: lose > 0 });
        self.log.born_empty = false;
        self.tail = Tail::new(self.log.head, self.budget.clone());
    }

    fn forget(&mut self) {
        for client in &mut self.clients {
            client.connection = None;
        }
        for published in &mut self.all {
            published.fate = Fate::Lost;
        }
        self.by_seq.clear();
        let epoch = Epoch::from_random(self.random.next());
        self.log = LogState { epoch, ancestors: Vec::new(), born_empty: true, head: 0, floor: 0 };
        self.tail = Tail::new(0, self.budget.clone());
    }

    fn connect(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let from = match client.reader.cursor() {
            Some(cursor) => From::Cursor(cursor.clone()),
            None if self.random.one_in(2) => From::Seq(self.random.below(self.log.head + 1)),
            None => From::Head,
        };
        let opening = opening::open(&self.log, &client.wants, from);
        let subscriber = Subscriber {
            org: OrgId::parse("acme").expect("a name"),
            user: client.user.clone(),
            filter: client.wants.clone(),
            framing: Framing::Sse,
            coding: self.coding.clone(),
        };
        let terms = Terms { dedup_window_ms: 300_000, ping_interval_ms: 25_000, sync: None };
        let greeting = Greeting {
            connection_id: "c",
            head: self.log.head,
            token_expires_in_ms: 1,
            now: self.now,
            terms: &terms,
        };
        let mut out = Vec::new();
        let session = Session::open(subscriber, opening, &greeting, &mut out);
        let last_raw = session.sent();
        let filter = client.wants.clone();
        client.reader.connected();
        client.connection = Some(Connection { session, filter, wire: VecDeque::new(), last_raw });
        self.put_on_wire(index, out);
    }

    /// The server serves one reader one step: gaps, then a batch of the tail or a page of the log.
    fn serve(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return false };
        let session = &mut connection.session;
        let mut out = Vec::new();
        for reason in session.take_gaps(self.now, &mut out) {
            *self.coverage.entry(reason.name()).or_default() += 1;
        }
        let mut busy = true;
        match self.tail.next(session.scanned()) {
            Next::CaughtUp => {
                // A fan-out pass that is still to come.
                busy = self.tail.has_open();
                if busy && self.random.one_in(2) {
                    self.tail.seal(self.now);
                }
                if self.random.one_in(3) {
                    session.ping(self.now, &mut out);
                }
            }
            Next::Batch(batch) => {
                // The chain of empty views, as a worker keeps it: here recomputed from the tail.
                let key = session.view_key();
                let mut start = Start::at(batch.prev);
                for earlier in self.tail.newest_first().filter(|earlier| earlier.seq <= batch.prev) {
                    match earlier.view(&session.subscriber().org, &key, earlier.prev) {
                        View::Empty { targeted } => {
                            start.seq = earlier.prev;
                            start.passes_targeted |= targeted;
                        }
                        View::Frame { .. } => break,
                    }
                }
                if start.passes_targeted {
                    *self.coverage.entry("passes targeted events").or_default() += 1;
                }
                let org = &session.subscriber().org;
                let view = match &self.coding {
                    Coding::Enveloped(by) => {
                        batch.enveloped_view(org, &key, start, by).expect("a small frame")
                    }
                    _ => batch.view(org, &key, start),
                };
                let what = if session.scanned() == batch.prev { "whole batch" } else { "cut batch" };
                *self.coverage.entry(what).or_default() += 1;
                session.take(&batch, &view, self.now, &mut out);
            }
            Next::BeforeTail(start) => {
                let after = session.scanned().max(self.log.floor);
                let stop = session.stop().unwrap_or(u64::MAX).max(after).min(start.max(after));
                let mut events: Vec<Arc<Event>> = Vec::new();
                let mut to = stop;
                for (seq, number) in
                    self.by_seq.range(after + 1..=stop.max(after + 1)).filter(|(seq, _)| **seq <= stop)
                {
                    if events.len() == 3 {
                        to = events.last().map_or(after, |event| event.seq);
                        break;
                    }
                    assert!(*seq > self.log.floor);
                    events.push(self.all[*number].event.clone());
                }
                let gap = if self.random.one_in(2) {
                    session.take_page(after, to, &events, false, self.now, &mut out).gap
                } else {
                    let gap = session.take_removed(after, self.now, &mut out);
                    if session.scanned() < to {
                        let page = Batch::new(after, to, self.now, events, &Arc::default());
                        let view = page.view(&session.subscriber().org, &session.view_key(), after);
                        let what = if session.shares(&page) { "shared page" } else { "private page" };
                        *self.coverage.entry(what).or_default() += 1;
                        session.take_shared_page(&page, &view, self.now, &mut out);
                    }
                    gap
                };
                if gap.is_some() {
                    *self.coverage.entry("gap while reading").or_default() += 1;
                }
                *self.coverage.entry("page").or_default() += 1;
            }
        }
        self.put_on_wire(index, out);
        busy
    }

    fn put_on_wire(&mut self, index: usize, frames: Vec<Bytes>) {
        for frame in frames {
            let text = std::str::from_utf8(&frame).expect("UTF-8");
            let data =
                text.lines().find_map(|line| line.strip_prefix("data: ")).expect("a data line").to_owned();
            self.check_r1(index, &data);
            let connection = self.clients[index].connection.as_mut().expect("a connection");
            connection.wire.push_back(data);
        }
    }

    /// R1, on what the server says: exactly the visible events of (prev, seq].
    fn check_r1(&mut self, index: usize, data: &str) {
        let mut frame: serde_json::Value = serde_json::from_str(data).expect("JSON");
        if frame["compressed"] == true {
            *self.coverage.entry("envelope").or_default() += 1;
            let inside = gzip_batch::open(frame["data"].as_str().expect("text")).expect("an envelope");
            let inside: serde_json::Value = serde_json::from_str(&inside).expect("JSON");
            assert_eq!((&inside["prev"], &inside["seq"]), (&frame["prev"], &frame["seq"]));
            frame = inside;
        }
        let kind = frame["type"].as_str().expect("a type");
        let client = &mut self.clients[index];
        let connection = client.connection.as_mut().expect("a connection");
        let numbers: Vec<usize> = match kind {
            "event" => vec![frame["number"].as_u64().expect("a number") as usize],
            "batch" => frame["events"]
                .as_array()
                .expect("events")
                .iter()
                .map(|e| e["number"].as_u64().expect("a number") as usize)
                .collect(),
            "ping" => Vec::new(),
            "gap" => {
                connection.last_raw = frame["seq"].as_u64().expect("a seq");
                return;
            }
            _ => return,
        };
        let (prev, seq) = (frame["prev"].as_u64().expect("prev"), frame["seq"].as_u64().expect("seq"));
        let expected: Vec<usize> = self
            .by_seq
            .range(prev + 1..=seq.max(prev + 1))
            .filter(|(at, _)| **at <= seq)
            .map(|(_, number)| *number)
            .filter(|number| sees(&connection.filter, &client.user, &self.all[*number].event))
            .collect();
        // What retention has removed meanwhile may come from the tail or be missing from a page that
        // starts above it; all the rest must match.
        let kept = |number: &usize| self.all[*number].fate == Fate::Kept;
        assert_eq!(
            numbers.iter().copied().filter(kept).collect::<Vec<_>>(),
            expected.iter().copied().filter(kept).collect::<Vec<_>>(),
            "R1 broken by {data}"
        );
        for number in numbers {
            let raw = self.all[number].event.seq;
            assert!(raw > connection.last_raw, "R5: seq {raw} twice in one connection: {data}");
            connection.last_raw = raw;
        }
    }

    /// One frame gets to the client, or gets lost.
    fn arrive(&mut self, index: usize, may_drop: bool) {
        let drop_it = may_drop && self.random.one_in(12);
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return };
        let Some(text) = connection.wire.pop_front() else { return };
        // Frames that carry `prev`. A transport loses a suffix (a cut) and nothing else; swallowing
        // one of these stands for a fault of the server's, which `prev` must betray.
        let carries_prev =
            ["event", "batch", "ping"].iter().any(|kind| text.starts_with(&format!("{{\"type\":\"{kind}\"")));
        if drop_it && carries_prev {
            *self.coverage.entry("dropped frame").or_default() += 1;
            return;
        }
        let filter = connection.filter.clone();
        let before = client.reader.cursor().cloned();
        match client.reader.take(&text) {
            Outcome::Hello { .. } if !client.started => {
                client.started = true;
                client.accounts = filter;
                let cursor = client.reader.cursor().expect("hello gives one").seq;
                let owed = self.owed_after(index, cursor);
                self.clients[index].owed = owed;
            }
            Outcome::Events(events) => {
                for event in events {
                    let value: serde_json::Value = serde_json::from_str(event.get()).expect("JSON");
                    let number = value["number"].as_u64().expect("a number") as usize;
                    let published = &self.all[number];
                    assert!(sees(&filter, &client.user, &published.event), "P5: saw {text}");
                    assert!(client.last_number < Some(number), "P1: {:?} before {text}", client.last_number);
                    client.last_number = Some(number);
                    client.owed.remove(&number);
                }
            }
            Outcome::Gap { prev, seq, reason } => {
                let epoch = client.reader.cursor().expect("a gap gives one").epoch.clone();
                let crossed = before.is_none_or(|cursor: Cursor| cursor.epoch != epoch);
                let is_filter = reason == GapReason::Filter.name();
                let all = &self.all;
                client.owed.retain(|number| {
                    // A gap declares what lies after its `prev`; what lies before must have come.
                    let at = all[*number].event.seq;
                    let is_declared = at <= seq && (crossed || at > prev);
                    match all[*number].fate {
                        Fate::Kept | Fate::Removed => is_filter || !is_declared,
                        Fate::Lost => !crossed,
                    }
                });
                if is_filter {
                    client.accounts = filter;
                    let (user, accounts) = (client.user.clone(), client.accounts.clone());
                    client.owed.retain(|number| sees(&accounts, &user, &all[*number].event));
                    let more = self.owed_after(index, seq);
                    let client = &mut self.clients[index];
                    // In another epoch `seq` says nothing about this one; the gap that changes it will.
                    if epoch == self.log.epoch {
                        client.owed.extend(more);
                    }
                }
            }
            Outcome::Hole => {
                *self.coverage.entry("hole found").or_default() += 1;
                client.connection = None;
            }
            Outcome::Broken(what) => panic!("{what}: {text}"),
            _ => {}
        }
    }

    fn owed_after(&self, index: usize, seq: u64) -> BTreeSet<usize> {
        let client = &self.clients[index];
        let after = self.by_seq.range(seq + 1..).map(|(_, number)| *number);
        after.filter(|number| sees(&client.accounts, &client.user, &self.all[*number].event)).collect()
    }

    fn step(&mut self) {
        self.now += 1;
        let index = self.random.below(4) as usize;
        match self.random.below(100) {
            0..=17 => self.publish(),
            18..=20 => self.tail.drop_oldest(),
            21..=22 => self.remove_oldest(),
            23 => {
                let lose = if self.random.one_in(2) { 0 } else { 1 + self.random.below(4) };
                self.restart(lose);
            }
            24 if self.random.one_in(4) => self.forget(),
            25..=28 => self.clients[index].connection = None,
            29 => {
                let filter = self.random.filter();
                self.clients[index].wants = filter;
            }
            30..=59 => {
                if self.clients[index].connection.is_none() {
                    self.connect(index);
                } else {
                    self.serve(index);
                }
            }
            _ => self.arrive(index, true),
        }
    }

    /// No more faults: every client catches up, and gets or is told of all that it is owed.
    fn settle(&mut self, seed: u64) {
        for index in 0..self.clients.len() {
            for attempt in 0.. {
                assert!(attempt < 10_000, "seed {seed}: client {index} never catches up");
                if self.clients[index].connection.is_none() {
                    self.connect(index);
                }
                let busy = self.serve(index);
                let connection = self.clients[index].connection.as_mut().expect("a connection");
                if !busy {
                    let mut out = Vec::new();
                    connection.session.ping(self.now, &mut out);
                    self.put_on_wire(index, out);
                }
                while self.clients[index].connection.as_ref().is_some_and(|c| !c.wire.is_empty()) {
                    self.arrive(index, false);
                }
                if !busy && self.clients[index].connection.is_some() {
                    break;
                }
            }
            let client = &self.clients[index];
            let owed: Vec<_> = client
                .owed
                .iter()
                .map(|number| (self.all[*number].event.seq, self.all[*number].fate))
                .collect();
            assert!(owed.is_empty(), "seed {seed}: client {index} was never got or heard of {owed:?}");
            let cursor = client.reader.cursor().expect("a cursor");
            assert_eq!(cursor.seq, self.log.head, "seed {seed}: client {index} has not caught up");
            let filter = &client.connection.as_ref().expect("a connection").filter;
            assert_eq!(cursor.tag.as_ref(), Some(filter.tag()), "seed {seed}: client {index}");
        }
    }
}

#[test]
fn p1_p2_p5_r1_to_r9_hold_for_every_client_under_drops_cuts_restarts_and_loss() {
    let seeds =
        std::env::var("TIDEGATE_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000);
    let mut coverage: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..200 {
                world.step();
            }
            world.settle(seed);
        }));
        if let Err(panic) = result {
            eprintln!("the model failed at seed {seed}");
            std::panic::resume_unwind(panic);
        }
        for (what, count) in &world.coverage {
            *coverage.entry(what).or_default() += count;
        }
        world.clients.clear();
        world.tail = Tail::new(0, world.budget.clone());
        assert_eq!(world.budget.used(), 0, "seed {seed}: memory is still charged");
    }
    // A model whose cases never occur proves nothing.
    for what in [
        "retention",
        "epoch",
        "filter",
        "gap while reading",
        "whole batch",
        "cut batch",
        "page",
        "shared page",
        "private page",
        "envelope",
        "dropped frame",
        "hole found",
        "passes targeted events",
    ] {
        assert!(coverage.get(what).is_some_and(|count| *count > 100), "{what} was hardly met: {coverage:?}");
    }
}

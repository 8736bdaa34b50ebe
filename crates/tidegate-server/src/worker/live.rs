//! The live loop of one worker: its readers that stand at the head of their logs, by org and by
//! what they see.
//!
//! Everything here belongs to one thread. A walk hands each reader what was sealed since its own
//! place, as bytes shared with everybody who sees the same, by one non-blocking vectored write.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, View, ViewKey,
    batch::Compressor,
    pace::{Rounds, SLICE, Written},
    replay::Work,
    session::Form,
};
use tidegate_engine::Health;
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::{
    clock::Tick,
    reader::{Offer, Reader},
    replays::Replays,
};
use crate::{hub::Org, node::Node};

/// How many readers are served between two looks at the clock: some tens of microseconds.
const READERS_BETWEEN_LOOKS: u32 = 8;

/// How long the clock looks at readers before it is the rounds' turn again.
const TICK_SLICE: Duration = Duration::from_micros(500);

/// What one worker owns.
pub struct Worker {
    /// Its number.
    pub id: usize,
    /// The node.
    pub node: Arc<Node>,
    groups: RefCell<HashMap<OrgId, Vec<Rc<Group>>>>,
    /// Every reader of this worker, level or not, for the clock.
    readers: RefCell<Vec<Rc<Reader>>>,
    /// How many of them, from the first, the clock has not come to in its present round.
    unlooked: Cell<usize>,
    /// The health of the log as the readers here know it.
    reported_health: RefCell<Health>,
    /// When which org is served.
    pub(super) rounds: RefCell<Rounds<OrgId>>,
    /// Readers that catch up.
    pub(super) replays: Replays,
    /// Orgs with news whose round has not begun.
    orgs: RefCell<HashMap<OrgId, Arc<Org>>>,
    /// Rounds that have begun.
    under_way: RefCell<HashMap<OrgId, Round>>,
    started: Instant,
}

/// The readers at the head of one org that see the same.
pub struct Group {
    key: ViewKey,
    /// The form in which they take frames.
    form: Form,
    /// The border up to which this group has been walked; no reader in it stands before.
    position: Cell<Seq>,
    /// The earliest border that the next frame may follow on, see [`Batch::view`].
    chain: Cell<Seq>,
    readers: RefCell<Vec<Rc<Reader>>>,
    /// What the round under way brings...
    round: RefCell<Vec<(Arc<Batch>, View)>>,
    /// ...and the first of `readers` that has not had it.
    next: Cell<usize>,
}

/// A round under way: the groups that have not had it, the last one first.
struct Round {
    groups: Vec<Rc<Group>>,
    now: UnixMillis,
}

/// Where a level reader stands, so that it can leave at once.
pub struct Membership {
    group: Rc<Group>,
    index: Cell<usize>,
}

impl Worker {
    /// A worker without readers.
    pub fn new(id: usize, node: Arc<Node>) -> Self {
        let config = node.config();
        let pages = node.metrics.replay_pages_kept().clone();
        Self {
            rounds: RefCell::new(Rounds::new(config.batch.pacing())),
            replays: Replays::new(config.tail.page_bytes.bytes(), pages),
            orgs: RefCell::default(),
            under_way: RefCell::default(),
            started: Instant::now(),
            id,
            node,
            groups: RefCell::default(),
            readers: RefCell::default(),
            unlooked: Cell::new(0),
            reported_health: RefCell::default(),
        }
    }

    /// How often the clock looks at every reader: often enough for the shortest of the timeouts.
    pub fn tick(&self) -> Duration {
        let config = self.node.config();
        let shortest = config.ping.timeout.min(config.limits.write_timeout).min(config.ping.interval);
        (shortest / 10).clamp(Duration::from_millis(20), Duration::from_millis(250))
    }

    /// Takes a level reader into the live loop. It has made sure that the tail holds nothing behind
    /// its place, with its org called for this worker already.
    pub fn join(&self, reader: &Rc<Reader>) {
        let (key, form, at) = reader.with_session(|session| {
            (session.view_key(), session.subscriber().coding.form(), session.scanned())
        });
        let mut groups = self.groups.borrow_mut();
        let groups = groups.entry(reader.org().id.clone()).or_default();
        let group = match groups.iter().find(|group| group.key == key && group.form == form) {
            Some(group) => group.clone(),
            None => {
                let group = Rc::new(Group {
                    key,
                    form,
                    position: Cell::new(at),
                    chain: Cell::new(at),
                    readers: RefCell::default(),
                    round: RefCell::default(),
                    next: Cell::default(),
                });
                groups.push(group.clone());
                group
            }
        };
        if group.position.get() > at {
            // The others came when the log was committed further than the tail was sealed. What the
            // tail gets next is new to this one; they pass over it.
            group.position.set(at);
            group.chain.set(at);
        }
        reader.share(&group.key);
        let mut readers = group.readers.borrow_mut();
        let index = Cell::new(readers.len());
        readers.push(reader.clone());
        drop(readers);
        reader.set_membership(Membership { group, index });
    }

    /// Takes a reader out of the live loop, where it is in it.
    pub fn leave(&self, reader: &Reader) {
        let Some(Membership { group, index }) = reader.take_membership() else { return };
        let mut readers = group.readers.borrow_mut();
        let mut hole = index.get();
        if hole < group.next.get() {
            // It has had the round under way. The last of those who have takes its place, so that the
            // last of all, who has not, is not passed over.
            group.next.set(group.next.get() - 1);
            readers.swap(hole, group.next.get());
            readers[hole].set_index(hole);
            hole = group.next.get();
        }
        readers.swap_remove(hole);
        if let Some(moved) = readers.get(hole) {
            moved.set_index(hole);
        }
        if !readers.is_empty() {
            return;
        }
        drop(readers);
        let mut orgs = self.groups.borrow_mut();
        if let Some(groups) = orgs.get_mut(&reader.org().id) {
            groups.retain(|other| !Rc::ptr_eq(other, &group));
            if groups.is_empty() {
                orgs.remove(&reader.org().id);
            }
        }
    }

    /// `org` has events that its readers here have not got.
    pub fn news(&self, org: &Arc<Org>) {
        // Its readers may have gone meanwhile.
        if self.groups.borrow().contains_key(&org.id) {
            self.orgs.borrow_mut().entry(org.id.clone()).or_insert_with(|| org.clone());
            self.rounds.borrow_mut().handle_news(self.since_start(), org.id.clone());
        }
    }

    /// The time since it began.
    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// When there is something to do, as far as is known now.
    pub fn next_work(&self) -> Option<Instant> {
        let is_now = self.is_ticking() || !self.replays.is_empty();
        let due = if is_now { Some(Duration::ZERO) } else { self.rounds.borrow().poll_timeout() };
        due.map(|due| self.started + due)
    }

    /// Does for a slice of time what is due: a round, or else readers that catch up. The clock goes behind.
    pub fn serve_slice(&self) {
        let work = self.replays.poll_work(self.since_start(), &mut self.rounds.borrow_mut());
        match work {
            Some(Work::Round(org)) => self.serve_round(org),
            Some(Work::Replay(org)) => self.serve_replays(org),
            None => {}
        }
        if self.is_ticking() {
            self.tick_slice();
        }
    }

    fn serve_round(&self, org: OrgId) {
        let cpu = thread_cpu();
        let (written, is_done) = self.walk(&org);
        let cost = written.saved_by_waiting(thread_cpu().saturating_sub(cpu));
        self.rounds.borrow_mut().handle_slice(self.since_start(), org, cost, is_done);
    }

    /// Goes on with the round of `org`, or begins it: everything committed since the last goes to its
    /// readers at the head. What was written, and whether it is done.
    fn walk(&self, org: &OrgId) -> (Written, bool) {
        let mut written = Written::default();
        let Some(mut round) = self.under_way.borrow_mut().remove(org).or_else(|| self.begin(org)) else {
            return (written, true);
        };
        let until = Instant::now() + SLICE;
        let mut delivered = 0;
        let is_done = loop {
            let Some(group) = round.groups.last() else { break true };
            let (events, is_done) = self.walk_group(&round, group, until, &mut written);
            delivered += events;
            if !is_done {
                break false;
            }
            round.groups.pop();
        };
        self.node.metrics.delivered.inc_by(delivered as u64);
        if !is_done {
            self.under_way.borrow_mut().insert(org.clone(), round);
        }
        (written, is_done)
    }

    fn begin(&self, org: &OrgId) -> Option<Round> {
        let org = self.orgs.borrow_mut().remove(org)?;
        // A walk may end readers and so change the lists; it goes over its own copy of each.
        let groups = self.groups.borrow().get(&org.id).cloned()?;
        let from = groups.iter().map(|group| group.position.get()).min()?;
        let now = self.node.now();
        let (batches, head) = {
            let mut tail = org.tail();
            tail.seal(now);
            (tail.since(from), tail.head())
        };
        for group in &groups {
            self.prepare(&org, group, &batches, head);
        }
        Some(Round { groups, now })
    }

    /// What a round brings to one group: its views, each made once.
    fn prepare(&self, org: &Org, group: &Group, batches: &[Arc<Batch>], head: Seq) {
        group.next.set(0);
        let position = group.position.get();
        let batches = &batches[batches.partition_point(|batch| batch.seq <= position)..];
        let Some(last) = batches.last() else {
            if position < head {
                // What was sealed has fallen out of the tail already: it stands in the log alone.
                self.park_all(group);
            }
            return;
        };
        let (mut chain, mut border) = (group.chain.get(), position);
        let views = batches
            .iter()
            .map(|batch| {
                if batch.prev != border {
                    // The tail was shortened past the border: what lay between is not known here.
                    chain = batch.prev;
                }
                border = batch.seq;
                let view = self.view(org, batch, &group.key, group.form, chain);
                if !matches!(view, View::Empty { targeted: false }) {
                    chain = batch.seq;
                }
                (batch.clone(), view)
            })
            .collect();
        group.chain.set(chain);
        group.position.set(last.seq);
        group.round.replace(views);
    }

    /// What `key` sees of a batch, in the form that is wanted.
    pub fn view(&self, org: &Org, batch: &Batch, key: &ViewKey, form: Form, start: Seq) -> View {
        match form {
            Form::Plain => batch.view(&org.id, key, start),
            Form::Compressed => {
                let mut generations = org.generations();
                let excluded = &self.node.enveloping.excluded;
                let by = Compressor { generations: Some(&mut generations), excluded };
                batch.compressed_view(&org.id, key, start, by)
            }
            Form::Enveloped => batch.enveloped_view(&org.id, key, start, &self.node.enveloping),
        }
    }

    /// What `key` sees of a page of the log, likewise. It goes through no generation, which is for what
    /// comes live.
    pub fn page_view(&self, org: &Org, page: &Batch, key: &ViewKey, form: Form) -> View {
        if form != Form::Compressed {
            return self.view(org, page, key, form, page.prev);
        }
        let by = Compressor { generations: None, excluded: &self.node.enveloping.excluded };
        page.compressed_view(&org.id, key, page.prev, by)
    }

    /// Hands the round to the readers of a group that have not had it, until its time is up. How many
    /// events went out, and whether all have had it.
    fn walk_group(
        &self,
        round: &Round,
        group: &Group,
        until: Instant,
        written: &mut Written,
    ) -> (usize, bool) {
        let views = group.round.borrow();
        let bytes = views.iter().map(|(_, view)| view.wire_bytes() as u64).sum::<u64>();
        let mut delivered = 0;
        let mut frames: Vec<Bytes> = Vec::new();
        for turn in 1.. {
            if views.is_empty() {
                break;
            }
            let Some(reader) = group.readers.borrow().get(group.next.get()).cloned() else { break };
            if bytes > 0 {
                written.sends += 1;
                written.bytes += bytes;
            }
            // A broken invariant ends the one stream, not the worker and everybody on it.
            let offered = guard(|| reader.offer(&views, round.now, &mut frames)).unwrap_or_else(|| {
                frames = Vec::new();
                reader.fail();
                Offer::Parked(0)
            });
            match offered {
                Offer::Taken(events) => {
                    delivered += events;
                    group.next.set(group.next.get() + 1);
                }
                Offer::Parked(events) => {
                    delivered += events;
                    self.leave(&reader);
                    self.node.metrics.parked.inc();
                    reader.call();
                }
            }
            if turn % READERS_BETWEEN_LOOKS == 0 && Instant::now() >= until {
                return (delivered, false);
            }
        }
        drop(views);
        group.next.set(0);
        group.round.take();
        (delivered, true)
    }

    fn park_all(&self, group: &Group) {
        loop {
            let Some(reader) = group.readers.borrow().last().cloned() else { break };
            self.leave(&reader);
            self.node.metrics.parked.inc();
            reader.call();
        }
    }

    /// Registers a reader with the clock.
    pub fn add(&self, reader: &Rc<Reader>) {
        let mut readers = self.readers.borrow_mut();
        reader.set_place(readers.len());
        readers.push(reader.clone());
    }

    /// Forgets a reader. Costs the same however many there are: ten thousand may go at once.
    pub fn remove(&self, reader: &Rc<Reader>) {
        self.leave(reader);
        let mut readers = self.readers.borrow_mut();
        let place = reader.place();
        if !readers.get(place).is_some_and(|other| Rc::ptr_eq(other, reader)) {
            return;
        }
        // The last takes its place. The clock goes from the last to the first, so it passes over nobody.
        readers.swap_remove(place);
        if let Some(moved) = readers.get(place) {
            moved.set_place(place);
        }
    }

    /// Begins to look at the clock of every reader.
    pub fn begin_tick(&self) {
        self.unlooked.set(self.readers.borrow().len());
        self.replays.forget_idle();
        self.report_health();
    }

    /// Reports a change of the log's health to every reader; gives the health that they know now.
    pub fn report_health(&self) -> Health {
        let health = self.node.engine.health().borrow().clone();
        if *self.reported_health.borrow() != health {
            self.reported_health.replace(health.clone());
            let readers = self.readers.borrow().clone();
            readers.iter().for_each(|reader| reader.report_health(&health));
        }
        health
    }

    /// Whether the clock has not come to every reader yet.
    pub fn is_ticking(&self) -> bool {
        self.unlooked.get() > 0
    }

    /// Looks at the clock of readers for a slice of time, so that ten thousand do not hold up a round.
    pub fn tick_slice(&self) {
        let config = self.node.config();
        let now = Instant::now();
        let tick = Tick { now, wall: self.node.now(), draining: *self.node.draining.borrow() };
        for turn in 1.. {
            let reader = {
                let readers = self.readers.borrow();
                let Some(place) = self.unlooked.get().min(readers.len()).checked_sub(1) else { break };
                self.unlooked.set(place);
                readers[place].clone()
            };
            if guard(|| reader.tick(&config, tick)).is_none() {
                reader.fail();
            }
            if turn % READERS_BETWEEN_LOOKS == 0 && now.elapsed() >= TICK_SLICE {
                return;
            }
        }
        self.unlooked.set(0);
    }
}

impl Membership {
    /// Moves with the list.
    pub fn set_index(&self, index: usize) {
        self.index.set(index);
    }
}

/// The CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs something for one reader; `None` where it panicked, which the panic hook has logged.
pub(super) fn guard<T>(act: impl FnOnce() -> T) -> Option<T> {
    // What the reader holds may be half changed: it is ended, and nothing of it is used again but to
    // close its socket.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).ok()
}

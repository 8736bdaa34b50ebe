//! The committer: the one thread that gives events their seqs.
//!
//! It takes the requests that wait as one group, decides them in the order in which they came, writes
//! the outcome in one atomic commit, syncs, and only then moves the heads, feeds the node and answers.
//! Nothing that it decided is visible anywhere before that.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tidegate_core::{DedupKey, NamedRequest, NewEvent};
use tidegate_protocol::{OrgId, SEQ_MAX, Seq, UnixMillis};

use super::{
    AppendError, Appended, DeleteError, Durability, FirstUse, Health, StoredAt,
    chain::{Chain, Epochs, Start},
    clock::capped_millis,
    dedup::{Known, Window, WindowLimits},
    local::{Log, LogNow, Shared},
    queue::{Request, Taken},
    staged::{Pending, Staged},
    store::{Found, GivenId, Growth, LogIndex, LogWrite, NoRoom, Store, StoreError, WriteGroup},
};

/// How often the log is synced with [`Durability::Interval`].
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The most events of one group, so that one commit does not hold up the rest for long; a larger batch
/// is a group of its own.
const GROUP_EVENTS_MAX: usize = 10_000;

/// How often a full log is looked at for room. It takes events again within this time.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// What an event takes in the log beside its body, at most about: its record, its names, its id.
const EVENT_OVERHEAD: usize = 512;

/// The thread's state.
pub(super) struct Committer<S: Store> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) window: Window,
    epochs: Epochs,
    start: Start,
    next_index: LogIndex,
    /// Whether events were refused because there was no room, and none has been seen since.
    is_full: bool,
    /// The bytes for which there was no room.
    refused: u64,
    /// How many leaps of the clock the log has followed.
    followed: u32,
    /// Wakes the cutter.
    pub(super) cutter: mpsc::SyncSender<()>,
    /// The logs by the number that the store knows them by.
    pub(super) by_index: HashMap<LogIndex, Arc<Log>>,
}

/// The decision on one event of a batch.
enum Verdict {
    /// It is stored.
    New,
    /// Its id is in the dedup window: it repeats the event with this seq.
    Known(Seq),
    /// Its id is not in the window, but it repeats the event at this index of the same batch.
    SameAs(usize),
}

/// The name that the publisher of a batch gave it.
enum Name {
    None,
    /// It is not in the window yet.
    New(NamedRequest),
    /// It is in the window: the batch repeats this request.
    Known(NamedRequest),
}

impl<S: Store> Committer<S> {
    /// Takes over the logs and ids that were found, and writes a record of this start to the store. The
    /// epochs that begin from now on refer to that record, so it is stored before an event of such an epoch
    /// is acknowledged.
    pub fn begin(
        shared: Arc<Shared<S>>,
        found: Found,
        epochs: Epochs,
        cutter: mpsc::SyncSender<()>,
    ) -> Result<Self, StoreError> {
        let time = shared.time();
        let options = &shared.options;
        let mut window = Window::new(
            capped_millis(options.dedup_window),
            WindowLimits { total: options.dedup_max_entries, per_log: options.dedup_max_entries_per_org },
            time.now,
            time.passed,
        );
        for found in &found.ids {
            let GivenId { seq, key, content } = found.id;
            window.restore(found.at, found.log, key, Known { seq, content });
        }
        let marked = shared.mark(time.now, found.start)?;
        marked.map_err(|no_room| StoreError::new("note a start of the log", no_room))?;
        let by_index = {
            let logs = shared.logs.read().unwrap_or_else(PoisonError::into_inner);
            logs.values().map(|log| (log.index, log.clone())).collect()
        };
        let (start, next_index) = (found.start, found.next_index);
        shared.note_ids(&window);
        let followed = time.followed;
        Ok(Self {
            shared,
            window,
            epochs,
            start,
            next_index,
            is_full: false,
            refused: 0,
            followed,
            cutter,
            by_index,
        })
    }

    /// Works until the queue is closed or the log halts.
    pub fn run(mut self) {
        // If this thread panics, the requests of the present group are dropped without an answer, which
        // their callers get as `Unknown`. The guard then halts the log, so that it does not look healthy.
        let guard = HaltOnPanic(self.shared.clone());
        let interval = self.shared.durability == Durability::Interval;
        let patience = if interval { SYNC_INTERVAL } else { Duration::from_secs(3600) };
        let mut synced = Instant::now();
        loop {
            let patience = if self.is_full { LOOK_FOR_ROOM } else { patience };
            let outcome = match self.shared.queue.take(GROUP_EVENTS_MAX, patience) {
                Taken::Requests(requests) => self.group(requests),
                Taken::Nothing => Ok(()),
                Taken::Closed { clean } => {
                    if clean {
                        self.finish();
                    }
                    break;
                }
            };
            let outcome = outcome.and_then(|()| {
                if self.is_full {
                    // The dedup window may have passed meanwhile.
                    self.cut_if_over(self.shared.time().now)?;
                    let room = self.shared.store.make_room(self.refused);
                    self.note_room(room);
                }
                if interval && synced.elapsed() >= SYNC_INTERVAL {
                    synced = Instant::now();
                    self.shared.store.sync()?;
                }
                Ok(())
            });
            if let Err(error) = outcome {
                self.shared.halt(&error);
                break;
            }
        }
        drop(guard);
    }

    /// Syncs everything and records that this start was stopped cleanly.
    fn finish(&mut self) {
        let start = Start { clean: true, ..self.start };
        let now = self.shared.time().now;
        let marked = (self.shared.store.sync())
            .and_then(|()| {
                let group = WriteGroup { at: now, start: Some(start), ..WriteGroup::default() };
                let written = self.shared.store.commit(&group)?;
                written.map_err(|no_room| StoreError::new("note the stop of the log", no_room))
            })
            .and_then(|()| self.shared.store.sync())
            .and_then(|()| self.shared.store.acknowledge());
        if let Err(error) = marked {
            self.shared.halt(&error);
        }
    }

    /// Decides, commits and answers one group.
    fn group(&mut self, requests: Vec<Request>) -> Result<(), StoreError> {
        let time = self.shared.time();
        if self.followed != time.followed {
            // Events that were committed during the leap have the time from before it. This commit comes after
            // them, so that a store which removes events by the time of the last commit beside them keeps them.
            if self.shared.mark(time.now, self.start)?.is_ok() {
                self.followed = time.followed;
            }
        }
        self.window.advance(time.passed);
        let mut pending = Pending { time, ..Pending::default() };
        let (mut sweeps, mut cuts, mut erased, mut deletions) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mark = self.window.mark();
        for request in requests {
            match request {
                Request::Append { org, events, answer } => match self.append(&mut pending, &org, &events)? {
                    Ok(appended) => pending.appends.push((answer, appended)),
                    // The event that used the id or the name first may be in this same group, which is not
                    // written yet. So this refusal is sent only after the commit. If the commit fails, it is
                    // dropped, and the caller gets `Unknown`.
                    Err(
                        error @ (AppendError::IdConflict { first: FirstUse::Seq(_), .. }
                        | AppendError::RequestConflict { .. }),
                    ) => {
                        pending.refused.push((answer, error));
                    }
                    // The caller may have stopped waiting; then nobody needs the answer.
                    Err(error) => drop(answer.send(Err(error))),
                },
                Request::Open { org, answer } => match self.stage(&mut pending, &org)? {
                    Ok(at) => {
                        pending.staged[at].wanted = true;
                        pending.opens.push((answer, org));
                    }
                    Err(error) => drop(answer.send(Err(error))),
                },
                Request::Sweep { cut, done } => sweeps.push((cut, done)),
                Request::Cut { cut, done } => cuts.push((cut, done)),
                Request::Erased { erasures } => erased.extend(erasures),
                Request::Delete { org, seqs, answer } => deletions.push((org, seqs, answer)),
            }
        }
        self.commit(pending, mark)?;
        for (org, seqs, answer) in deletions {
            let deleted = self.delete(time.now, &org, seqs)?;
            let _ = answer.send(deleted);
        }
        if !erased.is_empty() {
            self.note_erased(time.now, erased)?;
        }
        for (cut, done) in cuts {
            let is_done = self.raise_floors(time.now, &cut)?;
            let _ = done.send(is_done);
        }
        for (cut, done) in sweeps {
            self.sweep(time, cut)?;
            let _ = done.send(());
        }
        self.shared.note_ids(&self.window);
        Ok(())
    }

    /// Decides one batch: all or none. The outer error is the store's and halts the log.
    fn append(
        &mut self,
        pending: &mut Pending,
        org: &OrgId,
        events: &[NewEvent],
    ) -> Result<Result<Appended, AppendError>, StoreError> {
        let name = match self.judge_request(events) {
            Ok(name) => name,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let repeated = match name {
            Name::Known(request) => Some(request),
            Name::None | Name::New(_) => None,
        };
        let (verdicts, fresh_ids) = match self.judge(events, repeated) {
            Ok(judged) => judged,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (new_request, known_before) = match name {
            Name::New(request) => (Some(request), known_before(&request, events, &verdicts)),
            Name::None | Name::Known(_) => (None, HashMap::new()),
        };
        let fresh_ids = fresh_ids + usize::from(new_request.is_some()) + known_before.len();
        let known = (pending.by_org.get(org).map(|&at| pending.staged[at].index))
            .or_else(|| self.shared.log(org).map(|log| log.index));
        if let Err(refusal) = self.window.check_room(known, fresh_ids) {
            return Ok(Err(refusal));
        }
        let fresh = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::New)).count() as u64;
        if fresh > 0
            && let Err(refusal) = self.make_room(pending, org, known, events)?
        {
            return Ok(Err(refusal));
        }
        let at = match self.stage(pending, org)? {
            Ok(at) => at,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let staged = &mut pending.staged[at];
        if staged.head + fresh > SEQ_MAX {
            return Ok(Err(AppendError::SeqsUsedUp));
        }
        staged.wanted = true;
        let mut stored: Vec<StoredAt> = Vec::with_capacity(events.len());
        for (event, verdict) in events.iter().zip(verdicts) {
            let stored_at = match verdict {
                Verdict::Known(seq) => StoredAt { seq, duplicate: true },
                Verdict::SameAs(index) => StoredAt { seq: stored[index].seq, duplicate: true },
                Verdict::New => {
                    let seq = staged.push(event, pending.time.now);
                    if let Some(key) = event.dedup {
                        self.window.insert(staged.index, key, Known { seq, content: event.content });
                    }
                    StoredAt { seq, duplicate: false }
                }
            };
            stored.push(stored_at);
        }
        if let (Some(request), Some(first)) = (new_request, stored.first()) {
            let NamedRequest { key, content } = request;
            let name = (key, Known { seq: first.seq, content });
            for (key, known) in known_before.into_iter().chain([name]) {
                self.window.insert(staged.index, key, known);
                staged.ids.push(GivenId { seq: known.seq, key, content: known.content });
            }
        }
        Ok(Ok(Appended { epoch: staged.epoch.clone(), stored }))
    }

    /// Makes sure that the group can be written with these events as well (R32). The outer error is the store's.
    fn make_room(
        &mut self,
        pending: &mut Pending,
        org: &OrgId,
        known: Option<LogIndex>,
        events: &[NewEvent],
    ) -> Result<Result<(), AppendError>, StoreError> {
        let bytes: usize = events.iter().map(|event| event.body.len() + EVENT_OVERHEAD).sum();
        let before = pending.bytes_of.get(org).copied().unwrap_or(0);
        let of_org = before + bytes as u64;
        let beside = pending.bytes - before;
        match self.shared.store.may_grow(pending.time.now, known, org, of_org, beside)? {
            Growth::Granted => {}
            Growth::OverShare => {
                self.wake_cutter();
                return Ok(Err(AppendError::OrgLogFull));
            }
            Growth::NoRoom => return Ok(Err(AppendError::LogFull)),
        }
        let bytes = pending.bytes + bytes as u64;
        if let Err(no_room) = self.shared.store.make_room(bytes) {
            self.refused = bytes;
            self.note_room(Err(no_room));
            return Ok(Err(AppendError::LogFull));
        }
        self.note_room(Ok(()));
        pending.bytes = bytes;
        match pending.bytes_of.get_mut(org) {
            Some(held) => *held = of_org,
            None => drop(pending.bytes_of.insert(org.clone(), of_org)),
        }
        Ok(Ok(()))
    }

    /// Says in the engine's health whether there is room for events.
    pub(super) fn note_room(&mut self, room: Result<(), NoRoom>) {
        match room {
            Ok(()) if self.is_full => {
                self.is_full = false;
                tracing::info!("the log has room for events again");
                self.shared.health.send_if_modified(|health| {
                    let was_full = matches!(health, Health::Full(_));
                    if was_full {
                        *health = Health::Ok;
                    }
                    was_full
                });
            }
            Err(no_room) if !self.is_full => {
                self.is_full = true;
                tracing::error!(reason = %no_room, "the log is full: events are refused until there is room");
                self.shared.health.send_if_modified(|health| {
                    let is_lesser = !matches!(health, Health::Halted(_));
                    if is_lesser {
                        *health = Health::Full(no_room.0);
                    }
                    is_lesser
                });
            }
            _ => {}
        }
    }

    /// Whether the publisher of a batch named it, and whether the name is in the window.
    fn judge_request(&self, events: &[NewEvent]) -> Result<Name, AppendError> {
        let Some(request) = events.first().and_then(|event| event.request) else { return Ok(Name::None) };
        match self.window.get(&request.key) {
            None => Ok(Name::New(request)),
            Some(known) if known.content == request.content => Ok(Name::Known(request)),
            Some(known) => Err(AppendError::RequestConflict { first: known.seq }),
        }
    }

    /// The decision on each event of a batch, and how many new ids it would add to the window. `repeated` is
    /// set if the batch repeats that request.
    fn judge(
        &self,
        events: &[NewEvent],
        repeated: Option<NamedRequest>,
    ) -> Result<(Vec<Verdict>, usize), AppendError> {
        let mut verdicts = Vec::with_capacity(events.len());
        let mut here: HashMap<DedupKey, usize> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let Some(key) = event.dedup else {
                verdicts.push(Verdict::New);
                continue;
            };
            // First what the request was answered the first time: since then, the id may have left the window,
            // and may have been used again.
            let of_request = repeated.and_then(|request| self.window.get(&request.event_key(&key)));
            let verdict = if let Some(known) = of_request.or_else(|| self.window.get(&key)) {
                if known.content != event.content {
                    return Err(AppendError::IdConflict { index, first: FirstUse::Seq(known.seq) });
                }
                Verdict::Known(known.seq)
            } else if let Some(&first) = here.get(&key) {
                if events[first].content != event.content {
                    return Err(AppendError::IdConflict { index, first: FirstUse::Index(first) });
                }
                Verdict::SameAs(first)
            } else {
                here.insert(key, index);
                Verdict::New
            };
            verdicts.push(verdict);
        }
        Ok((verdicts, here.len()))
    }

    /// Adds a log to the group, and returns its index in `pending.staged`. A log that was not used since the
    /// engine started gets its new epoch; a log that does not exist is created. The outer error is the
    /// store's.
    fn stage(
        &mut self,
        pending: &mut Pending,
        org: &OrgId,
    ) -> Result<Result<usize, AppendError>, StoreError> {
        if let Some(&at) = pending.by_org.get(org) {
            return Ok(Ok(at));
        }
        let staged = match self.shared.log(org) {
            Some(log) => self.stage_known(org, log, pending.time.now)?,
            None => {
                let held = self.shared.logs.read().unwrap_or_else(PoisonError::into_inner).len();
                if held + pending.created >= self.shared.options.orgs_max {
                    return Ok(Err(AppendError::TooManyOrgs));
                }
                pending.created += 1;
                let index = self.next_index;
                self.next_index += 1;
                let chain = Chain::fresh(self.epochs.draw(), &self.start);
                Staged::new(org, None, index, Some(chain.clone()), chain.epoch, (0, 0))
            }
        };
        pending.staged.push(staged);
        pending.by_org.insert(org.clone(), pending.staged.len() - 1);
        Ok(Ok(pending.staged.len() - 1))
    }

    fn stage_known(&mut self, org: &OrgId, log: Arc<Log>, at: UnixMillis) -> Result<Staged, StoreError> {
        let (epoch, end) = {
            let now = log.now.read().unwrap_or_else(PoisonError::into_inner);
            (now.chain.as_ref().map(|chain| chain.epoch.clone()), (now.head, now.last_timestamp))
        };
        let index = log.index;
        if let Some(epoch) = epoch {
            return Ok(Staged::new(org, Some(log), index, None, epoch, end));
        }
        let chain = match self.shared.store.chain(index) {
            Some(chain) => chain.next_incarnation(self.epochs.draw(), &self.start, end.0, at),
            // Its earlier epochs cannot be read. `trimmed` records that there were some, so readers with
            // a cursor of an earlier epoch get a gap.
            None => Chain { trimmed: true, ..Chain::fresh(self.epochs.draw(), &self.start) },
        };
        let epoch = chain.epoch.clone();
        Ok(Staged::new(org, Some(log), index, Some(chain), epoch, end))
    }

    /// Writes the group. After the store has kept it, moves the heads, calls the feed, and answers the
    /// requests.
    ///
    /// If there turns out to be no room, nothing of the group is kept: the ids inserted since `mark` leave the
    /// window again.
    fn commit(&mut self, pending: Pending, mark: usize) -> Result<(), StoreError> {
        let Pending { time, staged, appends, refused, opens, .. } = pending;
        let mut group = WriteGroup { at: time.now, ..WriteGroup::default() };
        let mut logs = Vec::new();
        for staged in staged {
            let has_news = staged.chain.is_some() || !staged.events.is_empty() || !staged.ids.is_empty();
            if !staged.wanted || !has_news {
                continue;
            }
            logs.push((staged.log, staged.prev));
            group.logs.push(LogWrite {
                org: staged.org,
                index: staged.index,
                chain: staged.chain,
                head: staged.head,
                last_timestamp: staged.last_timestamp,
                events: staged.events,
                ids: staged.ids,
            });
        }
        let written = if group.is_empty() { Ok(Ok(())) } else { self.write(&group) };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(no_room)) => {
                self.window.roll_back(mark);
                self.note_room(Err(no_room));
                appends.into_iter().for_each(|(answer, _)| drop(answer.send(Err(AppendError::LogFull))));
                refused.into_iter().for_each(|(answer, _)| drop(answer.send(Err(AppendError::LogFull))));
                opens.into_iter().for_each(|(answer, _)| drop(answer.send(Err(AppendError::LogFull))));
                return Ok(());
            }
            Err(error) => {
                // The log is halted first. Then all answers are dropped, which callers get as `Unknown`; to open a log
                // is possible all the same.
                self.shared.halt(&error);
                for (answer, org) in opens {
                    let _ = answer.send(self.shared.open_halted(&org));
                }
                return Err(error);
            }
        }
        for (write, (log, prev)) in group.logs.into_iter().zip(logs) {
            self.publish(time.passed, write, log, prev);
        }
        self.cut_if_over(time.now)?;
        for (answer, appended) in appends {
            let _ = answer.send(Ok(appended));
        }
        for (answer, error) in refused {
            let _ = answer.send(Err(error));
        }
        for (answer, org) in opens {
            let state = self.shared.log(&org).and_then(|log| log.state());
            let _ = answer.send(state.ok_or(AppendError::Unknown));
        }
        Ok(())
    }

    /// Makes a group as durable as the policy says.
    fn write(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError> {
        let began = Instant::now();
        let written = self.shared.store.commit(group)?;
        if written.is_ok() {
            self.shared.hooks.observer.on_sync(began.elapsed(), group.events());
            self.shared.store.acknowledge()?;
        }
        Ok(written)
    }

    /// Makes one log's part of a written group visible: to reads, and to the node.
    fn publish(&mut self, touched: u64, write: LogWrite, log: Option<Arc<Log>>, prev: Seq) {
        match log {
            Some(log) => {
                log.touched.fetch_max(touched, Ordering::Relaxed);
                let mut now = log.now.write().unwrap_or_else(PoisonError::into_inner);
                now.head = write.head;
                now.last_timestamp = write.last_timestamp;
                if write.chain.is_some() {
                    now.chain = write.chain;
                }
            }
            None => {
                let now = LogNow {
                    chain: write.chain,
                    head: write.head,
                    floor: 0,
                    last_timestamp: write.last_timestamp,
                };
                let log = Log { index: write.index, now: RwLock::new(now), touched: AtomicU64::new(touched) };
                let log = Arc::new(log);
                self.by_index.insert(write.index, log.clone());
                let mut logs = self.shared.logs.write().unwrap_or_else(PoisonError::into_inner);
                logs.insert(write.org.clone(), log);
            }
        }
        if !write.events.is_empty() {
            self.shared.hooks.feed.committed(&write.org, prev, &write.events);
        }
    }
}

/// The events of a request that is new whose ids were in the window before it. These ids leave the window
/// before its name does, so the events enter it once more, as events of this request.
fn known_before(
    request: &NamedRequest,
    events: &[NewEvent],
    verdicts: &[Verdict],
) -> HashMap<DedupKey, Known> {
    let known = events.iter().zip(verdicts).filter_map(|(event, verdict)| match (event.dedup, verdict) {
        (Some(key), Verdict::Known(seq)) => {
            Some((request.event_key(&key), Known { seq: *seq, content: event.content }))
        }
        _ => None,
    });
    known.collect()
}

impl<S: Store> Shared<S> {
    fn note_ids(&self, window: &Window) {
        self.ids[0].store(window.len() as u64, Ordering::Relaxed);
        self.ids[1].store(window.memory() as u64, Ordering::Relaxed);
    }

    /// Writes the record of this start.
    fn mark(&self, at: UnixMillis, start: Start) -> Result<Result<(), NoRoom>, StoreError> {
        let group = WriteGroup { at, start: Some(start), ..WriteGroup::default() };
        let written = self.store.commit(&group)?;
        if written.is_ok() {
            self.store.acknowledge()?;
        }
        Ok(written)
    }

    /// Takes no more writes until a restart. A failed sync is not tried again: the kernel may have
    /// dropped the pages that it could not write, and would then report success.
    fn halt(&self, error: &StoreError) {
        let is_first = self.health.send_if_modified(|health| {
            let is_first = !matches!(health, Health::Halted(_));
            if is_first {
                *health = Health::Halted(error.0.clone());
            }
            is_first
        });
        if is_first {
            tracing::error!(%error, "the log takes no more writes");
        }
        for request in self.queue.close(false) {
            match request {
                Request::Append { answer, .. } => drop(answer.send(Err(AppendError::Halted))),
                Request::Open { org, answer } => drop(answer.send(self.open_halted(&org))),
                Request::Delete { answer, .. } => drop(answer.send(Err(DeleteError::Halted))),
                Request::Sweep { .. } | Request::Cut { .. } | Request::Erased { .. } => {}
            }
        }
    }
}

struct HaltOnPanic<S: Store>(Arc<Shared<S>>);

impl<S: Store> Drop for HaltOnPanic<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.halt(&StoreError("the log's thread panicked; see the log lines before".into()));
        }
    }
}

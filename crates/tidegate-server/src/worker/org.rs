//! What one worker keeps of one org: its readers that are caught up, in groups that see the same, and the
//! fan-out pass under way.
//!
//! A state is made for the first reader of an org and shared by all of them. It outlives the last reader for
//! as long as the org would have to wait for its next pass. It writes to nobody itself: [`super::fan_out`]
//! makes the passes.

use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    fmt,
    rc::Rc,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tidegate_core::{
    Batch, Tail, View, ViewKey,
    batch::Start,
    pace::{Pace, Paced},
    session::Form,
};
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use super::Reader;
use crate::{
    hub::Org,
    quotas::{OrgUse, PACED_IN_STEPS},
};

/// One org on one worker.
pub struct OrgState {
    /// The org, as all workers share it.
    pub shared: Arc<Org>,
    /// When it may have its next pass.
    pace: Cell<Pace>,
    /// Its readers here that are caught up.
    pub(super) groups: RefCell<Vec<Rc<Group>>>,
    /// Whether something was committed since its last pass began.
    pub(super) has_news: Cell<bool>,
    /// Its pass, if one has begun and is not done.
    pub(super) under_way: RefCell<Option<Pass>>,
    /// How much it uses of its quotas.
    used: Arc<OrgUse>,
    /// The bytes that its streams here were sent and that are not in `used` yet.
    sent: Cell<u64>,
    /// Whether those who were served last are caught up.
    served_live: Cell<bool>,
}

/// The caught-up readers of one org that see the same, in the same form.
pub struct Group {
    pub(super) key: ViewKey,
    /// How their frames are compressed (`Form`).
    pub(super) form: Form,
    /// The seq up to which views were made for this group. The position of each of its readers is this or later
    /// when they have got them.
    pub(super) position: Cell<Seq>,
    /// Where the group's next frame begins. It may be before `position`, if there is no event in between that the
    /// whole group sees.
    pub(super) start: Cell<Start>,
    /// How many of its readers have joined, or got events of their own, since `start`: about so many could not take
    /// a frame that begins there.
    pub(super) apart: Cell<usize>,
    pub(super) readers: RefCell<Vec<Rc<Reader>>>,
    /// The index of the first of `readers` that has not got the views of the pass under way ([`Pass::views`]).
    pub(super) next: Cell<usize>,
}

/// A fan-out pass that has begun.
#[derive(Default)]
pub struct Pass {
    /// The groups that it has not served yet. The last of the list is next.
    pub(super) groups: Vec<Rc<Group>>,
    /// What was sealed when it began and is new to one of the groups.
    pub(super) batches: Vec<Arc<Batch>>,
    /// The end of the tail when it began.
    pub(super) head: Seq,
    /// The count of deletions when it began.
    pub(super) deletions: u64,
    /// What the next group gets with the next writes: some batches, each with what the group sees of it.
    pub(super) views: Vec<(Arc<Batch>, View)>,
    /// Whether `views` is complete, so that it is being sent.
    pub(super) is_made: bool,
    /// Whether the delay of the next group was measured.
    pub(super) is_measured: bool,
    /// Whether it was held ([`Pass::rest`]) and has not gone on since.
    pub(super) rests: bool,
    /// When it began.
    pub(super) now: UnixMillis,
}

impl Pass {
    /// It is held, perhaps for long. It keeps no batches until it goes on, because they would stay in memory when
    /// the tail has dropped them.
    pub fn rest(&mut self) {
        self.batches.clear();
        self.rests = true;
    }
}

/// Where a caught-up reader stands in its group, so that it can leave without a search.
pub struct GroupMembership {
    group: Rc<Group>,
    index: Cell<usize>,
}

impl OrgState {
    /// The state of an org without readers here.
    pub fn new(shared: Arc<Org>, used: Arc<OrgUse>) -> Self {
        Self {
            used,
            sent: Cell::default(),
            served_live: Cell::default(),
            shared,
            pace: Cell::default(),
            groups: RefCell::default(),
            has_news: Cell::default(),
            under_way: RefCell::default(),
        }
    }

    /// How many bytes its readers may be sent now, or how long they have to wait: those who are caught up (`live`), or
    /// those who catch up. If both wait, those who were served last wait a step longer, so that the others come first.
    pub fn may_send(&self, live: bool) -> Result<u64, Duration> {
        let may = self.used.may_send();
        if may.is_ok() {
            self.served_live.set(live);
        }
        may.map_err(|wait| if self.served_live.get() == live { wait + PACED_IN_STEPS } else { wait })
    }

    /// Notes bytes that one of its streams is sent.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// The bytes that its streams were sent since the last call of [`OrgState::report_sent`].
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Counts what its streams were sent for its quota.
    pub fn report_sent(&self) {
        self.used.add_sent(self.sent.take());
    }

    /// How much of its quotas it uses.
    pub fn used(&self) -> &OrgUse {
        &self.used
    }

    /// Its name.
    pub fn id(&self) -> &OrgId {
        &self.shared.id
    }

    /// Its tail, which all workers share.
    pub fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared.tail()
    }

    /// Whether any of its readers here is caught up.
    pub fn has_groups(&self) -> bool {
        !self.groups.borrow().is_empty()
    }

    /// Adds a caught-up reader to its group. The caller first counts the reader here ([`Org::arrive`]), so
    /// that commits notify this worker. Then it checks that the tail has no sealed batch after the reader's
    /// position. Only then it calls this.
    pub fn join(&self, reader: &Rc<Reader>) {
        let (key, form, at) = reader.with_session(|session| {
            (session.view_key(), session.subscriber().coding.form(), session.scanned())
        });
        let mut groups = self.groups.borrow_mut();
        let group = match groups.iter().find(|group| group.key == key && group.form == form) {
            Some(group) => group.clone(),
            None => {
                let group = Rc::new(Group::new(key, form, at));
                groups.push(group.clone());
                group
            }
        };
        if group.position.get() > at {
            // The tail has events in its open batch. Readers that started at the head are already past these
            // events; this reader, which came through the tail, is not. So the group's position is set back
            // to this reader's. When the batch is sealed, this reader takes it and the others skip it.
            group.position.set(at);
            group.start.set(Start::at(at));
        }
        reader.share(&group.key);
        let mut readers = group.readers.borrow_mut();
        let index = Cell::new(readers.len());
        readers.push(reader.clone());
        drop(readers);
        group.apart.set(group.apart.get() + 1);
        reader.set_membership(GroupMembership { group, index });
    }

    /// Takes a reader out of its group, if it is in one.
    pub fn leave(&self, reader: &Reader) {
        let Some(GroupMembership { group, index }) = reader.take_membership() else { return };
        group.remove(index.get());
        if group.readers.borrow().is_empty() {
            self.groups.borrow_mut().retain(|other| !Rc::ptr_eq(other, &group));
        }
    }
}

impl Group {
    fn new(key: ViewKey, form: Form, at: Seq) -> Self {
        Self {
            key,
            form,
            position: Cell::new(at),
            start: Cell::new(Start::at(at)),
            apart: Cell::default(),
            readers: RefCell::default(),
            next: Cell::default(),
        }
    }

    fn remove(&self, index: usize) {
        let mut readers = self.readers.borrow_mut();
        let mut hole = index;
        if hole < self.next.get() {
            // The pass under way has served the readers before `next`, this one among them, but not those
            // from `next` on. If the last reader of the list moved to this index, the pass would skip it. So
            // the last of those that are served moves here, and the last of the list moves to the index that
            // this frees, which is now `next`.
            self.next.set(self.next.get() - 1);
            readers.swap(hole, self.next.get());
            readers[hole].set_index(hole);
            hole = self.next.get();
        }
        readers.swap_remove(hole);
        if let Some(moved) = readers.get(hole) {
            moved.set_index(hole);
        }
    }
}

impl GroupMembership {
    /// The reader moved within its group.
    pub fn set_index(&self, index: usize) {
        self.index.set(index);
    }

    /// The reader got something of its own, up to `seq`.
    pub fn handle_own(&self, seq: Seq) {
        if seq > self.group.start.get().seq {
            self.group.apart.set(self.group.apart.get() + 1);
        }
    }
}

impl fmt::Debug for OrgState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrgState").field("id", self.id()).finish_non_exhaustive()
    }
}

impl Paced for OrgState {
    fn pace(&self) -> &Cell<Pace> {
        &self.pace
    }
}

// A worker has one state per org of the hub, so states are compared by what tells these apart.

impl Ord for OrgState {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.id(), self.shared.number).cmp(&(other.id(), other.shared.number))
    }
}

impl PartialOrd for OrgState {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OrgState {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for OrgState {}

//! The queue of requests to the committer, bounded in requests and in bytes (P6), and shared fairly by the orgs
//! (P5).
//!
//! Each org's requests wait in a queue of its own, in the order in which they came. The committer takes from
//! these queues by *deficit round robin* (Shreedhar and Varghese 1995): in each round, every org gets
//! [`QUANTUM`] bytes of requests written, and keeps what is left of them for its next turn if its next request is
//! larger. So an org with much to write does not hold up the others. While several orgs write, groups are short
//! ([`SHARED_GROUP_BYTES`]), because a request also waits for the group before its own. How much of the queue each
//! org may fill is decided by [`tidegate_core::shares`].
//!
//! The node's own requests (sweeps, cuts, and notes that an erasure was carried out) belong to no org and come first.
//! Nothing forbids them to overtake appends: those have no seqs yet, and the content that was erased was deleted
//! by an earlier commit. A deletion waits in the queue of its org, so that it comes after the events that were
//! sent before it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tidegate_core::{LogState, NewEvent, shares::may_take};
use tidegate_protocol::{OrgId, Seq};
use tokio::sync::oneshot;

use super::{
    AppendError, Appended, DeleteError,
    store::{Cut, Erasure},
};

/// How many bytes of its requests an org gets written in a round. Most requests are smaller, so a round has all
/// that is needed of an org with single events. A larger one takes several rounds.
const QUANTUM: usize = 64 << 10;

/// The most bytes of a group while several orgs write: what is decided, written and synced in about 10 ms. A
/// request waits for the group that is being written and for its own. If one org writes alone, it waits only for
/// itself, and larger groups need fewer syncs.
const SHARED_GROUP_BYTES: usize = 1 << 20;

/// Several orgs write if two had requests waiting at one of this many groups before: with groups of 10 ms, within
/// about a second.
const SHARED_FOR: u32 = 64;

/// What a request costs the committer beside its bytes, in bytes, about.
pub const REQUEST_COST: usize = 512;

/// A request to the committer.
pub enum Request {
    /// Append a batch.
    Append { org: OrgId, events: Vec<NewEvent>, answer: oneshot::Sender<Result<Appended, AppendError>> },
    /// Open a log.
    Open { org: OrgId, answer: oneshot::Sender<Result<LogState, AppendError>> },
    /// Make the cut that retention has planned, forget idle logs; the sweep waits for the answer.
    Sweep { cut: Option<Cut>, done: mpsc::SyncSender<()> },
    /// Raise the floors of a cut of logs that hold more than their share. The answer says whether it was done.
    Cut { cut: Cut, done: mpsc::SyncSender<bool> },
    /// Note that erasures were carried out.
    Erased { erasures: Vec<Erasure> },
    /// Delete a log, or events of it.
    Delete { org: OrgId, seqs: Option<Vec<Seq>>, answer: oneshot::Sender<Result<(), DeleteError>> },
}

impl Request {
    /// The org that it is for; `None` if it is the node's.
    fn org(&self) -> Option<&OrgId> {
        match self {
            Request::Append { org, .. } | Request::Open { org, .. } | Request::Delete { org, .. } => {
                Some(org)
            }
            Request::Sweep { .. } | Request::Cut { .. } | Request::Erased { .. } => None,
        }
    }

    /// The bytes of its events.
    pub fn bytes(&self) -> usize {
        match self {
            Request::Append { events, .. } => {
                events.iter().map(|e| e.body.len() + size_of::<NewEvent>()).sum::<usize>()
            }
            _ => 0,
        }
    }

    /// Whether the bounds of the queue count it. What makes room is outside of them: a sweep, of which there
    /// is one at a time, and deletions, which an operator asks for.
    fn is_bounded(&self) -> bool {
        matches!(self, Request::Append { .. } | Request::Open { .. })
    }

    fn events(&self) -> usize {
        match self {
            Request::Append { events, .. } => events.len(),
            _ => 0,
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may wait, of its org or of all.
    Requests,
    /// They hold as many bytes as they may.
    Bytes,
    /// No more requests are taken.
    Closed,
}

/// What the committer finds in the queue.
pub enum Taken {
    /// Requests; those of one org in the order in which they came.
    Requests(Vec<Request>),
    /// Nothing within the time given.
    Nothing,
    /// Nothing, and nothing will come: the committer stops.
    Closed {
        /// Whether the stop is a clean one.
        clean: bool,
    },
}

/// A request that waits.
struct Waiting {
    request: Request,
    bytes: usize,
}

impl Waiting {
    /// What it costs the committer, as the turns of orgs are measured.
    fn cost(&self) -> usize {
        self.bytes + REQUEST_COST
    }
}

/// The requests of one org that wait. There is always one.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// How many of them the bounds count.
    requests: usize,
    bytes: usize,
    /// How many bytes of them may be taken in its present turn, or in its next one.
    deficit: usize,
}

#[derive(Default)]
struct Inner {
    /// The node's own.
    of_node: VecDeque<Request>,
    lines: HashMap<OrgId, Line>,
    /// The orgs of `lines`, in the order of their turns. The first one's turn has begun.
    turns: VecDeque<OrgId>,
    /// The sums over all lines.
    requests: usize,
    bytes: usize,
    /// For how many groups more several orgs count as writing.
    shared_for: u32,
    closed: Option<bool>,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.of_node.is_empty() && self.turns.is_empty()
    }

    /// Moves requests to `taken` by deficit round robin, until none is left or the next one would make their
    /// events more than `max_events`, or the group too large. At least one is taken.
    fn take_turns(&mut self, taken: &mut Vec<Request>, max_events: usize) {
        self.shared_for = if self.turns.len() > 1 { SHARED_FOR } else { self.shared_for.saturating_sub(1) };
        let max_cost = if self.shared_for > 0 { SHARED_GROUP_BYTES } else { usize::MAX };
        let (mut events, mut cost) = (0, 0);
        while let Some(org) = self.turns.front() {
            let line =
                self.lines.get_mut(org).unwrap_or_else(|| unreachable!("an org with a turn has a line"));
            while let Some(next) = line.waiting.front()
                && next.cost() <= line.deficit
            {
                let (more, more_cost) = (next.request.events(), next.cost());
                if events > 0 && (events + more > max_events || cost + more_cost > max_cost) {
                    return;
                }
                let Some(Waiting { request, bytes }) = line.waiting.pop_front() else { break };
                events += more;
                cost += more_cost;
                let counted = usize::from(request.is_bounded());
                line.deficit -= more_cost;
                line.bytes -= bytes;
                line.requests -= counted;
                self.bytes -= bytes;
                self.requests -= counted;
                taken.push(request);
            }
            if line.waiting.is_empty() {
                // What is left of its turn is lost, or an org could save up for a burst.
                self.lines.remove(org);
                self.turns.pop_front();
            } else {
                line.deficit += QUANTUM;
                self.turns.rotate_left(1);
            }
        }
    }
}

/// The queue.
pub struct Queue {
    inner: Mutex<Inner>,
    some: Condvar,
    max_requests: usize,
    max_bytes: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self { inner: Mutex::default(), some: Condvar::new(), max_requests, max_bytes }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the events that wait.
    pub fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// Whether it takes no more requests.
    pub fn is_closed(&self) -> bool {
        self.inner().closed.is_some()
    }

    /// Takes a request, or refuses it.
    pub fn push(&self, request: Request) -> Result<(), Refused> {
        let bytes = request.bytes();
        let counted = usize::from(request.is_bounded());
        let mut inner = self.inner();
        let state = &mut *inner;
        if state.closed.is_some() {
            return Err(Refused::Closed);
        }
        let Some(org) = request.org() else {
            state.of_node.push_back(request);
            drop(inner);
            self.some.notify_one();
            return Ok(());
        };
        let (requests_held, bytes_held) =
            state.lines.get(org).map_or((0, 0), |line| (line.requests, line.bytes));
        if !may_take(requests_held, counted, self.max_requests.saturating_sub(state.requests)) {
            return Err(Refused::Requests);
        }
        if !may_take(bytes_held, bytes, self.max_bytes.saturating_sub(state.bytes)) {
            return Err(Refused::Bytes);
        }
        state.requests += counted;
        state.bytes += bytes;
        let line = match state.lines.entry(org.clone()) {
            Entry::Occupied(line) => line.into_mut(),
            Entry::Vacant(line) => {
                state.turns.push_back(org.clone());
                line.insert(Line { deficit: QUANTUM, ..Line::default() })
            }
        };
        line.requests += counted;
        line.bytes += bytes;
        line.waiting.push_back(Waiting { request, bytes });
        drop(inner);
        self.some.notify_one();
        Ok(())
    }

    /// Waits for requests, `patience` at most, and takes those of one group.
    pub fn take(&self, max_events: usize, patience: Duration) -> Taken {
        let mut inner = self.inner();
        if inner.is_empty() && inner.closed.is_none() {
            inner = self
                .some
                .wait_timeout_while(inner, patience, |inner| inner.is_empty() && inner.closed.is_none())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if inner.is_empty() {
            return match inner.closed {
                Some(clean) => Taken::Closed { clean },
                None => Taken::Nothing,
            };
        }
        let mut taken: Vec<Request> = inner.of_node.drain(..).collect();
        inner.take_turns(&mut taken, max_events);
        Taken::Requests(taken)
    }

    /// Takes no more requests. Those that wait are handed back, unless the stop is `clean`.
    pub fn close(&self, clean: bool) -> Vec<Request> {
        let mut inner = self.inner();
        let mut left = Vec::new();
        if !clean {
            left.extend(inner.of_node.drain(..));
            for org in std::mem::take(&mut inner.turns) {
                let line = inner.lines.remove(&org).unwrap_or_default();
                left.extend(line.waiting.into_iter().map(|waiting| waiting.request));
            }
            (inner.bytes, inner.requests) = (0, 0);
        }
        inner.closed.get_or_insert(clean);
        drop(inner);
        self.some.notify_all();
        left
    }
}

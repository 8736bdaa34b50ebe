//! The queue of requests to the committer, bounded in requests and in bytes (P6).

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tidegate_core::{LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq};
use tokio::sync::oneshot;

use super::{
    AppendError, Appended, DeleteError,
    store::{Cut, Erasure},
};

/// A request to the committer.
pub enum Request {
    /// Append a batch.
    Append { org: OrgId, events: Vec<NewEvent>, answer: oneshot::Sender<Result<Appended, AppendError>> },
    /// Open a log.
    Open { org: OrgId, answer: oneshot::Sender<Result<LogState, AppendError>> },
    /// Make the cut that retention has planned, forget idle logs; the sweep waits for the answer.
    Sweep { cut: Option<Cut>, done: mpsc::SyncSender<()> },
    /// Note that erasures were carried out.
    Erased { erasures: Vec<Erasure> },
    /// Delete a log, or events of it.
    Delete { org: OrgId, seqs: Option<Vec<Seq>>, answer: oneshot::Sender<Result<(), DeleteError>> },
}

impl Request {
    fn bytes(&self) -> usize {
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
    /// As many wait as may wait.
    Requests,
    /// They hold as many bytes as they may.
    Bytes,
    /// No more requests are taken.
    Closed,
}

/// What the committer finds in the queue.
pub enum Taken {
    /// Requests, in the order in which they came.
    Requests(Vec<Request>),
    /// Nothing within the time given.
    Nothing,
    /// Nothing, and nothing will come: the committer stops.
    Closed {
        /// Whether the stop is a clean one.
        clean: bool,
    },
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Request>,
    bytes: usize,
    /// How many of `waiting` are outside the bounds.
    unbounded: usize,
    closed: Option<bool>,
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

    /// Takes a request, or refuses it.
    pub fn push(&self, request: Request) -> Result<(), Refused> {
        let bytes = request.bytes();
        let mut inner = self.inner();
        if inner.closed.is_some() {
            return Err(Refused::Closed);
        }
        let bounded = request.is_bounded();
        if bounded && inner.waiting.len() - inner.unbounded >= self.max_requests {
            return Err(Refused::Requests);
        }
        if bounded && inner.bytes + bytes > self.max_bytes {
            return Err(Refused::Bytes);
        }
        inner.bytes += bytes;
        inner.unbounded += usize::from(!bounded);
        inner.waiting.push_back(request);
        drop(inner);
        self.some.notify_one();
        Ok(())
    }

    /// Waits for requests, `patience` at most, and takes those of one group.
    pub fn take(&self, max_events: usize, patience: Duration) -> Taken {
        let mut inner = self.inner();
        if inner.waiting.is_empty() && inner.closed.is_none() {
            inner = self
                .some
                .wait_timeout_while(inner, patience, |inner| {
                    inner.waiting.is_empty() && inner.closed.is_none()
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if inner.waiting.is_empty() {
            return match inner.closed {
                Some(clean) => Taken::Closed { clean },
                None => Taken::Nothing,
            };
        }
        let mut taken = Vec::with_capacity(inner.waiting.len());
        let mut events = 0;
        while let Some(request) = inner.waiting.front() {
            events += request.events();
            if events > max_events && !taken.is_empty() {
                break;
            }
            let (bytes, is_bounded) = (request.bytes(), request.is_bounded());
            inner.bytes -= bytes;
            inner.unbounded -= usize::from(!is_bounded);
            taken.extend(inner.waiting.pop_front());
        }
        Taken::Requests(taken)
    }

    /// Takes no more requests. Those that wait are handed back, unless the stop is `clean`.
    pub fn close(&self, clean: bool) -> VecDeque<Request> {
        let mut inner = self.inner();
        let mut left = VecDeque::new();
        if !clean {
            left = std::mem::take(&mut inner.waiting);
            (inner.bytes, inner.unbounded) = (0, 0);
        }
        inner.closed.get_or_insert(clean);
        drop(inner);
        self.some.notify_all();
        left
    }
}

//! Workers: each is a thread with a runtime of its own that owns the connections it was handed, from the
//! first byte to the last (R7).
//!
//! A commit notifies each worker that has readers of the org. Further commits do not notify the worker again
//! until it has taken its notifications. The worker then goes through its readers of the org that are caught
//! up, in a fan-out pass, and hands each the shared bytes without waiting. A reader whose socket does not
//! take them lags from then on: it is served by itself, in turns between the passes, until it has caught up.
//!
//! Reading order: this file (what a worker owns), `thread` (what wakes it), `org` and `fan_out` (the passes),
//! `start` and `reader` (one stream), `readers` and `timers` (what is due by time: pings, timeouts, expiry),
//! `catch_up` (readers that lag, and the pages of the log that they share), `sent` (the bytes that left), then
//! the two transports, `websocket` and `sse`.

mod catch_up;
mod fan_out;
mod org;
mod reader;
mod readers;
mod sent;
pub mod sse;
pub mod start;
mod thread;
pub mod timers;
pub mod websocket;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_core::{deflate, pace::Passes, replay::Work};
use tidegate_protocol::OrgId;

pub use catch_up::Scan;
pub use reader::{Reader, Sink};
pub use start::{Entered, StreamRequest};
pub use thread::{Serve, WorkerThread};

use self::{catch_up::CatchUp, org::OrgState, readers::Readers, sent::SentBytes, sse::Bodies};
use crate::{
    admission::Quiet,
    hub::Org,
    metrics::LongSlice,
    node::{Node, OpenSocket},
};

/// A socket on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: std::net::TcpStream,
    /// The address of its other end.
    pub peer: SocketAddr,
    /// Its slot in the count of sockets.
    pub slot: OpenSocket,
    /// Its place among the connections that wait for a request.
    pub quiet: Quiet,
}

/// The client that sends a request, and how its socket is counted.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address: the socket's other end, or the address that a trusted proxy there reports
    /// (`http::client_address`).
    pub address: SocketAddr,
    /// Its slot in the count of sockets, kept as long as the socket is.
    pub slot: Rc<OpenSocket>,
    /// Counts the bytes of SSE streams that its HTTP connection sends, so that the cost of sending them can
    /// be charged to the org of the streams.
    pub bodies: Rc<Bodies>,
    /// Its place among the connections that wait for a request.
    pub quiet: Rc<Quiet>,
}

/// What one worker owns.
pub struct Worker {
    /// Its number.
    pub id: usize,
    /// The node.
    pub node: Arc<Node>,
    /// The orgs that have readers here.
    orgs: RefCell<HashMap<OrgId, Rc<OrgState>>>,
    /// Whether `orgs` may have an org without readers.
    may_forget_orgs: Cell<bool>,
    /// Which org has its fan-out pass next.
    passes: RefCell<Passes<OrgState>>,
    /// Readers that lag, and the pages that they share.
    catch_up: CatchUp,
    /// Every reader of this worker.
    readers: Readers,
    /// What its streams have sent since its last tick.
    sent: SentBytes,
    started: Instant,
}

impl Worker {
    /// A worker without readers.
    pub fn new(id: usize, node: Arc<Node>) -> Self {
        let config = node.config();
        let pages = node.metrics.replay_pages_kept().clone();
        Self {
            orgs: RefCell::default(),
            may_forget_orgs: Cell::default(),
            passes: RefCell::new(Passes::new(config.batch.pacing())),
            catch_up: CatchUp::new(config.tail.page_bytes.bytes(), pages),
            readers: Readers::default(),
            sent: SentBytes::default(),
            started: Instant::now(),
            id,
            node,
        }
    }

    /// The state of an org for a reader that has come.
    fn org(&self, org: Arc<Org>) -> Rc<OrgState> {
        let mut orgs = self.orgs.borrow_mut();
        match orgs.get(&org.id) {
            Some(state) if Arc::ptr_eq(&state.shared, &org) => state.clone(),
            // There is none, or it is that of a log that was deleted: its last readers are about to end.
            _ => {
                let id = org.id.clone();
                let state = Rc::new(OrgState::new(org, self.node.quotas.used_by(&id)));
                orgs.insert(id, state.clone());
                state
            }
        }
    }

    /// A reader has gone. If it was the last of its org here, the next tick may forget the org.
    fn handle_reader_gone(&self) {
        self.may_forget_orgs.set(true);
    }

    /// Forgets orgs that have no reader here. An org is kept until its wait between passes is over (R15).
    /// Otherwise a reader that leaves and comes back at once would reset the wait.
    fn forget_orgs(&self) {
        if !self.may_forget_orgs.take() {
            return;
        }
        let (now, passes) = (self.since_start(), self.passes.borrow());
        self.orgs.borrow_mut().retain(|_, org| {
            let is_held = Rc::strong_count(org) > 1;
            let is_kept = is_held || !passes.is_rested(now, org);
            if is_kept && !is_held {
                self.may_forget_orgs.set(true);
            }
            is_kept
        });
    }

    /// Charges an org for work that was done for its readers here outside of its passes. `cost` is the part
    /// of the work that waiting would have saved ([`tidegate_core::pace::Written::saved_by_waiting`]).
    fn charge(&self, org: &OrgState, cost: Duration) {
        self.passes.borrow_mut().handle_cost(self.since_start(), org, cost);
    }

    /// How often ticks begin: often enough for the shortest of the timeouts.
    fn tick_interval(&self) -> Duration {
        let config = self.node.config();
        let shortest = config.ping.timeout.min(config.limits.write_timeout).min(config.ping.interval);
        (shortest / 10).clamp(Duration::from_millis(20), Duration::from_millis(250))
    }

    /// Begins a tick, which looks at the timers of all readers. Forgets pages and orgs that are not used, and
    /// reports the bytes that were sent.
    fn begin_tick(&self) {
        self.sent.report(&self.node.metrics);
        self.node.metrics.compressed(deflate::take_compressions());
        self.readers.begin_tick(&self.node);
        self.catch_up.forget_idle();
        self.catch_up.forget_deleted(self.node.hub.deletions());
        self.forget_orgs();
    }

    /// The time since it began.
    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the next work is due, as far as is known now.
    fn next_work(&self) -> Option<Instant> {
        let is_now = self.readers.is_ticking().then_some(Duration::ZERO);
        let due = [is_now, self.catch_up.poll_timeout(), self.passes.borrow().poll_timeout()];
        due.into_iter().flatten().min().map(|due| self.started + due)
    }

    /// Does one slice of a pass or of readers that catch up, then one slice of the tick, if it is not over.
    fn serve_slice(&self) {
        let work = self.catch_up.poll_work(self.since_start(), &mut self.passes.borrow_mut());
        match work {
            Some(Work::Pass(org)) => self.serve_pass(org),
            Some(Work::Replay(org)) => self.serve_lagging(org),
            None => {}
        }
        if self.readers.is_ticking() {
            self.timed(LongSlice::Timers, || self.readers.tick_slice(&self.node));
        }
    }

    /// Does a piece of work, and counts it if it took too long.
    fn timed(&self, piece: LongSlice, work: impl FnOnce()) {
        let cpu = thread_cpu();
        work();
        self.node.metrics.piece_took(piece, thread_cpu().saturating_sub(cpu));
    }
}

/// The CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs something for one reader; `None` if it panicked, which the panic hook has logged.
fn guard<T>(act: impl FnOnce() -> T) -> Option<T> {
    // After a panic the reader's state may be half changed. The caller ends the reader, and uses nothing of
    // it again except to close its socket.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).ok()
}

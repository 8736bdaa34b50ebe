//! Readers that lag: served by their worker in turns, between the fan-out passes, until they have caught
//! up.
//!
//! The task of a reader waits until its socket has room, then for a turn ([`Worker::turn_for`]). In the
//! turn the worker gives it what it takes in one go ([`Reader::replay`]). A reader that needs a page of
//! the log that is not kept waits for the page, with everybody who needs the same one, and then for
//! another turn.
//!
//! [`tidegate_core::replay`] decides whose turn it is. `pages` keeps the pages, `read` reads them, also
//! for requests that are no readers; `reader` is one reader's turn, and `lag` decides whether it is slow.

mod lag;
mod pages;
mod read;
mod reader;

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, Budget,
    pace::{Passes, Written},
    replay::{SLICE, Turns, Work},
};
use tokio::sync::{Notify, Semaphore, oneshot};

use self::{
    pages::{PageKey, Pages},
    read::{InHand, Waiter},
};
use super::{Reader, Worker, guard, org::OrgState, thread_cpu};

/// How many pages are being read, or wait for those who asked for them, beside the ones that are kept:
/// 2 MiB of pages that are full.
const IN_HAND_MAX: usize = 32;

/// How long pages are kept that nobody asks for: as long as the clients of one storm take to come back.
const KEPT_IDLE: Duration = Duration::from_secs(10);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It has caught up, and is live.
    CaughtUp,
    /// Its socket is full, or its own task has something to do for it first.
    Waits,
    /// Its socket has gone.
    Gone,
}

/// What a reader needs after a part of its turn.
#[derive(Debug)]
enum Step {
    /// Another turn.
    More,
    /// This page.
    Page(PageKey),
    /// Nothing of its worker.
    Done(Served),
}

/// A reader that waits for its turn or for a page, as long as its task does.
#[derive(Debug)]
struct Waiting {
    reader: Weak<Reader>,
    done: oneshot::Sender<Served>,
    page: Option<Rc<InHand>>,
}

/// The lagging readers of one worker, and the pages of the log that it shares.
#[derive(Debug)]
pub struct CatchUp {
    turns: RefCell<Turns<OrgState, Waiting>>,
    pages: RefCell<Pages<Waiter>>,
    room: Arc<Semaphore>,
    has_waiting: Notify,
    asked: Cell<Instant>,
}

impl CatchUp {
    /// Nobody waits. Pages may be kept to `bytes_max`, and are charged to `whole` too.
    pub fn new(bytes_max: usize, whole: Arc<Budget>) -> Self {
        Self {
            turns: RefCell::default(),
            pages: RefCell::new(Pages::new(bytes_max, whole)),
            room: Arc::new(Semaphore::new(IN_HAND_MAX)),
            has_waiting: Notify::new(),
            asked: Cell::new(Instant::now()),
        }
    }

    /// What the worker does next.
    pub fn poll_work(&self, now: Duration, passes: &mut Passes<OrgState>) -> Option<Work<Rc<OrgState>>> {
        self.turns.borrow_mut().poll_work(now, passes)
    }

    /// Whether nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.turns.borrow().is_empty()
    }

    /// Waits until somebody waits for a turn.
    pub async fn notified(&self) {
        self.has_waiting.notified().await;
    }

    /// The page, if it is kept.
    fn page(&self, key: &PageKey) -> Option<Rc<Batch>> {
        self.asked.set(Instant::now());
        self.pages.borrow_mut().get(key)
    }

    /// Drops pages that nobody has asked for in a while.
    pub fn forget_idle(&self) {
        if self.asked.get().elapsed() >= KEPT_IDLE {
            self.pages.borrow_mut().clear();
        }
    }

    /// Drops everybody who waits: the worker ends.
    pub fn clear(&self) {
        self.turns.borrow_mut().clear();
    }

    /// `waiting` waits for a turn. It goes before the others of its org if it `comes_live`: it was live a
    /// moment ago and is soon there again.
    fn wait(&self, org: &Rc<OrgState>, waiting: Waiting, comes_live: bool) {
        let mut turns = self.turns.borrow_mut();
        if turns.is_empty() {
            self.has_waiting.notify_one();
        }
        match comes_live {
            true => turns.handle_first(org, waiting),
            false => turns.handle_waiting(org, waiting),
        }
    }
}

impl Worker {
    /// Puts a lagging reader among those who wait for a turn. To drop the receiver is to wait no more.
    fn turn_for(&self, reader: &Rc<Reader>) -> oneshot::Receiver<Served> {
        let (done, served) = oneshot::channel();
        let waiting = Waiting { reader: Rc::downgrade(reader), done, page: None };
        self.catch_up.wait(reader.org(), waiting, reader.has_been_caught_up());
        served
    }

    /// Serves readers of `org` that catch up, for a slice of time.
    pub(super) fn serve_lagging(&self, org: Rc<OrgState>) {
        let (began, cpu) = (Instant::now(), thread_cpu());
        let mut written = Written::default();
        let mut frames = Vec::new();
        loop {
            let next = self.catch_up.turns.borrow_mut().next_reader(&org);
            let Some(waiting) = next else { break };
            self.serve_one(&org, waiting, &mut frames, &mut written);
            if began.elapsed() >= SLICE {
                break;
            }
        }
        self.catch_up.pages.borrow_mut().shrink();
        let cost = thread_cpu().saturating_sub(cpu);
        // The next pass waits for it as for its own sends (R15).
        let saved = written.saved_by_waiting(cost);
        self.charge(&org, saved);
        self.catch_up.turns.borrow_mut().handle_turn(org, cost);
    }

    fn serve_one(
        &self,
        org: &Rc<OrgState>,
        mut waiting: Waiting,
        frames: &mut Vec<Bytes>,
        written: &mut Written,
    ) {
        let Some(reader) = waiting.reader.upgrade().filter(|_| !waiting.done.is_closed()) else { return };
        let page = waiting.page.take();
        let step = guard(|| reader.replay(page.as_deref(), frames, written)).unwrap_or_else(|| {
            *frames = Vec::new();
            reader.fail();
            Step::Done(Served::Waits)
        });
        match step {
            Step::More => self.catch_up.wait(org, waiting, false),
            Step::Page(key) => reader.worker().ask_for(key, Waiter::Reader(waiting)),
            Step::Done(served) => {
                reader.end_wait();
                // Its task may have been woken by something else meanwhile.
                let _ = waiting.done.send(served);
            }
        }
    }
}

//! Readers that catch up: served by their worker in turns, between the live rounds and after them.
//!
//! A reader's task waits until its socket has room, then for a turn ([`Worker::turn_for`]). In its turn the
//! worker gives it what it takes in one go ([`Reader::replay`]). Where it needs a page of the log that is
//! not kept, it waits for that, with everybody who needs the same, and then for another turn.
//!
//! [`tidegate_core::replay`] decides whose turn it is.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, Budget,
    pace::{Rounds, Written},
    replay::{SLICE, Turns, Work},
};
use tidegate_engine::PageLimit;
use tidegate_protocol::OrgId;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Reader,
    live::{Worker, guard, thread_cpu},
    pages::{PageKey, Pages},
};
use crate::{metrics::ReplayPage, refusals::unreadable};

/// How much one page holds; a larger single event makes a page of its own.
const PAGE_EVENTS: usize = 128;
const PAGE_BYTES: usize = 64 << 10;

/// How many pages are being read, or wait for those who asked for them, beside the ones that are kept.
const IN_HAND_MAX: usize = 32;

/// How long pages are kept that nobody asks for.
const KEPT_IDLE: Duration = Duration::from_secs(10);

/// What a turn was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is level, and live.
    Level,
    /// Its socket is full, or its own task has something to do for it first.
    Waits,
    /// Its socket has gone.
    Gone,
}

/// What a reader needs after a part of its turn.
#[derive(Debug)]
pub enum Step {
    /// Another turn.
    More,
    /// This page.
    Page(PageKey),
    /// Nothing of its worker.
    Done(Served),
}

/// A page that was read for somebody, until all who asked for it have had it.
#[derive(Debug)]
pub struct InHand {
    /// Which it is.
    pub key: PageKey,
    /// The page.
    pub page: Rc<Batch>,
    _room: OwnedSemaphorePermit,
}

/// A reader that waits for its turn or for a page, as long as its task does.
#[derive(Debug)]
struct Waiting {
    reader: Weak<Reader>,
    done: oneshot::Sender<Served>,
    page: Option<Rc<InHand>>,
}

/// Those of one worker.
#[derive(Debug)]
pub struct Replays {
    turns: RefCell<Turns<OrgId, Waiting>>,
    pages: RefCell<Pages<Waiting>>,
    room: Arc<Semaphore>,
    bell: Notify,
    asked: Cell<Instant>,
}

impl Replays {
    /// Nobody waits; pages may be kept to `bytes_max`, and are charged to `whole` too.
    pub fn new(bytes_max: usize, whole: Arc<Budget>) -> Self {
        Self {
            turns: RefCell::default(),
            pages: RefCell::new(Pages::new(bytes_max, whole)),
            room: Arc::new(Semaphore::new(IN_HAND_MAX)),
            bell: Notify::new(),
            asked: Cell::new(Instant::now()),
        }
    }

    /// What the worker does next.
    pub fn poll_work(&self, now: Duration, rounds: &mut Rounds<OrgId>) -> Option<Work<OrgId>> {
        self.turns.borrow_mut().poll_work(now, rounds)
    }

    /// Whether nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.turns.borrow().is_empty()
    }

    /// Waits until somebody does.
    pub async fn called(&self) {
        self.bell.notified().await;
    }

    /// The page, where it is kept.
    pub fn page(&self, key: &PageKey) -> Option<Rc<Batch>> {
        self.asked.set(Instant::now());
        self.pages.borrow_mut().get(key)
    }

    /// Lets go of pages that nobody has asked for a while.
    pub fn forget_idle(&self) {
        if self.asked.get().elapsed() >= KEPT_IDLE {
            self.pages.borrow_mut().clear();
        }
    }

    /// Lets go of everybody who waits: the worker ends.
    pub fn clear(&self) {
        self.turns.borrow_mut().clear();
    }

    /// `waiting` waits for a turn; before the others of its org, where it comes from the live loop and is
    /// soon there again.
    fn wait(&self, org: &OrgId, waiting: Waiting, comes_live: bool) {
        let mut turns = self.turns.borrow_mut();
        if turns.is_empty() {
            self.bell.notify_one();
        }
        match comes_live {
            true => turns.handle_first(org.clone(), waiting),
            false => turns.handle_waiting(org.clone(), waiting),
        }
    }
}

impl Worker {
    /// Puts a parked reader among those who wait for a turn. Whoever drops what comes back waits no more.
    pub fn turn_for(&self, reader: &Rc<Reader>) -> oneshot::Receiver<Served> {
        let (done, served) = oneshot::channel();
        let waiting = Waiting { reader: Rc::downgrade(reader), done, page: None };
        self.replays.wait(&reader.org().id, waiting, reader.has_been_level());
        served
    }

    /// Serves readers of `org` that catch up, for a slice of time.
    pub(super) fn serve_replays(&self, org: OrgId) {
        let (began, cpu) = (Instant::now(), thread_cpu());
        let mut written = Written::default();
        let mut frames = Vec::new();
        loop {
            let next = self.replays.turns.borrow_mut().next_reader(&org);
            let Some(waiting) = next else { break };
            self.serve_one(&org, waiting, &mut frames, &mut written);
            if began.elapsed() >= SLICE {
                break;
            }
        }
        self.replays.pages.borrow_mut().shrink();
        let cost = thread_cpu().saturating_sub(cpu);
        // The round to come waits for it as for its own sends (R15).
        let saved = written.saved_by_waiting(cost);
        self.rounds.borrow_mut().handle_cost(self.since_start(), &org, saved);
        self.replays.turns.borrow_mut().handle_turn(org, cost);
    }

    fn serve_one(&self, org: &OrgId, mut waiting: Waiting, frames: &mut Vec<Bytes>, written: &mut Written) {
        let Some(reader) = waiting.reader.upgrade().filter(|_| !waiting.done.is_closed()) else { return };
        let page = waiting.page.take();
        let step = guard(|| reader.replay(page.as_deref(), frames, written)).unwrap_or_else(|| {
            *frames = Vec::new();
            reader.fail();
            Step::Done(Served::Waits)
        });
        match step {
            Step::More => self.replays.wait(org, waiting, false),
            Step::Page(key) => {
                if self.replays.pages.borrow_mut().ask(&key, waiting) {
                    tokio::task::spawn_local(read(reader.worker().clone(), key));
                }
            }
            Step::Done(served) => {
                reader.end_wait();
                // Its task may have been woken by something else meanwhile.
                let _ = waiting.done.send(served);
            }
        }
    }
}

/// Reads a page for all who have asked for it, and gives them a turn.
async fn read(worker: Rc<Worker>, key: PageKey) {
    let reading = Reading { worker, key };
    let Reading { worker, key } = &reading;
    let replays = &worker.replays;
    // Never closed.
    let Ok(room) = replays.room.clone().acquire_owned().await else { return };
    let limit = PageLimit { events: PAGE_EVENTS, bytes: PAGE_BYTES, to: key.to };
    match worker.node.engine.read(&key.org, key.from, limit).await {
        Ok(page) => {
            worker.node.metrics.replay_page(ReplayPage::Read);
            let mut pages = replays.pages.borrow_mut();
            let batch = Batch::new(page.after, page.to, worker.node.now(), page.events, pages.budget());
            let page = Rc::new(batch);
            let waiters = pages.handle_read(key.clone(), page.clone());
            drop(pages);
            let in_hand = Rc::new(InHand { key: key.clone(), page, _room: room });
            for waiting in waiters {
                replays.wait(&key.org, Waiting { page: Some(in_hand.clone()), ..waiting }, false);
            }
        }
        Err(error) => {
            let waiters = replays.pages.borrow_mut().handle_failed(key);
            for Waiting { reader, .. } in waiters {
                if let Some(reader) = reader.upgrade() {
                    reader.end(unreadable(error.clone()));
                }
            }
        }
    }
}

/// A page that is being read. Nobody waits for one for ever: where the read came to nothing, those who
/// asked for it end.
struct Reading {
    worker: Rc<Worker>,
    key: PageKey,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let waiters = self.worker.replays.pages.borrow_mut().handle_failed(&self.key);
        waiters.iter().filter_map(|waiting| waiting.reader.upgrade()).for_each(|reader| reader.fail());
    }
}

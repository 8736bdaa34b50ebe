//! Readers that lag: served by their worker in turns, between the fan-out passes, until they have caught
//! up.
//!
//! The task of a reader waits until its socket has room, then for a turn ([`Worker::turn_for`]). In the
//! turn the worker writes to it until its socket is full or it has had its share ([`Reader::replay`]). If
//! the reader needs a page of the log that is not in the cache, it waits for that page, and then for
//! another turn. All who wait for the same page share one read.
//!
//! [`tidegate_core::replay`] decides whose turn it is. `pages` is the cache of pages, and `read` fills it;
//! history and `tail=N` read through it, too (`scan`). `reader` is one reader's turn. `lag` finds out whether a
//! reader is slow, and acts.

mod lag;
mod pages;
mod read;
mod reader;
mod scan;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{self, Rc},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, Budget, Session,
    pace::{Passes, Written},
    replay::{SLICE, Turns, Work},
};
use tidegate_protocol::OrgId;
use tokio::sync::{Notify, Semaphore, oneshot};

pub use scan::Scan;

use self::{
    pages::{PageKey, Pages},
    read::{InHand, Waiter},
};
use super::{Reader, Worker, guard, org::OrgState, thread_cpu};
use crate::metrics::LongSlice;

/// How many pages may be outside of the cache: being read, or held for readers that asked for them and have
/// not had their turn yet. This many full pages hold 2 MiB.
const IN_HAND_MAX: usize = 32;

/// When a reader that may be given nothing now has another turn.
const LATER: Duration = Duration::from_millis(100);

/// The cache is emptied when nobody has asked for a page for this long. When many clients are cut off
/// together, the last of them are back after about this time; until then they can share the pages.
const KEPT_IDLE: Duration = Duration::from_secs(10);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It has caught up, and is in its group again (it is live).
    CaughtUp,
    /// Its socket is full, or its own task has something else to do for it.
    Waits,
    /// Its socket is closed.
    Gone,
}

/// What a reader needs after a part of its turn.
#[derive(Debug)]
enum Step {
    /// Another turn.
    More,
    /// This page.
    Page(PageKey),
    /// Another turn, but not at once: what its user or org leaves unread takes as much memory as it may.
    Later,
    /// Nothing more from the worker; its own task continues.
    Done(Served),
}

/// A reader that waits for a turn, or for a page. If its task waits no more, this is dropped unserved.
#[derive(Debug)]
struct Waiting {
    reader: rc::Weak<Reader>,
    /// How its task learns that it was served.
    done: oneshot::Sender<Served>,
    /// The page that it has waited for.
    page: Option<Rc<InHand>>,
}

/// The lagging readers of one worker, and the pages of the log that it shares.
#[derive(Debug)]
pub struct CatchUp {
    turns: RefCell<Turns<OrgState, Waiting>>,
    pages: RefCell<Pages<Waiter>>,
    /// The room for pages outside of the cache, see [`IN_HAND_MAX`].
    room: Arc<Semaphore>,
    /// The turns of searches ([`Scan::turn`]), by org.
    searches: RefCell<HashMap<OrgId, Weak<Semaphore>>>,
    /// Notified when the first reader waits for a turn.
    has_waiting: Notify,
    /// When somebody last asked for a page.
    asked: Cell<Instant>,
    /// The count of deletions ([`crate::hub::Hub::deletions`]) when the cache was last looked through.
    deletions: Cell<u64>,
}

impl CatchUp {
    /// Nobody waits, and the cache is empty. It may hold `bytes_max`; `whole` counts its bytes together with
    /// those of the other workers.
    pub fn new(bytes_max: usize, whole: Arc<Budget>) -> Self {
        Self {
            turns: RefCell::default(),
            pages: RefCell::new(Pages::new(bytes_max, whole)),
            room: Arc::new(Semaphore::new(IN_HAND_MAX)),
            searches: RefCell::default(),
            has_waiting: Notify::new(),
            asked: Cell::new(Instant::now()),
            deletions: Cell::default(),
        }
    }

    /// The turns of searches through the log of this org: one at a time.
    fn searches_of(&self, org: &OrgId) -> Arc<Semaphore> {
        let mut searches = self.searches.borrow_mut();
        if let Some(turns) = searches.get(org).and_then(Weak::upgrade) {
            return turns;
        }
        searches.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(1));
        searches.insert(org.clone(), Arc::downgrade(&turns));
        turns
    }

    /// What the worker does next.
    pub fn poll_work(&self, now: Duration, passes: &mut Passes<OrgState>) -> Option<Work<Rc<OrgState>>> {
        self.turns.borrow_mut().poll_work(now, passes)
    }

    /// When a turn is due, as far as is known now.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.turns.borrow().poll_timeout()
    }

    /// Waits until somebody waits for a turn.
    pub async fn notified(&self) {
        self.has_waiting.notified().await;
    }

    /// The page, if it is in the cache.
    fn page(&self, key: &PageKey) -> Option<Rc<Batch>> {
        self.asked.set(Instant::now());
        self.pages.borrow_mut().get(key)
    }

    /// Empties the cache if nobody has asked for a page in a while.
    pub fn forget_idle(&self) {
        if self.asked.get().elapsed() >= KEPT_IDLE {
            self.pages.borrow_mut().clear();
        }
    }

    /// Empties the cache if something was deleted since the last call. Nobody gets a page from before a
    /// deletion ([`PageKey::deletions`]); this frees its memory.
    pub fn forget_deleted(&self, deletions: u64) {
        if self.deletions.replace(deletions) != deletions {
            self.pages.borrow_mut().clear();
        }
    }

    /// Drops everybody who waits: the worker ends.
    pub fn clear(&self) {
        self.turns.borrow_mut().clear();
    }

    /// The readers of `org` get no turn before `until`. They keep no pages: others need the room, and what they ask
    /// for again is most likely in the cache.
    fn hold(&self, org: Rc<OrgState>, until: Duration) {
        self.turns.borrow_mut().handle_hold(org, until).for_each(|waiting| waiting.page = None);
    }

    /// Puts `waiting` in the queue for a turn. If `comes_live`, it goes before the others of its org: it has
    /// been live before, so it has missed little and will be live again soon.
    fn wait(&self, org: &Rc<OrgState>, mut waiting: Waiting, comes_live: bool) {
        let mut turns = self.turns.borrow_mut();
        if turns.is_held(org) {
            waiting.page = None;
        }
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
    /// Puts a lagging reader in the queue for a turn. If the receiver is dropped, the reader waits no more.
    fn turn_for(&self, reader: &Rc<Reader>) -> oneshot::Receiver<Served> {
        let (done, served) = oneshot::channel();
        let waiting = Waiting { reader: Rc::downgrade(reader), done, page: None };
        self.catch_up.wait(reader.org(), waiting, reader.has_been_caught_up());
        served
    }

    /// Serves readers of `org` that catch up, for a slice of time.
    pub(super) fn serve_lagging(&self, org: Rc<OrgState>) {
        let may_send = match org.may_send(false) {
            Ok(bytes) => bytes,
            Err(wait) => return self.catch_up.hold(org, self.since_start() + wait),
        };
        let (began, cpu) = (Instant::now(), thread_cpu());
        let mut written = Written::default();
        let mut frames = Vec::new();
        loop {
            let next = self.catch_up.turns.borrow_mut().next_reader(&org);
            let Some(waiting) = next else { break };
            self.serve_one(&org, waiting, &mut frames, began + SLICE, &mut written);
            if began.elapsed() >= SLICE || org.sent() >= may_send {
                break;
            }
        }
        org.report_sent();
        self.catch_up.pages.borrow_mut().shrink();
        let cost = thread_cpu().saturating_sub(cpu);
        self.node.metrics.piece_took(LongSlice::Replay, cost);
        // The wait before the org's next pass grows by this cost, as if a pass had caused it (R15).
        let saved = written.saved_by_waiting(cost);
        self.charge(&org, saved);
        self.catch_up.turns.borrow_mut().handle_turn(org, cost);
    }

    fn serve_one(
        &self,
        org: &Rc<OrgState>,
        mut waiting: Waiting,
        frames: &mut Vec<Bytes>,
        until: Instant,
        written: &mut Written,
    ) {
        let Some(reader) = waiting.reader.upgrade().filter(|_| !waiting.done.is_closed()) else { return };
        let page = waiting.page.take();
        let step = guard(|| reader.replay(page.as_deref(), frames, until, written)).unwrap_or_else(|| {
            *frames = Vec::new();
            reader.fail();
            Step::Done(Served::Waits)
        });
        match step {
            Step::More => {
                // It may be in the middle of the page: a large frame is compressed in several turns.
                let at = reader.with_session(Session::scanned);
                waiting.page = page.filter(|in_hand| at < in_hand.page.seq);
                self.catch_up.wait(org, waiting, false);
            }
            Step::Page(key) => reader.ask_for(key, waiting),
            Step::Later => {
                let (worker, org) = (reader.worker().clone(), org.clone());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LATER).await;
                    if !waiting.done.is_closed() {
                        worker.catch_up.wait(&org, waiting, false);
                    }
                });
            }
            Step::Done(served) => {
                reader.end_wait();
                // The result is ignored: its task may have stopped waiting.
                let _ = waiting.done.send(served);
            }
        }
    }
}
